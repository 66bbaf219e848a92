"""What an iteration of VIME costs, beside the same with a dynamics model by torch's autograd.

    python tests/benchmarks/vime.py [--rounds 3] [--iterations 12] [--write]

Both sides train the same policy on sparse MountainCar, an iteration of 5,000 steps, from the same
seed with one thread, and take turns, a process each; what they compute is the same
(`bayesian.check`). Quoted are milliseconds of CPU time: an iteration, the median of all but the
first two, and its parts; and the ratio within a round.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from typing import Any

import bayesian
import measure
import torch
from torch import Tensor

from lit_gen.datamodules.rollouts import Rollouts
from lit_gen.harness.run import quiet_lightning
from lit_gen.nn.bayesian import BayesianNetwork
from lit_gen.nn.control import Task
from lit_gen.papers.vime import VIME

WARM_UP = 2  # the first iteration has no information gain
PARTS = {"play": (Rollouts, "next"), "gain": (VIME, "gains"), "dynamics": (VIME, "fit_dynamics"),
         "policy": (VIME, "improve")}  # fmt: skip


class Autograd(BayesianNetwork):
    """The same with torch's gradients."""

    def fit(self, x: Tensor, y: Tensor, *others: Any, **named: Any) -> float:
        bayesian.fit(self, x, y)
        return 0.0

    def information_gain(self, x: Tensor, y: Tensor, *others: Any, **named: Any) -> Tensor:
        return bayesian.gain(self, x, y)


def turn(options: argparse.Namespace) -> measure.Turn:
    import pytorch_lightning as pl

    task = Task("lit_gen.environments:lit_gen/MountainCar-v0", 500, 2, 1, options={"sparse": True})
    spent: dict[str, list[float]] = {"iteration": []} | {part: [] for part in PARTS}

    def clocked(part: str, work: Callable) -> Callable:
        def timed(*arguments: Any) -> Any:
            began = measure.now("cpu")
            done = work(*arguments)
            spent[part].append(measure.per_step(began, measure.now("cpu"), 1)["cpu_ms"])
            return done

        return timed

    for part, (owner, name) in PARTS.items():
        setattr(owner, name, clocked(part, getattr(owner, name)))

    class Clock(pl.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            self.began = measure.now("cpu")

        def on_train_epoch_end(self, *_: Any) -> None:
            of = measure.per_step(self.began, measure.now("cpu"), 1)
            spent["iteration"].append(of["cpu_ms"])

    torch.manual_seed(0)
    with quiet_lightning():
        model = VIME(task)
        if options.turn == "autograd":
            model.dynamics.__class__ = Autograd
        trainer = pl.Trainer(
            max_epochs=options.iterations + WARM_UP, precision="64-true", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            accelerator="cpu", callbacks=[Clock()],
        )  # fmt: skip
        data = Rollouts(task, iterations=1, drawn=True, random=False)
        trainer.fit(model, data)
        data.players.close()
    return {part: statistics.median(times[-options.iterations :]) for part, times in spent.items()}


def parser() -> argparse.ArgumentParser:
    made = measure.parser(__doc__.splitlines()[0])
    made.set_defaults(rounds=3, threads=1)
    made.add_argument("--iterations", type=int, default=12)
    return made


def main() -> None:
    options = parser().parse_args()
    if options.turn:
        measure.say(lambda: turn(options), options)
        return
    bayesian.check("3-32-2")
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(options.threads))
    said = measure.take_turns(__file__, ("ours", "autograd"), options.rounds)
    result: dict[str, Any] = {"contenders": {}, "ratio": {}}
    for name, turns in said.items():
        result["contenders"][name] = {
            part: measure.summary([t[part] for t in turns]) for part in ("iteration", *PARTS)
        }
    for part in ("iteration", "gain", "dynamics"):
        pairs = zip(said["ours"], said["autograd"], strict=True)
        result["ratio"][part] = measure.summary([b[part] / a[part] for a, b in pairs])
    for part in ("iteration", *PARTS):
        ours, theirs = (result["contenders"][n][part]["median"] for n in ("ours", "autograd"))
        print(f"{part:>10}: {ours:6.0f} ms, by autograd {theirs:6.0f} ms of CPU time")
    if options.write:
        packages = ("torch", "pytorch-lightning", "numpy", "gymnasium")
        machine = measure.machine("cpu", options.threads, packages)
        asked = {"rounds": options.rounds, "steps": options.iterations}
        measure.write("vime", result | {"machine": machine, "options": asked})


if __name__ == "__main__":
    main()
