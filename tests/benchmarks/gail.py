"""What TRPO, GAIL and playing cost here, beside sb3-contrib's TRPO and the GAIL of `imitation`.

    tox -e gail [-- --rounds 3 --what trpo,gail,steps --expert FILE]

It needs an environment of its own, with both sides in it; tox.ini has it. Contenders take turns, a
process each, with one thread; round i has seed i. Timed is the training, without imports and the
final evaluation, per iteration of as many steps of the environment.

    trpo    CartPole, true reward: lit_gen.papers.trpo in a bare Trainer; sb3-contrib's TRPO
            ("peer") in one environment, and in 8 at a time ("peer8"), which its policy then
            serves with one call
    gail    CartPole, from 1 and 10 trajectories of an expert's handed_on.npz, subsampled as our
            DataModule does: lit_gen.papers.gail; `imitation`'s GAIL around sb3-contrib's TRPO
    steps   steps a second of episodes with a 100-100 policy that has not learned: `Players` with 1
            and 2 processes; Gymnasium's AsyncVectorEnv of 4, its policy called once for all 4

Both sides have the same networks, discount, lambda, divergence, damping, 10 iterations of conjugate
gradients, and steps in an iteration. Our iterations end with a whole episode, a few steps later.
The discriminator of both takes one step of Adam an iteration, on as many pairs of the policy and of
the expert as the iteration has steps. The rest is the peer's own: its value function takes 10
epochs of Adam where ours takes one trust-region step, its Fisher information is of all steps where
ours is of a tenth (its own subsampling would thin the gradient, too), it computes in float32 where
our reproductions compute in float64, its policy sees observations as they are, and it uses the
value of the observation at a time limit, which ours, as the authors' code, does not.

Peer's and ours are evaluated alike: the most probable actions, the true reward, the same episodes.
"""

import argparse
import dataclasses
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium
import measure
import numpy as np
import yaml

from lit_gen.datamodules.episodes import Players, Wanted, play
from lit_gen.nn.control import Policy, Task

ROOT = Path(__file__).parents[2]
EXPERT = ROOT / "runs/gail_expert_cartpole/all-paper-seed_1/handed_on.npz"
EVALUATION = 1  # the stream of random numbers of our DataModule's evaluation
TRPO = {"gamma": 0.995, "lam": 0.98, "damping": 0.01}  # reproductions/gail/expert_cartpole.yaml
GAIL = {"gamma": 0.995, "lam": 0.97, "damping": 0.1}  # the paper's, our defaults
KL, CONJUGATE = 0.01, 10
EXPERT_WIDTHS, WIDTHS = (64, 64), (100, 100)
SOLVED = 195.0  # mean return that Gym called solved, of CartPole with 200 steps
PLAYED = ("cartpole", "mountaincar", "acrobot", "hopper", "walker", "halfcheetah", "reacher")
PACKAGES = (
    "torch", "gymnasium", "numpy", "pytorch-lightning", "mujoco", "stable-baselines3",
    "sb3-contrib", "imitation",
)  # fmt: skip


def task_of(name: str) -> Task:
    """As the expert's reproduction has it."""
    path = ROOT / f"reproductions/gail/expert_{name}.yaml"
    return Task(**yaml.safe_load(path.read_text())["model"]["init_args"]["task"])


# --- what both sides are asked


def learning(
    episodes: Sequence[tuple[int, float]], options: argparse.Namespace
) -> dict[str, float | None]:
    """Of training episodes (length, return) in order: steps, the mean return of the last five
    iterations' episodes, and the iteration whose episodes first had a mean return of SOLVED."""
    lengths, returns = (np.array(part) for part in zip(*episodes, strict=True))
    iteration = (np.cumsum(lengths) - 1) // options.steps
    means = {i: returns[iteration == i].mean() for i in np.unique(iteration)}
    last = [m for i, m in means.items() if i > iteration[-1] - 5]
    solved = next((int(i) + 1 for i, m in means.items() if m >= SOLVED), None)
    return {"last_return": float(np.mean(last)), "solved_at": solved}


