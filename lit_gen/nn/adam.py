"""Adam as the Theano code of 2015 and 2016 wrote it."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class InsideEpsilonAdam(torch.optim.Adam):
    """theta <- theta - lr * m_hat / sqrt(v_hat + eps), where torch has sqrt(v_hat) + eps.

    With eps = 1e-8, gradients of RMS below 1e-4 are damped; torch's default would give them a full
    step. The update runs on torch's fused kernel with its own epsilon at zero: let u be v with
    eps (1 - beta2) added at every step,

        u_t = beta2 u_{t-1} + (1 - beta2) (g_t^2 + eps),

    then u_t = v_t + eps (1 - beta2^t), so u_hat = u_t / (1 - beta2^t) = v_hat + eps.

    Args:
        params: parameters to update.
        lr: step size.
        betas: decay of the first and second moment.
        eps: added to v_hat inside the root.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.5, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=0.0, fused=True)
        self.shift = eps * (1 - betas[1]) / betas[1]  # the kernel multiplies it by beta2
        for p in (p for group in self.param_groups for p in group["params"]):
            self.state[p] = _moments(p, torch.zeros_like(p))

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        second_moments = [
            self.state[p]["exp_avg_sq"]
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        torch._foreach_add_(second_moments, self.shift)
        return super().step(closure)


class UnitStartAdam(torch.optim.Adam):
    """Adam with v_0 = 1, and epsilon beside the root of the biased moment, as in the code of IWAE:

        theta <- theta - lr sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps).

    torch's kernel divides by sqrt(v / (1 - beta2^t)) + e, which is the same for
    e = eps / sqrt(1 - beta2^t). With v_0 = 1 the first hundreds of steps are much smaller.

    Args:
        params: parameters to update.
        lr: step size.
        betas: decay of the first and second moment.
        eps: as above.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, fused=True)
        for group in self.param_groups:
            group["beside_root"], group["taken"] = eps, 0
            for p in group["params"]:
                self.state[p] = _moments(p, torch.ones_like(p))

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        for group in self.param_groups:
            group["taken"] += 1
            unbiased = 1 - group["betas"][1] ** group["taken"]
            group["eps"] = group["beside_root"] / unbiased**0.5
        return super().step(closure)


def _moments(p: Tensor, v: Tensor) -> dict[str, Tensor]:
    """The state of torch's kernel before the first step, with v as second moment."""
    step = torch.zeros((), dtype=torch.float32, device=p.device)
    return {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": v}
