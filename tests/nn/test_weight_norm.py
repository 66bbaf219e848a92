"""Weight normalisation: invariances, gradients and what data-dependent initialisation promises."""

import pytest
import torch
from torch import nn

from lit_gen.nn.weight_norm import WeightNormLinear, data_dependent_init


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
