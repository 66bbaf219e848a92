"""Images without labels, for likelihood models: MNIST, binarised or not, and CIFAR-10.

A training batch is x, an evaluation batch (x, index): by its index a model can draw the same noise
for an image however the images are split into batches and processes.

Every kind of random number has a stream of its own. Order: RandomState(seed). Binarisation of
training images: a torch generator on the training device. Evaluated images, and those to initialise
on: binarised once, by streams of `binarization_seed`.
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, Literal, Self

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from lit_gen.datamodules import files
from lit_gen.datamodules.images import (
    ALONE,
    Batches,
    ImagesInMemory,
    Replicas,
    Share,
    at_least,
    restore_rng,
    rng_state,
    to_unit_interval,
)

VALIDATION = 1_000_000  # what the indices of `val` begin with; those of `test` begin with 0
# RandomState mixes these with `binarization_seed`; `test` has that seed's own stream
VAL_STREAM, INITIAL_STREAM = 1, 2


def binarize(pixels: np.ndarray, seed: int | tuple[int, ...]) -> np.ndarray:
    """Draws each pixel once: 255 with probability gray/255, else 0.

    The draws are made image by image, so that the first images have those that they have in a whole
    set.

    Args:
        pixels: gray, (N, D) uint8.
        seed: of NumPy's legacy RandomState.

    Returns:
        (N, D) uint8.
    """
    rng = np.random.RandomState(seed)
    return np.where(rng.random_sample(pixels.shape) < pixels / 255, 255, 0).astype(np.uint8)


class Epochs:
    """Training batches x, (batch_size / W, ...), resumable. What is left over is dropped.

    Args:
        images: (N, ...) uint8.
        batch_size: images in a batch, in all W processes together.
        seed: of the order, and of what is drawn of the pixels.
        shuffle: a new permutation each epoch; otherwise the images' own order.
        draws: binarise at each look: a pixel is 1 with probability gray/255. The code of Burda et
            al. takes a uniform draw <= gray from an open interval; torch's includes 0, so < here.
        unit_interval: floats in [0, 1] instead of bytes.
        share: (r, W).
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        seed: int,
        shuffle: bool,
        draws: bool,
        unit_interval: bool,
        share: Share = ALONE,
    ) -> None:
        self.images, self.batch_size, self.shuffle = images, batch_size, shuffle
        self.draws, self.unit_interval, self.share = draws, unit_interval, share
        self.rng = np.random.RandomState(seed)
        if draws:
            # not `seed` itself: the model's weights and noise come from the generator that it seeds
            mixed = np.random.SeedSequence((seed, 0)).generate_state(1, np.uint64)
            self.generator = torch.Generator(images.device).manual_seed(int(mixed[0]))
        self.began = rng_state(self.rng)  # before this epoch's permutation
        self.position = len(self)  # batches given out of this epoch; all: the next one begins

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def order(self) -> Tensor:
        """Indices of this epoch's images in all processes, (batches, B)."""
        if self.position >= len(self):
            self.began = rng_state(self.rng)
            self.position = 0
            self.permute()
        return torch.from_numpy(self.permutation[: len(self) * self.batch_size]).view(len(self), -1)

    def permute(self) -> None:
        n = len(self.images)
        self.permutation = self.rng.permutation(n) if self.shuffle else np.arange(n)

    def __iter__(self) -> Iterator[Tensor]:
        for x in _together([self]):
            yield x[0]

    def uniform(self) -> Tensor:
        """This process's share of one draw for each pixel of a whole batch."""
        shape = (self.batch_size, *self.images.shape[1:])
        rank, size = self.share
        drawn = torch.rand(shape, generator=self.generator, device=self.images.device)
        return drawn[rank::size]

    def order_state(self) -> dict[str, Any]:
        """Everything the rest of the epoch and all later ones depend on, as tensors and numbers."""
        now = self.began if self.position < len(self) else rng_state(self.rng)
        state = now | {"position": self.position}
        return state | ({"draws": self.generator.get_state()} if self.draws else {})

    def restore(self, state: dict[str, Any]) -> None:
        restore_rng(self.rng, state)
        self.began, self.position = rng_state(self.rng), state["position"]
        if self.position < len(self):
            self.permute()
        if not self.draws:
            return
        draws = state["draws"].cpu()
        if len(draws) == len(self.generator.get_state()):
            self.generator.set_state(draws)
        else:  # of another kind of device: the same numbers cannot be had, so begin unrelated ones
            digest = sha256(draws.numpy().tobytes()).digest()
            self.generator.manual_seed(int.from_bytes(digest[:8], "big"))