def evaluated(task: Task, policy: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Mean and least return of the true reward, with the most probable actions."""
    env = task.make()
    found = [
        float(
            play(
                task, env, policy, (options.round, EVALUATION, i), task.limit, drawn=False
            ).rewards.sum()
        )
        for i in range(options.episodes)
    ]
    return {"evaluated": statistics.mean(found), "worst": min(found)}


def timed(began: tuple[float, float], steps: int, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds per iteration's worth of steps."""
    ended = measure.now("cpu")
    said = measure.per_step(began, ended, steps) | {
        "seconds": ended[0] - began[0],
        "cpu_seconds": ended[1] - began[1],
        "steps": steps,
    }
    return said | {name: options.steps * said[name] for name in ("ms", "cpu_ms")}


# --- our side


def ours(model: Any, data: Any, iterations: int, options: argparse.Namespace) -> measure.Turn:
    import pytorch_lightning as pl

    class Returns(pl.Callback):
        def on_train_batch_end(
            self, trainer: Any, module: Any, outputs: Any, batch: Any, i: int
        ) -> None:
            episodes.extend(zip(batch.lengths.tolist(), batch.returns.tolist(), strict=True))

    episodes: list[tuple[int, float]] = []
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        precision="64-true",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Returns()],
    )
    began = measure.now("cpu")
    trainer.fit(model, data)
    steps = sum(length for length, _ in episodes)
    said = timed(began, steps, options) | learning(episodes, options)
    return said | evaluated(data.task, model.acting.numpy(), options)


def ours_trpo(options: argparse.Namespace) -> measure.Turn:
    import pytorch_lightning as pl

    from lit_gen.datamodules.rollouts import Rollouts
    from lit_gen.papers import trpo

    pl.seed_everything(options.round)
    task = task_of("cartpole")
    model = trpo.TRPO(task, EXPERT_WIDTHS, max_kl=KL, **TRPO)
    data = Rollouts(task, options.steps, options.iterations, seed=options.round)
    return ours(model, data, options.iterations, options)


def ours_gail(trajectories: int, options: argparse.Namespace) -> measure.Turn:
    import pytorch_lightning as pl

    from lit_gen.datamodules.demonstrations import Imitation
    from lit_gen.papers import gail

    pl.seed_everything(options.round)
    task = task_of("cartpole")
    model = gail.GAIL(task, max_kl=KL, **GAIL)
    data = Imitation(
        task,
        trajectories,
        options.every,
        str(options.expert),
        options.steps,
        options.gail_iterations,
        seed=options.round,
    )
    return ours(model, data, options.gail_iterations, options)


# --- the peers'


class Predicts:
    """A policy of stable-baselines3, as `play` asks for actions."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def act(self, x: np.ndarray, noise: None) -> int:
        return int(self.model.predict(x.astype(np.float32), deterministic=True)[0])


def peers_envs(task: Task, number: int) -> Any:
    """Environments in this process, which keep their episodes' true returns."""
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    return DummyVecEnv([lambda: Monitor(task.make())] * number)


def peers_episodes(envs: Any) -> list[tuple[int, float]]:
    """(length, return) in the order in which they ended, as good as it is known; of several
    environments, each one's episodes stand where theirs would in one."""
    ended = []
    for env in envs.envs:
        lengths = env.get_episode_lengths()
        ended += zip(np.cumsum(lengths), lengths, env.get_episode_rewards(), strict=True)
    return [(length, r) for _, length, r in sorted(ended)]


def peers_policy(
    envs: Any, widths: Sequence[int], constants: dict[str, float], options: argparse.Namespace
) -> Any:
    from sb3_contrib import TRPO as Theirs
    from torch import nn

    return Theirs(
        "MlpPolicy",
        envs,
        n_steps=options.steps // envs.num_envs,
        gamma=constants["gamma"],
        gae_lambda=constants["lam"],
        cg_damping=constants["damping"],
        cg_max_steps=CONJUGATE,
        target_kl=KL,
        policy_kwargs={"net_arch": list(widths), "activation_fn": nn.Tanh},
        seed=options.round,
        device="cpu",
    )


