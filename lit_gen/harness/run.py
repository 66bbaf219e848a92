"""One run: a configuration, trained by Lightning, watched, kept, resumable to the bit.

What a model and a DataModule may offer beyond Lightning's own interface, all optional:

    training_step returns a dict     its numbers are averaged over the epoch into the curve
    predict_step returns a dict      kept as predictions, what the metrics are computed from
    model.sample(n)                  images (n, C, H, W) in [0, 1], drawn as a grid now and then;
                                     called in eval mode, without gradients
    data's `seed`, `seed_data`       receive the run's seeds; `data_dir` the user's folder
    data.fingerprint, .deviations    SHA-256 of the files, and what is not the paper's about them
    data.state_dict                  the order of the data and the position in it
"""

import contextlib
import fcntl
import importlib
import inspect
import io
import logging
import os
import random
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser, Namespace
from PIL import Image
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.model_helpers import is_overridden

from lit_gen.harness import provenance
from lit_gen.harness.record import (
    CHECKPOINT,
    PREDICTIONS,
    RECORD,
    SAMPLES,
    Record,
    read,
    write,
    write_atomically,
)
from lit_gen.harness.schema import LARGEST_NUMBER
from lit_gen.harness.spec import Seed, Spec, UserError, digest, flatten, nearest
from lit_gen.harness.verdicts import certificate

GRIDS = Path(SAMPLES).stem  # the folder of samples drawn while training
CHECKPOINT_EVERY = 60.0  # seconds; an epoch's end always has one
# arguments of the Trainer that the harness sets itself, or that are about the machine
OWNED = {
    "callbacks", "logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
    "default_root_dir", "num_sanity_val_steps", "plugins", "profiler", "accelerator", "devices",
    "num_nodes", "strategy", "barebones", "model_registry", "enable_autolog_hparams",
    "use_distributed_sampler", "max_time", "log_every_n_steps", "reload_dataloaders_every_n_epochs",
}  # fmt: skip


class Stopped(BaseException):
    """Raised between two steps, after a checkpoint, to leave Lightning's loops."""


class Diverged(Exception):
    """A loss is not finite."""


@dataclass(frozen=True)
class Run:
    """reproduction x setting x protocol x seed, with whatever the user changed about it."""

    spec: Spec
    setting: str
    protocol: str
    seed: Seed
    overrides: dict[str, Any]
    smoke: bool = False

    def parser(self) -> ArgumentParser:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(pl.LightningModule, "model", required=True)
        parser.add_subclass_arguments(pl.LightningDataModule, "data", required=True)
        parser.add_class_arguments(pl.Trainer, "trainer", skip=OWNED, instantiate=False)
        parser.add_argument("--matmul_precision", choices=["highest", "high", "medium"])
        return parser

    def resolve(self) -> tuple[ArgumentParser, Namespace]:
        """The complete configuration, every argument checked against its type.

        Raises:
            UserError: an unknown argument or a value of the wrong type.
        """
        beside = str(self.spec.path.parent)
        if beside not in sys.path:
            sys.path.append(beside)  # a user's own YAML may name a class in a file next to it
        config = self.spec.merged(self.setting, self.protocol, self.smoke, self.overrides)
        certificate.ids(self.spec)  # a metric that cannot be built is said before training
        parser = self.parser()
        try:
            return parser, parser.parse_object(config)
        except Exception as error:  # jsonargparse raises several unrelated ones
            raise UserError(f"{self.spec.name}: {_explain(error, config)}") from error

    def build(
        self,
        parser: ArgumentParser,
        config: Namespace,
        device: str,
        data_dir: str | None = None,
        callback: pl.Callback | None = None,
    ) -> tuple[pl.LightningModule, pl.LightningDataModule, pl.Trainer]:
        """The model, initialised by the run's seed, its data and a trainer.

        Raises:
            UserError: a value that the classes refuse, or a device that is not there.
        """
        given = {"seed": self.seed.model, "seed_data": self.seed.data, "data_dir": data_dir}
        arguments = config.data.get("init_args") or {}
        for name, value in given.items():
            if value is not None and name in arguments:
                arguments[name] = value
        try:
            with quiet_lightning():
                pl.seed_everything(self.seed.model, verbose=False)
            objects = parser.instantiate_classes(config)
            with quiet_lightning():
                trainer = pl.Trainer(
                    **objects.trainer,
                    accelerator=device,
                    devices=1,
                    callbacks=callback,
                    plugins=WholeFiles(),
                    logger=False,
                    enable_checkpointing=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                    num_sanity_val_steps=0,
                )
        except Exception as error:  # a class may raise whatever it likes at a value
            text = " ".join(str(error).split())
            raise UserError(
                f"{self.spec.name} cannot be built ({type(error).__name__}): {text}"
            ) from error
        return objects.model, objects.data, trainer

    def directory(self, root: Path, record: Record) -> Path:
        return root / self.spec.name / record.name


