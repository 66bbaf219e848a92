"""Diagonal Gaussians, against torch's own and against samples."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from lit_gen.nn import gaussian


@pytest.fixture
def parameters() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 40, 6, dtype=torch.float64).unbind()


def test_density_is_that_of_torch(parameters) -> None:
    mu, log_sigma = parameters
    z = torch.randn(40, 6, dtype=torch.float64)
    known = Normal(mu, log_sigma.exp()).log_prob(z)
    torch.testing.assert_close(gaussian.log_density(z, mu, log_sigma), known)
    torch.testing.assert_close(gaussian.log_density(z), Normal(0, 1).log_prob(z))
    known = Normal(1.0, torch.tensor(2.0, dtype=torch.float64)).log_prob(z)
    torch.testing.assert_close(
        gaussian.log_density(z, 1.0, torch.tensor(2.0).double().log()), known
    )


def test_a_sample_comes_with_its_density(parameters) -> None:
    z, log_q = gaussian.sample_with_density(*parameters)
    torch.testing.assert_close(log_q, gaussian.log_density(z, *parameters))
    torch.manual_seed(1)
    a = gaussian.sample(*parameters)
    torch.manual_seed(1)
    assert torch.equal(a, gaussian.sample_with_density(*parameters)[0])


def test_gradients_reach_mean_and_deviation() -> None:
    mu = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    log_sigma = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    z = gaussian.sample(mu, log_sigma)
    by_mu, by_sigma = torch.autograd.grad(z.sum(), [mu, log_sigma])
    assert by_mu == 1
    torch.testing.assert_close(by_sigma, (z - mu).detach())


def test_divergence_from_the_prior(parameters) -> None:
    mu, log_sigma = parameters
    known = kl_divergence(Normal(mu, log_sigma.exp()), Normal(0, 1))
    found = gaussian.kl_to_standard_normal(mu, log_sigma)
    torch.testing.assert_close(found, known)
    zero = torch.zeros(3)
    assert (gaussian.kl_to_standard_normal(zero, zero) == 0).all()

    n = 1_000_000
    one, sigma = torch.tensor(0.7).double(), torch.tensor(-0.5).double()
    z, log_q = gaussian.sample_with_density(one.expand(n), sigma.expand(n))
    nats = log_q - gaussian.log_density(z)
    exact = gaussian.kl_to_standard_normal(one, sigma)
    assert abs(nats.mean() - exact) < 4 * nats.std() / n**0.5
