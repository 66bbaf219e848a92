"""Gaussians with independent coordinates, by their mean and the logarithm of their deviation.

Everything is elementwise and in nats; who calls sums over the coordinates.
"""

import math

from torch import Tensor

from lit_gen.nn import draws

LOG_2PI = math.log(2 * math.pi)


def sample(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """z = mu + sigma eps with eps ~ N(0, 1), so that gradients reach mu and sigma."""
    return mu + log_sigma.exp() * draws.randn_like(mu)


def sample_with_density(mu: Tensor, log_sigma: Tensor) -> tuple[Tensor, Tensor]:
    """z as `sample` draws it, and log N(z; mu, sigma^2) = -(log 2 pi + eps^2)/2 - log sigma."""
    eps = draws.randn_like(mu)
    return mu + log_sigma.exp() * eps, -0.5 * (LOG_2PI + eps.square()) - log_sigma


def log_density(z: Tensor, mu: Tensor | float = 0.0, log_sigma: Tensor | float = 0.0) -> Tensor:
    """log N(z; mu, sigma^2); of the standard normal as it stands."""
    if isinstance(log_sigma, Tensor):
        return -0.5 * (LOG_2PI + ((z - mu) * (-log_sigma).exp()).square()) - log_sigma
    return -0.5 * (LOG_2PI + ((z - mu) * math.exp(-log_sigma)).square()) - log_sigma


def kl_to_standard_normal(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) = (mu^2 + sigma^2 - 1)/2 - log sigma."""
    return 0.5 * (mu.square() + (2 * log_sigma).exp() - 1) - log_sigma
