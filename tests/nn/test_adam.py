"""Adam with epsilon inside the root, against the formula by hand."""

import copy
import math

import pytest
import torch

from lit_gen.nn.adam import InsideEpsilonAdam, UnitStartAdam


def by_hand(gradients: list[float], lr: float, b1: float, b2: float, eps: float) -> float:
    theta = m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        theta -= lr * (m / (1 - b1**t)) / math.sqrt(v / (1 - b2**t) + eps)
    return theta


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1.0])
def test_follows_the_formula_over_many_steps(scale: float) -> None:
    gradients = [scale * math.sin(t) for t in range(1, 60)]
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = InsideEpsilonAdam([p], lr=0.003)

    for g in gradients:
        p.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()

    assert p.item() == pytest.approx(by_hand(gradients, 0.003, 0.5, 0.999, 1e-8), rel=1e-9)


def test_small_gradients_are_damped_where_torch_takes_a_full_step() -> None:
    def first_step(optimizer: type, **kwargs: float) -> float:
        p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        p.grad = torch.full_like(p, 1e-5)
        optimizer([p], lr=1.0, **kwargs).step()
        return -p.item()

    assert first_step(InsideEpsilonAdam) == pytest.approx(0.0995, abs=1e-4)
    assert first_step(torch.optim.Adam, betas=(0.5, 0.999)) == pytest.approx(1, abs=1e-2)


def test_goes_on_from_its_state_dict() -> None:
    def steps(optimizer: InsideEpsilonAdam, p: torch.Tensor, n: int) -> None:
        for _ in range(n):
            p.grad = p.detach().cos()
            optimizer.step()

    p = torch.linspace(-1, 1, 5).requires_grad_()
    q = p.detach().clone().requires_grad_()
    one, two = InsideEpsilonAdam([p], lr=0.1), InsideEpsilonAdam([q], lr=0.1)
    steps(one, p, 6)
    steps(two, q, 3)
    resumed = InsideEpsilonAdam([q], lr=0.1)
    resumed.load_state_dict(two.state_dict())
    steps(resumed, q, 3)

    assert torch.equal(p, q)


def test_parameters_without_gradient_stay() -> None:
    p, q = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = InsideEpsilonAdam([p, q], lr=0.1)

    p.sum().backward()
    optimizer.step()

    assert (p < 1).all()
    assert torch.equal(q, torch.ones(2))


def test_unit_start_is_the_formula_of_its_code() -> None:
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(5, dtype=torch.float64))
    optimizer = UnitStartAdam([p], lr=0.01)
    theta, m, v = p.detach().clone(), torch.zeros(5).double(), torch.ones(5).double()
    for t in range(1, 30):
        g = torch.randn(5, dtype=torch.float64) * 0.1
        p.grad = g.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        scale = 0.01 * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t)
        theta = theta - scale * m / (v.sqrt() + 1e-4)
        torch.testing.assert_close(p.detach(), theta, rtol=1e-9, atol=0)


def test_unit_start_goes_on_from_its_state() -> None:
    def train(steps: int, state: dict | None = None, start: torch.Tensor | None = None):
        p = torch.nn.Parameter(torch.ones(3) if start is None else start.clone())
        optimizer = UnitStartAdam([p], lr=0.01)
        if state:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            p.grad = p.detach() * 0.1
            optimizer.step()
        return p.detach(), optimizer.state_dict()

    whole, _ = train(6)
    half, state = train(3)
    assert torch.equal(whole, train(3, copy.deepcopy(state), half)[0])
