"""Images of likelihood models: what is drawn, what is fixed, and going on from any position."""

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import cifar
import manifests
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml

from lit_gen.datamodules import files
from lit_gen.datamodules.files import DataError
from lit_gen.datamodules.unlabeled import CIFAR10, MNIST, VALIDATION, Epochs, binarize

RNG = np.random.default_rng(7)
STATIC = {part: RNG.integers(0, 2, (n, 784)) for part, n in (("train", 60), ("valid", 20))}
STATIC["test"] = RNG.integers(0, 2, (10, 784))
RECORDS = RNG.integers(0, 256, (6, 12, 3073), dtype=np.uint8)  # five training files and the test's


@pytest.fixture
def sets(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a tiny static MNIST and a tiny CIFAR-10, next to the tiny MNIST."""
    folder = tiny / "sets"
    manifest = yaml.safe_load(Path(os.environ["LIT_GEN_MANIFEST"]).read_text())
    (folder / "binarized_mnist").mkdir(parents=True)
    (folder / "mnist").symlink_to(Path(os.environ["LIT_GEN_DATA"]) / "mnist")
    listed = manifest["binarized_mnist"]["editions"][0]["files"]
    for part, rows in STATIC.items():
        text = "".join(" ".join(map(str, row)) + "\n" for row in rows.tolist()).encode()
        path = folder / f"binarized_mnist/binarized_mnist_{part}.amat"
        path.write_bytes(text)
        listed[path.name] = manifests.described(path)
    cifar.write(folder, RECORDS)
    cifar.describe(manifest["cifar10"]["editions"][0], folder)
    manifests.use(manifest, folder, monkeypatch)
    return folder


def ready(data: pl.LightningDataModule) -> pl.LightningDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def stream(data: pl.LightningDataModule) -> Iterator[torch.Tensor]:
    """Training batches of one epoch after the other."""
    while True:
        yield from data.train_dataloader()


def evaluated(loader: object) -> tuple[torch.Tensor, torch.Tensor]:
    x, index = zip(*loader, strict=True)
    return torch.cat(x), torch.cat(index)


def equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# Dynamic binarisation


def test_pixels_are_one_as_often_as_they_are_grey() -> None:
    gray = torch.arange(256, dtype=torch.uint8).view(1, 256).expand(100, 256)
    epochs = Epochs(gray.contiguous(), 100, seed=3, shuffle=False, draws=True, unit_interval=True)

    drawn = torch.cat([x for _ in range(100) for x in epochs]).double()

    p = torch.arange(256).double() / 255
    z = (drawn.mean(0) - p)[1:-1] / (p * (1 - p) / len(drawn)).sqrt()[1:-1]
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert z.abs().max() < 4.5  # of 254 independent ones; 3e-3 by chance
    assert 0.8 < z.square().mean() < 1.2
    assert drawn[:, 0].sum() == 0
    assert drawn[:, 255].min() == 1


def test_grey_zero_stays_zero_and_255_one_at_the_extreme_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch.rand gives numbers of [0, 1): these are its smallest and its largest."""
    ends = torch.tensor([[0.0, 0.0], [1 - 2**-24] * 2])
    monkeypatch.setattr(torch, "rand", lambda shape, **_: ends)
    images = torch.tensor([[0, 255]] * 2, dtype=torch.uint8)

    (x,) = Epochs(images, 2, seed=1, shuffle=False, draws=True, unit_interval=True)

    assert x.tolist() == [[0, 1], [0, 1]]


def test_fixed_draws_are_one_as_often_as_they_are_grey() -> None:
    gray = np.repeat(np.arange(256, dtype=np.uint8)[None], 10_000, 0)

    drawn = binarize(gray, 123) / 255

    p = np.arange(256) / 255
    z = (drawn.mean(0) - p)[1:-1] / np.sqrt(p * (1 - p) / len(drawn))[1:-1]
    assert np.abs(z).max() < 4.5
    assert drawn[:, 0].sum() == 0
    assert drawn[:, 255].min() == 1


def test_training_images_are_the_first_in_file_order_and_drawn_anew_each_epoch(tiny: Path) -> None:
    data = ready(MNIST(validation=200, batch_size=30))
    gray = files.read_idx(data.provided.files["train-images-idx3-ubyte"]).reshape(-1, 784)

    first, second = torch.cat(list(data.epochs)), torch.cat(list(data.epochs))

    assert first.shape == (990, 784)  # of 1,000: the last, incomplete batch is dropped
    assert first.dtype == torch.get_default_dtype()
    assert not torch.equal(first, second)
    impossible = torch.from_numpy(gray[:990] == 0), torch.from_numpy(gray[:990] == 255)
    for drawn in (first, second):
        assert drawn[impossible[0]].sum() == 0
        assert drawn[impossible[1]].min() == 1
    assert (torch.from_numpy(gray[990:1000]) == data.train_x[990:]).all()


def test_runs_of_different_seeds_draw_unrelated_numbers(tiny: Path) -> None:
    def epoch(seed: int) -> torch.Tensor:
        return torch.cat(list(ready(MNIST(seed=seed)).epochs))

    one, two = epoch(1), epoch(2)
    variance = ready(MNIST("gray")).epochs.images[:800].double().div(255)
    variance = variance * (1 - variance)
    p = variance[variance > 0].sum() * 2 / 800 / 784  # chance that two draws of a pixel differ

    assert torch.equal(one, epoch(1))
    assert (one != two).double().mean().item() == pytest.approx(p.item(), rel=0.02)


def test_draws_are_none_of_the_numbers_of_the_run(tiny: Path) -> None:
    data = ready(MNIST(seed=5))
    torch.manual_seed(5)
    before = torch.get_rng_state()

    assert data.epochs.generator.initial_seed() != 5
    next(iter(data.epochs))
    data.initialization_images(100)
    assert torch.equal(torch.get_rng_state(), before)


# What is evaluated


def test_evaluated_images_depend_on_their_own_seed_alone(tiny: Path) -> None:
    def both(**arguments: object) -> list[tuple[torch.Tensor, torch.Tensor]]:
        data = ready(MNIST(validation=150, **arguments))
        next(iter(data.epochs))
        return [evaluated(loader) for loader in data.val_dataloader()]

    (val, val_index), (test, test_index) = whole = both()
    assert val.shape == (150, 784)
    assert test.shape == (300, 784)
    assert val_index.tolist() == list(range(VALIDATION, VALIDATION + 150))
    assert test_index.tolist() == list(range(300))
    assert test_index.dtype == torch.int64
    assert set(val.unique().tolist()) == {0, 1}
    for again in (both(seed=9, shuffle=True), both(eval_batch_size=7)):
        assert all(equal(a, b) for a, b in zip(whole, again, strict=True))
    limited = both(limit=40)
    assert all(equal([part[:40] for part in a], b) for a, b in zip(whole, limited, strict=True))
    assert not torch.equal(both(binarization_seed=124)[1][0], test)


def test_all_images_can_be_had_as_they_are(tiny: Path) -> None:
    data = ready(MNIST("gray", validation=10))

    assert data.images("train").shape == (1190, 1, 28, 28)
    assert data.images("test").dtype == torch.uint8
    (x, _), *_ = data.test_dataloader()
    torch.testing.assert_close(x, data.images("test").flatten(1)[: len(x)] / 255)


def test_validation_images_are_the_last_training_images(tiny: Path) -> None:
    data = ready(MNIST("gray", validation=150))
    gray = files.read_idx(data.provided.files["train-images-idx3-ubyte"]).reshape(-1, 784)

    val, _ = evaluated(data.val_dataloader()[0])

    assert torch.equal(val.mul(255).round().byte(), torch.from_numpy(gray[-150:]))
    assert len(data.train_x) == 1050


def test_validation_can_be_left_out(tiny: Path) -> None:
    data = ready(MNIST(validation=0))

    assert len(data.train_x) == 1200
    assert list(data.val_dataloader()[0]) == []
    predicted, test = evaluated(data.predict_dataloader()), evaluated(data.test_dataloader())
    assert equal(list(predicted), list(test))


def test_initialisation_disturbs_no_draw_and_pixel_means_are_grey(tiny: Path) -> None:
    one, other = (ready(MNIST(shuffle=shuffle, seed=seed)) for shuffle, seed in ((0, 1), (1, 2)))
    state = one.state_dict()

    x = one.initialization_images(100)

    assert torch.equal(x, other.initialization_images(100))  # whatever the seed and the order
    assert torch.equal(x[:60], one.initialization_images(60))
    assert set(x.unique().tolist()) == {0, 1}
    assert torch.equal(state["draws"], one.state_dict()["draws"])
    gray = one.train_x.double().mean(0) / 255
    torch.testing.assert_close(one.pixel_means(), gray.float())


# Going on


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("position", [0, 1, 39, 40, 41, 95])
def test_goes_on_from_any_position(tiny: Path, shuffle: bool, position: int) -> None:
    arguments = {"validation": 1160, "batch_size": 1, "shuffle": shuffle}  # 40 batches an epoch
    whole = list(islice(stream(ready(MNIST(**arguments))), 100))
    first, second = ready(MNIST(**arguments)), ready(MNIST(**arguments, seed=9))

    assert equal(list(islice(stream(first), position)), whole[:position])
    second.load_state_dict(first.state_dict())

    assert equal(list(islice(stream(second), 100 - position)), whole[position:])


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(tiny: Path) -> None:
    data = ready(MNIST("gray", shuffle=True, batch_size=50, limit=100))

    epochs = [torch.cat(list(data.epochs)) for _ in range(2)]

    assert not torch.equal(*epochs)
    expected = sorted(data.train_x.div(255.0).tolist())
    assert all(sorted(epoch.tolist()) == expected for epoch in epochs)


def test_state_of_another_kind_of_device_is_gone_on_from(tiny: Path) -> None:
    """A CUDA generator's state is 16 bytes: its numbers cannot be had here, its position can."""
    data = ready(MNIST(batch_size=100))
    next(iter(data.epochs))
    state = data.state_dict() | {"draws": torch.arange(16, dtype=torch.uint8)}

    def rest() -> list[torch.Tensor]:
        other = ready(MNIST(batch_size=100))
        other.load_state_dict(state)
        return list(other.epochs)

    assert len(rest()) == 7
    assert equal(rest(), rest())


class Watching(pl.LightningModule):
    """Learns nothing, and keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []
        self.evaluated: list[int] = []
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, x: torch.Tensor, index: int) -> torch.Tensor:
        self.seen.append(x)
        return self.weight * x.float().mean()

    def validation_step(
        self, batch: tuple[torch.Tensor, torch.Tensor], index: int, dataloader_idx: int = 0
    ) -> None:
        self.evaluated += batch[1].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Stop(pl.Callback):
    """Leaves in the middle of the second epoch, with a checkpoint."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == 7:
            trainer.save_checkpoint("middle.ckpt")
            raise Left


class Left(Exception):
    pass


def test_lightning_goes_on_in_the_middle_of_an_epoch_to_the_bit(tiny: Path) -> None:
    def fit(model: Watching, checkpoint: str | None = None, *callbacks: pl.Callback) -> None:
        trainer = pl.Trainer(
            max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            callbacks=list(callbacks),
        )  # fmt: skip
        data = MNIST(validation=1100, shuffle=True)  # five batches an epoch
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)

    whole, began, rest = Watching(), Watching(), Watching()
    fit(whole)
    with pytest.raises(Left):
        fit(began, None, Stop())
    fit(rest, "middle.ckpt")

    assert len(whole.seen) == 15
    assert len(began.seen) == 7
    assert equal(began.seen + rest.seen, whole.seen)
    assert whole.evaluated[:1100] == list(range(VALIDATION, VALIDATION + 1100))


