"""MNIST, CIFAR-10 and SVHN with all their labels: batches (x, y) in memory, x in [0, 1].

A batch is drawn without replacement, in an order that a checkpoint can hold; what is left of an
epoch is dropped.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from lit_gen.datamodules import files
from lit_gen.datamodules.few_labels import SemiSupervisedCIFAR10, SemiSupervisedSVHN
from lit_gen.datamodules.images import (
    ALONE,
    Batches,
    ImagesInMemory,
    Share,
    at_least,
    read_mnist,
    to_unit_interval,
)
from lit_gen.datamodules.unlabeled import Epochs


class LabelledEpochs(Epochs):
    """Training batches (x, y), each (batch_size / W, ...), in a new order each epoch.

    Args:
        images: (N, ...) uint8.
        labels: (N,).
        batch_size: images in a batch, in all W processes together.
        seed: of the order.
        form: makes a batch of pixels what the model gets.
        share: (r, W).
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        seed: int,
        form: Callable[[Tensor], Tensor],
        share: Share = ALONE,
    ) -> None:
        index = torch.arange(len(images), device=images.device)
        super().__init__(
            index, batch_size, seed, shuffle=True, draws=False, unit_interval=False, share=share
        )
        self.pixels, self.labels, self.form = images, labels, form

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in super().__iter__():
            yield self.form(self.pixels[index]), self.labels[index]


class Labelled(ImagesInMemory):
    """Images of ten classes, all with labels; `val` holds the last training images, which nobody
    trains on.

    Args:
        batch_size: images in a training batch.
        validation: images in `val`.
        seed: of the order in training.
        limit: use only so many images of each set, for trying things out.
        data_dir: where the files are looked for first.

    Raises:
        ValueError: an argument is out of its range.
    """

    dataset: str  # its name in the manifest
    form = staticmethod(to_unit_interval)  # makes a batch of pixels what the model gets
    eval_batch_size = 200

    def __init__(
        self,
        batch_size: int = 128,
        validation: int = 0,
        seed: int = 1,
        limit: int | None = None,
        data_dir: str | None = None,
    ) -> None:
        super().__init__(self.dataset, batch_size, validation, limit, data_dir)
        at_least(
            batch_size=(batch_size, 1), validation=(validation, 0), seed=(seed, 0), limit=(limit, 1)
        )
        self.seed = seed

    def read(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """Images (N, ...) uint8 and labels (N,), of training and of test, from what is
        `provided`."""
        raise NotImplementedError

    def load(self, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
        """Images and labels of `train`, `val` and `test`.

        Raises:
            DataError: there are fewer images than are set aside.
        """
        (x, y), test = self.read()
        if self.validation >= len(x):
            raise files.DataError(
                f"validation={self.validation}, but there are {len(x)} images to take them from. "
                "Use a smaller number."
            )
        at = len(x) - self.validation
        sets = {"train": (x[:at], y[:at]), "val": (x[at:], y[at:]), "test": test}
        return {
            split: (
                torch.from_numpy(x[: self.limit]).to(device),
                torch.from_numpy(y[: self.limit].astype(np.int64)).to(device),
            )
            for split, (x, y) in sets.items()
        }

    def arrange(self) -> None:
        x, y = self.loaded["train"]
        self.check_batch_size(len(x))
        self.epochs = LabelledEpochs(x, y, self.batch_size, self.seed, self.form, self.shared)

    def sets(self) -> dict[str, Tensor]:
        return {split: x for split, (x, _) in self.loaded.items()}

    def targets(self, split: str) -> Tensor:
        """The classes of `images`, (N,)."""
        return self.loaded[split][1]

    def train_dataloader(self) -> LabelledEpochs:
        return self.epochs

    def val_dataloader(self) -> Batches:
        return self._batches("val")

    def test_dataloader(self) -> Batches:
        return self._batches("test")

    def predict_dataloader(self) -> Batches:
        return self.test_dataloader()

    def _batches(self, split: str) -> Batches:
        return Batches(*self.loaded[split], self.eval_batch_size, self.shared, self.form)


class LabelledMNIST(Labelled):
    """MNIST as (B, 1, 28, 28) floats in [0, 1]; as in DCGAN's code the last 10,000 training images
    are for validation.

    Args:
        batch_size, validation, seed, limit, data_dir: see `Labelled`.
    """

    dataset = "mnist"

    def __init__(
        self,
        batch_size: int = 128,
        validation: int = 10_000,
        seed: int = 1,
        limit: int | None = None,
        data_dir: str | None = None,
    ) -> None:
        super().__init__(batch_size, validation, seed, limit, data_dir)

    def read(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        return read_mnist(self.provided.files, (1, 28, 28))


class LabelledCIFAR10(Labelled):
    """CIFAR-10 as (B, 3, 32, 32) floats in [0, 1], in the order of its records' SHA-256.

    Args:
        batch_size, validation, seed, limit, data_dir: see `Labelled`.
    """

    dataset = "cifar10"
    read = SemiSupervisedCIFAR10.read


class LabelledSVHN(Labelled):
    """SVHN's cropped digits as (B, 3, 32, 32) floats in [0, 1]: 73,257 for training and 26,032 for
    the test.

    Args:
        batch_size, validation, seed, limit, data_dir: see `Labelled`.
    """

    dataset = "svhn"
    read = SemiSupervisedSVHN.read
