"""Likelihoods and their bounds, of what a run kept for each example.

What a certificate's class offers stands at the top of `classification.py`. Nothing here imports
torch; while a model is measured, `lit_gen.metrics.likelihood` computes the same numbers.

A run keeps, for each of N examples x:
    elbo       log p(x, z) - log q(z|x) of one z ~ q(z|x), in nats
    log_px     log 1/K sum_k p(x, z_k) / q(z_k|x), in nats
    samples    K
and of a latent space with U units, in as many parts as it likes: units_sum, units_square (parts, U)
and units_count (parts,), the sums over examples of E_q[u], of its square and of 1.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]
KEPT_STEP = 2.0**-10  # nats: what is kept is rounded to whole steps, which pack well


def mean(values: np.ndarray) -> float:
    """The mean, rounded once: equal whatever the order, and however the values were cut apart.
    nan if a value is not finite."""
    x = np.asarray(values, float)
    return math.fsum(x.tolist()) / len(x) if np.isfinite(x).all() else math.nan


def bits_per_dim(log_px: float, dims: int) -> float:
    """-log_2 p(x) / D, from nats."""
    return -log_px / (dims * math.log(2))


class _Mean:
    """Of a bound over the test set.

    Args:
        examples: how many a test set must hold for its number to count; None takes any.
        samples: K of the importance-weighted bound; None is the bound from one sample, the ELBO.
    """

    name = ""
    tolerance = 1e-4  # a logged number is float32

    def __init__(self, examples: int | None = None, samples: int | None = None) -> None:
        for what, value in (("examples", examples), ("samples", samples)):
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{what} is {value!r}; it must be a whole number above 0, or null")
        self.examples, self.samples = examples, samples

    @property
    def id(self) -> str:
        bound = "elbo" if self.samples is None else f"{self.samples} importance samples"
        of = "" if self.examples is None else f" of {self.examples}"
        return f"{self.name}/1 by {bound}{of}"

    def of(self, arrays: Arrays) -> float:
        """The number.

        Raises:
            ValueError: an array is missing, or is not of the bound this is about.
        """
        name = "elbo" if self.samples is None else "log_px"
        if name not in arrays:
            raise ValueError(f"it needs {name}; kept are {', '.join(arrays)}")
        values = arrays[name]
        if values.ndim != 1 or not len(values):
            raise ValueError(f"{name} is {values.shape}, not (N,)")
        if self.examples not in (None, len(values)):
            raise ValueError(f"{len(values)} examples were tested, not {self.examples}")
        if self.samples is not None:
            drawn = set(np.unique(arrays.get("samples", [])).tolist())
            if drawn != {self.samples}:
                said = ", ".join(map(str, sorted(drawn))) or "an unknown number of"
                raise ValueError(f"{said} samples were drawn for each example, not {self.samples}")
        return self.value(mean(values))

    def value(self, nats: float) -> float:
        return nats

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with the number that follows from them; worked out by hand."""
        n = self.examples or 1009
        drawn = {} if self.samples is None else {"samples": np.full(n, self.samples)}
        name = "elbo" if self.samples is None else "log_px"
        of_seven = np.arange(n) % 7
        low = np.where(of_seven == 0, -100.0, -93.0)  # ceil(n / 7) of them are lower by 7
        yield {name: np.full(n, -90.0), **drawn}, self.value(-90.0)
        yield {name: low, **drawn}, self.value((-93 * n - 7 * -(-n // 7)) / n)
        huge = np.full(n, -1.0)
        huge[:2] = 2.0**80, -(2.0**80)  # they cancel, and must not take the others with them
        yield {name: huge, **drawn}, self.value(-(n - 2) / n)
        nan = np.where(of_seven == 3, np.nan, -90.0)
        yield {name: nan, **drawn}, math.nan


class MeanLogLikelihood(_Mean):
    """Mean of the bound, in nats; higher is better."""

    name = "mean_log_likelihood"


class NegativeLogLikelihood(_Mean):
    """Minus the mean of the bound, in nats; lower is better."""

    name = "nll"

    def value(self, nats: float) -> float:
        return -nats


class BitsPerDim(_Mean):
    """Minus the mean of the bound in bits, per dimension of x; lower is better.

    Args:
        dims: D of x; 3,072 for an image of 32 x 32 in three colours.
    """

    name = "bits_per_dim"
    tolerance = 1e-6

    def __init__(self, dims: int, examples: int | None = None, samples: int | None = None) -> None:
        super().__init__(examples, samples)
        if type(dims) is not int or dims < 1:
            raise ValueError(f"dims is {dims!r}; it must be a whole number above 0")
        self.dims = dims

    @property
    def id(self) -> str:
        return f"{super().id}, {self.dims} dimensions"

    def value(self, nats: float) -> float:
        return bits_per_dim(nats, self.dims)


def activity(arrays: Arrays) -> np.ndarray:
    """Var_x(E_q[u]) of each unit, (U,).

    Raises:
        ValueError: an array is missing.
    """
    names = ("units_sum", "units_square", "units_count")
    if missing := [name for name in names if name not in arrays]:
        raise ValueError(f"it needs {', '.join(missing)}; kept are {', '.join(arrays)}")
    total, square, count = (np.asarray(arrays[name], float).sum(0) for name in names)
    return square / count - (total / count) ** 2


class ActiveUnits:
    """Latent units whose posterior mean varies with x: Var_x(E_q[u]) above a threshold.

    Burda et al. (2015), Sec. 5.2, arXiv:1509.00519.

    Args:
        threshold: of the variance.
        examples: as above.
    """

    tolerance = 0.0

    def __init__(self, threshold: float = 0.01, examples: int | None = None) -> None:
        if not threshold > 0:
            raise ValueError(f"threshold is {threshold!r}; it must be above 0")
        self.threshold, self.examples = threshold, examples

    @property
    def id(self) -> str:
        of = "" if self.examples is None else f" of {self.examples}"
        return f"active_units/1 above {self.threshold:g}{of}"

    def of(self, arrays: Arrays) -> float:
        """Raises:
        ValueError: an array is missing, or of another number of examples.
        """
        variance = activity(arrays)
        tested = round(float(np.sum(arrays["units_count"])))
        if self.examples not in (None, tested):
            raise ValueError(f"{tested} examples were tested, not {self.examples}")
        return float((variance > self.threshold).sum()) if np.isfinite(variance).all() else math.nan

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with the number that follows from them; worked out by hand."""
        n = self.examples or 1000
        # a unit that is +a for half of the examples and -a for the others varies by a^2
        a = np.sqrt(self.threshold) * np.array([0, 0.99, 1.01, 4, 1.01])
        shift = np.array([9.0, 0, 0, 0, 3])  # where the mean lies does not matter
        above = (n // 2) * (shift + a) + (n - n // 2) * (shift - a)
        squares = (n // 2) * (shift + a) ** 2 + (n - n // 2) * (shift - a) ** 2
        whole = {"units_sum": above[None], "units_square": squares[None]}
        yield {**whole, "units_count": np.array([n])}, 3
        parts = {name: np.repeat(array / 4, 4, 0) for name, array in whole.items()}
        yield {**parts, "units_count": np.full(4, n / 4)}, 3
        yield {**whole, "units_count": np.array([n]), "units_sum": above[None] * np.nan}, math.nan
