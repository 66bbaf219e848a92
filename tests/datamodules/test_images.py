"""Images in memory: label subsets, the order of the data, and going on from any position."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_gen.datamodules.files import DataError
from lit_gen.datamodules.images import (
    Batches,
    SemiSupervisedEpochs,
    SemiSupervisedMNIST,
    balanced_subset,
)


def epochs(seed: int = 1, n: int = 60, batch_size: int = 10) -> SemiSupervisedEpochs:
    """Images whose only pixel is their index."""
    images = torch.arange(n, dtype=torch.uint8).view(n, 1)
    labels = torch.arange(n) % 10
    return SemiSupervisedEpochs(images, labels, np.arange(20), batch_size, seed)


def indices(x: torch.Tensor) -> list[int]:
    return (x * 255).round().int().flatten().tolist()


def test_balanced_subset_takes_the_first_of_each_class_along_the_permutation() -> None:
    labels = np.arange(100) % 10
    permutation = np.random.RandomState(3).permutation(100)

    chosen = balanced_subset(labels, permutation, 2)

    assert np.bincount(labels[chosen]).tolist() == [2] * 10
    for c in range(10):
        expected = [i for i in permutation if labels[i] == c][:2]
        assert chosen[2 * c : 2 * c + 2].tolist() == expected


def test_too_many_labels_are_refused() -> None:
    with pytest.raises(DataError, match="one class has 1 examples"):
        balanced_subset(np.array([0, 1, *range(10)]), np.arange(12), 2)


def test_an_epoch_shows_every_image_once_in_each_unlabelled_stream() -> None:
    data = epochs()

    for _ in range(2):
        batches = list(data)
        assert len(batches) == len(data) == 6
        for stream in (2, 3):
            assert sorted(i for b in batches for i in indices(b[stream])) == list(range(60))
    assert indices(batches[0][2]) != indices(batches[0][3])


def test_labelled_images_come_in_whole_permutations_with_their_own_labels() -> None:
    batches = list(epochs())
    shown = [i for b in batches for i in indices(b[0])]

    for start in (0, 20, 40):
        assert sorted(shown[start : start + 20]) == list(range(20))
    assert all((torch.tensor(indices(b[0])) % 10 == b[1]).all() for b in batches)


def test_the_order_is_that_of_the_authors_generator() -> None:
    """seed -> RandomState; two draws; then labelled permutations, and the two shuffles."""
    rng = np.random.RandomState(5)
    rng.randint(2**15), rng.randint(2**15)
    labeled = np.concatenate([rng.permutation(20) for _ in range(3)])
    unlabeled, matching = rng.permutation(60), rng.permutation(60)
    for _ in range(3):
        rng.permutation(20)
    second = unlabeled[rng.permutation(60)]

    data = epochs(seed=5)
    first_epoch, second_epoch = list(data), list(data)

    assert [i for b in first_epoch for i in indices(b[0])] == labeled.tolist()
    assert [i for b in first_epoch for i in indices(b[2])] == unlabeled.tolist()
    assert [i for b in first_epoch for i in indices(b[3])] == matching.tolist()
    assert [i for b in second_epoch for i in indices(b[2])] == second.tolist()


@pytest.mark.parametrize("position", [0, 1, 5, 6, 7, 12])
def test_goes_on_from_any_position(position: int) -> None:
    def stream(data: SemiSupervisedEpochs, n: int) -> list[list[int]]:
        taken: list[list[int]] = []
        while len(taken) < n:
            for batch in data:
                taken.append([i for x in (batch[0], *batch[2:]) for i in indices(x)])
                if len(taken) == n:
                    break
        return taken

    whole = stream(epochs(), 18)
    first, second = epochs(), epochs(seed=9)
    assert stream(first, position) == whole[:position]
    second.restore(first.order_state())

    assert stream(second, 18 - position) == whole[position:]


def test_evaluation_batches_hold_every_image_once() -> None:
    batches = Batches(torch.arange(25, dtype=torch.uint8).view(25, 1), torch.arange(25), 10)

    assert [len(y) for _, y in batches] == [10, 10, 5]
    assert len(batches) == 3
    assert torch.cat([y for _, y in batches]).tolist() == list(range(25))


def made(**arguments: object) -> SemiSupervisedMNIST:
    data = SemiSupervisedMNIST(**arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def test_label_subsets_depend_on_their_own_seed_alone(tiny: Path) -> None:
    def labeled(**seeds: int) -> list[int]:
        return made(labels=20, validation=50, **seeds).epochs.labeled.tolist()

    assert labeled(seed=1, seed_data=1) == labeled(seed=2, seed_data=1)
    assert labeled(seed=1, seed_data=1) != labeled(seed=1, seed_data=2)


def test_validation_labels_are_never_trained_on(tiny: Path) -> None:
    data = made(labels=100, validation=300)
    shown = {tuple(x.tolist()) for x in data.epochs.images[data.epochs.labeled]}

    assert len(data.val_x) == 300
    assert not shown & {tuple(x.tolist()) for x in data.val_x}


def test_validation_can_be_left_out(tiny: Path) -> None:
    data = made(labels=100, validation=0)

    assert len(data.val_x) == 0
    assert len(data.val_dataloader()[0]) == 0


def test_a_batch_larger_than_the_data_is_refused(tiny: Path) -> None:
    with pytest.raises(DataError, match="batch_size=100, but there are 50 training images"):
        made(labels=20, limit=50)


def test_pixels_are_in_the_unit_interval_and_flat(tiny: Path) -> None:
    x, y, *_ = next(iter(made(labels=20, batch_size=50).train_dataloader()))

    assert x.shape == (50, 784)
    assert x.dtype == torch.float32
    assert 0 <= x.min() < 0.01
    assert 0.99 < x.max() <= 1
    assert y.bincount().max() - y.bincount().min() <= 2


@pytest.mark.parametrize("labels", [0, 15, -10])
def test_labels_that_the_classes_cannot_share(labels: int) -> None:
    with pytest.raises(ValueError, match="share them equally"):
        SemiSupervisedMNIST(labels=labels)


@pytest.mark.skipif(
    "LIT_GEN_DATA" not in os.environ, reason="real MNIST: set LIT_GEN_DATA to its folder"
)
def test_real_mnist() -> None:
    data = made(labels=100)

    assert data.epochs.images.shape == (60_000, 784)
    assert len(data.epochs) == 600
    assert len(data.test_y) == 10_000
    assert data.test_y[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.epochs.labels[data.epochs.labeled].bincount().tolist() == [10] * 10
    assert data.epochs.images.float().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "size", "said"),
    [
        ({"batch_size": 100}, 3, "batch_size=100: 3 processes"),
        ({"batch_size": 200}, 8, "images to initialise on=500: 8 processes"),
        ({"batch_size": 100, "limit": 250}, 4, "images to initialise on=250: 4 processes"),
    ],
)
def test_what_cannot_be_shared_equally_is_refused(arguments: dict, size: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SemiSupervisedMNIST(**arguments).share(0, size)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"validation": 7}, "validation=7: 8 processes need an image each to evaluate. Use 8 or"),
        ({"limit": 104}, "limit - labels=4: 8 processes"),
    ],
)
def test_processes_without_an_image_to_evaluate_are_refused(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SemiSupervisedMNIST(batch_size=80, **({"limit": 400} | arguments)).share(0, 8)


@pytest.mark.parametrize(
    "arguments", [{"validation": 0}, {"validation": 8}, {"validation": 0, "limit": 104}]
)
def test_processes_with_an_image_each_to_evaluate_or_none_at_all(arguments: dict) -> None:
    SemiSupervisedMNIST(batch_size=80, **({"limit": 400} | arguments)).share(0, 8)
