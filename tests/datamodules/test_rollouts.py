"""Rollouts under a real Trainer: whose policy plays, and what an interruption changes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lit_gen.datamodules.episodes import Episode, Players, Wanted
from lit_gen.datamodules.files import DataError
from lit_gen.datamodules.rollouts import DEMONSTRATION, EVALUATION, TRAINING, Rollouts, together
from lit_gen.harness.run import make_trainer
from lit_gen.nn.control import Policy, Rollout, Task
from lit_gen.papers.trpo import TRPO

TASK = Task("CartPole-v1", 30, 4, 2, discrete=True)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Recorded(TRPO):
    """Remembers each batch, and the policy after it."""

    def __init__(self, task: Task, limit: int | None = None) -> None:
        super().__init__(task, hidden=[6], limit=limit)
        self.batches: list[Rollout] = []
        self.policies: list[Policy] = []

    def training_step(self, batch: Rollout, batch_idx: int) -> dict[str, Any]:
        if not self.policies:
            self.policies.append(self.acting.numpy())
        said = super().training_step(batch, batch_idx)
        self.batches.append(batch)
        self.policies.append(self.acting.numpy())
        return said


class Seeds(pl.Callback):
    """Makes torch's draws depend on the iteration alone, and stops after some, with a checkpoint.

    The harness keeps and restores random states instead.
    """

    def __init__(self, stop: int | None = None, path: Path | None = None) -> None:
        self.stop, self.path = stop, path

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        torch.manual_seed(trainer.datamodule.iteration)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if len(trainer.lightning_module.batches) == self.stop:
            trainer.save_checkpoint(self.path, weights_only=False)
            raise InterruptedError


def trained(
    data: Rollouts, seeds: Seeds | None = None, checkpoint: Path | None = None
) -> tuple[Recorded, pl.Trainer]:
    """2 epochs."""
    torch.manual_seed(0)
    model = Recorded(
        data.task, data.limit
    ).double()  # as the harness: a checkpoint is not to be rounded
    options = {"max_epochs": 2, "precision": "64-true"}
    trainer = make_trainer(options, "cpu", callbacks=seeds or Seeds())
    try:
        trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    except InterruptedError:
        trainer.datamodule.players.close()
    return model, trainer


def small(**changes: object) -> Rollouts:
    return Rollouts(TASK, **{"steps": 60, "iterations": 3, "episodes": 4, "seed": 5} | changes)


def assert_same(one: Rollout, other: Rollout) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_each_iteration_is_played_by_the_policy_after_the_one_before() -> None:
    model, _ = trained(small())

    assert len(model.batches) == 6
    players = Players(TASK)
    for i, batch in enumerate(model.batches):
        order = Wanted(model.policies[i], (5, TRAINING, i), steps=60)
        assert_same(batch, together(players.play(order)))
        assert any(
            not np.array_equal(w, v)
            for a, b in zip(model.policies[i].layers, model.policies[i + 1].layers, strict=True)
            for w, v in zip(a, b, strict=True)
        )
    players.close()


@pytest.mark.parametrize("stop", [2, 3, 4])  # in an epoch, at its end, in the next one
def test_a_resumed_training_goes_on_with_the_same_episodes(tmp_path: Path, stop: int) -> None:
    whole, _ = trained(small())
    first, _ = trained(small(), Seeds(stop, tmp_path / "checkpoint"))
    second, _ = trained(small(), checkpoint=tmp_path / "checkpoint")

    found = first.batches + second.batches
    assert len(first.batches) == stop
    assert len(found) == len(whole.batches)
    for a, b in zip(found, whole.batches, strict=True):
        assert_same(a, b)
    for name, x in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], x, rtol=0, atol=0)


def test_processes_that_play_ahead_change_nothing() -> None:
    data = small()
    data.players = Players(TASK, 2)  # of torch's threads there is still one

    alone, _ = trained(small())
    together_, _ = trained(data)
    data.teardown("test")

    for a, b in zip(together_.batches, alone.batches, strict=True):
        assert_same(a, b)
    for name, x in alone.state_dict().items():
        torch.testing.assert_close(together_.state_dict()[name], x, rtol=0, atol=0)
    assert data.players.wanted is None  # nothing was begun after the last iteration


def test_ahead_begins_the_next_iteration_but_none_after_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, begun = small(), []
    data.players = Players(TASK, 2)
    monkeypatch.setattr(data.players, "begin", lambda wanted: begun.append(wanted.stream))
    data.trainer = make_trainer({"max_epochs": 2}, "cpu")
    data.trainer.strategy.connect(TRPO(TASK, hidden=[6]))

    for data.iteration in range(1, 7):
        data.ahead()

    assert begun == [(5, TRAINING, i) for i in range(1, 6)]


def test_there_are_as_many_players_as_threads() -> None:
    torch.set_num_threads(2)
    data = small()
    data.setup("fit")
    assert data.players.processes == 2
    players = data.players
    data.setup("test")
    assert data.players is players


def test_the_evaluation_is_of_the_last_policy_and_is_handed_on() -> None:
    data = small(drawn=True)
    model, trainer = trained(data)
    (tested,) = trainer.test(model, data, verbose=False)
    (kept,) = trainer.predict(model, data)
    handed_on = data.handed_on()

    players = Players(TASK)
    known = players.play(Wanted(model.policies[-1], (5, DEMONSTRATION), count=4))
    assert_same(together(known), together(data.played))
    assert tested["test/return"] == kept["return"].mean() == together(known).returns.mean()
    assert (
        kept["length"].tolist() == handed_on["lengths"].tolist() == [len(e.rewards) for e in known]
    )
    assert len(kept["random_return"]) == len(handed_on["random_return"]) == 50
    np.testing.assert_array_equal(handed_on["return"], kept["return"])
    np.testing.assert_array_equal(
        handed_on["observations"], np.concatenate([e.observations for e in known])
    )
    np.testing.assert_array_equal(handed_on["actions"], np.concatenate([e.actions for e in known]))


def test_usually_it_takes_the_most_probable_actions() -> None:
    data = small(random=False)
    model, trainer = trained(data)
    trainer.test(model, data, verbose=False)

    order = Wanted(model.policies[-1], (5, EVALUATION), drawn=False, count=4)
    assert_same(together(Players(TASK).play(order)), together(data.played))
    assert data.handed_on() == {}  # these are no demonstrations


def test_random_actions_are_played_once() -> None:
    data = small(drawn=True)
    model, trainer = trained(data)
    trainer.test(model, data, verbose=False)
    known, data.players = data.random_returns(), None

    assert data.handed_on()["random_return"].tolist() == known.tolist()


@pytest.mark.parametrize(
    ("task", "changes", "said"),
    [
        (replace(TASK, limit=TASK.limit + 1), {}, "limit = "),
        (replace(TASK, success_ends=True), {}, "success_ends = True, the data's False"),
        (TASK, {"limit": 7}, f"training limit = {TASK.limit}, the data's 7"),
    ],
    ids=["limit", "success", "training"],
)
def test_a_model_for_another_task_is_a_sentence(task: Task, changes: dict, said: str) -> None:
    trainer = make_trainer({"max_epochs": 1, "precision": "64-true"}, "cpu")
    with pytest.raises(DataError, match=f"The model's task has {said}"):
        trainer.fit(TRPO(task, hidden=[6]), small(**changes))


def test_a_limit_of_training_is_none_of_the_evaluation() -> None:
    data = small(limit=7)
    model, trainer = trained(data)
    trainer.test(model, data, verbose=False)

    assert max(int(batch.lengths.max()) for batch in model.batches) == 7
    assert max(len(e.rewards) for e in data.played) > 7


def test_episodes_together_are_one_after_another() -> None:
    rng = np.random.default_rng(0)
    episodes = [
        Episode(
            rng.normal(size=(n, 2)), np.arange(n), rng.normal(size=n), rng.normal(size=2), n == 1
        )
        for n in (3, 1, 2)
    ]

    batch = together(episodes)

    assert batch.times.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.lengths.tolist() == [3, 1, 2]
    assert batch.terminated.tolist() == [False, True, False]
    assert batch.actions.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.returns.tolist() == pytest.approx([e.rewards.sum() for e in episodes])
    np.testing.assert_array_equal(batch.last, np.stack([e.last for e in episodes]))
    np.testing.assert_array_equal(
        batch.observations, np.concatenate([e.observations for e in episodes])
    )


def test_mistakes_are_said_before_training() -> None:
    for name in ("steps", "iterations", "episodes", "limit"):
        with pytest.raises(ValueError, match=rf"{name}.*0"):
            small(**{name: 0})
    wrong = Rollouts(Task("CartPole-v1", 30, 4, 3, discrete=True))
    with pytest.raises(DataError, match="has actions = 2, the task says 3"):
        wrong.prepare_data()
