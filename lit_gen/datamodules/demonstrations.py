"""Demonstrations of an expert, beside what the imitator does.

They come from the run of an expert's reproduction, or from a Minari data set. Subsampling is that
of Generative Adversarial Imitation Learning's code.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_gen.datamodules.clips import FPS, Film, side_by_side
from lit_gen.datamodules.files import DataError
from lit_gen.datamodules.images import at_least
from lit_gen.datamodules.rollouts import Rollouts, whole
from lit_gen.nn.control import Task

MINARI = "minari:"  # what the name of a data set of Minari begins with
TRAINING_PART = 0.7  # of the pairs, when cloning (code)
SPLIT, MINIBATCHES = 4, 5  # streams of random numbers, beside those of rollouts


@dataclass(frozen=True)
class Demonstrations:
    """Trajectories of an expert, one after another.

    Attributes:
        observations: (N, D).
        actions: (N, A), or (N,) of whole numbers.
        lengths: of the trajectories, (E,).
        returns: of the trajectories, (E,).
        random_returns: of a random policy, (E',), if the source has them.
        fingerprint: SHA-256 of all of this.
        clip: of the first trajectory, (T, H, W, 3) uint8, if the source has one.
    """

    observations: np.ndarray
    actions: np.ndarray
    lengths: np.ndarray
    returns: np.ndarray
    random_returns: np.ndarray | None
    fingerprint: str
    clip: np.ndarray | None = None

    @classmethod
    def load(cls, source: str) -> "Demonstrations":
        """
        Args:
            source: a file that an expert's run handed on, or minari:NAME.

        Raises:
            DataError: it is not there, or is not what it must be.
        """
        try:
            if source.startswith(MINARI):
                return cls.of(_from_minari(source.removeprefix(MINARI)))
            with np.load(Path(source)) as arrays:  # never unpickles
                return cls.of(dict(arrays))
        except FileNotFoundError as error:
            raise DataError(
                f"There is no file {source}. Give the handed_on.npz of an expert's run, or "
                "minari:NAME."
            ) from error
        except DataError:
            raise
        except Exception as error:  # zip's, zlib's and NumPy's own
            raise DataError(
                f"{source} has no demonstrations ({' '.join(str(error).split())[:100]}). Train the "
                "expert again, or give another file."
            ) from error

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> "Demonstrations":
        """
        Raises:
            ValueError: these are no trajectories.
        """
        names = ("observations", "actions", "lengths", "return")
        if missing := [name for name in names if name not in arrays]:
            raise ValueError(f"it lacks {' and '.join(missing)}")
        for name in (*names, *(("random_return",) if "random_return" in arrays else ())):
            x = arrays[name]
            if not np.issubdtype(x.dtype, np.number) or not np.isfinite(x).all():
                raise ValueError(f"{name} holds what is no finite number")
            if not len(x):
                raise ValueError(f"{name} is empty")
        observations, actions, lengths, returns = (arrays[name] for name in names)
        if not np.issubdtype(lengths.dtype, np.integer) or lengths.min() < 1:
            raise ValueError("lengths are not whole numbers from 1")
        if [x.ndim for x in (observations, lengths, returns)] != [2, 1, 1]:
            raise ValueError("observations are not (N, D), or lengths and return not (E,)")
        if not len(observations) == len(actions) == lengths.sum() or len(lengths) != len(returns):
            raise ValueError("its arrays do not fit each other")
        digest = hashlib.sha256()
        for name in names:
            digest.update(np.ascontiguousarray(arrays[name]).tobytes())
        random, clip = arrays.get("random_return"), arrays.get("clip")
        if clip is not None and (clip.dtype != np.uint8 or clip.shape[3:] != (3,) or not clip.size):
            raise ValueError("its clip has no frames (T, H, W, 3) uint8")
        return cls(observations, actions, lengths, returns, random, digest.hexdigest(), clip)

    def pairs(self, trajectories: int, every: int) -> tuple[Tensor, Tensor]:
        """Observations and actions of the first trajectories: of each one step in `every`, from a
        first one that is drawn with the same seed in every run.

        Raises:
            DataError: there are fewer trajectories.
        """
        if trajectories > len(self.lengths):
            raise DataError(
                f"trajectories={trajectories}: the expert left {len(self.lengths)}. Use fewer."
            )
        ends = np.cumsum(self.lengths)
        firsts = np.random.RandomState(0).randint(0, every, len(ends))
        taken = np.concatenate(
            [
                np.arange(end - length + first, end, every)
                for end, length, first in zip(ends, self.lengths, firsts, strict=True)
            ][:trajectories]
        )
        if not len(taken):
            raise DataError(
                f"every={every} leaves nothing of {trajectories} trajectories. Use a smaller one."
            )
        return torch.from_numpy(self.observations[taken]), torch.from_numpy(self.actions[taken])


def _from_minari(name: str) -> dict[str, np.ndarray]:
    try:
        import minari
    except ImportError as error:
        raise DataError(
            f"{MINARI}{name} needs Minari, which is not installed: pip install 'minari[hdf5]'"
        ) from error
    try:
        episodes = list(minari.load_dataset(name).iterate_episodes())
        if not episodes:
            raise ValueError("it has no episodes")
    except Exception as error:  # whatever its files and its storage raise
        raise DataError(
            f"Minari cannot load {name!r} ({' '.join(str(error).split())[:150]}). "
            f"`minari list local` shows what is there, `minari download {name}` gets it."
        ) from error
    if isinstance(episodes[0].observations, dict):
        raise DataError(f"{MINARI}{name} has observations of several parts, the task has one.")
    actions = np.concatenate([e.actions for e in episodes])
    return {
        # after the last action there is an observation, which none followed
        "observations": np.concatenate([np.asarray(e.observations, float)[:-1] for e in episodes]),
        "actions": actions.astype(int if np.issubdtype(actions.dtype, np.integer) else float),
        "lengths": np.array([len(e.rewards) for e in episodes]),
        "return": np.array([np.sum(e.rewards) for e in episodes], float),
    }


class Imitation(Rollouts):
    """Demonstrations, and the imitator's own episodes.

    A training batch is a `Rollout`; when cloning, a minibatch of pairs (observations, actions).

    Args:
        task: what is played.
        trajectories: of the expert.
        every: keep one step in so many of each trajectory.
        expert: file that an expert's run handed on, or minari:NAME.
        steps: of an iteration at least, of the imitator's.
        iterations: of an epoch.
        minibatches: of an epoch, when cloning; None plays.
        batch_size: pairs of a minibatch, drawn with replacement.
        episodes: played for the final evaluation, with the most probable actions.
        seed: of all episodes and draws.
    """

    def __init__(
        self,
        task: Task,
        trajectories: int,
        every: int = 1,
        expert: str | None = None,
        steps: int = 5000,
        iterations: int = 10,
        minibatches: int | None = None,
        batch_size: int = 128,
        episodes: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__(task, steps, iterations, episodes, random=False, seed=seed)
        at_least(
            trajectories=(trajectories, 1),
            every=(every, 1),
            minibatches=(minibatches, 1),
            batch_size=(batch_size, 1),
        )
        self.expert, self.trajectories, self.every = expert, trajectories, every
        self.minibatches, self.batch_size = minibatches, batch_size
        self.demonstrations: Demonstrations | None = None
        self.position = 0  # minibatches given out of this epoch

    def prepare_data(self) -> None:
        super().prepare_data()
        if self.expert is None:
            raise DataError(
                "There are no demonstrations: give --data.expert, a file or minari:NAME."
            )
        if self.demonstrations is None:
            self.demonstrations = Demonstrations.load(self.expert)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the demonstrations."""
        return self.demonstrations.fingerprint

    @property
    def deviations(self) -> tuple[str, ...]:
        """That there is nothing to imitate, if so."""
        theirs = self.demonstrations
        if theirs.random_returns is None:
            return ()
        expert, random = theirs.returns.mean(), theirs.random_returns.mean()
        said = (
            f"the expert's mean return, {expert:.6g}, is not above random actions', {random:.6g}."
        )
        return (said,) if expert <= random else ()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if hasattr(self, "pairs"):
            return
        self.prepare_data()
        self.pairs = self.demonstrations.pairs(self.trajectories, self.every)
        size = self.pairs[0].shape[1]
        if size != self.task.observations:
            raise DataError(
                f"{self.expert} has observations of {size} numbers, {self.task.env} of "
                f"{self.task.observations}. Give demonstrations of this task."
            )
        self._check_actions(self.pairs[1])
        if self.minibatches:
            self._split()

    def _check_actions(self, actions: Tensor) -> None:
        """
        Raises:
            DataError: they are another task's.
        """
        number = self.task.actions
        if self.task.discrete:
            fine = actions.dim() == 1 and not actions.is_floating_point()
            fine = fine and 0 <= int(actions.min()) <= int(actions.max()) < number
            has = f"the actions 0 to {number - 1}, as integers"
        else:
            fine = actions.dim() == 2 and actions.shape[1] == number
            has = f"actions of {number} numbers"
        if not fine:
            raise DataError(
                f"{self.expert} has other actions than {self.task.env}, which has {has}. Give "
                "demonstrations of this task."
            )

    def _split(self) -> None:
        """Pairs to train on and to validate on, drawn whatever trajectory they are of.

        Raises:
            DataError: there are too few.
        """
        n = len(self.pairs[0])
        first = int(TRAINING_PART * n)
        if not 0 < first < n:
            raise DataError(f"{n} pairs cannot be split to train and validate. Use more.")
        order = torch.from_numpy(np.random.default_rng((self.seed, SPLIT)).permutation(n))
        self.training, self.validation = (
            tuple(x[part] for x in self.pairs) for part in (order[:first], order[first:])
        )

    def train_dataloader(self) -> Any:
        return Minibatches(self) if self.minibatches else super().train_dataloader()

    def val_dataloader(self) -> Any:
        return whole(self.validation) if self.minibatches else []

    def evaluation(self) -> dict[str, Tensor]:
        theirs = self.demonstrations
        random = theirs.random_returns
        random = self.random_returns() if random is None else torch.from_numpy(random)
        compared = {"expert_return": torch.from_numpy(theirs.returns), "random_return": random}
        return super().evaluation() | compared

    def clip(self) -> tuple[np.ndarray, float]:
        """The expert's first trajectory, where it left a clip, beside the first evaluated episode.

        Raises:
            RuntimeError: that episode cannot be rendered here.
        """
        theirs, films = self.demonstrations, {}
        if theirs.clip is not None:
            films["expert"] = Film(theirs.clip, float(theirs.returns[0]), int(theirs.lengths[0]))
        return side_by_side(films | {"imitator": self.film()}), FPS

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.position = state["position"]


class Minibatches:
    """An epoch's minibatches of the training pairs, drawn with replacement."""

    def __init__(self, data: Imitation) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.minibatches

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        data = self.data
        if data.position >= len(self):
            data.position = 0
            data.iteration += 1
        rng = np.random.default_rng((data.seed, MINIBATCHES, data.iteration))
        drawn = rng.integers(len(data.training[0]), size=(len(self), data.batch_size))
        while data.position < len(self):
            taken = torch.from_numpy(drawn[data.position])
            data.position += 1
            yield tuple(x[taken] for x in data.training)
