"""Weight normalisation with data-dependent initialisation (Salimans & Kingma, 2016).

arXiv:1602.07868. Improved GAN and inverse autoregressive flow use the same layers, with different
initialisation, epsilon and choice of what is trained.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lit_gen.nn import distributed


class WeightNormLinear(nn.Module):
    """y = s * (x v^T) + b with s = g / sqrt(eps + |v|^2), one norm per output unit (Eq. 2).

    Scaling the output instead of the weight is the same function, and touches (B, out) numbers
    where normalising the weight touches (out, in). Adam acts on v, so |v| sets the step size.
    Stacked layers (`replicas`) take x (K, B, in), or the same x (B, in) for all, to (K, B, out).

    Args:
        in_features, out_features: sizes of x (B, in) and y (B, out).
        init: fills v, (out, in), in place.
        train_scale: whether g is trained; otherwise it is a buffer that only
            `data_dependent_init` sets.
        eps: added to |v|^2.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        init: Callable[[Tensor], Tensor],
        train_scale: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.v = nn.Parameter(init(torch.empty(out_features, in_features)))
        self.b = nn.Parameter(torch.zeros(out_features))
        g = torch.ones(out_features)
        if train_scale:
            self.g = nn.Parameter(g)
        else:
            self.register_buffer("g", g)

    def forward(self, x: Tensor) -> Tensor:
        return _WeightNormLinear.apply(x, self.v, self.g, self.b, self.eps)


class _WeightNormLinear(torch.autograd.Function):
    """The layer with its gradient written out.

    With r = 1 / sqrt(eps + |v|^2), a = x v^T and y = g r a + b, the chain rule gives (Eq. 3)

        dL/dg = r sum_B dy a,    dL/dv = (g r dy)^T x - v r^2 g dL/dg   (per unit).

    Autograd's own pass over the norm writes three arrays of the size of v where this writes one,
    which is a tenth of a training step on a CPU.
    """

    @staticmethod
    def forward(ctx, x: Tensor, v: Tensor, g: Tensor, b: Tensor, eps: float) -> Tensor:  # noqa: ANN001
        r = (torch.linalg.vector_norm(v, dim=-1).square() + eps).rsqrt()
        a = F.linear(x, v) if v.dim() == 2 else x @ v.mT
        ctx.save_for_backward(x, v, g, r, a)
        return torch.addcmul(b.unsqueeze(-2), a, (g * r).unsqueeze(-2))

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001
        x, v, g, r, a = ctx.saved_tensors
        need_x, need_v, need_g, need_b, _ = ctx.needs_input_grad
        dx = dv = dg = db = None
        da = dy * (g * r).unsqueeze(-2)
        if need_x:
            dx = (da @ v).sum_to_size(x.shape)
        if need_v or need_g:
            dg = r * (dy * a).sum(-2)
        if need_v:
            dv = (da.mT @ x).addcmul_(v, (r.square() * g * dg).unsqueeze(-1), value=-1)
        if need_b:
            db = dy.sum(-2)
        return dx, dv, dg if need_g else None, db, None


@torch.no_grad()
def data_dependent_init(model: Callable[[Tensor], Tensor], x: Tensor, std: float = 1.0) -> None:
    """Sets g and b of every WeightNormLinear so that each unit has mean 0 and `std` on x (Sec. 3).

    One forward pass, in the mode the model is in (noise stays on in training mode); each layer
    sees its input as the layers below leave it after their own initialisation.

    Args:
        model: called once with x; its weight-normalised layers must have b = 0.
        x: one batch of real inputs, as `model` takes them; of several processes, this one's share.
        std: standard deviation of every pre-activation afterwards.
    """

    def normalise(layer: WeightNormLinear, _: tuple[Tensor], a: Tensor) -> Tensor:
        mu, variance = distributed.moments(a, -2)
        scale = std * variance.rsqrt()
        layer.g *= scale
        layer.b.copy_(-mu * scale)
        return (a - mu.unsqueeze(-2)) * scale.unsqueeze(-2)

    layers = [m for m in model.modules() if isinstance(m, WeightNormLinear)]
    hooks = [layer.register_forward_hook(normalise) for layer in layers]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
