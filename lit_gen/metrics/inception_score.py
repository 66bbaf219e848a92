"""Inception score: the paper's procedure, from logits, and what makes its number evidence.

    exp( E_x KL( p(y|x) || p(y) ) ),    p(y) the mean of p(y|x) over the same images

Salimans et al. (2016), Sec. 4, arXiv:1606.03498. The samples, in the order in which they were made,
are cut into 10 groups; each has its own p(y) and its own score. Reported are mean and standard
deviation (ddof 0) over the groups. All of it is float64.

A run keeps one number per sample, KL(p(y|x) || p(y) of its group) in nats. The score of a group is
the exponential of their mean, so the number can be computed again. What the harness asks of a
metric's class stands at the top of lit_gen/metrics/classification.py. Nothing here imports torch.

Which classifier gives p(y|x) is part of the number: only that of 2015-12-05 with 1,008 outputs, on
images resized as TensorFlow 1 did, gives Inception scores. Its authors left the bias of the last
layer out; scores with it are higher, and have an id of their own.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from lit_gen.metrics.errors import MetricError

Arrays = Mapping[str, np.ndarray]
SPLITS = 10
RECIPE = 1  # of the network in classifier_score.py; counts up when its weights change
NETWORK = "inception-2015-12-05 6726825d; TF1 bilinear 299"


class Score(NamedTuple):
    """Mean and standard deviation over groups, and each group's score."""

    mean: float
    std: float
    groups: np.ndarray


def groups_of(n: int, splits: int) -> list[slice]:
    """n samples cut into consecutive groups whose sizes differ by one at most.

    Raises:
        MetricError: there are fewer samples than groups.
    """
    if splits < 1 or n < splits:
        raise MetricError(f"{n:,} samples cannot be cut into {splits} groups; make more of them")
    return [slice(i * n // splits, (i + 1) * n // splits) for i in range(splits)]


def divergences(groups: Iterable[np.ndarray]) -> np.ndarray:
    """KL(p(y|x) || p(y)) of each sample, in nats, (N,).

    Args:
        groups: each group's logits, or logarithms of probabilities, (n_g, K).

    Raises:
        MetricError: a logit is nan or +inf.
    """
    found = []
    for logits in groups:
        x = np.asarray(logits, float)
        if np.isnan(x).any() or np.isposinf(x).any():
            raise MetricError("logits are not finite: the images or the network are broken")
        x = x - x.max(1, keepdims=True)
        p = np.exp(x)
        total = p.sum(1, keepdims=True)
        p /= total
        marginal = p.mean(0)
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 log 0 is 0
            terms = p * (x - np.log(total) - np.log(marginal))
        found.append(np.where(p > 0, terms, 0).sum(1))
    return np.concatenate(found)


def score(divergence: np.ndarray, splits: int = SPLITS) -> Score:
    """The score from each sample's divergence (N,), in the order of the samples.

    Raises:
        MetricError: there are fewer samples than groups.
    """
    kl = np.asarray(divergence, float)
    found = np.array([np.exp(kl[group].mean()) for group in groups_of(len(kl), splits)])
    return Score(float(found.mean()), float(found.std()), found)


def inception_score(logits: np.ndarray, splits: int = SPLITS, seed: int | None = None) -> Score:
    """The score from logits, or logarithms of probabilities, (N, K).

    Args:
        seed: of a permutation of the samples, for sets that have an order; torch-fidelity's is
            2020. None leaves them as they are.

    Raises:
        MetricError: there are fewer samples than groups, or a logit is nan or +inf.
    """
    n = len(logits)
    order = np.arange(n) if seed is None else np.random.RandomState(seed).permutation(n)
    cut = groups_of(n, splits)
    return score(divergences(logits[order[group]] for group in cut), splits)


class InceptionScore:
    """The score of a run's samples, as the harness asks for it.

    Args:
        samples: how many there must be for the number to count; None takes any.
        splits: groups.
        bias: whether the logits had the last layer's bias.
        statistic: mean or std, over the groups.
    """

    tolerance = 1e-4  # a logged number is float32
    name, array, network = "inception_score", "inception_kl", NETWORK

    def __init__(
        self,
        samples: int | None = None,
        splits: int = SPLITS,
        bias: bool = False,
        statistic: str = "mean",
    ) -> None:
        for what, value in (("samples", samples), ("splits", splits)):
            wrong = type(value) is not int or value < 1
            if wrong and not (what == "samples" and value is None):
                raise MetricError(f"{what} is {value!r}; it must be a whole number above 0")
        if samples is not None:
            groups_of(samples, splits)
        if statistic not in ("mean", "std"):
            raise MetricError(f"statistic is {statistic!r}; it must be mean or std")
        self.samples, self.splits, self.statistic = samples, splits, statistic
        self.bias = bias
        if bias:
            self.array = f"{self.array}_biased"

    @property
    def id(self) -> str:
        of = "" if self.samples is None else f" of {self.samples}"
        std = " std" if self.statistic == "std" else ""
        return f"{self.name}{std}/1{of} in {self.splits} splits; {self.network}{self.convention}"

    @property
    def convention(self) -> str:
        return f"; logits with{'' if self.bias else 'out'} bias"

    def of(self, arrays: Arrays) -> float:
        """
        Raises:
            MetricError: the array is missing, or not of that many samples.
        """
        if self.array not in arrays:
            raise MetricError(f"it needs {self.array}; kept are {', '.join(arrays)}")
        kl = arrays[self.array]
        if kl.ndim != 1 or self.samples not in (None, len(kl)):
            raise MetricError(f"{kl.shape} samples were scored, not {self.samples}")
        return getattr(score(kl, self.splits), self.statistic)

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with its score; worked out by hand."""
        n = self.samples or 50 * self.splits
        cut = groups_of(n, self.splits)
        alike, sharp = np.zeros(n), np.full(n, np.log(8.0))
        steps, mixed = np.zeros(n), np.zeros(n)
        for i, group in enumerate(cut):
            steps[group] = np.log(i + 1.0)  # scores 1, 2, ..., splits
            mixed[group][0] = np.log(2.0) * len(mixed[group])  # their mean is log 2
        s = self.splits
        first = self.statistic == "mean"
        yield {self.array: alike}, 1.0 if first else 0.0
        yield {self.array: sharp}, _near(8.0 if first else 0.0, self.of({self.array: sharp}))
        known = (s + 1) / 2 if first else ((s * s - 1) / 12) ** 0.5
        yield {self.array: steps}, _near(known, self.of({self.array: steps}))
        known = 2.0 if first else 0.0
        yield {self.array: mixed}, _near(known, self.of({self.array: mixed}))
        yield {self.array: np.where(np.arange(n) == 0, np.nan, 0.0)}, float("nan")


class ClassifierScore(InceptionScore):
    """The same formula with a small CIFAR-10 network of our own: see `classifier_score.py`.

    Args:
        weights: the network's id; numbers of different weights do not compare.
        samples, splits, statistic: see `InceptionScore`.
    """

    name, array = "classifier_score", "classifier_kl"

    def __init__(
        self,
        weights: str = "unstated",
        samples: int | None = None,
        splits: int = 10,
        statistic: str = "mean",
    ) -> None:
        super().__init__(samples, splits, statistic=statistic)
        self.network = f"CIFAR-10 network of lit_gen, recipe {RECIPE}, {weights}"

    @property
    def convention(self) -> str:
        return ""


def _near(known: float, given: float) -> float:
    """What is given if it is the known answer up to the rounding of exp and log."""
    return given if abs(given - known) < 1e-12 * max(1, abs(known)) else known