# Processes and replicas


@pytest.mark.parametrize(
    "make",
    [lambda: MNIST(validation=700), lambda: MNIST("gray", shuffle=True), lambda: CIFAR10(20)],
)
def test_two_processes_share_every_batch_with_the_same_draws(
    sets: Path, make: Callable[[], pl.LightningDataModule]
) -> None:
    whole, *parts = (ready(make()) for _ in range(3))
    for rank, data in enumerate(parts):
        data.share(rank, 2)

    for x, *shares in zip(whole.epochs, *(data.epochs for data in parts), strict=True):
        assert torch.equal(torch.stack(shares, 1).flatten(0, 1), x)
    state, own_state = whole.state_dict(), parts[1].state_dict()
    assert all(torch.equal(*map(torch.as_tensor, (own_state[k], state[k]))) for k in state)
    first = [data.initialization_images(30) for data in parts]
    assert torch.equal(torch.stack(first, 1).flatten(0, 1), whole.initialization_images(30))
    shares = [evaluated(data.test_dataloader()) for data in parts]
    x, index = evaluated(whole.test_dataloader())
    for rank, (own, own_index) in enumerate(shares):
        assert torch.equal(own, x[rank::2])
        assert torch.equal(own_index, index[rank::2])


def test_what_cannot_be_shared_equally_is_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="batch_size=20: 3 processes"):
        MNIST().share(0, 3)
    data = ready(MNIST())
    data.share(0, 2)
    with pytest.raises(DataError, match="31 images to initialise on: 2 processes"):
        data.initialization_images(31)


