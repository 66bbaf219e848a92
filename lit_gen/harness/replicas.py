"""Several runs trained as one batched computation, each with the record that it has alone.

Runs of the same model and trainer that are at the same step go together; they may differ in seed
and data. What their classes offer for it:

    Model.together(models, streams)  one LightningModule of K models, left as they are: its weights
                                     are theirs, stacked, model k draws from the generator
                                     streams[k], training_step returns (K,) numbers, and numbers
                                     are logged as replica_k/NAME
    Data.together(data)              one DataModule of K: state_dict is {"replicas": [...]}

Checkpoints are written and read as those of separate runs, so a run may be begun with others and go
on alone, and the other way round.
"""

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lit_gen.harness import provenance
from lit_gen.harness.record import CHECKPOINT, RECORD, Record, write
from lit_gen.harness.run import (
    ALONE_HERE,
    Opened,
    Run,
    device_name,
    finish,
    fit,
    make_trainer,
    opened,
    quiet_lightning,
    set_up,
    settle,
)
from lit_gen.harness.spec import UserError
from lit_gen.harness.watch import (
    Clock,
    Diverged,
    Stopped,
    Watch,
    WholeFiles,
    random_state,
    set_random_state,
    shown,
    when,
)

COSTS = ("wall_s", "cpu_s", "energy_j")  # of a stretch of training


def execute_together(
    runs: Sequence[Run],
    size: int,
    root: Path,
    device: str = "auto",
    threads: int | None = None,
    data_dir: str | None = None,
    stop: Callable[[], str | None] = lambda: None,
    on_start: Callable[[Record, Path], None] = lambda record, folder: None,
    on_step: Callable[[Record, int, int], None] = lambda record, step, steps: None,
    on_epoch: Callable[[Record], None] = lambda record: None,
    on_end: Callable[[Record, Path], None] = lambda record, folder: None,
) -> list[Record]:
    """Trains runs, at most `size` at a time, as `run.execute` trains one.

    Returns:
        The records of those that were begun or had ended before, in the order of `runs`.

    Raises:
        UserError: what the user can mend, such as a model that cannot be trained like this.
    """
    begun: dict[str, Record] = {}
    order = []
    with contextlib.ExitStack() as held:
        groups: dict[str, list[Opened]] = {}
        for run in runs:
            this = held.enter_context(opened(run, root))
            order.append(this.record.name)
            if this.over:
                begun[this.record.name] = this.record
                on_end(this.record, this.folder)
            else:
                groups.setdefault(_alike(this), []).append(this)
        for group in groups.values():
            for start in range(0, len(group), size):
                if stop():
                    break
                part = group[start : start + size]
                begun |= {this.record.name: this.record for this in part}
                _train(part, device, threads, data_dir, stop, on_start, on_step, on_epoch, on_end)
    return [begun[name] for name in order if name in begun]


def _alike(this: Opened) -> str:
    """Equal for runs that can be one computation."""
    steps = 0
    if this.checkpoint:
        content = torch.load(this.checkpoint, map_location="cpu", weights_only=True, mmap=True)
        steps = content["callbacks"]["Watch"]["steps"]
    config = this.record.config
    parts = [config["model"], config["trainer"], config["matmul_precision"]]
    return json.dumps([*parts, config["data"]["class_path"], steps], sort_keys=True, default=str)


