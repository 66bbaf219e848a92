"""Imitators and their experts: an expert is trained first, used afterwards, and asked for."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_gen.harness import needs
from lit_gen.harness.cli import main
from lit_gen.harness.record import HANDED_ON, RECORD
from lit_gen.harness.run import Run
from lit_gen.harness.spec import Seed, UserError, find

TASK = "{env: CartPole-v1, limit: 30, observations: 4, actions: 2, discrete: true}"
COMMON = """\
paper: {title: none, authors: nobody, year: 2026, arxiv: 0000.00000}
claims:
  - {metric: test/return, reported: [20, 1], runs: 2, spread_over: seeds, better: higher, margin: 9}
metrics:
  test/return: {class_path: lit_gen.metrics.returns.MeanReturn, init_args: {episodes: 5}}
seeds: 1-2
"""
EXPERT = """\
model: {class_path: lit_gen.papers.trpo.TRPO, init_args: {task: &task TASK, hidden: [4]}}
data:
  class_path: lit_gen.datamodules.rollouts.Rollouts
  init_args: {task: *task, steps: 50, iterations: 2, episodes: 5, drawn: true}
trainer: {max_epochs: 2, precision: 64-true}
"""
IMITATOR = """\
needs: {expert: pole_expert}
model: {class_path: lit_gen.papers.gail.GAIL, init_args: {task: &task TASK}}
data:
  class_path: lit_gen.datamodules.demonstrations.Imitation
  init_args: {task: *task, trajectories: 2, every: 3, steps: 50, iterations: 2, episodes: 5}
