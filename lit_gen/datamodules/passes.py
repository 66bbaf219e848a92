"""Images in shuffled passes, in epochs of as many updates as one likes.

Some code counts updates and calls a hundred of them an epoch, whatever a pass over the images
takes. Here an epoch may be such a number of batches: a pass goes on in the next epoch, and a new
one begins within an epoch.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lit_gen.datamodules import files
from lit_gen.datamodules.images import (
    ALONE,
    ImagesInMemory,
    Share,
    at_least,
    read_mnist,
    to_unit_interval,
)
from lit_gen.datamodules.unlabeled import Epochs


class Updates:
    """Training batches x, (batch_size / W, ...) floats in [0, 1], resumable.

    Each pass is a new permutation; what is left over at its end is dropped.

    Args:
        images: (N, ...) uint8.
        batch_size: images in a batch, in all W processes together.
        seed: of the order.
        updates: batches in an epoch; None makes it a pass.
        share: (r, W).
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        seed: int,
        updates: int | None = None,
        share: Share = ALONE,
    ) -> None:
        self.passes = Epochs(images, batch_size, seed, True, False, True, share)
        self.updates = updates
        self.given = len(self)  # batches out of this epoch; all: the next one begins

    def __len__(self) -> int:
        return self.updates or len(self.passes)

    @property
    def share(self) -> Share:
        return self.passes.share

    @share.setter
    def share(self, share: Share) -> None:
        self.passes.share = share

    def __iter__(self) -> Iterator[Tensor]:
        if self.given >= len(self):
            self.given = 0
        while True:
            for x in self.passes:  # goes on where the last epoch stopped
                self.given += 1
                yield x
                if self.given >= len(self):
                    return

    def order_state(self) -> dict[str, Any]:
        """Everything the rest of the epoch and all later ones depend on, as tensors and numbers."""
        return {"given": self.given, "passes": self.passes.order_state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.given = state["given"]
        self.passes.restore(state["passes"])


class FixedBatches:
    """(x, y) in file order, in batches that are the same however many processes share them.

    Process r of W gets batches r, r + W, r + 2W, ..., whole ones: what a network with batch
    statistics says of an image depends on those beside it.

    Args:
        images: (N, ...) uint8.
        labels: (N,).
        batch_size: images in a batch; the last one may be smaller.
        share: (r, W).
        form: makes a batch of pixels what the model gets.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        share: Share = ALONE,
        form: Callable[[Tensor], Tensor] = to_unit_interval,
    ) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.share, self.form = share, form

    def __len__(self) -> int:
        return len(self._starts())

    def _starts(self) -> range:
        rank, size = self.share
        return range(rank * self.batch_size, len(self.images), size * self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for at in self._starts():
            now = slice(at, at + self.batch_size)
            yield self.form(self.images[now]), self.labels[now]


class MNISTInPasses(ImagesInMemory):
    """MNIST as (B, 1, 28, 28) floats in [0, 1]; training batches have no labels.

    As in TensorFlow's tutorial the first training images are held out, and the order of the others
    is drawn anew for each pass. What is evaluated comes in batches of a fixed composition, with
    labels: `fit` has the images that are trained on, for matching what a model found to classes,
    `val` those held out, and `test` the test images.

    Args:
        batch_size: images in a training batch.
        updates: batches in an epoch; None makes it a pass.
        validation: images held out.
        eval_batch_size: images in an evaluation batch. 125 divides 55,000, 5,000 and 10,000.
        seed: of the order.
        limit: use only so many training and test images, for trying things out.
        data_dir: where the files are looked for first.
    """

    epochs: Updates

    def __init__(
        self,
        batch_size: int = 128,
        updates: int | None = None,
        validation: int = 5000,
        eval_batch_size: int = 125,
        seed: int = 1,
        limit: int | None = None,
        data_dir: str | None = None,
    ) -> None:
        super().__init__("mnist", batch_size, validation, limit, data_dir)
        at_least(
            batch_size=(batch_size, 2),
            updates=(updates, 1),
            validation=(validation, 0),
            eval_batch_size=(eval_batch_size, 2),
            seed=(seed, 0),
            limit=(limit, 1),
        )
        self.updates, self.eval_batch_size, self.seed = updates, eval_batch_size, seed

    def load(self, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Images and labels, of training, held-out ones included, and of test."""
        return [
            (torch.from_numpy(x[: self.limit]).to(device),
             torch.from_numpy(y[: self.limit]).to(device, torch.int64))
            for x, y in read_mnist(self.provided.files, (1, 28, 28))
        ]  # fmt: skip

    def arrange(self) -> None:
        (x, y), test = self.loaded
        at = self.validation
        self.parts = {"fit": (x[at:], y[at:]), "val": (x[:at], y[:at]), "test": test}
        self.check_batch_size(len(x[at:]))
        for name, (images, _) in self.parts.items():
            if len(images) % self.eval_batch_size == 1:
                raise files.DataError(
                    f"{len(images)} images of {name!r} leave a batch of one, which has no "
                    f"statistics. Use another eval_batch_size than {self.eval_batch_size}."
                )
        self.epochs = Updates(x[at:], self.batch_size, self.seed, self.updates, self.shared)

    def evaluated(self) -> dict[str, int | None]:
        return {}  # whole batches go round, see `share`

    def share(self, rank: int, size: int) -> None:
        """See `ImagesInMemory.share`.

        Raises:
            ValueError: they cannot share a batch equally, or one has no batch to evaluate.
        """
        sizes = [self.validation] if self.validation else []
        sizes += [10_000] if self.limit is None else [self.limit, self.limit - self.validation]
        fewest = min(sizes)  # without a limit, training has more
        batches = -(-fewest // self.eval_batch_size)
        if batches < size:
            raise ValueError(
                f"{fewest} images are {batches} batches of eval_batch_size={self.eval_batch_size}, "
                f"and {size} processes need one each. Use more images, smaller batches or fewer "
                "devices."
            )
        super().share(rank, size)

    def sets(self) -> dict[str, Tensor]:
        return {"train": self.parts["fit"][0], "test": self.parts["test"][0]}

    def targets(self, split: str) -> Tensor:
        """The classes of `images`, all of them, (N,): to measure by, not to learn from."""
        return self.parts["fit" if split == "train" else split][1]

    def train_dataloader(self) -> Updates:
        return self.epochs

    def val_dataloader(self) -> list[FixedBatches]:
        """Of `fit`, `val` and `test`."""
        return [self._batches(name) for name in self.parts]

    def test_dataloader(self) -> list[FixedBatches]:
        """Of `fit` and `test`."""
        return [self._batches("fit"), self._batches("test")]

    def predict_dataloader(self) -> FixedBatches:
        return self._batches("test")

    def _batches(self, name: str) -> FixedBatches:
        return FixedBatches(*self.parts[name], self.eval_batch_size, self.shared)
