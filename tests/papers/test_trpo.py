"""TRPO: one iteration taken apart, and a task whose optimum is known."""

from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from lit_gen.datamodules.episodes import Episode
from lit_gen.datamodules.rollouts import Rollouts, together
from lit_gen.harness.run import make_trainer
from lit_gen.nn.control import Rollout, Task
from lit_gen.nn.trust_region import Step
from lit_gen.papers import trpo
from lit_gen.papers.trpo import TRPO

DISCRETE = Task("CartPole-v1", 10, 4, 2, discrete=True)
CONTINUOUS = Task("Pendulum-v1", 10, 3, 2)


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


@pytest.fixture
def two_states() -> Iterator[Task]:
    gymnasium.register("TwoStates-v0", entry_point=TwoStates)
    yield Task("TwoStates-v0", 10, 2, 2, discrete=True)
    gymnasium.registry.pop("TwoStates-v0")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def built(task: Task, seed: int = 0, **arguments: object) -> TRPO:
    """A model whose policy and values depend on what they see."""
    torch.manual_seed(seed)
    model = TRPO(task, hidden=[5], **arguments).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return model


def batch_of(task: Task, seed: int = 0) -> Rollout:
    """40 random episodes; the last one of every three met its limit."""
    rng = np.random.default_rng(seed)
    episodes = []
    for i in range(40):
        n = 10 if i % 3 == 2 else int(rng.integers(1, 10))
        actions = rng.integers(0, 2, n) if task.discrete else rng.normal(size=(n, 2))
        s = rng.normal(size=(n + 1, task.observations)) * 3 + 1
        episodes.append(Episode(s[:-1], actions, rng.normal(size=n), s[-1], i % 3 != 2))
    return together(episodes)


