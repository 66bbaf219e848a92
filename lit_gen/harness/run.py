"""One run: a configuration, trained by Lightning, watched, kept, resumable to the bit.

What a model and a DataModule may offer beyond Lightning's own interface, all optional:

    training_step returns a dict     its numbers are averaged over the epoch into the curve
    predict_step returns a dict      kept as predictions, what the metrics are computed from
    model.sample(n)                  images (n, C, H, W) in [0, 1], drawn as a grid now and then;
                                     called in eval mode, without gradients
    model.pictures(x)                what the trained model shows, by name; x: the first batch of
                                     data.predict_dataloader (its first element if it is a tuple;
                                     a mapping as it is), on the model's device; called once at
                                     the end in eval mode, without gradients. A value is images
                                     (rows, columns, C, H, W) in [0, 1], nats (rows, columns) by
                                     layer and unit, or a map: {"numbers": (rows, columns),
                                     "x": (name, least, largest), "y": likewise, "unit": of the
                                     numbers}. A name is letters, digits, "_", "-"; at most 12 of
                                     them. Columns of traversal... and interpolation... are steps
                                     of something: the report's page has a slider for them
    data's `seed`, `seed_data`       receive the run's seeds; `data_dir` the user's folder
    data.fingerprint, .deviations    SHA-256 of the files, and what is not the paper's about them
    data.handed_on()                 arrays for runs of other reproductions, asked for after the
                                     final test: handed_on.npz. Their YAML says needs: {ARG: NAME},
                                     and data's init_arg ARG receives the file of a finished run
    data.targets(split)              the classes of these images, for metrics that need them
    data.images(split)               all images of "train" or "test", (N, C, H, W) uint8. With a
                                     model that can `sample`, samples are shown beside the training
                                     images nearest to them: top of lit_gen/harness/beside.py
    data.clip()                      what the trained model does: frames (T, H, W, 3) uint8 and how
                                     many a second, or None; asked for last. An exception ends no
                                     run: the provenance says why there is no clip
    data.state_dict                  the order of the data and the position in it
    model.compilable                 names of its methods that --compile compiles: functions of
                                     tensors and weights, which do nothing else
    data.share(rank, size)           what several devices need (DDP): from then on this process gets
                                     examples rank, rank + size, ... of every batch. A model whose
                                     loss couples examples uses lit_gen.nn.distributed, and logs
                                     what it measures with sync_dist=True
    Model.together, Data.together    what --replicas needs: top of lit_gen/harness/replicas.py
"""

import contextlib
import dataclasses
import fcntl
import functools
import importlib
import inspect
import io
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser, Namespace
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.nn.modules.batchnorm import _BatchNorm

