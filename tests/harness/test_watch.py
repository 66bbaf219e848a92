"""Watching a run changes nothing about it, and it ends where it can go on."""

import io
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from short import short

from lit_gen.harness.record import CHECKPOINT
from lit_gen.harness.run import execute
from lit_gen.harness.spec import UserError
from lit_gen.harness.watch import draw, grid, random_state, set_random_state, shown
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


def test_grids_get_rarer() -> None:
    assert [e for e in range(1, 301) if shown(e, 300)] == [1, 2, 5, 10, 20, 50, 100, 200, 300]
    assert [e for e in range(1, 4) if shown(e, 3)] == [1, 2, 3]


def test_grid_puts_images_in_rows() -> None:
    images = np.zeros((20, 1, 2, 3))
    images[11] = 1  # second row, second column

    pixels = np.asarray(Image.open(io.BytesIO(grid(images))))

    assert pixels.shape == (4, 30)
    assert (pixels[2:4, 3:6] == 255).all()
    assert pixels.sum() == 255 * 6


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
