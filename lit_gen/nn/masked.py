"""Weight-normalised layers whose outputs depend only on what comes before them in an order.

The masks are those of the code of inverse autoregressive flow (Kingma et al., 2016,
arXiv:1606.04934): contiguous blocks, without random degrees. The norm is that of the masked weight.
"""

import torch
from torch import Tensor, nn

from lit_gen.nn.weight_norm import WeightNormConv2d, WeightNormLinear


def block_mask(inputs: int, outputs: int, strict: bool, reverse: bool = False) -> Tensor:
    """1 where output o may see input i, (outputs, inputs), else 0.

    Both are cut into as many blocks as the smaller of them has units. Output block k sees the input
    blocks up to k; if `strict`, those before k. `reverse` turns the order around.

    Raises:
        ValueError: neither number divides the other.
    """
    blocks = min(inputs, outputs)
    if max(inputs, outputs) % blocks:
        raise ValueError(
            f"{inputs} inputs and {outputs} outputs have no blocks in common: one number must be a "
            "multiple of the other"
        )
    of_input, of_output = (torch.arange(n) * blocks // n for n in (inputs, outputs))
    mask = of_input < of_output[:, None] if strict else of_input <= of_output[:, None]
    return (mask.flip(0, 1) if reverse else mask).float()


def raster_mask(
    inputs: int, outputs: int, kernel_size: int, strict: bool, reverse: bool = False
) -> Tensor:
    """1 where a kernel may look, (outputs, inputs, kernel, kernel), else 0.

    A pixel sees those to its right and all below; of its own channels, what `block_mask` allows. So
    the order is that of reading backwards, channels inside a pixel; `reverse` turns it around.
    """
    centre = kernel_size // 2
    mask = torch.zeros(outputs, inputs, kernel_size, kernel_size)
    mask[:, :, centre + 1 :] = 1
    mask[:, :, centre, centre + 1 :] = 1
    mask[:, :, centre, centre] = block_mask(inputs, outputs, strict)
    return mask.flip(0, 1, 2, 3) if reverse else mask


class MaskedLinear(WeightNormLinear):
    """`WeightNormLinear` with a weight under `block_mask`; x (..., B, in) -> y (..., B, out)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        strict: bool,
        std: float | None = None,
    ) -> None:
        init = nn.init.normal_
        super().__init__(
            in_features, out_features, lambda v: init(v, std=0.05), train_scale=True, eps=1e-12
        )
        self.std = std
        mask = block_mask(in_features, out_features, strict)
        self.register_buffer("mask", mask, persistent=False)

    def direction(self) -> Tensor:
        return self.v * self.mask


class MaskedConv2d(WeightNormConv2d):
    """`WeightNormConv2d` with a kernel under `raster_mask`; (B, in, H, W) -> (B, out, H, W)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        strict: bool,
        reverse: bool = False,
        std: float = 1.0,
        exponent: float = 3.0,
    ) -> None:
        super().__init__(in_channels, out_channels, std=std, exponent=exponent)
        mask = raster_mask(in_channels, out_channels, 3, strict, reverse)
        self.register_buffer("mask", mask, persistent=False)

    def direction(self) -> Tensor:
        return self.v * self.mask
