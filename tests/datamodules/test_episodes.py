"""Episodes: the same ones from however many processes, and whatever happens to these."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from lit_gen.datamodules import episodes as module
from lit_gen.datamodules.episodes import Episode, Players, Stage, Uniform, Wanted, play
from lit_gen.nn.control import Policy, Task

CARTPOLE = Task("CartPole-v1", 200, 4, 2, discrete=True)
PENDULUM = Task("Pendulum-v1", 20, 3, 1)
MOUNTAIN = Task("MountainCar-v0", 30, 2, 3, discrete=True)
ACROBOT = Task("Acrobot-v1", 40, 4, 3, discrete=True, raw_state=True)
OURS = "lit_gen.environments:lit_gen"
HERE = Path(__file__)


class Countdown(gymnasium.Env):
    """Ends after a number of steps that is drawn in its reset; observes how many are left.

    Args:
        most: steps of an episode.
        fails: what a step raises.
        kills: a file: the first process that makes it is lost, in its third episode.
        always: every process is lost in its first.
    """

    observation_space = Box(-np.inf, np.inf, (1,))
    action_space = Discrete(2)

    def __init__(
        self, most: int = 9, fails: str = "", kills: str | None = None, always: bool = False
    ) -> None:
        self.most, self.fails, self.kills, self.always = most, fails, kills, always
        self.episodes = -1  # `Task.make` resets once before the first one

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        self.episodes += 1
        self.left = int(self.np_random.integers(1, self.most + 1))
        return np.array([self.left]), {}

    def step(self, action: int) -> tuple:
        if self.fails:
            raise ZeroDivisionError(self.fails)
        if self.episodes == 3 and self.kills:
            try:
                os.close(os.open(self.kills, os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        if self.always:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return np.array([self.left]), float(action), self.left == 0, False, {}


@pytest.fixture
def countdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process, and those that play, find `Countdown` in this file."""
    monkeypatch.syspath_prepend(HERE.parent)


def counting(**options: object) -> Task:
    return Task(f"{HERE.stem}:Countdown-v0", 20, 1, 2, discrete=True, options=options)


if HERE.stem == __name__ and "Countdown-v0" not in gymnasium.registry:  # imported by gymnasium
    gymnasium.register("Countdown-v0", entry_point=Countdown)


def policy_of(task: Task, seed: int = 0) -> Policy:
    rng = np.random.default_rng(seed)
    sizes = [(task.observations, 6), (6, task.actions)]
    layers = tuple((rng.normal(size=size), rng.normal(size=size[1])) for size in sizes)
    return Policy(layers, None, None if task.discrete else np.full(task.actions, 0.5))


def wanted(task: Task, **which: object) -> Wanted:
    return Wanted(policy_of(task), (3, 0, 5), **which)


def played(task: Task, *orders: Wanted, processes: int = 1) -> list[list[Episode]]:
    players = Players(task, processes)
    try:
        return [players.play(order) for order in orders]
    finally:
        players.close()


def assert_same(one: list[Episode], other: list[Episode]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y, strict=True)


def lengths(episodes: list[Episode]) -> list[int]:
    return [len(episode.rewards) for episode in episodes]


@pytest.mark.parametrize("processes", [2, 3])
def test_episodes_do_not_depend_on_who_plays(processes: int) -> None:
    orders = [
        wanted(CARTPOLE, steps=400),
        wanted(CARTPOLE, count=4, drawn=False),
        wanted(CARTPOLE, steps=1),
        Wanted(None, (1, 2), count=1),
        wanted(CARTPOLE, steps=300, limit=7),
    ]

    alone, together = played(CARTPOLE, *orders), played(CARTPOLE, *orders, processes=processes)

    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)
    assert len(alone[0]) > 3


@pytest.mark.parametrize("task", [CARTPOLE, PENDULUM], ids=lambda task: task.env)
def test_episodes_are_whole_and_just_enough(task: Task) -> None:
    few, more = played(task, wanted(task, steps=150), wanted(task, steps=333))

    for steps, found in ((150, lengths(few)), (333, lengths(more))):
        assert sum(found) >= steps > sum(found[:-1])
    assert_same(few, more[: len(few)])  # more of them begin with the fewer
    for episode in more:
        assert episode.terminated or len(episode.rewards) == task.limit
        assert episode.observations.shape == (len(episode.rewards), task.observations)
        assert episode.last.shape == (task.observations,)


