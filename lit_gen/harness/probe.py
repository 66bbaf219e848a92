"""The probe: a few training steps in which nothing is random, held against stored numbers.

Learning curves of a few epochs differ between seeds by so much that a small error hides among them.
So every random tensor is replaced by a fixed pattern that depends on its shape alone: code that
draws its noise in another order, or in other portions, gives the same losses to rounding, and code
that computes something else does not.

    while building     each element has its own value, or all units of a layer would be one
    while training     normal noise is the same for each example, so that one batch of 300 or three
                       of 100 see the same; uniform noise differs between examples, as latents
                       must

Processors round differently, and rounding grows: in float32 the first loss of
improved_gan_mnist_semisup was 6e-4 of itself away on another processor, since Adam's first step has
the sign of a gradient however small that is. So the probe trains in float64. Between instruction
sets (AVX2 and SSE 4.2) 30 steps of it then agree to 4e-9, and flows' in all digits. The losses of
an epoch's worth of steps are held as tightly as data and learning rates, later ones and what the
trained model says to a thousandth. Data that follow the model (`data.follows_model`), as what its
policy plays, are held as losses are. One other action, and the rest of an episode is another: of
such a model the first two steps are held, the second loosely (3e-3 between those instruction sets),
and what it does in the end not at all.
"""

import math
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lit_gen.harness.run import Run, quiet_lightning
from lit_gen.harness.spec import Spec, merge, parse_seeds

STEPS = 5  # of each epoch
EXACT = 1e-6  # relative tolerance of data, learning rates and the losses of the first steps
LATER = 1e-3  # of the losses of steps after these, and of what the trained model says
PLAYED = 1e-4, 5e-2  # of the first steps of a model that plays, instead; those after are not held
COUNTS = 2  # absolute tolerance of metrics that are counts
GOLDEN = (math.sqrt(5) - 1) / 2

Values = dict[str, list[float]]


class FixedDraws(TorchDispatchMode):
    """Replaces what torch draws by a low-discrepancy pattern of the same distribution."""

    def __init__(self, building: bool) -> None:
        super().__init__()
        self.building = building

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("rand", "rand_like"):
            return out.copy_(self.uniform(out))
        if name in ("randn", "randn_like"):
            return out.copy_(self.normal(out))
        if name == "uniform_":
            low, high = (*args[1:], *(0.0, 1.0)[len(args) - 1 :])
            return out.copy_(low + (high - low) * self.uniform(out))
        if name == "normal_":
            mean, std = (*args[1:], *(0.0, 1.0)[len(args) - 1 :])
            return out.copy_(mean + std * self.normal(out))
        if name == "bernoulli_" and len(args) > 1 and not isinstance(args[1], Tensor):
            return out.copy_(self.uniform(out) < args[1])
        return out

    def uniform(self, like: Tensor) -> Tensor:
        return _pattern(like.shape, like.device, whole=True).to(like.dtype)

    def normal(self, like: Tensor) -> Tensor:
        u = _pattern(like.shape, like.device, whole=self.building).clamp(1e-6, 1 - 1e-6)
        return (math.sqrt(2) * torch.erfinv(2 * u - 1)).to(like.dtype)


def _pattern(shape: torch.Size, device: torch.device, whole: bool) -> Tensor:
    """Fractions of multiples of the golden ratio; the same along the first axis if not `whole`."""
    size = shape if whole or len(shape) < 2 else (1, *shape[1:])
    count = math.prod(size)
    steps = torch.arange(1, count + 1, dtype=torch.float64, device=device)
    return (steps * GOLDEN).frac().reshape(size).expand(shape)


