"""Sprites: what each factor does to a picture, and going on from any position."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lit_gen.datamodules.files import DataError
from lit_gen.datamodules.sprites import FACTORS, SAMPLES, SHAPES, Sprites, covers, render
from lit_gen.metrics.disentanglement import MIG, SAP, FactorVAEScore

SMALL = {"scales": 2, "orientations": 2, "positions": 4}  # 192 images


def ready(**arguments: object) -> Sprites:
    data = Sprites(**arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def stream(data: Sprites) -> Iterator[torch.Tensor]:
    """Training batches of one epoch after the other."""
    while True:
        yield from data.train_dataloader()


def equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.fixture(scope="module")
def whole() -> np.ndarray:
    """All sprites of the default factors, by shape, scale, orientation, x and y."""
    images, _ = render(28, 6, 8, 8)
    return images.reshape(3, 6, 8, 8, 8, 28, 28)


# Rendering


def test_factors_are_all_combinations_in_order() -> None:
    images, factors = render(28, 2, 3, 4)

    assert images.shape == (3 * 2 * 3 * 4 * 4, 1, 28, 28)
    assert images.dtype == np.uint8
    assert factors.shape == (len(images), len(FACTORS))
    assert np.array_equal(factors, np.unique(factors, axis=0))
    assert factors.max(0).tolist() == [2, 1, 2, 3, 3]


@pytest.mark.parametrize("size", [28, 32, 64])
def test_no_two_images_are_equal(size: int) -> None:
    images, _ = render(size, 6, 8, 8)

    assert len({image.tobytes() for image in images}) == len(images) == 9216


@pytest.mark.parametrize("size", [28, 32, 64])
def test_a_sprite_that_is_moved_is_the_same_sprite(size: int) -> None:
    images, _ = render(size, 3, 3, 4)
    x = images.reshape(-1, 4, 4, size, size).astype(int)
    step = {28: 4, 32: 5, 64: 11}[size]

    for i in range(4):
        for j in range(4):
            moved = np.zeros_like(x[:, 0, 0])
            moved[:, j * step :, i * step :] = x[:, 0, 0, : size - j * step, : size - i * step]
            assert np.array_equal(x[:, i, j], moved)  # x moves to the right, y down
    assert (x.sum((-1, -2)) == x[:, :1, :1].sum((-1, -2))).all()  # nothing of it is cut off


def test_positions_lie_around_the_middle(whole: np.ndarray) -> None:
    mirrored = whole[..., ::-1, ::-1]  # a square and an ellipse are their own half turn

    assert np.array_equal(whole[:2, :, :, ::-1, ::-1], mirrored[:2])


def test_area_grows_with_the_scale_alone(whole: np.ndarray) -> None:
    area = whole[:, :, :, 0, 0].sum((-1, -2)) / 255  # (shapes, scales, orientations)
    side = np.linspace(0.5, 1, 6) * 0.3 * 28

    assert (np.diff(area, axis=1) > 0).all()
    np.testing.assert_allclose(area.mean(2), np.tile(side**2, (3, 1)), rtol=0.02)
    assert (np.abs(area / area.mean(2, keepdims=True) - 1) < 0.04).all()


def test_a_sprite_turns_anticlockwise_about_its_place() -> None:
    images, _ = render(64, 2, 3, 2)
    x = images.reshape(3, 2, 3, 2, 2, 64, 64)[:, 1, :, 0, 0].astype(float)
    mass = x.sum((-1, -2))
    rows, columns = np.indices((64, 64))
    down, right = ((x * at).sum((-1, -2)) / mass for at in (rows, columns))
    spread = (x * (rows - 32) * (columns - 32)).sum((-1, -2)) / mass

    assert np.ptp(down) < 0.15  # pixels: the centroid stays
    assert np.ptp(right) < 0.15
    covariance = spread - (down - 32) * (right - 32)
    assert abs(covariance[1, 0]) < 0.1  # a flat ellipse
    assert (covariance[1, 1:] < -10).all()  # its right end rises: rows fall as columns grow


def test_a_square_would_repeat_itself_after_a_quarter_turn() -> None:
    u, v = np.random.default_rng(0).uniform(-0.8, 0.8, (2, 10_000))

    same = {shape: (covers(shape, u, v) == covers(shape, v, -u)).all() for shape in SHAPES}
    half = {shape: (covers(shape, u, v) == covers(shape, -u, -v)).all() for shape in SHAPES}

    assert same == {"square": True, "ellipse": False, "heart": False}
    assert half == {"square": True, "ellipse": True, "heart": False}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_area_one_and_their_centroid_at_zero(shape: str) -> None:
    at = (np.arange(2000) + 0.5) / 1000 - 1
    u, v = at[None, :], at[:, None]

    inside = covers(shape, u, v)

    assert inside.mean() * 4 == pytest.approx(1, abs=2e-3)
    assert abs((inside * u).mean()) < 1e-3
    assert abs((inside * v).mean()) < 1e-3
    assert np.hypot(u, v)[inside].max() < 0.8


def test_edges_are_gray_and_the_inside_is_white(whole: np.ndarray) -> None:
    values = np.unique(whole)

    assert {0, 255} < set(values.tolist())
    assert len(values) <= SAMPLES**2 + 1
    assert (whole.max((-1, -2)) == 255).all()


# The DataModule


def test_what_a_batch_is() -> None:
    data = ready(**SMALL, batch_size=50, eval_batch_size=64)

    x = next(iter(data.train_dataloader()))
    batches = list(data.predict_dataloader())

    assert x.shape == (50, 1, 28, 28)
    assert x.dtype == torch.float32
    assert x.min() == 0
    assert x.max() == 1
    assert [x.shape for x, _ in batches] == [(64, 1, 28, 28)] * 3
    images, factors = (torch.cat(parts) for parts in zip(*batches, strict=True))
    torch.testing.assert_close(images, data.images("test") / 255)
    assert np.array_equal(factors.numpy(), data.factors("test"))
    assert factors.dtype == torch.int64
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert equal([y for _, y in loader], [y for _, y in batches])


@pytest.mark.parametrize("size", [28, 64])
def test_images_and_factors_belong_together(size: int) -> None:
    data = ready(**SMALL, size=size)
    images, factors = render(size, 2, 2, 4)
    rank = np.ravel_multi_index(tuple(data.factors("train").T), data.factor_sizes)

    assert data.images("train").shape == (192, 1, size, size)
    assert np.array_equal(data.images("train").numpy(), images[rank])
    assert np.array_equal(np.sort(rank), np.arange(len(factors)))
    assert data.images("test") is data.images("train")


def test_evaluated_batches_hold_all_kinds_of_sprites() -> None:
    data = ready()

    for _, factors in data.test_dataloader():
        assert all(len(factors[:, k].unique()) == n for k, n in enumerate(data.factor_sizes))


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    data = ready(**SMALL, batch_size=48)

    epochs = [torch.cat(list(data.train_dataloader())) for _ in range(2)]

    assert not torch.equal(*epochs)
    expected = sorted((data.images("train") / 255).flatten(1).tolist())
    assert all(sorted(epoch.flatten(1).tolist()) == expected for epoch in epochs)


def test_an_epoch_may_be_a_number_of_updates() -> None:
    data = ready(**SMALL, batch_size=100, updates=5)

    assert len(list(data.train_dataloader())) == len(data.train_dataloader()) == 5


@pytest.mark.parametrize("updates", [None, 3])
@pytest.mark.parametrize("position", [0, 1, 3, 4, 9])
def test_goes_on_from_any_position(updates: int | None, position: int) -> None:
    arguments = SMALL | {"batch_size": 48, "updates": updates}  # four batches in a pass
    whole = list(islice(stream(ready(**arguments)), 12))
    first, second = ready(**arguments), ready(**arguments, seed=9)

    assert equal(list(islice(stream(first), position)), whole[:position])
    second.load_state_dict(first.state_dict())

    assert equal(list(islice(stream(second), 12 - position)), whole[position:])


def test_seeds_give_other_orders_of_the_same_images() -> None:
    one, other = ready(**SMALL), ready(**SMALL, seed=2)

    assert torch.equal(one.images("train"), other.images("train"))
    assert one.fingerprint == other.fingerprint
    assert not torch.equal(next(iter(one.train_dataloader())), next(iter(other.train_dataloader())))


def test_fingerprint_names_what_was_rendered() -> None:
    kinds = [{}, {"size": 32}, {"scales": 3}, {"orientations": 3}, {"positions": 3}]

    found = {ready(**SMALL | kind, batch_size=50).fingerprint for kind in kinds}

    assert len(found) == len(kinds)
    assert ready().fingerprint == (  # rendered to the bit
        "132df682e8241027121c0968ea90f5f6b704ee480fb21302cf55aab3b48cd0cc"
    )
    assert ready(**SMALL).deviations == ()
    assert ready(**SMALL).verify() == []


def test_two_processes_share_every_batch() -> None:
    whole, *parts = (ready(**SMALL, batch_size=50, eval_batch_size=64) for _ in range(3))
    for rank, data in enumerate(parts):
        data.share(rank, 2)

    loaders = [data.train_dataloader() for data in (whole, *parts)]
    for x, *shares in zip(*loaders, strict=True):
        assert torch.equal(torch.stack(shares, 1).flatten(0, 1), x)
    batches = list(whole.test_dataloader())
    for rank, data in enumerate(parts):  # whole batches, whose statistics stay as they are
        assert all(map(equal, data.test_dataloader(), batches[rank::2]))
    with pytest.raises(ValueError, match="batch_size=50: 3 processes"):
        whole.share(0, 3)


class Area(pl.LightningModule):
    """A model whose codes are what one sees: bright pixels and where they are, on average."""

    def predict_step(
        self, batch: tuple[torch.Tensor, torch.Tensor], index: int
    ) -> dict[str, torch.Tensor]:
        x, factors = batch
        mass = x.sum((1, 2, 3))
        places = torch.arange(x.shape[-1], dtype=x.dtype)
        right, down = ((x.sum((1, d)) * places).sum(1) / mass for d in (2, 3))
        return {"codes": torch.stack([right, mass, down], 1), "factors": factors}


def test_a_models_codes_can_be_scored() -> None:
    data = Sprites(eval_batch_size=512)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip

    kept = trainer.predict(Area(), datamodule=data)
    arrays = {name: torch.cat([part[name] for part in kept]).numpy() for name in kept[0]}

    assert 0.55 < MIG().of(arrays) <= 3 / 5 + 0.01  # three of five factors have a code
    assert 0.55 < SAP(data.discrete_factors).of(arrays) <= 3 / 5 + 0.01
    assert FactorVAEScore().of(arrays) == pytest.approx(3 / 5, abs=0.01)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": 15}, "size=15: use 16 or more"),
        ({"scales": 1}, "scales=1: use 2 or more"),
        ({"orientations": 1}, "orientations=1: use 2 or more"),
        ({"positions": 1}, "positions=1: use 2 or more"),
        ({"positions": 16}, "positions=16: pictures of 28 pixels have room for 15"),
        ({"batch_size": 1}, "batch_size=1: use 2 or more"),
        ({"updates": 0}, "updates=0: use 1 or more"),
        ({"eval_batch_size": 1}, "eval_batch_size=1: use 2 or more"),
        ({"eval_batch_size": 9215}, "eval_batch_size=9215: 9216 images leave a batch of one"),
        ({"seed": -1}, "seed=-1: use 0 or more"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sprites(**arguments)


def test_more_than_pictures_can_show() -> None:
    with pytest.raises(DataError, match="orientations=90: some sprites of 16 pixels look"):
        render(16, 2, 90, 2)
