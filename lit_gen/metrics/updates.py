"""Numbers of a curve that has a value for each update of a training, (U,).

What the harness asks of a metric's class stands at the top of lit_gen/metrics/classification.py.
"""

from collections.abc import Iterator, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]


def late(curve: np.ndarray, updates: int | None = None) -> float:
    """Mean over the last updates, or over all."""
    return float(np.asarray(curve, float)[-(updates or 0) :].mean())


def early(curve: np.ndarray, updates: int) -> float:
    """Mean over the first updates."""
    return float(np.asarray(curve, float)[:updates].mean())


def peak(curve: np.ndarray, updates: int) -> float:
    """Largest mean of so many updates in a row, or of all if there are fewer."""
    x = np.asarray(curve, float)
    width = min(updates, len(x))
    return float(np.lib.stride_tricks.sliding_window_view(x, width).mean(-1).max())


def reached(curve: np.ndarray, level: float, by: int) -> float:
    """1 if one of the first updates reaches a level, or 0."""
    return float((np.asarray(curve, float)[:by] >= level).any())


class _OfCurve:
    """What these metrics have in common.

    Args:
        curve: name of the array that a run kept.
        updates: over how many a mean is taken; None (of `Late`) takes all.
        length: updates that the training must have for the number to count; None takes any.
    """

    tolerance = 1e-5  # of a number that was logged as float32
    name: str
    of_all = False  # whether it can be of all updates, however many these are

    def __init__(self, curve: str, updates: int | None = None, length: int | None = None) -> None:
        for what, x in (("updates", updates), ("length", length)):
            absent = x is None and (what == "length" or self.of_all)
            if not absent and (type(x) is not int or x < 1):
                raise ValueError(f"{what} is {x!r}; it must be a whole number above 0")
        self.curve, self.updates, self.length = curve, updates, length

    @property
    def id(self) -> str:
        of = f" of {self.length}" if self.length else ""
        return f"{self.name}/1 {self.curve}, {self.updates or 'all'} updates{of}"

    def _curve(self, arrays: Arrays) -> np.ndarray:
        """
        Raises:
            ValueError: the array is missing, or not of its length.
        """
        if self.curve not in arrays:
            raise ValueError(f"it needs {self.curve}; kept are {', '.join(arrays)}")
        x = arrays[self.curve]
        least = self.updates or 1
        if x.ndim != 1 or len(x) < least or self.length not in (None, len(x)):
            at = self.length or f"at least {least}"
            raise ValueError(f"{self.curve} has the shape {x.shape}; {at} updates are needed")
        return x


class Late(_OfCurve):
    """`late` of a curve that a run kept."""

    name, of_all = "late", True

    def of(self, arrays: Arrays) -> float:
        """
        Raises:
            ValueError: the array is missing, or not of its length.
        """
        return late(self._curve(arrays), self.updates)

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with its number; worked out by hand."""
        n = self.length or (self.updates or 4) + 3
        u = self.updates or n
        yield {self.curve: np.full(n, 2.5)}, 2.5
        yield {self.curve: np.arange(n)}, n - (u + 1) / 2
        yield {self.curve: np.where(np.arange(n) < n - u, 1e9, 0)}, 0
        yield {self.curve: np.where(np.arange(n) == n - u, u, 0)}, 1


class Early(_OfCurve):
    """`early` of a curve that a run kept."""

    name = "early"

    def of(self, arrays: Arrays) -> float:
        """
        Raises:
            ValueError: the array is missing, or not of its length.
        """
        return early(self._curve(arrays), self.updates)

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with its number; worked out by hand."""
        n, u = self.length or self.updates + 3, self.updates
        yield {self.curve: np.full(n, 2.5)}, 2.5
        yield {self.curve: np.arange(n)}, (u - 1) / 2
        yield {self.curve: np.where(np.arange(n) < u, 0, 1e9)}, 0
        yield {self.curve: np.where(np.arange(n) == u - 1, u, 0)}, 1


class Peak(_OfCurve):
    """`peak` of a curve that a run kept."""

    name = "peak"

    def of(self, arrays: Arrays) -> float:
        """
        Raises:
            ValueError: the array is missing, or not of its length.
        """
        return peak(self._curve(arrays), self.updates)

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with its number; worked out by hand."""
        n, u = self.length or self.updates + 3, self.updates
        yield {self.curve: np.full(n, -2.5)}, -2.5
        yield {self.curve: -np.arange(n)}, -(u - 1) / 2
        yield {self.curve: np.where(np.arange(n) < u, 3.0, 0)}, 3
        yield {self.curve: np.where(np.arange(n) == n - 1, u, 0)}, 1


class Reached(_OfCurve):
    """`reached` of a curve that a run kept: of several runs, the mean is the share that did.

    Args:
        curve: name of the array that a run kept.
        updates: within which the level is to be reached.
        level: of the curve.
        length: updates that the training must have for the number to count; None takes any.
    """

    name = "reached"

    def __init__(self, curve: str, updates: int, level: float, length: int | None = None) -> None:
        super().__init__(curve, updates, length)
        if isinstance(level, bool) or not isinstance(level, int | float):
            raise ValueError(f"level is {level!r}; it must be a number")
        self.level = float(level)

    @property
    def id(self) -> str:
        return f"{super().id}, {self.level:g}"

    def of(self, arrays: Arrays) -> float:
        """
        Raises:
            ValueError: the array is missing, or not of its length.
        """
        return reached(self._curve(arrays), self.level, self.updates)

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with its number; worked out by hand."""
        n, u = self.length or self.updates + 3, self.updates
        there, below = self.level, self.level - 1
        yield {self.curve: np.full(n, below)}, 0
        yield {self.curve: np.where(np.arange(n) == u - 1, there, below)}, 1
        yield {self.curve: np.where(np.arange(n) == 0, there + 1, below)}, 1
        if n > u:
            yield {self.curve: np.where(np.arange(n) == u, there, below)}, 0
