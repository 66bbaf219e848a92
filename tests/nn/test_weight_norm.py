"""Weight normalisation: invariances, gradients and what data-dependent initialisation promises."""

import pytest
import torch
from torch import nn

from lit_gen.nn.masked import MaskedConv2d, MaskedLinear
from lit_gen.nn.weight_norm import (
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLinear,
    data_dependent_init,
    same_padding,
)


def layer(m: int = 5, n: int = 4, eps: float = 0.0, train_scale: bool = True) -> WeightNormLinear:
    torch.manual_seed(0)
    made = WeightNormLinear(m, n, lambda v: nn.init.normal_(v, std=0.1), train_scale, eps).double()
    with torch.no_grad():
        made.g.uniform_(0.5, 2)
        made.b.normal_()
    return made


@pytest.mark.parametrize("eps", [0.0, 1e-2])
def test_is_the_linear_map_of_the_normalised_weight(eps: float) -> None:
    linear, x = layer(eps=eps), torch.randn(7, 5, dtype=torch.float64)

    w = linear.v * (linear.g / (eps + linear.v.square().sum(1)).sqrt()).unsqueeze(1)

    torch.testing.assert_close(linear(x), x @ w.T + linear.b)


def test_length_of_v_does_not_matter_without_epsilon() -> None:
    linear, x = layer(), torch.randn(7, 5, dtype=torch.float64)
    before = linear(x)

    with torch.no_grad():
        linear.v.mul_(3.7)

    torch.testing.assert_close(linear(x), before)