def test_exactly_enough_steps_need_no_other_episode() -> None:
    order = wanted(CARTPOLE, steps=10)

    assert order.enough([4, 5]) is None
    assert order.enough([4, 6]) == 2
    assert order.enough([4, 7, 9]) == 2
    assert wanted(CARTPOLE, count=2).enough([500]) is None
    assert wanted(CARTPOLE, count=2).enough([1, 1, 1]) == 2


def test_every_episode_has_numbers_of_its_own() -> None:
    first, again, other = played(
        PENDULUM,
        *[Wanted(policy_of(PENDULUM), stream, count=5) for stream in [(1, 2), (1, 2), (1, 3)]],
    )

    assert_same(first, again)
    begun = [tuple(e.observations[0]) for e in [*first, *other]]
    assert len(set(begun)) == 10
    noise = [e.actions[0] - policy_of(PENDULUM).output(e.observations[0]) for e in first]
    assert len({float(x[0]) for x in noise}) == 5


def test_what_is_kept_is_what_happened() -> None:
    """An episode's actions, given to the environment again, lead to its observations."""
    for task in (CARTPOLE, PENDULUM):
        ((episode,),) = played(task, wanted(task, count=1))
        env = task.make()
        rng = np.random.default_rng(np.random.SeedSequence((3, 0, 5, 0)))
        s, _ = env.reset(seed=int(rng.integers(2**31)))
        for i, action in enumerate(episode.actions):
            np.testing.assert_array_equal(episode.observations[i], s)
            s, reward, terminated, _, _ = env.step(action)
            assert reward == episode.rewards[i]
        np.testing.assert_array_equal(episode.last, s)
        assert terminated == episode.terminated


@pytest.mark.parametrize("task", [CARTPOLE, PENDULUM], ids=lambda task: task.env)
def test_evaluations_take_the_most_probable_action(task: Task) -> None:
    policy = policy_of(task)
    best, drawn = played(task, wanted(task, count=3, drawn=False), wanted(task, count=3))

    def most_probable(episode: Episode) -> np.ndarray:
        out = np.stack([policy.output(s) for s in episode.observations])
        return out.argmax(1) if task.discrete else out

    assert all(np.array_equal(e.actions, most_probable(e)) for e in best)
    assert not any(np.array_equal(e.actions, most_probable(e)) for e in drawn)


def test_the_tasks_end_is_told_from_the_limit(countdown: None) -> None:
    fallen, cut = played(
        CARTPOLE, Wanted(None, (0,), count=5), Wanted(None, (0,), count=5, limit=4)
    )
    (stuck,) = played(MOUNTAIN, Wanted(None, (0,), count=3))
    (both,) = played(counting(most=1), wanted(counting(), count=2, limit=1))

    assert all(e.terminated and len(e.rewards) < 200 for e in fallen)
    assert [(e.terminated, len(e.rewards)) for e in cut] == [(False, 4)] * 5
    assert [(e.terminated, len(e.rewards)) for e in stuck] == [(False, 30)] * 3
    assert [(e.terminated, len(e.rewards)) for e in both] == [(True, 1)] * 2  # at the limit


def test_one_that_is_interrupted_is_none() -> None:
    env, asked = CARTPOLE.make(), []

    def interrupted() -> bool:
        asked.append(1)
        return len(asked) == 3

    assert play(CARTPOLE, env, policy_of(CARTPOLE), (1,), 200, interrupted=interrupted) is None
    assert len(asked) == 3


def test_a_watcher_is_called_before_every_step_and_at_the_end() -> None:
    seen = []
    env = CARTPOLE.make()
    episode = play(
        CARTPOLE, env, Uniform(env.action_space), (1,), 200, watch=lambda: seen.append(1)
    )

    assert len(seen) == len(episode.rewards) + 1