class _Recorder(pl.Callback):
    """Data, losses and learning rates of each step; data and metrics of each evaluation."""

    def __init__(self) -> None:
        self.values: Values = {}

    def add(self, name: str, value: Any) -> None:
        self.values.setdefault(name, []).append(float(f"{float(value):.9g}"))

    def add_data(self, name: str, batch: Any, kind: str = "data") -> None:
        for i, part in enumerate(batch if isinstance(batch, list | tuple) else [batch]):
            if isinstance(part, Tensor):
                self.add(f"{kind} {name} {i}", part.double().sum())

    def on_train_batch_start(
        self, trainer: pl.Trainer, model: pl.LightningModule, batch: Any, *_: Any
    ) -> None:
        self.add_data("train", batch, "step data" if _plays(trainer.datamodule) else "data")

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        model: pl.LightningModule,
        batch: Any,
        index: int,
        loader: int = 0,
    ) -> None:
        if trainer.current_epoch == 0:
            self.add_data(f"val {loader}", batch)

    def on_test_batch_start(
        self, trainer: pl.Trainer, model: pl.LightningModule, batch: Any, *_: Any
    ) -> None:
        self.add_data("test", batch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        for name, value in (outputs or {}).items():
            self.add(f"step {name}", value)
        for i, optimizer in enumerate(trainer.optimizers):
            for group in optimizer.param_groups[:1]:  # none, of a model that steps by itself
                self.add(f"lr {i}", group["lr"])

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        for name, value in sorted(trainer.callback_metrics.items()):
            self.add(f"epoch {name}", value)


def cells(spec: Spec) -> Iterator[Run]:
    """What is probed: the gate's protocols, and other settings and protocols by their smoke run."""
    few = {"trainer": {"limit_train_batches": STEPS, "precision": "64-true"}}
    (first, *_) = parse_seeds(str(spec.gate["seeds"]))
    other = first._replace(data=first.data + 1, model=first.model + 2)
    for protocol, changes in spec.gate["protocols"].items():
        changes, smoke = merge(changes, few), bool(spec.needs)
        yield Run(spec, spec.default_setting, protocol, other, changes, smoke=smoke)
    for setting in spec.settings:
        if setting != spec.default_setting:
            yield Run(spec, setting, spec.default_protocol, first, few, smoke=True)
    for protocol in spec.protocols:
        if protocol not in spec.gate["protocols"]:
            yield Run(spec, spec.default_setting, protocol, first, few, smoke=True)


def name(run: Run) -> str:
    return f"{run.setting} {run.protocol} seed {run.seed}"


def measure(run: Run, device: str, threads: int | None, data_dir: str | None) -> Values:
    """The probe's numbers: losses and learning rates by step, metrics by epoch, and what the
    finished model says about the test data, unless it makes them."""
    parser, config = run.resolve()
    if threads:
        torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(config.matmul_precision)
    recorder = _Recorder()
    with FixedDraws(building=True):
        model, data, trainer = run.build(parser, config, device, data_dir, recorder)
    data.prepare_data()
    with quiet_lightning(), FixedDraws(building=False):
        trainer.fit(model, datamodule=data)
        if _plays(data):
            return recorder.values
        if is_overridden("test_step", model):
            trainer.test(model, datamodule=data, verbose=False)
            for key, value in sorted(trainer.callback_metrics.items()):
                recorder.add(f"final {key}", value)
        kept = is_overridden("predict_step", model) and is_overridden("predict_dataloader", data)
        batches = trainer.predict(model, datamodule=data) if kept else []
    if batches and isinstance(batches[0], dict):
        for key in batches[0]:
            array = torch.cat([b[key] for b in batches]).double()
            for value in (array.mean(), array.std()):
                recorder.add(f"final predicted {key}", value)
    return recorder.values


def _plays(data: pl.LightningDataModule) -> bool:
    return getattr(data, "follows_model", False)


def differences(stored: Values, now: Values) -> list[str]:
    """Where the numbers are not the stored ones, a clause each; what comes first, first."""
    found = [f"{key} is {'missing' if key in stored else 'new'}" for key in stored.keys() ^ now]
    plays = any(key.startswith("step data") for key in stored)
    for key in sorted(stored.keys() & now, key=list(stored).index):
        old, new = stored[key], now[key]
        if len(old) != len(new):
            found.append(f"{key} has {len(new)} values, had {len(old)}")
            continue
        for at, (a, b) in enumerate(zip(old, new, strict=True), 1):
            relative, absolute = _tolerance(key, at, plays)
            if not abs(a - b) <= relative * max(abs(a), abs(b)) + absolute:
                found.append(f"{key} at {at} is {b:.5g}, was {a:.5g}")
                break
    for key in stored:  # the final test of the same model, measured once more
        last = f"epoch {key.removeprefix('final ')}"
        if key.startswith("final") and stored[key][-1:] == stored.get(last, [])[-1:]:
            ends = [now.get(name, [None])[-1] for name in (key, last)]
            if ends[0] != ends[1]:
                found.append(f"{key} is {ends[0]}, but its last epoch's {ends[1]}")
    return found


def _tolerance(key: str, at: int, plays: bool) -> tuple[float, float]:
    """Relative and absolute."""
    kind = key.partition(" ")[0]
    if kind in ("data", "lr"):
        return EXACT, 0.0
    if kind == "step" and plays:
        return (PLAYED[at - 1] if at <= len(PLAYED) else math.inf), 1e-6
    if kind == "step":
        return (EXACT if at <= STEPS else LATER), 1e-6
    return (0.0, COUNTS) if key.endswith("errors") else (LATER, 1e-3)