def peers_trpo(number: int, options: argparse.Namespace) -> measure.Turn:
    task = task_of("cartpole")
    envs = peers_envs(task, number)
    model = peers_policy(envs, EXPERT_WIDTHS, TRPO, options)
    began = measure.now("cpu")
    model.learn(options.iterations * options.steps)
    said = timed(began, model.num_timesteps, options)
    return (
        said | learning(peers_episodes(envs), options) | evaluated(task, Predicts(model), options)
    )


class Drawn:
    """Batches of an expert's pairs, drawn with replacement, without end."""

    def __init__(self, pairs: tuple[Any, Any], size: int, seed: int) -> None:
        self.s, self.a = pairs[0].numpy().astype(np.float32), pairs[1].numpy()
        self.size, self.seed = size, seed

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(self.seed)
        while True:
            i = rng.integers(len(self.s), size=self.size)
            # the reward is of observation and action: what follows is asked for, and not used
            yield {
                "obs": self.s[i],
                "acts": self.a[i],
                "next_obs": self.s[i],
                "dones": np.zeros(self.size, bool),
            }


def peers_gail(trajectories: int, number: int, options: argparse.Namespace) -> measure.Turn:
    import torch
    from imitation.algorithms.adversarial.gail import GAIL as Theirs
    from imitation.rewards.reward_nets import BasicRewardNet
    from imitation.util import logger
    from imitation.util.networks import RunningNorm

    from lit_gen.datamodules.demonstrations import Demonstrations

    task = task_of("cartpole")
    envs = peers_envs(task, number)
    pairs = Demonstrations.load(str(options.expert)).pairs(trajectories, options.every)
    model = peers_policy(envs, WIDTHS, GAIL, options)
    reward = BasicRewardNet(
        envs.observation_space,
        envs.action_space,
        hid_sizes=WIDTHS,
        activation=torch.nn.Tanh,
        normalize_input_layer=RunningNorm,
    )
    size = options.steps // number * number
    with tempfile.TemporaryDirectory() as folder:
        trainer = Theirs(
            demonstrations=Drawn(pairs, size, options.round),
            demo_batch_size=size,
            venv=envs,
            gen_algo=model,
            reward_net=reward,
            n_disc_updates_per_round=1,
            disc_opt_kwargs={"lr": 0.01},
            log_dir=folder,
            custom_logger=logger.configure(folder, format_strs=[]),
            allow_variable_horizon=True,
        )
        began = measure.now("cpu")
        trainer.train(options.gail_iterations * size)
        said = timed(began, model.num_timesteps, options)
    return (
        said | learning(peers_episodes(envs), options) | evaluated(task, Predicts(model), options)
    )


# --- steps


