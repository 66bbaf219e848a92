"""VIME: iterations taken apart, by hand; interrupted trainings; a task whose optimum is known."""

import copy
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from gymnasium.spaces import Box
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from lit_gen.datamodules.episodes import Episode
from lit_gen.datamodules.rollouts import Rollouts, together
from lit_gen.harness.cli import main
from lit_gen.harness.record import PREDICTIONS, read
from lit_gen.harness.run import RECORD, make_trainer
from lit_gen.nn.control import Rollout, Task
from lit_gen.papers import vime_learners
from lit_gen.papers.vime import VIME, ReplayPool

TASK = Task("MountainCarContinuous-v0", 20, 2, 1)
LENGTHS = (3, 1, 2)
F64 = torch.float64


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Alone(VIME):
    """Without a trainer; remembers the rewards that its policy learned from, and its advantages."""

    trainer = SimpleNamespace(datamodule=SimpleNamespace(ahead=lambda: None))

    def advantages(self, batch: Rollout, rewards: Tensor) -> Tensor:
        A = super().advantages(batch, rewards)
        self.learned = [*getattr(self, "learned", []), (rewards, A)]
        return A


def built(seed: int = 0, **arguments: object) -> Alone:
    torch.manual_seed(seed)
    sizes = {"hidden": [5], "dynamics_hidden": [4], "dynamics_updates": 3, "least": 9}
    return Alone(TASK, **sizes | {"baseline": "linear"} | arguments).double()


def batch_of(*lengths: int, seed: int = 0) -> Rollout:
    """Random episodes; every other one met its limit."""
    rng = np.random.default_rng(seed)
    episodes = []
    for i, n in enumerate(lengths or LENGTHS):
        s = rng.normal(size=(n + 1, 2)) * [3, 1] + [1, -2]
        episodes.append(
            Episode(s[:-1], rng.normal(size=(n, 1)), rng.normal(size=n), s[-1], i % 2 == 0)
        )
    return together(episodes)


