"""Policies and value functions for control, and the running standardisation of what they see.

Perceptrons begin with Glorot's uniform weights, zero biases and an output layer of zeros, so that
a new policy does not depend on what it observes (GAIL's code).
"""

from collections.abc import Sequence
from itertools import pairwise
from math import log, pi
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from lit_gen.nn.control import Policy

SLOPE = 0.01  # of leaky rectifiers
Activation = Literal["tanh", "leaky_relu"]


class Standardizer(nn.Module):
    """x -> (x - mean) / (std + 1e-6), by mean and standard deviation of all x it was updated with.

    Before the first update it changes nothing. A constant number becomes 0.

    Args:
        size: numbers in an x.
    """

    eps = 1e-6

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("mean_square", torch.ones(size, dtype=torch.float64))

    @property
    def std(self) -> Tensor:
        """Of all x so far, over their number; (size,)."""
        return (self.mean_square - self.mean.square()).clamp(min=0).sqrt()

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Adds x (N, size); every example counts the same."""
        self.count += len(x)
        share = len(x) / self.count
        self.mean += share * (x.mean(0) - self.mean)
        self.mean_square += share * (x.square().mean(0) - self.mean_square)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / (self.std + self.eps)

    def undo(self, y: Tensor) -> Tensor:
        """The x of which y is made."""
        return y * (self.std + self.eps) + self.mean


def perceptron(
    inputs: int, outputs: int, hidden: Sequence[int] = (100, 100), activation: Activation = "tanh"
) -> nn.Sequential:
    """x (N, inputs) -> (N, outputs), with a nonlinearity between any two layers."""
    layers: list[nn.Module] = []
    for m, n in pairwise([inputs, *hidden]):
        linear = nn.Linear(m, n)
        nn.init.xavier_uniform_(linear.weight)
        layers += [linear, nn.Tanh() if activation == "tanh" else nn.LeakyReLU(SLOPE)]
    layers.append(nn.Linear(([inputs, *hidden])[-1], outputs))
    nn.init.zeros_(layers[-1].weight)
    for linear in layers[::2]:
        nn.init.zeros_(linear.bias)
    return nn.Sequential(*layers)


class StochasticPolicy(nn.Module):
    """pi(a|s): a perceptron of the standardised observation gives a distribution's parameters.

    Args:
        observations: numbers in an observation.
        actions: numbers in an action, or discrete actions.
        hidden: widths of the hidden layers.
        activation: between the layers.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden: Sequence[int] = (100, 100),
        activation: Activation = "tanh",
    ) -> None:
        super().__init__()
        self.standardizer = Standardizer(observations)
        self.net = perceptron(observations, actions, hidden, activation)
        self.activation = activation

    def forward(self, observations: Tensor) -> tuple[Tensor, ...]:
        """Parameters of the actions' distribution, (N, A) each."""
        raise NotImplementedError

    def log_prob(self, parameters: tuple[Tensor, ...], actions: Tensor) -> Tensor:
        """log pi(a|s) in nats, (N,)."""
        raise NotImplementedError

    def kl(self, old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> Tensor:
        """KL(old || new) in nats, (N,)."""
        raise NotImplementedError

    def entropy(self, parameters: tuple[Tensor, ...]) -> Tensor:
        """In nats, (N,)."""
        raise NotImplementedError

    def std(self) -> np.ndarray | None:
        """Of the actions, (A,); None if they are discrete."""
        return None

    @torch.no_grad()
    def numpy(self) -> Policy:
        """A copy in plain NumPy, whose first layer takes observations as they are."""
        arrays = [
            (layer.weight.detach().cpu().double().T, layer.bias.detach().cpu().double())
            for layer in self.net[::2]
        ]
        scale = 1 / (self.standardizer.std + self.standardizer.eps).cpu()
        w, b = arrays[0]
        arrays[0] = scale[:, None] * w, b - (self.standardizer.mean.cpu() * scale) @ w
        layers = tuple((np.ascontiguousarray(w.numpy()), b.numpy().copy()) for w, b in arrays)
        return Policy(layers, None if self.activation == "tanh" else SLOPE, self.std())


class CategoricalPolicy(StochasticPolicy):
    """Of discrete actions, given as their numbers (N,); the perceptron gives their logits."""

    def forward(self, observations: Tensor) -> tuple[Tensor, ...]:
        """Log-probabilities (N, A)."""
        return (self.net(self.standardizer(observations)).log_softmax(-1),)

    def log_prob(self, parameters: tuple[Tensor, ...], actions: Tensor) -> Tensor:
        return parameters[0].gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def kl(self, old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> Tensor:
        (p,), (q,) = old, new
        return (p.exp() * (p - q)).sum(-1)

    def entropy(self, parameters: tuple[Tensor, ...]) -> Tensor:
        (p,) = parameters
        return -(p.exp() * p).sum(-1)


class GaussianPolicy(StochasticPolicy):
    """Of actions (N, A) with independent entries: the perceptron gives their means, and `log_std`,
    which begins at 0 and has no floor, does not depend on the observation."""

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden: Sequence[int] = (100, 100),
        activation: Activation = "tanh",
    ) -> None:
        super().__init__(observations, actions, hidden, activation)
        self.log_std = nn.Parameter(torch.zeros(actions))

    def forward(self, observations: Tensor) -> tuple[Tensor, ...]:
        """Means and log standard deviations, (N, A) each."""
        mean = self.net(self.standardizer(observations))
        return mean, self.log_std.expand_as(mean)

    def log_prob(self, parameters: tuple[Tensor, ...], actions: Tensor) -> Tensor:
        mean, log_std = parameters
        z = (actions - mean) * (-log_std).exp()
        return -(0.5 * z.square() + log_std + 0.5 * log(2 * pi)).sum(-1)

    def kl(self, old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> Tensor:
        (m, s), (mean, log_std) = old, new
        ratio = (2 * (s - log_std)).exp()  # of the variances
        distance = (mean - m).square() * (-2 * log_std).exp()
        return (log_std - s + 0.5 * (ratio + distance - 1)).sum(-1)

    def entropy(self, parameters: tuple[Tensor, ...]) -> Tensor:
        _, log_std = parameters
        return (log_std + 0.5 * (log(2 * pi) + 1)).sum(-1)

    def std(self) -> np.ndarray:
        return self.log_std.detach().cpu().double().exp().numpy()


class ValueFunction(nn.Module):
    """V(s, t): expected discounted return after step t, in a unit that follows the returns.

    The perceptron sees the standardised observation and t over the limit, and gives a standardised
    return.

    Args:
        observations: numbers in an observation.
        limit: steps of an episode at most.
        hidden, activation: as the policy's.
    """

    def __init__(
        self,
        observations: int,
        limit: int,
        hidden: Sequence[int] = (100, 100),
        activation: Activation = "tanh",
    ) -> None:
        super().__init__()
        self.standardizer = Standardizer(observations)
        self.returns = Standardizer(1)
        self.net = perceptron(observations + 1, 1, hidden, activation)
        self.limit = limit

    def standardized(self, observations: Tensor, times: Tensor) -> Tensor:
        """What the perceptron gives, (N,); times (N,) count from 0."""
        x = torch.cat([self.standardizer(observations), (times / self.limit).unsqueeze(-1)], -1)
        return self.net(x).squeeze(-1)

    def forward(self, observations: Tensor, times: Tensor) -> Tensor:
        """V(s, t), (N,)."""
        return self.returns.undo(self.standardized(observations, times))
