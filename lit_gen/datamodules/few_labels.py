"""CIFAR-10, SVHN and MNIST with a few labels, as Improved GAN's code gives them to convolutions."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lit_gen.datamodules import files
from lit_gen.datamodules.images import FewLabels, read_mnist


class FewLabelledImages(FewLabels):
    """What they have in common: (B, C, H, W) floats about 0.

    Images to initialise on are labelled ones, the first of the first epoch (code).

    Args:
        labels, batch_size, seed, seed_data, validation, limit, data_dir: see
            `lit_gen.datamodules.images.SemiSupervisedMNIST`.
    """

    dataset: str  # its name in the manifest
    eval_batch_size = 200  # what convolutions leave of more would not fit into caches

    def __init__(
        self,
        labels: int = 4000,
        batch_size: int = 100,
        seed: int = 1,
        seed_data: int = 1,
        validation: int = 5000,
        limit: int | None = None,
        data_dir: str | None = None,
    ) -> None:
        super().__init__(
            self.dataset, labels, batch_size, seed, seed_data, validation, limit, data_dir
        )

    def initialization_images(self, n: int) -> Tensor:
        """This process's share of the first epoch's first n labelled images, (n / W, C, H, W)."""
        rank, size = self.shared
        self.epochs.order()  # draws it, and keeps it for the epoch
        first = torch.from_numpy(self.epochs.labeled_order[:n][rank::size])
        return self.form(self.epochs.images[first.to(self.epochs.images.device)])


def scaled_cifar10(pixels: Tensor) -> Tensor:
    """uint8 -> (pixel - 127.5) / 128."""
    return pixels.to(torch.get_default_dtype()).sub_(127.5).div_(128)


def to_tanh(pixels: Tensor) -> Tensor:
    """uint8 -> floats in [-1, 1]."""
    return pixels.to(torch.get_default_dtype()).div_(127.5).sub_(1)


class SemiSupervisedCIFAR10(FewLabelledImages):
    """CIFAR-10, a few of its training images with labels.

    Copies of the files differ in the order of the images. Here these come in the order of their
    records' SHA-256, so that all copies give the same label subsets; the paper's are others.

    Args:
        labels, batch_size, seed, seed_data, validation, limit, data_dir: see
            `lit_gen.datamodules.images.SemiSupervisedMNIST`.
    """

    dataset = "cifar10"
    form = staticmethod(scaled_cifar10)

    def read(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        found = self.provided.files
        pairs = []
        for names in ([f"data_batch_{n}.bin" for n in range(1, 6)], ["test_batch.bin"]):
            records = files.read_records([found[name] for name in names], 1 + 3072)
            images = np.ascontiguousarray(records[:, 1:]).reshape(-1, 3, 32, 32)
            pairs.append((images, records[:, 0]))
        return tuple(pairs)


class SemiSupervisedSVHN(FewLabelledImages):
    """SVHN's cropped digits, 73,257 for training and 26,032 for the test, a few with labels.

    Args:
        labels, batch_size, seed, seed_data, validation, limit, data_dir: see
            `lit_gen.datamodules.images.SemiSupervisedMNIST`.
    """

    dataset = "svhn"
    form = staticmethod(to_tanh)

    def __init__(
        self,
        labels: int = 1000,
        batch_size: int = 100,
        seed: int = 1,
        seed_data: int = 1,
        validation: int = 5000,
        limit: int | None = None,
        data_dir: str | None = None,
    ) -> None:
        super().__init__(labels, batch_size, seed, seed_data, validation, limit, data_dir)

    def read(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        return tuple(read_digits(self.provided.files[f"{s}_32x32.mat"]) for s in ("train", "test"))


class SemiSupervisedMNISTImages(FewLabelledImages):
    """MNIST as (B, 1, 28, 28), a few of its training images with labels.

    Args:
        labels, batch_size, seed, seed_data, validation, limit, data_dir: see
            `lit_gen.datamodules.images.SemiSupervisedMNIST`.
    """

    dataset = "mnist"
    form = staticmethod(to_tanh)

    def read(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        return read_mnist(self.provided.files, (1, 28, 28))


def read_digits(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) uint8 and digits (N,) of one of SVHN's MATLAB files, which call a
    nought 10.

    Raises:
        DataError: these are no such digits.
    """
    from scipy.io import loadmat

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it says about strange files, it also raises
            content = loadmat(path, variable_names=("X", "y"))
        x, y = content["X"], content["y"].ravel()
        fine = x.dtype == np.uint8 and x.shape[:3] == (32, 32, 3) and x.shape[3:] == y.shape
        if not fine or not np.isin(y, np.arange(1, 11)).all():
            raise ValueError(f"X is {x.dtype} {x.shape}, y {y.dtype} {y.shape}")
    except Exception as error:  # whatever a reader of a foreign format raises
        raise files.DataError(
            f"{path} does not hold SVHN's digits ({' '.join(str(error).split())[:120]}). Move it "
            "away, and it is fetched anew."
        ) from error
    return np.ascontiguousarray(x.transpose(3, 2, 0, 1)), (y % 10).astype(np.uint8)
