"""Demonstrations: which pairs are taken, what a bad file says, and what an interruption changes."""

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lit_gen.datamodules.demonstrations import Demonstrations, Imitation, Minibatches
from lit_gen.datamodules.files import DataError
from lit_gen.harness.run import make_trainer
from lit_gen.nn.control import Task
from lit_gen.papers.gail import GAIL, BehavioralCloning

TASK = Task("CartPole-v1", 30, 4, 2, discrete=True)
LENGTHS = [30, 7, 22, 30, 2]
EVERY = 5
FIRSTS = np.random.RandomState(0).randint(0, EVERY, len(LENGTHS))  # as the code draws them


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def arrays(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """An observation says of which trajectory and step it is."""
    where = [(e, t, 0, 0) for e, n in enumerate(LENGTHS) for t in range(n)]
    usual = {
        "observations": np.array(where, float),
        "actions": np.array([t % 2 for _, t, _, _ in where]),
        "lengths": np.array(LENGTHS),
        "return": np.array(LENGTHS, float),
        "random_return": np.array([3.0, 5.0]),
    }
    return usual | changes


@pytest.fixture
def expert(tmp_path: Path) -> str:
    np.savez_compressed(tmp_path / "handed_on.npz", **arrays())
    return str(tmp_path / "handed_on.npz")


def imitation(expert: str, **changes: object) -> Imitation:
    usual = {"trajectories": 3, "steps": 60, "iterations": 2, "episodes": 3, "seed": 5}
    return Imitation(TASK, expert=expert, **usual | changes)


def ready(expert: str, **changes: object) -> Imitation:
    data = imitation(expert, **changes)
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("trajectories", [1, 2, 3, 4, 5])
def test_of_each_trajectory_one_step_in_five_is_taken(expert: str, trajectories: int) -> None:
    s, a = Demonstrations.load(expert).pairs(trajectories, EVERY)

    known = [(e, t) for e in range(trajectories) for t in range(int(FIRSTS[e]), LENGTHS[e], EVERY)]
    assert [tuple(row) for row in s[:, :2].int().tolist()] == known
    assert a.tolist() == [t % 2 for _, t in known]
    assert len(set(FIRSTS)) > 1


def test_smaller_sets_are_parts_of_larger_ones(expert: str) -> None:
    theirs = Demonstrations.load(expert)
    sets = [theirs.pairs(n, EVERY)[0] for n in (1, 2, 3, 4, 5)]

    for few, more in pairwise(sets):
        assert torch.equal(few, more[: len(few)])
    assert len(theirs.pairs(5, 1)[0]) == sum(LENGTHS)


def test_trajectories_that_are_not_there_are_a_sentence(expert: str) -> None:
    theirs = Demonstrations.load(expert)
    with pytest.raises(DataError, match=r"trajectories=6: the expert left 5. Use fewer."):
        theirs.pairs(6, EVERY)
    with pytest.raises(DataError, match=r"every=1000 leaves nothing of 1 trajectories"):
        theirs.pairs(1, 1000)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no file .*nowhere.npz. Give the handed_on.npz"):
        Demonstrations.load(str(tmp_path / "nowhere.npz"))


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 3
    return (
        content[:middle]
        + bytes(255 - b for b in content[middle : middle + 20])
        + content[middle + 20 :]
    )


@pytest.mark.parametrize(
    "damage",
    [cut, flipped, lambda _: b"", lambda _: b"no arrays at all", lambda c: c[:-30]],
    ids=["cut", "flipped", "empty", "text", "no end"],
)
def test_a_damaged_file_is_a_sentence(expert: str, damage) -> None:
    path = Path(expert)
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(DataError, match=r"handed_on.npz has no demonstrations .*Train the expert"):
        Demonstrations.load(expert)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lengths": np.array([1, 2])},
        {"return": np.array([1.0])},
        {"actions": np.zeros(3)},
        {"observations": np.array([{"not": "numbers"}])},
        {"observations": np.full((sum(LENGTHS), 4), np.nan)},
        {"observations": np.zeros(sum(LENGTHS))},
        {"observations": np.full((sum(LENGTHS), 4), "x")},
        {"actions": np.full(sum(LENGTHS), np.inf)},
        {"lengths": np.array(LENGTHS, float)},
        {"lengths": np.array([*LENGTHS[:-2], LENGTHS[-2] + 3, LENGTHS[-1] - 3])},
        {"return": np.full(len(LENGTHS), np.nan)},
        {"random_return": np.array([])},
        {"random_return": np.array([1.0, np.nan])},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_arrays_that_do_not_fit_are_a_sentence(tmp_path: Path, wrong: dict) -> None:
    np.savez(tmp_path / "x.npz", **arrays(**wrong))
    with pytest.raises(DataError, match=r"x.npz has no demonstrations"):
        Demonstrations.load(str(tmp_path / "x.npz"))


def test_other_files_are_a_sentence(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", weights=np.zeros(3))
    np.save(tmp_path / "y.npy", np.zeros(3))
    for name in ("x.npz", "y.npy", "."):
        with pytest.raises(DataError, match="has no demonstrations"):
            Demonstrations.load(str(tmp_path / name))


def test_demonstrations_of_another_task_are_a_sentence(tmp_path: Path) -> None:
    n = sum(LENGTHS)
    np.savez(tmp_path / "x.npz", **arrays(observations=np.zeros((n, 6))))
    with pytest.raises(DataError, match=r"observations of 6 numbers, CartPole-v1 of 4\. Give demo"):
        ready(str(tmp_path / "x.npz"))


@pytest.mark.parametrize(
    "actions", [np.zeros((sum(LENGTHS), 2)), np.full(sum(LENGTHS), 7)], ids=["continuous", "7"]
)
def test_actions_of_another_task_are_a_sentence(tmp_path: Path, actions: np.ndarray) -> None:
    np.savez(tmp_path / "x.npz", **arrays(actions=actions))
    with pytest.raises(DataError, match="actions"):
        ready(str(tmp_path / "x.npz"))


def test_the_fingerprint_is_of_what_is_imitated(tmp_path: Path, expert: str) -> None:
    changed = arrays()["observations"] + 1e-9
    np.savez(tmp_path / "x.npz", **arrays(observations=changed))
    np.savez(tmp_path / "y.npz", **arrays())

    found = [Demonstrations.load(p).fingerprint for p in (expert, str(tmp_path / "y.npz"))]
    assert found[0] == found[1]
    assert len(found[0]) == 64
    assert Demonstrations.load(str(tmp_path / "x.npz")).fingerprint != found[0]


def test_an_expert_that_is_none_is_said(tmp_path: Path, expert: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays(random_return=np.array([100.0, 60.0])))

    assert ready(expert).deviations == ()
    (said,) = ready(str(tmp_path / "x.npz")).deviations
    assert said == "the expert's mean return, 18.2, is not above random actions', 80."


def test_there_must_be_an_expert() -> None:
    with pytest.raises(DataError, match=r"give --data\.expert, a file or minari:NAME"):
        Imitation(TASK, 3).prepare_data()
    for name in ("trajectories", "every", "minibatches", "batch_size"):
        with pytest.raises(ValueError, match=rf"{name}.*0"):
            imitation("x", **{name: 0})


# cloning


def rows(x: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(row) for row in x[:, :2].int().tolist()]


def test_pairs_to_train_and_to_validate_on_are_disjoint(expert: str) -> None:
    data = ready(expert, every=1, minibatches=4)
    train, val = rows(data.training[0]), rows(data.validation[0])

    n = len(data.pairs[0])
    assert (len(train), len(val)) == (int(0.7 * n), n - int(0.7 * n))
    assert sorted(train + val) == rows(data.pairs[0])
    assert {e for e, _ in train} == {e for e, _ in val} == {0, 1, 2}  # pairs, not trajectories
    for s, a in (data.training, data.validation):
        assert a.tolist() == [t % 2 for _, t in rows(s)]
    assert rows(ready(expert, every=1, minibatches=4, seed=6).training[0]) != train


def test_too_few_pairs_are_a_sentence(expert: str) -> None:
    with pytest.raises(DataError, match="1 pairs cannot be split to train and validate"):
        ready(expert, trajectories=1, every=27, minibatches=4)


def test_minibatches_go_on_where_they_were(expert: str) -> None:
    changes = {"every": 1, "minibatches": 5, "batch_size": 4}
    data = ready(expert, **changes)
    whole = [rows(s) for _ in range(2) for s, _ in Minibatches(data)]

    first, second = ready(expert, **changes), ready(expert, **changes)
    begun = iter(Minibatches(first))
    found = [rows(next(begun)[0]) for _ in range(3)]
    second.load_state_dict(first.state_dict())
    found += [rows(s) for s, _ in Minibatches(second)]
    second, third = ready(expert, **changes), second
    second.load_state_dict(third.state_dict())  # at the end of an epoch
    found += [rows(s) for s, _ in Minibatches(second)]

    assert found == whole
    assert len({tuple(batch) for batch in whole}) == 10
    assert all(len(batch) == 4 for batch in whole)
    assert {row for batch in whole for row in batch} <= set(rows(data.training[0]))


def test_cloning_trains_and_validates_on_its_own_pairs(expert: str) -> None:
    data = imitation(expert, every=1, minibatches=5, batch_size=4)
    seen, validated = [], []

    class Cloning(BehavioralCloning):
        def training_step(self, batch: tuple, batch_idx: int) -> dict:
            seen.extend(rows(batch[0]))
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: tuple, batch_idx: int) -> None:
            validated.append(rows(batch[0]))
            super().validation_step(batch, batch_idx)

    model = Cloning(TASK)
    trainer = make_trainer({"max_epochs": 3, "precision": "64-true"}, "cpu")
    trainer.fit(model, data)

    assert len(seen) == 3 * 5 * 4
    assert validated == [rows(data.validation[0])] * 3
    assert not set(seen) & set(validated[0])


def test_the_evaluation_has_what_it_is_compared_with(expert: str) -> None:
    data = imitation(expert)
    model = GAIL(TASK)
    trainer = make_trainer({"max_epochs": 1, "precision": "64-true"}, "cpu")
    trainer.fit(model, data)
    (tested,) = trainer.test(model, data, verbose=False)
    (kept,) = trainer.predict(model, data)

    assert kept["expert_return"].tolist() == LENGTHS
    assert kept["random_return"].tolist() == [3, 5]
    score = (kept["return"].mean().item() - 4) / (np.mean(LENGTHS) - 4)
    assert tested["test/score"] == pytest.approx(score)


# Minari


def episode(n: int) -> SimpleNamespace:
    """With an observation after the last action."""
    s = np.arange(4.0 * (n + 1), dtype=np.float32).reshape(n + 1, 4)
    return SimpleNamespace(
        observations=s, actions=np.arange(n, dtype=np.int32) % 2, rewards=np.full(n, 0.5)
    )


def given(monkeypatch: pytest.MonkeyPatch, load) -> None:
    monkeypatch.setitem(sys.modules, "minari", SimpleNamespace(load_dataset=load))


def test_a_data_set_of_minari_is_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str) -> SimpleNamespace:
        asked.append(name)
        return SimpleNamespace(iterate_episodes=lambda: iter([episode(6), episode(3)]))

    given(monkeypatch, load)
    data = ready("minari:cartpole/expert-v0", trajectories=2)

    assert asked == ["cartpole/expert-v0"]
    theirs = data.demonstrations
    assert theirs.lengths.tolist() == [6, 3]
    assert theirs.returns.tolist() == [3, 1.5]
    known = np.concatenate([episode(6).observations[:-1], episode(3).observations[:-1]])
    np.testing.assert_array_equal(data.pairs[0], known)
    assert data.pairs[0].dtype == torch.float64
    assert data.pairs[1].tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert data.pairs[1].dtype == torch.int64
    assert data.deviations == ()  # it has no random policy


def test_a_data_set_that_minari_lacks_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise FileNotFoundError(f"Dataset {name} not found locally")

    given(monkeypatch, load)
    with pytest.raises(
        DataError, match=r"cannot load 'x/y-v0' .*not found.*minari download x/y-v0"
    ):
        Demonstrations.load("minari:x/y-v0")


def test_observations_of_several_parts_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = SimpleNamespace(observations={"goal": 1}, actions=np.zeros(1), rewards=np.zeros(1))
    given(monkeypatch, lambda name: SimpleNamespace(iterate_episodes=lambda: iter([parts])))
    with pytest.raises(DataError, match="has observations of several parts"):
        Demonstrations.load("minari:x/y-v0")


def test_an_empty_data_set_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, lambda name: SimpleNamespace(iterate_episodes=lambda: iter([])))
    with pytest.raises(DataError, match="x/y-v0"):
        Demonstrations.load("minari:x/y-v0")


def test_without_minari_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(
        DataError, match=r"minari:x/y-v0 needs Minari.*pip install 'minari\[hdf5\]'"
    ):
        Demonstrations.load("minari:x/y-v0")