@pytest.mark.parametrize("kind", [MNIST, CIFAR10])
def test_processes_without_an_image_to_evaluate_are_refused(
    kind: Callable[..., pl.LightningDataModule],
) -> None:
    said = "3: 4 processes need an image each to evaluate. Use 4 or more, or fewer devices."
    with pytest.raises(ValueError, match=f"validation={said}"):
        kind(validation=3).share(0, 4)
    with pytest.raises(ValueError, match=f"limit={said}"):
        kind(validation=0, limit=3).share(0, 4)
    kind(validation=0, limit=4).share(3, 4)  # nobody has any of `val`, everyone has one of `test`
    kind(validation=4).share(3, 4)
    kind(validation=3).share(0, 1)


@pytest.mark.parametrize("shuffle", [False, True])
def test_replicas_get_what_each_would_get_alone(tiny: Path, shuffle: bool) -> None:
    def made() -> list[MNIST]:
        return [MNIST(validation=1100, shuffle=shuffle, seed=seed) for seed in (1, 2, 3)]

    alone = [list(islice(stream(ready(data)), 12)) for data in made()]
    together = ready(MNIST.together(made()))

    batches = list(islice(stream(together), 7))

    assert batches[0].shape == (3, 20, 784)
    assert all(equal(list(x), [own[i] for own in alone]) for i, x in enumerate(batches))
    assert len({data.train_x.data_ptr() for data in together.data}) == 1
    other, single = ready(MNIST.together(made())), ready(made()[1])
    other.load_state_dict(together.state_dict())
    single.load_state_dict(together.state_dict()["replicas"][1])
    rest = list(islice(stream(other), 5))
    assert all(equal(list(x), [own[7 + i] for own in alone]) for i, x in enumerate(rest))
    assert equal(list(islice(stream(single), 5)), alone[1][7:])
    for ours, theirs in zip(other.val_dataloader(), single.val_dataloader(), strict=True):
        assert equal(list(evaluated(ours)), list(evaluated(theirs)))
    assert other.initialization_images(10).shape == (3, 10, 784)
    assert other.pixel_means().shape == (3, 784)
    assert other.fingerprint == single.fingerprint
    assert other.deviations == ()