# processes that are lost, and environments that fail


def test_a_lost_process_costs_no_episode(countdown: None, tmp_path: Path) -> None:
    """It is killed in the middle of its third episode."""
    kills = tmp_path / "killed"
    order = wanted(counting(), steps=60)
    (known,) = played(counting(), order)

    found = played(counting(kills=str(kills)), order, order, processes=2)

    assert kills.exists()
    for episodes in found:
        assert_same(episodes, known)


def test_a_process_that_is_killed_from_outside_costs_no_episode() -> None:
    first, second = (wanted(CARTPOLE, steps=steps) for steps in (100, 400))
    known = played(CARTPOLE, first, second)
    players = Players(CARTPOLE, 2)
    try:
        assert_same(players.play(first), known[0])
        players.crew[1][0].kill()  # between two iterations
        players.begin(second)
        assert_same(players.end(), known[1])
    finally:
        players.close()


def test_processes_that_are_lost_again_and_again_are_a_sentence(
    countdown: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOSSES", 1)
    with pytest.raises(RuntimeError, match=r"1 times in one iteration .* was lost, .*--threads 1"):
        played(counting(always=True), wanted(counting(), steps=60), processes=2)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_environment_that_fails_says_why(countdown: None, processes: int) -> None:
    task = counting(fails="the pole broke")
    with pytest.raises(RuntimeError, match=r"Countdown-v0: ZeroDivisionError: the pole broke"):
        played(task, wanted(task, steps=60), processes=processes)


def test_processes_go_with_who_asked() -> None:
    players = Players(CARTPOLE, 2)
    players.begin(wanted(CARTPOLE, steps=100))
    processes = [process for process, _ in players.crew]
    assert all(process.is_alive() for process in processes)

    players.close()

    assert not any(process.is_alive() for process in processes)
    with pytest.raises(AttributeError):  # nothing was begun
        Players(CARTPOLE).end()


ASKER = """
import sys
from lit_gen.datamodules.episodes import Players, Wanted
from lit_gen.nn.control import Task

if __name__ == "__main__":
    players = Players(Task("CartPole-v1", 200, 4, 2, discrete=True), 2)
    players.begin(Wanted(None, (1,), steps=1_000_000))
    print(*(process.pid for process, _ in players.crew), flush=True)
    players.end()
"""


def test_nobody_plays_on_when_who_asked_and_another_player_are_killed(tmp_path: Path) -> None:
    (tmp_path / "asker.py").write_text(ASKER)
    asker = subprocess.Popen(
        [sys.executable, tmp_path / "asker.py"], stdout=subprocess.PIPE, text=True
    )
    first = int(asker.stdout.readline().split()[0])
    time.sleep(1)  # they play
    for process in (first, asker.pid):
        os.kill(process, signal.SIGKILL)

    asker.communicate(timeout=60)  # until nobody is left that could print


def test_what_was_begun_and_not_asked_for_does_no_harm() -> None:
    players = Players(CARTPOLE, 2)
    order = wanted(CARTPOLE, count=3)
    try:
        players.begin(wanted(CARTPOLE, steps=200))
        assert_same(players.play(order), played(CARTPOLE, order)[0])
    finally:
        players.close()


# tasks and policies


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Task("CartPole-v1", 200, 5, 2, discrete=True), "has observations = 4, the task says 5"),
        (Task("CartPole-v1", 200, 4, 3, discrete=True), "has actions = 2, the task says 3"),
        (Task("CartPole-v1", 200, 4, 2), "has discrete = True, the task says False"),
        (Task("Pendulum-v1", 200, 3, 1, discrete=True), "has discrete = False, the task says True"),
        (Task("Acrobot-v1", 200, 4, 3, discrete=True), "has observations = 6, the task says 4"),
        (Task("NoSuchPole-v1", 200, 4, 2), "NoSuchPole-v1 cannot be made: .*NoSuchPole"),
        (Task("CartPole-v99", 200, 4, 2), "CartPole-v99 cannot be made: "),
        (Task("CartPole-v1", 200, 4, 2, options={"wheels": 3}), "cannot be made: .*wheels"),
        (Task("nowhere_to_be_found:Pole-v1", 200, 4, 2), "cannot be made: .*nowhere_to_be_found"),
        (
            Task(f"{OURS}/MountainCarr-v0", 500, 2, 1),
            "cannot be made: .*did you mean: .MountainCar",
        ),
        (Task(f"{OURS}/MountainCar-v0", 500, 2, 1, options={"spars": True}), "made: .*'spars'$"),
        (Task(f"{OURS}/Swimmer-v0", 500, 13, 2, options={"sparse": True}), "made: .*'sparse'$"),
    ],
)
def test_a_wrong_task_is_a_sentence(task: Task, said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        task.make()

    assert str(raised.value).startswith(task.env)
    assert ". " not in str(raised.value)


@pytest.mark.parametrize(
    ("engine", "env"),
    [
        ("Box2D", f"{OURS}/MountainCar-v0"),
        ("mujoco", f"{OURS}/HalfCheetah-v0"),
        ("mujoco", "HalfCheetah-v5"),
    ],
)
def test_a_missing_engine_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, engine: str, env: str
) -> None:
    for name in list(sys.modules):
        if name.startswith(("lit_gen.environments.", "gymnasium.envs.mujoco")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, engine, None)

    with pytest.raises(ValueError, match="needs") as raised:
        Task(env, 500, 2, 1).make()

    said = f"{env} needs {engine}: pip install 'lit-gen[rl]' ("
    assert str(raised.value).startswith(said)
    assert str(raised.value).count("pip install") == 1
    assert ". " not in str(raised.value)