def _explain(error: Exception, config: dict) -> str:
    """jsonargparse's report, of up to fifty lines, as one sentence."""
    text = str(error)
    if found := re.search(r"(Group 'trainer')?.*[Oo]ption '([\w.]+)'", text):
        section = "trainer" if found[1] else "model" if 'key "model"' in text else "data"
        path = config[section].get("class_path", "pytorch_lightning.Trainer")
        if section == "trainer" and found[2] in OWNED:
            return f"trainer.{found[2]} is set by the command itself; see `reproduce run --help`."
        module, _, name = path.rpartition(".")
        known = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        return (
            f"{name} has no argument {found[2]!r}.{nearest(found[2], known)} "
            f"It has: {', '.join(sorted({*known} - OWNED))}."
        )
    if 'Parser key "' not in text:
        return f"{' '.join(text.split())}. Correct that value."
    *_, key, rest = re.split(r'Parser key "([\w.]+)":', text)
    if wrong := re.search(r"class_path '([^']+)':\s+(.+)", rest):
        return f"{wrong[1]} cannot be used as {key}: {wrong[2]}. Correct the class_path."
    rest = rest.split("Given value type")[0]
    if "class_path" in text:  # the last alternative of the model or data as a whole is null
        rest = rest.rpartition("Expected a <class 'NoneType'>")[0] or rest
    types = re.findall(r"Expected an? (?:<class ')?([\w ]+)", rest)
    kinds = " or ".join(dict.fromkeys(t.strip().replace("NoneType", "null") for t in types))
    values = dict(flatten(config))
    if not kinds:
        return f"{key} does not fit: {' '.join(rest.split())[:200]}. Correct that value."
    value = next(
        (v for name, v in values.items() if name.split(".")[-1] == key.split(".")[-1]), "?"
    )
    return f"{key.split('.')[-1]} = {value!r} is not valid: expected {kinds}. Correct that value."


def _public(config: dict[str, Any]) -> dict[str, Any]:
    """What all seeds of a cell share, and the mathematics depends on, as plain JSON types."""
    own = ("seed", "seed_data", "data_dir")
    data = {k: v for k, v in config["data"].get("init_args", {}).items() if k not in own}
    return config | {"data": config["data"] | {"init_args": data}}


def new_record(run: Run, resolved: dict[str, Any]) -> Record:
    config = _public(resolved)
    if not config["trainer"]["max_epochs"] or config["trainer"]["max_epochs"] < 1:
        raise UserError(
            f"{run.spec.name} has trainer.max_epochs = {config['trainer']['max_epochs']}. "
            "A run's length is in epochs: give 1 or more."
        )
    deviations = list(run.spec.departures(run.setting, run.protocol))
    if config["matmul_precision"] != "highest":
        deviations.append(
            f"matrix products in torch's {config['matmul_precision']!r} float32 precision"
        )
    deviations += [
        f"{key} = {value!r}" for key, value in flatten(run.overrides) if key != "matmul_precision"
    ]
    return Record(
        reproduction=run.spec.name,
        setting=run.setting,
        protocol=run.protocol,
        seed=run.seed._asdict(),
        config=config,
        spec_hash=digest(config | {"seed": run.seed._asdict()}),
        deviations=deviations,
        smoke=run.smoke,
        overrides=run.overrides,
        max_epochs=config["trainer"]["max_epochs"],
    )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run directory; the lock goes with the process, however that ends.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror}. Choose another folder with --runs-dir."
        ) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 20).decode() or "?"
            raise UserError(
                f"{folder} is in use by process {holder}. "
                "Wait for it, or run another seed with --seeds."
            ) from None
        with contextlib.suppress(OSError):  # a courtesy, which a full disk may refuse
            os.ftruncate(file, 0)
            os.write(file, str(os.getpid()).encode())
        yield
    finally:
        os.close(file)


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


