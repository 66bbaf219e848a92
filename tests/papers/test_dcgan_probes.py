"""What DCGAN's probes do, on generators that are known to draw this there."""

import pytest
import torch
from torch import Tensor, nn

from lit_gen.papers import dcgan, dcgan_probes
from lit_gen.papers.dcgan import DCGAN, AlternatingGAN, Architecture, ConditionalDCGAN, Generator
from lit_gen.papers.dcgan_probes import (
    Box,
    activations,
    along,
    arithmetic,
    combined,
    digit_styles,
    forget,
    forgotten,
    images,
    ink,
    inside,
    lean,
    map_layers,
    object_weights,
    points,
    surrounded,
    turns,
    without,
)

SMALL = Architecture(5, 5, 6, ((4, 2), (7, 2), (3, 2)), ((4, 2), (6, 2), (8, 2)))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> DCGAN:
    monkeypatch.setitem(dcgan.ARCHITECTURES, "svhn", SMALL)
    torch.manual_seed(0)
    return DCGAN("svhn").eval()


class Linear(AlternatingGAN):
    """z itself, in gray and shrunk, so that no sum leaves [0, 1]: (n, 1, 2, 3)."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), nn.Identity(), 6, gaussian=False)

    def images(self, z: Tensor) -> Tensor:
        return 0.5 + 0.1 * z.view(-1, 1, 2, 3)


def drawn(z: Tensor) -> Tensor:
    return Linear().images(z)


# --- latent points and their images


def test_points_are_those_of_samples(model: DCGAN) -> None:
    found = torch.cat([z for (z,) in model.latents(130, seed=2)])

    (z,) = points(model, [129, 3], seed=2)

    assert torch.equal(z, found[[129, 3]])
    assert torch.equal(model.images(found[:128]), model.sample(128, seed=2))
    with pytest.raises(ValueError, match=r"samples \[-1\]: give numbers"):
        points(model, [-1])


def test_points_of_digits_have_their_labels() -> None:
    _, labels = points(ConditionalDCGAN(), [7, 129])

    assert labels.tolist() == [7, 9]


def test_images_lie_in_batches_of_training_s_size(model: DCGAN) -> None:
    sizes: list[int] = []
    model.generator.register_forward_pre_hook(lambda net, given: sizes.append(len(given[0])))
    z = torch.rand(50, 5)

    made = images(model, z)

    assert sizes == [128, 128]
    assert made.shape == (50, 3, 32, 32)
    assert torch.equal(made[:32], images(model, z[:32]))
    assert torch.equal(made[32:], images(model, z[32:]))
    (others,) = next(model.latents(128, dcgan_probes.OTHERS))
    assert torch.equal(made[:32], model.images(torch.cat([z[:32], others[32:]]))[:32])
    with pytest.raises(ValueError, match="DCGAN knows no labels, and 1 were given"):
        images(model, z, torch.zeros(50, dtype=torch.long))


def test_images_of_digits_need_labels() -> None:
    with pytest.raises(ValueError, match="ConditionalDCGAN needs a label for each point, and 0"):
        images(ConditionalDCGAN(), torch.rand(3, 100))


# --- arithmetic and turns


def test_concepts_are_means() -> None:
    a, b, c = torch.tensor([[1.0], [3.0]]), torch.tensor([[10.0]]), torch.tensor([[100.0], [300]])

    assert combined(a, b, c) == 2 - 10 + 200


def test_neighbours_are_around_their_point() -> None:
    y = torch.tensor([5.0, -5.0, 0.0])

    found = surrounded(y)

    assert found.shape == (9, 3)
    assert torch.equal(found[4], y)
    away = (found - y).abs().sum(1)
    assert (away > 0).sum() == 8
    assert (found - y).abs().max() <= 0.25
    assert (found - y).abs().max() > 0.2


def test_a_way_has_its_point_in_the_middle() -> None:
    z, towards = torch.rand(2, 3), torch.tensor([1.0, 0.0, -2.0])

    way = along(z, towards, steps=5, reach=2)

    assert way.shape == (2, 5, 3)
    torch.testing.assert_close(way[:, 2], z)
    torch.testing.assert_close(way[:, 4] - way[:, 0], (4 * towards).expand(2, 3))
    torch.testing.assert_close(way[:, 3] - z, towards.expand(2, 3))


def test_a_linear_generator_s_arithmetic_is_that_of_its_images() -> None:
    model, state = Linear(), torch.get_rng_state()
    (z,) = points(model, range(9), seed=3)

    found = arithmetic(model, [0, 1, 2], [3, 4, 5], [6, 7, 8], seed=3)

    expected = drawn((z[:3].mean(0) - z[3:6].mean(0) + z[6:].mean(0))[None])
    assert {name: x.shape for name, x in found.items()} == {
        "arithmetic": (3, 3, 1, 2, 3),
        "arithmetic_pixels": (1, 1, 1, 2, 3),
    }
    torch.testing.assert_close(found["arithmetic"][1, 1], expected[0])
    torch.testing.assert_close(found["arithmetic_pixels"][0], expected)
    assert 0 < (found["arithmetic"] - expected).abs().max() <= 0.025
    assert torch.equal(torch.get_rng_state(), state)


def test_a_turn_leads_from_one_pose_to_the_other() -> None:
    model = Linear()
    (z,), (others,) = points(model, range(8)), points(model, range(2), seed=1)

    rows = turns(model, [0, 1, 2, 3], [4, 5, 6, 7], rows=2, steps=3)["interpolations_turn"]

    assert rows.shape == (2, 3, 1, 2, 3)
    turn = z[:4].mean(0) - z[4:].mean(0)
    torch.testing.assert_close(rows[:, 1], drawn(others))
    torch.testing.assert_close(rows[:, 2], drawn(others + turn))
    torch.testing.assert_close(rows[:, 0], drawn(others - turn))


def test_arithmetic_and_turns_of_digits() -> None:
    """Told a label, the result is of it; samples on a way keep their own."""
    model, said = ConditionalDCGAN(), []
    model.generator.register_forward_pre_hook(lambda net, given: said.append(given[1]))

    found = arithmetic(model, [0], [1], [2], 7)
    assert [7] * 9 in [labels[:9].tolist() for labels in said]
    found |= turns(model, [0], [1], rows=2, steps=3)

    assert said[-1][:6].tolist() == [0, 0, 0, 1, 1, 1]
    assert {x.shape[-3:] for x in found.values()} == {(1, 28, 28)}


# --- maps that draw an object


@pytest.mark.parametrize(
    ("architecture", "maps"),
    [
        ("64", [(1024, 4), (512, 8), (256, 16), (128, 32)]),
        ("imagenet32", [(512, 4), (512, 8), (256, 8), (256, 16), (128, 16), (128, 32)]),
        ("svhn", [(256, 4), (128, 8), (64, 16)]),
    ],
)
def test_layers_of_maps(architecture: str, maps: list[tuple[int, int]]) -> None:
    of, seen = dcgan.ARCHITECTURES[architecture], []
    with torch.device("meta"):  # shapes alone
        generator = Generator(of)
        for layer in map_layers(generator):
            layer.register_forward_hook(lambda layer, given, out: seen.append(out.shape))
        generator(torch.empty(2, of.latent_dim))

    assert seen == [(2, channels, side, side) for channels, side in maps]


def test_layers_of_maps_of_digits() -> None:
    for layer, shape in ((-2, (3, 128, 7, 7)), (-1, (3, 64, 14, 14))):
        maps, samples = activations(ConditionalDCGAN(), 3, layer)
        assert maps.shape == shape
        assert maps.min() == 0  # rectified
        assert samples.shape == (3, 1, 28, 28)


def test_dropped_maps_are_zero_at_all_positions_for_a_while(model: DCGAN) -> None:
    dropped = torch.tensor([True, False, True, False])
    before, whole = activations(model, 3)
    seen: list[Tensor] = []

    with without(model.generator, dropped):
        model.generator[7].register_forward_pre_hook(lambda net, given: seen.append(given[0][:3]))
        changed = model.sample(3)

    assert before.shape == (3, 4, 8, 8)
    assert not seen[0][:, dropped].any()
    assert torch.equal(seen[0][:, ~dropped], before[:, ~dropped])
    assert not torch.equal(changed, whole)
    assert torch.equal(model.sample(3), whole)
    with (
        pytest.raises(ValueError, match=r"the layer has 7 maps, and \(4,\) of them"),
        without(model.generator, dropped, layer=-1),
    ):
        model.sample(3)
    assert torch.equal(model.sample(3), whole)


def test_positions_are_in_a_box_by_their_centres() -> None:
    """Of maps of 4 x 4 the centres are at pixels 1, 3, 5 and 7."""
    found = inside([Box(1, 0, 2, 4, 8), (1, 7, 0, 8, 2)], 2, (8, 8), (4, 4))

    assert not found[0].any()
    assert found[1].int().tolist() == [[0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((2, 0, 0, 4, 4), r"\(2, 0, 0, 4, 4\) is no box .*one of 2 samples of 8 x 8"),
        ((0, 4, 0, 4, 4), "is no box"),
        ((0, 0, 0, 9, 4), "is no box"),
        ((0, 0, 0, 1, 1), "holds the centre of none of the 4 x 4 positions"),
    ],
)
def test_boxes_that_cannot_be_are_refused(box: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        inside([box], 2, (8, 8), (4, 4))


def test_weights_tell_what_is_brighter_in_the_object() -> None:
    """Images without the object do not count: they would break the regression here."""
    pytest.importorskip("sklearn")
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(6, 3, 8, 8, generator=generator)
    where = torch.zeros(6, 8, 8, dtype=torch.bool)
    where[:4, 2:5, 1:4] = True
    maps[:, 0] += where
    maps[:, 1] -= where.float()
    maps[:, 2] += 5  # everywhere
    maps[4:] = torch.nan

    brighter, darker, neither = object_weights(maps, where)

    assert brighter > 1
    assert darker < -1
    assert abs(neither) < 1


@pytest.mark.parametrize("everywhere", [True, False])
def test_an_object_must_be_somewhere_and_not_everywhere(everywhere: bool) -> None:
    pytest.importorskip("sklearn")
    where = torch.full((2, 4, 4), everywhere)

    with pytest.raises(ValueError, match=r"a regression needs both\. Draw other boxes"):
        object_weights(torch.rand(2, 3, 4, 4), where)


class Windows(AlternatingGAN):
    """A wall of some texture, by the second map, and in it a window that the first one draws."""

    def __init__(self) -> None:
        draw = nn.ConvTranspose2d(2, 1, 2, 2, bias=False)
        with torch.no_grad():
            draw.weight.copy_(torch.tensor([0.7, 0.2])[:, None, None, None])
        generator = nn.Sequential(nn.Unflatten(1, (2, 8, 8)), nn.ReLU(), draw)
        super().__init__(generator, nn.Identity(), 128, gaussian=False)

    def images(self, z: Tensor) -> Tensor:
        shown = torch.zeros(len(z), 8, 8)
        at = (z[:, 0] > 0).long() * 4
        for k in range(2):  # of 3 x 3 positions, in one of two places
            shown[at == 4 * k, 4 * k : 4 * k + 3, 2:5] = 1
        return self.generator(torch.cat([shown.flatten(1), z[:, 64:].abs()], 1))


def test_a_window_is_forgotten() -> None:
    pytest.importorskip("sklearn")
    model = Windows()
    samples = model.sample(12)
    boxes = []
    for i, (x,) in enumerate(samples):
        rows, columns = (x > 0.6).any(1).nonzero(), (x > 0.6).any(0).nonzero()
        box = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
        boxes.append(Box(i, *map(int, box)))

    dropped = forget(model, boxes, layer=-1)

    assert dropped[0]
    found = forgotten(model, torch.tensor([True, False]), layer=-1, n=4)["forgetting"]
    assert found.shape == (2, 4, 1, 16, 16)
    before, after = found
    assert ((before > 0.6).flatten(1).sum(1) == 36).all()
    assert after.max() < 0.3
    wall = before < 0.6
    torch.testing.assert_close(after[wall], before[wall])


def test_boxes_must_be_given(model: DCGAN) -> None:
    with pytest.raises(ValueError, match="no boxes are given"):
        forget(model, [])


def test_maps_of_a_real_generator_are_chosen_from(model: DCGAN) -> None:
    pytest.importorskip("sklearn")

    dropped = forget(model, [Box(0, 0, 0, 16, 16), Box(140, 8, 8, 24, 24)])

    assert dropped.shape == (4,)
    assert dropped.dtype == torch.bool
    assert forgotten(model, dropped, n=3)["forgetting"].shape == (2, 3, 3, 32, 32)


# --- digits


def stroke(leaning: Tensor, heavy: Tensor, column: Tensor) -> Tensor:
    """Straight strokes, (n,) each: (n, 1, 28, 28)."""
    up = 13.5 - torch.arange(28.0)[:, None]
    at = column[:, None, None] + leaning[:, None, None] * up
    bright = heavy[:, None, None] * torch.exp(-((torch.arange(28.0) - at) ** 2) / 2)
    return bright[:, None]


def test_ink_and_lean_of_strokes() -> None:
    """One like / leans to the right by its slope, however heavy it is."""
    leaning = torch.tensor([0.0, 0.5, -0.25])
    x = stroke(leaning, torch.tensor([1.0, 0.1, 1.0]), torch.full((3,), 14.0))

    torch.testing.assert_close(lean(x), leaning, atol=0.01, rtol=0)
    torch.testing.assert_close(ink(x), x.sum((1, 2, 3)) / 28**2)
    assert lean(torch.zeros(2, 1, 28, 28)).tolist() == [0, 0]


class Handwriting(ConditionalDCGAN):
    """z's first number is how much a stroke leans, its second how heavy it is."""

    def images(self, z: Tensor, labels: Tensor) -> Tensor:
        return stroke(0.25 * z[:, 0], 0.5 + 0.2 * z[:, 1], 10.0 + labels)


