"""Image data sets that live in memory, on the device that trains, as uint8.

A batch is an index into a tensor there: no worker processes, nothing copied from the host, and the
order of the data is state that a checkpoint can hold.

Where several processes train together (DDP), process r of W gets the examples r, r + W, r + 2W, ...
of every batch: all hold the same order, and a batch has the same examples as with one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from lit_gen.datamodules import files

INITIALIZATION = 500  # images at most, for data-dependent initialisation
Share = tuple[int, int]  # (r, W): which of how many processes this is
ALONE: Share = (0, 1)


def to_unit_interval(pixels: Tensor) -> Tensor:
    """uint8 -> floats in [0, 1], torch's default type."""
    return pixels.to(torch.get_default_dtype()).div_(255)


class Batches:
    """(x, y) in file order, the last batch as small as it falls: for evaluation.

    Args:
        images: (N, ...) uint8.
        labels: (N,), whatever goes with each image.
        batch_size: images in a batch of this process.
        share: (r, W).
        form: makes a batch of pixels what the model gets.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int = 1000,
        share: Share = ALONE,
        form: Callable[[Tensor], Tensor] = to_unit_interval,
    ) -> None:
        rank, size = share
        self.images, self.labels = images[rank::size], labels[rank::size]
        self.batch_size, self.form = batch_size, form

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for at in range(0, len(self.images), self.batch_size):
            now = slice(at, at + self.batch_size)
            yield self.form(self.images[now]), self.labels[now]


def rng_state(rng: np.random.RandomState) -> dict[str, Any]:
    """A generator's state as a checkpoint can hold it; it must have drawn no normals."""
    _, keys, at, *_ = rng.get_state()
    return {"keys": torch.from_numpy(keys.astype(np.int64)), "at": at}


def restore_rng(rng: np.random.RandomState, state: dict[str, Any]) -> None:
    rng.set_state(("MT19937", state["keys"].numpy().astype(np.uint32), state["at"]))


def at_least(**bounds: tuple[int | None, int]) -> None:
    """Checks arguments given as name = (value, least value); None is not given.

    Raises:
        ValueError: one is smaller.
    """
    for name, (value, least) in bounds.items():
        if value is not None and value < least:
            raise ValueError(f"{name}={value}: use {least} or more.")


class ImagesInMemory(LightningDataModule):
    """What these sets have in common: verified files, shares of processes, an order to go on from.

    Args:
        dataset: its name in the manifest.
        batch_size: examples in a batch, in all W processes together.
        validation: images in `val`.
        limit: use only so many images of each set.
        data_dir: where the files are looked for first.

    Attributes:
        loaded: the images on the training device; replicas hold them once.
        epochs: training batches, with `share`, `order_state` and `restore`; there after `setup`.
    """

    def __init__(
        self,
        dataset: str,
        batch_size: int,
        validation: int,
        limit: int | None,
        data_dir: str | None,
    ) -> None:
        super().__init__()
        self.dataset, self.batch_size, self.data_dir = dataset, batch_size, data_dir
        self.validation, self.limit = validation, limit
        self.provided: files.DataFiles | None = None
        self.shared: Share = ALONE
        self.loaded: Any = None

    def load(self, device: torch.device) -> Any:
        """What `loaded` is to be, from the files `provided`."""
        raise NotImplementedError

    def arrange(self) -> None:
        """Makes `epochs` and the evaluated sets from `loaded`."""
        raise NotImplementedError

    def to_share(self) -> dict[str, int]:
        """What processes must be able to share equally."""
        return {"batch_size": self.batch_size}

    def evaluated(self) -> dict[str, int | None]:
        """What bounds the sizes of the evaluated sets, unless it is 0 or None."""
        return {"validation": self.validation, "limit": self.limit}

    def share(self, rank: int, size: int) -> None:
        """Makes this one of `size` processes that train together. (0, 1), at the end, undoes it.

        Raises:
            ValueError: they cannot share a batch equally, or one has nothing to evaluate.
        """
        for what, number in self.to_share().items():
            if number % size:
                raise ValueError(
                    f"{what}={number}: {size} processes cannot share it equally. "
                    f"Use a number of devices that divides {number}."
                )
        for what, number in self.evaluated().items():
            if 0 < (number or 0) < size:
                raise ValueError(
                    f"{what}={number}: {size} processes need an image each to evaluate. "
                    f"Use {size} or more, or fewer devices."
                )
        self.shared = rank, size
        if hasattr(self, "epochs"):
            self.epochs.share = self.shared

    def prepare_data(self) -> None:
        if self.provided is None:
            self.provided = files.provide(self.dataset, self.data_dir)

    def setup(self, stage: str) -> None:
        if hasattr(self, "epochs"):
            return
        if self.provided is None:  # another process of this machine has fetched them
            self.provided = files.provide(self.dataset, self.data_dir, download=False)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if self.loaded is None:
            self.loaded = self.load(device)
        self.arrange()

    def check_batch_size(self, images: int) -> None:
        if images < self.batch_size:
            raise files.DataError(
                f"batch_size={self.batch_size}, but there are {images} training images. "
                "Use a smaller one."
            )

    # Lightning restores a loader's own state in the middle of an epoch but not at its end, so the
    # DataModule carries it.
    def state_dict(self) -> dict[str, Any]:
        return self.epochs.order_state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs.restore(state)

    def images(self, split: str) -> Tensor:
        """All images of "train" or "test" after `setup`, (N, C, H, W) uint8 in the set's order."""
        x = self.sets()[split]
        return x.view(len(x), 1, 28, 28) if x.dim() == 2 else x

    def sets(self) -> dict[str, Tensor]:
        """The same as they are `loaded`: (N, 784) is MNIST's."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the files' content."""
        return self.provided.fingerprint

    @property
    def deviations(self) -> tuple[str, ...]:
        """What these files lack of the data set."""
        return self.provided.deviations

    def verify(self) -> list[files.FileStatus]:
        """Each file as it lies on disk."""
        return files.verify(self.dataset, self.data_dir)