def _together(epochs: Sequence[Epochs]) -> Iterator[Tensor]:
    """Batches of K orders of the same images, (K, B / W, ...), by one indexing operation."""
    first = epochs[0]
    order = torch.stack([each.order() for each in epochs], 1).to(first.images.device)
    while first.position < len(first):
        rank, size = first.share
        now = order[first.position, :, rank::size]  # (K, B / W)
        for each in epochs:
            each.position += 1
        x = first.images.index_select(0, now.flatten()).unflatten(0, now.shape)
        if first.unit_interval:
            x = to_unit_interval(x)
        if first.draws:
            x = (torch.stack([each.uniform() for each in epochs]) < x).to(x.dtype)
        yield x


class _StackedEpochs:
    """Batches of K orders, (K, B, ...)."""

    def __init__(self, epochs: Sequence[Epochs]) -> None:
        self.epochs = epochs

    def __len__(self) -> int:
        return len(self.epochs[0])

    def __iter__(self) -> Iterator[Tensor]:
        return _together(self.epochs)


class _Unlabeled(ImagesInMemory):
    """Training batches x; evaluation batches (x, index) of `val` and `test`.

    A subclass's `load` gives training, validation and test images, each (N, ...) uint8.
    """

    epochs: Epochs
    draws, unit_interval = False, True  # of `Epochs`
    same: Sequence[str] = ("batch_size", "validation", "shuffle", "eval_batch_size", "limit")

    def __init__(
        self,
        dataset: str,
        batch_size: int,
        validation: int,
        shuffle: bool,
        eval_batch_size: int,
        seed: int,
        limit: int | None,
        data_dir: str | None,
    ) -> None:
        super().__init__(dataset, batch_size, validation, limit, data_dir)
        at_least(
            batch_size=(batch_size, 1),
            validation=(validation, 0),
            eval_batch_size=(eval_batch_size, 1),
            seed=(seed, 0),
            limit=(limit, 1),
        )
        self.shuffle, self.eval_batch_size, self.seed = shuffle, eval_batch_size, seed

    @classmethod
    def together(cls, data: Sequence[Self]) -> LightningDataModule:
        """The data of K models that train as one computation."""
        return UnlabeledReplicas(data, cls.same)

    def split(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images but the last `validation`, and these.

        Raises:
            DataError: there are not so many.
        """
        if self.validation > len(images):
            raise files.DataError(
                f"validation={self.validation}, but there are {len(images)} images to take them "
                "from. Use a smaller number."
            )
        at = len(images) - self.validation
        return images[:at], images[at:]

    def arrange(self) -> None:
        self.train_x, self.val_x, self.test_x = self.loaded
        self.check_batch_size(len(self.train_x))
        how = self.shuffle, self.draws, self.unit_interval
        self.epochs = Epochs(self.train_x, self.batch_size, self.seed, *how, self.shared)

    def sets(self) -> dict[str, Tensor]:
        return {"train": self.train_x, "test": self.test_x}

    def form(self, pixels: Tensor) -> Tensor:
        return to_unit_interval(pixels) if self.unit_interval else pixels

    def draw_once(self, pixels: Tensor) -> Tensor:
        """Training images as they are looked at where no training draw may be spent."""
        return pixels

    def initialization_images(self, n: int) -> Tensor:
        """This process's share of the first n training images in file order, (n / W, ...): the same
        in all runs.

        Raises:
            DataError: the processes cannot share them equally.
        """
        rank, size = self.shared
        first = self.train_x[:n]
        if len(first) % size:
            raise files.DataError(
                f"{len(first)} images to initialise on: {size} processes cannot share them "
                f"equally. Use a number of devices that divides {len(first)}."
            )
        return self.form(self.draw_once(first)[rank::size])

    def pixel_means(self) -> Tensor:
        """Mean of each pixel over the training images, before they are binarised: in [0, 1]."""
        total = self.train_x.sum(0, dtype=torch.int64).double()
        return (total / (255 * len(self.train_x))).to(torch.get_default_dtype())

    def train_dataloader(self) -> Epochs:
        return self.epochs

    def val_dataloader(self) -> list[Batches]:
        return [self._batches(self.val_x, VALIDATION), self.test_dataloader()]

    def test_dataloader(self) -> Batches:
        return self._batches(self.test_x, 0)

    def predict_dataloader(self) -> Batches:
        return self.test_dataloader()

    def _batches(self, images: Tensor, offset: int) -> Batches:
        index = torch.arange(offset, offset + len(images), device=images.device)
        return Batches(images, index, self.eval_batch_size, self.shared, self.form)


class UnlabeledReplicas(Replicas):
    """K of these, each with its order and its draws; evaluated sets come without that axis."""

    def pixel_means(self) -> Tensor:
        """Those of each replica, (K, ...)."""
        return torch.stack([data.pixel_means() for data in self.data])

    def train_dataloader(self) -> _StackedEpochs:
        return _StackedEpochs([data.epochs for data in self.data])

    def val_dataloader(self) -> list[Batches]:
        return self.data[0].val_dataloader()


class MNIST(_Unlabeled):
    """MNIST as (B, 784) floats: {0, 1} if binarised, else in [0, 1].

    `val` holds the last training images, which nobody trains on, and `test` the test images. The
    code of Burda et al. (github.com/yburda/iwae) trains on the first 59,600, in file order.

    Args:
        binarization: "dynamic" draws an image's pixels anew each time it is trained on, and once
            for `val` and `test`; "static" is Larochelle's fixed set of 50,000 + 10,000 + 10,000, in
            an order of its own, with `val` out of the middle ones; "gray" takes values as they are.
        batch_size: images in a training batch.
        validation: images in `val`.
        train_on_validation: with "static", those of the middle 10,000 that are not in `val` follow
            the first 50,000.
        shuffle: a new permutation each epoch; otherwise file order.
        eval_batch_size: images in an evaluation batch of one process.
        seed: of the order and of the training images' draws.
        binarization_seed: of the draws for `val`, `test` and the images to initialise on.
        limit: use only so many images of each set, for trying things out.
        data_dir: where the files are looked for first.
    """

    same = (*_Unlabeled.same, "binarization", "train_on_validation", "binarization_seed")

    def __init__(
        self,
        binarization: Literal["dynamic", "static", "gray"] = "dynamic",
        batch_size: int = 20,
        validation: int = 400,
        train_on_validation: bool = False,
        shuffle: bool = False,
        eval_batch_size: int = 100,
        seed: int = 1,
        binarization_seed: int = 123,
        limit: int | None = None,
        data_dir: str | None = None,
    ) -> None:
        if binarization not in ("dynamic", "static", "gray"):
            raise ValueError(f'binarization={binarization!r}: use "dynamic", "static" or "gray".')
        if train_on_validation and binarization != "static":
            raise ValueError(
                f"train_on_validation=True: only the static set has validation images of its own, "
                f"and binarization={binarization!r} trains on all but {validation} anyway. Use "
                'False, or binarization="static".'
            )
        super().__init__(
            "binarized_mnist" if binarization == "static" else "mnist",
            batch_size,
            validation,
            shuffle,
            eval_batch_size,
            seed,
            limit,
            data_dir,
        )
        at_least(binarization_seed=(binarization_seed, 0))
        self.binarization, self.binarization_seed = binarization, binarization_seed
        self.train_on_validation, self.draws = train_on_validation, binarization == "dynamic"

    def load(self, device: torch.device) -> tuple[Tensor, ...]:
        found = self.provided.files
        if self.binarization == "static":
            train, valid, test = (
                files.read_amat(found[f"binarized_mnist_{part}.amat"], 784) * np.uint8(255)
                for part in ("train", "valid", "test")
            )
            rest, val = self.split(valid)
            if self.train_on_validation:
                train = np.concatenate([train, rest])
        else:
            train, test = (
                files.read_idx(found[f"{part}-images-idx3-ubyte"]).reshape(-1, 784)
                for part in ("train", "t10k")
            )
            train, val = self.split(train)
        train, val, test = (images[: self.limit] for images in (train, val, test))
        if self.binarization == "dynamic":
            val = binarize(val, (self.binarization_seed, VAL_STREAM))
            test = binarize(test, self.binarization_seed)
        return tuple(torch.from_numpy(images).to(device) for images in (train, val, test))

    def draw_once(self, pixels: Tensor) -> Tensor:
        if not self.draws:
            return pixels
        drawn = binarize(pixels.cpu().numpy(), (self.binarization_seed, INITIAL_STREAM))
        return torch.from_numpy(drawn).to(pixels.device)


class CIFAR10(_Unlabeled):
    """CIFAR-10 as bytes, (B, 3, 32, 32) uint8, from its binary version.

    Copies of the files differ in the order of the images. Here these come in the order of their
    records' SHA-256, which is as good as a random one, so that all copies make the same run.

    Args:
        batch_size: images in a training batch.
        validation: images in `val`, the last training images in that order.
        shuffle: a new permutation each epoch; otherwise that order.
        eval_batch_size: images in an evaluation batch of one process.
        seed: of the order in training.
        limit: use only so many images of each set, for trying things out.
        data_dir: where the files are looked for first.
    """

    unit_interval = False

    def __init__(
        self,
        batch_size: int = 16,
        validation: int = 0,
        shuffle: bool = True,
        eval_batch_size: int = 100,
        seed: int = 1,
        limit: int | None = None,
        data_dir: str | None = None,
    ) -> None:
        super().__init__(
            "cifar10", batch_size, validation, shuffle, eval_batch_size, seed, limit, data_dir
        )

    def load(self, device: torch.device) -> tuple[Tensor, ...]:
        found = self.provided.files
        train, test = (
            files.read_records([found[name] for name in names], 1 + 3072)[:, 1:]  # less the label
            for names in ([f"data_batch_{n}.bin" for n in range(1, 6)], ["test_batch.bin"])
        )
        parts = (images[: self.limit] for images in (*self.split(train), test))
        return tuple(torch.tensor(x).reshape(-1, 3, 32, 32).to(device) for x in parts)