def test_styles_of_digits_are_found_and_combined() -> None:
    """Heavy and right - light and right + light and left is heavy and left, in every digit."""
    model, state = Handwriting(latent_dim=2), torch.get_rng_state()

    found = digit_styles(model)

    assert torch.equal(torch.get_rng_state(), state)
    rows = found["arithmetic"]
    assert rows.shape == (5, 10, 1, 28, 28)
    whole = ink(stroke(*torch.tensor([[0.0], [1], [14]])))
    assert (ink(rows[:4]).mean(1) > 0.5 * whole).tolist() == [True, False, False, True]
    assert lean(rows[:4]).sign().mean(1).tolist() == [1, 1, -1, -1]
    columns = rows[:4].sum((0, 2, 3)).argmax(1) - 10
    assert (columns - torch.arange(10)).abs().max() <= 1
    way = lean(found["interpolations_lean"])
    assert way.shape == (10, 10)
    assert (way.diff(dim=1) > 0).all()
    assert torch.equal(digit_styles(model)["arithmetic"], rows)


def test_styles_are_among_the_pictures_and_change_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = Handwriting(latent_dim=2), torch.zeros(1, 1, 28, 28)
    found = model.pictures(x)
    monkeypatch.setattr(dcgan_probes, "digit_styles", lambda model: {})
    without_them = model.pictures(x)

    assert found.keys() - without_them.keys() == {"arithmetic", "interpolations_lean"}
    assert all(torch.equal(found[name], x) for name, x in without_them.items())
