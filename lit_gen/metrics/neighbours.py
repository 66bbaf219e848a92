"""Errors of a 1-nearest-neighbour classifier whose training set is generated (DCGAN, Table 3).

    y(q) = label of argmin_i |q - x_i|^2    over pixels; of equal distances the first x counts

The training set comes in parts and is never held as a whole, so that it may have ten million
images. A part costs one product of matrices in float32, 2 Q N D operations, which finds candidates;
their distances are then computed in float64. Ten million images of 784 pixels against 10,000
queries are 1.6e14 operations: about an hour on one CPU core, minutes on a GPU.

Only `NearestNeighbour` needs torch, so that stored records are judged at once. What the harness
asks of a metric's class stands at the top of lit_gen/metrics/classification.py.
"""

import contextlib
import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lit_gen.metrics.errors import MetricError

if TYPE_CHECKING:
    from torch import Tensor

Arrays = Mapping[str, np.ndarray]
ROUNDING = 1e-5  # of float32 products, relative to the squares of both sides; far above it
ROWS = 64  # queries whose candidates are compared in float64 at a time
PART = 4096  # images of a product
MNIST_WRONG = 121  # by integer arithmetic


class NearestNeighbour:
    """The label of the image nearest to each query, among all that `update` was given.

    Args:
        queries: (Q, ...), floats.

    It compares `PART` images at a time, however few it is given at once.
    """

    def __init__(self, queries: "Tensor") -> None:
        on_mps = queries.device.type == "mps"  # it has no float64
        self.queries = (queries.cpu() if on_mps else queries).flatten(1)
        self.found = self.queries.new_full((len(queries),), -1).long()
        self.distance = self.queries.new_full((len(queries),), float("inf")).double()  # squared
        self.held: list[tuple[Tensor, Tensor]] = []  # not compared yet

    def update(self, images: "Tensor", labels: "Tensor") -> None:
        """
        Args:
            images: (N, ...), as the queries are.
            labels: (N,).

        Raises:
            MetricError: these are other images.
            FloatingPointError: a pixel is not finite.
        """
        x, labels = images.flatten(1).to(self.queries.device), labels.to(self.queries.device)
        if x.shape[1:] != self.queries.shape[1:] or labels.shape != x.shape[:1]:
            raise MetricError(
                f"images {tuple(images.shape)} and labels {tuple(labels.shape)} do not fit to "
                f"queries of {self.queries.shape[1]} pixels: give images of that size, and a label "
                "for each"
            )
        if not x.isfinite().all():
            raise FloatingPointError("images have pixels that are not finite")
        self.held.append((x, labels))
        if sum(len(theirs) for _, theirs in self.held) >= PART:
            self._compare_held()

    @property
    def label(self) -> "Tensor":
        """(Q,) int64; -1 if there were no images."""
        self._compare_held()
        return self.found

    def _compare_held(self) -> None:
        import torch

        if not self.held:
            return
        x, labels = (torch.cat(parts) for parts in zip(*self.held, strict=True))
        self.held = []
        for part, theirs in zip(x.split(PART), labels.split(PART), strict=True):
            self._compare(part, theirs)

    def _compare(self, x: "Tensor", labels: "Tensor") -> None:
        q, y = self.queries.float(), x.float()
        q2, y2 = q.square().sum(1), y.square().sum(1)
        with _whole_float32(q.device.type):
            found = (q @ y.T).mul_(-2).add_(y2)  # less |q|^2, which is the same for all images
        best, slack = found.amin(1), ROUNDING * (q2 + y2.max())
        nearer = best.double() + q2 <= self.distance + slack
        for rows in nearer.nonzero()[:, 0].split(ROWS):
            # all that may be the nearest: many, where the generator repeats itself
            row, place = (found[rows] <= (best + 2 * slack)[rows, None]).nonzero().unbind(1)
            exact = (self.queries[rows[row]].double() - x[place].double()).square().sum(1)
            least = self.distance[rows].scatter_reduce(0, row, exact, "amin")
            equal = exact == least[row]
            first = place.new_full((len(rows),), len(x))
            first.scatter_reduce_(0, row[equal], place[equal], "amin")
            better = least < self.distance[rows]
            self.found[rows[better]] = labels[first[better]]
            self.distance[rows] = least