def test_an_environment_may_be_observed_by_its_state() -> None:
    """Acrobot's angles and speeds, instead of their sines and cosines."""
    usual = Task("Acrobot-v1", 40, 6, 3, discrete=True)
    order = Wanted(None, (7,), count=2)
    (states,), (seen,) = played(ACROBOT, order), played(usual, order)

    for a, b in zip(states, seen, strict=True):
        angles, speeds = a.observations[:, :2], a.observations[:, 2:]
        turned = np.stack([np.cos(angles), np.sin(angles)], -1).reshape(-1, 4)
        known = np.concatenate([turned, speeds], 1)
        np.testing.assert_allclose(b.observations, known, atol=1e-6)
        np.testing.assert_array_equal(a.actions, b.actions)
        assert a.observations.std(0).min() > 0  # they are not one state, 40 times


def test_uniform_actions_are_all_equally_probable() -> None:
    rng, n = np.random.default_rng(0), 20_000
    counts = np.bincount(Uniform(Discrete(4)).noise(rng, n), minlength=4)
    box = Uniform(Box(np.array([-1, 2], np.float32), np.array([1, 6], np.float32)))
    x = box.noise(rng, n)

    assert abs(counts / n - 0.25).max() < 4 * (0.25 * 0.75 / n) ** 0.5
    assert x.shape == (n, 2)
    assert (x.min(0) >= [-1, 2]).all()
    assert (x.max(0) <= [1, 6]).all()
    assert abs(x.mean(0) - [0, 4]).max() < 4 * 4 / 12**0.5 / n**0.5
    assert abs(x.std(0) - np.array([2, 4]) / 12**0.5).max() < 0.03


def test_random_episodes_are_of_uniform_actions() -> None:
    (cartpole,) = played(CARTPOLE, Wanted(None, (0,), count=100))
    (pendulum,) = played(PENDULUM, Wanted(None, (0,), count=50))

    actions = np.concatenate([e.actions for e in cartpole])
    assert abs(actions.mean() - 0.5) < 4 * 0.5 / len(actions) ** 0.5
    torques = np.concatenate([e.actions for e in pendulum])
    assert abs(torques).max() <= 2
    assert abs(torques.std() - 4 / 12**0.5) < 0.1


def test_environments_stay_open() -> None:
    stage = Stage(CARTPOLE)
    for limit in (5, None, 5):
        stage.play(wanted(CARTPOLE, count=1, limit=limit), 0)
    assert sorted(stage.envs) == [5, 200]
    stage.close()
    assert stage.envs == {}
