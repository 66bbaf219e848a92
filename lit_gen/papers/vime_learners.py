"""What learns beside VIME's exploration: baselines of the return, and steps of the policy.

"Code" is the authors', of rllab in the middle of 2016. Their paper names TRPO, REINFORCE and ERWR
(episodic reward-weighted regression), and leaves constants to the code.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import log, pi

import numpy as np
import scipy.optimize
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from lit_gen.nn.policies import GaussianPolicy
from lit_gen.nn.trust_region import Step, flat, surrogate, trust_region_step

LEAST_STD = 1e-6  # of a policy's actions (code)
TINY = 1e-8  # added to d H d, by which a step d is scaled to its divergence (code)


class RawPolicy(GaussianPolicy):
    """Of observations as they are; the output layer, too, begins with Glorot's uniform weights."""

    def __init__(self, observations: int, actions: int, hidden: Sequence[int] = (32,)) -> None:
        super().__init__(observations, actions, hidden, "tanh")
        nn.init.xavier_uniform_(self.net[-1].weight)
        self.standardizer.eps = 0.0  # it is never updated

    def forward(self, observations: Tensor) -> tuple[Tensor, ...]:
        mean, log_std = super().forward(observations)
        return mean, log_std.clamp(min=log(LEAST_STD))

    def std(self) -> np.ndarray:
        return np.maximum(super().std(), LEAST_STD)


def lbfgs(parameters: Iterable[Tensor], loss: Callable[[], Tensor], iterations: int = 20) -> float:
    """Minimises a loss in place by SciPy's L-BFGS-B, as the code did; returns what was reached."""
    parameters = list(parameters)

    def at(x: np.ndarray) -> tuple[float, np.ndarray]:
        put(x)
        value = loss()
        slope = flat(torch.autograd.grad(value, parameters))
        return value.item(), slope.double().cpu().numpy()

    def put(x: np.ndarray) -> None:
        with torch.no_grad():
            vector_to_parameters(torch.as_tensor(x).to(parameters[0]), parameters)

    start = parameters_to_vector(parameters).detach().double().cpu().numpy()
    best, value, _ = scipy.optimize.fmin_l_bfgs_b(at, start, maxiter=iterations)
    put(best)
    return float(value)


# --- baselines


class LinearBaseline(nn.Module):
    """Ridge regression of the return on [o, o^2, t/100, (t/100)^2, (t/100)^3, 1], o within +-10.

    Before the first fit it is 0.

    Args:
        observations: numbers in an observation.
    """

    ridge = 1e-5

    def __init__(self, observations: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(2 * observations + 4, dtype=torch.float64))

    def features(self, observations: Tensor, times: Tensor) -> Tensor:
        """(N, 2 D + 4)."""
        o = observations.clamp(-10, 10)
        t = times.unsqueeze(-1) / 100
        return torch.cat([o, o**2, t, t**2, t**3, torch.ones_like(t)], -1)

    def forward(self, observations: Tensor, times: Tensor) -> Tensor:
        """Of observations (N, D) at times (N,) within their episodes: (N,)."""
        return self.features(observations, times) @ self.weights

    def fit(self, observations: Tensor, times: Tensor, returns: Tensor) -> None:
        x = self.features(observations, times)
        square = (x.T @ x + self.ridge * torch.eye(x.shape[1]).to(x)).cpu()
        # "gelsd" (NumPy's, so the code's): torch's own choice gives other bits each time
        known = (x.T @ returns).unsqueeze(-1).cpu()
        self.weights.copy_(torch.linalg.lstsq(square, known, driver="gelsd").solution[:, 0])