@pytest.mark.parametrize("train_scale", [True, False])
def test_gradients_agree_with_finite_differences(train_scale: bool) -> None:
    linear = layer(eps=1e-2, train_scale=train_scale)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    parameters = dict(linear.named_parameters())

    def output(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        state = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(linear, state, (x,))

    assert torch.autograd.gradcheck(output, (x, *parameters.values()))


def test_only_the_gradients_that_are_asked_for_are_computed() -> None:
    linear = layer().requires_grad_(False)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    linear(x).sum().backward()

    assert x.grad is not None
    assert all(p.grad is None for p in linear.parameters())


def test_gradient_is_orthogonal_to_v() -> None:
    linear = layer()

    linear(torch.randn(9, 5, dtype=torch.float64)).square().sum().backward()

    torch.testing.assert_close((linear.v.grad * linear.v).sum(1), torch.zeros(4).double())


def test_initialisation_gives_every_unit_mean_zero_and_the_asked_deviation_in_depth() -> None:
    torch.manual_seed(1)
    first, second = layer(6, 8, train_scale=False), layer(8, 3)
    with torch.no_grad():
        first.b.zero_(), second.b.zero_()
    net = nn.Sequential(first, nn.ReLU(), second)
    x = 3 + torch.randn(500, 6, dtype=torch.float64)

    data_dependent_init(net, x, std=0.1)

    for a in (first(x), second(first(x).relu())):
        torch.testing.assert_close(a.mean(0), torch.zeros(a.shape[1]).double(), atol=1e-9, rtol=0)
        torch.testing.assert_close(a.var(0, correction=0).sqrt(), torch.full_like(a[0], 0.1))


def test_initialisation_leaves_no_hook_behind_when_the_model_fails() -> None:
    net = nn.Sequential(layer(), nn.Unflatten(1, (3, 3)))

    with pytest.raises(RuntimeError):
        data_dependent_init(net, torch.randn(7, 5, dtype=torch.float64))

    assert not net[0]._forward_hooks


# --- convolutions


def conv(transposed: bool = False, **options: float) -> WeightNormConv2d:
    torch.manual_seed(0)
    kind = WeightNormConvTranspose2d if transposed else WeightNormConv2d
    made = kind(3, 4, **options).double()
    with torch.no_grad():
        made.s.uniform_(-0.3, 0.3)
        made.b.normal_()
    return made


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("exponent", [1.0, 3.0])
def test_length_of_a_kernel_is_its_gain(transposed: bool, exponent: float) -> None:
    layer = conv(transposed, exponent=exponent)

    w = layer.weight().transpose(0, 1) if transposed else layer.weight()

    torch.testing.assert_close(w.square().sum((1, 2, 3)).sqrt(), (exponent * layer.s).exp())
    with torch.no_grad():
        layer.v.mul_(2.5)
    torch.testing.assert_close(layer.weight().transpose(0, 1) if transposed else layer.weight(), w)


@pytest.mark.parametrize(("n", "k", "stride"), [(32, 5, 2), (28, 3, 2), (7, 3, 2), (8, 3, 1)])
def test_a_transposed_convolution_is_the_transpose_of_the_padded_one(
    n: int, k: int, stride: int
) -> None:
    """<y, conv x> = <conv^T y, x>, at the sizes of the papers' models, odd ones included."""
    up = conv(True, kernel_size=k, stride=stride, size=n)
    down = WeightNormConv2d(4, 3, k, stride).double()
    with torch.no_grad():
        up.b.zero_(), down.b.zero_()
    down.weight = up.weight  # (3, 4, k, k): in x out of the one, out x in of the other
    x = torch.randn(2, 4, n, n, dtype=torch.float64)
    y = torch.randn(2, 3, -(-n // stride), -(-n // stride), dtype=torch.float64)

    assert down(x).shape == y.shape
    assert up(y).shape == x.shape
    torch.testing.assert_close((y * down(x)).sum(), (up(y) * x).sum())


def test_odd_padding_is_tensorflow_s() -> None:
    assert same_padding(32, 5, 2) == (1, 2)
    assert same_padding(28, 3, 2) == (0, 1)
    assert same_padding(7, 3, 2) == (1, 1)
    assert same_padding(9, 3, 1) == (1, 1)


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_of_kernels_agree_with_finite_differences(transposed: bool) -> None:
    layer = conv(transposed, stride=2)
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    parameters = dict(layer.named_parameters())

    def output(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        state = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(layer, state, (x,))

    assert torch.autograd.gradcheck(output, (x, *parameters.values()), fast_mode=True)


def test_initialisation_of_convolutions_counts_pixels_and_each_layer_has_its_deviation() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(
        WeightNormConv2d(2, 6, 5, 2),
        nn.ELU(),
        MaskedConv2d(6, 3, strict=True),
        nn.ELU(),
        WeightNormConvTranspose2d(3, 2, 5, 2, std=0.4),
    ).double()
    x = 3 + torch.randn(20, 2, 8, 8, dtype=torch.float64)

    data_dependent_init(net, x, std=7)

    for layer, std in zip(net[::2], (0.1, 1.0, 0.4), strict=True):
        x = layer(x)
        of_units = x.transpose(0, 1).flatten(1)
        torch.testing.assert_close(of_units.mean(1), torch.zeros_like(of_units[:, 0]))
        torch.testing.assert_close(
            of_units.std(1, correction=0), torch.full_like(of_units[:, 0], std)
        )
        x = nn.functional.elu(x)


def test_with_exponent_one_the_gain_is_the_cube_root_of_the_intended_one() -> None:
    """The released code: a unit of deviation r starts at 0.1^(1/3) r^(2/3), not at 0.1."""
    torch.manual_seed(1)
    layer = WeightNormConv2d(2, 6, exponent=1.0).double()
    x = torch.randn(20, 2, 8, 8, dtype=torch.float64)
    raw = layer(x).std((0, 2, 3), correction=0).detach()

    data_dependent_init(layer, x)

    started = layer(x).std((0, 2, 3), correction=0)
    torch.testing.assert_close(started, 0.1 ** (1 / 3) * raw ** (2 / 3))


def test_units_that_do_not_vary_keep_their_gain() -> None:
    torch.manual_seed(1)
    above_zero = WeightNormConv2d(2, 3)
    first = MaskedLinear(4, 4, strict=True, std=0.1)

    data_dependent_init(above_zero, torch.zeros(5, 2, 8, 8))
    data_dependent_init(first, x := torch.randn(50, 4))

    assert torch.equal(above_zero.s, torch.zeros(3))
    assert first.g[0] == 1
    assert first.b[0] == 0
    torch.testing.assert_close(first(x).std(0, correction=0)[1:], torch.full((3,), 0.1))


def test_mixed_precision_trains_the_same_function() -> None:
    torch.manual_seed(0)
    layer = WeightNormLinear(40, 30, nn.init.normal_, train_scale=True)
    x = torch.randn(16, 40)
    whole = torch.autograd.grad(layer(x).square().mean(), list(layer.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    mixed = torch.autograd.grad(y.square().mean(), list(layer.parameters()))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, layer(x), rtol=0.05, atol=0.05)
    for a, b in zip(whole, mixed, strict=True):
        assert (a - b).norm() < 0.02 * a.norm()
