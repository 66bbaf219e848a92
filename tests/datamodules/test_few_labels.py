"""CIFAR-10, SVHN and MNIST's images with a few labels, from files of the official formats."""

import os
from pathlib import Path

import cifar
import manifests
import numpy as np
import pytest
import svhn
import torch
import yaml
from scipy.io import loadmat, savemat

from lit_gen.datamodules import files
from lit_gen.datamodules.few_labels import (
    SemiSupervisedCIFAR10,
    SemiSupervisedMNISTImages,
    SemiSupervisedSVHN,
    read_digits,
)
from lit_gen.datamodules.images import FewLabels, SemiSupervisedMNIST

RNG = np.random.default_rng(3)
RECORDS = RNG.integers(0, 256, (6, 40, 3073), dtype=np.uint8)  # five training files and the test's
RECORDS[:, :, 0] = np.arange(40) % 10


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a tiny CIFAR-10 and a tiny SVHN, which the manifest describes."""
    manifest = manifests.shipped()
    cifar.write(tmp_path, RECORDS)
    cifar.describe(manifest["cifar10"]["editions"][0], tmp_path)
    svhn.write(tmp_path, manifest["svhn"]["editions"][0], train=130, test=33)
    manifests.use(manifest, tmp_path, monkeypatch)
    return tmp_path


def ready(data: FewLabels) -> FewLabels:
    data.prepare_data()
    data.setup("fit")
    return data


def cifar10(**changes: object) -> SemiSupervisedCIFAR10:
    usual = {"labels": 20, "batch_size": 10, "validation": 30}
    return ready(SemiSupervisedCIFAR10(**usual | changes))


def house_numbers(**changes: object) -> SemiSupervisedSVHN:
    usual = {"labels": 20, "batch_size": 10, "validation": 30}
    return ready(SemiSupervisedSVHN(**usual | changes))


def test_cifar_s_images_are_scaled_as_in_the_code_and_keep_their_labels(sets: Path) -> None:
    data = cifar10()
    known = {bytes(r[1:]): int(r[0]) for r in RECORDS[5]}

    ((x, y),) = data.test_dataloader()

    assert x.shape == (40, 3, 32, 32)
    assert x.min() >= -127.5 / 128
    assert x.max() <= 127.5 / 128
    pixels = (x * 128 + 127.5).round().to(torch.uint8).reshape(40, -1).numpy()
    assert [known[bytes(p)] for p in pixels] == y.tolist()


def test_copies_of_cifar_in_another_order_have_the_same_labelled_images(sets: Path) -> None:
    official = cifar10()
    flat = RECORDS[:5].reshape(-1, 3073)
    cifar.write(sets, np.concatenate([flat[::-1].reshape(5, 40, 3073), RECORDS[5:]]))
    other = cifar10()

    for a, b in zip(next(iter(official.epochs)), next(iter(other.epochs)), strict=True):
        assert torch.equal(a, b)
    assert official.fingerprint == other.fingerprint


def test_svhn_s_images_are_turned_and_its_ten_is_a_nought(sets: Path) -> None:
    data, raw = house_numbers(), loadmat(sets / "svhn/test_32x32.mat")

    ((x, y),) = data.test_dataloader()

    assert y.tolist() == [i % 10 for i in range(33)]
    expected = torch.from_numpy(raw["X"].transpose(3, 2, 0, 1).copy()).float() / 127.5 - 1
    torch.testing.assert_close(x, expected)


def test_mnist_s_images_have_places_and_are_scaled_for_a_tanh(tiny: Path) -> None:
    data = ready(SemiSupervisedMNISTImages(labels=20, batch_size=10, validation=30))
    flat = ready(SemiSupervisedMNIST(labels=20, batch_size=10, validation=30))

    x, y = next(iter(data.test_dataloader()))
    pixels, same = next(iter(flat.test_dataloader()))

    assert x.shape[1:] == (1, 28, 28)
    torch.testing.assert_close(x.flatten(1), 2 * pixels[: len(x)] - 1)
    assert torch.equal(y, same[: len(y)])
    assert torch.equal(data.images("test"), flat.images("test"))


@pytest.mark.parametrize("make", [cifar10, house_numbers])
def test_all_images_can_be_had_as_they_are(make, sets: Path) -> None:
    data = make()

    train, test = data.images("train"), data.images("test")

    assert (train.dtype, train.shape[1:]) == (torch.uint8, (3, 32, 32))
    assert len(train) == (200 if make is cifar10 else 130)
    batches = list(data.test_dataloader())
    assert torch.equal(data.form(test), torch.cat([x for x, _ in batches]))
    assert torch.equal(data.targets("test"), torch.cat([y for _, y in batches]))
    assert len(data.targets("train")) == len(train)


@pytest.mark.parametrize("make", [cifar10, house_numbers])
def test_a_batch_has_labelled_and_two_kinds_of_unlabelled_images(make, sets: Path) -> None:
    data = make()
    batches = list(data.train_dataloader())
    n = len(data.loaded[0][0])

    assert len(batches) == n // 10
    per_class = [int((data.loaded[0][1][data.epochs.labeled] == c).sum()) for c in range(10)]
    assert per_class == [2] * 10
    labeled = {bytes(x.numpy()) for x in data.form(data.loaded[0][0][data.epochs.labeled])}
    seen = {bytes(x.numpy()) for batch in batches for x in batch[0]}
    assert seen == labeled
    unlabelled = {bytes(x.numpy()) for batch in batches for x in batch[2]}
    assert len(unlabelled) == 10 * (n // 10)  # each once: labelled ones, too
    assert not torch.equal(batches[0][2], batches[0][3])


@pytest.mark.parametrize("make", [cifar10, house_numbers])
def test_it_initialises_on_the_first_epoch_s_labelled_images(make, sets: Path) -> None:
    data = make()

    x = data.initialization_images(25)

    batches = list(data.train_dataloader())
    torch.testing.assert_close(x, torch.cat([b[0] for b in batches])[:25])
    torch.testing.assert_close(x[:20].sort(0)[0], data.form(
        data.loaded[0][0][data.epochs.labeled]).sort(0)[0])  # fmt: skip


def test_processes_share_what_it_initialises_on(sets: Path) -> None:
    whole, parts = cifar10().initialization_images(20), []
    for rank in range(2):
        data = SemiSupervisedCIFAR10(20, 10, validation=30)
        data.share(rank, 2)
        parts.append(ready(data).initialization_images(20))

    torch.testing.assert_close(torch.stack(parts, 1).flatten(0, 1), whole)


def test_an_epoch_goes_on_where_it_was(sets: Path) -> None:
    data, other = house_numbers(), house_numbers()
    batches = iter(data.train_dataloader())
    for _ in range(4):
        next(batches)
    state = data.state_dict()

    other.load_state_dict(state)

    for a, b in zip(batches, other.train_dataloader(), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_validation_images_are_none_whose_labels_are_learned(sets: Path) -> None:
    data = cifar10()
    labeled = {bytes(x.numpy()) for x in data.loaded[0][0][data.epochs.labeled]}

    assert len(data.val_x) == 30
    assert not labeled & {bytes(x.numpy()) for x in data.val_x}


@pytest.mark.parametrize(
    "content",
    [
        {"X": np.zeros((32, 32, 3, 4)), "y": np.ones((4, 1))},  # no bytes
        {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.ones((5, 1))},
        {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.zeros((4, 1))},
        {"X": np.zeros((28, 28, 3, 4), np.uint8), "y": np.ones((4, 1))},
        {"images": np.zeros(3)},
    ],
    ids=["floats", "more labels", "label 0", "28 pixels", "other names"],
)
def test_a_matlab_file_of_something_else_is_a_sentence(tmp_path: Path, content: dict) -> None:
    savemat(tmp_path / "x.mat", content)
    with pytest.raises(files.DataError, match=r"x.mat does not hold SVHN's digits .*Move it away"):
        read_digits(tmp_path / "x.mat")


@pytest.mark.parametrize("content", [b"", b"MATLAB 7.3 file", os.urandom(2000)])
def test_what_is_no_matlab_file_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.mat").write_bytes(content)
    with pytest.raises(files.DataError, match="does not hold SVHN's digits"):
        read_digits(tmp_path / "x.mat")


def test_a_damaged_file_is_not_used(sets: Path) -> None:
    path = sets / "svhn/train_32x32.mat"
    path.write_bytes(path.read_bytes()[:-100])
    manifest = yaml.safe_load((sets / "manifest.yaml").read_text())
    manifest["svhn"]["editions"][0]["mirrors"] = ["http://127.0.0.1:9/{file}"]
    (sets / "manifest.yaml").write_text(yaml.safe_dump(manifest))

    with pytest.raises(files.DataError, match=r"train_32x32\.mat"):
        SemiSupervisedSVHN(20, 10).prepare_data()
