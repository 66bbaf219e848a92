"""Categories without names as a classifier: which class each stands for, and how often that errs.

A table counts how many examples of each class fall into each category, (K, C). It is made of
training images, and so is the matching; errors are counted on others. What the harness asks of a
metric's class stands at the top of lit_gen/metrics/classification.py. Nothing here imports torch.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
NONE = -1  # the class of a category that has none; it is never right


def table(category: Any, target: Any, categories: int = 10, classes: int = 10) -> np.ndarray:
    """Examples of each category and class, (K, C) int64.

    Args:
        category: of each example, (N,), from 0 to K - 1.
        target: its class, (N,), from 0 to C - 1.

    Raises:
        ValueError: these are not pairs of such numbers.
    """
    k, y = (np.asarray(x).astype(np.int64) for x in (category, target))
    if k.ndim != 1 or k.shape != y.shape:
        raise ValueError(f"category {k.shape} and target {y.shape} are not (N,) both")
    for name, x, bound in (("category", k, categories), ("target", y, classes)):
        if len(x) and not 0 <= x.min() <= x.max() < bound:
            raise ValueError(
                f"{name} has numbers from {x.min()} to {x.max()}, not 0 to {bound - 1}"
            )
    return np.bincount(k * classes + y, minlength=categories * classes).reshape(-1, classes)


def hungarian(counts: np.ndarray) -> np.ndarray:
    """The matching of categories to classes that is right most often, no class twice: (K,).

    Of more categories than classes some get NONE.
    """
    from scipy.optimize import linear_sum_assignment

    matching = np.full(len(counts), NONE)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    matching[rows] = columns
    return matching


def majority(counts: np.ndarray) -> np.ndarray:
    """Each category's most frequent class, the first of equals, whether or not another has it, too:
    (K,). An empty category gets NONE."""
    return np.where(counts.any(1), counts.argmax(1), NONE)


def owned(counts: np.ndarray) -> bool:
    """Whether each class is the most frequent one of exactly one category, and no category is
    empty."""
    return bool(np.array_equal(np.sort(majority(counts)), np.arange(counts.shape[1])))


def error_percent(counts: np.ndarray, matching: np.ndarray) -> float:
    """Examples that fall into a category matched to another class than theirs, in percent.

    Args:
        counts: of the examples to count errors on, (K, C).
        matching: class of each category, (K,).
    """
    right = sum(counts[k, c] for k, c in enumerate(matching) if c != NONE)
    n = counts.sum()
    return float(100 * (n - right) / n) if n else float("nan")


MATCHINGS = {"hungarian": hungarian, "majority": majority}


class _OfCategories:
    """What these metrics have in common: arrays of a run, and whose statistics normalised them.

    A run keeps `category` and `target` of its test images, (N,), and the table of its training
    images, `training_table` (K, C); `category_running` and `training_table_running` are the same
    with running averages in batch normalisation.

    Args:
        statistics: of batch normalisation: "batch" or "running".
        examples: how many test images there must be for the number to count; None takes any.
    """

    tolerance = 1e-4  # of a number that was logged as float32

    def __init__(self, statistics: str = "batch", examples: int | None = None) -> None:
        if statistics not in ("batch", "running"):
            raise ValueError(f'statistics is {statistics!r}; it is "batch" or "running"')
        if examples is not None and (type(examples) is not int or examples < 1):
            raise ValueError(
                f"examples is {examples!r}; it must be a whole number above 0, or null"
            )
        self.statistics, self.examples = statistics, examples
        self.suffix = "" if statistics == "batch" else "_running"

    def _said(self, name: str) -> str:
        of = f" of {self.examples}" if self.examples else ""
        return f"{name}{of}, {self.statistics} statistics"

    def _tables(self, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """Of training and of test.

        Raises:
            ValueError: an array is missing, or not of its shape.
        """
        names = (f"training_table{self.suffix}", f"category{self.suffix}", "target")
        if lacking := [name for name in names if name not in arrays]:
            raise ValueError(f"it needs {', '.join(lacking)}; kept are {', '.join(arrays)}")
        training, category, target = (np.asarray(arrays[name]) for name in names)
        if training.ndim != 2:
            raise ValueError(f"{names[0]} {training.shape} is not (K, C)")
        if self.examples not in (None, len(target)):
            raise ValueError(f"{len(target)} images were tested, not {self.examples}")
        return training, table(category, target, *training.shape)

    def _arrays(self, training: Any, category: Any, target: Any) -> dict[str, np.ndarray]:
        n = self.examples or 30
        return {
            f"training_table{self.suffix}": np.array(training),
            f"category{self.suffix}": np.resize(category, n),
            "target": np.resize(target, n),
        }


class ClusterError(_OfCategories):
    """Percent of test images whose category is matched to another class.

    Args:
        matching: "hungarian" or "majority", fitted on the training images.
        statistics, examples: see `_OfCategories`.
    """

    def __init__(
        self, matching: str = "hungarian", statistics: str = "batch", examples: int | None = None
    ) -> None:
        super().__init__(statistics, examples)
        if matching not in MATCHINGS:
            raise ValueError(f'matching is {matching!r}; it is "hungarian" or "majority"')
        self.matching = matching

    @property
    def id(self) -> str:
        return self._said(f"cluster_error_percent/1 {self.matching}")

    def of(self, arrays: Arrays) -> float:
        """
        Raises:
            ValueError: an array is missing, or not of its shape.
        """
        training, test = self._tables(arrays)
        return error_percent(test, MATCHINGS[self.matching](training))

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with its error; worked out by hand."""
        n = self.examples or 30
        thirds = [len(range(i, n, 3)) for i in range(3)]  # images of each class in 0 1 2 0 1 2 ...
        turned = [[0, 7, 1], [1, 0, 9], [8, 2, 0]]  # category k holds class k + 1
        yield self._arrays(turned, [2, 0, 1], [0, 1, 2]), 0
        yield self._arrays(turned, [0, 1, 2], [0, 1, 2]), 100
        yield self._arrays(turned, [2, 0, 2], [0, 1, 2]), 100 * thirds[2] / n
        # Class 0 has most of two categories. The second goes to class 1 for the sake of the whole,
        # 9 + 4 > 6 + 0; by majority it is class 0 again.
        merged = [[9, 0, 0], [6, 4, 0], [0, 0, 5]]
        said = {"hungarian": thirds[0], "majority": thirds[1]}
        yield self._arrays(merged, [1, 1, 2], [0, 1, 2]), 100 * said[self.matching] / n
        # Nothing fell into the last category: the Hungarian matching gives it the class left over.
        empty = [[9, 0, 0], [1, 6, 0], [0, 0, 0]]
        said = {"hungarian": 0, "majority": thirds[2]}
        yield self._arrays(empty, [0, 1, 2], [0, 1, 2]), 100 * said[self.matching] / n


class CategoriesOwned(_OfCategories):
    """1 if every class owns one category of the training images (`owned`), else 0.

    Args:
        statistics, examples: see `_OfCategories`.
    """

    @property
    def id(self) -> str:
        return self._said("categories_owned/1")

    def of(self, arrays: Arrays) -> float:
        """
        Raises:
            ValueError: an array is missing, or not of its shape.
        """
        return float(owned(self._tables(arrays)[0]))

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with its answer; worked out by hand."""
        for answer, training in (
            (1, [[0, 7, 1], [1, 0, 9], [8, 2, 0]]),
            (0, [[9, 0, 0], [6, 4, 0], [0, 0, 5]]),  # class 0 twice, class 1 never
            (0, [[9, 0, 0], [1, 6, 0], [0, 0, 0]]),  # one is empty
            (0, [[9, 0, 0], [0, 6, 0], [0, 0, 5], [0, 0, 2]]),  # class 2 twice
        ):
            yield self._arrays(training, [0, 1, 2], [0, 1, 2]), answer
