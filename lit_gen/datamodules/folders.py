"""Any folder of images as training data, for data sets that nobody may hand on.

They are read once, by Pillow, into memory: files of all subfolders in the order of their names. A
class for each size would say no more, so size and colours are arguments, and every image must have
them: how to crop and scale is part of an experiment, and is done before.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lit_gen.datamodules import files
from lit_gen.datamodules.images import Batches, ImagesInMemory, at_least
from lit_gen.datamodules.passes import Updates

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = {1: ("L", "1"), 3: ("RGB", "P")}  # Pillow's, by channels; others would need a choice


def image_files(folder: Path) -> list[Path]:
    """Those of all subfolders, by their names' order, which is the same on all machines.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise files.DataError(f"{folder} is no folder. Give one of images with --data.folder.")
    found = [p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
    if not found:
        raise files.DataError(
            f"{folder} has no image ({', '.join(SUFFIXES)}). Give another folder with "
            "--data.folder."
        )
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def read_image(path: Path, size: int, channels: int) -> np.ndarray:
    """One image, (C, size, size) uint8.

    Raises:
        DataError: it cannot be read, or has another size or other colours.
    """
    try:
        with Image.open(path) as image:
            found, mode = image.size, image.mode
            if mode in MODES[channels]:
                pixels = np.asarray(image.convert(MODES[channels][0]))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise files.DataError(
            f"{path} cannot be read as an image ({' '.join(str(error).split())[:100]}). Replace "
            "it, or take it out of the folder."
        ) from error
    if found != (size, size):
        raise files.DataError(
            f"{path} has {found[0]} x {found[1]} pixels; {size} x {size} are needed. Crop and "
            "scale all images before."
        )
    if mode not in MODES[channels]:
        kind = "gray" if channels == 1 else "colour"
        raise files.DataError(
            f"{path} has Pillow's mode {mode!r}; {kind} images are needed "
            f"({' or '.join(MODES[channels])}). Convert all images before."
        )
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


class ImageFolder(ImagesInMemory):
    """Images of a folder as (B, C, size, size) floats in [0, 1], without labels.

    Args:
        folder: of images, with subfolders; a relative one is looked for in the data directory
            (`data_dir`, else LIT_GEN_DATA) first.
        size: pixels of a side.
        channels: C, 1 or 3.
        batch_size: images in a training batch.
        updates: batches in an epoch; None makes it a pass.
        held_out: images that nobody trains on, drawn once for all: "test".
        seed: of the order.
        limit: use only so many files, for trying things out.
        data_dir: see `folder`.
    """

    epochs: Updates

    def __init__(
        self,
        folder: str | None = None,
        size: int = 32,
        channels: int = 3,
        batch_size: int = 128,
        updates: int | None = None,
        held_out: int = 1000,
        seed: int = 1,
        limit: int | None = None,
        data_dir: str | None = None,
    ) -> None:
        super().__init__("folder", batch_size, held_out, limit, data_dir)
        at_least(
            size=(size, 1),
            batch_size=(batch_size, 2),
            updates=(updates, 1),
            held_out=(held_out, 0),
            seed=(seed, 0),
            limit=(limit, 1),
        )
        if channels not in MODES:
            raise ValueError(f"channels={channels}: use 1 or 3.")
        self.folder, self.size, self.channels = folder, size, channels
        self.updates, self.seed = updates, seed

    def prepare_data(self) -> None:
        """Reads the images. Without a folder there is nothing to prepare, and `setup` says so:
        `reproduce data fetch` asks all reproductions.

        Raises:
            DataError: there are too few images, or one is not as the others.
        """
        if self.provided is not None or self.folder is None:
            return
        folder = self._where()
        paths = image_files(folder)[: self.limit]
        least = self.validation + self.batch_size
        if len(paths) < least:
            raise files.DataError(
                f"{folder} has {len(paths)} images, but held_out={self.validation} and "
                f"batch_size={self.batch_size} need {least}. Use smaller ones, or more images."
            )
        # a shuffle of a fixed seed spreads those held out over the folder, whose names may be in an
        # order that means something; each part keeps that order
        order = np.random.RandomState(0).permutation(len(paths))
        kept, out = (np.sort(part) for part in np.split(order, [len(order) - self.validation]))
        pixels = np.empty((len(paths), self.channels, self.size, self.size), np.uint8)
        for image, i in zip(pixels, (*kept, *out), strict=True):
            image[:] = read_image(paths[i], self.size, self.channels)
        digest = hashlib.sha256(str(pixels.shape).encode())
        digest.update(pixels)
        self.pixels = torch.from_numpy(pixels)
        self.provided = files.DataFiles(
            "folder", folder, {}, "folder", digest.hexdigest(), deviations=()
        )

    def _where(self) -> Path:
        root = self.data_dir or os.environ.get("LIT_GEN_DATA")
        within = Path(root, self.folder) if root else None
        return within if within and within.is_dir() else Path(self.folder)

    def setup(self, stage: str) -> None:
        """
        Raises:
            DataError: no folder is given; see `prepare_data`.
        """
        if self.folder is None:
            raise files.DataError(
                f"No folder is given. Give one of {self.size} x {self.size} images with "
                "--data.folder PATH."
            )
        self.prepare_data()  # each process reads for itself
        super().setup(stage)

    def load(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Training images, and those held out."""
        at = len(self.pixels) - self.validation
        return tuple(part.to(device) for part in (self.pixels[:at], self.pixels[at:]))

    def arrange(self) -> None:
        train, _ = self.loaded
        self.epochs = Updates(train, self.batch_size, self.seed, self.updates, self.shared)

    def evaluated(self) -> dict[str, int | None]:
        return {}  # nothing is

    def sets(self) -> dict[str, Tensor]:
        return dict(zip(("train", "test"), self.loaded, strict=True))

    def verify(self) -> list[files.FileStatus]:
        """Whether each image can be read and is as it must be; without a folder there is none.

        Raises:
            DataError: it has no image.
        """
        found: list[files.FileStatus] = []
        if self.folder is None:
            return found
        folder = self._where()
        for path in image_files(folder)[: self.limit]:
            status = "ok"
            try:
                read_image(path, self.size, self.channels)
            except files.DataError as error:
                status = f"corrupt: {error}"
            name = path.relative_to(folder).as_posix()
            found.append(files.FileStatus(name, path, status, "data directory"))
        return found

    def train_dataloader(self) -> Updates:
        return self.epochs

    def predict_dataloader(self) -> Batches:
        """The first training images, (x, number): what a model's pictures may start from."""
        x = self.loaded[0][: self.batch_size]
        return Batches(x, torch.arange(len(x)), self.batch_size, self.shared)