def constant_noise(model: VIME, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Gives every unit of the dynamics model the same; returns the shapes asked for."""
    units, asked = sum(model.dynamics.widths[1:]), []

    def noise(*shape: int) -> Tensor:
        asked.append(shape)
        return torch.linspace(-1, 1, units).expand(*shape, units).clone()

    monkeypatch.setattr(model.dynamics, "noise", noise)
    return asked


# the pool


def pool_of(size: int, *batches: Rollout) -> ReplayPool:
    pool = ReplayPool(size, 2, 1)
    for batch in batches:
        pool.add(batch)
    return pool


def test_the_oldest_transitions_give_way() -> None:
    first, second = batch_of(3, 2, seed=1), batch_of(2, 1, seed=2)

    pool = pool_of(6, first, second)

    assert len(pool) == 6
    for name in ("observations", "actions"):
        both = torch.cat([getattr(first, name), getattr(second, name)])
        assert torch.equal(getattr(pool, name), both[2:])
    assert pool.ends.tolist() == [True, False, True, False, True, True]
    assert len(pool_of(4, batch_of(9))) == 4


def test_statistics_are_of_all_that_is_there() -> None:
    batches = batch_of(3, 4, seed=1), batch_of(5, seed=2)
    for batch in batches:
        batch.observations[:, 1] = 7.5  # a number that never changes

    mean, std = pool_of(8, *batches).statistics()

    both = [torch.cat([b.observations, b.actions], 1).numpy() for b in batches]
    rows = np.concatenate(both)[4:]
    np.testing.assert_allclose(mean, rows.mean(0))
    np.testing.assert_allclose(std, rows.std(0) + 1e-8)
    assert std[1] == 1e-8


@pytest.mark.parametrize("across_ends", [True, False])
def test_all_but_the_newest_are_drawn_with_what_follows_them(across_ends: bool) -> None:
    batch = batch_of(4, 1, 3)
    batch.observations.copy_(torch.arange(8).unsqueeze(1).expand(8, 2))
    batch.actions.copy_(10 * torch.arange(8).unsqueeze(1))
    pool = pool_of(100, batch)
    torch.manual_seed(0)

    s, a, after = pool.draw((100, 5), across_ends)

    assert (s.shape, a.shape, after.shape) == ((100, 5, 2), (100, 5, 1), (100, 5, 2))
    assert torch.equal(after, s + 1)
    assert torch.equal(a, 10 * s[..., :1])
    counts = s[..., 0].long().flatten().bincount(minlength=8)
    drawn = range(7) if across_ends else (0, 1, 2, 5, 6)
    assert counts.nonzero().flatten().tolist() == list(drawn)
    assert counts[counts > 0].min() > 0.7 * 500 / len(drawn)


def test_a_kept_pool_goes_on() -> None:
    pool, other = pool_of(8, batch_of(3, 2)), ReplayPool(8, 2, 1)

    other.load_state_dict(copy.deepcopy(pool.state_dict()))
    for one in (pool, other):
        one.add(batch_of(5, seed=1))

    for name, x in pool.state_dict().items():
        assert torch.equal(other.state_dict()[name], x)
        assert len(x) == 8


# the intrinsic reward


@pytest.mark.parametrize("window", [1, 3, 10])
def test_gains_are_divided_by_the_mean_of_the_last_medians(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step of an episode has the gain before it: 1, 2, 2; 7; 4, 4 have the median 3."""
    model = built(window=window, eta=0.5)
    said = []
    for i in range(14):
        k = i * torch.tensor([1.0, 2, 9, 7, 4, 8], dtype=F64)
        monkeypatch.setattr(model.dynamics, "information_gain", lambda *_, k=k: k.clone())
        said.append(model.training_step(batch_of(seed=i), 0))

    assert torch.equal(model.learned[0][0], batch_of(seed=0).rewards)  # nothing is known yet
    assert "train/median_gain" not in said[0]
    for i in range(1, 14):
        assert said[i]["train/median_gain"] == 3 * i
        scale = np.mean([3 * j for j in range(1, i + 1)][-window:])
        known = batch_of(seed=i).rewards + 0.5 * i * torch.tensor([1, 2, 2, 7, 4, 4]) / scale
        torch.testing.assert_close(model.learned[i][0], known)
    assert list(model.medians) == [3 * i for i in range(1, 14)][-window:]


def test_ten_medians_are_averaged_by_default() -> None:
    model = built()
    scales = [model.scale(torch.full((5,), float(i))) for i in range(1, 13)]
    assert scales == [(i + 1) / 2 for i in range(1, 11)] + [6.5, 7.5]


def test_gains_are_clipped_before_their_median(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(eta=2.0)
    model.training_step(batch_of(), 0)
    k = torch.tensor([1500.0, 3000, 0, 600, 5000, 0], dtype=F64)
    monkeypatch.setattr(model.dynamics, "information_gain", lambda *_: k)

    batch = batch_of(seed=1)
    model.training_step(batch, 0)

    assert list(model.medians) == [1000]
    added = 2 * torch.tensor([1, 1, 1, 0.6, 1, 1], dtype=F64)
    torch.testing.assert_close(model.learned[1][0], batch.rewards + added)


def test_where_nothing_is_learned_nothing_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(eta=1.0)
    model.training_step(batch_of(), 0)
    monkeypatch.setattr(model.dynamics, "information_gain", lambda *_: torch.zeros(6, dtype=F64))
    model.training_step(batch_of(seed=1), 0)
    assert torch.equal(model.learned[1][0], batch_of(seed=1).rewards)


def transitions(model: VIME, before: Rollout, batch: Rollout) -> tuple[Tensor, Tensor]:
    """(s, a) and s' of a batch, standardised by another one's statistics."""
    seen = torch.cat([before.observations, before.actions], 1).numpy()
    mean, std = seen.mean(0), seen.std(0) + 1e-8
    x = (torch.cat([batch.observations, batch.actions], 1).numpy() - mean) / std
    parts = zip(batch.observations.split(batch.lengths.tolist()), batch.last, strict=True)
    after = np.concatenate([[*part[1:].numpy(), last.numpy()] for part, last in parts])
    return torch.from_numpy(x), torch.from_numpy((after - mean[:2]) / std[:2])


def copied(k: Tensor) -> Tensor:
    """Of episodes of 3, 1 and 2 steps."""
    return k[torch.tensor([0, 1, 1, 3, 4, 4])]


def test_a_batchs_gains_are_those_before_anything_is_learned_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the pool's statistics nor the dynamics model have seen it."""
    model = built(eta=0.3, samples=4, step=0.2, dynamics_lr=0.1, likelihood_std=0.5, least=2)
    constant_noise(model, monkeypatch)
    first, second = batch_of(seed=1), batch_of(seed=2)
    model.training_step(first, 0)
    kept = copy.deepcopy(model.dynamics.state_dict())

    model.training_step(second, 0)

    moved = model.dynamics.mu.detach().clone()
    model.dynamics.load_state_dict(kept)
    assert not torch.equal(moved, model.dynamics.mu)
    x, y = transitions(model, first, second)
    k = copied(model.dynamics.information_gain(x, y, 4, 0.2))
    assert model.medians[-1] == pytest.approx(np.median(k))
    known = second.rewards + 0.3 * k / np.median(k)
    torch.testing.assert_close(model.learned[1][0], known)


@pytest.mark.parametrize("errors_of", ["step", "episode"])
def test_prediction_errors_are_of_steps_or_of_episodes(
    errors_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(intrinsic="prediction_error", errors_of=errors_of)
    first, second = batch_of(seed=1), batch_of(seed=2)
    model.training_step(first, 0)
    asked = constant_noise(model, monkeypatch)

    found = model.gains(second)

    assert asked == [(1,)]  # one prediction's, which 64 steps share
    x, y = transitions(model, first, second)
    V, W = model.dynamics.layers(model.dynamics.mu.detach())
    of_V, of_W = model.dynamics.layers(model.dynamics.sigma.detach() ** 2)
    eps, h = torch.linspace(-1, 1, 6).double(), torch.cat([x, torch.ones(6, 1)], 1)
    h = (h @ V.T + (h**2 @ of_V.T).sqrt() * eps[:4]).relu()
    h = torch.cat([h, torch.ones(6, 1)], 1)
    output = h @ W.T + (h**2 @ of_W.T).sqrt() * eps[4:]
    known = copied(((output - y) ** 2).sum(1))
    if errors_of == "episode":
        known = torch.cat([known[:3].mean().expand(3), known[3:4], known[4:].mean().expand(2)])
    torch.testing.assert_close(found, known, rtol=1e-6, atol=0)


def test_a_prediction_is_drawn_anew_for_each_64_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = built(intrinsic="prediction_error"), []
    units = sum(model.dynamics.widths[1:])
    monkeypatch.setattr(
        model.dynamics, "noise", lambda n: torch.arange(float(n)).unsqueeze(1).expand(n, units)
    )

    def forward(x: Tensor, noise: Tensor) -> Tensor:
        asked.append(noise[:, 0])
        return x[:, : TASK.observations]

    monkeypatch.setattr(model.dynamics, "forward", forward)
    model.pool.add(batch_of(seed=1))
    model.gains(batch_of(70, 80))

    assert asked[0].tolist() == [i // 64 for i in range(150)]


@pytest.mark.parametrize("intrinsic", ["information_gain", "prediction_error"])
def test_gains_leave_everything_as_it_is(intrinsic: str) -> None:
    model = built(intrinsic=intrinsic, least=2)
    for seed in (1, 2):
        model.training_step(batch_of(seed=seed), 0)
    batch = batch_of(seed=3)
    before = copy.deepcopy((model.state_dict(), model.pool.state_dict(), model.medians, batch))

    gains = model.gains(batch)

    assert (gains > 0).all()
    now = (model.state_dict(), model.pool.state_dict(), model.medians, batch)
    torch.testing.assert_close(now, before, rtol=0, atol=0)
    assert not gains.requires_grad


def test_without_intrinsic_reward_there_is_no_dynamics_model() -> None:
    model = built(intrinsic="none", eta=1e6, least=2)
    for seed in range(3):
        said = model.training_step(batch_of(seed=seed), 0)
        assert torch.equal(model.learned[seed][0], batch_of(seed=seed).rewards)
        assert said.keys() == {
            "train/return", "train/squared_action", "train/kl", "train/entropy"
        }  # fmt: skip

    assert not hasattr(model, "dynamics")
    assert len(model.pool) == len(model.medians) == 0


# the dynamics model


def test_it_is_trained_once_the_pool_has_enough() -> None:
    model = built(least=18)
    for i, updates in enumerate([0, 0, 3, 6]):  # 6, 12, 18, 24 transitions
        said = model.training_step(batch_of(seed=i), 0)
        assert model.dynamics.updates == updates
        assert ("train/dynamics_nll" in said) == (updates > 0)
    assert len(model.pool) == 24


@pytest.mark.parametrize("across_ends", [True, False])
def test_it_is_trained_on_the_pool_as_it_stands(
    across_ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With statistics that were drawn anew."""
    model = built(
        dynamics_updates=50, dynamics_batch=7, samples=3, dynamics_lr=0.02, batches=4.0,
        across_ends=across_ends,
    )  # fmt: skip
    asked = []

    def fit(x: Tensor, y: Tensor, samples: int, lr: float, batches: float) -> float:
        asked.append((x, y))
        assert (samples, lr, batches) == (3, 0.02, 4)
        return 1.5

    monkeypatch.setattr(model.dynamics, "fit", fit)
    batches = [batch_of(seed=i) for i in range(2)]
    said = [model.training_step(batch, 0) for batch in batches]

    assert said[1]["train/dynamics_nll"] == 1.5
    ((x, y),) = asked  # 6 were too few
    assert (x.shape, y.shape) == ((50, 7, 3), (50, 7, 2))
    rows = torch.cat([torch.cat([b.observations, b.actions], 1) for b in batches])
    rows = (rows - rows.mean(0)) / (rows.std(0, correction=0) + 1e-8)
    i = torch.cdist(x.flatten(0, 1), rows).argmin(1)
    torch.testing.assert_close(x.flatten(0, 1), rows[i])
    torch.testing.assert_close(y.flatten(0, 1), rows[i + 1, :2])
    inside = {0, 1, 4, 6, 7, 10}
    assert set(i.tolist()) == (set(range(11)) if across_ends else inside)


# an iteration


@pytest.mark.parametrize("lam", [1.0, 0.8])
def test_advantages_are_of_the_baseline_before_and_end_with_the_episode(lam: float) -> None:
    model = built(eta=0.5, gamma=0.9, lam=lam)
    first, second = batch_of(5, 4, 9, seed=1), batch_of(3, 1, 6, seed=2)
    model.training_step(first, 0)
    values = model.baseline(second.observations, second.times).tolist()
    assert np.abs(values).min() > 0

    model.training_step(second, 0)

    r = model.learned[1][0].tolist()
    known, begun = [], 0
    assert (np.array(r) > second.rewards.numpy()).all()
    for n in (3, 1, 6):
        A, part = 0.0, []
        for t in reversed(range(begun, begun + n)):
            following = values[t + 1] if t + 1 < begun + n else 0.0  # at a limit, too
            A = r[t] + 0.9 * following - values[t] + 0.9 * lam * A
            part.insert(0, A)
        if lam == 1:
            sums = [sum(0.9**i * x for i, x in enumerate(r[t : begun + n])) - values[t]
                    for t in range(begun, begun + n)]  # fmt: skip
            assert part == pytest.approx(sums)
        known += part
        begun += n
    known = np.array(known)
    np.testing.assert_allclose(model.learned[1][1], (known - known.mean()) / known.std(), rtol=1e-6)


def test_the_baseline_predicts_the_tasks_own_return(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(eta=1e6, gamma=0.9)
    model.training_step(batch_of(seed=1), 0)
    fitted, batch = [], batch_of(seed=2)
    monkeypatch.setattr(model.baseline, "fit", lambda *given: fitted.append(given))

    model.training_step(batch, 0)

    assert (model.learned[1][0] - batch.rewards).abs().min() > 1e3
    ((s, t, returns),) = fitted
    r = batch.rewards.tolist()
    known = [
        r[0] + 0.9 * r[1] + 0.81 * r[2],
        r[1] + 0.9 * r[2],
        r[2],
        r[3],
        r[4] + 0.9 * r[5],
        r[5],
    ]
    assert returns.tolist() == pytest.approx(known)
    assert torch.equal(s, batch.observations)
    assert t.tolist() == [0, 1, 2, 0, 0, 1]


def test_what_plays_is_the_policy_that_learns() -> None:
    model = built()
    assert model.acting is model.policy
    assert type(model.acting) is vime_learners.RawPolicy


@pytest.mark.parametrize("kind", ["perceptron", "linear"])
def test_the_baseline_is_the_one_asked_for(kind: str) -> None:
    known = {
        "perceptron": vime_learners.PerceptronBaseline, "linear": vime_learners.LinearBaseline
    }  # fmt: skip
    assert type(built(baseline=kind).baseline) is known[kind]


def test_what_is_remembered_of_a_return_is_the_tasks_own() -> None:
    model = built(eta=1e6)
    batches = [batch_of(seed=i) for i in range(3)]
    said = [model.training_step(batch, 0) for batch in batches]

    known = [batch.rewards.sum().item() / 3 for batch in batches]  # of three episodes
    assert model.returns == pytest.approx(known)
    assert [x["train/return"].item() for x in said] == pytest.approx(known)


@pytest.mark.parametrize("learner", ["trpo", "reinforce", "erwr"])
def test_players_may_begin_once_the_policy_has_moved(
    learner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ahead = learning(learner), []
    old = copy.deepcopy(model.policy.state_dict())
    data = SimpleNamespace(ahead=lambda: ahead.append(copy.deepcopy(model.policy.state_dict())))
    monkeypatch.setattr(Alone, "trainer", SimpleNamespace(datamodule=data))

    model.training_step(batch_of(30, 20), 0)

    (then,) = ahead
    torch.testing.assert_close(model.policy.state_dict(), then, rtol=0, atol=0)
    assert not torch.equal(then["log_std"], old["log_std"])


def learning(learner: str, **arguments: object) -> Alone:
    """Where REINFORCE has its optimizer, which a trainer would have."""
    model = built(learner=learner, **arguments)
    optimizer = model.configure_optimizers()
    assert (optimizer is None) == (learner != "reinforce")
    model.optimizers, model.manual_backward = lambda: optimizer, lambda loss: loss.backward()
    return model


@pytest.mark.parametrize("learner", ["trpo", "reinforce", "erwr"])
def test_a_step_says_how_far_the_policy_went(learner: str) -> None:
    model, batch = learning(learner, subsample=1.0), batch_of(40, 30)
    old = copy.deepcopy(model.policy)

    said = model.training_step(batch, 0)

    with torch.no_grad():
        before, after = (
            Normal(mean, log_std.exp())
            for mean, log_std in (p(batch.observations) for p in (old, model.policy))
        )
    kl = kl_divergence(before, after).sum(-1).mean()
    assert kl > 1e-7
    torch.testing.assert_close(said["train/kl"], kl)
    torch.testing.assert_close(said["train/entropy"], before.entropy().sum(-1).mean())
    assert learner != "trpo" or kl <= 0.01


def test_a_trust_region_is_of_a_tenth_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    model, A = built(max_kl=0.02, damping=1e-3, keep_last=False), torch.arange(59.0)
    drawn = []

    def trpo(policy, s, a, advantages, some, *constants) -> None:
        assert torch.equal(advantages, A[: len(s)])
        assert constants == (0.02, 1e-3, False)
        drawn.append(some)

    monkeypatch.setattr(vime_learners, "trpo", trpo)
    batch = batch_of(30, 29)
    for _ in range(200):
        model.improve(batch, A)

    assert {len(some) for some in drawn} == {5}
    assert torch.cat(drawn).unique().tolist() == list(range(59))  # of all of the steps
    model.improve(batch_of(3), A[:3])
    assert len(drawn[-1]) == 1


def test_reinforce_takes_one_of_adams_steps_an_iteration() -> None:
    model = learning("reinforce", lr=0.03, eta=0.2)
    other = copy.deepcopy(model.policy)
    adam = torch.optim.Adam(other.parameters(), lr=0.03)
    for seed in range(3):
        batch = batch_of(20, 10, seed=seed)
        model.training_step(batch, 0)

        mean, log_std = other(batch.observations)
        log_p = Normal(mean, log_std.exp()).log_prob(batch.actions).sum(-1)
        adam.zero_grad()
        (-(model.learned[seed][1] * log_p).mean()).backward()
        adam.step()
    torch.testing.assert_close(model.policy.state_dict(), other.state_dict())


# arguments


@pytest.mark.parametrize(
    "wrong",
    [{"eta": -0.1}, {"eta": float("nan")}, {"gamma": 1.01}, {"gamma": -0.1}, {"lam": 1.5},
     {"subsample": 0.0}, {"subsample": 1.5}, {"max_kl": 0.0}, {"step": 0.0}, {"step": -0.01},
     {"damping": -1e-9}, {"lr": 0.0}, {"dynamics_lr": 0.0}, {"likelihood_std": 0.0},
     {"batches": 0.0}, {"largest": 0.0}, {"least": 1},
     {"dynamics_updates": -1}, {"dynamics_batch": 0}, {"samples": 0}, {"window": 0}, {"pool": 1}],
    ids=str,
)  # fmt: skip
def test_constants_out_of_range_are_a_sentence(wrong: dict[str, float]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}: give a number"):
        VIME(TASK, **wrong)


def test_constants_at_the_ends_of_their_ranges_are_taken() -> None:
    ends = {"eta": 0.0, "gamma": 0.0, "lam": 0.0, "subsample": 1.0, "dynamics_updates": 0}
    ones = {"dynamics_batch": 1, "samples": 1, "window": 1, "pool": 2}
    model = built(**ends | ones, least=2)
    for seed in range(2):
        model.training_step(batch_of(seed=seed), 0)
    assert torch.equal(model.learned[1][0], batch_of(seed=1).rewards)


@pytest.mark.parametrize("seen", [[(0, 1)], [(0, 1)] * 3, [(0, 1), (2, 2)]], ids=str)
def test_a_map_has_two_ranges(seen: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"give two ranges, \[low, high\] each, or none"):
        VIME(TASK, seen=seen)


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="CartPole-v1 has discrete actions"):
        VIME(Task("CartPole-v1", 10, 4, 2, discrete=True))


# what a training leaves


@pytest.mark.parametrize(("goal_by", "reached"), [(30, 0), (31, 1), (None, None)])
def test_metrics_are_of_the_iterations_returns(
    goal_by: int | None, reached: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Returns rise by 1 from 0 to 149."""
    goal = {} if goal_by is None else {"goal": 30.0, "goal_by": goal_by}
    model, logged = built(**goal), {}
    monkeypatch.setattr(model, "log_dict", lambda said, **_: logged.update(said))
    model.returns = [float(i) for i in range(150)]
    played = {"return": torch.tensor([2.0, 5.0]), "length": torch.tensor([7, 8])}

    model.test_step(played, 0)
    kept = model.predict_step(played, 0)

    assert logged == {
        "test/return": 3.5,
        "train/mean_return": 74.5,
        "train/early_return": 49.5,  # of 100
        "train/final_return": 144.5,  # of 10
    } | ({} if reached is None else {"train/reached": reached})
    assert kept["iteration_return"].tolist() == model.returns
    assert kept["return"] is played["return"]
    assert "iteration_return" not in played


def test_visits_are_counted_with_the_second_number_upwards() -> None:
    model = built(seen=[(0.0, 1.0), (-2.0, 2.0)], intrinsic="none")
    batch = batch_of(3, 4)
    places = {
        (0.0, -2.0): (49, 0),
        (0.99, 1.99): (0, 49),
        (0.51, 0.01): (24, 25),
        (0.3, 1.0): (12, 15),
        (7.0, 9.0): (0, 49),  # beyond the borders
        (-0.5, -3.0): (49, 0),
        (0.515, -99.0): (49, 25),
    }
    batch.observations.copy_(torch.tensor(list(places)))

    for _ in range(2):
        model.training_step(batch, 0)

    known = torch.zeros(50, 50, dtype=torch.int64)
    for row, column in places.values():
        known[row, column] += 2
    assert torch.equal(model.visits, known)
    pictures = model.pictures(None)
    assert pictures.keys() == {"visited"}
    visited = pictures["visited"]
    torch.testing.assert_close(visited["numbers"], (1 + known.double()).log())
    assert (visited["x"][1:], visited["y"][1:]) == ((0, 1), (-2, 2))


def test_without_a_range_there_is_no_map() -> None:
    model = built(intrinsic="none")
    model.training_step(batch_of(), 0)
    assert model.pictures(None) == {}
    assert model.visits.sum() == 0


# interruptions


class Seeds(pl.Callback):
    """Makes torch's draws depend on the iteration alone, and stops after some, with a checkpoint.

    The harness keeps and restores random states instead.
    """

    def __init__(self, stop: int | None = None, path: Path | None = None) -> None:
        self.stop, self.path = stop, path

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        torch.manual_seed(trainer.datamodule.iteration)

    def on_train_batch_end(self, trainer: pl.Trainer, model: VIME, *_: Any) -> None:
        if len(model.returns) == self.stop:
            trainer.save_checkpoint(self.path, weights_only=False)
            raise InterruptedError


@cache
def whole(**arguments: str) -> VIME:
    return trained(arguments, 0, Seeds())


def trained(
    arguments: dict[str, Any], seed: int, seeds: Seeds, checkpoint: Path | None = None
) -> VIME:
    """2 epochs of 2 iterations."""
    torch.manual_seed(seed)
    sizes = {"hidden": [5], "dynamics_hidden": [4], "dynamics_updates": 5, "least": 50, "pool": 70}
    seen = {"seen": [[-1.2, 0.6], [-0.07, 0.07]]}
    model = VIME(TASK, **sizes | seen | {"eta": 0.1} | arguments).double()
    data = Rollouts(TASK, steps=40, iterations=2, episodes=2, random=False)
    options = {"max_epochs": 2, "precision": "64-true"}
    trainer = make_trainer(options, "cpu", callbacks=seeds)
    try:
        trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    except InterruptedError:
        data.players.close()
    return model


@pytest.mark.parametrize(
    ("arguments", "stop"),
    [
        ({}, 1),
        ({}, 2),
        ({}, 3),
        ({"learner": "reinforce", "baseline": "linear"}, 2),
        ({"learner": "erwr", "intrinsic": "prediction_error"}, 3),
        ({"intrinsic": "none"}, 2),
    ],
)
def test_a_resumed_training_goes_on_to_the_same_bits(
    arguments: dict[str, Any], stop: int, tmp_path: Path
) -> None:
    """From a network that began elsewhere."""
    known = whole(**arguments)
    first = trained(arguments, 0, Seeds(stop, tmp_path / "checkpoint"))
    second = trained(arguments, 1, Seeds(), tmp_path / "checkpoint")

    assert (len(first.returns), len(known.returns)) == (stop, 4)
    assert second.returns == known.returns
    assert len(set(known.returns)) == 4
    assert second.medians == known.medians
    assert len(known.medians) == (3 if known.explores else 0)
    for one, other in ((second, known), (second.pool, known.pool)):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert len(known.pool) == (70 if known.explores else 0)
    assert known.visits.sum() == 160


LETHAL = '''\
"""MountainCarContinuous, which kills its process at a step of the first one that makes a file."""

import os
import signal

import gymnasium
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv


class Lethal(Continuous_MountainCarEnv):
    steps = 0

    def __init__(self, file: str, at: int) -> None:
        super().__init__()
        self.file, self.at = file, at

    def step(self, action) -> tuple:
        Lethal.steps += 1
        if Lethal.steps == self.at and not os.path.exists(self.file):
            open(self.file, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


gymnasium.register("LethalCar-v0", entry_point=Lethal)
'''
CAR = """\
paper: {title: none, authors: nobody, year: 2026, arxiv: 0000.00000}
claims:
  - {metric: train/mean_return, reported: [0, 1], runs: 2, spread_over: seeds, better: higher,
     margin: 9}
metrics:
  train/mean_return:
    {class_path: lit_gen.metrics.updates.Late, init_args: {curve: iteration_return, updates: 4}}
seeds: 1-2
model:
  class_path: lit_gen.papers.vime.VIME
  init_args:
    task: &task
      env: lethal_car:LethalCar-v0
      limit: 20
      observations: 2
      actions: 1
      options: {file: FOLDER/killed, at: 130}
    eta: 0.1
    hidden: [5]
    dynamics_updates: 5
    least: 50
    seen: [[-1.2, 0.6], [-0.07, 0.07]]
data:
  class_path: lit_gen.datamodules.rollouts.Rollouts
  init_args: {task: *task, steps: 40, iterations: 1, episodes: 2, drawn: true, random: false}
trainer: {max_epochs: 4, precision: 64-true}
"""


def test_a_killed_run_gives_the_record_of_one_that_was_not(
    reproduce: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 130 is in the last iteration of four."""
    (tmp_path / "car").mkdir()
    (tmp_path / "car" / "lethal_car.py").write_text(LETHAL)
    (tmp_path / "car" / "sparse.yaml").write_text(CAR.replace("FOLDER", str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    words = ["car/sparse.yaml", "--seeds", "1", "--no-mlflow", "--device", "cpu", "--threads", "1"]

    killed = reproduce(*words)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    ((path,),) = [list((tmp_path / "runs").glob(f"*/*/{RECORD}"))]
    assert 0 < read(path).epochs < 4
    for runs in ("runs", "whole"):
        with pytest.raises(SystemExit) as end:
            main([*words, "--runs-dir", runs])
        assert end.value.code == 0

    ((other,),) = [list((tmp_path / "whole").glob(f"*/*/{RECORD}"))]
    one, two = read(path), read(other)
    assert (one.status, len(one.provenance["segments"])) == ("finished", 2)
    assert one.result == two.result
    assert len(one.result["curve"]["train/return"]) == 4
    with np.load(path.parent / PREDICTIONS) as a, np.load(other.parent / PREDICTIONS) as b:
        assert a["iteration_return"].shape == (4,)
        assert all(np.array_equal(a[name], b[name]) for name in a)
    pictures = [p.parent / "pictures" / "visited.png" for p in (path, other)]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


# a task whose best policy is known


class Near(gymnasium.Env):
    """A drawn number is seen; the reward is the higher, the nearer the action comes to it."""

    observation_space = Box(-1, 1, (2,), np.float64)
    action_space = Box(-np.inf, np.inf, (1,), np.float64)

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        return self.drawn(), {}

    def drawn(self) -> np.ndarray:
        self.state = self.np_random.uniform(-1, 1, 2)
        return self.state

    def step(self, action: np.ndarray) -> tuple:
        reward = -abs(float(action[0]) - float(self.state[0]))
        return self.drawn(), reward, False, False, {}


@pytest.fixture
def near() -> Iterator[Task]:
    gymnasium.register("Near-v0", entry_point=Near)
    yield Task("Near-v0", 10, 2, 1)
    gymnasium.registry.pop("Near-v0")


@pytest.mark.parametrize(
    "learner",
    [
        {"learner": "trpo", "max_kl": 0.05},
        {"learner": "reinforce", "lr": 0.05},
        {"learner": "erwr"},
    ],
    ids=lambda of: of["learner"],
)
def test_each_learner_learns_from_reward(near: Task, learner: dict[str, Any]) -> None:
    """An action that is always 0 gets -5 of the best 0; a new policy about -10."""
    torch.manual_seed(0)
    model = VIME(near, **learner, hidden=[8], dynamics_updates=5, least=100, baseline="linear")
    data = Rollouts(near, steps=300, iterations=30, episodes=20, random=False)
    trainer = make_trainer({"max_epochs": 1, "precision": "64-true"}, "cpu")

    trainer.fit(model, data)
    (found,) = trainer.test(model, data, verbose=False)

    assert model.returns[0] < -7
    assert found["train/final_return"] > model.returns[0] + 3
    assert found["test/return"] > -4
