"""What happens between a run's training steps: its record, its checkpoint, its samples, its end."""

import contextlib
import io
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from lit_gen.harness import pictures, provenance
from lit_gen.harness.record import CHECKPOINT, RECORD, SAMPLES, Record, write, write_atomically
from lit_gen.harness.schema import LARGEST_NUMBER
from lit_gen.harness.spec import UserError
from lit_gen.harness.team import ALONE, Team

GRIDS = Path(SAMPLES).stem  # the folder of samples drawn while training
COLUMNS = 10  # of such a grid
CHECKPOINT_EVERY = 60.0  # seconds; an epoch's end has one, too,
CHECKPOINT_SHARE = 0.1  # if they do not take more than this part of the time
LOOK_EVERY = 0.25  # seconds, where a look makes a GPU or other processes wait


class Stopped(BaseException):
    """Raised between two steps, after a checkpoint, to leave Lightning's loops."""


class Diverged(Exception):
    """A loss is not finite."""


class Clock:
    """When a training is looked at, and when it writes a checkpoint."""

    def __init__(self) -> None:
        self.next_look = 0  # the step at which
        self.cost = 0.0  # of a checkpoint, in seconds
        self.start(0)

    def start(self, steps: int) -> None:
        self.saved = time.monotonic()
        self.looked = steps, self.saved

    def pace(self, steps: int) -> int:
        """Steps in LOOK_EVERY, as fast as since the last look; that at `steps` is now the last."""
        before, then = self.looked
        self.looked = steps, time.monotonic()
        return int((steps - before) / max(self.looked[1] - then, 1e-9) * LOOK_EVERY)

    @property
    def due(self) -> bool:
        """Whether a checkpoint is overdue."""
        return time.monotonic() - self.saved > CHECKPOINT_EVERY

    @property
    def affordable(self) -> bool:
        """Whether checkpoints take less than their share of the time, if one is written now."""
        return time.monotonic() - self.saved > self.cost / CHECKPOINT_SHARE

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.saved = time.monotonic()
        self.cost = self.saved - began


def other_data(folder: Path, before: object, now: object) -> UserError:
    """What to raise for a run that has seen other data than those it is now given."""
    return UserError(
        f"{folder} was begun on other data files (fingerprint {str(before)[:8]}, now "
        f"{str(now)[:8]}). Give the old ones, or another --runs-dir to keep both, or move that "
        "folder away to start anew."
    )