trainer: {max_epochs: 3, precision: 64-true}
"""
LETHAL = '''\
"""CartPole, which kills its process at a step of the first process that makes a file."""

import os
import signal

import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class Lethal(CartPoleEnv):
    steps = 0

    def __init__(self, file: str, at: int) -> None:
        super().__init__()
        self.file, self.at = file, at

    def step(self, action: int) -> tuple:
        Lethal.steps += 1
        if Lethal.steps == self.at and not os.path.exists(self.file):
            open(self.file, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


gymnasium.register("Lethal-v0", entry_point=Lethal)
'''


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: pole/imitator.yaml, which needs pole/expert.yaml."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, TASK)
    return tmp_path


def write(folder: Path, task: str) -> None:
    (folder / "pole").mkdir(exist_ok=True)
    for name, text in (("expert", EXPERT), ("imitator", IMITATOR)):
        (folder / "pole" / f"{name}.yaml").write_text(COMMON + text.replace("TASK", task))


WORDS = ["pole/imitator.yaml", "--seeds", "1", "--no-mlflow", "--device", "cpu", "--threads", "1"]


@pytest.fixture
def call(capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str]]:
    """The command, in this process: its exit status, and all that it said as one line."""

    def told(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main([*WORDS, *words])
        said = capsys.readouterr()
        return end.value.code, " ".join((said.out + said.err).split())

    return told


def runs(root: Path) -> dict[str, list[Path]]:
    """Folders of runs, by reproduction."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.glob(f"*/*/{RECORD}")):
        found.setdefault(path.parent.parent.name, []).append(path.parent)
    return found


def record(folder: Path) -> dict:
    return json.loads((folder / RECORD).read_text())


def test_an_expert_is_trained_first_and_used_afterwards(folder: Path, call) -> None:
    status, said = call()

    assert status == 0, said
    assert "needs a run of" in said
    assert "it is trained first" in said
    (expert,), (imitator,) = (
        next(paths for name, paths in runs(folder / "runs").items() if part in name)
        for part in ("expert", "imitator")
    )
    theirs, ours = record(expert), record(imitator)
    assert (theirs["status"], ours["status"]) == ("finished", "finished")
    assert ours["provenance"]["needs"]["expert"]["spec_hash"] == theirs["spec_hash"]
    assert ours["provenance"]["needs"]["expert"]["run"].endswith(expert.name)
    assert len(ours["provenance"]["data"]) == 64
    assert "expert" not in ours["config"]["data"]["init_args"]  # a path is no mathematics
    with np.load(expert / HANDED_ON) as arrays:
        assert len(arrays["lengths"]) == 5

    before = (expert / RECORD).stat().st_mtime_ns
    status, said = call("--seeds", "2")  # the last one counts
    assert status == 0, said
    assert "trained first" not in said
    assert (expert / RECORD).stat().st_mtime_ns == before
    assert len(runs(folder / "runs")[imitator.parent.name]) == 2
    other = record(runs(folder / "runs")[imitator.parent.name][1])
    assert other["provenance"]["needs"] == ours["provenance"]["needs"]
    assert other["provenance"]["data"] == ours["provenance"]["data"]

    (expert / HANDED_ON).unlink()
    status, said = call("--seeds", "1", "--data.every", "2")
    assert status == 2
    assert (
        f"needs a finished run of {ours['provenance']['needs']['expert']['run'].split('/')[0]}"
        in said
    )
    assert "move its folder away first" in said


def test_demonstrations_of_the_users_own_need_no_run(folder: Path, call) -> None:
    status, said = call("--data.expert", demonstrations(folder / "mine.npz"))

    assert status == 0, said
    assert "trained first" not in said
    ((path,),) = runs(folder / "runs").values()
    assert record(path)["status"] == "finished"
    assert "needs" not in record(path)["provenance"]
    assert len(record(path)["provenance"]["data"]) == 64


def demonstrations(path: Path, seed: int = 0) -> str:
    """Of the user's own; two trajectories."""
    rng = np.random.default_rng(seed)
    np.savez(
        path,
        observations=rng.normal(size=(40, 4)),
        actions=rng.integers(2, size=40),
        lengths=np.array([20, 20]),
        **{"return": np.array([20.0, 20.0])},
    )
    return str(path)


def test_a_finished_run_is_not_passed_off_as_one_of_other_demonstrations(
    folder: Path, call
) -> None:
    first, second = (demonstrations(folder / f"{k}.npz", k) for k in (1, 2))

    assert call("--data.expert", first)[0] == 0
    status, said = call("--data.expert", first)
    assert (status, "finished before" in said) == (0, True), said
    status, said = call("--data.expert", second)
    assert status == 2
    assert "was begun on other data files" in said
    assert "another --runs-dir to keep both" in said


def test_a_budget_that_the_expert_spends_is_no_mistake(folder: Path, call) -> None:
    status, said = call("--budget", "0.001s")

    assert status == 0, said
    assert "waits: the budget of 0.001s is spent" in said
    assert call()[0] == 0
    assert {record(paths[0])["status"] for paths in runs(folder / "runs").values()} == {"finished"}


def test_an_expert_that_diverged_is_said_and_not_trained_again(folder: Path, call) -> None:
    assert call()[0] == 0
    ((expert, *_),) = (p for name, p in runs(folder / "runs").items() if "expert" in name)
    (expert / HANDED_ON).unlink()
    content = record(expert) | {"status": "diverged"}
    (expert / RECORD).write_text(json.dumps(content))

    status, said = call("--seeds", "2")

    assert status == 2
    assert f"which diverged: {expert.relative_to(folder)}. Give --data.expert" in said


def test_a_need_is_asked_for_once(folder: Path) -> None:
    spec = find("pole/imitator.yaml")
    cell = spec.default_setting, spec.default_protocol
    two = [Run(spec, *cell, Seed(k, k), {}) for k in (1, 2)]

    (wanted,) = needs.missing(two, folder / "runs")

    assert wanted.spec.path.name == "expert.yaml"
    assert wanted.seed == Seed(1, 1)
    with pytest.raises(UserError, match=r"needs a finished run of pole_expert with its handed_on"):
        needs.provided(two[0], folder / "runs")
    given = {"data": {"init_args": {"expert": "mine.npz"}}}
    assert needs.missing([Run(spec, *cell, Seed(1, 1), given)], folder / "runs") == []


def test_a_run_killed_in_the_middle_of_a_rollout_goes_on_to_the_same_bits(
    folder: Path, reproduce, call
) -> None:
    """Step 215 is in the fifth rollout of six, of 50 steps or some more, after an epoch's end."""
    (folder / "pole" / "lethal.py").write_text(LETHAL)
    options = f"options: {{file: {folder}/killed, at: 215}}"
    write(folder, TASK.replace("CartPole-v1", "'lethal:Lethal-v0'").replace("}", f", {options}}}"))
    words = ["--data.expert", demonstrations(folder / "mine.npz")]

    killed = reproduce(*WORDS, *words)
    assert killed.returncode == -9, killed.stderr
    ((path,),) = runs(folder / "runs").values()
    assert record(path)["status"] == "running"
    assert (path / "checkpoint.ckpt").is_file()
    assert call(*words)[0] == 0
    assert call(*words, "--runs-dir", str(folder / "whole"))[0] == 0

    ((whole,),) = runs(folder / "whole").values()
    assert record(path)["result"] == record(whole)["result"]
    assert record(path)["spec_hash"] == record(whole)["spec_hash"]
    assert len(record(path)["provenance"]["segments"]) == 2
    assert len(record(whole)["provenance"]["segments"]) == 1
    with np.load(path / "predictions.npz") as a, np.load(whole / "predictions.npz") as b:
        assert all(np.array_equal(a[name], b[name]) for name in a)