class Watch(pl.Callback):
    """Keeps the record, the checkpoint and the user up to date, and ends the run when it must.

    Args:
        record: filled as the run goes on.
        folder: where record and checkpoint are written.
        stop: returns why the run should stop now, or None.
        on_step, on_epoch: told the record after each, for progress display and tracking.
    """

    def __init__(
        self,
        record: Record,
        folder: Path,
        stop: Callable[[], str | None],
        on_step: Callable[[Record, int, int], None],
        on_epoch: Callable[[Record], None],
    ) -> None:
        self.record, self.folder, self.stop = record, folder, stop
        self.on_step, self.on_epoch = on_step, on_epoch
        self.sums: dict[str, torch.Tensor] = {}
        self.count = 0
        self.steps = 0
        self.validated = False
        self.stretch: provenance.Stretch  # set once the device is known
        self.random_state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "spec_hash": self.record.spec_hash,
            "curve": self.record.result.get("curve", {}),
            "epochs": self.record.epochs,
            "sums": self.sums,
            "count": self.count,
            "steps": self.steps,
            "random_state": random_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.record.result["curve"] = state["curve"]
        self.record.epochs, self.record.steps = state["epochs"], state["steps"]
        self.stretch.first_step = state["steps"]
        self.sums, self.count, self.steps = state["sums"], state["count"], state["steps"]
        self.random_state = state["random_state"]

    def setup(self, trainer: pl.Trainer, model: pl.LightningModule, stage: str) -> None:
        data = trainer.datamodule
        fingerprint = getattr(data, "fingerprint", None)
        before = self.record.provenance.setdefault("data", fingerprint)
        if before != fingerprint:
            raise UserError(
                f"{self.folder} was begun on other data files (fingerprint {str(before)[:8]}, now "
                f"{str(fingerprint)[:8]}). Give the old ones with --data-dir, or move that folder "
                "away to start anew."
            )
        for deviation in getattr(data, "deviations", ()):
            if deviation not in self.record.deviations:
                self.record.deviations.append(deviation)

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.saved = time.monotonic()
        if self.random_state is not None:  # no hook of Lightning's draws a number after this
            set_random_state(self.random_state)

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.steps += 1
        self.count += 1
        for name, value in (outputs or {}).items():
            previous = self.sums.get(name)
            value = torch.as_tensor(value).detach().cpu().double()  # some devices have no float64
            self.sums[name] = value if previous is None else previous + value
        self.record.steps = self.steps
        if self.sums and not torch.stack(list(self.sums.values())).isfinite().all():
            names = [name for name, value in self.sums.items() if not value.isfinite()]
            raise Diverged(f"{', '.join(names)} is not finite at step {self.steps}")
        self.on_step(self.record, index + 1, trainer.num_training_batches)
        if index + 1 < trainer.num_training_batches:  # an epoch's last step belongs to its end
            reason = self.stop()
            if reason or time.monotonic() - self.saved > CHECKPOINT_EVERY:
                self.save(trainer)
            if reason:
                raise Stopped(reason)

    def on_validation_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        row = {name: float(value) / self.count for name, value in self.sums.items()}
        if self.validated:  # Lightning keeps the values of an earlier epoch otherwise
            row |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.validated = False
        for name, value in row.items():
            if not abs(value) <= LARGEST_NUMBER:
                raise Diverged(f"{name} is {value} after epoch {self.record.epochs + 1}")
        self.sums, self.count = {}, 0
        self.record.epochs += 1
        columns = self.record.result.setdefault("curve", {})
        for name in dict.fromkeys([*columns, *sorted(row)]):
            column = columns.setdefault(name, [None] * (self.record.epochs - 1))
            column.append(float(f"{row[name]:.7g}") if name in row else None)
        if shown(self.record.epochs, trainer.max_epochs) and hasattr(model, "sample"):
            drawn = draw(model)  # before the checkpoint: who goes on from it has these samples
            write_atomically(self.folder / GRIDS / f"epoch_{self.record.epochs:04d}.png", drawn)
        self.save(trainer)
        self.on_epoch(self.record)
        if self.record.epochs < trainer.max_epochs and (reason := self.stop()):
            raise Stopped(reason)

    def save(self, trainer: pl.Trainer) -> None:
        self.record.result.setdefault("curve", {})
        trainer.save_checkpoint(self.folder / CHECKPOINT)
        self.stretch.measure(self.steps)
        write(self.folder / RECORD, self.record)
        self.saved = time.monotonic()