def cpu_seconds() -> float:
    """Of this process and of those beside it, which live; beside Linux of this one only."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        try:
            facts = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")
    return total


def untrained(task: Task) -> Policy:
    import torch

    from lit_gen.nn.policies import CategoricalPolicy, GaussianPolicy

    torch.manual_seed(0)
    kind = CategoricalPolicy if task.discrete else GaussianPolicy
    return kind(task.observations, task.actions, WIDTHS).numpy()


def rate(some: Callable[[], int], options: argparse.Namespace) -> measure.Turn:
    """Microseconds a step, of as many calls as the time allows, after one that warms up.

    Args:
        some: plays, and says how many steps.
    """
    some()
    began, before, steps = time.perf_counter(), cpu_seconds(), 0
    while not steps or time.perf_counter() < began + options.seconds:
        steps += some()
    wall, cpu = time.perf_counter() - began, cpu_seconds() - before
    return {"us": 1e6 * wall / steps, "cpu_us": 1e6 * cpu / steps}


def players(processes: int, task: Task, options: argparse.Namespace) -> measure.Turn:
    policy, crew, count = untrained(task), Players(task, processes), itertools.count()

    def some() -> int:
        wanted = Wanted(policy, (options.round, 0, next(count)), steps=2000)
        return sum(len(episode.rewards) for episode in crew.play(wanted))

    try:
        return rate(some, options)
    finally:
        crew.close()


def asynchronous(number: int, task: Task, options: argparse.Namespace) -> measure.Turn:
    policy = untrained(task)
    envs = gymnasium.vector.AsyncVectorEnv([task.make] * number)
    rng = np.random.default_rng(options.round)
    seen, _ = envs.reset(seed=options.round)
    ended = np.zeros(number, bool)

    def some() -> int:
        nonlocal seen, ended
        noise = policy.noise(rng, 500 * number).reshape(500, number, -1)
        steps = 0
        for part in noise:
            out = policy.output(np.asarray(seen, float)) + part
            steps += int((~ended).sum())  # after an end, a step is a reset
            seen, _, terminated, truncated, _ = envs.step(out.argmax(-1) if task.discrete else out)
            ended = terminated | truncated
        return steps

    try:
        return rate(some, options)
    finally:
        envs.close()


def steps_of(contender: Callable, options: argparse.Namespace) -> measure.Turn:
    """For each task; where MuJoCo is not installed, of those that need none."""
    said = {}
    for name in options.tasks.split(","):
        task = task_of(name)
        if task.raw_state:  # a vector of environments does not show it
            task = dataclasses.replace(task, raw_state=False, observations=6)
        try:
            task.make().close()
        except (ValueError, ImportError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        said[name] = contender(task, options)
    return {"tasks": said}


# --- turns

STEPS = {
    "players1": partial(players, 1),
    "players2": partial(players, 2),
    "async4": partial(asynchronous, 4),
}


def turns(options: argparse.Namespace) -> dict[str, dict[str, Callable[..., measure.Turn]]]:
    """Of each comparison, the contenders."""
    made: dict[str, dict[str, Callable[..., measure.Turn]]] = {
        "trpo": {
            "suite": ours_trpo,
            "peer": partial(peers_trpo, 1),
            "peer8": partial(peers_trpo, 8),
        }
    }
    for n in map(int, options.trajectories.split(",")):
        made[f"gail{n}"] = {
            "suite": partial(ours_gail, n),
            "peer": partial(peers_gail, n, 1),
            "peer8": partial(peers_gail, n, 8),
        }
    made["steps"] = {name: partial(steps_of, contender) for name, contender in STEPS.items()}
    return made


def compared(said: dict[str, list[measure.Turn]], options: argparse.Namespace) -> dict[str, Any]:
    """`measure.compare`, and what was learned."""
    found = measure.compare(said, options.steps, "suite")
    for name, of in found.items():
        of["steps_per_s"] = of.pop("images_per_s")
        for key in ("seconds", "cpu_seconds", "last_return", "evaluated", "worst"):
            of[key] = measure.summary([turn[key] for turn in said[name]])
        of["solved_at"] = [turn["solved_at"] for turn in said[name]]
        of["steps"] = [turn["steps"] for turn in said[name]]
    return found


def compared_steps(said: dict[str, list[measure.Turn]]) -> dict[str, Any]:
    """Of each task: steps a second, and times in those of one player's process."""
    found: dict[str, Any] = {}
    for task in said["players1"][0]["tasks"]:
        found[task] = {}
        for name, rounds in said.items():
            mine = [turn["tasks"][task] for turn in rounds]
            reference = [turn["tasks"][task] for turn in said["players1"]]
            found[task][name] = {
                "steps_per_s": measure.summary([1e6 / turn["us"] for turn in mine]),
                "cpu_us": measure.summary([turn["cpu_us"] for turn in mine]),
            } | {
                ratio: measure.summary(
                    [a[clock] / b[clock] for a, b in zip(mine, reference, strict=True)]
                )
                for clock, ratio in (("us", "ratio"), ("cpu_us", "cpu_ratio"))
            }
    return found


