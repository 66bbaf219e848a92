"""Whole episodes of a Gymnasium environment, from a policy in plain NumPy.

Every episode has a stream of random numbers of its own, made of the run's seed, its iteration and
its number. So an episode is the same in whichever process it is played, and one whose process was
lost is played again.

Nothing here imports torch: processes that only play start in a fraction of the time.
"""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from lit_gen.nn.control import Policy, Task

LOSSES = 3  # of player processes, before an iteration is given up
NONE_YET = -1  # length of an episode that has not ended


class Uniform(NamedTuple):
    """Draws any action of the space with equal probability: the random policy of Table 1."""

    space: gymnasium.Space

    def noise(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        if isinstance(self.space, gymnasium.spaces.Discrete):
            return rng.integers(self.space.n, size=steps)
        return rng.uniform(self.space.low, self.space.high, (steps, *self.space.shape))

    def act(self, x: np.ndarray, noise: Any) -> Any:
        return noise


class Episode(NamedTuple):
    """T steps. `last` is the observation after them, which no action followed.

    `terminated`: the task ended it; otherwise the limit did.
    """

    observations: np.ndarray  # (T, D)
    actions: np.ndarray  # (T, A), or (T,) of whole numbers
    rewards: np.ndarray  # (T,)
    last: np.ndarray  # (D,)
    terminated: bool


def play(
    task: Task,
    env: gymnasium.Env,
    policy: Policy | Uniform,
    stream: Sequence[int],
    limit: int,
    drawn: bool = True,
    interrupted: Callable[[], bool] = lambda: False,
    watch: Callable[[], None] | None = None,
) -> Episode | None:
    """One episode from its beginning.

    Args:
        stream: whole numbers that make its random numbers.
        limit: of the environment.
        drawn: actions are drawn; otherwise the most probable one is taken.
        interrupted: asked before every step; if so, None is returned.
        watch: called before every step and at the end.
    """
    rng = np.random.default_rng(np.random.SeedSequence(stream))
    seen = task.look(env, env.reset(seed=int(rng.integers(2**31)))[0])
    noise = policy.noise(rng, limit) if drawn else [None] * limit
    observations, actions, rewards = [], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        if interrupted():
            return None
        if watch:
            watch()
        action = policy.act(seen, noise[len(rewards)])
        observations.append(seen)
        actions.append(action)
        seen, reward, terminated, truncated, _ = env.step(action)
        seen = task.look(env, seen)
        rewards.append(float(reward))
    if watch:
        watch()
    kind = int if task.discrete else float
    return Episode(
        np.array(observations), np.array(actions, kind), np.array(rewards), seen, bool(terminated)
    )


class Wanted(NamedTuple):
    """Episodes numbered from 0: `count` of them, or as many as make `steps`."""

    policy: Policy | None  # None: uniform
    stream: tuple[int, ...]  # an episode's number is appended
    drawn: bool = True
    steps: int | None = None
    count: int | None = None
    limit: int | None = None  # another than the task's

    def enough(self, lengths: Sequence[int]) -> int | None:
        """How many of the first episodes, whose lengths are known, it takes; None: more."""
        if self.count is not None:
            return self.count if len(lengths) >= self.count else None
        if sum(lengths) < self.steps:
            return None
        return int(np.searchsorted(np.cumsum(lengths), self.steps)) + 1


class Stage:
    """Environments that stay open, by limit, and what is played in them."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.envs: dict[int, gymnasium.Env] = {}

    def play(
        self, wanted: Wanted, number: int, interrupted: Callable[[], bool] = lambda: False
    ) -> Episode | None:
        limit = wanted.limit or self.task.limit
        if limit not in self.envs:
            self.envs[limit] = self.task.make(limit)
        env = self.envs[limit]
        policy = Uniform(env.action_space) if wanted.policy is None else wanted.policy
        stream = (*wanted.stream, number)
        return play(self.task, env, policy, stream, limit, wanted.drawn, interrupted)

    def close(self) -> None:
        for env in self.envs.values():
            env.close()
        self.envs.clear()


class Players:
    """Who plays the episodes: this process, or several beside it that stay.

    Process r of W plays the episodes r, r + W, ...; whoever ends one of which all earlier ones have
    ended, too, sees whether they are enough, and tells the others. So it does not depend on W which
    episodes are taken, and nothing waits for the process that asked.

    Args:
        task: what is played.
        processes: how many; with 1, this one plays.
    """

    def __init__(self, task: Task, processes: int = 1) -> None:
        self.task, self.processes = task, processes
        self.stage = Stage(task)
        self.wanted: Wanted | None = None
        self.crew: list[tuple[Any, Connection]] = []

    def play(self, wanted: Wanted) -> list[Episode]:
        """See `end`."""
        self.begin(wanted)
        return self.end()

    def begin(self, wanted: Wanted) -> None:
        """Has the processes play; where this one does, it waits for `end`."""
        if self.wanted is not None:
            self.end()  # whatever it was, nobody asked for it
        self.wanted = wanted
        if self.processes > 1:
            self._start()

    def end(self) -> list[Episode]:
        """The episodes begun, in the order of their numbers.

        Raises:
            RuntimeError: an environment failed, or processes were lost again and again.
        """
        try:
            if self.processes == 1:
                return self._alone(self.wanted)
            for again in range(LOSSES):
                if again:
                    self._start()
                if (episodes := self._hear()) is not None:
                    return episodes
                self.close()  # the others wait for what the lost one played
            raise RuntimeError(
                f"{LOSSES} times in one iteration a process that plays {self.task.env} was lost, "
                "perhaps for lack of memory. Run the same command again, with --threads 1 if it "
                "happens again."
            )
        finally:
            self.wanted = None

    def close(self) -> None:
        """Ends the processes; the next episodes start others."""
        self.stage.close()
        for process, pipe in self.crew:
            pipe.close()
            process.terminate()
            process.join()
        self.crew.clear()

    def _alone(self, wanted: Wanted) -> list[Episode]:
        episodes: list[Episode] = []
        lengths: list[int] = []
        while wanted.enough(lengths) is None:
            try:
                episodes.append(self.stage.play(wanted, len(episodes)))
            except Exception as error:  # whatever an environment raises
                raise RuntimeError(f"{self.task.env}: {type(error).__name__}: {error}") from error
            lengths.append(len(episodes[-1].rewards))
        return episodes

    def _start(self) -> None:
        most = self.wanted.steps or self.wanted.count  # an episode has a step at least
        if self.crew and len(self.lengths) < most:
            self.close()
        if not self.crew:
            context = multiprocessing.get_context("spawn")
            self.lengths, self.enough = context.RawArray("q", most), context.RawValue("b")
            for rank in range(self.processes):
                ours, theirs = context.Pipe()
                shared = (self.lengths, self.enough)
                arguments = (self.task, rank, self.processes, theirs, *shared)
                process = context.Process(target=_player, args=arguments, daemon=True)
                process.start()
                theirs.close()
                self.crew.append((process, ours))
        np.frombuffer(self.lengths, np.int64)[:] = NONE_YET
        self.enough.value = 0
        for _, pipe in self.crew:
            with contextlib.suppress(OSError):  # it is lost, which `_hear` finds
                pipe.send(self.wanted)

    def _hear(self) -> list[Episode] | None:
        """What all processes played; None if one is lost."""
        parts: dict[int, Episode] = {}
        waiting = [pipe for _, pipe in self.crew]
        while waiting:
            for pipe in wait(waiting):
                try:
                    part = pipe.recv()
                except (EOFError, OSError):
                    return None
                if isinstance(part, str):
                    self.close()
                    raise RuntimeError(f"{self.task.env}: {part}")
                parts |= part
                waiting.remove(pipe)
        return [parts[number] for number in sorted(parts)]


def _player(
    task: Task, rank: int, processes: int, pipe: Connection, lengths: Any, enough: Any
) -> None:
    """Plays whatever is wanted, until nobody is there to want it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that trains
    shared = np.frombuffer(lengths, np.int64)
    stage, parent = Stage(task), multiprocessing.parent_process()

    def ended() -> np.ndarray:
        """Lengths of the first episodes, as far as none is missing."""
        missing = np.flatnonzero(shared == NONE_YET)
        return shared[: missing[0]] if len(missing) else shared

    with contextlib.suppress(EOFError, OSError):
        while True:
            wanted = pipe.recv()
            played: dict[int, Episode] = {}
            try:
                for number in range(rank, len(shared), processes):
                    if not parent.is_alive():
                        return
                    episode = stage.play(wanted, number, lambda: enough.value)
                    if episode is None:
                        break
                    played[number] = episode
                    shared[number] = len(episode.rewards)
                    if wanted.enough(ended()) is not None:
                        enough.value = 1
                    if wanted.count is not None and number + processes >= wanted.count:
                        break
                while not enough.value:
                    if not parent.is_alive():
                        return
                    time.sleep(0.0005)
                taken = wanted.enough(ended()) or 0  # 0: another process has failed, and says so
                pipe.send({n: episode for n, episode in played.items() if n < taken})
            except Exception as error:  # whatever an environment raises
                enough.value = 1
                pipe.send(f"{type(error).__name__}: {error}")
