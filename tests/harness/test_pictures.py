"""Pictures show what is in the numbers, at its place, whatever the numbers are."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from lit_gen.harness.pictures import EDGE, MOST, TEXT, UP, checked, grid, png


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def near(content: bytes, colour: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of that colour, below the lines on top."""
    found = np.abs(pixels(content) - colour).max(axis=-1) < 12
    found[: EDGE + 2 * TEXT] = False
    return np.nonzero(found)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that are drawn."""
    words: list[str] = []
    draw = ImageDraw.ImageDraw.text

    def text(self: ImageDraw.ImageDraw, at: object, said: str, *rest: object) -> None:
        words.append(said)
        draw(self, at, said, *rest)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return words


def test_a_grid_puts_images_in_rows() -> None:
    images = np.zeros((2, 10, 1, 2, 3))
    images[1, 1] = 1

    sheet = np.asarray(Image.open(io.BytesIO(grid(images))))

    assert sheet.shape == (4, 30)
    assert (sheet[2:4, 3:6] == 255).all()
    assert sheet.sum() == 255 * 6


def test_small_images_are_enlarged_and_stand_apart() -> None:
    images = np.zeros((2, 3, 3, 4, 2))
    images[1, 2, 0, 3, 1] = 1  # the last pixel of the last image is red

    sheet = pixels(grid(images, gap=2, side=8))

    assert sheet.shape == (2 * 8 + 2, 3 * 4 + 2 * 2, 3)
    assert (sheet[-2:, -2:] == (255, 0, 0)).all()
    assert (sheet[8:10] == 255).all()  # between the rows
    assert (sheet[:, 4:6] == 255).all()
    assert (sheet == (255, 0, 0)).all(-1).sum() == 4
    assert grid(images, side=1) == grid(images)  # never made smaller


@pytest.mark.filterwarnings("error")
def test_pixels_that_are_no_numbers_are_red_and_others_stay_in_range() -> None:
    images = np.array([0.0, 1.0, 1.5, -0.5, np.nan, np.inf]).reshape(1, 6, 1, 1, 1)

    sheet = pixels(grid(images))[0]

    assert [pixel[0] for pixel in sheet[:4]] == [0, 255, 255, 0]
    assert all(r > 200 > 100 > g == pixel[1] for pixel in sheet[4:] for r, g, _ in [pixel])


def test_bars_are_as_high_as_their_units_and_in_their_order() -> None:
    rows, columns = near(png(np.array([[1.0, 4.0, -1.0, 0.0, 2.0]])), UP[2])

    heights = np.bincount(columns)
    bars = np.split(there := np.flatnonzero(heights > 20), np.flatnonzero(np.diff(there) > 1) + 1)
    places = [bar[0] for bar in bars]
    assert [heights[x] / heights[places[1]] for x in places] == pytest.approx(
        [1 / 4, 1, 1 / 4, 1 / 2], abs=0.03
    )
    first, second, third = np.diff(places)
    assert (second, third) == (first, 2 * first)  # the fourth is nought
    assert rows[columns == places[2]].min() >= rows[columns == places[0]].max()  # below nought


def test_a_map_of_colours_has_layers_from_top_to_bottom_and_units_from_left_to_right() -> None:
    values = np.zeros((4, 6))
    values[0, 5] = 3

    content = png(values)
    rows, columns = near(content, UP[-1])

    assert len(rows) > 400
    height, width, _ = pixels(content).shape
    assert rows.max() < 0.55 * height
    assert columns.min() > 0.6 * width


def test_negative_numbers_have_another_hue() -> None:
    values = np.zeros((4, 6))
    values[3, 0] = -3

    rows, _ = near(png(values), (213, 94, 0))

    assert len(rows) > 400
    assert not len(near(png(values), UP[-1])[0])


def test_a_map_names_its_layers_and_the_largest_number(written: list[str]) -> None:
    values = np.random.RandomState(0).rand(20, 32)
    values[2, 3] = 6.25

    png(values)

    assert {"0", "6.25 nats", *(f"layer {i}" for i in range(1, 21)), "unit", "1", "30"} <= {
        *written
    }


def test_a_map_over_two_quantities_names_them(written: list[str]) -> None:
    numbers = np.zeros((5, 8))
    numbers[0, 7] = 2.5
    axes = {"x": ("position in m", -2, 1), "y": ("velocity in m/s", -3.0, 3.0)}
    (drawn,) = checked({"seen": axes | {"numbers": numbers, "unit": "log(1 + visits)"}}).values()

    rows, columns = near(png(drawn), UP[-1])

    assert {"2.5 log(1 + visits)", "position in m", "velocity in m/s"} <= {*written}
    assert {"-2", "-1", "0", "1", "2"} <= {*written}
    assert not {"unit", "layer 1"} & {*written}
    height, width, _ = pixels(png(drawn)).shape
    fields = columns[rows > 3 * 24]  # not the scale of colours
    assert len(fields) > 400
    assert fields.min() > 0.6 * width
    assert rows.max() < 0.5 * height


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": ("position", 1, 1)}, "x = ('position', 1, 1); give (name, least, largest)"),
        ({"y": 3}, "y = 3; give"),
        ({"numbers": np.zeros(3)}, "has the shape (3,)"),
        ({"numbers": np.zeros((1, 1, 1, 2, 2))}, "a map has rows and columns"),
        ({"z": 1}, "a map has numbers, x, y, unit"),
    ],
)
def test_what_is_no_map_is_told(change: dict, said: str) -> None:
    value = {"numbers": np.zeros((2, 2)), "x": ("a", 0, 1), "y": ("b", 0, 1), "unit": "c"}

    with pytest.raises(ValueError, match=re.escape(said)):
        checked({"seen": value | change})


def test_bars_say_the_largest_number_and_what_is_none(written: list[str]) -> None:
    values = np.linspace(0, 3.25, 50)
    values[7] = np.nan

    png(values[None])

    assert "nats per unit: largest 3.25 nats, 1 not finite" in written
    assert {"0", "4", "1", "10", "50"} <= {*written}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (1, 200), (1, 1000), (20, 32), (2, 2), (99, 7)])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-30, 3e38, -3e38, np.nan, np.inf, "random", "mixed"])
def test_any_numbers_are_drawn_and_nothing_is_cut_off(
    shape: tuple[int, int], value: float | str
) -> None:
    if isinstance(value, str):
        values = np.random.RandomState(0).standard_normal(shape) * 123.4
        values.flat[0] = np.nan if value == "mixed" else 1
    else:
        values = np.full(shape, value)

    picture = pixels(png(checked({"kl": values})["kl"]))

    assert picture.shape[1] <= 3200
    edges = picture[0], picture[-1], picture[:, 0], picture[:, -1]
    assert all((edge > 240).all() for edge in edges)


def test_pictures_are_given_as_tensors_of_any_kind() -> None:
    given = {
        "A-b_1": torch.ones(2, 3, 1, 4, 4, dtype=torch.bfloat16, requires_grad=True),
        "kl": torch.arange(6).reshape(2, 3),
        "list": [[0.5, 1.0]],
    }

    found = checked(given)

    assert [x.shape for x in found.values()] == [(2, 3, 1, 4, 4), (2, 3), (1, 2)]
    assert found["kl"][1, 2] == 5


FINE = np.zeros((2, 2))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([FINE], "returned a list"),
        ({str(i): FINE for i in range(MOST + 1)}, "returned 13 pictures"),
        ({"../x": FINE}, "'../x' cannot name a picture"),
        ({".x": FINE}, "'.x' cannot name"),
        ({"a b": FINE}, "'a b' cannot name"),
        ({"": FINE}, "'' cannot name"),
        ({"x\n": FINE}, "cannot name"),
        ({"é": FINE}, "cannot name"),
        ({"x" * 41: FINE}, "cannot name"),
        ({"Samples": FINE}, "another word than 'samples'"),
        ({"clip": FINE}, "'clip' cannot name"),
        ({"kl": FINE, "KL": FINE}, "differ in case alone: kl, KL"),
        ({"kl": np.zeros(3)}, r"kl has the shape \(3,\)"),
        ({"kl": np.zeros((0, 3))}, "shape"),
        ({"x": np.zeros((1, 1, 2, 4, 4))}, "C = 1 or 3"),
        ({"x": np.zeros((1, 101, 1, 1, 1))}, "at most 100 rows and columns"),
        ({"x": np.zeros((1, 1001))}, "at most 1000 rows and columns"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(given: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        checked(given)
