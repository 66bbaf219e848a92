"""What a linear classifier learns from few labels and given features (DCGAN, Secs. 5.1 and 5.2).

The protocol is that of the authors' script for SVHN. Images whose labels may be used are shuffled
once, and the first of them are set aside for validation. An L2-SVM is learned from each of several
random draws of the rest, the same number of each class in each draw; C is chosen by the mean
validation error of other draws. The number is the mean test error over the draws, its +- 1.96
standard deviations over them (ddof 0).

The SVM is scikit-learn's LinearSVC with its defaults: squared hinge, L2, one class against the
rest, and a bias that is regularised like a weight. It needs the extra `features`.

Only learning needs scikit-learn, so that stored records are judged without it, and at once. What
the harness asks of a metric's class stands at the top of lit_gen/metrics/classification.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lit_gen.metrics.errors import MetricError

Arrays = Mapping[str, np.ndarray]
Features = Callable[[np.ndarray], np.ndarray]  # indices of images (N,) -> their features (N, F)
COSTS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)  # code
ORDER_SEED = 42  # code: of the one shuffle
PART = 500  # images whose features are there at a time


class LinearSVMs(NamedTuple):
    """M classifiers of K classes.

    Attributes:
        weights: (M, K, F) float32.
        biases: (M, K) float32.
        cost: C, with which all of them were learned.
        validation_error: of each C that was tried, the mean in percent.
    """

    weights: np.ndarray
    biases: np.ndarray
    cost: float
    validation_error: dict[float, float]

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Classes that each of them gives to features (N, F): (N, M) uint8."""
        m, k, f = self.weights.shape
        scores = features @ self.weights.reshape(m * k, f).T
        return (scores.reshape(-1, m, k) + self.biases).argmax(2).astype(np.uint8)