def installed() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


def show(what: str, found: dict[str, Any]) -> None:
    if what == "steps":
        for task, of in found.items():
            for name, values in of.items():
                print(
                    f"{task:>12} {name:>9}: {values['ratio']['median']:.2f} times the time of "
                    f"players1 (CPU {values['cpu_ratio']['median']:.2f}), "
                    f"{values['steps_per_s']['median']:.0f} steps/s"
                )
        return
    for name, of in found.items():
        print(
            f"{what:>7} {name:>6}: {of['ratio']['median']:.2f} times suite's time (CPU "
            f"{of['cpu_ratio']['median']:.2f}), {of['seconds']['median']:.1f} s (CPU "
            f"{of['cpu_seconds']['median']:.1f}), {of['steps_per_s']} steps/s, returns: last "
            f"{of['last_return']['rounds']}, evaluated {of['evaluated']['rounds']}, solved at "
            f"iteration {of['solved_at']}",
            flush=True,
        )


def parser() -> argparse.ArgumentParser:
    made = measure.parser(__doc__.splitlines()[0])
    made.set_defaults(threads=1, rounds=3)
    made.add_argument("--what", default="trpo,gail,steps", help="of these")
    made.add_argument("--expert", type=Path, default=EXPERT, help="an expert's handed_on.npz")
    made.add_argument("--trajectories", default="1,10", help="of the expert")
    made.add_argument("--every", type=int, default=10, help="keep one pair in so many")
    made.add_argument("--steps", type=int, default=5000, help="of an iteration")
    made.add_argument("--iterations", type=int, default=30, help="of TRPO")
    made.add_argument("--gail-iterations", type=int, default=60, help="of GAIL")
    made.add_argument("--episodes", type=int, default=50, help="of the evaluation")
    made.add_argument("--tasks", default=",".join(PLAYED), help="that steps are counted of")
    made.add_argument("--seconds", type=float, default=2.0, help="of counting, for each task")
    return made


def main() -> None:
    made = parser()
    options = made.parse_args()
    contenders = turns(options)
    if options.turn:
        warnings.filterwarnings("ignore")
        what, _, name = options.turn.partition(".")
        return measure.say(lambda: contenders[what][name](options), options)
    if "gail" in options.what.split(",") and not options.expert.exists():
        made.error(
            f"there is no {options.expert}. Train the expert with `reproduce "
            "gail_expert_cartpole`, or give --expert FILE."
        )

    facts: dict[str, Any] = {}
    for what, of in contenders.items():
        if what.rstrip("0123456789") not in options.what.split(","):
            continue
        names = [f"{what}.{name}" for name in of]
        taken = measure.take_turns(__file__, names, options.rounds)
        said = {name.partition(".")[2]: answers for name, answers in taken.items()}
        facts[what] = compared_steps(said) if what == "steps" else compared(said, options)
        show(what, facts[what])
        common = {"rounds", "threads"}
        mine = {
            "trpo": {"steps", "iterations", "episodes"},
            "gail": {"steps", "gail_iterations", "episodes", "every"},
            "steps": {"seconds"},
        }[what.rstrip("0123456789")]
        facts[what] = {
            "contenders": facts[what],
            "options": {name: getattr(options, name) for name in sorted(common | mine)},
        }
        if options.write:
            keep(facts, options)
    return None


def keep(facts: dict[str, Any], options: argparse.Namespace) -> None:
    """Beside what was measured before of comparisons that this call leaves out."""
    before = {name: of for name, of in measure.read("gail").items() if name != "date"}
    machine = measure.machine(options.device, options.threads, installed())
    measure.write("gail", before | {"machine": machine} | facts)


if __name__ == "__main__":
    sys.exit(main())
