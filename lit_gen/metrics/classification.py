"""Classification errors, counted: a pure function, and what makes its numbers evidence.

What the harness asks of a metric's class, so that its numbers can be trusted and recomputed:

    id          name and version, and whatever else two numbers must share to be compared
    of          the number from the arrays that a run's predict_step left
    cases       arrays with known answers
    anchor      the number on real files beside its known value; None where the files are not there
    tolerance   by how much packing predictions for a record may move the number

Nothing here imports torch, so that stored records are judged at once. While a model trains,
`lit_gen.metrics.counters.ErrorCount` adds the same number up.
"""

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Arrays = Mapping[str, np.ndarray]
MNIST_NEAREST_MEAN = 978  # by exact integer arithmetic; no example is near a tie


def errors(scores: "np.ndarray | Tensor", target: "np.ndarray | Tensor") -> float:
    """Examples whose highest score is not their target's: sum_n [argmax_k s_nk != y_n].

    Of equal scores the first class counts. nan if a score is not finite.

    Args:
        scores: logits or probabilities, (N, K), compared in float64.
        target: classes, (N,).
    """
    s, y = _float64(scores), _float64(target)
    if s.ndim != 2 or y.shape != s.shape[:1]:
        raise ValueError(f"scores {s.shape} and target {y.shape} are not (N, K) and (N,)")
    return float((s.argmax(1) != y).sum()) if np.isfinite(s).all() else float("nan")


def _float64(x: "np.ndarray | Tensor") -> np.ndarray:
    return x.detach().cpu().double().numpy() if hasattr(x, "detach") else np.asarray(x, float)


class Errors:
    """The errors of a run's predictions, as the harness asks for them.

    Args:
        examples: how many a test set must hold for its number to count; None takes any.
    """

    tolerance = 0.0

    def __init__(self, examples: int | None = None) -> None:
        if examples is not None and (type(examples) is not int or examples < 1):
            raise ValueError(
                f"examples is {examples!r}; it must be a whole number above 0, or null"
            )
        self.examples = examples

    @property
    def id(self) -> str:
        return "errors/1" if self.examples is None else f"errors/1 of {self.examples}"

    def of(self, arrays: Arrays) -> float:
        """Errors of the "logits" or "probabilities" (N, K) against "target" (N,).

        Raises:
            ValueError: an array is missing, or not of its shape.
        """
        scores = arrays.get("logits", arrays.get("probabilities"))
        if scores is None or "target" not in arrays:
            raise ValueError(
                f"it needs logits or probabilities, and target; kept are {', '.join(arrays)}"
            )
        if self.examples not in (None, len(scores)):
            raise ValueError(f"{len(scores)} examples were tested, not {self.examples}")
        return errors(scores, arrays["target"])

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        """Arrays of a run, each with the errors in them; worked out by hand."""
        n = self.examples or 1009
        of_seven = np.arange(n) % 7
        right = np.eye(7)[of_seven]
        wrong = np.eye(7)[(of_seven + (np.arange(n) % 5 == 0)) % 7]  # every fifth: ceil(n / 5)
        yield {"logits": right, "target": of_seven}, 0
        yield {"logits": -right, "target": of_seven}, n
        yield {"logits": wrong, "target": of_seven}, -(-n // 5)
        yield {"probabilities": (wrong + 0.1) / 1.7, "target": of_seven.astype("u1")}, -(-n // 5)
        first = np.zeros((n, 3))  # all equal: class 0, which is right for one target in three
        yield {"logits": first, "target": np.arange(n) % 3}, n - -(-n // 3)
        close = np.tile([1.0, 1.0 + 1e-12], (n, 1))  # one number in float32
        yield {"logits": close, "target": np.ones(n, int)}, 0
        yield {"logits": np.full((n, 3), np.nan), "target": of_seven % 3}, float("nan")

    def anchor(self, files: Mapping[str, Path]) -> tuple[float, float] | None:
        """Errors of MNIST's last 5,000 test images by the nearest mean of the first 5,000's.

        Args:
            files: paths by name.
        """
        names = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
        if not files.keys() >= set(names):
            return None
        x, y = (_idx(files[name], offset) for name, offset in zip(names, (16, 8), strict=True))
        if len(y) != 10_000:
            return None
        x = x.reshape(len(y), -1).astype(float)  # (N, 784)
        means = np.stack([x[:5000][y[:5000] == k].mean(0) for k in range(10)])  # (10, 784)
        scores = x[5000:] @ means.T - (means**2).sum(1) / 2  # largest where the distance is least
        return errors(scores, y[5000:]), MNIST_NEAREST_MEAN


class ErrorPercent(Errors):
    """The same in percent of the examples."""

    tolerance = 1e-3  # adding up batches rounds; of 30,000 examples one is .003

    @property
    def id(self) -> str:
        return "error_percent/1" + (f" of {self.examples}" if self.examples else "")

    def of(self, arrays: Arrays) -> float:
        """
        Raises:
            ValueError: as for `Errors`.
        """
        return 100 * super().of(arrays) / len(arrays["target"])

    def cases(self) -> Iterator[tuple[Arrays, float]]:
        for arrays, known in super().cases():
            yield arrays, 100 * known / len(arrays["target"])

    def anchor(self, files: Mapping[str, Path]) -> tuple[float, float] | None:
        found = super().anchor(files)
        return found and (found[0] / 50, found[1] / 50)  # of 5,000 images


def _idx(path: Path, offset: int) -> np.ndarray:
    content = Path(path).read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return np.frombuffer(content, np.uint8, offset=offset)