from lit_gen.harness import beside, pictures, provenance
from lit_gen.harness.record import (
    CHECKPOINT,
    CLIP,
    HANDED_ON,
    NEAREST,
    PICTURES,
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
from lit_gen.harness.team import ALONE, Team
from lit_gen.harness.verdicts import certificate
from lit_gen.harness.watch import (
    Diverged,
    Stopped,
    Watch,
    WholeFiles,
    at_rest,
    draw,
    other_data,
    random_state,
)

# arguments of the Trainer that the harness sets itself, or that are about the machine
OWNED = {
    "callbacks", "logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
    "default_root_dir", "num_sanity_val_steps", "plugins", "profiler", "accelerator", "devices",
    "num_nodes", "strategy", "barebones", "model_registry", "enable_autolog_hparams",
    "use_distributed_sampler", "max_time", "log_every_n_steps", "reload_dataloaders_every_n_epochs",
}  # fmt: skip


class InUse(UserError):
    """Another process holds the run directory."""


@functools.cache  # it takes as long to make as a configuration takes to be checked
def parser() -> ArgumentParser:
    """Of what a reproduction says: any model, any data, a trainer."""
    made = ArgumentParser(exit_on_error=False)
    made.add_subclass_arguments(pl.LightningModule, "model", required=True)
    made.add_subclass_arguments(pl.LightningDataModule, "data", required=True)
    made.add_class_arguments(pl.Trainer, "trainer", skip=OWNED, instantiate=False)
    made.add_argument("--matmul_precision", choices=["highest", "high", "medium"])
    return made


@dataclass(frozen=True)
class Run:
    """reproduction x setting x protocol x seed, with whatever the user changed about it.

    `compiled` is about the machine, as its device is: the record is that of the same run. `needed`
    says which runs of other reproductions it builds on, see lit_gen/harness/needs.py.
    """

    spec: Spec
    setting: str
    protocol: str
    seed: Seed
    overrides: dict[str, Any]
    smoke: bool = False
    compiled: bool = False
    needed: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)

    @property
    def chosen(self) -> dict[str, Any]:
        """Everything but the specification, for another process that has it, too."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if name != "spec"}

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
        try:
            return parser(), parser().parse_object(config)
        except Exception as error:  # jsonargparse raises several unrelated ones
            raise UserError(f"{self.spec.name}: {_explain(error, config)}") from error

    def build(
        self,
        parser: ArgumentParser,
        config: Namespace,
        device: str,
        data_dir: str | None = None,
        callback: pl.Callback | None = None,
        team: Team = ALONE,
    ) -> tuple[pl.LightningModule, pl.LightningDataModule, pl.Trainer]:
        """The model, initialised by the run's seed, its data and a trainer.

        Raises:
            UserError: a value that the classes refuse, a device that is not there, or a model or
                data that several processes cannot train together.
        """
        given = {"seed": self.seed.model, "seed_data": self.seed.data, "data_dir": data_dir}
        given |= {argument: run["file"] for argument, run in self.needed.items()}
        arguments = config.data.get("init_args") or {}
        for name, value in given.items():
            if value is not None and name in arguments:
                arguments[name] = value
        try:
            with quiet_lightning():
                pl.seed_everything(self.seed.model, verbose=False)
            objects = parser.instantiate_classes(config)
            if self.compiled:
                _compile(objects.model)
            if team.size > 1:
                callback.built = random_state()
            placed = _for_team(team, objects.model, objects.data)
            trainer = make_trainer(objects.trainer, device, callbacks=callback, **placed)
        except Exception as error:  # a class may raise whatever it likes at a value
            raise UserError(
                f"{self.spec.name} cannot be built ({type(error).__name__}): {_reason(error)}"
            ) from error
        return objects.model, objects.data, trainer

    def directory(self, root: Path, record: Record) -> Path:
        return root / self.spec.name / record.name


# whatever torchrun or SLURM has started beside it, and whatever Lightning thinks of their variables
ALONE_HERE = {"devices": 1, "plugins": [WholeFiles(), LightningEnvironment()]}


def _compile(model: pl.LightningModule) -> None:
    """Has torch compile the model's hot functions; on a GPU they become CUDA graphs.

    Random numbers are drawn as without it, so that a run is the same run to rounding.
    """
    names = getattr(model, "compilable", ())
    if not names:
        raise ValueError(
            f"{type(model).__name__} names no functions to compile, as in "
            'compilable = ("loss",). Leave --compile out'
        )
    inductor = importlib.import_module("torch._inductor.config")
    inductor.fallback_random = True
    mode = "reduce-overhead" if torch.cuda.is_available() else "default"
    for name in names:
        setattr(model, name, torch.compile(getattr(model, name), mode=mode))


def make_trainer(options: Mapping[str, Any], device: str, **others: Any) -> pl.Trainer:
    with quiet_lightning():
        trainer = pl.Trainer(
            **options,
            **others,
            accelerator=device,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
    # Lightning's own answer to SIGTERM leaves without a checkpoint, as if done, and talks to other
    # processes from within the signal handler; ours is in `stop`
    trainer._signal_connector.register_signal_handlers = lambda: None
    return trainer


def _for_team(
    team: Team, model: pl.LightningModule, data: pl.LightningDataModule
) -> dict[str, Any]:
    """The Trainer's arguments for a team, once it is sure that the mathematics stays the same."""
    if team.size == 1:
        return ALONE_HERE
    if not hasattr(data, "share"):
        raise ValueError(
            f"{type(data).__name__} gives every process the same batches: it has no method "
            "share(rank, size). Add it (top of lit_gen/harness/run.py), or use one device"
        )
    data.share(team.rank, team.size)
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm) and not isinstance(layer, torch.nn.SyncBatchNorm):
            raise ValueError(
                f"{name} ({type(layer).__name__}) would normalise each process's share of a batch "
                "by itself. Use moments of lit_gen.nn.distributed, or one device"
            )
    return {
        "devices": team.local_size,
        "num_nodes": team.size // team.local_size,
        # a player's step leaves the other's weights without gradients; buffers are equal already
        "strategy": DDPStrategy(find_unused_parameters=True, broadcast_buffers=False),
        "use_distributed_sampler": False,  # the DataModule shares its batches itself
        "plugins": [WholeFiles(), TorchElasticEnvironment()],
    }


