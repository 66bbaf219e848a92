"""Variational Information Maximizing Exploration (Houthooft et al., 2016), arXiv:1605.09674.

A Bayesian network learns the dynamics p(s'|s, a). What a transition would teach it, the divergence
of its posterior after the transition from the one before, is added to the reward. "Code" is the
authors' released one, and their research branch of spring 2016 where that one is silent.

Departures from the paper, all in the direction of the code that was run; what is said of the paper
is from memory:
    Gamma is .99; the paper has .995.
    The gain lacks a factor of 1/2, which the normalisation divides out.
    It is divided by the mean of the last ten iterations' medians; the paper averages medians over
    trajectories.
    The baseline predicts the task's own return; the paper does not say which.
    The KL to the prior counts a fifth in each mini-batch; the paper has a schedule.
    The likelihood's standard deviation is 5; the paper does not say which.
    The Fisher information is of a tenth of the steps; the paper does not say so.
    Training begins with 500 transitions in all tasks; the paper has more for SwimmerGather.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from lit_gen.metrics import returns, updates
from lit_gen.nn.bayesian import BayesianNetwork
from lit_gen.nn.control import Rollout, Task
from lit_gen.nn.trust_region import discounted_sums, gae
from lit_gen.papers import vime_learners as learners

EARLY, FINAL = 100, 10  # iterations that mean returns are taken of
SHARED = 64  # steps in a row whose predictions share a draw of the noise (research branch)
CELLS = 50  # of a map of visited states, in each direction


class ReplayPool:
    """The newest transitions, as they were played, one after another.

    Args:
        size: how many it holds; then the oldest gives way.
        observations, actions: numbers in each.
    """

    def __init__(self, size: int, observations: int, actions: int) -> None:
        self.size = size
        self.observations, self.actions = torch.zeros(0, observations), torch.zeros(0, actions)
        self.ends = torch.zeros(0, dtype=torch.bool)  # of an episode

    def __len__(self) -> int:
        return len(self.ends)

    def add(self, batch: Rollout) -> None:
        ends = torch.zeros_like(batch.times, dtype=torch.bool)
        ends[batch.lengths.cumsum(0) - 1] = True
        self.observations = self._joined(self.observations, batch.observations)
        self.actions = self._joined(self.actions, batch.actions)
        self.ends = self._joined(self.ends, ends)

    def _joined(self, old: Tensor, new: Tensor) -> Tensor:
        return torch.cat([old.to(new), new])[-self.size :]

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation of [observation, action], (D + A,) each, and D of them."""
        both = torch.cat([self.observations, self.actions], -1)
        return both.mean(0), both.std(0, correction=0) + 1e-8

    def draw(self, shape: Sequence[int], across_ends: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Observations, actions and the observations after them, (*shape, D), (*shape, A) and
        (*shape, D); drawn with replacement, never the newest transition.

        Args:
            shape: how many.
            across_ends: what is stored next is taken for what follows, also after an episode's end
                (code); otherwise such transitions are not drawn.
        """
        if across_ends:
            i = torch.randint(len(self) - 1, tuple(shape), device=self.ends.device)
        else:
            inside = (~self.ends[:-1]).nonzero().squeeze(1)
            i = inside[torch.randint(len(inside), tuple(shape), device=self.ends.device)]
        return self.observations[i], self.actions[i], self.observations[i + 1]

    def state_dict(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("observations", "actions", "ends")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class VIME(LightningModule):
    """A policy that is also rewarded for what its transitions teach; a training step is one
    iteration. The paper's learner is TRPO; REINFORCE and ERWR take its place in Fig. 2 and 4.

    Args:
        task: what it plays; actions are not clipped for the dynamics model.
        intrinsic: what is added to the reward: the information gain; the squared error of one drawn
            prediction, the paper's baseline "L2", each draw being of 64 steps in a row; or nothing.
        eta: its weight.
        learner: of the policy.
        hidden: widths of the policy's layers.
        baseline: perceptron (classic tasks), or ridge regression on features (others).
        gamma: discount.
        lam: of generalised advantage estimation; 1 takes the returns.
        max_kl, damping, keep_last: see `vime_learners.trpo`.
        subsample: part of the steps that the Fisher information is of; the code's default.
        lr: of REINFORCE's Adam.
        dynamics_hidden: widths of the Bayesian network's layers.
        dynamics_lr, dynamics_updates, dynamics_batch: its Adam's steps in an iteration, on
            mini-batches from the pool.
        samples: draws that its likelihood is averaged over.
        likelihood_std: around its predictions, in standardised units.
        batches: its KL to the prior counts 1 / batches in each mini-batch.
        pool: transitions that are kept.
        least: transitions that it needs for training.
        across_ends: see `ReplayPool.draw`.
        step: length of the virtual update, the paper's lambda.
        largest: gains are clipped there.
        window: iterations whose median gains are averaged to divide by.
        errors_of: whose prediction error a step gets: its own (paper), or its episode's mean
            (research branch).
        goal: a mean return of an iteration that counts as having reached the goal.
        goal_by: iterations within which it is to be reached.
        seen: the ranges of an observation's first two numbers, for a map of visited states; none
            makes no map.
    """

    def __init__(
        self,
        task: Task,
        intrinsic: Literal["information_gain", "prediction_error", "none"] = "information_gain",
        eta: float = 1e-4,
        learner: Literal["trpo", "reinforce", "erwr"] = "trpo",
        hidden: Sequence[int] = (32,),
        baseline: Literal["perceptron", "linear"] = "perceptron",
        gamma: float = 0.99,
        lam: float = 1.0,
        max_kl: float = 0.01,
        damping: float = 1e-5,
        keep_last: bool = True,
        subsample: float = 0.1,
        lr: float = 1e-3,
        dynamics_hidden: Sequence[int] = (32,),
        dynamics_lr: float = 1e-4,
        dynamics_updates: int = 500,
        dynamics_batch: int = 10,
        samples: int = 10,
        likelihood_std: float = 5.0,
        batches: float = 5.0,
        pool: int = 100_000,
        least: int = 500,
        across_ends: bool = True,
        step: float = 0.01,
        largest: float = 1000.0,
        window: int = 10,
        errors_of: Literal["step", "episode"] = "step",
        goal: float | None = None,
        goal_by: int = 50,
        seen: Sequence[tuple[float, float]] = (),
    ) -> None:
        super().__init__()
        for name, fine, range_ in (
            ("eta", eta >= 0, "of 0 or more"),
            ("gamma", 0 <= gamma <= 1, "from 0 to 1"),
            ("lam", 0 <= lam <= 1, "from 0 to 1"),
            ("subsample", 0 < subsample <= 1, "above 0 and up to 1"),
            ("max_kl", max_kl > 0, "above 0"),
            ("damping", damping >= 0, "of 0 or more"),
            ("lr", lr > 0, "above 0"),
            ("dynamics_lr", dynamics_lr > 0, "above 0"),
            ("likelihood_std", likelihood_std > 0, "above 0"),
            ("batches", batches > 0, "above 0"),
            ("largest", largest > 0, "above 0"),
            ("pool", pool >= 2, "of 2 or more"),
            ("least", 2 <= least <= pool, "from 2 to that of the pool"),
            ("goal_by", goal_by >= 1, "of 1 or more"),
            ("step", step > 0, "above 0"),
            ("dynamics_updates", dynamics_updates >= 0, "of 0 or more"),
            ("dynamics_batch", dynamics_batch >= 1, "of 1 or more"),
            ("samples", samples >= 1, "of 1 or more"),
            ("window", window >= 1, "of 1 or more"),
        ):
            if not fine:
                raise ValueError(f"{name}={locals()[name]}: give a number {range_}.")
        if len(seen) not in (0, 2) or any(low >= high for low, high in seen):
            raise ValueError(f"seen={seen}: give two ranges, [low, high] each, or none.")
        if task.discrete:
            raise ValueError(f"{task.env} has discrete actions: VIME is for continuous ones.")
        self.automatic_optimization = False  # no learner but REINFORCE has an optimizer of torch's
        self.save_hyperparameters(ignore="task")
        self.task = task
        D, A = task.observations, task.actions
        self.policy = learners.RawPolicy(D, A, hidden)
        self.baseline = (
            learners.LinearBaseline(D) if baseline == "linear" else learners.PerceptronBaseline(D)
        )
        if self.explores:
            self.dynamics = BayesianNetwork(
                D + A, D, dynamics_hidden, likelihood_std=likelihood_std
            )
        self.pool = ReplayPool(pool, D, A)
        self.medians: deque[float] = deque(maxlen=window)
        self.returns: list[float] = []  # of each iteration
        self.register_buffer("visits", torch.zeros(CELLS, CELLS, dtype=torch.int64))

    @property
    def explores(self) -> bool:
        return self.hparams.intrinsic != "none"

    @property
    def acting(self) -> learners.RawPolicy:
        """The policy that plays."""
        return self.policy

    # --- an iteration

    def training_step(self, batch: Rollout, batch_idx: int) -> dict[str, Tensor | float]:
        s, t = batch.observations, batch.times
        # the latter tells seeds apart where nothing is learned
        said = {
            "train/return": batch.returns.mean(),
            "train/squared_action": batch.actions.square().mean(),
        }
        rewards = batch.rewards
        if self.explores and len(self.pool):  # not in the first iteration
            gains = self.gains(batch)
            rewards = rewards + self.hparams.eta * gains / self.scale(gains)
            said["train/median_gain"] = self.medians[-1]
        said |= self.improve(batch, self.advantages(batch, rewards))
        self.trainer.datamodule.ahead()

        targets = discounted_sums(batch.rewards, batch.lengths.tolist(), self.hparams.gamma)
        self.baseline.fit(s, t, targets)  # the task's own reward (code)
        if self.explores:
            self.pool.add(batch)
            if len(self.pool) >= self.hparams.least:
                said["train/dynamics_nll"] = self.fit_dynamics()
        self.returns.append(float(batch.returns.mean()))
        self.look(s)
        return said

    def advantages(self, batch: Rollout, rewards: Tensor) -> Tensor:
        """By the baseline that earlier iterations made, standardised; (N,). A time limit counts as
        an end."""
        with torch.no_grad():
            values = self.baseline(batch.observations, batch.times)
        last = values.new_zeros(len(batch.lengths))
        lengths = batch.lengths.tolist()
        A = gae(rewards, values, lengths, last, self.hparams.gamma, self.hparams.lam)
        return (A - A.mean()) / (A.std(correction=0) + 1e-8)

    def improve(self, batch: Rollout, A: Tensor) -> dict[str, Tensor | float]:
        """One step of the policy."""
        policy, s, a, of = self.policy, batch.observations, batch.actions, self.hparams
        with torch.no_grad():
            old = tuple(p.clone() for p in policy(s))
        if of.learner == "trpo":
            some = torch.randperm(len(A), device=A.device)[: max(1, int(of.subsample * len(A)))]
            learners.trpo(policy, s, a, A, some, of.max_kl, of.damping, of.keep_last)
        elif of.learner == "reinforce":
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(learners.reinforce_loss(policy, s, a, A))
            optimizer.step()
        else:
            learners.erwr(policy, s, a, A)
        with torch.no_grad():
            kl = policy.kl(old, policy(s)).mean()
        return {"train/kl": kl, "train/entropy": policy.entropy(old).mean()}

    # --- the intrinsic reward

    def standardized(self, s: Tensor, a: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """What the dynamics model sees and predicts, standardised: (..., D + A), (..., D)."""
        mean, std = (z.to(s) for z in self.pool.statistics())
        D = self.task.observations
        x = (torch.cat([s, a], -1) - mean) / std
        return x, (after - mean[:D]) / std[:D]

    @torch.no_grad()
    def gains(self, batch: Rollout) -> Tensor:
        """What each step has taught, (N,) from 0 to `largest`.

        An episode's last step gets what the one before it has (code), unless it is its only one.
        """
        ends = batch.lengths.cumsum(0) - 1
        after = torch.cat([batch.observations[1:], batch.last[-1:]])
        after[ends] = batch.last
        x, y = self.standardized(batch.observations, batch.actions, after)
        if self.hparams.intrinsic == "information_gain":
            k = self.dynamics.information_gain(x, y, self.hparams.samples, self.hparams.step)
        else:
            noise = self.dynamics.noise(-(-len(x) // SHARED)).repeat_interleave(SHARED, 0)
            k = (self.dynamics(x, noise[: len(x)]) - y).square().sum(-1)
        copied = ends[batch.lengths > 1]
        k[copied] = k[copied - 1]
        if self.hparams.intrinsic == "prediction_error" and self.hparams.errors_of == "episode":
            k = torch.cat([p.mean().expand_as(p) for p in k.split(batch.lengths.tolist())])
        return k.clamp(0, self.hparams.largest)

    def scale(self, gains: Tensor) -> float:
        """Mean of the last iterations' medians, this one's included; never 0."""
        self.medians.append(float(gains.quantile(0.5)))
        return max(sum(self.medians) / len(self.medians), 1e-8)

    def fit_dynamics(self) -> float:
        """Some of Adam's steps on the pool; returns the mean -log p(s'|s, a) in nats."""
        of = self.hparams
        drawn = self.pool.draw((of.dynamics_updates, of.dynamics_batch), of.across_ends)
        x, y = self.standardized(*drawn)
        return self.dynamics.fit(x, y, of.samples, of.dynamics_lr, batches=of.batches)

    # --- what is remembered of a training

    def look(self, s: Tensor) -> None:
        """Counts where the steps were, by the first two numbers of their observations."""
        if not self.hparams.seen:
            return
        cells = [
            ((s[:, i] - low) / (high - low) * CELLS).long().clamp(0, CELLS - 1)
            for i, (low, high) in enumerate(self.hparams.seen)
        ]
        of = (CELLS - 1 - cells[1]) * CELLS + cells[0]  # the second number upwards
        self.visits += torch.bincount(of, minlength=CELLS**2).view(CELLS, CELLS)

    def pictures(self, x: Any) -> dict[str, dict[str, Any]]:
        """A map of the training's states (Fig. 1d), over the first two numbers of an observation;
        what was beyond their ranges is at its border."""
        if not self.hparams.seen:
            return {}
        env = self.task.make()
        names = getattr(env.unwrapped, "observed", ("observation 1", "observation 2"))
        env.close()
        (across, up), log = self.hparams.seen, self.visits.double().log1p()
        axes = {"x": (names[0], *across), "y": (names[1], *up)}
        return {"visited": {"numbers": log, "unit": "log(1 + visits)", **axes}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["exploration"] = {
            "pool": self.pool.state_dict(),
            "medians": list(self.medians),
            "returns": self.returns,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["exploration"]
        self.pool.load_state_dict(state["pool"])
        self.medians = deque(state["medians"], self.medians.maxlen)
        self.returns = list(state["returns"])

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """The training episodes' returns, which the paper's curves are of, and those of the policy
        at the end."""
        curve = np.array(self.returns)
        said = {
            "test/return": returns.mean(batch["return"].cpu().numpy()),
            "train/mean_return": updates.late(curve),
            "train/early_return": updates.early(curve, EARLY),
            "train/final_return": updates.late(curve, FINAL),
        }
        if self.hparams.goal is not None:
            said["train/reached"] = updates.reached(curve, self.hparams.goal, self.hparams.goal_by)
        self.log_dict(said, batch_size=1)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """What the metrics are computed from."""
        return batch | {"iteration_return": torch.tensor(self.returns, dtype=torch.float64)}

    def configure_optimizers(self) -> torch.optim.Optimizer | None:
        if self.hparams.learner == "reinforce":
            return torch.optim.Adam(self.policy.parameters(), lr=self.hparams.lr)
        return None
