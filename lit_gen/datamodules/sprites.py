"""Sprites: small pictures that are rendered here from known factors, every combination once.

The factors are those of dSprites (Matthey et al. 2017, github.com/deepmind/dsprites-dataset):
shape, scale, orientation, x and y. Here they have fewer values, edges are gray, all shapes of a
scale have the same area, and a sprite turns about its centroid. Orientations lie within a quarter
of a turn: a square that turned on would repeat itself, so that one image had several factors.

There are no files: images are rendered anew each time, to the same bytes, whose SHA-256 is the
fingerprint. They come in one random order that is fixed, since a batch of neighbours in the design
would have statistics of its own.
"""

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lit_gen.datamodules import files
from lit_gen.datamodules.images import ImagesInMemory, at_least
from lit_gen.datamodules.passes import FixedBatches, Updates

FACTORS = ("shape", "scale", "orientation", "x", "y")
SHAPES = ("square", "ellipse", "heart")
SIDE = 0.3  # of the largest square, in sides of the picture; the smallest has half of it
REACH = 0.8  # of any sprite from its centre, in sides of the square of its area
SAMPLES = 8  # along each side of a pixel
HEART_AREA, HEART_CENTROID = 3.66198, 0.29348  # of (x² + y² - 1)³ <= x² y³; its y