def _train(
    group: list[Opened],
    device: str,
    threads: int | None,
    data_dir: str | None,
    stop: Callable[[], str | None],
    on_start: Callable[[Record, Path], None],
    on_step: Callable[[Record, int, int], None],
    on_epoch: Callable[[Record], None],
    on_end: Callable[[Record, Path], None],
) -> None:
    first = group[0]
    set_up(first.config, threads)
    models, data, states = [], [], []
    for this in group:
        model, its_data, trainer = this.run.build(this.parser, this.config, device, data_dir)
        models.append(model)
        data.append(its_data)
        states.append(random_state())
    place = trainer.strategy.root_device
    streams = [_stream(state, place) for state in states]
    for part in (models[0], data[0]):
        if not hasattr(part, "together"):
            raise UserError(
                f"{type(part).__name__} has no method `together`, so its runs cannot be one "
                "computation. Leave --replicas out."
            )
    try:
        model, whole = type(models[0]).together(models, streams), type(data[0]).together(data)
    except ValueError as error:
        raise UserError(f"These runs cannot be one computation: {error}.") from error
    whole.prepare_data()
    stretch = provenance.Stretch(device_name(trainer), torch.get_num_threads())
    watches = [Watch(this.record, this.folder, stop, on_step, on_epoch) for this in group]
    replicas = _Replicas(group, watches, models, states, streams, stretch, stop, on_end)
    files = _Apart(replicas, type(data[0]).__qualname__, type(whole).__qualname__)
    options = ALONE_HERE | {"callbacks": replicas}
    options["plugins"] = [files, *options["plugins"][1:]]  # in place of the first, WholeFiles
    for this in group:
        this.record.provenance.setdefault("segments", []).append({})
    replicas.account()
    for this in group:
        if this.checkpoint is None:
            write(this.folder / RECORD, this.record)
        on_start(this.record, this.folder)
    trainer = make_trainer(first.config.trainer, device, **options)
    try:
        with quiet_lightning():
            fit(trainer, model, whole, first.checkpoint)
    except torch.OutOfMemoryError:
        less = max(1, len(group) // 2)
        text = f"{len(group)} replicas do not fit into the GPU's memory. Use --replicas {less}."
        replicas.end(UserError(text))
        return
    except BaseException as error:
        replicas.end(error)
        return
    for k in list(replicas.alive):
        this = group[k]
        set_random_state(replicas.random_state(k))
        alone = make_trainer(first.config.trainer, device, **ALONE_HERE)
        try:
            with quiet_lightning():
                finish(this, alone, replicas.part(k, model), data[k])
        except BaseException as error:
            settle(this, error)
        replicas.close(k)


def _stream(state: dict[str, Any], device: torch.device) -> torch.Generator:
    """The random numbers of a run that is alone on that device, from that state on."""
    name = "torch" if device.type == "cpu" else device.type
    if state.get(name) is None:
        raise UserError(f"--replicas cannot give each run its numbers on {name}. Use cpu or cuda.")
    generator = torch.Generator(device)
    generator.set_state(state[name])
    return generator


class _Replicas(pl.Callback):
    """What `Watch` does for a run alone, for each of K whose steps are one."""

    state_key = "Watch"

    def __init__(
        self,
        group: list[Opened],
        watches: list[Watch],
        models: list[pl.LightningModule],
        states: list[dict[str, Any]],
        streams: list[torch.Generator],
        stretch: provenance.Stretch,
        stop: Callable[[], str | None],
        on_end: Callable[[Record, Path], None],
    ) -> None:
        self.group, self.watches, self.models = group, watches, models
        self.states, self.streams, self.stretch = states, streams, stretch
        self.stop, self.on_end = stop, on_end
        self.alive = list(range(len(group)))
        self.sums: dict[str, torch.Tensor] = {}  # (K,)
        self.steps = self.count = 0
        self.validated = False
        self.clock = Clock()
        self.spent: dict[str, float] = {}
        self.costs = [dict.fromkeys(COSTS, 0.0) for _ in group]

    # --- the state of each run

    def random_state(self, k: int) -> dict[str, Any]:
        device = self.streams[k].device.type
        drawn = {"torch" if device == "cpu" else device: self.streams[k].get_state()}
        return self.states[k] | drawn

    def part(self, k: int, model: pl.LightningModule) -> pl.LightningModule:
        """Model k with its weights as they are now."""
        weights = {name: value[k] for name, value in model.state_dict().items()}
        alone = self.models[k].to(device=model.device, dtype=model.dtype)
        alone.load_state_dict(weights)
        return alone

    def deliver(self) -> None:
        """Gives each run its share of what was added up."""
        sums = {name: value.cpu() for name, value in self.sums.items()}
        for k in self.alive:
            watch = self.watches[k]
            watch.sums = {name: value[k] for name, value in sums.items()}
            watch.steps, watch.count, watch.record.steps = self.steps, self.count, self.steps

    def state_dict(self) -> dict[str, Any]:
        return {
            "replicas": [
                watch.state_dict() | {"random_state": self.random_state(k)}
                for k, watch in enumerate(self.watches)
            ]
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for k, (watch, one) in enumerate(zip(self.watches, state["replicas"], strict=True)):
            watch.load_state_dict(one)
            self.states[k] = one["random_state"]
        self.steps, self.count = watch.steps, watch.count
        self.stretch.first_step = watch.steps
        columns = [watch.sums for watch in self.watches]
        self.sums = {name: torch.stack([sums[name] for sums in columns]) for name in columns[0]}

    def account(self) -> None:
        """Brings the costs in the records up to date: those who train share them equally."""
        self.stretch.measure(self.steps)
        facts = self.stretch.facts
        for key in COSTS:
            more = facts.get(key, 0.0) - self.spent.get(key, 0.0)
            for k in self.alive:
                self.costs[k][key] += more / len(self.alive)
        self.spent = {key: facts[key] for key in COSTS if key in facts}
        for k in self.alive:
            parts = {key: round(self.costs[k][key], 1) for key in self.spent}
            segment = facts | parts | {"replicas": len(self.group)}
            self.group[k].record.provenance["segments"][-1] = segment

    # --- what Lightning calls

    def setup(self, trainer: pl.Trainer, model: pl.LightningModule, stage: str) -> None:
        for watch in self.watches:
            watch.setup(trainer, model, stage)

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        for k, stream in enumerate(self.streams):
            stream.set_state(_stream(self.states[k], stream.device).get_state())
        self.clock.start(self.steps)

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.steps += 1
        self.count += 1
        for name, value in (outputs or {}).items():
            previous = self.sums.get(name, torch.zeros(len(self.group), dtype=torch.float64))
            self.sums[name] = previous.to(value.device) + value.detach().double()
        last = index + 1 == trainer.num_training_batches
        if self.steps < self.clock.next_look and not last:
            return
        reason, due = self.look()
        for k in self.alive:
            self.watches[k].record.steps = self.steps
            self.watches[k].on_step(self.group[k].record, index + 1, trainer.num_training_batches)
        if not last and (reason or due):
            self.save(trainer)
        if not last and reason:
            raise Stopped(reason)

    def look(self) -> tuple[str | None, bool]:
        """Why to stop now, and whether a checkpoint is due. A run that diverged leaves."""
        if self.sums:
            finite = torch.stack(list(self.sums.values())).isfinite().all(0).tolist()
            for k in [k for k in self.alive if not finite[k]]:
                names = [name for name, value in self.sums.items() if not value[k].isfinite()]
                text = f"{', '.join(names)} is not finite {when(self.clock.looked[0], self.steps)}"
                self.group[k].record.steps = self.steps
                self.fail(k, Diverged(text))
        self.clock.next_look = self.steps + max(1, self.clock.pace(self.steps))
        return self.stop() if self.alive else "every run diverged", self.clock.due

    def on_validation_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        self.deliver()
        measured: list[dict[str, Any]] = [{} for _ in self.group]
        for name, value in trainer.callback_metrics.items() if self.validated else ():
            replica, _, key = name.partition("/")
            measured[int(replica.removeprefix("replica_"))][key] = value
        self.validated = False
        for k in list(self.alive):
            try:
                self.watches[k].close_epoch(measured[k])
            except Diverged as error:
                self.fail(k, error)
        self.sums, self.count = {}, 0
        epochs = trainer.current_epoch + 1
        for k in self.alive:
            if shown(epochs, trainer.max_epochs):
                self.watches[k].sample(self.part(k, model))
            self.watches[k].on_epoch(self.group[k].record)
        last = epochs == trainer.max_epochs
        reason = None if last else self.look()[0]
        if reason or last or self.clock.affordable:
            self.save(trainer)
        if reason:
            raise Stopped(reason)

    def save(self, trainer: pl.Trainer) -> None:
        """A checkpoint and a record for each run."""
        with self.clock.saving():
            self.deliver()
            trainer.save_checkpoint(self.group[0].folder / CHECKPOINT)
            self.account()
            for k in self.alive:
                write(self.group[k].folder / RECORD, self.group[k].record)

    # --- how a run ends

    def fail(self, k: int, error: Exception) -> None:
        settle(self.group[k], error)
        self.close(k)

    def end(self, error: BaseException) -> None:
        """Ends every run that is left."""
        raised = []
        for k in list(self.alive):
            try:
                settle(self.group[k], error)
            except BaseException as mine:
                raised.append(mine)
                continue
            self.close(k)
        if raised:
            raise raised[0]

    def close(self, k: int) -> None:
        record, folder = self.group[k].record, self.group[k].folder
        self.account()
        self.alive.remove(k)
        write(folder / RECORD, record)
        self.on_end(record, folder)


class _Apart(WholeFiles):
    """Keeps the checkpoint of K runs as those of K separate ones.

    Args:
        replicas: where they are.
        one, whole: the names under which Lightning keeps the state of one run's data, and of all.
    """

    def __init__(self, replicas: _Replicas, one: str, whole: str) -> None:
        super().__init__()
        self.replicas, self.one, self.whole = replicas, one, whole

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Path, storage_options: Any = None
    ) -> None:
        for k in self.replicas.alive:
            part = {key: value for key, value in checkpoint.items() if key != self.whole}
            part |= {key: _row(checkpoint[key], k) for key in ("state_dict", "optimizer_states")}
            part["callbacks"] = {"Watch": checkpoint["callbacks"]["Watch"]["replicas"][k]}
            if self.whole in checkpoint:
                part[self.one] = checkpoint[self.whole]["replicas"][k]
            super().save_checkpoint(part, self.replicas.group[k].folder / CHECKPOINT)

    def load_checkpoint(self, path: Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        files = [this.folder / CHECKPOINT for this in self.replicas.group]
        parts = [super(_Apart, self).load_checkpoint(file, *args, **kwargs) for file in files]
        whole = {key: value for key, value in parts[0].items() if key != self.one}
        for key, shared in (("state_dict", ()), ("optimizer_states", ("step",))):
            whole[key] = _stack([part[key] for part in parts], shared)
        watches = [part["callbacks"]["Watch"] for part in parts]
        whole["callbacks"] = {"Watch": {"replicas": watches}}
        if self.one in parts[0]:
            whole[self.whole] = {"replicas": [part[self.one] for part in parts]}
        return whole


def _row(tree: Any, k: int) -> Any:
    """Row k of every tensor of a nested state; what has no axis, a step count, is shared."""
    if isinstance(tree, torch.Tensor):
        return tree[k].clone() if tree.dim() else tree
    if isinstance(tree, dict):
        return type(tree)((key, _row(value, k)) for key, value in tree.items())
    if isinstance(tree, list | tuple):
        return type(tree)(_row(value, k) for value in tree)
    return tree


def _stack(trees: list[Any], shared: Sequence[str] = ()) -> Any:
    """The nested state whose rows these are, but for what is `shared`; undoes `_row`."""
    first = trees[0]
    if isinstance(first, torch.Tensor):
        return torch.stack(trees)
    if isinstance(first, dict):
        return {
            key: first[key] if key in shared else _stack([tree[key] for tree in trees], shared)
            for key in first
        }
    if isinstance(first, list | tuple):
        return type(first)(_stack(list(parts), shared) for parts in zip(*trees, strict=True))
    return first
