"""Adamax without a correction of its start, against its three lines."""

import copy

import pytest
import torch

from lit_gen.nn.adamax import UncorrectedAdamax


def test_follows_its_three_lines() -> None:
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(7, dtype=torch.float64))
    optimizer = UncorrectedAdamax([p], lr=0.1)
    w, m, u = p.detach().clone(), torch.zeros(7).double(), torch.zeros(7).double()

    for _ in range(5):
        g = torch.randn(7, dtype=torch.float64)
        p.grad = g.clone()
        optimizer.step()
        m = 0.9 * m + 0.1 * g
        u = torch.maximum(0.999 * u + 1e-8, g.abs())
        w = w - 0.1 * m / u

    torch.testing.assert_close(p.data, w)


def test_first_step_is_a_tenth_of_torch_s_and_differs_by_its_correction_later() -> None:
    """1 / (1 - 0.9^t) times as short, as only m is corrected."""
    ours, theirs = (torch.nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2))
    mine, torchs = UncorrectedAdamax([ours], 0.01), torch.optim.Adamax([theirs], 0.01)

    for t in range(1, 4):
        moved = []
        for p, optimizer in ((ours, mine), (theirs, torchs)):
            before = p.detach().clone()
            p.grad = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
            optimizer.step()
            moved.append(p.detach() - before)
        torch.testing.assert_close(moved[0], moved[1] * (1 - 0.9**t), rtol=1e-6, atol=0)


def test_a_parameter_without_a_gradient_stays() -> None:
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = UncorrectedAdamax([p, q], lr=0.1)
    p.grad = torch.ones(2)

    optimizer.step()

    assert torch.equal(q.data, torch.ones(2))
    assert p.data.max() < 1


def test_goes_on_from_a_saved_state() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = UncorrectedAdamax([p], lr=0.1)
    p.grad = torch.tensor([1.0, -3.0])
    optimizer.step()
    q = torch.nn.Parameter(p.detach().clone())
    other = UncorrectedAdamax([q], lr=0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    q.grad = p.grad = torch.tensor([0.5, 0.5])

    optimizer.step(), other.step()

    assert torch.equal(p, q)


def test_a_closure_is_called_with_gradients() -> None:
    p = torch.nn.Parameter(torch.ones(2))

    def closure() -> torch.Tensor:
        loss = p.square().sum()
        loss.backward()
        return loss

    assert UncorrectedAdamax([p], lr=0.1).step(closure).item() == pytest.approx(2)
    assert p.data.max() < 1
