"""Weight normalisation with data-dependent initialisation (Salimans & Kingma, 2016).

arXiv:1602.07868. Improved GAN and inverse autoregressive flow use the same layers, with different
initialisation, epsilon and choice of what is trained.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lit_gen.nn import distributed

CONSTANT = 1e-10  # a variance that is rounding; the authors' code adds it


class WeightNorm(nn.Module):
    """What `data_dependent_init` asks of a layer with weights of fixed length per output unit.

    Attributes:
        std: what the deviation of its units becomes; None takes that of the call.
        units: axis of the units in the output, counted from the end.
    """

    std: float | None = None
    units = -1
    v: nn.Parameter
    b: nn.Parameter

    def direction(self) -> Tensor:
        """The weight before its length is set, whose norm is taken."""
        return self.v

    def hold_scale(self, units: int, trained: bool) -> None:
        """Makes g, 1 for each unit: a parameter, or a buffer that only initialisation sets."""
        g = torch.ones(units)
        if trained:
            self.g = nn.Parameter(g)
        else:
            self.register_buffer("g", g)

    def rescale(self, factor: Tensor) -> None:
        """Multiplies the length of each unit's weight, (..., out)."""
        self.g *= factor


class WeightNormLinear(WeightNorm):
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
        self.hold_scale(out_features, train_scale)

    def forward(self, x: Tensor) -> Tensor:
        v = self.direction()
        if torch.is_autocast_enabled(x.device.type):  # for whose types no gradient is written out
            a = F.linear(x, v) if v.dim() == 2 else x @ v.mT
            s = self.g * (torch.linalg.vector_norm(v, dim=-1).square() + self.eps).rsqrt()
            return a * s.unsqueeze(-2) + self.b.unsqueeze(-2)
        return _WeightNormLinear.apply(x, v, self.g, self.b, self.eps)


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


class Kernels(WeightNorm):
    """What convolutions have in common: v, drawn from N(0, 0.05^2), and its axes."""

    units = -3
    across: tuple[int, ...] = (1, 2, 3)  # axes of v that a unit's weight has

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, std: float) -> None:
        super().__init__()
        self.std = std
        shape = self.shape(in_channels, out_channels, kernel_size)
        self.v = nn.Parameter(0.05 * torch.randn(shape))

    @staticmethod
    def shape(in_channels: int, out_channels: int, k: int) -> tuple[int, ...]:
        return out_channels, in_channels, k, k


class TransposedKernels(Kernels):
    """The same, as the transpose of a convolution has them."""

    across = (0, 2, 3)

    @staticmethod
    def shape(in_channels: int, out_channels: int, k: int) -> tuple[int, ...]:
        return in_channels, out_channels, k, k


class WeightNormConv2d(Kernels):
    """Convolution with w = gain v / |v|, one norm over (in, kernel) per output unit.

    Here the weight is scaled, as an image's output is larger than it. The padding is TensorFlow's
    'SAME': n pixels become ceil(n / stride), and if the padding is odd, the end gets one more.

    Args:
        in_channels, out_channels: of x (B, in, H, W) and y (B, out, H', W').
        kernel_size, stride: of the square kernel.
        std: what `data_dependent_init` makes of the units' deviation.
        exponent: c of the gain exp(c s) with a trained s, which initialisation sets as if c were 3.
            The first code of inverse autoregressive flow has 3; its second has 1, so that its units
            start at the cube root of the intended gain. Adamax moves log gain in steps of c lr.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        std: float = 0.1,
        exponent: float = 3.0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, std)
        self.stride, self.exponent = stride, exponent
        self.s = nn.Parameter(torch.zeros(out_channels))
        self.b = nn.Parameter(torch.zeros(out_channels))

    def rescale(self, factor: Tensor) -> None:
        self.s += factor.log() / 3

    def weight(self) -> Tensor:
        v = self.direction()
        r = (v.square().sum(self.across, keepdim=True) + 1e-12).rsqrt()  # a unit may see nothing
        return v * (r * (self.exponent * self.s).exp().view_as(r))

    def forward(self, x: Tensor) -> Tensor:
        k = self.v.shape[-1]
        (top, bottom), (left, right) = (same_padding(n, k, self.stride) for n in x.shape[-2:])
        if (top, left) == (bottom, right):
            return F.conv2d(x, self.weight(), self.b, self.stride, (top, left))
        return F.conv2d(F.pad(x, (left, right, top, bottom)), self.weight(), self.b, self.stride)


class WeightNormConvTranspose2d(TransposedKernels, WeightNormConv2d):
    """The same for the transpose of that convolution, which makes n pixels of ceil(n / stride).

    Args:
        size: pixels of a side of y; stride times those of x by default.
    """

    def __init__(self, *args: int, size: int | None = None, **kwargs: float) -> None:
        super().__init__(*args, **kwargs)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        sides = [self.size or self.stride * n for n in x.shape[-2:]]
        before = [same_padding(n, self.v.shape[-1], self.stride)[0] for n in sides]
        y = F.conv_transpose2d(x, self.weight(), self.b, self.stride, before)
        return y[..., : sides[0], : sides[1]]


class ScaledConv2d(Kernels):
    """Convolution with w = g v / sqrt(eps + |v|^2), as `WeightNormLinear` for images.

    Where `WeightNormConv2d` trains a logarithm of the gain, this has the gain itself, and padding
    that is the same on all sides. Adam acts on v, so |v| sets the step size.

    Args:
        in_channels, out_channels: of x (B, in, H, W) and y (B, out, H', W').
        kernel_size, stride, padding: of the square kernel.
        train_scale: whether g is trained; otherwise it is a buffer that only
            `data_dependent_init` sets.
        std: what `data_dependent_init` makes of the units' deviation.
        eps: added to |v|^2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 0,
        train_scale: bool = False,
        std: float = 1.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, std)
        self.stride, self.padding, self.eps = stride, padding, eps
        self.b = nn.Parameter(torch.zeros(out_channels))
        self.hold_scale(out_channels, train_scale)

    def weight(self) -> Tensor:
        v = self.direction()
        r = (v.square().sum(self.across, keepdim=True) + self.eps).rsqrt()
        return v * (r * self.g.view_as(r))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight(), self.b, self.stride, self.padding)


