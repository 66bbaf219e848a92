"""A small SVHN in the format of the official files."""

from pathlib import Path
from typing import Any

import manifests
import numpy as np
from scipy.io import savemat


def write(folder: Path, edition: dict[str, Any], *, train: int, test: int) -> None:
    """Digits 0 to 9 in turn, as noise with the digit as its first byte, and the edition of a
    manifest that asks for them. Labels are 1 to 10, where 10 stands for the digit 0."""
    rng = np.random.default_rng(3)
    (folder / "svhn").mkdir()
    for part, n in {"train": train, "test": test}.items():
        x = rng.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        x[0, 0, 0] = np.arange(n) % 10
        y = ((np.arange(n) - 1) % 10 + 1).astype(np.uint8)[:, None]
        path = folder / f"svhn/{part}_32x32.mat"
        savemat(path, {"X": x, "y": y}, do_compression=True)
        edition["files"][path.name] = manifests.described(path)
