"""Episodes as data: what the policy that is being trained does, iteration by iteration.

A batch is one iteration: whole episodes of the policy as it is when the batch is asked for. The
model says `ahead()` once its policy is what it will be in the next iteration;
player processes beside this one then begin, while the model goes on learning whatever does not
change the policy.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lit_gen.datamodules.episodes import Episode, Players, Task, Wanted
from lit_gen.datamodules.images import at_least

# streams of random numbers; an imitator is not tested where its demonstrations began
TRAINING, EVALUATION, RANDOM, DEMONSTRATION = range(4)
RANDOM_EPISODES = 50  # of the random policy (code)


class Rollout(NamedTuple):
    """Steps of E episodes, one after another: N in all."""

    observations: Tensor  # (N, D)
    actions: Tensor  # (N, A), or (N,) of whole numbers
    rewards: Tensor  # (N,)
    times: Tensor  # (N,), from 0 in each episode
    lengths: Tensor  # (E,)
    last: Tensor  # (E, D): observations after the last steps
    terminated: Tensor  # (E,): by the task, not by the limit

    @property
    def returns(self) -> Tensor:
        """Undiscounted, of the episodes; (E,)."""
        return torch.stack([part.sum() for part in self.rewards.split(self.lengths.tolist())])


def together(episodes: Sequence[Episode]) -> Rollout:
    lengths = [len(e.rewards) for e in episodes]
    return Rollout(
        torch.from_numpy(np.concatenate([e.observations for e in episodes])),
        torch.from_numpy(np.concatenate([e.actions for e in episodes])),
        torch.from_numpy(np.concatenate([e.rewards for e in episodes])),
        torch.from_numpy(np.concatenate([np.arange(n, dtype=float) for n in lengths])),
        torch.tensor(lengths),
        torch.from_numpy(np.stack([e.last for e in episodes])),
        torch.tensor([e.terminated for e in episodes]),
    )


def whole(batch: Any) -> DataLoader:
    """The one batch that there is."""
    return DataLoader([batch], batch_size=None)


class Rollouts(LightningDataModule):
    """Episodes of a task by the model's policy; there are as many player processes as threads.

    The model has `acting`, a `lit_gen.nn.policies.StochasticPolicy`.

    Args:
        task: what is played.
        steps: of an iteration at least; its last episode is whole.
        iterations: of an epoch.
        episodes: played for the final evaluation.
        drawn: actions of the evaluation are drawn; otherwise the most probable ones are taken.
        limit: steps of a training episode at most, where it is not the task's.
        random: play the random policy, too, in the evaluation.
        seed: of all episodes.
    """

    def __init__(
        self,
        task: Task,
        steps: int = 5000,
        iterations: int = 10,
        episodes: int = 50,
        drawn: bool = False,
        limit: int | None = None,
        random: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        at_least(
            steps=(steps, 1), iterations=(iterations, 1), episodes=(episodes, 1), limit=(limit, 1)
        )
        task.make().close()
        self.task, self.steps, self.limit, self.seed = task, steps, limit, seed
        self.episodes, self.drawn, self.random = episodes, drawn, random
        self.iterations = iterations
        self.iteration = 0  # whose episodes come next
        self.players: Players | None = None
        self.played: list[Episode] | None = None  # for the evaluation

    def setup(self, stage: str) -> None:
        if self.players is None:
            self.players = Players(self.task, torch.get_num_threads())

    def teardown(self, stage: str) -> None:
        if stage != "fit" and self.players is not None:  # the evaluation follows the training
            self.players.close()

    def __del__(self) -> None:
        with suppress(Exception):  # a training that did not end
            self.players.close()

    def begin(self) -> None:
        policy = self.trainer.lightning_module.acting.numpy()
        stream = (self.seed, TRAINING, self.iteration)
        self.players.begin(Wanted(policy, stream, steps=self.steps, limit=self.limit))

    def ahead(self) -> None:
        """Lets player processes begin the next iteration, whose policy is there now."""
        last = self.iteration == self.iterations * self.trainer.max_epochs
        if self.players.processes > 1 and not last:
            self.begin()

    def next(self) -> Rollout:
        """This iteration's episodes."""
        if self.players.wanted is None:
            self.begin()
        episodes = self.players.end()
        self.iteration += 1
        return together(episodes)

    def train_dataloader(self) -> "Iterations":
        return Iterations(self)

    def evaluation(self) -> dict[str, Tensor]:
        """Returns and lengths of the final episodes, and what they are compared with."""
        if self.played is None:
            policy = self.trainer.lightning_module.acting.numpy()
            stream = (self.seed, DEMONSTRATION if self.drawn else EVALUATION)
            self.played = self.players.play(
                Wanted(policy, stream, drawn=self.drawn, count=self.episodes)
            )
        played = together(self.played)
        measured = {"return": played.returns, "length": played.lengths}
        return measured | ({"random_return": self.random_returns()} if self.random else {})

    def random_returns(self) -> Tensor:
        """Of episodes in which every action is drawn uniformly."""
        wanted = Wanted(None, (self.seed, RANDOM), count=RANDOM_EPISODES)
        return together(self.players.play(wanted)).returns

    def test_dataloader(self) -> DataLoader:
        return whole(self.evaluation())

    def predict_dataloader(self) -> DataLoader:
        return whole(self.evaluation())

    def handed_on(self) -> dict[str, np.ndarray]:
        """The evaluated episodes: demonstrations for those who imitate this policy."""
        played = together(self.played)
        names = ("observations", "actions", "lengths")
        arrays = {name: getattr(played, name).numpy() for name in names}
        arrays |= {"return": played.returns.numpy()}
        return arrays | ({"random_return": self.random_returns().numpy()} if self.random else {})

    # every episode has its own stream: what later ones depend on is a number
    def state_dict(self) -> dict[str, Any]:
        return {"iteration": self.iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration = state["iteration"]


class Iterations:
    """An epoch's batches. It has a length: Lightning reads an iterable without one ahead, which
    would give an iteration the policy before its last update."""

    def __init__(self, data: Rollouts) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.iterations

    def __iter__(self) -> Iterator[Rollout]:
        for _ in range(len(self) - self.data.iteration % len(self)):  # a resumed epoch's rest
            yield self.data.next()