class Replicas(LightningDataModule):
    """K of these: batches have a leading axis of replicas, and the images are held once.

    Args:
        data: the K.
        same: names of their arguments that must be equal.

    Raises:
        ValueError: they are not.
    """

    def __init__(self, data: Sequence[ImagesInMemory], same: Sequence[str]) -> None:
        super().__init__()
        self.data = data
        if len({tuple(getattr(d, name) for name in same) for d in data}) > 1:
            listed = f"{', '.join(same[:-1])} and {same[-1]}"
            raise ValueError(f"{listed} must be equal in all replicas")

    def prepare_data(self) -> None:
        for data in self.data:
            data.prepare_data()

    def setup(self, stage: str) -> None:
        for data in self.data:
            data.trainer, data.loaded = self.trainer, self.data[0].loaded
            data.setup(stage)

    def initialization_images(self, n: int) -> Tensor:
        """Those of each replica, (K, n, ...)."""
        return torch.stack([data.initialization_images(n) for data in self.data])

    def state_dict(self) -> dict[str, Any]:
        return {"replicas": [data.state_dict() for data in self.data]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for data, one in zip(self.data, state["replicas"], strict=True):
            data.load_state_dict(one)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the files' content."""
        return self.data[0].fingerprint

    @property
    def deviations(self) -> tuple[str, ...]:
        """What these files lack of the data set."""
        return self.data[0].deviations


def balanced_subset(labels: np.ndarray, permutation: np.ndarray, per_class: int) -> np.ndarray:
    """Indices of the first `per_class` examples of each class along `permutation`, class by class.

    Raises:
        DataError: a class has fewer examples.
    """
    shuffled = labels[permutation]
    chosen = [permutation[shuffled == c][:per_class] for c in range(10)]
    fewest = min(len(c) for c in chosen)
    if fewest < per_class:
        raise files.DataError(
            f"{per_class} labels per class were asked for, but one class has {fewest} examples. "
            "Ask for fewer labels."
        )
    return np.concatenate(chosen)


class SemiSupervisedEpochs:
    """Batches (x_labeled, y, x_unlabeled, x_matching), each (batch_size / W, ...), resumable.

    Order as in the code of Improved GAN: an epoch is one pass over the unlabelled images, which two
    independently shuffled copies serve; labelled images come in whole permutations of their own,
    as many as an epoch needs. Shuffles accumulate: each epoch permutes the last one's order.

    Args:
        images: (N, ...) uint8.
        labels: (N,), read at `labeled` only.
        labeled: indices of the labelled images.
        batch_size: examples of each kind in a batch, in all W processes together.
        seed: of the order, through NumPy's legacy RandomState.
        share: (r, W).
        form: makes a batch of pixels what the model gets.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        labeled: np.ndarray,
        batch_size: int,
        seed: int,
        share: Share = ALONE,
        form: Callable[[Tensor], Tensor] = to_unit_interval,
    ) -> None:
        self.images, self.labels, self.labeled = images, labels, labeled
        self.batch_size, self.share, self.form = batch_size, share, form
        self.rng = np.random.RandomState(seed)
        self.rng.randint(2**15, size=2)  # the code seeds its noise and its weights here
        self.unlabeled = self.matching = np.arange(len(images))
        self.position = len(self)  # batches given out of this epoch; all: the next one reshuffles

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def shuffle(self) -> None:
        n = len(self.images)
        passes = -(-n // len(self.labeled))
        order = [self.rng.permutation(len(self.labeled)) for _ in range(passes)]
        self.labeled_order = self.labeled[np.concatenate(order)]
        self.unlabeled = self.unlabeled[self.rng.permutation(n)]
        self.matching = self.matching[self.rng.permutation(n)]
        self.position = 0

    def order(self) -> Tensor:
        """Indices of this epoch's images, (batches, 3, B / W): labelled, unlabelled, matching."""
        if self.position >= len(self):
            self.shuffle()
        rank, size = self.share
        whole = np.stack([self.labeled_order[: len(self.images)], self.unlabeled, self.matching])
        batches = whole[:, : len(self) * self.batch_size].reshape(3, len(self), self.batch_size)
        return torch.from_numpy(batches[:, :, rank::size].swapaxes(0, 1).copy())

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        order = self.order().to(self.images.device)
        while self.position < len(self):
            now = order[self.position]
            self.position += 1
            pixels = self.images.index_select(0, now.flatten())
            x_labeled, x_unlabeled, x_matching = self.form(pixels).chunk(3)
            yield x_labeled, self.labels[now[0]], x_unlabeled, x_matching

    def order_state(self) -> dict[str, Any]:
        """Everything the rest of the epoch and all later ones depend on, as tensors and numbers."""
        state = rng_state(self.rng)
        if self.position < len(self):
            state["labeled_order"] = torch.from_numpy(self.labeled_order)
        orders = {"unlabeled": self.unlabeled, "matching": self.matching}
        return (
            state
            | {"position": self.position}
            | {name: torch.from_numpy(order.astype(np.int32)) for name, order in orders.items()}
        )

    def restore(self, state: dict[str, Any]) -> None:
        restore_rng(self.rng, state)
        self.position = state["position"]
        if "labeled_order" in state:
            self.labeled_order = state["labeled_order"].numpy()
        self.unlabeled = state["unlabeled"].numpy().astype(np.int64)
        self.matching = state["matching"].numpy().astype(np.int64)


class FewLabels(ImagesInMemory):
    """Images of ten classes, of which a few of the training images have labels.

    The labels are the first of each class along a permutation by `seed_data`; every training image,
    labelled ones included, serves as unlabelled. Two sets are evaluated after each epoch:
    `val` holds training images whose labels nobody trains on, for selecting without the test set,
    and `test` the test images.

    Args:
        dataset: its name in the manifest.
        labels, batch_size, seed, seed_data, validation, limit, data_dir: see `SemiSupervisedMNIST`.

    Raises:
        ValueError: an argument is out of its range.
    """

    eval_batch_size = 1000
    form = staticmethod(to_unit_interval)  # makes a batch of pixels what the model gets

    def __init__(
        self,
        dataset: str,
        labels: int,
        batch_size: int,
        seed: int,
        seed_data: int,
        validation: int,
        limit: int | None,
        data_dir: str | None,
    ) -> None:
        super().__init__(dataset, batch_size, validation, limit, data_dir)
        if labels % 10 or labels < 10:
            raise ValueError(
                f"labels={labels}: the classes share them equally; use 10, 20, 30, ..."
            )
        at_least(batch_size=(batch_size, 1), validation=(validation, 0), limit=(limit, 1))
        self.labels, self.seed, self.seed_data = labels, seed, seed_data

    def read(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """Images (N, ...) uint8 and labels (N,), of training and of test, from what is
        `provided`."""
        raise NotImplementedError

    def to_share(self) -> dict[str, int]:
        first = min(INITIALIZATION, self.limit or INITIALIZATION)
        return super().to_share() | {"images to initialise on": first}

    def evaluated(self) -> dict[str, int | None]:
        left = self.limit - self.labels if self.limit and self.validation else None
        return super().evaluated() | {"limit - labels": left}

    def load(self, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Images and labels, of training and of test."""
        return [
            (torch.from_numpy(x[: self.limit]).to(device),
             torch.from_numpy(y[: self.limit].astype(np.int64)).to(device))
            for x, y in self.read()
        ]  # fmt: skip

    def arrange(self) -> None:
        (train_x, train_y), (self.test_x, self.test_y) = self.loaded
        targets = train_y.cpu().numpy()
        permutation = np.random.RandomState(self.seed_data).permutation(len(targets))
        self.check_batch_size(len(targets))
        labeled = balanced_subset(targets, permutation, self.labels // 10)
        self.epochs = SemiSupervisedEpochs(
            train_x, train_y, labeled, self.batch_size, self.seed, self.shared, self.form
        )
        self.first_images = train_x[torch.from_numpy(permutation[:INITIALIZATION])]
        others = np.setdiff1d(permutation, labeled, assume_unique=True)
        held_out = others[max(0, len(others) - self.validation) :]
        self.val_x, self.val_y = train_x[held_out], train_y[held_out]

    def sets(self) -> dict[str, Tensor]:
        return {split: x for split, (x, _) in zip(("train", "test"), self.loaded, strict=True)}

    def targets(self, split: str) -> Tensor:
        """The classes of `images`, all of them, (N,): to measure by, not to learn from."""
        return dict(zip(("train", "test"), self.loaded, strict=True))[split][1]

    def initialization_images(self, n: int) -> Tensor:
        """This process's share of the first n <= 500 training images along the permutation,
        (n / W, ...), mostly unlabelled."""
        rank, size = self.shared
        return self.form(self.first_images[:n][rank::size])

    def train_dataloader(self) -> SemiSupervisedEpochs:
        return self.epochs

    def val_dataloader(self) -> list[Batches]:
        return [self._batches(self.val_x, self.val_y), self.test_dataloader()]

    def test_dataloader(self) -> Batches:
        return self._batches(self.test_x, self.test_y)

    def predict_dataloader(self) -> Batches:
        return self.test_dataloader()

    def _batches(self, x: Tensor, y: Tensor) -> Batches:
        return Batches(x, y, self.eval_batch_size, self.shared, self.form)


def read_mnist(
    found: Mapping[str, Path], shape: tuple[int, ...]
) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Images (N, *shape) uint8 and labels (N,), of training and of test."""
    pairs = []
    for split in ("train", "t10k"):
        x = files.read_idx(found[f"{split}-images-idx3-ubyte"])
        y = files.read_idx(found[f"{split}-labels-idx1-ubyte"])
        pairs.append((x.reshape(-1, *shape), y))
    return tuple(pairs)


class SemiSupervisedMNIST(FewLabels):
    """MNIST as (B, 784) floats in [0, 1], a few of its training images with labels.

    Args:
        labels: labelled images in all, the same number of each class.
        batch_size: images of each of the three kinds in a batch.
        seed: of the order of the images.
        seed_data: of the choice of labelled images.
        validation: images in `val`.
        limit: use only so many training and test images, for trying things out.
        data_dir: where the files are looked for first.
    """

    def __init__(
        self,
        labels: int = 100,
        batch_size: int = 100,
        seed: int = 1,
        seed_data: int = 1,
        validation: int = 5000,
        limit: int | None = None,
        data_dir: str | None = None,
    ) -> None:
        super().__init__("mnist", labels, batch_size, seed, seed_data, validation, limit, data_dir)

    @classmethod
    def together(cls, data: Sequence[Self]) -> LightningDataModule:
        """The data of K models that train as one computation."""
        return SemiSupervisedReplicas(data)

    def read(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        return read_mnist(self.provided.files, (784,))


class SemiSupervisedReplicas(Replicas):
    """K of these, each with its labels and its order: batches have a leading axis of replicas.

    The test set, equal for all, comes without that axis.

    Raises:
        ValueError: their sets differ in size.
    """

    def __init__(self, data: Sequence[SemiSupervisedMNIST]) -> None:
        super().__init__(data, ("batch_size", "validation", "limit"))

    def train_dataloader(self) -> "_StackedEpochs":
        return _StackedEpochs([data.epochs for data in self.data])

    def val_dataloader(self) -> list["_StackedBatches | Batches"]:
        val, test = zip(*(data.val_dataloader() for data in self.data), strict=True)
        return [_StackedBatches(val), test[0]]


class _StackedEpochs:
    """Batches of K orders of the same images, (K, batch_size, ...), by one indexing operation."""

    def __init__(self, epochs: Sequence[SemiSupervisedEpochs]) -> None:
        self.epochs = epochs

    def __len__(self) -> int:
        return len(self.epochs[0])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        first = self.epochs[0]
        order = torch.stack([epochs.order() for epochs in self.epochs], 1).to(first.images.device)
        while first.position < len(first):
            now = order[first.position]  # (K, 3, B)
            for epochs in self.epochs:
                epochs.position += 1
            pixels = first.images.index_select(0, now.flatten()).unflatten(0, now.shape)
            x_labeled, x_unlabeled, x_matching = to_unit_interval(pixels).unbind(1)
            yield x_labeled, first.labels[now[:, 0]], x_unlabeled, x_matching


class _StackedBatches:
    """Batches of K loaders of equal sizes, stacked."""

    def __init__(self, loaders: Sequence[Batches]) -> None:
        self.loaders = loaders

    def __len__(self) -> int:
        return len(self.loaders[0])

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for batches in zip(*self.loaders, strict=True):
            yield tuple(torch.stack(parts) for parts in zip(*batches, strict=True))