@contextlib.contextmanager
def _whole_float32(device: str) -> Iterator[None]:
    """Products are whole float32, whatever the training takes instead."""
    import torch

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


class NearestNeighbourErrorPercent:
    """Errors of a run's nearest-neighbour classifier, in percent, as the harness asks for them.

    Args:
        samples: generated images it must have been made of.
        examples: how many a test set must hold for its number to count; None takes any.
    """

    tolerance = 1e-3  # a logged number is float32

    def __init__(self, samples: int, examples: int | None = None) -> None:
        for name, value in (("samples", samples), ("examples", examples)):
            wrong = type(value) is not int or value < 1
            if wrong and not (name == "examples" and value is None):
                raise MetricError(f"{name} is {value!r}; it must be a whole number above 0")
        self.samples, self.examples = samples, examples

    @property
    def id(self) -> str:
        of = f" of {self.examples}" if self.examples else ""
        return f"1nn_error_percent/1{of} by {self.samples} samples"

    def of(self, arrays: Arrays) -> float:
        """
        Args:
            arrays: "predicted" (N, K) and "samples" (N, K): what classifiers of so many samples
                said; "target" (N,).

        Raises:
            MetricError: an array is missing, or has nothing of so many samples or examples.
        """
        if lacking := {"predicted", "samples", "target"} - arrays.keys():
            raise MetricError(
                f"it needs {', '.join(sorted(lacking))}; kept are {', '.join(arrays)}"
            )
        predicted, samples, target = (arrays[k] for k in ("predicted", "samples", "target"))
        if predicted.ndim != 2 or samples.shape != predicted.shape or len(target) != len(predicted):
            raise MetricError(
                f"predicted {predicted.shape}, samples {samples.shape} and target {target.shape} "
                "are not (N, K), (N, K) and (N,)"
            )
        if self.examples not in (None, len(target)):
            raise MetricError(f"{len(target)} examples were tested, not {self.examples}")
        columns = np.flatnonzero((samples == self.samples).all(0))
        if not len(columns):
            raise MetricError(f"no classifier was made of {self.samples} samples in this run")
        return 100 * float((predicted[:, columns[0]] != target).mean())

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with the errors in them; worked out by hand."""
        n = self.examples or 1000
        target = np.arange(n) % 10
        wrong = (target + (np.arange(n) % 4 == 0)) % 10  # every fourth: ceil(n / 4)
        both = {"samples": np.tile([self.samples, self.samples + 1], (n, 1)), "target": target}
        yield both | {"predicted": np.stack([target, wrong], 1)}, 0.0
        yield both | {"predicted": np.stack([wrong, target], 1)}, 100 * (-(-n // 4) / n)
        yield both | {"predicted": np.stack([9 - target, target], 1)}, 100.0

    def anchor(self, files: Mapping[str, Path]) -> tuple[float, float] | None:
        """Errors in percent of MNIST's last 1,000 test images by the first 2,000.

        Args:
            files: paths by name.
        """
        names = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
        if not files.keys() >= set(names):
            return None
        x, y = (_idx(files[name], offset) for name, offset in zip(names, (16, 8), strict=True))
        if len(y) != 10_000:
            return None
        import torch

        pixels = torch.from_numpy(x.reshape(len(y), -1).astype(np.float32) / 255)
        labels = torch.from_numpy(y.astype(np.int64))
        search = NearestNeighbour(pixels[-1000:])
        search.update(pixels[:2000], labels[:2000])
        return float((search.label != labels[-1000:]).sum()) / 10, MNIST_WRONG / 10


def _idx(path: Path, offset: int) -> np.ndarray:
    content = Path(path).read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return np.frombuffer(content, np.uint8, offset=offset)
