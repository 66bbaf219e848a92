"""Features of real images, kept in the user's cache: 50,000 take hours on a CPU, once.

They lie in `features/<key>` of the cache, 1,000 images a file, each file named after the SHA-256 of
its content and written under its final name last. So an extraction that is killed goes on where it
was, and a damaged file is made again. The key names data, weights and resizing.
"""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lit_gen.metrics.errors import MetricError
from lit_gen.metrics.inception import Extractor, pixels
from lit_gen.metrics.weights import cache, held, write

PART = 1000  # images in a file
Progress = Callable[[int, int], None]  # images done, images in all


def folder_of(fingerprint: str, extractor: str) -> Path:
    """Where the features of that data by that extractor lie.

    Args:
        fingerprint: names the images and their order.
        extractor: the extractor's id.
    """
    key = hashlib.sha256(json.dumps([fingerprint, extractor]).encode()).hexdigest()[:32]
    return cache() / "features" / key


def features(
    images: Callable[[], Tensor],
    fingerprint: str,
    extractor: Extractor,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> np.ndarray:
    """Features (N, 2048), float32, of real images, from the cache as far as they are there.

    Args:
        images: gives them, (N, 3, H, W) uint8; not called if all features are there.
        fingerprint: names them and their order.
        device: where the network runs.
        progress: told of images as they are done.

    Raises:
        MetricError: the images are not as `inception.pixels` wants them; or the cache cannot be
            written.
    """
    folder = folder_of(fingerprint, extractor.id)
    if (found := _all(folder)) is not None:  # also from a cache that nobody can write to
        return found
    with held(folder, ".lock"):  # another process waits, and then finds them
        if (found := _all(folder)) is not None:
            return found
        n, shown = _kept_number(folder), pixels(images())
        if n not in (None, len(shown)):
            raise MetricError(
                f"{folder} has features of {n:,} images with the fingerprint {fingerprint}, and "
                f"now there are {len(shown):,}. Give them another fingerprint, or remove the "
                "folder."
            )
        about = {"images": len(shown), "data": fingerprint, "extractor": extractor.id}
        write(folder / "about.json", json.dumps(about, indent=1).encode())
        return np.concatenate(_extracted(folder, shown, extractor.to(device), device, progress))


def keep(folder: Path, i: int, part: np.ndarray) -> None:
    """Stores the features of images 1000 i, 1000 i + 1, ..., float32."""
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(part, np.float32))
    digest = hashlib.sha256(content.getvalue()).hexdigest()[:16]
    write(folder / f"{i:05d}-{digest}.npy", content.getvalue())


def _extracted(
    folder: Path,
    images: Tensor,
    extractor: Extractor,
    device: torch.device | str,
    progress: Progress | None,
) -> list[np.ndarray]:
    parts = []
    for i, start in enumerate(range(0, len(images), PART)):
        batch = images[start : start + PART]
        part = _read(folder, i, len(batch))
        if part is None:
            found = []
            for few in batch.split(100):
                found.append(extractor(few.to(device)).cpu().numpy())
                if progress:
                    progress(start + sum(map(len, found)), len(images))
            part = np.concatenate(found)
            keep(folder, i, part)
        parts.append(part)
    return parts


def _kept_number(folder: Path) -> int | None:
    try:
        return int(json.loads((folder / "about.json").read_text())["images"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _all(folder: Path) -> np.ndarray | None:
    """The features if they are all there."""
    if (n := _kept_number(folder)) is None:
        return None
    parts = []
    for i, start in enumerate(range(0, n, PART)):
        if (part := _read(folder, i, min(PART, n - start))) is None:
            return None
        parts.append(part)
    return np.concatenate(parts)


def _read(folder: Path, i: int, size: int) -> np.ndarray | None:
    """The part if it is whole; a damaged one is removed."""
    for path in folder.glob(f"{i:05d}-*.npy"):
        content = path.read_bytes()
        if path.stem.endswith(hashlib.sha256(content).hexdigest()[:16]):
            part = np.load(io.BytesIO(content))
            if part.ndim == 2 and len(part) == size:
                return part
        path.unlink()
    return None