def test_replicas_of_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"binarization, .* must be equal in all replicas"):
        MNIST.together([MNIST(), MNIST("gray")])


# Static binarisation


def test_static_files_are_parsed_exactly(sets: Path) -> None:
    data = ready(MNIST("static", validation=8, batch_size=10))

    assert (torch.cat(list(data.epochs)).numpy() == STATIC["train"]).all()
    assert (evaluated(data.val_dataloader()[0])[0].numpy() == STATIC["valid"][12:]).all()
    assert (evaluated(data.test_dataloader())[0].numpy() == STATIC["test"]).all()
    assert (data.initialization_images(6).numpy() == STATIC["train"][:6]).all()
    torch.testing.assert_close(
        data.pixel_means(), torch.from_numpy(STATIC["train"].mean(0)).float()
    )
    assert [file.status for file in data.verify()] == ["ok"] * 3


def test_static_validation_images_can_be_trained_on(sets: Path) -> None:
    data = ready(MNIST("static", validation=8, batch_size=8, train_on_validation=True))

    pool = np.concatenate([STATIC["train"], STATIC["valid"][:12]])
    assert (torch.cat(list(data.epochs)).numpy() == pool).all()
    assert (evaluated(data.val_dataloader()[0])[0].numpy() == STATIC["valid"][12:]).all()


# CIFAR-10


