"""The nearest training images are the nearest, and copies are found out."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lit_gen.harness import nearest
from lit_gen.harness.nearest import cut, distances, panel, search, spread


def images(n: int, seed: int = 0, channels: int = 1, size: int = 6) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=stream)


@pytest.mark.parametrize("chunk", [10, 36 * 7, 2**20])
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_it_finds_what_looking_at_each_finds(
    monkeypatch: pytest.MonkeyPatch, chunk: int, precision: str
) -> None:
    monkeypatch.setattr(nearest, "CHUNK", chunk)
    train, queries = images(300), torch.rand(9, 1, 6, 6)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = search(queries, train, 5)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)

    every = (queries[:, None].double() - train[None].double() / 255).flatten(2).norm(dim=2)
    distance, index = every.topk(5, largest=False)
    assert torch.equal(found.index, index)
    torch.testing.assert_close(found.distance, distance, atol=1e-12, rtol=1e-12)


def test_an_order_that_float32_cannot_tell_is_right() -> None:
    """Squared distances of 1 and 2 levels beside norms of 10^8: a part in 10^8."""
    base = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    two, one = base.clone(), base.clone()
    two[0, 0, 0, :2], one[0, 2, 5, 5] = 254, 254

    found = search(base / 255, torch.cat([images(50, 1, 3, 64), two, one, base]), 3)

    assert found.index.tolist() == [[52, 51, 50]]
    assert found.distance[0].tolist() == pytest.approx([0, 1 / 255, 2**0.5 / 255], abs=1e-9)


def test_fewer_images_than_neighbours_are_all_shown() -> None:
    assert search(torch.rand(2, 1, 6, 6), images(3), 7).index.shape == (2, 3)


def both(samples: Tensor, train: Tensor, test: Tensor) -> nearest.Distances:
    found = search(torch.cat([samples, test / 255]), train)
    return distances(cut(found, 0, len(samples)), cut(found, len(samples), None), train)


def test_copies_have_a_ratio_far_below_one_and_new_images_do_not() -> None:
    train, test = images(500), images(100, 1)
    stream = torch.Generator().manual_seed(2)
    copies = (train[:100] / 255 + 0.02 * torch.randn(100, 1, 6, 6, generator=stream)).clamp(0, 1)
    new = torch.rand(100, 1, 6, 6, generator=stream)

    assert both(copies, train, test).ratio < 0.1
    assert both(new, train, test).ratio == pytest.approx(1, abs=0.05)
    half = torch.cat([copies[:51], new[51:]])
    assert both(half, train, test).ratio < 0.1  # the median
    assert both(torch.cat([copies[:49], new[49:]]), train, test).ratio > 0.5


def test_the_ratio_is_of_two_medians_in_units_of_the_range() -> None:
    train = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    train[1] += 255
    samples = torch.full((3, 1, 2, 2), 0.25)
    test = torch.full((3, 1, 2, 2), 51, dtype=torch.uint8)  # 0.2
    train[2:] += 255
    train[2, 0, 0, 0] = 200  # more than black and white
    test[0, 0, 0, :], samples[0, 0, 0, :] = torch.tensor([50, 49]), torch.tensor([0.3, 0.31])

    known = both(samples, train, test)

    assert (known.samples, known.test) == pytest.approx((0.5, 0.4))
    assert known.ratio == pytest.approx(1.25)


def test_samples_that_are_no_numbers_are_counted_and_have_no_neighbours() -> None:
    train, samples = images(50), torch.rand(9, 1, 6, 6)
    samples[2, 0, 1, 1] = torch.nan
    found = search(samples, train)

    with pytest.raises(ValueError, match="1 of 9 samples have pixels that are not finite"):
        distances(found, search(images(9, 1) / 255, train), train)
    sheet = np.asarray(Image.open(io.BytesIO(panel(found, train))).convert("RGB")).astype(int)
    tiles = sheet[:60, :60], sheet[2 * 64 : 2 * 64 + 60, :60], sheet[2 * 64 : 2 * 64 + 60, 64:]
    red = [((t[..., 0] > 200) & (t[..., 1] < 100)).any() for t in tiles]
    assert red == [False, True, False]
    assert (tiles[2] == 255).all()


def test_the_panel_has_samples_on_the_left_and_the_nearest_beside_them() -> None:
    train = images(40, channels=3)
    samples = train[[5, 9, *range(20)]] / 255

    sheet = np.asarray(Image.open(io.BytesIO(panel(search(samples, train), train)))).astype(int)

    side = 60  # 6 pixels, ten times as large
    step = side + 4
    assert sheet.shape == (8 * step - 4, 8 * step - 4, 3)
    for row, which in enumerate((5, 9)):
        top = sheet[row * step : row * step + side : 10]
        expected = train[which].permute(1, 2, 0).numpy()
        assert (top[:, :side:10] == expected).all()
        assert (top[:, step : step + side : 10] == expected).all()  # its copy is the nearest
        assert (top[:, 2 * step : 2 * step + side : 10] != expected).any()


def test_black_and_white_and_grey_images_are_not_compared() -> None:
    grey, white = images(100), (images(100, 1) > 127).to(torch.uint8) * 255

    with pytest.raises(ValueError, match="test images have two values, samples and training im"):
        both(torch.rand(100, 1, 6, 6), grey, white)
    with pytest.raises(ValueError, match=r"training images and test images have two values, sam"):
        both(torch.rand(100, 1, 6, 6), white, white.flip(0))
    assert both(torch.rand(100, 1, 6, 6).round(), white, white.flip(3)).ratio > 0.5


def test_test_images_among_the_training_images_leave_no_ratio() -> None:
    with pytest.raises(ValueError, match="half of the test images are among the training images"):
        both(torch.rand(10, 1, 6, 6), images(50), images(50)[:10])


def test_a_part_of_a_set_is_from_all_over_it() -> None:
    x = torch.arange(1000)

    assert spread(x, 4).tolist() == [0, 250, 500, 750]
    assert torch.equal(spread(x, 1000), x)
    assert torch.equal(spread(x[:3], 100), x[:3])
