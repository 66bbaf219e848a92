"""GAIL and its baselines: rewards by hand, the order of updates, a task with a known optimum."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from lit_gen.datamodules.demonstrations import Imitation
from lit_gen.datamodules.episodes import Episode
from lit_gen.datamodules.rollouts import together
from lit_gen.harness.run import Run, make_trainer
from lit_gen.harness.spec import find
from lit_gen.nn.control import Rollout, Task
from lit_gen.papers.gail import (
    FEM,
    GAIL,
    GTAL,
    BehavioralCloning,
    Discriminator,
    Imitator,
    adversarial_reward,
    bernoulli_entropy,
    discriminator_loss,
)

REPRODUCTIONS = sorted((Path(__file__).parents[2] / "reproductions" / "gail").glob("*.yaml"))
DISCRETE = Task("CartPole-v1", 10, 2, 3, discrete=True)  # of another size than the real one
CONTINUOUS = Task("Pendulum-v1", 10, 3, 2)
ENDING = Task("MountainCar-v0", 10, 2, 3, discrete=True, success_ends=True)


class TwoStates(gymnasium.Env):
    """Each of its states has one action that is rewarded; the next state is drawn."""

    observation_space = Box(0, 1, (2,), np.float64)
    action_space = Discrete(2)

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        return self.drawn(), {}

    def drawn(self) -> np.ndarray:
        self.state = int(self.np_random.integers(2))
        return np.eye(2)[self.state]

    def step(self, action: int) -> tuple:
        reward = float(action == self.state)
        return self.drawn(), reward, False, False, {}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def two_states(tmp_path: Path) -> Iterator[Task]:
    gymnasium.register("TwoStates-v0", entry_point=TwoStates)
    yield Task("TwoStates-v0", 10, 2, 2, discrete=True)
    gymnasium.registry.pop("TwoStates-v0")


@pytest.fixture
def expert(tmp_path: Path) -> str:
    """Four trajectories of the best policy of `TwoStates`."""
    states = np.random.default_rng(0).integers(2, size=40)
    np.savez(
        tmp_path / "expert.npz",
        observations=np.eye(2)[states],
        actions=states,
        lengths=np.full(4, 10),
        **{"return": np.full(4, 10.0), "random_return": np.full(4, 5.0)},
    )
    return str(tmp_path / "expert.npz")


def fitted(
    model: pl.LightningModule, data: Imitation, epochs: int = 1, *callbacks: pl.Callback
) -> pl.Trainer:
    trainer = make_trainer(
        {"max_epochs": epochs, "precision": "64-true"}, "cpu", callbacks=list(callbacks)
    )
    trainer.fit(model, data)
    return trainer


def pairs(task: Task, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    a = torch.randint(3, (n,)) if task.discrete else torch.randn(n, 2).double()
    return torch.randn(n, task.observations).double() * 2 + 1, a


def batch_of(task: Task, seed: int = 0) -> Rollout:
    episodes = []
    for n in (4, 1, 6):
        s, a = pairs(task, n + 1, seed := seed + 1)
        episodes.append(Episode(s[:-1].numpy(), a[:-1].numpy(), np.zeros(n), s[-1].numpy(), n < 6))
    return together(episodes)


# the discriminator


def by_hand(z_policy: np.ndarray, z_expert: np.ndarray, entropy: float) -> float:
    def spread(z: np.ndarray) -> float:
        p = 1 / (1 + np.exp(-z))
        return float(np.mean(-p * np.log(p) - (1 - p) * np.log(1 - p)))

    told = -np.mean(np.log(1 - 1 / (1 + np.exp(-z_policy))))
    told -= np.mean(np.log(1 / (1 + np.exp(-z_expert))))
    return told - entropy * (spread(z_policy) + spread(z_expert))


@pytest.mark.parametrize("entropy", [0.0, 0.001, 1.0])
def test_the_loss_is_the_logistic_one_less_the_entropies(entropy: float) -> None:
    rng = np.random.default_rng(0)
    policy, expert = rng.normal(size=7) * 3 - 1, rng.normal(size=4) * 3 + 1
    both = torch.from_numpy(policy).requires_grad_(), torch.from_numpy(expert).requires_grad_()

    loss = discriminator_loss(*both, entropy)
    slopes = torch.autograd.grad(loss, both)

    assert loss.item() == pytest.approx(by_hand(policy, expert, entropy))
    for z, slope in zip((policy, expert), slopes, strict=True):
        for i in range(len(z)):
            z[i] += 1e-5
            above = by_hand(policy, expert, entropy)
            z[i] -= 2e-5
            below = by_hand(policy, expert, entropy)
            z[i] += 1e-5
            assert slope[i].item() == pytest.approx((above - below) / 2e-5, abs=1e-8)


def test_at_chance_the_loss_is_two_coins() -> None:
    zero = torch.zeros(5)
    assert discriminator_loss(zero, zero[:2], 0).item() == pytest.approx(2 * np.log(2))
    assert bernoulli_entropy(zero).tolist() == pytest.approx([np.log(2)] * 5)
    far = torch.tensor([-200.0, 200.0])
    assert bernoulli_entropy(far).tolist() == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("task", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_gradients_reach_all_weights(task: Task) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(task).double()
    for p in discriminator.parameters():
        torch.nn.init.normal_(p, std=0.2)
    one, other = pairs(task, 5), pairs(task, 5, seed=1)
    discriminator.standardizer.update(discriminator.inputs(*one))

    def loss() -> Tensor:
        return discriminator_loss(discriminator(*one), discriminator(*other), 0.1)

    parameters = list(discriminator.parameters())
    slopes = torch.autograd.grad(loss(), parameters)
    for p, slope in zip(parameters, slopes, strict=True):
        direction = torch.randn_like(p)
        with torch.no_grad():
            p += 1e-5 * direction
            above = loss().item()
            p -= 2e-5 * direction
            below = loss().item()
            p += 1e-5 * direction
        known = (above - below) / 2e-5
        assert (slope * direction).sum().item() == pytest.approx(known, abs=1e-7, rel=1e-6)


def test_of_discrete_actions_the_taken_ones_logit_counts() -> None:
    discriminator = Discriminator(DISCRETE).double()
    discriminator.net[-1].bias.data = torch.tensor([1.0, 2.0, 3.0]).double()

    assert discriminator(torch.randn(4, 2).double(), torch.tensor([2, 0, 1, 2])).tolist() == [
        3, 1, 2, 3,
    ]  # fmt: skip


def test_rewards_have_the_sign_of_their_task() -> None:
    z = torch.tensor([-50, -1, 0, 1, 50], dtype=torch.float64)
    lasting, ending = adversarial_reward(z, False), adversarial_reward(z, True)

    assert (lasting >= 0).all()
    assert (ending <= 0).all()
    torch.testing.assert_close(lasting[1:4], -(1 - z[1:4].sigmoid()).log())
    torch.testing.assert_close(ending[1:4], z[1:4].sigmoid().log())
    assert (lasting.diff() > 0).all()  # the more it looks like the expert's, the better
    assert (ending.diff() > 0).all()


@cache
def reproduced(path: Path) -> Any:
    return find(str(path))


def resolved(path: Path, setting: str) -> dict:
    spec = reproduced(path)
    config = Run(spec, setting, spec.default_protocol, spec.seeds[0], {}).resolve()[1]
    return config.as_dict()


def test_only_these_tasks_end_in_success() -> None:
    ending = set()
    for path in REPRODUCTIONS:
        spec = reproduced(path)
        task = spec.merged(spec.default_setting, spec.default_protocol, False, {})["model"][
            "init_args"
        ]["task"]
        if task.get("success_ends") and not path.stem.startswith("expert"):
            ending.add(task["env"])
    assert ending == {"Acrobot-v1", "MountainCar-v0"}


@pytest.mark.parametrize("path", REPRODUCTIONS, ids=lambda path: path.stem)
def test_reproductions_load_and_agree_with_themselves(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings into the current folder
    spec = reproduced(path)
    assert spec.claims
    claimed = {claim.setting for claim in spec.claims}
    assert claimed == set(spec.settings or {spec.default_setting})
    for setting in spec.settings or [spec.default_setting]:
        config = resolved(path, setting) if setting == spec.default_setting else spec.merged(
            setting, spec.default_protocol, False, {}
        )  # fmt: skip
        model, data = config["model"]["init_args"], config["data"]["init_args"]
        assert model["task"] == data["task"], setting
        cloned = config["model"]["class_path"].endswith("BehavioralCloning")
        assert cloned == bool(data.get("minibatches")), setting
    task = data["task"]
    if task["env"][-1] == "5":
        pytest.importorskip("mujoco")
    Task(**task).make().close()


# an iteration


class Recorded(GAIL):
    """Remembers who learned when, and from which rewards."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.done: list[tuple[str, Any]] = []

    def advantages(self, batch: Rollout, rewards: Tensor) -> Tensor:
        self.done.append(("policy", rewards.clone()))
        return super().advantages(batch, rewards)

    def fit_reward(self, batch: Rollout) -> dict:
        before = self.rewards(batch)
        said = super().fit_reward(batch)
        self.done.append(("discriminator", (before, self.rewards(batch))))
        return said

    def fit_value(self, batch: Rollout, rewards: Tensor) -> dict:
        self.done.append(("value", rewards.clone()))
        return super().fit_value(batch, rewards)


