"""Batch normalisation (Ioffe & Szegedy, 2015) as the first convolutional GANs have it.

arXiv:1502.03167. Their networks are trained, sampled and looked at with the statistics of the batch
at hand, so that is what this layer does in eval mode, too; torch's own would change to running
averages there without a word. Other statistics are used where somebody asks for them.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_gen.nn import distributed


class BatchNorm(nn.Module):
    """y = gamma (x - mu) / sqrt(var + eps) + beta, with mu and the biased var of each feature.

    They are those of this batch, over images and pixels: in training the batch of all processes, in
    eval mode this process's. `frozen` and `by_running_averages` take others for a while.

    Args:
        features: F of x, (B, F) or (B, F, H, W).
        eps: added to the variance.
        affine: whether gamma, drawn from N(1, 0.02^2), and beta, which begins at 0, are there.
        track: keep running averages of the mean and the unbiased variance of all passes in
            training mode: `running_mean` and `running_var`, (F,), which begin at 0 and 1.
        momentum: the newest batch's share of them.
    """

    def __init__(
        self,
        features: int,
        eps: float = 1e-5,
        affine: bool = True,
        track: bool = False,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.eps, self.momentum, self.track = eps, momentum, track
        self.weight = nn.Parameter(1 + 0.02 * torch.randn(features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(features) if track else None)
        self.register_buffer("running_var", torch.ones(features) if track else None)
        self.given: tuple[Tensor, Tensor] | None = None

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each feature over all processes' batches, (F,) each."""
        return distributed.moments(x if x.dim() == 2 else x.movedim(1, -1).flatten(0, -2))

    def forward(self, x: Tensor) -> Tensor:
        if self.given is not None:
            return F.batch_norm(x, *self.given, self.weight, self.bias, eps=self.eps)
        if not self.training or distributed.rank_and_size()[1] == 1:
            kept = (self.running_mean, self.running_var) if self.training else (None, None)
            return F.batch_norm(x, *kept, self.weight, self.bias, True, self.momentum, self.eps)
        mu, var = self.moments(x)
        if self.track:
            n = x.numel() // len(mu) * distributed.rank_and_size()[1]
            with torch.no_grad():
                self.running_mean.lerp_(mu, self.momentum)
                self.running_var.lerp_(var * (n / (n - 1)), self.momentum)
        scale = (var + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mu * scale if self.bias is None else self.bias - mu * scale
        shape = (-1, *[1] * (x.dim() - 2))  # of a feature's numbers beside its pixels
        return x * scale.view(shape) + shift.view(shape)

    @contextlib.contextmanager
    def frozen(self, mean: Tensor, var: Tensor) -> Iterator[None]:
        """Within, these normalise, (F,) each, and nothing is tracked."""
        before, self.given = self.given, (mean, var)
        try:
            yield
        finally:
            self.given = before


@contextlib.contextmanager
def by_running_averages(model: nn.Module) -> Iterator[None]:
    """Within, every `BatchNorm` of the model normalises by its running averages.

    Raises:
        ValueError: one has none.
    """
    with contextlib.ExitStack() as stack:
        for name, layer in model.named_modules():
            if isinstance(layer, BatchNorm):
                if not layer.track:
                    raise ValueError(
                        f"{name or 'the layer'} keeps no running averages. Build it with track=True"
                    )
                stack.enter_context(layer.frozen(layer.running_mean, layer.running_var))
        yield
