"""Generative Adversarial Imitation Learning (Ho & Ermon, 2016), arXiv:1606.03476.

GAIL and the baselines of Sec. 6: behavioral cloning, feature expectation matching (FEM) and
game-theoretic apprenticeship learning (GTAL). "Code" is the authors' released one. The logit z of a
discriminator says expert where it is positive: the paper's D is sigmoid(-z).

Departures from the paper, all in the direction of the code that was run:
    Algorithm 1 updates the discriminator before the policy; the code after it.
    Eq. 16 has no entropy of the discriminator; the code rewards it by .001.
    Algorithm 1 has cost log D; the code has log sigmoid(z) for tasks that end in success.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_gen.nn.control import Rollout, Task
from lit_gen.nn.policies import Standardizer, perceptron
from lit_gen.papers.trpo import TRPO

HIDDEN = (100, 100)


class Discriminator(nn.Module):
    """z(s, a): logit that a pair is the expert's; also the logits' inputs' standardisation.

    Of discrete actions, the perceptron sees the observation and gives a logit for each action.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.discrete = task.discrete
        inputs = task.observations + (0 if task.discrete else task.actions)
        self.standardizer = Standardizer(inputs)
        self.net = perceptron(inputs, task.actions if task.discrete else 1, HIDDEN)

    def inputs(self, s: Tensor, a: Tensor) -> Tensor:
        """What is standardised, (N, inputs)."""
        return s if self.discrete else torch.cat([s, a], -1)

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        """(N, D) and (N, A) or (N,) -> logits (N,)."""
        z = self.net(self.standardizer(self.inputs(s, a)))
        return (z.gather(-1, a.unsqueeze(-1)) if self.discrete else z).squeeze(-1)


def bernoulli_entropy(z: Tensor) -> Tensor:
    """Of a coin that shows 1 with probability sigmoid(z), in nats; (N,)."""
    return F.softplus(z) - z * z.sigmoid()


def discriminator_loss(z_policy: Tensor, z_expert: Tensor, entropy: float = 0.001) -> Tensor:
    """Eq. 16's logistic loss, both kinds of pairs alike, less the code's reward of entropy.

    Args:
        z_policy, z_expert: logits, (N,) and (M,).
    """
    loss = F.softplus(z_policy).mean() + F.softplus(-z_expert).mean()
    spread = bernoulli_entropy(z_policy).mean() + bernoulli_entropy(z_expert).mean()
    return loss - entropy * spread


def adversarial_reward(z: Tensor, success_ends: bool) -> Tensor:
    """Reward of a pair with logit z, (N,): -log(1 - sigmoid(z)) >= 0, which makes episodes last; or
    log sigmoid(z) <= 0, which makes them end, where that is success (code)."""
    return F.logsigmoid(z) if success_ends else F.softplus(z)


class Imitator(TRPO):
    """TRPO under a reward that is learned from demonstrations.

    Args:
        task: what it plays.
        gamma, lam, max_kl, damping, subsample, bootstrap: see `TRPO`.
        reward_first: learn the reward before the policy's step, as Algorithm 1; the code after it.
    """

    def __init__(
        self,
        task: Task,
        gamma: float = 0.995,
        lam: float = 0.97,
        max_kl: float = 0.01,
        damping: float = 0.1,
        subsample: float = 0.1,
        bootstrap: bool = False,
        reward_first: bool = False,
    ) -> None:
        super().__init__(task, HIDDEN, "tanh", gamma, lam, max_kl, damping, subsample, bootstrap)
        self.reward_first = reward_first

    def begin(self, s: Tensor, a: Tensor) -> None:
        """Takes what it must from all demonstrated pairs, before the first iteration."""
        self.policy.standardizer.update(s)
        self.value.standardizer.update(s)

    def on_train_start(self) -> None:
        s, a = (x.to(self.device) for x in self.trainer.datamodule.pairs)
        self.expert = s.to(self.dtype), a if self.task.discrete else a.to(self.dtype)
        if not self.policy.standardizer.count:  # a resumed run brings its own
            self.begin(*self.expert)

    def fit_reward(self, batch: Rollout) -> dict[str, Tensor | float]:
        """Learns the reward from the policy's pairs and the expert's."""
        raise NotImplementedError

    def improve(self, batch: Rollout) -> dict[str, float]:
        learned = self.fit_reward(batch) if self.reward_first else {}
        return learned | super().improve(batch)

    def learn_reward(self, batch: Rollout) -> dict[str, Tensor | float]:
        return {} if self.reward_first else self.fit_reward(batch)