def execute(
    run: Run,
    root: Path,
    device: str = "auto",
    threads: int | None = None,
    data_dir: str | None = None,
    stop: Callable[[], str | None] = lambda: None,
    on_start: Callable[[Record, Path], None] = lambda record, folder: None,
    on_step: Callable[[Record, int, int], None] = lambda record, step, steps: None,
    on_epoch: Callable[[Record], None] = lambda record: None,
    on_end: Callable[[Record, Path], None] = lambda record, folder: None,
    plan: dict[str, int] | None = None,
) -> Record:
    """Trains, or goes on training, one run, and leaves its record however it ends.

    Args:
        run: what to train.
        root: folder of all run directories.
        device: Lightning's accelerator: auto, cpu, cuda, mps.
        threads: of torch's CPU kernels; None leaves torch's choice.
        data_dir: handed to the DataModule.
        stop: asked after every step for a reason to stop, such as a signal or a spent budget.
        on_start, on_step, on_epoch, on_end: told how it goes; of a run that was finished before,
            only its end.
        plan: kept in the record's provenance, see `sequential`.

    Returns:
        The record: finished, stopped, crashed or diverged.

    Raises:
        UserError: what the user can mend: arguments, data, a run directory in use.
    """
    parser, config = run.resolve()
    resolved = config.as_dict()
    record = new_record(run, resolved)
    folder = run.directory(root, record)
    with locked(folder):
        if (folder / RECORD).is_file():
            previous = read(folder / RECORD)
            if previous.spec_hash != record.spec_hash:
                raise UserError(
                    f"{folder} holds a run of another specification: "
                    f"{_difference(previous.config, record.config)}. "
                    "Move that folder away to start anew, or give the old values to go on with it."
                )
            if previous.status in ("finished", "diverged"):
                on_end(previous, folder)
                return previous
            record.provenance = previous.provenance
        checkpoint = _readable(folder / CHECKPOINT, record.spec_hash)
        if checkpoint is None:
            record.provenance = {}
        if plan:
            record.provenance.setdefault("plan", plan)
        if threads:
            torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(config.matmul_precision)
        watch = Watch(record, folder, stop, on_step, on_epoch)
        model, data, trainer = run.build(parser, config, device, data_dir, watch)
        data.prepare_data()  # Lightning would too, but turns Ctrl-C in a download into a crash
        stretch = provenance.Stretch(_device_name(trainer), torch.get_num_threads())
        record.provenance.setdefault("segments", []).append(stretch.facts)
        watch.stretch = stretch
        if checkpoint is None:
            write(folder / RECORD, record)
        on_start(record, folder)
        try:
            with quiet_lightning():
                trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
                _finish(record, folder, trainer, model, data)
            record.result["metric_ids"] = certificate.ids(run.spec, record.result["metrics"])
            record.status = "finished"
        except Stopped as reason:
            record.status = "stopped"
            record.error = {"type": "Stopped", "message": str(reason)}
        except Exception as error:  # a crashed run is a record too
            refused = isinstance(error, MisconfigurationException) and not record.steps
            if refused or getattr(error, "exit_status", None) == 2:  # the user's, or the data's
                if checkpoint is None and not record.steps:  # nothing has ever been run
                    (folder / RECORD).unlink(missing_ok=True)
                if not refused:
                    raise
                text = " ".join(str(error).split())
                raise UserError(f"{run.spec.name} cannot be trained like this: {text}") from error
            record.status = "diverged" if isinstance(error, Diverged) else "crashed"
            record.error = {
                "type": type(error).__name__,
                "message": str(error),
                "step": record.steps,
                "traceback": traceback.format_exc().splitlines()[-12:],
            }
        stretch.measure(record.steps)
        write(folder / RECORD, record)
        on_end(record, folder)
        return record