class PerceptronBaseline(nn.Module):
    """N(mean(o), std^2) of the return: a perceptron of rectifiers for the mean, one std for all.

    A fit standardises observations and returns by its own batch, and maximises the likelihood by
    L-BFGS, less a penalty on KL(old || new), where "old" is the perceptron as it was, on what is
    standardised anew. The penalty is doubled or halved until the mean KL crosses its limit.

    Args:
        observations: numbers in an observation.
        hidden: widths of the hidden layers.
    """

    max_kl = 0.01  # nats
    penalties = (1e-2, 1e6)  # the least and the largest
    tries = 10

    def __init__(self, observations: int, hidden: Sequence[int] = (32,)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for m, n in pairwise([observations, *hidden, 1]):
            layers += [nn.Linear(m, n), nn.ReLU()]
            nn.init.xavier_uniform_(layers[-2].weight)
            nn.init.zeros_(layers[-2].bias)
        self.net = nn.Sequential(*layers[:-1])
        self.log_std = nn.Parameter(torch.zeros(()))
        double = {"dtype": torch.float64}
        for name, x in (
            ("mean", torch.zeros(observations, **double)),
            ("std", torch.ones(observations, **double)),
            ("return_mean", torch.zeros((), **double)),
            ("return_std", torch.ones((), **double)),
            ("penalty", torch.ones((), **double)),
        ):
            self.register_buffer(name, x)

    def standardized(self, observations: Tensor) -> Tensor:
        return self.net((observations - self.mean) / self.std).squeeze(-1)

    def forward(self, observations: Tensor, times: Tensor) -> Tensor:
        """Of observations (N, D): (N,). Times are not looked at."""
        return self.return_mean + self.return_std * self.standardized(observations)

    def fit(self, observations: Tensor, times: Tensor, returns: Tensor) -> None:
        for mean, std, x in (
            (self.mean, self.std, observations),
            (self.return_mean, self.return_std, returns),
        ):
            mean.copy_(x.mean(0))
            std.copy_(x.std(0, correction=0) + 1e-8)
        x = (observations - self.mean) / self.std
        y = (returns - self.return_mean) / self.return_std
        with torch.no_grad():
            before, log_std = self.net(x).squeeze(-1), self.log_std.clone()

        def parts() -> tuple[Tensor, Tensor]:
            """Negative log-likelihood and divergence, in nats."""
            mean, precision = self.net(x).squeeze(-1), (-2 * self.log_std).exp()
            nll = 0.5 * (y - mean).square().mean() * precision + self.log_std + 0.5 * log(2 * pi)
            distance = (mean - before).square().mean() + (2 * log_std).exp()
            return nll, self.log_std - log_std + 0.5 * (distance * precision - 1)

        def penalized() -> Tensor:
            nll, kl = parts()
            return nll + self.penalty * kl

        self._fit(penalized, lambda: parts()[1].item())

    def _fit(self, loss: Callable[[], Tensor], divergence: Callable[[], float]) -> None:
        """Each try begins anew; the last that kept the limit is taken, or nothing is changed."""
        parameters = list(self.parameters())
        start = parameters_to_vector(parameters).detach().clone()
        kept, factor = None, None
        for _ in range(self.tries):
            with torch.no_grad():
                vector_to_parameters(start, parameters)
            lbfgs(parameters, loss)
            with torch.no_grad():
                kl = divergence()
            inside = kl <= self.max_kl
            if inside:
                kept = parameters_to_vector(parameters).detach().clone()
            if factor is None:
                factor = 0.5 if inside else 2.0
            elif inside == (factor > 1):  # it has crossed the limit
                break
            least, most = self.penalties
            if not least <= self.penalty * factor <= most:
                break
            self.penalty *= factor
        with torch.no_grad():
            vector_to_parameters(start if kept is None else kept, parameters)


# --- steps of the policy, with advantages of mean 0 and standard deviation 1


def trpo(
    policy: GaussianPolicy,
    s: Tensor,
    a: Tensor,
    A: Tensor,
    some: Tensor,
    max_kl: float = 0.01,
    damping: float = 1e-5,
    keep_last: bool = True,
) -> Step:
    """A trust-region step; lengths are tried from 1 to .8^14.

    Args:
        policy: changes in place.
        s, a, A: observations (N, D), actions (N, A) and advantages (N,).
        some: indices of the steps that the divergence's curvature is taken of.
        max_kl: in nats.
        damping: added to the curvature.
        keep_last: if no length will do, the last one is taken, as in the code of 2016; later, none.
    """
    evaluate, curved = surrogate(policy, s, a, A, some)
    return trust_region_step(
        policy.parameters(), evaluate, curved, max_kl, damping, tries=15, ratio=0.8,
        sufficient=0.0, wall=1.0, failing="last" if keep_last else "none",
        flat_below=0.0, tiny=TINY / (2 * max_kl),
    )  # fmt: skip


def reinforce_loss(policy: GaussianPolicy, s: Tensor, a: Tensor, A: Tensor) -> Tensor:
    """-mean of A log pi(a|s)."""
    return -(A * policy.log_prob(policy(s), a)).mean()


def erwr(policy: GaussianPolicy, s: Tensor, a: Tensor, A: Tensor) -> float:
    """Regression on the actions, weighted by advantages that are shifted to be positive."""
    weights = A - A.min() + 1e-8
    return lbfgs(policy.parameters(), lambda: reinforce_loss(policy, s, a, weights))
