"""How far two sets of images are apart, from their features: FID, KID, precision and recall.

Pure functions of float64. With features of the 2015 Inception network they are the published
numbers, and those of torch-fidelity 0.4, whose order of draws KID follows.

Sources: FID is Heusel et al. (2017), Eq. 6, arXiv:1706.08500; KID is Binkowski et al. (2018),
Sec. 4, arXiv:1801.01401; precision and recall are Kynkaanniemi et al. (2019), Eqs. 1 and 2,
arXiv:1904.06991.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lit_gen.metrics.errors import MetricError

ROWS = 1000  # of features that are turned into float64, or compared with all others, at a time
SEED = 2020  # torch-fidelity's


class Statistics(NamedTuple):
    """Mean (D,), covariance (D, D) with n - 1 below the line, and number of images n."""

    mean: np.ndarray
    covariance: np.ndarray
    n: int


def statistics(features: np.ndarray) -> Statistics:
    """Of features (N, D).

    Raises:
        MetricError: there are fewer than two, or one is not finite.
    """
    _checked("statistics", features, 2)
    n, dims = features.shape
    mean = sum(part.sum(0) for part in _parts(features)) / n
    products = np.zeros((dims, dims))
    for part in _parts(features):
        centred = part - mean
        products += centred.T @ centred
    return Statistics(mean, products / (n - 1), n)


def fid(ours: Statistics, theirs: Statistics) -> float:
    """|m - m'|^2 + tr C + tr C' - 2 tr (C C')^(1/2).

    The last trace is the sum of the roots of C C' 's eigenvalues, as in torch-fidelity. With fewer
    images than dimensions many of these are 0 up to rounding, and their roots are not: FID comes
    out less by about 1e-6 of itself, as it does with others' programs.

    Raises:
        MetricError: the features have different numbers of dimensions.
    """
    return float(sum(fid_terms(ours, theirs)))


def fid_terms(ours: Statistics, theirs: Statistics) -> np.ndarray:
    """Its four summands, (4,).

    Raises:
        MetricError: as for `fid`.
    """
    if ours.mean.shape != theirs.mean.shape:
        raise MetricError(
            f"features of {len(ours.mean)} and {len(theirs.mean)} dimensions have no FID; "
            "take both from one extractor"
        )
    apart = ours.mean - theirs.mean
    values = np.linalg.eigvals(ours.covariance @ theirs.covariance)
    roots = np.sqrt(values.astype(complex)).real.sum()
    return np.array(
        [apart @ apart, np.trace(ours.covariance), np.trace(theirs.covariance), -2 * roots]
    )


def kid(
    ours: np.ndarray, theirs: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = SEED
) -> tuple[float, float]:
    """Mean and standard deviation (ddof 0) over subsets of the squared MMD, without bias each.

    The kernel is (x.y / D + 1)^3. The draws are torch-fidelity's: first of ours, then of theirs.

    Args:
        ours, theirs: features, (N, D) and (N', D).
        subsets, size: how many, and of how many images of each set.
        seed: of the draws.

    Raises:
        MetricError: there are fewer images than a subset has, or features are not finite.
    """
    found = kid_subsets(ours, theirs, subsets, size, seed)
    return float(found.mean()), float(found.std())


def kid_subsets(
    ours: np.ndarray, theirs: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = SEED
) -> np.ndarray:
    """The squared MMD of each subset, (subsets,). See `kid`."""
    for features in (ours, theirs):
        _checked("KID", features, max(2, size))
    rng = np.random.RandomState(seed)
    found = []
    for _ in range(subsets):
        x = ours[rng.choice(len(ours), size, replace=False)].astype(float)
        y = theirs[rng.choice(len(theirs), size, replace=False)].astype(float)
        found.append(_mmd(x, y))
    return np.array(found)


def kid_of_all(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The squared MMD of all images without bias: what `kid` estimates from subsets.

    Args:
        ours, theirs: features, (N, D) and (N', D).
    """
    for features in (ours, theirs):
        _checked("KID", features, 2)
    return _mmd(ours, theirs)


def _mmd(x: np.ndarray, y: np.ndarray) -> float:
    """mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)."""
    within = sum(
        (_kernel_sum(z, z) - sum(float(_kernel((part**2).sum(1), z)) for part in _parts(z)))
        / (len(z) * (len(z) - 1))
        for z in (x, y)
    )
    return within - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    return sum(float(_kernel(a @ b.T, x)) for a in _parts(x) for b in _parts(y))


def _kernel(products: np.ndarray, of: np.ndarray) -> np.ndarray:
    """The sum of the kernel, from inner products."""
    return ((products / of.shape[1] + 1) ** 3).sum()


def precision_recall(
    ours: np.ndarray, theirs: np.ndarray, neighbours: int = 3
) -> tuple[float, float]:
    """The share of ours that lie among theirs, and the share of theirs that lie among ours.

    An image lies among others if it is no further from one of these than that one's k-th nearest
    neighbour in its own set.

    Args:
        ours, theirs: features of generated and of real images, (N, D) and (N', D).
        neighbours: k.

    Raises:
        MetricError: a set has no k-th neighbour, or features are not finite.
    """
    for features in (ours, theirs):
        _checked("precision and recall", features, neighbours + 1)
    return tuple(
        float(_among(points, others, neighbours).mean())
        for points, others in ((ours, theirs), (theirs, ours))
    )


def _among(points: np.ndarray, others: np.ndarray, neighbours: int) -> np.ndarray:
    """Which of points (N, D) lie among others (N', D): (N,)."""
    reach = np.concatenate(  # the nearest of an image in its own set is itself
        [
            np.partition(_squares(part, others), neighbours, axis=1)[:, neighbours]
            for part in _parts(others)
        ]
    )
    inside = [(_squares(part, others) <= reach).any(1) for part in _parts(points)]
    return np.concatenate(inside)


def _squares(part: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared distances, (n, N')."""
    columns = []
    for other in _parts(others):
        lengths = (part**2).sum(1)[:, None] + (other**2).sum(1)
        columns.append(lengths - 2 * part @ other.T)
    return np.concatenate(columns, 1)


def _parts(features: np.ndarray) -> Iterator[np.ndarray]:
    """A few rows at a time, in float64."""
    for start in range(0, len(features), ROWS):
        yield np.asarray(features[start : start + ROWS], float)


def _checked(what: str, features: np.ndarray, least: int) -> None:
    if features.ndim != 2:
        raise MetricError(f"features are {features.shape}, not (N, D)")
    if len(features) < least:
        raise MetricError(
            f"{what} needs {least:,} images or more of each set, and one has {len(features):,}"
        )
    for start in range(0, len(features), ROWS):
        if not np.isfinite(features[start : start + ROWS]).all():
            raise MetricError(f"{what}: features are not finite from image {start:,} on")
