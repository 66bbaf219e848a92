"""A folder of images: in one order everywhere, and only images that are as they must be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lit_gen.datamodules.files import DataError
from lit_gen.datamodules.folders import ImageFolder

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
NAMES = [f"{'ab'[i % 2]}/{i:02d}.{'png' if i % 3 else 'bmp'}" for i in range(12)]  # lossless both


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve colour images in two subfolders, and what is no image."""
    for i in RNG.permutation(12):  # the order in which they came to be is not theirs
        path = tmp_path / "images" / NAMES[i]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[i]).save(path)
    (tmp_path / "images/a/readme.txt").write_text("not an image")
    return tmp_path / "images"


def made(folder: Path | str | None, **options: object) -> ImageFolder:
    return ImageFolder(
        str(folder) if folder else None,
        **{"size": 8, "batch_size": 4, "held_out": 0} | options,
    )


def ready(folder: Path | str, **options: object) -> ImageFolder:
    data = made(folder, **options)
    data.prepare_data()
    data.setup("fit")
    return data


def test_images_come_in_the_order_of_their_names(folder: Path) -> None:
    data = ready(folder)

    expected = PIXELS[np.argsort(NAMES)].transpose(0, 3, 1, 2)
    assert torch.equal(data.images("train"), torch.from_numpy(expected.copy()))
    assert len(data.images("test")) == 0


def test_batches_are_floats_of_whole_passes(folder: Path) -> None:
    data = ready(folder, updates=5, seed=3)

    batches = list(data.train_dataloader())

    assert len(batches) == 5
    assert batches[0].shape == (4, 3, 8, 8)
    seen = (torch.cat(batches[:3]) * 255).round().byte().flatten(1).tolist()
    assert sorted(seen) == sorted(data.images("train").flatten(1).tolist())
    assert torch.equal(next(iter(ready(folder, seed=3).epochs)), batches[0])
    assert not torch.equal(next(iter(ready(folder, seed=4).epochs)), batches[0])


def test_held_out_images_are_trained_on_by_nobody(folder: Path) -> None:
    data, again = ready(folder, held_out=5), ready(folder, held_out=5, seed=9)

    train, test = data.images("train"), data.images("test")

    assert (len(train), len(test)) == (7, 5)
    assert torch.equal(again.images("test"), test)
    every = torch.cat([train, test]).flatten(1).tolist()
    assert sorted(every) == sorted(PIXELS.transpose(0, 3, 1, 2).reshape(12, -1).tolist())


def test_the_fingerprint_is_of_the_pixels_and_their_order(folder: Path, tmp_path: Path) -> None:
    first = ready(folder).fingerprint
    assert ready(folder).fingerprint == first

    renamed = tmp_path / "renamed"
    for i, at in enumerate(np.argsort(NAMES)):
        renamed.mkdir(exist_ok=True)
        Image.fromarray(PIXELS[at]).save(renamed / f"{i:02d}.png")
    assert ready(renamed).fingerprint == first
    (renamed / "00.png").rename(renamed / "99.png")
    assert ready(renamed).fingerprint != first


def test_a_relative_folder_lies_in_the_data_directory_first(folder: Path, monkeypatch) -> None:
    monkeypatch.delenv("LIT_GEN_DATA", raising=False)
    assert len(ready("images", data_dir=str(folder.parent)).images("train")) == 12
    monkeypatch.setenv("LIT_GEN_DATA", str(folder.parent))
    assert len(ready("images").images("train")) == 12
    monkeypatch.delenv("LIT_GEN_DATA")
    monkeypatch.chdir(folder.parent)
    assert len(ready("images").images("train")) == 12


def test_gray_images(tmp_path: Path) -> None:
    for i in range(4):
        Image.fromarray(PIXELS[i, ..., 0]).save(tmp_path / f"{i}.png")

    x = ready(tmp_path, channels=1).images("train")

    assert torch.equal(x[:, 0], torch.from_numpy(PIXELS[:4, ..., 0].copy()))


def test_a_palette_is_colour(tmp_path: Path) -> None:
    Image.fromarray(PIXELS[0]).quantize(256).save(tmp_path / "0.gif")
    Image.fromarray(PIXELS[1]).save(tmp_path / "1.png")

    assert ready(tmp_path, batch_size=2).images("train").shape == (2, 3, 8, 8)


def test_goes_on_where_it_stopped(folder: Path) -> None:
    data, other = ready(folder, updates=5), ready(folder, updates=5)
    iterator = iter(data.train_dataloader())
    for _ in range(2):
        next(iterator)

    other.load_state_dict(data.state_dict())

    rest, theirs = list(data.train_dataloader()), list(other.train_dataloader())
    assert len(rest) == 3
    assert all(torch.equal(a, b) for a, b in zip(rest, theirs, strict=True))


def test_processes_share_batches(folder: Path) -> None:
    whole, half = ready(folder), made(folder)
    half.share(1, 2)
    half.prepare_data()
    half.setup("fit")

    for a, b in zip(whole.train_dataloader(), half.train_dataloader(), strict=True):
        assert torch.equal(a[1::2], b)


def test_nothing_is_prepared_without_a_folder_and_training_says_so() -> None:
    """`reproduce data` asks every reproduction; those without a folder must not stop it."""
    data = made(None)

    data.prepare_data()
    assert data.verify() == []
    with pytest.raises(DataError, match=r"No folder is given.*8 x 8.*--data\.folder PATH"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("options", "said"),
    [({"size": 16}, r"a.00\.bmp has 8 x 8 pixels; 16 x 16 are needed"),
     ({"channels": 1}, r"a.00\.bmp has Pillow's mode 'RGB'; gray images are needed"),
     ({"batch_size": 13}, "has 12 images, but held_out=0 and batch_size=13 need 13"),
     ({"held_out": 10}, "held_out=10 and batch_size=4 need 14"),
     ({"limit": 3}, "has 3 images")],
)  # fmt: skip
def test_what_does_not_fit_is_named(folder: Path, options: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        ready(folder, **options)


@pytest.mark.parametrize("mode", ["RGBA", "L", "I;16"])
def test_other_colours_are_refused(folder: Path, mode: str) -> None:
    size = (8, 8, 4) if mode == "RGBA" else (8, 8)
    pixels = np.zeros(size, np.uint16 if mode == "I;16" else np.uint8)
    Image.fromarray(pixels).save(folder / "a/00.png")

    with pytest.raises(DataError, match=f"mode '{mode}'; colour images are needed"):
        ready(folder)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n cut off"])
def test_a_file_that_cannot_be_read_is_named(folder: Path, content: bytes) -> None:
    (folder / "b/05.png").write_bytes(content)

    with pytest.raises(DataError, match=r"b.05\.png cannot be read as an image"):
        ready(folder)
    found = {file.name: file.status for file in made(folder).verify()}
    assert found.pop("b/05.png").startswith("corrupt: ")
    assert set(found.values()) == {"ok"}
    assert len(found) == 11


def test_a_cut_off_image_is_named(folder: Path) -> None:
    path = folder / "b/05.png"
    path.write_bytes(path.read_bytes()[:-60])

    with pytest.raises(DataError, match="cannot be read as an image"):
        ready(folder)


def test_no_folder_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is no folder"):
        ready(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no image"):
        ready(tmp_path)


@pytest.mark.parametrize("options", [{"channels": 2}, {"size": 0}, {"batch_size": 1}])
def test_arguments_are_checked(options: dict) -> None:
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        made("x", **options)
