"""Episodes as data: what the policy that is being trained does, iteration by iteration.

A batch is one iteration: whole episodes of the policy as it is when the batch is asked for. The
model says `ahead()` once its policy is what it will be in the next iteration;
player processes beside this one then begin, while the model goes on learning whatever does not
change the policy.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from lit_gen.datamodules.clips import FPS, Film, film, side_by_side
from lit_gen.datamodules.episodes import Episode, Players, Wanted
from lit_gen.datamodules.files import DataError
from lit_gen.datamodules.images import at_least
from lit_gen.nn.control import Rollout, Task

# streams of random numbers; an imitator is not tested where its demonstrations began
TRAINING, EVALUATION, RANDOM, DEMONSTRATION = range(4)
RANDOM_EPISODES = 50  # of the random policy (code)


def together(episodes: Sequence[Episode]) -> Rollout:
    lengths = [len(e.rewards) for e in episodes]
    return Rollout(
        torch.from_numpy(np.concatenate([e.observations for e in episodes])),
        torch.from_numpy(np.concatenate([e.actions for e in episodes])),
        torch.from_numpy(np.concatenate([e.rewards for e in episodes])),
        torch.from_numpy(np.concatenate([np.arange(n, dtype=float) for n in lengths])),
        torch.tensor(lengths),
        torch.tensor([e.rewards.sum() for e in episodes], dtype=torch.float64),
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

    follows_model = True  # what a batch holds is the model's doing

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
        self.task, self.steps, self.limit, self.seed = task, steps, limit, seed
        self.episodes, self.drawn, self.random = episodes, drawn, random
        self.iterations = iterations
        self.iteration = 0  # whose episodes come next
        self.players: Players | None = None
        self.played: list[Episode] | None = None  # for the evaluation
        self.by_chance: Tensor | None = None  # returns of random actions
        self.filmed: Film | RuntimeError | None = None

    def prepare_data(self) -> None:
        """
        Raises:
            DataError: the environment cannot be made.
        """
        try:
            self.task.make().close()
        except ValueError as error:
            raise DataError(str(error)) from error

    def setup(self, stage: str) -> None:
        if self.trainer is not None:
            self._check_model(self.trainer.lightning_module)
        if self.players is None:
            self.players = Players(self.task, torch.get_num_threads())

    def _check_model(self, model: LightningModule) -> None:
        """
        Raises:
            DataError: it is made for another task.
        """
        theirs, ours = asdict(model.task), asdict(self.task)
        if hasattr(model, "value"):
            theirs["training limit"] = model.value.limit
            ours["training limit"] = self.limit or self.task.limit
        for name, value in theirs.items():
            if value != ours[name]:
                raise DataError(
                    f"The model's task has {name} = {value!r}, the data's {ours[name]!r}. Give "
                    "both the same, as in --model.task.env and --data.task.env."
                )

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

    @property
    def stream(self) -> tuple[int, int]:
        """Of the evaluated episodes."""
        return self.seed, DEMONSTRATION if self.drawn else EVALUATION

    def evaluation(self) -> dict[str, Tensor]:
        """Returns and lengths of the final episodes, and what they are compared with."""
        if self.played is None:
            policy = self.trainer.lightning_module.acting.numpy()
            self.played = self.players.play(
                Wanted(policy, self.stream, drawn=self.drawn, count=self.episodes)
            )
        played = together(self.played)
        measured = {"return": played.returns, "length": played.lengths}
        return measured | ({"random_return": self.random_returns()} if self.random else {})

    def random_returns(self) -> Tensor:
        """Of episodes in which every action is drawn uniformly."""
        if self.by_chance is None:
            wanted = Wanted(None, (self.seed, RANDOM), count=RANDOM_EPISODES)
            self.by_chance = together(self.players.play(wanted)).returns
        return self.by_chance

    def test_dataloader(self) -> DataLoader:
        return whole(self.evaluation())

    def predict_dataloader(self) -> DataLoader:
        return whole(self.evaluation())

    def handed_on(self) -> dict[str, np.ndarray]:
        """The evaluated episodes, if actions were drawn: demonstrations for imitators."""
        if not self.drawn:
            return {}
        played = together(self.played)
        names = ("observations", "actions", "lengths")
        arrays = {name: getattr(played, name).numpy() for name in names}
        arrays |= {"return": played.returns.numpy()}
        with suppress(RuntimeError):
            arrays["clip"] = self.film().frames
        return arrays | ({"random_return": self.random_returns().numpy()} if self.random else {})

    def film(self) -> Film:
        """The first evaluated episode.

        Raises:
            RuntimeError: it cannot be rendered here.
        """
        if self.filmed is None:
            policy = self.trainer.lightning_module.acting.numpy()
            try:
                self.filmed = film(self.task, policy, (*self.stream, 0), self.drawn)
            except RuntimeError as error:
                self.filmed = error
        if isinstance(self.filmed, RuntimeError):
            raise self.filmed
        return self.filmed

    def clip(self) -> tuple[np.ndarray, float]:
        """The first evaluated episode with its return: frames (T, H, W, 3), and how many a second.

        Raises:
            RuntimeError: it cannot be rendered here.
        """
        return side_by_side({"policy": self.film()}), FPS

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