def small(task: Task, expert: str, **changes: object) -> Imitation:
    usual = {"trajectories": 4, "steps": 50, "iterations": 2, "episodes": 5}
    return Imitation(task, expert=expert, **usual | changes)


def test_the_policy_learns_before_the_discriminator_and_values_after(
    two_states: Task, expert: str
) -> None:
    model = Recorded(two_states)
    fitted(model, small(two_states, expert))

    assert [name for name, _ in model.done] == ["policy", "discriminator", "value"] * 2
    (_, first), (_, (before, after)), (_, valued) = model.done[:3]
    assert torch.equal(first, torch.full_like(first, np.log(2)))  # it says 1/2 of everything
    assert torch.equal(before, first)
    assert not torch.equal(after, before)
    assert torch.equal(valued, after)
    assert (model.done[3][1] != np.log(2)).any()


def test_algorithm_1_has_the_discriminator_first(two_states: Task, expert: str) -> None:
    model = Recorded(two_states, reward_first=True)
    fitted(model, small(two_states, expert))

    assert [name for name, _ in model.done] == ["discriminator", "policy", "value"] * 2
    (_, (before, after)), (_, learned), (_, valued) = model.done[:3]
    assert not torch.equal(after, before)
    assert torch.equal(learned, after)
    assert torch.equal(valued, after)