class Watch(pl.Callback):
    """Keeps the record, the checkpoint and the user up to date, and ends the run when it must.

    Args:
        record: filled as the run goes on.
        folder: where record and checkpoint are written.
        stop: returns why the run should stop now, or None.
        on_step, on_epoch: told the record after each, for progress display and tracking.
        team: the processes that train this run together. They decide the same at the same step; the
            leader alone writes.
    """

    def __init__(
        self,
        record: Record,
        folder: Path,
        stop: Callable[[], str | None],
        on_step: Callable[[Record, int, int], None],
        on_epoch: Callable[[Record], None],
        team: Team = ALONE,
    ) -> None:
        self.record, self.folder, self.stop, self.team = record, folder, stop, team
        self.on_step, self.on_epoch = on_step, on_epoch
        self.sums: dict[str, torch.Tensor] = {}
        self.count = 0
        self.steps = 0
        self.validated = False
        self.clock = Clock()
        self.stretch: provenance.Stretch | None = None  # the leader's, once the device is known
        self.built: dict[str, Any] | None = None  # random state, which DDP's start resets
        self.random_state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "spec_hash": self.record.spec_hash,
            "curve": self.record.result.get("curve", {}),
            "epochs": self.record.epochs,
            "sums": {name: value.cpu() for name, value in self.sums.items()},
            "count": self.count,
            "steps": self.steps,
            "random_state": random_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.record.result["curve"] = state["curve"]
        self.record.epochs, self.record.steps = state["epochs"], state["steps"]
        if self.stretch:
            self.stretch.first_step = state["steps"]
        self.sums, self.count, self.steps = state["sums"], state["count"], state["steps"]
        self.random_state = state["random_state"]

    def setup(self, trainer: pl.Trainer, model: pl.LightningModule, stage: str) -> None:
        if self.built is not None:
            set_random_state(self.built)
        data = trainer.datamodule
        fingerprint = getattr(data, "fingerprint", None)
        before = self.record.provenance.setdefault("data", fingerprint)
        if before != fingerprint:
            raise other_data(self.folder, before, fingerprint)
        for deviation in getattr(data, "deviations", ()):
            if deviation not in self.record.deviations:
                self.record.deviations.append(deviation)

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.clock.start(self.steps)
        if self.random_state is not None:  # no hook of Lightning's draws a number after this
            set_random_state(self.random_state)

    def on_train_batch_start(self, *_: Any) -> None:
        if self.record.provenance.get("segments", [{}])[-1].get("compiled"):
            torch.compiler.cudagraph_mark_step_begin()

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.steps += 1
        self.count += 1
        for name, value in (outputs or {}).items():
            value = torch.as_tensor(value).detach().squeeze()
            value = value.cpu() if value.device.type == "mps" else value  # it has no float64
            previous = self.sums.get(name, torch.zeros((), dtype=torch.float64))
            self.sums[name] = previous.to(value.device) + value.double()
        self.record.steps = self.steps
        self.on_step(self.record, index + 1, trainer.num_training_batches)
        last = index + 1 == trainer.num_training_batches
        if self.steps < self.clock.next_look and not last:
            return
        reason, due = self.look(trainer, asks=not last)
        if not last:  # an epoch's last step belongs to its end
            if reason or due:
                self.save(trainer)
            if reason:
                raise Stopped(reason)

    def look(self, trainer: pl.Trainer, asks: bool = True) -> tuple[str | None, bool]:
        """Why to stop now, if it `asks`, and whether a checkpoint is due; all processes agree.

        Raises:
            Diverged: a number of any process is not finite.
        """
        reason = self.stop() if asks else None
        wrong = [name for name, value in self.sums.items() if not value.isfinite()]
        before, _ = self.clock.looked
        pace = self.clock.pace(self.steps)
        costs = self.team.size > 1 or trainer.strategy.root_device.type != "cpu"
        leads = self.team.leader  # its clock counts
        stop, broken, due, pace = self.team.largest(
            reason is not None,
            bool(wrong),
            leads and self.clock.due,
            pace if leads and costs else 0,
        )
        self.clock.next_look = self.steps + max(1, int(pace))
        if broken:
            what = ", ".join(wrong) or "a number of another process"
            raise Diverged(f"{what} is not finite {when(before, self.steps)}")
        return (reason or "another process was told to stop") if stop else None, bool(due)

    def on_validation_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.sums = self.team.average(self.sums)
        # Lightning keeps the values of an earlier epoch otherwise
        self.close_epoch(trainer.callback_metrics if self.validated else {})
        self.validated = False
        if self.team.leader and shown(self.record.epochs, trainer.max_epochs):
            self.sample(model)  # before the checkpoint: who goes on from it has these samples
        self.on_epoch(self.record)
        last = self.record.epochs == trainer.max_epochs
        reason = None if last else self.look(trainer)[0]
        affordable = self.team.leader and self.clock.affordable  # its clock counts
        if reason or last or self.team.largest(affordable)[0]:
            self.save(trainer)
        if reason:
            raise Stopped(reason)

    def close_epoch(self, measured: Mapping[str, Any]) -> None:
        """Adds a row to the curve: the means of the epoch's steps, and what was measured.

        Raises:
            Diverged: one of them is not finite.
        """
        row = {name: float(value) / self.count for name, value in self.sums.items()}
        row |= {name: float(value) for name, value in measured.items()}
        for name, value in row.items():
            if not abs(value) <= LARGEST_NUMBER:
                raise Diverged(f"{name} is {value} after epoch {self.record.epochs + 1}")
        self.sums, self.count = {}, 0
        self.record.epochs += 1
        columns = self.record.result.setdefault("curve", {})
        for name in dict.fromkeys([*columns, *sorted(row)]):
            column = columns.setdefault(name, [None] * (self.record.epochs - 1))
            column.append(float(f"{row[name]:.7g}") if name in row else None)

    def sample(self, model: pl.LightningModule) -> None:
        if hasattr(model, "sample"):
            path = self.folder / GRIDS / f"epoch_{self.record.epochs:04d}.png"
            write_atomically(path, draw(model))

    def save(self, trainer: pl.Trainer) -> None:
        with self.clock.saving():
            self.sums = self.team.average(self.sums)
            self.record.result.setdefault("curve", {})
            trainer.save_checkpoint(self.folder / CHECKPOINT)
            if self.team.leader:
                self.stretch.measure(self.steps)
                write(self.folder / RECORD, self.record)


def when(before: int, now: int) -> str:
    """In which step something happened that two looks enclose."""
    return f"at step {now}" if now <= before + 1 else f"in steps {before + 1} to {now}"


class WholeFiles(TorchCheckpointIO):
    """Replaces a checkpoint only by a whole one, on the same disk; Lightning's goes by /tmp."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Path, storage_options: Any = None
    ) -> None:
        buffer = io.BytesIO()  # torch turns a file's OSError into one that does not say why
        torch.save(checkpoint, buffer)
        partial = Path(path).with_name(f".{Path(path).name}.partial")
        try:
            with open(partial, "wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)  # it may be what fills the disk
            raise UserError(
                f"{path} cannot be written: {error.strerror or error}. The last checkpoint is "
                "whole: free some space and run the same command again."
            ) from error


def random_state() -> dict[str, Any]:
    """Every random state of the process, in types that a weights-only checkpoint may hold."""
    _, keys, at, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [torch.from_numpy(keys.astype(np.int64)), at, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
    keys, at, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), at, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def shown(epoch: int, last: int) -> bool:
    """Whether samples are drawn after that epoch: 1, 2, 5, 10, 20, 50, 100, ... and the last."""
    return epoch == last or str(epoch).rstrip("0") in ("1", "2", "5")


def draw(model: pl.LightningModule) -> bytes:
    """A grid of 100 samples. Training goes on as if none had been drawn."""
    with at_rest(model):
        samples = model.sample(100).cpu().numpy()
    return pictures.grid(samples.reshape(-1, COLUMNS, *samples.shape[1:]))


@contextlib.contextmanager
def at_rest(model: pl.LightningModule) -> Iterator[None]:
    """Eval mode without gradients; at its end random states, modes and buffers, such as a batch
    normalisation's averages, are put back."""
    state = random_state()
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        set_random_state(state)
