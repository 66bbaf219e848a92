"""Passes and epochs that are not the same, and batches that no number of processes changes."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import pytest
import torch

from lit_gen.datamodules.files import DataError
from lit_gen.datamodules.images import read_mnist
from lit_gen.datamodules.passes import FixedBatches, MNISTInPasses, Updates

NUMBERED = torch.arange(50, dtype=torch.uint8).view(50, 1)


def updates(per_epoch: int | None = 7, **options: object) -> Updates:
    return Updates(NUMBERED, 8, 1, per_epoch, **options)


def stream(loader: Updates) -> Iterator[list[int]]:
    """The images' numbers in each batch, epoch after epoch."""
    while True:
        for x in loader:
            yield (x * 255).round().flatten().int().tolist()


def ready(tiny: Path, **options: object) -> MNISTInPasses:
    data = MNISTInPasses(**{"validation": 200, "batch_size": 40} | options)
    data.prepare_data()
    data.setup("fit")
    return data


def test_passes_go_on_through_epochs() -> None:
    """Six batches of 50 images, in epochs of seven: each pass has 48 different images."""
    batches = list(islice(stream(updates()), 18))

    passes = [list(chain(*batches[at : at + 6])) for at in (0, 6, 12)]
    assert [len(set(each)) for each in passes] == [48, 48, 48]
    assert passes[0] != passes[1]


def test_an_epoch_has_as_many_batches_as_asked_for() -> None:
    loader = updates()

    assert len(loader) == 7
    assert [len(list(loader)) for _ in range(3)] == [7, 7, 7]
    assert [len(list(updates(None))) for _ in range(2)] == [6, 6]
    assert len(list(updates(20))) == 20


def test_the_cut_into_epochs_changes_no_batch() -> None:
    streams = [list(islice(stream(updates(n)), 25)) for n in (None, 1, 7, 100)]

    assert streams.count(streams[0]) == 4


def test_five_thousand_updates_are_those_of_the_reproduction() -> None:
    loader = Updates(torch.zeros(55_000, 1, dtype=torch.uint8), 128, 1, 100)

    assert len(loader.passes) == 429
    assert sum(1 for _ in range(50) for _ in loader) == 5000


@pytest.mark.parametrize("at", [0, 3, 6, 7, 9, 13, 14])
def test_goes_on_from_any_position(at: int) -> None:
    whole, first, second = updates(), updates(), updates()
    expected = list(islice(stream(whole), at + 30))
    list(islice(stream(first), at))

    second.restore(first.order_state())

    assert list(islice(stream(second), 30)) == expected[at:]
    left = 7 - at % 7
    second.restore(first.order_state())
    assert len(list(second)) == (left if at % 7 else 7)


def test_processes_share_each_batch() -> None:
    whole = list(islice(stream(updates()), 10))

    shares = [list(islice(stream(updates(share=(r, 2))), 10)) for r in range(2)]

    for batch, even, odd in zip(whole, *shares, strict=True):
        assert batch[0::2] == even
        assert batch[1::2] == odd


def test_fixed_batches_are_dealt_out_whole() -> None:
    x, y = NUMBERED, torch.arange(50)

    def batches(rank: int, size: int) -> list[list[int]]:
        loader = FixedBatches(x, y, 8, (rank, size))
        found = [labels.tolist() for _, labels in loader]
        assert len(found) == len(loader)
        return found

    whole = batches(0, 1)
    assert whole == [list(range(at, min(at + 8, 50))) for at in range(0, 50, 8)]
    assert [batches(r, 3) for r in range(3)] == [whole[r::3] for r in range(3)]
    assert batches(9, 10) == []


def test_mnist_holds_the_first_images_out(tiny: Path) -> None:
    data = ready(tiny)
    labels = torch.from_numpy(read_mnist(data.provided.files, (1, 28, 28))[0][1]).long()

    fit, val, test = data.val_dataloader()

    assert [len(each.images) for each in (fit, val, test)] == [1000, 200, 300]
    assert data.images("train").shape == (1000, 1, 28, 28)
    assert len(data.targets("train")) == 1000
    assert torch.equal(data.targets("train"), labels[200:])
    assert torch.equal(val.labels, labels[:200])
    x = next(iter(data.train_dataloader()))
    assert x.shape == (40, 1, 28, 28)
    assert 0 <= x.min() <= x.max() <= 1
    assert [len(loader.images) for loader in data.test_dataloader()] == [1000, 300]
    assert len(data.predict_dataloader().images) == 300


def test_mnist_s_order_goes_on(tiny: Path) -> None:
    data, other = ready(tiny, updates=7), ready(tiny, updates=7)
    list(islice(data.train_dataloader(), 4))

    other.load_state_dict(data.state_dict())

    for a, b in zip(data.train_dataloader(), other.train_dataloader(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(next(iter(ready(tiny, seed=2).epochs)), next(iter(ready(tiny).epochs)))


def test_processes_must_share_a_batch_equally(tiny: Path) -> None:
    data = ready(tiny, eval_batch_size=40)

    data.share(1, 4)
    assert next(iter(data.train_dataloader())).shape[0] == 10
    with pytest.raises(ValueError, match="batch_size=40: 3 processes"):
        data.share(0, 3)


@pytest.mark.parametrize(
    ("options", "fewest", "size"),
    [({"limit": 620, "validation": 320}, 300, 4), ({"limit": 620, "validation": 20}, 20, 2),
     ({"limit": 99, "validation": 0}, 99, 2), ({}, 5000, 64)],
)  # fmt: skip
def test_each_process_must_have_a_batch_of_each_set(options: dict, fewest: int, size: int) -> None:
    data = MNISTInPasses(eval_batch_size=100, **options)
    batches = -(-fewest // 100)

    data.share(0, 1)
    said = f"{fewest} images are {batches} batches of eval_batch_size=100, and {size} processes"
    with pytest.raises(ValueError, match=said):
        data.share(0, size)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"batch_size": 2000}, "there are 1000 training images"),
     ({"eval_batch_size": 37}, "1000 images of 'fit' leave a batch of one"),
     ({"limit": 200}, "there are 0 training images")],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_refused(tiny: Path, options: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        ready(tiny, **options)


@pytest.mark.parametrize("name", ["batch_size", "updates", "eval_batch_size"])
def test_arguments_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0"):
        MNISTInPasses(**{name: 0})
