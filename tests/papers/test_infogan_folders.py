"""InfoGAN on images of a folder, and on SVHN: from files to a record with its pictures."""

from dataclasses import replace
from pathlib import Path

import manifests
import numpy as np
import pytest
import svhn
from PIL import Image

from lit_gen.harness.cli import main
from lit_gen.harness.run import Run, execute
from lit_gen.harness.spec import find
from lit_gen.papers import infogan

RNG = np.random.default_rng(0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same layers with fewer units (`test_infogan` has all of them), in smaller batches."""
    monkeypatch.setattr(infogan, "BATCH", 40)
    for name, shape in infogan.ARCHITECTURES.items():
        few = {part: getattr(shape, part) // 16 for part in ("trunk_units", "head_units", "dense")}
        for part in ("trunk", "up"):
            few[part] = tuple(c._replace(channels=c.channels // 16) for c in getattr(shape, part))
        few["maps"] = shape.maps[0] // 16, shape.maps[1]
        monkeypatch.setitem(infogan.ARCHITECTURES, name, replace(shape, **few))


def write_images(folder: Path, size: int, channels: int) -> Path:
    """Fourteen PNGs of noise."""
    folder.mkdir()
    for i in range(14):
        pixels = RNG.integers(0, 256, (size, size, channels), dtype=np.uint8).squeeze()
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


@pytest.mark.parametrize(
    ("name", "setting", "shape", "shown"),
    [("celeba", "all", (32, 3), 10), ("svhn", "all", None, 12), ("faces", "azimuth", (32, 1), 10),
     ("chairs", "width", (64, 1), 5)],
)  # fmt: skip
def test_a_run_on_a_user_s_files_ends_with_its_pictures(
    quick, name: str, setting: str, shape: tuple, shown: int, tmp_path: Path, monkeypatch
) -> None:
    data = {"batch_size": 4}
    if shape:
        folder = write_images(tmp_path / "images", *shape)
        data |= {"folder": str(folder), "held_out": 4, "updates": 2}
    else:
        manifest = manifests.shipped()
        svhn.write(tmp_path, manifest["svhn"]["editions"][0], train=14, test=14)
        manifests.use(manifest, tmp_path, monkeypatch)
    spec = find(f"infogan_{name}")
    changes = {"data": {"init_args": data}}
    run = Run(spec, setting, spec.default_protocol, spec.seeds[0], changes, smoke=True)

    record = execute(run, tmp_path / "runs", "cpu")

    assert record.status == "finished", record.error
    assert record.steps == (2 if shape else 3)
    said = {name for name in record.result["curve"] if "information" in name}
    kinds = {"celeba": [""], "faces": ["_continuous"]}.get(name, ["", "_continuous"])
    assert said == {f"train/mutual_information{kind}" for kind in kinds}
    drawn = {p.stem for p in tmp_path.glob("runs/*/*/pictures/traversal_*.png")}
    assert len(drawn) == shown
    assert list(tmp_path.glob("runs/*/*/samples.png"))


@pytest.mark.parametrize(("shape", "said"), [((64, 3), "3 x 64 x 64"), ((32, 1), "1 x 32 x 32")])
def test_images_of_another_size_are_the_user_s_mistake(
    quick, shape: tuple[int, int], said: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    size, channels = shape
    folder = write_images(tmp_path / "images", size, channels)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SystemExit) as ended:
        main(["infogan_celeba", "--smoke", "--device", "cpu", "--data.folder", str(folder),
              "--data.size", str(size), "--data.channels", str(channels),
              "--data.batch_size", "4", "--data.held_out", "4"])  # fmt: skip

    assert ended.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"networks are for images of 3 x 32 x 32 numbers, the data's have {said}. Give" in told
    assert "--data.size 32 --data.channels 3" in told
    assert not list(tmp_path.rglob("record.json"))  # nothing was run