@pytest.mark.parametrize("task", [DISCRETE, CONTINUOUS], ids=["categorical", "gaussian"])
def test_a_policys_step_is_followed_by_its_standardisation(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = built(task), batch_of(task)
    standardizer = model.policy.standardizer
    standardizer.update(torch.randn(30, task.observations).double())
    mean = standardizer.mean.clone()
    said = []

    def step(parameters, evaluate, *others) -> Step:
        said.append(real(parameters, evaluate, *others))
        assert standardizer.count == 30
        assert torch.equal(standardizer.mean, mean)
        return said[0]

    real = trpo.trust_region_step
    monkeypatch.setattr(trpo, "trust_region_step", step)
    found = model.improve(batch)

    n = len(batch.observations)
    assert standardizer.count == 30 + n
    known = (30 * mean + batch.observations.sum(0)) / (30 + n)
    torch.testing.assert_close(standardizer.mean, known)
    assert 0 < said[0].divergence <= 0.02
    assert said[0].gain > 0
    assert (found["train/kl"], found["train/gain"], found["train/step"]) == (
        said[0].divergence, said[0].gain, said[0].scale,
    )  # fmt: skip


@pytest.mark.parametrize("task", [DISCRETE, CONTINUOUS], ids=["categorical", "gaussian"])
def test_the_old_policy_stays_while_the_new_one_moves(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parameters must be no views of the weights: else every divergence is 0."""
    model, batch = built(task), batch_of(task)
    s, a = batch.observations, batch.actions
    policy = model.policy
    asked = []

    def step(parameters, evaluate, *others) -> Step:
        with torch.no_grad():
            old = tuple(p.clone() for p in policy(s))
            for p in parameters:
                p.add_(0.3)
            new = policy(s)
            objective, divergence = evaluate()
            torch.testing.assert_close(divergence, policy.kl(old, new).mean())
            assert divergence > 0.01
            ratio = (policy.log_prob(new, a) - policy.log_prob(old, a)).exp()
            A = model.advantages(batch, batch.rewards)
            torch.testing.assert_close(objective, (ratio * A).mean())
        asked.append(1)
        return Step(0.0, 0.0, 0.0)

    monkeypatch.setattr(trpo, "trust_region_step", step)
    found = model.improve(batch)

    assert asked
    assert torch.isfinite(found["train/entropy"])


def test_a_gaussians_deviation_is_learned() -> None:
    model, batch = built(CONTINUOUS), batch_of(CONTINUOUS)
    before = model.policy.log_std.clone()
    model.improve(batch)
    assert (model.policy.log_std != before).all()


@pytest.mark.parametrize("bootstrap", [False, True])
def test_advantages_treat_both_endings_as_said(bootstrap: bool) -> None:
    model, batch = built(DISCRETE, bootstrap=bootstrap, gamma=0.9, lam=0.8), batch_of(DISCRETE)
    with torch.no_grad():
        values = model.value(batch.observations, batch.times).tolist()
        after = model.value(batch.last, batch.lengths.double()).tolist()
    rewards, known, begun = batch.rewards.tolist(), [], 0
    for n, following, terminated in zip(
        batch.lengths.tolist(), after, batch.terminated.tolist(), strict=True
    ):
        V = [*values[begun : begun + n], following if bootstrap and not terminated else 0.0]
        A, part = 0.0, []
        for t in reversed(range(n)):
            A = rewards[begun + t] + 0.9 * V[t + 1] - V[t] + 0.9 * 0.8 * A
            part.insert(0, A)
        known += part
        begun += n
    known = np.array(known)

    found = model.advantages(batch, batch.rewards)

    np.testing.assert_allclose(found, (known - known.mean()) / known.std(), atol=1e-7)


def test_values_move_towards_the_returns() -> None:
    model, batch = built(DISCRETE, gamma=0.9, subsample=1.0), batch_of(DISCRETE)
    s, t = batch.observations, batch.times
    targets = []
    for part in batch.rewards.split(batch.lengths.tolist()):
        targets += [
            sum(0.9**k * r for k, r in enumerate(part[i:].tolist())) for i in range(len(part))
        ]
    targets = torch.tensor(targets).double()
    y = (targets - targets.mean()) / targets.std(correction=0)
    model.value.standardizer.update(s)  # `fit_value` adds the same, which moves no mean
    with torch.no_grad():
        before = model.value.standardized(s, t)

    said = model.fit_value(batch, batch.rewards)

    with torch.no_grad():
        after = model.value.standardized(s, t)
    assert model.value.returns.mean.item() == pytest.approx(targets.mean().item())
    assert model.value.returns.std.item() == pytest.approx(targets.std(correction=0).item())
    assert model.value.standardizer.count == 2 * len(s)
    assert (after - y).square().mean() < (before - y).square().mean()
    assert 1e-4 < (after - before).square().mean() <= 0.02
    explained = 1 - (after - y).square().mean().item()
    assert said["train/value_explained"].item() == pytest.approx(explained, abs=1e-5)


def test_the_fisher_information_is_of_a_part() -> None:
    model = TRPO(DISCRETE, subsample=0.1)
    torch.manual_seed(0)
    drawn = torch.cat([model.picked(1000) for _ in range(100)])

    assert drawn.shape == (100 * 100,)
    assert (drawn.min(), drawn.max()) == (0, 999)
    assert len(drawn.unique()) > 990  # of all of the steps
    assert model.picked(3).shape == (1,)


def test_it_learns_the_best_policy_from_reward(two_states: Task) -> None:
    """Ten of ten; a policy that looks away gets five."""
    torch.manual_seed(0)
    model = TRPO(two_states, hidden=[8], max_kl=0.1)
    data = Rollouts(two_states, steps=200, iterations=10, episodes=20)
    trainer = make_trainer({"max_epochs": 2, "precision": "64-true"}, "cpu")

    trainer.fit(model, data)
    (found,) = trainer.test(model, data, verbose=False)

    assert found["test/return"] == 10
    assert 4 < found["test/random_return"] < 6
    assert "test/score" not in found  # there is no expert


def test_a_score_lies_between_random_and_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    model, logged = built(DISCRETE), {}
    monkeypatch.setattr(model, "log", lambda name, value, **_: logged.update({name: value}))
    arrays: dict[str, Tensor] = {
        "return": torch.tensor([4.0, 6.0]),
        "expert_return": torch.tensor([10.0]),
        "random_return": torch.tensor([0.0, 5.0]),
    }

    model.test_step(arrays, 0)

    assert logged == {"test/return": 5, "test/random_return": 2.5, "test/score": 1 / 3}
    assert model.predict_step(arrays, 0) is arrays


@pytest.mark.parametrize(
    "wrong",
    [{"subsample": 1.5}, {"subsample": 0.0}, {"gamma": 1.01}, {"lam": -0.1}, {"max_kl": 0.0},
     {"damping": -1.0}, {"gamma": float("nan")}],
    ids=str,
)  # fmt: skip
def test_constants_out_of_range_are_a_sentence(wrong: dict[str, float]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}: give a number"):
        TRPO(DISCRETE, **wrong)