def linear_svms(
    features: np.ndarray, labels: np.ndarray, costs: Sequence[float]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (K, F) and biases (K,), float32, of an L2-SVM for each C; classes are 0 to K - 1.

    Fewer images than features span a space of so many dimensions, and the weights lie in it: there
    they are looked for, X = R^T Q^T, w = Q w'. A rotation changes nothing of the problem.

    Args:
        features: X, (N, F), as they are: nothing standardises them.
        labels: (N,), all of K > 2 classes among them.
        costs: the C.

    Raises:
        MetricError: scikit-learn is not installed, or a class is missing.
        FloatingPointError: features are not finite.
    """
    svm = _scikit_learn()
    if not np.isfinite(features).all():
        raise FloatingPointError("features are not finite: the network that they are of is broken")
    found = np.unique(labels)
    if len(found) < 3 or not np.array_equal(found, np.arange(len(found))):
        raise MetricError(f"labels are {found.tolist()}; give all of 0 to K - 1, and K > 2")
    x, q = np.asarray(features, float), None
    if len(x) < x.shape[1]:
        q, r = np.linalg.qr(x.T)
        x = np.ascontiguousarray(r.T)
    learned = []
    for cost in costs:
        machine = svm.LinearSVC(C=cost, random_state=0).fit(x, labels)  # solved in a random order
        weights = machine.coef_ if q is None else machine.coef_ @ q.T
        learned.append((weights.astype(np.float32), machine.intercept_.astype(np.float32)))
    return learned


def _scikit_learn() -> Any:
    """sklearn.svm.

    Raises:
        MetricError: it is not installed.
    """
    try:
        from sklearn import svm
    except ImportError as error:
        raise MetricError(
            "SVMs need scikit-learn: pip install 'lit-gen[features]' installs it"
        ) from error
    return svm


def draw_balanced(
    labels: np.ndarray, among: np.ndarray, per_class: int, rng: np.random.RandomState
) -> np.ndarray:
    """Random indices of so many images of each class, class by class.

    Args:
        labels: of all images.
        among: indices to choose from.

    Raises:
        MetricError: a class has fewer.
    """
    shuffled = rng.permutation(among)
    theirs = labels[shuffled]
    chosen = [shuffled[theirs == k][:per_class] for k in range(int(labels.max()) + 1)]
    fewest = min(map(len, chosen))
    if fewest < per_class:
        raise MetricError(
            f"{per_class} labels a class were asked for, but one class has {fewest} images. Ask "
            "for fewer labels, or set fewer images aside for validation"
        )
    return np.concatenate(chosen)


def from_few_labels(
    features: Features,
    labels: np.ndarray,
    per_class: int = 100,
    validation: int = 10_000,
    draws: int = 100,
    trials: int = 10,
    costs: Sequence[float] = COSTS,
) -> LinearSVMs:
    """Learns a classifier from each draw of labelled images.

    Args:
        features: of images, by their indices; asked for those of one draw, or of a part of the
            validation images, at a time.
        labels: of all images whose labels may be used, (N,).
        per_class: labels of each class in a draw.
        validation: images that C is chosen by; none of them is drawn.
        draws: classifiers that are made.
        trials: further draws, by which C is chosen.
        costs: values of C that are tried; of equally good ones the first is taken.

    Raises:
        MetricError: there are not enough images.
    """
    rng = np.random.RandomState(ORDER_SEED)
    held_out, rest = _set_aside(len(labels), validation, rng)
    tried = []  # draw by draw, and for each of them cost by cost
    for _ in range(trials):
        drawn = draw_balanced(labels, rest, per_class, rng)
        tried += linear_svms(features(drawn), labels[drawn], costs)
    wrong = np.zeros(len(tried))
    machines = _together(tried, 0.0, {})
    for at in range(0, validation, PART):
        now = held_out[at : at + PART]
        wrong += (machines.predict(features(now)) != labels[now, None]).sum(0)
    error = 100 * wrong.reshape(trials, len(costs)).mean(0) / validation
    best = costs[int(error.argmin())]

    learned = []
    for _ in range(draws):
        drawn = draw_balanced(labels, rest, per_class, rng)
        learned += linear_svms(features(drawn), labels[drawn], [best])
    return _together(learned, best, dict(zip(costs, error.tolist(), strict=True)))


def check(labels: np.ndarray, per_class: int, validation: int) -> None:
    """Whether `from_few_labels` will be able to draw; to be asked before a long training.

    Raises:
        MetricError: scikit-learn is not installed, or there are not enough images.
    """
    _scikit_learn()
    rng = np.random.RandomState(ORDER_SEED)
    draw_balanced(labels, _set_aside(len(labels), validation, rng)[1], per_class, rng)


def labelled_part(images: int, validation: int) -> np.ndarray:
    """Indices of the images that labels are drawn from, in the order of the shuffle.

    Raises:
        MetricError: none is left.
    """
    return _set_aside(images, validation, np.random.RandomState(ORDER_SEED))[1]


def _set_aside(
    images: int, validation: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the validation images, and of the rest."""
    if not 0 < validation < images:
        raise MetricError(
            f"{validation} validation images are to be set aside of {images}: use a number from 1 "
            "to less than that"
        )
    order = rng.permutation(images)
    return order[:validation], order[validation:]


def _together(
    learned: Sequence[tuple[np.ndarray, ...]], cost: float, errors: dict[float, float]
) -> LinearSVMs:
    weights, biases = (np.stack(parts) for parts in zip(*learned, strict=True))
    return LinearSVMs(weights, biases, cost, errors)


class DrawnErrorPercent:
    """The error over draws of labelled images, in percent, as the harness asks for it.

    Args:
        draws: classifiers that there must be; None takes any number.
        examples: how many a test set must hold for its number to count; None takes any.
        statistic: mean, or spread: 1.96 standard deviations (ddof 0) over the draws.
        array: what holds the predictions.
    """

    tolerance = 1e-3  # a logged number is float32

    def __init__(
        self,
        draws: int | None = None,
        examples: int | None = None,
        statistic: str = "mean",
        array: str = "predicted",
    ) -> None:
        for name, value in (("draws", draws), ("examples", examples)):
            if value is not None and (type(value) is not int or value < 1):
                raise MetricError(
                    f"{name} is {value!r}; it must be a whole number above 0, or null"
                )
        if statistic not in ("mean", "spread"):
            raise MetricError(f"statistic is {statistic!r}; it must be mean or spread")
        self.draws, self.examples = draws, examples
        self.statistic, self.array = statistic, array

    @property
    def id(self) -> str:
        parts = [f"svm_error_percent/1 {self.statistic}"]
        parts += [f"of {self.examples}"] if self.examples else []
        parts += [f"over {self.draws} draws"] if self.draws else []
        return " ".join([*parts, f"in {self.array}"])

    def of(self, arrays: Arrays) -> float:
        """
        Args:
            arrays: its array (N, M), what each of M classifiers said; "target" (N,).

        Raises:
            MetricError: one is missing, or not of that many draws and examples.
        """
        if lacking := {self.array, "target"} - arrays.keys():
            raise MetricError(
                f"it needs {', '.join(sorted(lacking))}; kept are {', '.join(arrays)}"
            )
        predicted, target = arrays[self.array], arrays["target"]
        if predicted.ndim != 2 or target.shape != predicted.shape[:1]:
            raise MetricError(
                f"{self.array} {predicted.shape} and target {target.shape} are not (N, M) and (N,)"
            )
        if self.examples not in (None, len(target)):
            raise MetricError(f"{len(target)} examples were tested, not {self.examples}")
        if self.draws not in (None, predicted.shape[1]):
            raise MetricError(f"there are {predicted.shape[1]} draws, not {self.draws}")
        found = over_draws(predicted, target)
        return found[("mean", "spread").index(self.statistic)]

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with its number; worked out by hand."""
        n, m = self.examples or 1000, self.draws or 8
        target = np.arange(n) % 10
        every = np.arange(n) % 5 == 0  # ceil(n / 5) examples
        part = 100 * (-(-n // 5) / n)
        right = np.repeat(target[:, None], m, 1)
        wrong = (right + every[:, None]) % 10
        some = np.where(np.arange(m) < m // 2, right, wrong)  # the first half of the draws is right
        share = (m - m // 2) / m
        first = self.statistic == "mean"
        known = (
            (0.0, part, part * share) if first else (0, 0, 1.96 * part * (share - share**2) ** 0.5)
        )
        for predicted, answer in zip((right, wrong, some), known, strict=True):
            arrays = {self.array: predicted.astype(np.uint8), "target": target}
            given = self.of(arrays)
            yield arrays, given if abs(given - answer) < 1e-9 else answer  # but for rounding


def over_draws(predicted: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Mean error in percent, and 1.96 standard deviations (ddof 0), over the draws.

    Args:
        predicted: (N, M).
        target: (N,).
    """
    error = 100 * (predicted != target[:, None]).mean(0)
    return float(error.mean()), float(1.96 * error.std())