class GAIL(Imitator):
    """Algorithm 1: the reward is a discriminator's.

    Args:
        task, gamma, lam, max_kl, damping, subsample, bootstrap, reward_first: see `Imitator`.
        causal_entropy: lambda of Eq. 18: reward of -log pi(a|s), in nats.
        lr: of the discriminator's Adam, which takes one step an iteration.
        discriminator_entropy: see `discriminator_loss`.
    """

    def __init__(
        self,
        task: Task,
        gamma: float = 0.995,
        lam: float = 0.97,
        max_kl: float = 0.01,
        damping: float = 0.1,
        subsample: float = 0.1,
        bootstrap: bool = False,
        reward_first: bool = False,
        causal_entropy: float = 0.0,
        lr: float = 0.01,
        discriminator_entropy: float = 0.001,
    ) -> None:
        super().__init__(task, gamma, lam, max_kl, damping, subsample, bootstrap, reward_first)
        self.discriminator = Discriminator(task)
        self.causal_entropy, self.lr = causal_entropy, lr
        self.discriminator_entropy = discriminator_entropy

    def begin(self, s: Tensor, a: Tensor) -> None:
        super().begin(s, a)
        self.discriminator.standardizer.update(self.discriminator.inputs(s, a))

    @torch.no_grad()
    def rewards(self, batch: Rollout) -> Tensor:
        z = self.discriminator(batch.observations, batch.actions)
        return adversarial_reward(z, self.task.success_ends)

    def bonus(self, batch: Rollout, log_prob: Tensor) -> Tensor | float:
        return -self.causal_entropy * log_prob if self.causal_entropy else 0.0

    def fit_reward(self, batch: Rollout) -> dict[str, Tensor | float]:
        n = len(batch.observations)
        drawn = torch.randint(len(self.expert[0]), (n,), device=self.device)
        s = torch.cat([batch.observations, self.expert[0][drawn]])
        a = torch.cat([batch.actions, self.expert[1][drawn]])
        self.discriminator.standardizer.update(self.discriminator.inputs(s, a))
        z_policy, z_expert = self.discriminator(s, a).split(n)
        loss = discriminator_loss(z_policy, z_expert, self.discriminator_entropy)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return {
            "train/loss_discriminator": loss.detach(),
            "train/told_apart": ((z_policy < 0).sum() + (z_expert > 0).sum()) / (2.0 * n),
        }

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.discriminator.parameters(), self.lr, fused=True)