def test_the_causal_entropy_is_in_advantages_but_not_in_values(
    two_states: Task, expert: str
) -> None:
    model = Recorded(two_states, causal_entropy=0.5)
    fitted(model, small(two_states, expert))

    (_, learned), (_, (before, after)), (_, valued) = model.done[:3]
    torch.testing.assert_close(learned, before + 0.5 * np.log(2))  # -log pi of a new policy
    assert torch.equal(valued, after)
    log_prob = torch.tensor([-2.0, -0.5])
    assert model.bonus(None, log_prob).tolist() == [1, 0.25]


def test_standardisers_begin_with_the_experts_pairs(two_states: Task, expert: str) -> None:
    class Look(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, model: GAIL, *_: Any) -> None:
            parts = (model.policy, model.value, model.discriminator)
            seen.append([(float(p.standardizer.count), p.standardizer.mean.clone()) for p in parts])

    seen: list[list[tuple[float, Tensor]]] = []
    data = small(two_states, expert)
    fitted(GAIL(two_states), data, 1, Look())

    for count, mean in seen[0]:
        assert count == 40
        torch.testing.assert_close(mean, data.pairs[0].mean(0))
    n = 50  # the first batch's steps; the discriminator sees as many of the expert's
    assert [count for count, _ in seen[1]] == [40 + n, 40 + n, 40 + 2 * n]


def test_a_resumed_imitator_does_not_begin_again(two_states: Task, expert: str) -> None:
    model = GAIL(two_states).double()
    model.policy.standardizer.update(torch.ones(3, 2).double())
    fitted(model, small(two_states, expert, iterations=1))

    assert model.policy.standardizer.count == 3 + 50


def test_of_continuous_actions_it_sees_both() -> None:
    model = GAIL(CONTINUOUS).double()
    s, a = pairs(CONTINUOUS, 20)
    model.begin(s, a)

    torch.testing.assert_close(model.discriminator.standardizer.mean, torch.cat([s, a], 1).mean(0))
    torch.testing.assert_close(model.policy.standardizer.mean, s.mean(0))


