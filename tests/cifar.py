"""A small CIFAR-10 in the format of the official files."""

from pathlib import Path
from typing import Any

import numpy as np

from lit_gen.datamodules import files

NAMES = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]


def write(folder: Path, records: np.ndarray) -> None:
    """Records (6, n, 3073) uint8: those of five training files and of the test's."""
    (folder / "cifar-10-batches-bin").mkdir(parents=True, exist_ok=True)
    for name, part in zip(NAMES, records, strict=True):
        (folder / "cifar-10-batches-bin" / name).write_bytes(part.tobytes())


def describe(edition: dict[str, Any], folder: Path) -> None:
    """Makes these files the ones that an edition in the manifest asks for."""
    place = folder / "cifar-10-batches-bin"
    edition["files"] = {name: {"size": (place / name).stat().st_size} for name in NAMES}
    for group in edition["together"]:
        group["fingerprint"] = files.fingerprint([place / n for n in group["files"]], 3073)