class FEM(Imitator):
    """Feature expectation matching (Abbeel & Ng, 2004): a linear reward r = w . f(s, a).

    Features of x, the standardised observation and action, are x, (.01 x)^2 and 1; of discrete
    actions, those of the observation stand in the place of the action that was taken. Rewards are
    shifted by the least so far to be 0 or more; or by the largest to be 0 or less, where success
    ends an episode (code).
    """

    def __init__(
        self,
        task: Task,
        gamma: float = 0.995,
        lam: float = 0.97,
        max_kl: float = 0.01,
        damping: float = 0.1,
        subsample: float = 0.1,
        bootstrap: bool = False,
        reward_first: bool = False,
    ) -> None:
        super().__init__(task, gamma, lam, max_kl, damping, subsample, bootstrap, reward_first)
        inputs = task.observations + (0 if task.discrete else task.actions)
        self.seen = Standardizer(inputs)  # of the expert's pairs alone
        copies = task.actions if task.discrete else 1
        self.register_buffer("w", self.first(2 * inputs * copies + 1))
        self.register_buffer("bound", torch.tensor(0.0, dtype=torch.float64))

    def first(self, features: int) -> Tensor:
        """Weights before anything is learned."""
        return F.normalize(torch.randn(features, dtype=torch.float64), dim=0)

    def features(self, s: Tensor, a: Tensor) -> Tensor:
        """f(s, a), (N, F)."""
        x = self.seen(s if self.task.discrete else torch.cat([s, a], -1))
        f = torch.cat([x, (0.01 * x).square()], -1)
        if self.task.discrete:
            f = (
                F.one_hot(a, self.task.actions).to(f.dtype).unsqueeze(-1) * f.unsqueeze(1)
            ).flatten(1)
        return torch.cat([f, f.new_ones(len(f), 1)], -1)

    def begin(self, s: Tensor, a: Tensor) -> None:
        super().begin(s, a)
        self.seen.update(s if self.task.discrete else torch.cat([s, a], -1))

    def rewards(self, batch: Rollout) -> Tensor:
        f = self.features(batch.observations, batch.actions)
        r = f @ self.w / f.shape[1]
        if self.task.success_ends:
            self.bound.copy_(torch.maximum(self.bound, r.max()))
        else:
            self.bound.copy_(torch.minimum(self.bound, r.min()))
        return r - self.bound

    def weights(self, excess: Tensor) -> Tensor:
        """w, from what the expert's mean features have over the policy's, (F,)."""
        return F.normalize(excess, dim=0)

    def fit_reward(self, batch: Rollout) -> dict[str, Tensor | float]:
        theirs = self.features(*self.expert).mean(0)
        excess = theirs - self.features(batch.observations, batch.actions).mean(0)
        self.w.copy_(self.weights(excess))
        return {"train/feature_gap": excess.norm()}


class GTAL(FEM):
    """Game-theoretic apprenticeship learning (Syed & Schapire, 2007): the reward is the one
    feature, or its negative, of which the expert has most over the policy."""

    def first(self, features: int) -> Tensor:
        drawn = torch.randint(2 * features, ())
        return F.one_hot(drawn, 2 * features).double()

    def features(self, s: Tensor, a: Tensor) -> Tensor:
        f = super().features(s, a)
        return torch.cat([f, -f], -1)

    def weights(self, excess: Tensor) -> Tensor:
        return F.one_hot(excess.argmax(), len(excess)).to(excess.dtype)


class BehavioralCloning(Imitator):
    """Maximum likelihood on the expert's pairs; what is tested is the snapshot best on validation.

    An epoch ends with a validation: minus the squared error of the mean, summed over an action's
    entries, or of discrete actions the log-likelihood (code).

    Args:
        task: what it imitates.
        lr: of Adam.
    """

    def __init__(self, task: Task, lr: float = 0.001) -> None:
        super().__init__(task)
        del self.value  # nothing is played while training
        self.automatic_optimization = True
        self.lr = lr
        self.best = copy.deepcopy(self.policy).requires_grad_(False)
        self.register_buffer("best_score", torch.tensor(-torch.inf, dtype=torch.float64))

    @property
    def acting(self) -> nn.Module:
        return self.best

    def begin(self, s: Tensor, a: Tensor) -> None:
        self.policy.standardizer.update(s)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        s, a = batch
        loss = -self.policy.log_prob(self.policy(s), a).mean()
        return {"loss": loss, "train/nll": loss.detach()}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        s, a = batch
        predicted = self.policy(s)
        if self.task.discrete:
            score = self.policy.log_prob(predicted, a).mean()
        else:
            score = -(predicted[0] - a).square().sum(-1).mean()
        self.log("val/score", score, batch_size=len(s))
        if score > self.best_score:
            self.best_score.copy_(score)
            self.best.load_state_dict(self.policy.state_dict())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.policy.parameters(), self.lr, fused=True)