# feature expectation matching and game-theoretic apprenticeship learning


def learner(kind: type[Imitator], task: Task) -> tuple[FEM, np.ndarray, np.ndarray]:
    """With the mean and deviation of the expert's pairs, alone."""
    torch.manual_seed(0)
    model = kind(task).double()
    s, a = pairs(task, 9, seed=50)
    model.expert = s, a
    model.begin(s, a)
    model.policy.standardizer.update(s + 9)
    x = (s if task.discrete else torch.cat([s, a], 1)).numpy()
    return model, x.mean(0), x.std(0)


def features_by_hand(task: Task, s: Tensor, a: Tensor, mean: Any, std: Any) -> np.ndarray:
    rows = []
    for seen, action in zip(s.numpy(), a.numpy(), strict=True):
        x = seen if task.discrete else np.concatenate([seen, action])
        x = (x - mean) / (std + 1e-6)
        one = [*x, *(0.01 * x) ** 2]
        if task.discrete:
            one = [0.0] * len(one) * action + one + [0.0] * len(one) * (2 - action)
        rows.append([*one, 1.0])
    return np.array(rows)


@pytest.mark.parametrize("task", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_features_weights_and_bounds_by_hand(task: Task) -> None:
    model, mean, std = learner(FEM, task)
    first, second = batch_of(task, 1), batch_of(task, 2)
    f = [features_by_hand(task, b.observations, b.actions, mean, std) for b in (first, second)]
    theirs = features_by_hand(task, *model.expert, mean, std).mean(0)
    size = f[0].shape[1]
    w = model.w.clone().numpy()
    assert size == (3 * 4 + 1 if task.discrete else 2 * 5 + 1)
    assert np.linalg.norm(w) == pytest.approx(1)

    found = model.features(first.observations, first.actions)
    np.testing.assert_allclose(found, f[0], rtol=1e-6, atol=1e-9)
    r = f[0] @ w / size
    np.testing.assert_allclose(model.rewards(first), r - r.min(), atol=1e-9)
    later = f[1] @ w / size
    least = min(r.min(), later.min())
    np.testing.assert_allclose(model.rewards(second), later - least, atol=1e-9)

    said = model.fit_reward(second)
    excess = theirs - f[1].mean(0)
    np.testing.assert_allclose(model.w, excess / np.linalg.norm(excess), rtol=1e-6, atol=1e-9)
    assert said["train/feature_gap"].item() == pytest.approx(np.linalg.norm(excess))


def test_where_success_ends_rewards_are_below_nought() -> None:
    model, mean, std = learner(FEM, ENDING)
    w, highest = model.w.numpy().copy(), -np.inf
    for seed in (1, 2, 3):
        batch = batch_of(ENDING, seed)
        r = features_by_hand(ENDING, batch.observations, batch.actions, mean, std) @ w / 13
        highest = max(highest, r.max())
        found = model.rewards(batch)
        np.testing.assert_allclose(found, r - highest, atol=1e-9)
        assert (found <= 0).all()


@pytest.mark.parametrize(("task", "sign"), [(DISCRETE, 1), (ENDING, -1)])
def test_rewards_on_their_side_of_nought_are_not_shifted(task: Task, sign: int) -> None:
    """The bound begins at 0: a constant feature stays a constant reward."""
    model, _, _ = learner(FEM, task)
    model.w.zero_()[-1] = sign

    torch.testing.assert_close(
        model.rewards(batch_of(task, 1)), torch.full_like(batch_of(task, 1).rewards, sign / 13)
    )


def test_gtal_rewards_the_one_feature_of_which_the_expert_has_most() -> None:
    model, mean, std = learner(GTAL, CONTINUOUS)
    assert sorted(model.w.tolist()) == [0] * 21 + [1]
    batch = batch_of(CONTINUOUS, 1)
    f = features_by_hand(CONTINUOUS, batch.observations, batch.actions, mean, std)
    theirs = features_by_hand(CONTINUOUS, *model.expert, mean, std).mean(0)
    excess = np.concatenate([theirs - f.mean(0), f.mean(0) - theirs])
    both = np.concatenate([f, -f], 1)

    np.testing.assert_allclose(model.features(batch.observations, batch.actions), both, atol=1e-6)
    model.fit_reward(batch)
    assert model.w.tolist() == np.eye(22)[excess.argmax()].tolist()
    r = both[:, excess.argmax()] / 22
    torch.testing.assert_close(
        model.rewards(batch).diff(), torch.from_numpy(r).diff(), rtol=1e-5, atol=1e-9
    )


@pytest.mark.parametrize("kind", [FEM, GTAL])
def test_the_first_reward_is_drawn(kind: type[FEM]) -> None:
    drawn = set()
    for seed in range(8):
        torch.manual_seed(seed)
        drawn.add(tuple(kind(CONTINUOUS).w.tolist()))
    assert len(drawn) > 4


# cloning


class Remember(pl.Callback):
    """The policies and scores after each epoch; spoils the policy before the last one."""

    def __init__(self) -> None:
        self.kept: list[tuple[float, dict[str, Tensor]]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, model: BehavioralCloning) -> None:
        if trainer.current_epoch == 3:
            with torch.no_grad():
                model.policy.net[-1].bias.add_(torch.tensor([30.0, -30.0]))

    def on_validation_end(self, trainer: pl.Trainer, model: BehavioralCloning) -> None:
        state = {name: x.clone() for name, x in model.policy.state_dict().items()}
        self.kept.append((float(trainer.callback_metrics["val/score"]), state))


def test_cloning_acts_with_the_snapshot_that_is_best_on_validation(
    two_states: Task, expert: str
) -> None:
    model, remember = BehavioralCloning(two_states), Remember()
    trainer = fitted(model, small(two_states, expert, minibatches=5), 4, remember)

    scores = [score for score, _ in remember.kept]
    assert scores[3] < scores[2] == max(scores)
    for name, x in remember.kept[2][1].items():
        assert torch.equal(model.best.state_dict()[name], x)
    assert model.best_score.item() == pytest.approx(scores[2])
    s = torch.eye(2).double()
    best = [model.acting.numpy().output(x).tolist() for x in s.numpy()]
    assert best == pytest.approx(np.array(model.best.net(model.best.standardizer(s)).tolist()))
    assert trainer.lightning_module.acting is not model.policy
    torch.testing.assert_close(model.policy.standardizer.count.item(), 40.0)  # never again


def test_cloning_is_scored_as_the_code_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the squared error of the mean, or the log-likelihood of discrete actions."""
    for task in (CONTINUOUS, DISCRETE):
        model, logged = BehavioralCloning(task).double(), {}
        torch.nn.init.normal_(model.policy.net[-1].weight)
        if task is CONTINUOUS:
            model.policy.log_std.data.fill_(2.0)
        monkeypatch.setattr(model, "log", lambda name, x, **_: logged.update({name: x}))  # noqa: B023
        s, a = pairs(task, 11)
        out = model.policy.net(model.policy.standardizer(s))

        model.validation_step((s, a), 0)
        said = model.training_step((s, a), 0)

        if task.discrete:
            known = -F.cross_entropy(out, a)
            torch.testing.assert_close(said["loss"], -known)
        else:
            known = -((out - a) ** 2).sum(1).mean()
            density = torch.distributions.Normal(out, np.exp(2)).log_prob(a).sum(1)
            torch.testing.assert_close(said["loss"], -density.mean())
        torch.testing.assert_close(logged["val/score"], known)


# a task whose best policy is known


@pytest.mark.parametrize("kind", [GAIL, FEM, GTAL])
def test_imitators_learn_the_experts_policy(two_states: Task, expert: str, kind: type) -> None:
    """They see no reward of the task's; a policy that looks away gets five of ten."""
    torch.manual_seed(0)
    model, data = kind(two_states, max_kl=0.1), small(two_states, expert, steps=200, iterations=15)
    trainer = fitted(model, data)
    (found,) = trainer.test(model, data, verbose=False)

    assert found["test/return"] == 10
    assert found["test/score"] == 1


def test_clones_learn_the_experts_policy(two_states: Task, expert: str) -> None:
    torch.manual_seed(0)
    model, data = BehavioralCloning(two_states), small(two_states, expert, minibatches=50)
    trainer = fitted(model, data, 2)
    (found,) = trainer.test(model, data, verbose=False)

    assert found["test/return"] == 10