def covers(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Which points a sprite of area 1 covers that is centred at 0; v points up."""
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) <= 0.5
    if shape == "ellipse":
        return u**2 + (2 * v) ** 2 <= 2 / math.pi  # twice as wide as high
    x, y = u * math.sqrt(HEART_AREA), v * math.sqrt(HEART_AREA) + HEART_CENTROID
    return (x**2 + y**2 - 1) ** 3 <= x**2 * y**3


def step_between(size: int, positions: int) -> int:
    """Pixels from one position to the next, so that the largest sprite stays in the picture.

    Raises:
        ValueError: there is no room for so many.
    """
    room = size * (1 - 2 * REACH * SIDE)
    if (step := int(room // (positions - 1))) < 1:
        raise ValueError(
            f"positions={positions}: pictures of {size} pixels have room for {int(room) + 1}. Use "
            "fewer, or a larger size."
        )
    return step


def render(
    size: int, scales: int, orientations: int, positions: int
) -> tuple[np.ndarray, np.ndarray]:
    """All sprites, white on black, in the order of their factors.

    Positions are whole pixels apart: a sprite looks the same wherever it is.

    Args:
        size: pixels of a side, S.
        scales: sides from half of the largest one to it, equally far apart.
        orientations: O angles of 90°/O each, anticlockwise from 0.
        positions: along x, to the right, and along y, down.

    Returns:
        Images (N, 1, S, S) uint8, and each factor's number from 0 on, (N, 5) int64.

    Raises:
        ValueError: there is no room for so many positions.
        DataError: two sprites look the same.
    """
    step = step_between(size, positions)
    first = size / 2 - step * (positions - 1) / 2  # both coordinates of the first centre
    side = math.ceil(first + REACH * SIDE * size)  # all of the picture that a sprite there covers
    points = (np.arange(side * SAMPLES) + 0.5) / SAMPLES - first
    x, y = points[None, :], -points[:, None]
    sprites = []
    for shape in SHAPES:
        for scale in np.linspace(0.5, 1, scales) * SIDE * size:
            for angle in np.arange(orientations) * (math.pi / 2 / orientations):
                u = (math.cos(angle) * x + math.sin(angle) * y) / scale
                v = (math.cos(angle) * y - math.sin(angle) * x) / scale
                covered = covers(shape, u, v).reshape(side, SAMPLES, side, SAMPLES)
                sprites.append(np.rint(255 * covered.mean((1, 3))).astype(np.uint8))
    if len({sprite.tobytes() for sprite in sprites}) < len(sprites):
        raise files.DataError(
            f"scales={scales}, orientations={orientations}: some sprites of {size} pixels look the "
            "same. Use fewer, or a larger size."
        )
    images = np.zeros((len(sprites), positions, positions, size, size), np.uint8)
    for i in range(positions):
        for j in range(positions):
            right, down = slice(i * step, i * step + side), slice(j * step, j * step + side)
            images[:, i, j, down, right] = sprites
    sizes = len(SHAPES), scales, orientations, positions, positions
    factors = np.indices(sizes).reshape(len(sizes), -1).T
    return images.reshape(-1, 1, size, size), np.ascontiguousarray(factors, np.int64)


class Sprites(ImagesInMemory):
    """Sprites as (B, 1, S, S) floats in [0, 1]; training batches have no factors.

    An evaluation batch is (x, factors), (B, 5) int64, so that a `predict_step` that returns
    {"codes": (B, K), "factors": factors} keeps what `lit_gen.metrics.disentanglement` asks for.
    Such batches have a fixed composition. "test" has the images of "train": the scores are about
    codes of all combinations of factors, not about images that nobody has seen.

    Args:
        size: pixels of a side, S.
        scales, orientations: how many there are.
        positions: along x, and as many along y.
        batch_size: images in a training batch.
        updates: batches in an epoch; None makes it a pass.
        eval_batch_size: images in an evaluation batch.
        seed: of the order in training.

    Attributes:
        factor_sizes: values of each of FACTORS.
        discrete_factors: which of them have no order.

    Raises:
        ValueError: an argument is out of its range.
    """

    epochs: Updates
    discrete_factors = (FACTORS.index("shape"),)

    def __init__(
        self,
        size: int = 28,
        scales: int = 6,
        orientations: int = 8,
        positions: int = 8,
        batch_size: int = 128,
        updates: int | None = None,
        eval_batch_size: int = 128,
        seed: int = 1,
    ) -> None:
        super().__init__("sprites", batch_size, validation=0, limit=None, data_dir=None)
        at_least(
            size=(size, 16),
            scales=(scales, 2),
            orientations=(orientations, 2),
            positions=(positions, 2),
            batch_size=(batch_size, 2),
            updates=(updates, 1),
            eval_batch_size=(eval_batch_size, 2),
            seed=(seed, 0),
        )
        step_between(size, positions)
        self.size, self.updates, self.seed = size, updates, seed
        self.eval_batch_size = eval_batch_size
        self.factor_sizes = len(SHAPES), scales, orientations, positions, positions
        n = math.prod(self.factor_sizes)
        if n % eval_batch_size == 1:
            raise ValueError(
                f"eval_batch_size={eval_batch_size}: {n} images leave a batch of one, which has no "
                "statistics. Use another."
            )

    def prepare_data(self) -> None:
        """Renders the images.

        Raises:
            DataError: two sprites look the same, or there are fewer than a batch needs.
        """
        if self.provided is not None:
            return
        images, factors = render(self.size, *self.factor_sizes[1:4])
        self.check_batch_size(len(images))
        order = np.random.RandomState(0).permutation(len(images))
        self.rendered = images[order], factors[order]
        digest = hashlib.sha256(f"{FACTORS} {self.factor_sizes} {images.shape}".encode())
        for array in self.rendered:
            digest.update(array.astype("<i8") if array.itemsize > 1 else array)
        self.provided = files.DataFiles(
            "sprites", Path(), {}, "rendered", digest.hexdigest(), deviations=()
        )

    def setup(self, stage: str) -> None:
        self.prepare_data()  # each process renders for itself
        super().setup(stage)

    def load(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images and factors."""
        return tuple(torch.from_numpy(array).to(device) for array in self.rendered)

    def arrange(self) -> None:
        images, _ = self.loaded
        self.epochs = Updates(images, self.batch_size, self.seed, self.updates, self.shared)

    def evaluated(self) -> dict[str, int | None]:
        return {}  # whole batches go round; a process may have none

    def sets(self) -> dict[str, Tensor]:
        return dict.fromkeys(("train", "test"), self.loaded[0])

    def factors(self, split: str) -> np.ndarray:
        """The numbers of each factor's values, of all `images`, (N, 5) int64."""
        return dict.fromkeys(("train", "test"), self.loaded[1])[split].cpu().numpy()

    def verify(self) -> list[files.FileStatus]:
        """There are no files."""
        return []

    def train_dataloader(self) -> Updates:
        return self.epochs

    def val_dataloader(self) -> FixedBatches:
        return self.test_dataloader()

    def test_dataloader(self) -> FixedBatches:
        return FixedBatches(*self.loaded, self.eval_batch_size, self.shared)

    def predict_dataloader(self) -> FixedBatches:
        return self.test_dataloader()
