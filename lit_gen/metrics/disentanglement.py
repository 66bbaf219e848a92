"""Disentanglement scores of codes whose images' factors are known.

Codes are z_nj, (N, K) float, and factors v_nk, (N, F) whole numbers; both have a row for each
image. The scores presume that factors are independent in these rows, as where every combination of
their values occurs once (`lit_gen.datamodules.sprites`).

    MIG               Chen et al. 2018, "Isolating Sources of Disentanglement in VAEs", Sec. 4,
                      Eq. 6. Distributions are histograms, as in Locatello et al. 2019, "Challenging
                      Common Assumptions", and its code, disentanglement_lib: there are no q(z|x)
    SAP               Kumar et al. 2018, "Variational Inference of Disentangled Latent Concepts from
                      Unlabeled Observations", Sec. 3
    factor-VAE score  Kim & Mnih 2018, "Disentangling by Factorising", Sec. 4, with the numbers of
                      votes and images of disentanglement_lib

All are nan where a code is not finite. They cost less than a second for 10,000 images and 12 codes.

A code of categories, as InfoGAN has one, is a column of category numbers, which have no order. SAP
and the factor-VAE score measure distances, and are told by `categorical` which columns these are;
to MIG every code is one of categories.

What the harness asks of a metric's class stands at the top of lit_gen/metrics/classification.py.
Nothing here imports torch, so that stored records are judged at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
PART = 250  # votes at a time


def checked(codes: Any, factors: Any) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) float64 and (N, F) int64.

    Raises:
        ValueError: they are not of these shapes, or a factor has no two values, or is no whole
            number.
    """
    z, v = np.asarray(codes, np.float64), np.asarray(factors)
    if z.ndim != 2 or v.ndim != 2 or len(z) != len(v) or not z.shape[1] or not v.shape[1]:
        raise ValueError(f"codes {z.shape} and factors {v.shape} are not (N, K) and (N, F)")
    if not len(z) or (v != np.floor(v)).any():
        raise ValueError("factors must be the whole numbers of one image or more")
    if len(constant := np.flatnonzero((v == v[0]).all(0))):
        raise ValueError(
            f"factor {constant[0]} has one value in all {len(v)} images, so nothing can depend on "
            "it. Take images of two values or more"
        )
    return z, v.astype(np.int64)


def _columns(name: str, columns: Sequence[int], of: int) -> frozenset[int]:
    """
    Raises:
        ValueError: there are no such columns.
    """
    if odd := [j for j in columns if type(j) is not int or not 0 <= j < of]:
        raise ValueError(f"{name} has {odd[0]!r}; columns are 0 to {of - 1}")
    return frozenset(columns)


def _numbered(x: np.ndarray) -> tuple[np.ndarray, int]:
    """Values as numbers from 0 on, (N,), and how many values there are."""
    values, number = np.unique(x, return_inverse=True)
    return number.reshape(-1), len(values)


