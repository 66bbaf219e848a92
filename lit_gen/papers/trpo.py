"""Trust Region Policy Optimization (Schulman et al., 2015), arXiv:1502.05477.

As the code of Generative Adversarial Imitation Learning has it: advantages by generalised
estimation, a value function that is trained by a trust region, too, whole episodes. It trains
GAIL's experts, and its imitators are TRPO under a reward of their own.
"""

from collections.abc import Sequence

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from lit_gen.metrics import returns
from lit_gen.nn.control import Rollout, Task
from lit_gen.nn.policies import Activation, CategoricalPolicy, GaussianPolicy, ValueFunction
from lit_gen.nn.trust_region import discounted_sums, gae, surrogate, trust_region_step


class TRPO(LightningModule):
    """A policy that learns by trust-region steps; one training step is one iteration.

    Args:
        task: what it plays.
        hidden: widths of the hidden layers of policy and value function.
        activation: between their layers.
        gamma: discount.
        lam: of generalised advantage estimation.
        max_kl: mean divergence of a step, in nats.
        damping: added to the Fisher information, of policy and value function.
        subsample: part of the steps, drawn with replacement, that the Fisher information is of.
        bootstrap: the value of the observation after a time limit stands for what would follow;
            the code takes the limit for an end.
        limit: steps of a training episode at most, where it is not the task's.
    """

    def __init__(
        self,
        task: Task,
        hidden: Sequence[int] = (64, 64),
        activation: Activation = "tanh",
        gamma: float = 0.995,
        lam: float = 0.98,
        max_kl: float = 0.01,
        damping: float = 0.01,
        subsample: float = 0.1,
        bootstrap: bool = False,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, fine, range_ in (
            ("gamma", gamma, 0 <= gamma <= 1, "from 0 to 1"),
            ("lam", lam, 0 <= lam <= 1, "from 0 to 1"),
            ("max_kl", max_kl, max_kl > 0, "above 0"),
            ("damping", damping, damping >= 0, "of 0 or more"),
            ("subsample", subsample, 0 < subsample <= 1, "above 0 and up to 1"),
        ):
            if not fine:
                raise ValueError(f"{name}={value}: give a number {range_}.")
        self.automatic_optimization = False  # a step of conjugate gradients is no optimizer's
        self.task, self.gamma, self.lam = task, gamma, lam
        self.max_kl, self.damping, self.subsample = max_kl, damping, subsample
        self.bootstrap = bootstrap
        kind = CategoricalPolicy if task.discrete else GaussianPolicy
        self.policy = kind(task.observations, task.actions, hidden, activation)
        self.value = ValueFunction(task.observations, limit or task.limit, hidden, activation)

    @property
    def acting(self) -> CategoricalPolicy | GaussianPolicy:
        """The policy that plays."""
        return self.policy

    def rewards(self, batch: Rollout) -> Tensor:
        """What is learned from, (N,); here the task's own."""
        return batch.rewards

    def bonus(self, batch: Rollout, log_prob: Tensor) -> Tensor | float:
        """Added to the rewards that advantages are of, but not to the value function's."""
        return 0.0

    def learn_reward(self, batch: Rollout) -> dict[str, Tensor]:
        """Hook of those who learn a reward; between the steps of policy and value function."""
        return {}

    def training_step(self, batch: Rollout, batch_idx: int) -> dict[str, Tensor | float]:
        said = {"train/return": batch.returns.mean(), "train/length": batch.times.numel()}
        said["train/length"] /= len(batch.lengths)
        said |= self.improve(batch)
        self.trainer.datamodule.ahead()
        said |= self.learn_reward(batch)
        return said | self.fit_value(batch, self.rewards(batch))

    def picked(self, n: int) -> Tensor:
        """Indices of the steps that a Fisher information is of."""
        size = max(1, int(self.subsample * n))
        return torch.randint(n, (size,), device=self.device)

    @torch.no_grad()
    def advantages(self, batch: Rollout, rewards: Tensor) -> Tensor:
        """Standardised over the batch, (N,)."""
        values = self.value(batch.observations, batch.times)
        last = values.new_zeros(len(batch.lengths))
        if self.bootstrap:
            limited = ~batch.terminated
            after = self.value(batch.last, batch.lengths.to(values.dtype))
            last[limited] = after[limited]
        A = gae(rewards, values, batch.lengths.tolist(), last, self.gamma, self.lam)
        return (A - A.mean()) / (A.std(correction=0) + 1e-8)

    def improve(self, batch: Rollout) -> dict[str, float]:
        """One step of the policy, then of the standardisation of what it sees."""
        policy, s, a = self.policy, batch.observations, batch.actions
        with torch.no_grad():
            old = policy(s)
            entropy = policy.entropy(old).mean()
            rewards = self.rewards(batch) + self.bonus(batch, policy.log_prob(old, a))
        A = self.advantages(batch, rewards)
        evaluate, curved = surrogate(policy, s, a, A, self.picked(len(A)))
        parameters = policy.parameters()
        step = trust_region_step(parameters, evaluate, curved, self.max_kl, self.damping)
        policy.standardizer.update(s)
        return {
            "train/kl": step.divergence,
            "train/gain": step.gain,
            "train/step": step.scale,
            "train/entropy": entropy,
        }

    def fit_value(self, batch: Rollout, rewards: Tensor) -> dict[str, float]:
        """One step of the value function towards the discounted returns."""
        value, s, t = self.value, batch.observations, batch.times
        targets = discounted_sums(rewards, batch.lengths.tolist(), self.gamma).unsqueeze(1)
        value.standardizer.update(s)
        value.returns.update(targets)
        y = value.returns(targets).squeeze(1)
        with torch.no_grad():
            old = value.standardized(s, t)
        some = self.picked(len(y))

        def evaluate() -> tuple[Tensor, Tensor]:
            new = value.standardized(s, t)
            return -(new - y).square().mean(), (new - old).square().mean()

        def curved() -> Tensor:
            return (value.standardized(s[some], t[some]) - old[some]).square().mean()

        parameters = value.net.parameters()
        step = trust_region_step(parameters, evaluate, curved, self.max_kl, self.damping)
        after = y.new_tensor(step.gain) - (old - y).square().mean()
        return {"train/value_explained": 1 + after / y.var(correction=0).clamp(min=1e-8)}

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """The mean return, and where there is an expert the score between random and expert."""
        arrays = {name: x.cpu().numpy() for name, x in batch.items()}
        self.log("test/return", returns.mean(arrays["return"]), batch_size=1)
        if "random_return" in arrays:
            self.log("test/random_return", returns.mean(arrays["random_return"]), batch_size=1)
        if "expert_return" in arrays:
            three = (arrays[name] for name in ("return", "expert_return", "random_return"))
            self.log("test/score", returns.score(*three), batch_size=1)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """What the metrics are computed from."""
        return batch

    def configure_optimizers(self) -> None:
        return None
