"""The discretised logistic: what its 256 masses sum to, and what they are far out."""

import math

import pytest
import torch

from lit_gen.nn.logistic import log_mass

K = torch.arange(256)


def total(mu: float, log_s: float, edge_bins: bool, floor: float = 0.0) -> float:
    mu, log_s = (torch.tensor(v, dtype=torch.float64) for v in (mu, log_s))
    return log_mass(K, mu, log_s, edge_bins, floor).exp().sum().item()


LIMIT = -0.5 + 1 / 512  # where the model clips its location


@pytest.mark.parametrize(
    ("mu", "log_s", "mass"),
    [(0, -4, 1.0), (-0.4, -4, 0.995764), (LIMIT, -4, 0.526634), (0, 0, 0.244919)],
)
def test_without_edge_bins_what_lies_outside_is_lost(mu: float, log_s: float, mass: float) -> None:
    assert total(mu, log_s, edge_bins=False) == pytest.approx(mass, abs=6e-7)
    assert total(mu, log_s, False, 1e-7) == pytest.approx(mass + 256e-7, abs=6e-7)


@pytest.mark.parametrize("mu", [LIMIT, -0.1, 0.0, 0.3, 0.5])
@pytest.mark.parametrize("log_s", [-6, -4, 0, 2])
def test_with_edge_bins_the_masses_sum_to_one(mu: float, log_s: float) -> None:
    assert total(mu, log_s, edge_bins=True) == pytest.approx(1, abs=1e-12)


def test_is_the_difference_of_two_sigmoids() -> None:
    torch.manual_seed(0)
    mu, log_s = torch.rand(256).double() - 0.5, torch.tensor(-2.5).double()
    a = K / 256 - 0.5

    expected = ((a + 1 / 256 - mu) / log_s.exp()).sigmoid() - ((a - mu) / log_s.exp()).sigmoid()

    torch.testing.assert_close(log_mass(K, mu, log_s, False), expected.log())


def test_code_length_of_all_levels_at_the_initial_scale() -> None:
    bits = -log_mass(K, torch.tensor(0.0), torch.tensor(0.0), False).mean() / math.log(2)

    assert bits.item() == pytest.approx(10.03, abs=5e-3)


def test_a_very_wide_one_with_edge_bins_takes_two_bits_at_the_ends() -> None:
    """At infinite scale half of the mass falls to either side."""
    log_p = log_mass(K, torch.tensor(0.0).double(), torch.tensor(9.0).double(), True)

    torch.testing.assert_close(
        log_p[[0, 255]].exp(), torch.full((2,), 0.5).double(), atol=1e-4, rtol=0
    )


def test_float32_loses_no_digits_in_the_tails_and_has_gradients_there() -> None:
    for edge_bins in (False, True):
        found = {}
        for dtype in (torch.float32, torch.float64):
            mu = torch.full((256,), 0.45, dtype=dtype, requires_grad=True)
            log_p = log_mass(K, mu, torch.tensor(-6.0, dtype=dtype), edge_bins)
            log_p.sum().backward()
            found[dtype] = log_p.detach().double(), mu.grad.double()
        for ours, exact in zip(found[torch.float32], found[torch.float64], strict=True):
            assert ours.isfinite().all()
            torch.testing.assert_close(ours, exact, rtol=2e-5, atol=1e-4)


def test_the_floor_caps_a_level_at_23_bits() -> None:
    log_p = log_mass(K, torch.tensor(0.45), torch.tensor(-6.0), False, 1e-7)

    assert -log_p.min().item() / math.log(2) == pytest.approx(23.25, abs=0.01)