def _table(a: np.ndarray, b: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How often a and b are each pair of numbers."""
    return np.bincount(a * shape[1] + b, minlength=shape[0] * shape[1]).reshape(shape)


def _gap(scores: np.ndarray) -> np.ndarray:
    """Of each factor, how far its best code is ahead of the second, (K, F) -> (F,).

    Raises:
        ValueError: there is no second.
    """
    if len(scores) < 2:
        raise ValueError("there is 1 code, and the score compares the best two. Take more")
    second, first = np.sort(scores, 0)[-2:]
    return first - second


# --- MIG


def _entropy(counts: np.ndarray) -> float:
    """Of the distribution that the counts estimate, in bits: powers of two come out exactly."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


def _binned(z: np.ndarray, bins: int) -> tuple[np.ndarray, int]:
    """A code as numbers of bins, and how many there may be: its own values where they are no more
    than `bins`, which is a discrete code, else as many equally wide intervals."""
    number, values = _numbered(z)
    if values <= bins:
        return number, values
    part = (z - z.min()) / (z.max() - z.min())
    return np.minimum((part * bins).astype(np.int64), bins - 1), bins


def mutual_information(codes: Any, factors: Any, bins: int = 20) -> np.ndarray:
    """I(z_j; v_k) / H(v_k) of each code and factor, (K, F), in [0, 1].

    Of independent ones about (B - 1)(V - 1) / 2N nats are left, for B bins and V values.

    Args:
        codes: finite, (N, K).
        factors: (N, F).
        bins: of each code.

    Raises:
        ValueError: see `checked`; or there are fewer images than a table of bins and values has
            cells, so that any code would seem to know every factor.
    """
    z, v = checked(codes, factors)
    binned = [_binned(column, bins) for column in z.T]
    found = np.empty((z.shape[1], v.shape[1]))
    for k, column in enumerate(v.T):
        factor, values = _numbered(column)
        of_factor = _entropy(np.bincount(factor))
        for j, (code, most) in enumerate(binned):
            if len(z) < most * values:
                raise ValueError(
                    f"{len(z)} images are too few for {most} bins of a code and {values} values of "
                    f"a factor: {most * values} are needed. Take more images, or fewer bins"
                )
            joint = _table(code, factor, (most, values))
            shared = _entropy(joint.sum(1)) + of_factor - _entropy(joint)
            found[j, k] = max(shared, 0.0) / of_factor
    return found


def mig(codes: Any, factors: Any, bins: int = 20) -> float:
    """Mutual information gap: mean_k (I(z_j*; v_k) - max_{j != j*} I(z_j; v_k)) / H(v_k), where j*
    is the code that knows v_k best.

    Args:
        codes, factors, bins: see `mutual_information`.

    Returns:
        From 0 to 1, which is one code for each factor that tells it, and no other that does; nan if
        a code is not finite.

    Raises:
        ValueError: see `mutual_information`; or there is 1 code.
    """
    z, v = checked(codes, factors)
    if not np.isfinite(z).all():
        return float("nan")
    return float(_gap(mutual_information(z, v, bins)).mean())


# --- SAP


def _r_squared(z: np.ndarray, y: np.ndarray, categorical: bool) -> float:
    """Of the line through (z, y), or of y's means in each category of z."""
    y = y - y.mean()
    if categorical:
        number, values = _numbered(z)
        means = np.bincount(number, y, values) / np.bincount(number, minlength=values)
        z = means[number]
    z = z - z.mean()
    return float((z * y).mean() ** 2 / ((z * z).mean() * (y * y).mean())) if z.any() else 0.0


def _balanced_accuracy(z: np.ndarray, y: np.ndarray, categorical: bool) -> float:
    """The best mean over classes of how many of each are right, where z says which class it is.

    A category of z says one class. Else C - 1 thresholds part the line, and each part says one
    class, for C classes. The best thresholds are found exactly: of the first i values let B_m(i) be
    the best with m thresholds, and W_c(i) what class c gets if all is called c; then
    B_m(i) = max_c (W_c(i) + max_{h <= i} (B_{m-1}(h) - W_c(h))).
    """
    code, values = _numbered(z)
    classes, c = _numbered(y)
    counts = _table(code, classes, (values, c))
    weights = counts / counts.sum(0) / c  # (values, C); all of it is 1
    if categorical:
        return float(weights.max(1).sum())
    w = np.concatenate([np.zeros((1, c)), weights.cumsum(0)])  # (values + 1, C)
    best = w.max(1)  # no threshold
    for _ in range(c - 1):
        best = (w + np.maximum.accumulate(best[:, None] - w, 0)).max(1)
    return float(best[-1])


def sap(
    codes: Any, factors: Any, discrete: Sequence[int] = (), categorical: Sequence[int] = ()
) -> float:
    """Separated attribute predictability: how much better its best code predicts a factor than the
    second one does, mean over factors.

    The paper's definition, not disentanglement_lib's linear SVM: R² of a line; of a discrete factor
    the accuracy, mean over its values, of the best thresholds on a code. Both are fitted to the
    very images that they are measured on. The paper says "one or more" thresholds: here one less
    than the factor has values. A code without variance has 0. A code of categories predicts the
    factor's mean, or one of its values, in each category.

    Codes that are the factors have 1, but with C - 1 of C for a discrete factor, of which codes
    that vary guess 1 of C.

    Args:
        codes: (N, K).
        factors: (N, F).
        discrete: factors without an order.
        categorical: codes without an order.

    Returns:
        From 0 to 1; nan if a code is not finite.

    Raises:
        ValueError: see `checked`; or there is 1 code, there are no such columns, or there are fewer
            than ten images for each value of a factor.
    """
    z, v = checked(codes, factors)
    discrete = _columns("discrete", discrete, v.shape[1])
    categorical = _columns("categorical", categorical, z.shape[1])
    if not np.isfinite(z).all():
        return float("nan")
    scores = np.zeros((z.shape[1], v.shape[1]))
    for k, y in enumerate(v.T):
        values = _numbered(y)[1]
        if len(y) < 10 * values:
            raise ValueError(
                f"{len(y)} images are too few to predict {values} values of factor {k}: "
                f"{10 * values} are needed. Take more"
            )
        predicted = _balanced_accuracy if k in discrete else _r_squared
        for j in np.flatnonzero((z != z[0]).any(0)):
            scores[j, k] = predicted(z[:, j], y.astype(np.float64), j in categorical)
    return float(_gap(scores).mean())


# --- factor-VAE score


def _gini(counts: np.ndarray) -> np.ndarray:
    """Gini's variance of categories, by their counts (..., C): half the probability that two
    different draws are of different categories."""
    n = counts.sum(-1)
    return (n**2 - (counts**2).sum(-1)) / (2 * n * (n - 1))


def _variances(z: np.ndarray, rows: np.ndarray, sizes: Mapping[int, int]) -> np.ndarray:
    """Of each code in each set of rows, (V, S) -> (V, K).

    Args:
        z: codes, (N, K); those in `sizes` are numbers of categories, of which there are so many.
    """
    parts = []
    for at in range(0, len(rows), PART):
        x = z[rows[at : at + PART]]  # (V, S, K)
        x -= x[:, :1].copy()  # so that equal codes have exactly none
        parts.append(x.var(1, ddof=1))
    found = np.concatenate(parts)
    for j, size in sizes.items():
        x = z[:, j].astype(np.int64)[rows]
        in_vote = np.arange(len(rows))[:, None] * size + x
        counts = np.bincount(in_vote.reshape(-1), minlength=len(rows) * size)
        found[:, j] = _gini(counts.reshape(len(rows), size))
    return found


def factor_vae_score(
    codes: Any,
    factors: Any,
    votes: int = 10_000,
    judged: int = 5_000,
    images: int = 64,
    categorical: Sequence[int] = (),
    least_std: float = 0.0,
) -> float:
    """How often the code that varies least tells which factor was fixed.

    A vote is j = argmin_j Var(z_j) / Var_all(z_j) over images that share one value of one factor,
    drawn with replacement from those that there are; a code stands for the factor that most of its
    votes come from. Each factor gets as many votes as any other, where the paper draws it. The
    draws are those of a fixed seed over rows in the order of their factors, so that a number can be
    had again from the arrays, in whatever order these are.

    A code of categories has Gini's variance instead, half the probability that two are different.

    Args:
        codes: (N, K).
        factors: (N, F).
        votes: that the codes' factors are learned from.
        judged: other votes, whose share of right ones is the score.
        images: of each vote.
        categorical: codes without an order.
        least_std: codes that do not vary more are left out, as the paper leaves out those that
            collapsed to the prior; constant ones are in any case.

    Returns:
        About 1/F by chance, to 1; 0 if no code varies, and nan if one is not finite.

    Raises:
        ValueError: see `checked`; or there are no such columns, or a value of a factor has no two
            images.
    """
    z, v = checked(codes, factors)
    categorical = _columns("categorical", categorical, z.shape[1])
    if not np.isfinite(z).all():
        return float("nan")
    keep = (z != z[0]).any(0) & (z.std(0) > least_std)
    if not keep.any():
        return 0.0
    z, sizes = z.copy(), {}
    for j in categorical:
        z[:, j], sizes[j] = _numbered(z[:, j])
    order = np.lexsort(v.T)
    z, v = z[order], v[order]
    whole = _variances(z, np.arange(len(z))[None], sizes)[0]
    rng = np.random.RandomState(0)
    f = v.shape[1]
    learned, asked = (np.empty((f, z.shape[1]), np.int64) for _ in range(2))
    for k, column in enumerate(v.T):
        by_value = np.argsort(column, kind="stable")
        values, first, count = np.unique(column[by_value], return_index=True, return_counts=True)
        if count.min() < 2:
            raise ValueError(
                f"factor {k} has the value {values[count.argmin()]} in 1 image only, which has no "
                "variance. Take more images"
            )
        for table, n in ((learned, votes), (asked, judged)):
            n = -(-n // f)
            value = rng.randint(len(values), size=(n, 1))
            within = (rng.random_sample((n, images)) * count[value]).astype(np.int64)
            local = _variances(z, by_value[first[value] + within], sizes)
            vote = np.argmin(local[:, keep] / whole[keep], 1)
            table[k] = np.bincount(np.flatnonzero(keep)[vote], minlength=z.shape[1])
    stands_for = learned.argmax(0)
    return float(asked[stands_for, np.arange(z.shape[1])].sum() / asked.sum())


# --- as the harness asks for them


class _OfCodes:
    """What these metrics have in common: a run keeps `codes` (N, K) and `factors` (N, F)."""

    tolerance = 1e-3  # rounding moves single images over the edge of a bin, or turns single votes
    name: str

    def options(self) -> dict[str, Any]:
        """Arguments of the score, by which numbers differ."""
        raise NotImplementedError

    def score(self, codes: Any, factors: Any) -> float:
        raise NotImplementedError

    @property
    def id(self) -> str:
        said = [f"{name} {value}" for name, value in self.options().items()]
        return " ".join([f"{self.name}/1", *([f"({', '.join(said)})"] if said else [])])

    def of(self, arrays: Arrays) -> float:
        """
        Raises:
            ValueError: an array is missing, or it allows no score.
        """
        if lacking := [name for name in ("codes", "factors") if name not in arrays]:
            raise ValueError(f"it needs {' and '.join(lacking)}; kept are {', '.join(arrays)}")
        return self.score(arrays["codes"], arrays["factors"])

    def _design(self, columns: Sequence[int] = ()) -> np.ndarray:
        """Factors of four values, all combinations four times, (N, F): as many as the columns that
        an argument names need, but two or more. Their numbers come out exactly."""
        f = max([1, *columns]) + 1
        return np.tile(np.indices((4,) * f).reshape(f, -1).T, (4, 1))


class MIG(_OfCodes):
    """`mig` of a run's codes.

    Args:
        bins: of each code, 4 or more.
    """

    name = "mutual_information_gap"

    def __init__(self, bins: int = 20) -> None:
        if type(bins) is not int or bins < 4:
            raise ValueError(f"bins is {bins!r}; it must be a whole number, 4 or more")
        self.bins = bins

    def options(self) -> dict[str, Any]:
        return {"bins": self.bins}

    def score(self, codes: Any, factors: Any) -> float:
        return mig(codes, factors, self.bins)

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with its score; worked out by hand, in bits."""
        v = self._design()
        a, b = v.T
        cases = [
            ([a, b], 1),
            ([-3.5 * b, a, np.zeros(len(v))], 1),
            ([a, a], 0),
            ([a, a // 2], (2 - 1) / 2 / 2),  # of a 2 bits and 1; of b nothing
            ([a // 2, a % 2, b], (0 + 2) / 2 / 2),  # 1 bit of a each, 2 bits of b
            ([np.full(len(v), np.nan), b], float("nan")),
        ]
        if self.bins >= 16:
            cases += [([4 * a + b, b % 2], (2 + (2 - 1)) / 2 / 2)]  # the first knows both
        for codes, known in cases:
            yield {"codes": np.stack(codes, 1).astype(np.float32), "factors": v}, known


class SAP(_OfCodes):
    """`sap` of a run's codes.

    Args:
        discrete: factors without an order.
        categorical: codes without an order.
    """

    name = "separated_attribute_predictability"

    def __init__(self, discrete: Sequence[int] = (), categorical: Sequence[int] = ()) -> None:
        self.discrete, self.categorical = (
            _given("discrete", discrete),
            _given("categorical", categorical),
        )

    def options(self) -> dict[str, Any]:
        return {"discrete": self.discrete, "categorical": self.categorical}

    def score(self, codes: Any, factors: Any) -> float:
        return sap(codes, factors, self.discrete, self.categorical)

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with its score; worked out by hand."""
        v = self._design((*self.discrete, *self.categorical))
        n, f = v.shape
        ahead = np.ones(f)  # of what the others know: R² 0, or a guess among four
        ahead[self.discrete] = 3 / 4
        yield {"codes": v.astype(np.float32), "factors": v}, ahead.mean()
        yield {"codes": np.full((n, f), 7.0), "factors": v}, 0
        twice = np.concatenate([v, v], 1)
        yield {"codes": twice, "factors": v}, 0
        # code 0 is the sum of two factors: R² 1/2 with each; its 7 values are right once in 16
        both, mixed = ahead.copy(), v.copy()
        mixed[:, 0], mixed[:, 1] = v[:, 0] + v[:, 1], 0
        guess = 1 / 4 if f > 2 else 0  # of a third code, if there is one
        both[:2] = [7 / 16 - guess if k in self.discrete else 1 / 2 for k in range(2)]
        yield {"codes": mixed, "factors": v}, both.mean()
        # code 0 has other names for the values, by which it and the factor have no correlation
        renamed, named = ahead.copy(), v.copy()
        named[:, 0] = np.array([2, 0, 3, 1])[v[:, 0]]
        renamed[0] = 3 / 4 if 0 in self.discrete else float(0 in self.categorical)
        yield {"codes": named, "factors": v}, renamed.mean()
        alone = np.where(np.arange(f) == 0, v, 0)  # the other codes have no variance
        gained = np.full(f, 0.0)
        gained[self.discrete] = 1 / 4  # a guess, which the others do not have
        gained[0] = 1
        yield {"codes": alone, "factors": v}, gained.mean()
        yield {"codes": np.full((n, f), np.nan), "factors": v}, float("nan")


class FactorVAEScore(_OfCodes):
    """`factor_vae_score` of a run's codes.

    Args:
        categorical: codes without an order.
        least_std: codes that do not vary more are left out.
    """

    name = "factor_vae_score"

    def __init__(self, categorical: Sequence[int] = (), least_std: float = 0.0) -> None:
        self.categorical, self.least_std = _given("categorical", categorical), least_std
        if not 0 <= least_std < float("inf"):
            raise ValueError(f"least_std is {least_std!r}; it must be 0 or more")

    def options(self) -> dict[str, Any]:
        return {"categorical": self.categorical, "least_std": self.least_std}

    def score(self, codes: Any, factors: Any) -> float:
        chosen = {"categorical": self.categorical, "least_std": self.least_std}
        return factor_vae_score(codes, factors, **chosen)

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with its score; worked out by hand."""
        v = self._design((2, *self.categorical))  # of two, the most varying code tells as much
        n, f = v.shape
        large = 2.0 ** np.ceil(np.log2(self.least_std + 1))  # so that codes are not left out
        yield {"codes": large * v, "factors": v}, 1
        # a code of 8 times a factor plus another one, each on a scale of its own
        mixed = (8 * v + np.roll(v, 1, 1)) * 4.0 ** np.arange(f)
        mixed[:, self.categorical] = v[:, self.categorical]
        yield {"codes": -large * mixed, "factors": v}, 1
        one = np.where(np.arange(f) == 1, v, 0)  # whatever is fixed, this code varies least
        yield {"codes": large * one, "factors": v}, 1 / f
        yield {"codes": np.full((n, f), 7.0), "factors": v}, 0
        yield {"codes": np.full((n, f), np.nan), "factors": v}, float("nan")


def _given(name: str, columns: Sequence[int]) -> list[int]:
    """
    Raises:
        ValueError: these are no columns.
    """
    if isinstance(columns, str) or any(type(j) is not int or j < 0 for j in columns):
        raise ValueError(f"{name} is {columns!r}; it must be a list of whole numbers, 0 or more")
    return sorted(set(columns))
