"""What a run's metrics are computed from: whole beside a run, small enough for git in a record.

In a record, class probabilities stand in steps of 1/65,535; their largest is that of the original
in every example.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from lit_gen.harness.record import MOST_BYTES, PREDICTIONS, Record, pack, unpack
from lit_gen.harness.spec import UserError
from lit_gen.harness.verdicts.ensembles import softmax

STEPS = 65_535


def load(record: Record, folder: Path | None = None) -> dict[str, np.ndarray] | None:
    """A run's arrays, from its directory or else as packed in its record; None if it kept none.

    Raises:
        UserError: they are damaged.
    """
    if folder and (folder / PREDICTIONS).is_file():
        try:
            with np.load(folder / PREDICTIONS) as arrays:  # never unpickles
                return dict(arrays)
        except Exception as error:  # zip's, zlib's and NumPy's own
            raise UserError(
                f"{folder / PREDICTIONS} cannot be read ({' '.join(str(error).split())[:100]}). "
                "Restore it, or move the folder away."
            ) from error
    if packed := record.result.get("predictions"):
        return unpacked(packed, record.name)
    return None


def packed(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Arrays as texts for a record."""
    return {
        name: {"dtype": a.dtype.str, "shape": list(a.shape), "data": pack(a.tobytes())}
        for name, a in _compact(arrays).items()
    }


def unpacked(packed: dict[str, dict[str, Any]], name: str) -> dict[str, np.ndarray]:
    """Undoes `packed`, but for the steps; `name` is the record's, for messages.

    Raises:
        UserError: a text is damaged, or not as large as its shape says.
    """
    arrays = {}
    for key, a in packed.items():
        try:
            dtype = np.dtype(a["dtype"])
            if dtype.kind not in "biuf":
                raise ValueError(f"the type {a['dtype']} is none of numbers")
            size = math.prod(a["shape"]) * dtype.itemsize
            content = unpack(a["data"], min(size, MOST_BYTES) + 1)
            if len(content) != size:
                raise ValueError(f"{len(content):,} bytes instead of {size:,}")
            arrays[key] = np.frombuffer(content, dtype).reshape(a["shape"])
        except (TypeError, ValueError) as error:
            raise UserError(
                f"The record {name} has damaged predictions ({key}: {error}). Restore it from its "
                "run with `reproduce keep`, or move it away."
            ) from error
    if "probabilities" in arrays and arrays["probabilities"].dtype.kind == "u":
        arrays["probabilities"] = arrays["probabilities"] / STEPS
    return arrays


def _compact(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Class probabilities instead of logits, in steps of 1/65,535, and small integers as bytes."""
    small = {}
    for name, array in arrays.items():
        if name == "logits" and np.isfinite(array).all():
            p = (softmax(array) * STEPS).round().astype("<u2")
            best = array.argmax(1)
            for row in np.flatnonzero(p.argmax(1) != best):  # a tie after rounding
                p[row, best[row]] = p[row].max() + 1
            small["probabilities"] = p
        elif np.issubdtype(array.dtype, np.integer) and len(array) and _is_byte(array):
            small[name] = array.astype("u1")
        else:
            small[name] = array
    return small


def _is_byte(array: np.ndarray) -> bool:
    return array.min() >= 0 and array.max() < 256