def _reason(error: Exception) -> str:
    """What a class said of its arguments, without what jsonargparse puts around it."""
    text = " ".join(str(error).split())
    if found := re.search(r"Errors: - (.+?) - Expected a <class 'NoneType'> Given value", text):
        return found[1]
    return text


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
    choices = re.findall(r"typing\.Literal\[([^\]]+)\]", rest)
    types = re.findall(r"Expected an? (?:<class ')?(?!typing)([\w ]+)", rest)
    types = [*[f"one of {choice}" for choice in choices], *types]
    kinds = " or ".join(dict.fromkeys(t.strip().replace("NoneType", "null") for t in types))
    values = dict(flatten(config))
    if not kinds:
        return f"{key} does not fit: {' '.join(rest.split())[:200]}. Correct that value."
    value = next(
        (v for name, v in values.items() if name.split(".")[-1] == key.split(".")[-1]), "?"
    )
    return f"{key.split('.')[-1]} = {value!r} is not valid: expected {kinds}. Correct that value."


def _public(config: dict[str, Any], needs: Iterable[str]) -> dict[str, Any]:
    """What all seeds of a cell share, and the mathematics depends on, as plain JSON types.

    The data's fingerprint, in the provenance, says what the runs it `needs` gave it.
    """
    own = ("seed", "seed_data", "data_dir", *needs)
    data = {k: v for k, v in config["data"].get("init_args", {}).items() if k not in own}
    return config | {"data": config["data"] | {"init_args": data}}


