"""MNIST, CIFAR-10 and SVHN with all their labels: pairs stay pairs, in an order to go on from."""

from pathlib import Path

import cifar
import manifests
import numpy as np
import pytest
import svhn
import torch

from lit_gen.datamodules import files
from lit_gen.datamodules.labelled import Labelled, LabelledCIFAR10, LabelledMNIST, LabelledSVHN
from lit_gen.datamodules.unlabeled import MNIST


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny CIFAR-10 and a tiny SVHN; an image's first pixel is its class."""
    rng = np.random.default_rng(3)
    manifest = manifests.shipped()
    records = rng.integers(0, 256, (6, 40, 3073), dtype=np.uint8)
    records[:, :, 0] = records[:, :, 1] = np.arange(40) % 10
    cifar.write(tmp_path, records)
    cifar.describe(manifest["cifar10"]["editions"][0], tmp_path)
    svhn.write(tmp_path, manifest["svhn"]["editions"][0], train=70, test=30)
    manifests.use(manifest, tmp_path, monkeypatch)


def ready(data: Labelled) -> Labelled:
    data.prepare_data()
    data.setup("fit")
    return data


def mnist(**changes: object) -> LabelledMNIST:
    return ready(LabelledMNIST(**{"batch_size": 100, "validation": 200} | changes))


def pixels(x: torch.Tensor) -> torch.Tensor:
    return (255 * x).round().to(torch.uint8)


@pytest.mark.parametrize(
    ("kind", "train", "test"), [(LabelledCIFAR10, 200, 40), (LabelledSVHN, 70, 30)]
)
def test_images_keep_their_labels_wherever_they_go(
    kind: type[Labelled], train: int, test: int, colours: None
) -> None:
    data = ready(kind(batch_size=10, validation=20))
    batches = [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]

    assert [len(data.images(s)) for s in ("train", "val", "test")] == [train - 20, 20, test]
    for x, y in batches:
        assert (x.dtype, x.shape[1:]) == (torch.float32, (3, 32, 32))
        assert 0 <= x.min() < x.max() <= 1
        assert torch.equal(pixels(x)[:, 0, 0, 0].long(), y)
    for split in ("train", "test"):
        assert torch.equal(data.images(split)[:, 0, 0, 0].long(), data.targets(split))


def test_mnist_s_validation_images_are_the_last_ones(tiny: Path) -> None:
    data = mnist()
    whole = MNIST("gray", batch_size=100, validation=0)
    whole.prepare_data()
    whole.setup("fit")

    assert torch.equal(data.images("train"), whole.images("train")[:1000])
    assert torch.equal(data.images("val"), whole.images("train")[1000:])
    x, y = next(iter(data.val_dataloader()))
    assert torch.equal(pixels(x), data.images("val"))
    assert y.tolist() == [n % 256 % 10 for n in range(1000, 1200)]  # as the tiny set has them


def test_an_epoch_is_a_pass_in_an_order_of_its_own(tiny: Path) -> None:
    data = mnist()
    first, second = ([bytes(pixels(x).numpy()) for x, _ in data.train_dataloader()] for _ in "ab")
    images = torch.cat([pixels(x) for x, _ in data.train_dataloader()])

    assert len(first) == len(second) == 10
    assert first != second
    assert {bytes(x.numpy()) for x in images} == {bytes(x.numpy()) for x in data.images("train")}
    assert [bytes(pixels(x).numpy()) for x, _ in mnist().train_dataloader()] == first
    assert [bytes(pixels(x).numpy()) for x, _ in mnist(seed=2).train_dataloader()] != first


def test_an_epoch_goes_on_where_it_was(tiny: Path) -> None:
    data, other = mnist(), mnist()
    batches = iter(data.train_dataloader())
    for _ in range(4):
        next(batches)

    other.load_state_dict(data.state_dict())

    rest = list(other.train_dataloader())
    assert len(rest) == 6
    for (a, b), (c, d) in zip(batches, rest, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    for (a, _), (c, _) in zip(data.train_dataloader(), other.train_dataloader(), strict=True):
        assert torch.equal(a, c)


def test_processes_share_each_batch(tiny: Path) -> None:
    whole, parts = next(iter(mnist().train_dataloader())), []
    for rank in range(2):
        data = LabelledMNIST(100, 200)
        data.share(rank, 2)
        parts.append(next(iter(ready(data).train_dataloader())))

    for all_of_them, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.stack(shares, 1).flatten(0, 1), all_of_them)


def test_a_limit_is_one_of_each_set(tiny: Path) -> None:
    data = mnist(limit=150)

    assert [len(data.images(s)) for s in ("train", "val", "test")] == [150] * 3


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"batch_size": 0}, ValueError, "batch_size=0: use 1 or more"),
        ({"validation": -1}, ValueError, "validation=-1: use 0 or more"),
        ({"validation": 1200}, files.DataError, "validation=1200, but there are 1200 images"),
        ({"batch_size": 1100}, files.DataError, "batch_size=1100, but there are 1000"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    changes: dict, error: type[Exception], said: str, tiny: Path
) -> None:
    with pytest.raises(error, match=said):
        mnist(**changes)