def test_cifar_is_every_record_without_its_label(sets: Path) -> None:
    data = ready(CIFAR10(batch_size=5, validation=10))

    shown = torch.cat(list(data.epochs))
    val, index = evaluated(data.val_dataloader()[0])
    test, _ = evaluated(data.test_dataloader())

    assert shown.shape == (50, 3, 32, 32)
    assert {x.dtype for x in (shown, val, test)} == {torch.uint8}
    assert index.tolist() == list(range(VALIDATION, VALIDATION + 10))
    pixels = RECORDS[:, :, 1:].reshape(6, 12, 3, 32, 32)  # red, green and blue planes, row by row
    ours = sorted(x.tobytes() for x in torch.cat([shown, val]).numpy())
    assert ours == sorted(x.tobytes() for x in pixels[:5].reshape(60, 3, 32, 32))
    assert sorted(x.tobytes() for x in test.numpy()) == sorted(x.tobytes() for x in pixels[5])
    assert data.initialization_images(4).shape == (4, 3, 32, 32)


def test_copies_of_cifar_in_another_order_make_the_same_run(sets: Path) -> None:
    official = ready(CIFAR10(batch_size=5, validation=10))
    x = list(official.epochs)
    shuffled = np.random.default_rng(1).permutation(RECORDS[:5].reshape(60, 3073))
    cifar.write(sets, np.concatenate([shuffled.reshape(5, 12, 3073), RECORDS[5:, ::-1]]))

    other = ready(CIFAR10(batch_size=5, validation=10))

    assert equal(list(other.epochs), x)
    assert other.fingerprint == official.fingerprint
    for ours, theirs in zip(other.val_dataloader(), official.val_dataloader(), strict=True):
        assert equal(list(evaluated(ours)), list(evaluated(theirs)))


# What is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"binarization": "fixed"}, "binarization='fixed': use"),
        ({"batch_size": 0}, "batch_size=0: use 1 or more"),
        ({"validation": -1}, "validation=-1: use 0 or more"),
        ({"eval_batch_size": 0}, "eval_batch_size=0: use 1 or more"),
        ({"limit": 0}, "limit=0: use 1 or more"),
        ({"seed": -1}, "seed=-1: use 0 or more"),
        ({"binarization_seed": -1}, "binarization_seed=-1: use 0 or more"),
        ({"train_on_validation": True}, "only the static set has validation images of its own"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MNIST(**arguments)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MNIST(batch_size=100, limit=50), "batch_size=100, but there are 50 training"),
        (lambda: MNIST(validation=1300), "validation=1300, but there are 1200 images"),
        (lambda: MNIST("static", validation=21), "validation=21, but there are 20 images"),
    ],
)
def test_more_than_there_is(sets: Path, make: Callable[[], MNIST], said: str) -> None:
    with pytest.raises(DataError, match=said):
        ready(make())


# Real data

real = pytest.mark.skipif("LIT_GEN_DATA" not in os.environ, reason="LIT_GEN_DATA: no real data")
REAL = os.environ.get("LIT_GEN_DATA")


def needs(folder: str) -> None:
    if not [*Path(REAL, folder).glob("*.amat*"), *Path(REAL, folder).glob("*.bin")]:
        pytest.skip(f"LIT_GEN_DATA has no files of {folder}")


@real
def test_real_mnist() -> None:
    data = ready(MNIST())

    assert len(data.epochs) == 2980
    assert data.pixel_means().mean().item() == pytest.approx(0.1307, abs=1e-4)
    test, _ = evaluated(data.test_dataloader())
    assert test.mean().item() == pytest.approx(0.1325, abs=3e-4)  # the test set is a bit bolder


@real
def test_real_static_mnist() -> None:
    needs("binarized_mnist")
    data = ready(MNIST("static", validation=10_000))

    means = [data.pixel_means().mean().item()]
    means += [evaluated(loader)[0].mean().item() for loader in data.val_dataloader()]

    assert means == pytest.approx([0.1306, 0.1311, 0.1325], abs=1e-4)


@real
def test_real_cifar() -> None:
    needs("cifar-10-batches-bin")
    data = ready(CIFAR10(16))

    assert len(data.epochs) == 3125
    channels = data.pixel_means().mean((1, 2))
    assert channels.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