def new_record(run: Run, resolved: dict[str, Any]) -> Record:
    config = _public(resolved, run.spec.needs)
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
        InUse: another process holds it.
        UserError: the folder cannot be written.
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
            raise InUse(
                f"{folder} is in use by process {holder}. "
                "Wait for it, or run another seed with --seeds."
            ) from None
        with contextlib.suppress(OSError):  # a courtesy, which a full disk may refuse
            os.ftruncate(file, 0)
            os.write(file, str(os.getpid()).encode())
        yield
    finally:
        os.close(file)


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
    team: Team = ALONE,
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
        team: the processes that train it together; this one leads them.

    Returns:
        The record: finished, stopped, crashed or diverged.

    Raises:
        UserError: what the user can mend: arguments, data, a run directory in use.
    """
    with opened(run, root, plan) as this:
        record, folder, config = this.record, this.folder, this.config
        if this.over:
            on_end(record, folder)
            return record
        set_up(config, threads)
        for name in run.spec.metrics:  # a misspelt one is said before the training, not after it
            certificate.metric(run.spec, name)
        watch = Watch(record, folder, stop, on_step, on_epoch, team)
        model, data, trainer = run.build(this.parser, config, device, data_dir, watch, team)
        data.prepare_data()  # Lightning would too, but turns Ctrl-C in a download into a crash
        stretch = provenance.Stretch(device_name(trainer), torch.get_num_threads(), team.size)
        if run.compiled:
            stretch.facts["compiled"] = True
        record.provenance.setdefault("segments", []).append(stretch.facts)
        watch.stretch = stretch
        if this.checkpoint is None:
            write(folder / RECORD, record)
        on_start(record, folder)
        word = {"run": run.chosen, "spec_hash": record.spec_hash}
        team.tell(word | {"folder": str(folder), "checkpoint": this.checkpoint})
        try:
            team.wait_for_answers()
            with quiet_lightning():
                with team.training():
                    fit(trainer, model, data, this.checkpoint)
                if team.size > 1:  # predictions in their order need one process, as samples do
                    data.share(0, 1)
                    trainer = make_trainer(config.trainer, device, **ALONE_HERE)
                finish(this, trainer, model, data)
        except BaseException as error:
            settle(this, error, team)
        stretch.measure(record.steps)
        write(folder / RECORD, record)
        on_end(record, folder)
        return record


@dataclass
class Opened:
    """A run whose directory is ours: its record so far, and what it goes on from."""

    run: Run
    parser: ArgumentParser
    config: Namespace
    record: Record
    folder: Path
    checkpoint: str | None = None
    over: bool = False  # finished or diverged before


@contextlib.contextmanager
def opened(run: Run, root: Path, plan: dict[str, int] | None = None) -> Iterator[Opened]:
    """Holds a run's directory.

    Raises:
        UserError: it is in use, or holds a run of another specification.
    """
    parser, config = run.resolve()
    record = new_record(run, config.as_dict())
    folder = run.directory(root, record)
    this = Opened(run, parser, config, record, folder)
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
                if run.spec.needs:
                    _same_data(this, previous)
                this.record, this.over = previous, True
                yield this
                return
            record.provenance = previous.provenance
            record.result = {k: v for k, v in previous.result.items() if k == "measured"}
        this.checkpoint = _readable(folder / CHECKPOINT, record.spec_hash)
        if this.checkpoint is None:
            record.provenance, record.result = {}, {}
        if plan:
            record.provenance.setdefault("plan", plan)
        if run.needed:
            told = ("run", "spec_hash")
            record.provenance["needs"] = {
                argument: {key: theirs[key] for key in told}
                for argument, theirs in run.needed.items()
            }
        yield this


def _same_data(this: Opened, previous: Record) -> None:
    """Whether a run that is over had what it would now be given by the runs that it needs, which no
    specification's hash tells.

    Raises:
        UserError: it had other data.
    """
    _, data, _ = this.run.build(this.parser, this.config, "cpu")
    data.prepare_data()
    before = previous.provenance.get("data")
    if before != data.fingerprint:
        raise other_data(this.folder, before, data.fingerprint)


def settle(this: Opened, error: BaseException, team: Team = ALONE) -> None:
    """Writes what ended the training into the record. A crashed run is a record too.

    Raises:
        UserError: it is the user's to mend, or the data's.
        BaseException: it is about this process, not about the run.
    """
    record = this.record
    if isinstance(error, Stopped):
        record.status = "stopped"
        record.error = {"type": "Stopped", "message": str(error)}
        return
    if not isinstance(error, Exception):
        raise error
    refused = isinstance(error, MisconfigurationException) and not record.steps
    if refused or getattr(error, "exit_status", None) == 2:
        if this.checkpoint is None and not record.steps:  # nothing has ever been run
            (this.folder / RECORD).unlink(missing_ok=True)
        if not refused:
            raise error
        text = " ".join(str(error).split())
        raise UserError(f"{this.run.spec.name} cannot be trained like this: {text}") from error
    record.status = "diverged" if isinstance(error, Diverged) else "crashed"
    theirs = None if record.status == "diverged" else team.blame()
    record.error = {
        "type": type(error).__name__,
        "message": "; ".join(filter(None, [str(error), theirs])),
        "step": record.steps,
        "traceback": "".join(traceback.format_exception(error)).splitlines()[-12:],
    }


def follow(
    spec: Spec,
    team: Team,
    stop: Callable[[], str | None],
    device: str,
    threads: int | None,
    data_dir: str | None,
) -> None:
    """Trains what the leader's `execute` trains, until there is nothing left; writes nothing."""
    while (word := team.hear()) is not None:
        try:
            run = Run(spec, **word["run"] | {"seed": Seed(*word["run"]["seed"])})
            parser, config = run.resolve()
            record = new_record(run, config.as_dict())
            if record.spec_hash != word["spec_hash"]:
                raise UserError("it has other files or another command than the first process.")
            if word["checkpoint"] and not Path(word["checkpoint"]).is_file():
                raise UserError(f"it does not see {word['checkpoint']}: share that folder.")
            set_up(config, threads)
            watch = Watch(record, Path(word["folder"]), stop, *[lambda *_: None] * 2, team)
            model, data, trainer = run.build(parser, config, device, data_dir, watch, team)
            data.prepare_data()
        except Exception as error:
            team.answer(error)
            continue
        team.answer()
        with contextlib.suppress(Stopped, Exception), quiet_lightning(), team.training():
            fit(trainer, model, data, word["checkpoint"])


