"""Watching a run changes nothing about it, and it ends where it can go on."""

import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from short import short
from torch.utils.data import DataLoader

from lit_gen.datamodules.images import SemiSupervisedMNIST
from lit_gen.harness.record import CHECKPOINT
from lit_gen.harness.run import execute, show
from lit_gen.harness.spec import UserError
from lit_gen.harness.watch import draw, random_state, set_random_state, shown
from lit_gen.papers.improved_gan import SemiSupervisedGAN

NAME = "improved_gan_mnist_semisup"


def test_samples_are_drawn_after_some_epochs_and_change_nothing(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the curve, nor the weights, nor any random state; killed runs draw the same ones."""
    run = short()
    run.overrides["trainer"]["max_epochs"] = 3
    drawn = execute(run, tiny / "drawn", "cpu")
    asked = []

    def stop() -> str | None:
        asked.append(1)
        return "enough" if len(asked) == 15 else None

    execute(run, tiny / "resumed", "cpu", stop=stop)
    resumed = execute(run, tiny / "resumed", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr("lit_gen.harness.watch.shown", lambda epoch, last: False)
        plain = execute(run, tiny / "plain", "cpu")

    def files(root: str) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in tiny.glob(f"{root}/*/*/samples/*.png")}

    def state(root: str) -> dict:
        checkpoint = torch.load(next(tiny.glob(f"{root}/*/*/{CHECKPOINT}")), weights_only=True)
        keys = ("state_dict", "optimizer_states")
        return {k: checkpoint[k] for k in keys} | checkpoint["callbacks"]["Watch"]

    assert sorted(files("drawn")) == ["epoch_0001.png", "epoch_0002.png", "epoch_0003.png"]
    assert files("plain") == {}
    assert files("resumed") == files("drawn")
    assert next(tiny.glob("drawn/*/*/samples.png")).read_bytes() == files("drawn")["epoch_0003.png"]
    assert drawn.result == plain.result == resumed.result
    assert same(state("drawn"), state("plain"))


def test_pictures_change_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither record, predictions, samples nor checkpoint; they get the first batch, at rest."""
    batches = []

    def pictures(self: SemiSupervisedGAN, x: torch.Tensor) -> dict[str, object]:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.train()
        batches.append(x)
        torch.rand(1), np.random.rand(), random.random()
        for buffer in self.buffers():
            buffer.zero_()
        images = x[:6].reshape(2, 3, 1, 28, 28)
        return {"originals": images, "kl": torch.rand(1, 50), "broken": torch.nan * images}

    plain = execute(short(), tiny / "plain", "cpu")
    monkeypatch.setattr(SemiSupervisedGAN, "pictures", pictures, raising=False)
    execute(short(), tiny / "shown", "cpu", stop=lambda: "enough")
    shown = execute(short(), tiny / "shown", "cpu")

    def file(root: str, name: str) -> Path:
        return next(tiny.glob(f"{root}/*/*/{name}"))

    assert (plain.status, shown.status) == ("finished", "finished")
    assert shown.result == plain.result
    for name in ("predictions.npz", "samples.png"):
        assert file("shown", name).read_bytes() == file("plain", name).read_bytes()
    assert same(
        *(torch.load(file(root, CHECKPOINT), weights_only=True) for root in ("shown", "plain"))
    )
    there = sorted(path.name for path in file("shown", "pictures").iterdir())
    assert there == ["broken.png", "kl.png", "nearest.png", "originals.png"]
    assert file("plain", "pictures/interpolations.png")  # the model's own
    (x,) = batches
    data = SemiSupervisedMNIST(validation=100, limit=200, batch_size=20)
    data.prepare_data()
    data.setup("predict")
    assert torch.equal(x, next(iter(data.predict_dataloader()))[0])
    with Image.open(file("shown", "pictures/originals.png")) as image:
        first = np.asarray(image)[:56, :56]  # twice as large
    assert np.abs(first[::2, ::2] / 255 - x[0].reshape(28, 28).numpy()).max() < 0.003


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


class Restless(torch.nn.Module):
    """Sampling from it draws from every random state and moves its modes and averages."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.frozen = torch.nn.BatchNorm2d(1), torch.nn.Dropout().eval()

    def sample(self, n: int) -> torch.Tensor:
        assert not self.norm.training
        assert not torch.is_grad_enabled()
        self.train()
        noise = torch.rand(n, 1, 4, 4) + np.random.rand() + random.random()
        return self.norm(noise).sigmoid()


def test_drawing_puts_everything_back() -> None:
    model = Restless()
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def numbers() -> tuple:
        return torch.rand(1).item(), np.random.rand(), random.random()

    start = random_state()
    expected = numbers()
    set_random_state(start)
    draw(model)

    assert numbers() == expected
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert (model.training, model.norm.training, model.frozen.training) == (True, True, False)


def test_showing_pictures_puts_everything_back(tmp_path: Path) -> None:
    """The loader's random numbers, too; the batch has the model's precision."""

    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.frozen = torch.nn.BatchNorm1d(3), torch.nn.Dropout().eval()

        def pictures(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            self.train()
            return {"numbers": self.norm(x) + torch.rand(1) + np.random.rand()}

    class Data(pl.LightningDataModule):
        def setup(self, stage: str) -> None:
            self.x = torch.arange(12.0).reshape(4, 3)

        def predict_dataloader(self) -> DataLoader:
            return DataLoader(self.x, batch_size=2, shuffle=True)  # no tuples

    model = Model().double().train()
    model.frozen.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    start = random_state()
    expected = torch.rand(1).item(), np.random.rand()
    set_random_state(start)
    (tmp_path / "old.png").write_bytes(b"of an earlier try")

    show(model, Data(), tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["numbers.png"]
    assert (torch.rand(1).item(), np.random.rand()) == expected
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert (model.training, model.norm.training, model.frozen.training) == (True, True, False)


def test_grids_get_rarer() -> None:
    assert [e for e in range(1, 301) if shown(e, 300)] == [1, 2, 5, 10, 20, 50, 100, 200, 300]
    assert [e for e in range(1, 4) if shown(e, 3)] == [1, 2, 3]


def test_checkpoints_hold_no_code(tiny: Path) -> None:
    execute(short(), tiny / "runs", "cpu")

    content = torch.load(next(tiny.glob(f"runs/*/*/{CHECKPOINT}")), weights_only=True)

    assert content["callbacks"]["Watch"]["random_state"]["torch"].dtype == torch.uint8


def test_a_full_disk_is_a_sentence_and_the_last_checkpoint_stays(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(short(), tiny / "runs", "cpu", stop=lambda: "enough")
    path = next(tiny.glob(f"runs/*/*/{CHECKPOINT}"))
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(UserError, match="cannot be written: No space left"):
            execute(short(), tiny / "runs", "cpu")

    assert path.read_bytes() == before
    assert not [p for p in path.parent.iterdir() if "partial" in p.name]
    assert execute(short(), tiny / "runs", "cpu").status == "finished"


@pytest.mark.parametrize(
    ("hook", "status"), [("validation_step", "stopped"), ("test_step", "finished")]
)
def test_sigterm_while_nothing_can_be_kept_waits(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, hook: str, status: str
) -> None:
    """Lightning itself would leave at once, as if the command were done."""
    step = getattr(SemiSupervisedGAN, hook)
    came: list[int] = []

    def signalled(self: SemiSupervisedGAN, *batch: object) -> None:
        if not came:
            os.kill(os.getpid(), signal.SIGTERM)
        step(self, *batch)

    monkeypatch.setattr(SemiSupervisedGAN, hook, signalled)
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        record = execute(short(), tiny / "runs", "cpu", stop=lambda: "SIGTERM" if came else None)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert came == [signal.SIGTERM]
    assert record.status == status
    assert record.epochs == (1 if status == "stopped" else 2)
    assert list(tiny.glob(f"runs/*/*/{CHECKPOINT}"))
