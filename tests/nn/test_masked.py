"""Masked layers: what no output may depend on, as zeros of Jacobians."""

import pytest
import torch
from torch import Tensor

from lit_gen.nn.masked import MaskedConv2d, MaskedLinear, block_mask, raster_mask


def test_masks_of_four_inputs_and_two_units_for_each() -> None:
    assert block_mask(2, 4, strict=False).tolist() == [[1, 0], [1, 0], [1, 1], [1, 1]]
    assert block_mask(4, 2, strict=True).tolist() == [[0, 0, 0, 0], [1, 1, 0, 0]]
    assert block_mask(3, 3, strict=False).tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert block_mask(3, 3, True, reverse=True).tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0]]


def test_widths_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="4 inputs and 6 outputs"):
        block_mask(4, 6, strict=True)


@pytest.mark.parametrize(("strict", "reverse"), [(s, r) for s in (0, 1) for r in (0, 1)])
def test_kernels_look_to_the_right_and_below(strict: bool, reverse: bool) -> None:
    mask = raster_mask(2, 2, 3, strict, reverse)
    expected = torch.tensor([[0, 0, 0], [0, 9, 1], [1, 1, 1]]).float()
    expected = expected.flip(0, 1) if reverse else expected
    outside = expected != 9

    assert torch.equal(mask[..., outside], expected[outside].expand(2, 2, -1))
    assert torch.equal(mask[..., 1, 1], block_mask(2, 2, strict, reverse))


def jacobian(layer: torch.nn.Module, z: Tensor) -> Tensor:
    """(outputs, inputs) in the order of layers: blocks of channels inside a pixel."""
    return torch.autograd.functional.jacobian(layer, z)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("m", "n"), [(4, 12), (12, 12), (12, 4)])
def test_dense_layers_see_the_blocks_before_them(m: int, n: int, strict: bool) -> None:
    torch.manual_seed(0)
    layer = MaskedLinear(m, n, strict).double()

    j = jacobian(layer, torch.randn(m, dtype=torch.float64).unsqueeze(0)).squeeze()

    assert torch.equal(j != 0, block_mask(m, n, strict) > 0)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_convolutions_see_pixels_in_backward_order(strict: bool, reverse: bool) -> None:
    """The Jacobian is triangular once pixels are read from the last to the first."""
    torch.manual_seed(0)
    layer, z = MaskedConv2d(4, 4, strict, reverse).double(), torch.randn(1, 4, 3, 3).double()

    j = jacobian(layer, z)[0, :, :, :, 0]  # (C, H, W, C, H, W)
    order = j.permute(1, 2, 0, 4, 5, 3).reshape(9, 4, 9, 4).flip(0, 2).reshape(36, 36)
    order = order.flip(0, 1) if reverse else order

    assert order.triu(0 if strict else 1).abs().max() == 0
    assert order.tril(-1).abs().max() > 0
    if not strict:
        assert order.diagonal().abs().min() > 0


def test_weights_have_length_one_under_the_mask() -> None:
    layer = MaskedConv2d(4, 8, strict=True)

    w = layer.weight()

    assert torch.equal(w != 0, layer.mask > 0)
    torch.testing.assert_close(w.square().sum((1, 2, 3)), torch.ones(8))


def test_a_unit_that_sees_nothing_is_its_shift() -> None:
    layer = MaskedLinear(4, 4, strict=True)
    with torch.no_grad():
        layer.b.fill_(0.3)
    x = torch.randn(5, 4, requires_grad=True)

    y = layer(x)
    y.sum().backward()

    assert torch.equal(y[:, 0], torch.full((5,), 0.3))
    assert all(p.grad.isfinite().all() for p in layer.parameters())
