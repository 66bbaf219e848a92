"""Adamax as the code of inverse autoregressive flow has it: without a correction of its start."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class UncorrectedAdamax(torch.optim.Optimizer):
    """m <- 0.9 m + 0.1 g,  u <- max(0.999 u + 1e-8, |g|),  w <- w - lr m / u.

    torch.optim.Adamax divides m by 1 - 0.9^t, which makes the first steps up to ten times as long.

    Args:
        params: parameters to update.
        lr: step size.
        betas: decay of m and of u.
        eps: added to u.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})
        for p in (p for group in self.param_groups for p in group["params"]):
            self.state[p] = {"m": torch.zeros_like(p), "u": torch.zeros_like(p)}

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            m, u = ([self.state[p][name] for p in params] for name in ("m", "u"))
            beta1, beta2 = group["betas"]
            torch._foreach_lerp_(m, grads, 1 - beta1)
            torch._foreach_mul_(u, beta2)
            torch._foreach_add_(u, group["eps"])
            torch._foreach_maximum_(u, torch._foreach_abs(grads))
            torch._foreach_addcdiv_(params, m, u, -group["lr"])
        return loss