class ScaledConvTranspose2d(TransposedKernels, ScaledConv2d):
    """The gradient of that convolution with respect to its input: n pixels become stride times n,
    if the padding is half the kernel."""

    def forward(self, x: Tensor) -> Tensor:
        more = self.stride + 2 * self.padding - self.v.shape[-1]
        return F.conv_transpose2d(x, self.weight(), self.b, self.stride, self.padding, more)


def same_padding(n: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Pixels before and after n others, with which a convolution has ceil(n / stride) outputs."""
    total = max((math.ceil(n / stride) - 1) * stride + kernel_size - n, 0)
    return total // 2, total - total // 2


@torch.no_grad()
def data_dependent_init(
    model: nn.Module, x: Tensor, std: float = 1.0, per_unit: bool = True
) -> None:
    """Sets gain and b of WeightNorm layers so that each unit has mean 0 and `std` on x (Sec. 3).

    One forward pass, in the mode the model is in (noise stays on in training mode); each layer
    sees its input as the layers below leave it after their own initialisation. In a convolution the
    moments are those over images and pixels. A unit that is the same everywhere keeps its gain and
    gets no shift: above a vector that starts at zero, or the first of an autoregressive order.
    Another layer that data set up has `set_by_data`, from its input to its output after that.

    Args:
        model: called once with x; its weight-normalised layers must have b = 0.
        x: one batch of real inputs, as `model` takes them; of several processes, this one's share.
        std: standard deviation of every pre-activation afterwards, where a layer has none itself.
        per_unit: each unit gets that deviation; otherwise they are scaled alike, and get it on
            average, as the root of the mean square.
    """

    def normalise(layer: WeightNorm, _: tuple[Tensor, ...], a: Tensor) -> Tensor:
        rows = a if layer.units == -1 else a.movedim(layer.units, -1).flatten(0, -2)
        mu, variance = distributed.moments(rows, -2)
        if not per_unit:
            variance = variance.mean(-1, keepdim=True).expand_as(variance)
        varies = variance > CONSTANT
        target = std if layer.std is None else layer.std
        scale = torch.where(varies, target * variance.rsqrt(), 1)
        mu = torch.where(varies, mu, 0)
        layer.rescale(scale)
        layer.b.copy_(-mu * scale)
        if layer.units != -1:
            return (a - mu[:, None, None]) * scale[:, None, None]
        return (a - mu.unsqueeze(-2)) * scale.unsqueeze(-2)

    def own(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        return layer.set_by_data(*inputs)

    hooks = []
    for layer in model.modules():
        if isinstance(layer, WeightNorm):
            hooks.append(layer.register_forward_hook(normalise))
        elif hasattr(layer, "set_by_data"):
            hooks.append(layer.register_forward_hook(own))
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
