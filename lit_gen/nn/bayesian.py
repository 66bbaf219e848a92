"""A Bayesian network with its gradients written out: the dynamics model of VIME.

VIME (Houthooft et al., 2016), arXiv:1605.09674, with the constants of the authors' code. Weights
and biases have independent Gaussian posteriors N(mu, sigma^2), sigma = log(1 + exp(rho)), as in
Blundell et al. (2015), arXiv:1505.05424. What is drawn are a layer's outputs, not its weights
(local reparameterisation, Kingma et al., 2015, arXiv:1506.02557).

The networks are small and their updates many, and the information gain asks for the gradient of
each transition alone. So both have one backward pass, in NumPy, whose small operations cost a tenth
of torch's. Its arrays hold units by columns; a column is one draw for one example.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import exp, log, pi
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ONE_THREAD = 2**18  # products of numbers, up to which NumPy's matrix product has one thread
AT_A_TIME = 2**18  # numbers in an array of many columns; a processor's cache holds a few arrays


class Slopes(NamedTuple):
    """What a layer's gradients are made of; m inputs, n outputs, R columns.

    The outputs are a = mu h + sqrt(sigma^2 h^2) eps. So the gradient by mu is (dL/da) h^T, and that
    by sigma is sigma (dL/da eps / sqrt(sigma^2 h^2)) (h^2)^T.
    """

    h: np.ndarray  # inputs and, for the biases, a row of ones, (m + 1, R)
    h2: np.ndarray  # h^2
    d: np.ndarray  # dL/da, (n, R)
    s: np.ndarray  # dL/da eps / sqrt(sigma^2 h^2), (n, R)


class BayesianNetwork(nn.Module):
    """q(theta) = N(mu, sigma^2) over the weights of a ReLU network f: p(y|x) = N(f(x), std^2).

    `mu` and `rho`, (P,) each, hold all layers, one after another: (n, m + 1) from m inputs to n
    outputs, the biases last. Adam's moments and its number of updates are buffers.

    Args:
        inputs: numbers in an x.
        outputs: numbers in a y.
        hidden: widths of the hidden layers.
        prior_std: of the prior, whose mean is 0; sigma begins there.
        likelihood_std: of y around the prediction; it is not learned (code).
        init_std: of the means at first, drawn around 0: not the prior's (code).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (32,),
        prior_std: float = 0.5,
        likelihood_std: float = 5.0,
        init_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.widths = (inputs, *hidden, outputs)
        self.prior_std, self.likelihood_std = prior_std, likelihood_std
        size = sum((m + 1) * n for m, n in pairwise(self.widths))
        self.mu = nn.Parameter(init_std * torch.randn(size))
        self.rho = nn.Parameter(torch.full((size,), log(exp(prior_std) - 1)))
        self.register_buffer("m", torch.zeros(2, size))  # of mu, of rho
        self.register_buffer("v", torch.zeros(2, size))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def sigma(self) -> Tensor:
        """(P,)."""
        return F.softplus(self.rho)

    def layers(self, flat: Any) -> list:
        """Views of a vector like mu, (n, m + 1) for each layer."""
        shapes = [(n, m + 1) for m, n in pairwise(self.widths)]
        ends = accumulate((n * m for n, m in shapes), initial=0)
        return [flat[a:b].reshape(s) for (a, b), s in zip(pairwise(ends), shapes, strict=True)]

    def noise(self, *shape: int) -> Tensor:
        """eps ~ N(0, 1) of every unit, (*shape, units), on the CPU; in float32, which is drawn
        several times faster, and then as the network computes."""
        return torch.randn(*shape, sum(self.widths[1:]), dtype=torch.float32).to(self.mu.dtype)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """A drawn prediction for each x (..., inputs), (..., outputs).

        Args:
            noise: from `noise`, in a shape that fits: (units,) is shared by all x, (N, units) each
                one's own, (S, 1, units) makes S predictions of each. If none is given, one is
                drawn that all share (code).
        """
        noise = (self.noise() if noise is None else noise).to(x.device)
        means, variances = self.layers(self.mu), self.layers(self.sigma.square())
        parts = zip(means, variances, noise.split(self.widths[1:], -1), strict=True)
        for i, (M, V, eps) in enumerate(parts):
            h = a.relu() if i else x  # noqa: F821
            root = F.linear(h.square(), V[:, :-1], V[:, -1]).sqrt()
            a = F.linear(h, M[:, :-1], M[:, -1]) + root * eps
        return a

    def nll(self, prediction: Tensor, y: Tensor) -> Tensor:
        """-log N(y; prediction, likelihood_std^2) in nats, (...), of (..., outputs)."""
        z = (y - prediction) / self.likelihood_std
        return (0.5 * z.square() + log(self.likelihood_std) + 0.5 * log(2 * pi)).sum(-1)

    def kl(self) -> Tensor:
        """KL(q || prior) in nats."""
        sigma, s = self.sigma, self.prior_std
        squares = (sigma.square() + self.mu.square()) / s**2
        return (log(s) - sigma.log() + 0.5 * (squares - 1)).sum()

    def slopes(
        self,
        means: list[np.ndarray],
        variances: list[np.ndarray],
        x: np.ndarray,
        y: np.ndarray,
        noise: np.ndarray,
    ) -> tuple[list[Slopes], float]:
        """Of L = sum of all columns' -log p(y|x), for each layer; and the sum of squared errors.

        Args:
            means, variances: of each layer, (n, m + 1).
            x: (inputs + 1, R), its last row ones.
            y: (outputs, R).
            noise: (units, R).
        """
        ends = pairwise(accumulate(self.widths[1:], initial=0))
        h, passed = x, []
        for M, V, (start, end) in zip(means, variances, ends, strict=True):
            if passed:
                h = np.empty((len(a) + 1, a.shape[1]), a.dtype)  # noqa: F821
                np.maximum(a, 0, out=h[:-1])  # noqa: F821
                h[-1] = 1
            eps, h2 = noise[start:end], h * h
            root = np.sqrt(product(V, h2))
            a = product(M, h)
            a += root * eps
            passed.append((h, h2, eps / root))

        error = a - y
        d, found = error / self.likelihood_std**2, []
        for M, V, (h, h2, per_root) in zip(means[::-1], variances[::-1], passed[::-1], strict=True):
            s = d * per_root
            found.append(Slopes(h, h2, d, s))
            if h is not x:
                d = product(V.T[:-1], s)
                d *= h[:-1]
                d += product(M.T[:-1], found[-1].d)
                d *= (h[:-1] > 0).astype(d.dtype)  # a product, so that NaN stays
        return found[::-1], float(np.vdot(error, error))

    @torch.no_grad()
    def information_gain(
        self,
        x: Tensor,
        y: Tensor,
        samples: int = 10,
        step: float = 0.01,
        half: bool = False,
        noise: Tensor | None = None,
    ) -> Tensor:
        """KL of the posterior after a step on one transition from the one before, (N,), in nats.

        The step is `step` times the natural gradient of the mean of -log p(y|x) over S draws. To
        second order the divergence is step^2 sum g^2 / H, where H, the diagonal of its Hessian, is
        1 / sigma^2 for a mu and 2 (dsigma/drho)^2 / sigma^2 for a rho. As g_rho is g_sigma
        dsigma/drho, that is

            step^2 sum (sigma^2 g_mu^2 + sigma^2 g_sigma^2 / 2).

        Each transition's gradient is of its own; the network stays as it is.

        Args:
            x: (N, inputs).
            y: (N, outputs).
            samples: S. A draw's noise is of one transition alone.
            step: the paper's lambda.
            half: with Taylor's factor 1/2, as the paper; the code has none, and dividing gains by
                their median cancels it.
            noise: to use instead of drawing, (N, S, units).
        """
        xs, ys = self._arrays(x, y)
        S = samples if noise is None else noise.shape[1]
        mu, V = (p.detach().cpu().numpy() for p in (self.mu, self.sigma.square()))
        means, variances, halves = self.layers(mu), self.layers(V), self.layers(V * V / 2)
        largest = max([S * max(self.widths), *(v.size for v in variances[1:])])
        rows = max(1, AT_A_TIME // largest)
        gains = np.zeros(len(xs), xs.dtype)
        for i in range(0, len(xs), rows):
            part = slice(i, i + rows)
            n = len(xs[part])
            eps = self.noise(n, S) if noise is None else noise[part].cpu()
            eps = np.ascontiguousarray(eps.numpy().reshape(n * S, -1).T)
            columns = (each_times(z[part].T, S) for z in (xs, ys))
            found, _ = self.slopes(means, variances, *columns, eps)
            for k, at in enumerate(found):
                h, h2, d, s = (z.reshape(len(z), n, S) for z in at)
                if k == 0:  # all draws have one h: their gradients add up to one of rank one
                    h, h2, d, s = h[..., 0], h2[..., 0], d.sum(-1), s.sum(-1)
                    gains[part] += (product(variances[k], h * h) * d * d).sum(0)
                    gains[part] += (product(halves[k], h2 * h2) * s * s).sum(0)
                else:
                    gains[part] += squares(d, h, variances[k]) + squares(s, h2, halves[k])
        gains *= (0.5 if half else 1) * (step / S) ** 2
        return torch.from_numpy(gains).to(x.device)

    @torch.no_grad()
    def fit(
        self,
        x: Tensor,
        y: Tensor,
        samples: int = 10,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        batches: float = 5.0,
    ) -> float:
        """U updates by Adam, each on a mini-batch of B examples.

        The loss is KL(q || prior) / batches, and the sum of a mini-batch's -log p(y|x), averaged
        over S draws of a noise that its examples share. In Theano's Adam epsilon stands beside the
        root of the biased moment:

            theta <- theta - lr sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps).

        Args:
            x: (U, B, inputs).
            y: (U, B, outputs).
            samples: S.
            lr, betas, eps: Adam's.
            batches: mini-batches that share the KL; the code has 5, whatever there is.

        Returns:
            -log p(y|x) in nats, the mean over all examples, draws and updates.
        """
        xs, ys = self._arrays(x, y)
        U, B = xs.shape[:2]
        noise = self.noise(U, samples).numpy().swapaxes(1, 2)  # (U, units, S)
        theta = np.stack([p.detach().cpu().numpy() for p in (self.mu, self.rho)])
        (mu, rho), g, V = theta, np.empty_like(theta), np.empty_like(theta[0])
        m, v = (moment.cpu().numpy().copy() for moment in (self.m, self.v))
        t = int(self.updates)
        means, variances, to_mu, to_sigma = map(self.layers, (mu, V, *g))
        pull, errors = 1 / (batches * self.prior_std**2), 0.0
        rows = max(1, AT_A_TIME // (B * samples * max(self.widths)))
        for u in range(U):
            k = u % rows
            if k == 0:
                part = slice(u, u + rows)
                a, b = (each_times(z[part].swapaxes(1, 2), samples) for z in (xs, ys))
                drawn = np.tile(noise[part], B)
            e = torch.from_numpy(rho).exp()  # of many weights, faster than NumPy's
            sigma, e = e.log1p().numpy(), e.numpy()
            np.multiply(sigma, sigma, out=V)
            found, squared = self.slopes(means, variances, a[k], b[k], drawn[k])
            errors += squared
            for (h, h2, d, s), of_mu, of_sigma in zip(found, to_mu, to_sigma, strict=True):
                of_mu[:] = product(d, h.T)
                of_sigma[:] = product(s, h2.T)
            g /= samples
            g[0] += pull * mu
            g[1] = (g[1] + pull) * sigma - 1 / (batches * sigma)
            g[1] *= e / (1 + e)  # dsigma/drho

            t += 1
            m += (1 - betas[0]) * (g - m)
            v += (1 - betas[1]) * (g * g - v)
            rate = lr * (1 - betas[1] ** t) ** 0.5 / (1 - betas[0] ** t)
            theta -= rate * m / (np.sqrt(v) + eps)
        for of, now in ((self.mu, mu), (self.rho, rho), (self.m, m), (self.v, v)):
            of.copy_(torch.from_numpy(now))
        self.updates.fill_(t)
        constant = self.widths[-1] * (log(self.likelihood_std) + 0.5 * log(2 * pi))
        return constant + 0.5 * errors / self.likelihood_std**2 / max(1, U * B * samples)

    def _arrays(self, x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """As the network computes; x with a last 1, which the biases take."""
        given, known = (x.shape[-1], y.shape[-1]), (self.widths[0], self.widths[-1])
        if given != known or x.shape[:-1] != y.shape[:-1]:
            raise ValueError(
                f"x is {tuple(x.shape)} and y is {tuple(y.shape)}: give as many of both, "
                f"x of {known[0]} and y of {known[1]} numbers."
            )
        xs, ys = (z.detach().to("cpu", self.mu.dtype).numpy() for z in (x, y))
        return np.concatenate([xs, np.ones_like(xs[..., :1])], -1), ys


def product(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A B, also of stacks of matrices.

    Large ones by torch, which has as many threads as it was told: NumPy's library has one for each
    core, and waits for all of them where other runs keep the cores busy.
    """
    if A.shape[-2] * A.shape[-1] * B.shape[-1] <= ONE_THREAD:
        return A @ B
    return torch.matmul(torch.from_numpy(A), torch.from_numpy(B)).numpy()


def each_times(z: np.ndarray, samples: int) -> np.ndarray:
    """Each column `samples` times, (..., N) -> (..., N S)."""
    return np.repeat(z, samples, -1)


def squares(d: np.ndarray, h: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of each example's gradient G = d h^T, the sum of weights G^2, (N,).

    Args:
        d: (n, N, S).
        h: (m, N, S).
        weights: (n, m).
    """
    G = product(d.swapaxes(0, 1), h.transpose(1, 2, 0))
    G *= G
    return product(G.reshape(len(G), -1), weights.reshape(-1, 1))[:, 0]