def _readable(checkpoint: Path, spec_hash: str) -> str | None:
    """The checkpoint to go on from, if there is one.

    Raises:
        UserError: it is damaged, or another run's.
    """
    if not checkpoint.is_file():
        return None
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # pickle's, zip's and torch's own
        raise UserError(
            f"{checkpoint} cannot be read ({' '.join(str(error).split())[:100]}). "
            "Move it away to start this run anew."
        ) from error
    theirs = content.get("callbacks", {}).get("Watch", {}).get("spec_hash")
    if theirs != spec_hash:
        raise UserError(
            f"{checkpoint} is of another specification or seed (hash {str(theirs)[:8]}, this run's "
            f"is {spec_hash[:8]}). Move it away to start this run anew."
        )
    return str(checkpoint)


def _finish(
    record: Record,
    folder: Path,
    trainer: pl.Trainer,
    model: pl.LightningModule,
    data: pl.LightningDataModule,
) -> None:
    """What a finished run leaves: metrics, predictions, samples."""
    if is_overridden("test_step", model):
        trainer.test(model, datamodule=data, verbose=False)
    tested = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for name, value in tested.items():
        if not abs(value) <= LARGEST_NUMBER:
            raise Diverged(f"{name} is {value} in the final test")
    record.result["metrics"] = tested
    kept = is_overridden("predict_step", model) and is_overridden("predict_dataloader", data)
    batches = trainer.predict(model, datamodule=data) if kept else []
    if batches and isinstance(batches[0], dict):
        arrays = {k: torch.cat([b[k] for b in batches]).cpu().numpy() for k in batches[0]}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(folder / PREDICTIONS, buffer.getvalue())
    if hasattr(model, "sample"):
        write_atomically(folder / SAMPLES, draw(model))


def shown(epoch: int, last: int) -> bool:
    """Whether samples are drawn after that epoch: 1, 2, 5, 10, 20, 50, 100, ... and the last."""
    return epoch == last or str(epoch).rstrip("0") in ("1", "2", "5")


def draw(model: pl.LightningModule) -> bytes:
    """A grid of 100 samples. Training goes on as if none had been drawn: random states, modes and
    buffers, such as a batch normalisation's averages, are put back."""
    state = random_state()
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        model.eval()
        with torch.no_grad():
            return grid(model.sample(100).cpu().numpy())
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        set_random_state(state)


def grid(images: np.ndarray, columns: int = 10) -> bytes:
    """Images (N, C, H, W) in [0, 1], N a multiple of `columns`, side by side as a PNG."""
    n, c, h, w = images.shape
    rows = images.reshape(n // columns, columns, c, h, w).transpose(0, 3, 1, 4, 2)
    pixels = (rows.reshape(n // columns * h, columns * w, c) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's advice about workers, loggers and devices is not for the users of a command."""
    loggers = [logging.getLogger(n) for n in ("pytorch_lightning", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _device_name(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _difference(old: dict, new: dict) -> str:
    """The settings in which two configurations differ, for an error message."""
    old, new = dict(flatten(old)), dict(flatten(new))
    changed = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    return ", ".join(f"{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in changed)