def fit(
    trainer: pl.Trainer,
    model: pl.LightningModule,
    data: pl.LightningDataModule,
    checkpoint: str | None,
) -> None:
    """Trains, from a checkpoint if there is one."""
    if checkpoint:  # Lightning would load float64 weights into float32 ones, and convert those
        trainer.precision_plugin.convert_module(model)
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)


def set_up(config: Namespace, threads: int | None) -> None:
    if threads:
        torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(config.matmul_precision)
    # below 1e-38 a CPU takes many times as long; Adam's moments of a pixel that is always black end
    # there, and stay, as 0.9 of the smallest number is rounded to itself
    torch.set_flush_denormal(True)


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


def finish(
    this: Opened, trainer: pl.Trainer, model: pl.LightningModule, data: pl.LightningDataModule
) -> None:
    """What a finished run leaves: metrics, predictions, samples, pictures, a clip."""
    record, folder = this.record, this.folder
    if is_overridden("test_step", model):
        trainer.test(model, datamodule=data, verbose=False)
    tested = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for name, value in tested.items():
        if not abs(value) <= LARGEST_NUMBER:
            raise Diverged(f"{name} is {value} in the final test")
    record.result["metrics"] = tested
    kept = is_overridden("predict_step", model) and is_overridden("predict_dataloader", data)
    batches = trainer.predict(model, datamodule=data) if kept else []
    arrays: dict[str, np.ndarray] = {}
    if batches and isinstance(batches[0], dict):
        arrays = {k: torch.cat([b[k] for b in batches]).cpu().numpy() for k in batches[0]}
        write_atomically(folder / PREDICTIONS, npz(arrays))
    if hasattr(data, "handed_on") and (handed := data.handed_on()):
        write_atomically(folder / HANDED_ON, npz(handed))
    if hasattr(model, "sample"):
        write_atomically(folder / SAMPLES, draw(model))
    if hasattr(model, "pictures") and is_overridden("predict_dataloader", data):
        show(model, data, folder / PICTURES)
    record.result["metric_ids"] = {}
    more = beside.measure(record, this.run.spec, model, data, folder / PICTURES / NEAREST)
    if more:
        write_atomically(folder / PREDICTIONS, npz(arrays | more))
    if hasattr(data, "clip"):
        film(record, data, folder / PICTURES / CLIP)
    measured = record.result["metrics"] | record.result.get("beside", {})
    named = certificate.ids(this.run.spec, measured)
    record.result["metric_ids"] = named | record.result["metric_ids"]  # what was measured, if less
    record.status = "finished"


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def show(model: pl.LightningModule, data: pl.LightningDataModule, folder: Path) -> None:
    """Draws a trained model's pictures, and nothing else: what an earlier try left there goes.

    Raises:
        ValueError: `pictures` returned something that cannot be drawn.
    """
    with at_rest(model):
        data.setup("predict")
        batch = next(iter(data.predict_dataloader()))
        x = batch[0] if isinstance(batch, tuple | list) else batch
        if isinstance(x, torch.Tensor):
            x = x.to(model.device, model.dtype if x.is_floating_point() else None)
        named = model.pictures(x)
    try:
        drawn = {f"{name}.png": pictures.png(x) for name, x in pictures.checked(named).items()}
    except ValueError as error:
        raise ValueError(f"{type(model).__name__}.pictures: {error}.") from error
    for path in folder.glob("*.png"):
        if path.name not in drawn:
            path.unlink()
    for name, content in drawn.items():
        write_atomically(folder / name, content)


def film(record: Record, data: pl.LightningDataModule, path: Path) -> None:
    """Keeps the data's clip; without one, whatever the reason, the run is as good."""
    path.unlink(missing_ok=True)  # of an earlier try
    record.provenance.pop("no_clip", None)
    try:
        clip = data.clip()
        content = None if clip is None else pictures.webp(*clip)
    except Exception as error:  # of drivers, displays and whatever draws
        record.provenance["no_clip"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return
    if content is not None:
        write_atomically(path, content)


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


def device_name(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _difference(old: dict, new: dict) -> str:
    """The settings in which two configurations differ, for an error message."""
    old, new = dict(flatten(old)), dict(flatten(new))
    changed = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    return ", ".join(f"{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in changed)
