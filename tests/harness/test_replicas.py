"""Runs trained as one computation: records, checkpoints and ends are those of separate runs."""

import json
import math
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_gen.harness import replicas, watch
from lit_gen.harness.record import CHECKPOINT, PREDICTIONS, RECORD, Record
from lit_gen.harness.replicas import execute_together
from lit_gen.harness.run import Run, execute
from lit_gen.harness.spec import Seed, UserError, find

NAME = "improved_gan_mnist_semisup"
EPOCHS = 3
CELLS = [("labels_100", 1), ("labels_100", 2), ("labels_20", 1)]


def runs(*cells: tuple[str, int], **trainer: object) -> list[Run]:
    """Short runs in float64, in which rounding has no time to grow."""
    overrides = {
        "data": {"init_args": {"validation": 100, "limit": 200, "batch_size": 20}},
        "trainer": {"max_epochs": EPOCHS, "precision": "64-true"} | trainer,
    }
    return [
        Run(find(NAME), setting, "release", Seed(seed, seed), overrides) for setting, seed in cells
    ]


@pytest.fixture(scope="module")
def separate(tiny_mnist: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each of the runs, trained alone."""
    root = tmp_path_factory.mktemp("separate")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in tiny_mnist.items():
            patch.setenv(key, value)
        for run in runs(*CELLS):
            assert execute(run, root, "cpu").status == "finished"
    return root


def folder(root: Path, record: Record) -> Path:
    return root / record.reproduction / record.name


def largest_difference(a: object, b: object, path: str = "") -> float:
    """Between two nested states of the same shape; whatever is no tensor must be equal."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert list(a) == list(b), path
        return max((largest_difference(a[key], b[key], f"{path}.{key}") for key in a), default=0.0)
    if isinstance(a, list | tuple):
        pairs = enumerate(zip(a, b, strict=True))
        return max((largest_difference(x, y, f"{path}.{i}") for i, (x, y) in pairs), default=0.0)
    if isinstance(a, torch.Tensor):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), path
        return (a.double() - b.double()).abs().max().item() if a.numel() else 0.0
    if isinstance(a, float):  # of a curve, kept with 7 digits
        return 0.0 if math.isclose(a, b, rel_tol=2e-6) else abs(a - b)
    assert a == b, path
    return 0.0


def assert_equal(root: Path, separate: Path, record: Record) -> None:
    """Record, predictions and every tensor of the checkpoint."""
    a, b = folder(root, record), folder(separate, record)
    assert sorted(p.name for p in a.rglob("*")) == sorted(p.name for p in b.rglob("*"))
    one, other = (json.loads((f / RECORD).read_text()) for f in (a, b))
    assert list(one) == list(other)
    assert {k: v for k, v in one.items() if k not in ("provenance", "result")} == {
        k: v for k, v in other.items() if k not in ("provenance", "result")
    }
    assert largest_difference(one["result"], other["result"]) == 0
    states = [torch.load(f / CHECKPOINT, weights_only=True) for f in (a, b)]
    assert largest_difference(*states) <= 1e-9
    with np.load(a / PREDICTIONS) as p, np.load(b / PREDICTIONS) as q:
        assert list(p) == list(q)
        assert all(np.allclose(p[name], q[name], rtol=0, atol=1e-7) for name in p)


def test_records_and_checkpoints_are_those_of_separate_runs(tiny: Path, separate: Path) -> None:
    ended = []
    records = execute_together(
        runs(*CELLS), 8, tiny, "cpu", on_end=lambda record, _: ended.append(record.name)
    )

    assert [(r.setting, r.key.model) for r in records] == CELLS
    assert sorted(ended) == sorted(r.name for r in records)
    for record in records:
        assert record.status == "finished"
        assert_equal(tiny, separate, record)
        (segment,) = record.provenance["segments"]
        assert segment["replicas"] == 3


def test_likelihood_models_too(tiny: Path) -> None:
    overrides = {
        "data": {"init_args": {"validation": 101, "limit": 200, "batch_size": 20}},
        "model": {"init_args": {"importance_samples": 10}},
        "trainer": {"max_epochs": 3, "check_val_every_n_epoch": 2, "precision": "64-true"},
    }
    cells = [
        Run(find("vae_mnist"), "iwae_L2_k5", "shuffled", Seed(seed, seed), overrides)
        for seed in (1, 2, 3)
    ]
    for cell in cells:
        assert execute(cell, tiny / "separate", "cpu", threads=1).status == "finished"
    for record in execute_together(cells, 8, tiny / "together", "cpu", threads=1):
        assert record.status == "finished"
        assert_equal(tiny / "together", tiny / "separate", record)


def test_no_more_than_asked_for_go_together(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    train = replicas._train
    monkeypatch.setattr(
        replicas, "_train", lambda group, *rest: sizes.append(len(group)) or train(group, *rest)
    )

    execute_together(runs(*CELLS, max_epochs=1), 2, tiny, "cpu")

    assert sizes == [2, 1]


class After:
    """A reason to stop once a step was taken, in whatever run."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self) -> str | None:
        return None if self.left > 0 else "enough"

    def on_step(self, record: Record, step: int, steps: int) -> None:
        self.left = self.left - 1 if record.key.model == 1 else self.left


@pytest.mark.parametrize("first_together", [True, False])
def test_runs_begun_one_way_go_on_the_other_way(
    tiny: Path, separate: Path, monkeypatch: pytest.MonkeyPatch, first_together: bool
) -> None:
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.0)  # a look after every step
    cells = [("labels_100", 1), ("labels_20", 1)]
    if first_together:
        stop = After(26)  # 13 steps: in the middle of the second epoch
        begun = execute_together(runs(*cells), 2, tiny, "cpu", stop=stop, on_step=stop.on_step)
        ended = [execute(run, tiny, "cpu") for run in runs(*cells)]
    else:
        begun = []
        for run in runs(*cells):
            stop = After(13)
            begun.append(execute(run, tiny, "cpu", stop=stop, on_step=stop.on_step))
        ended = execute_together(runs(*cells), 2, tiny, "cpu")

    assert [r.status for r in begun] == ["stopped", "stopped"]
    assert all(0 < r.steps < EPOCHS * 10 and r.steps % 10 for r in begun)
    for record in ended:
        assert record.status == "finished"
        assert len(record.provenance["segments"]) == 2
        assert_equal(tiny, separate, record)


def test_runs_at_different_steps_are_not_mixed(tiny: Path, separate: Path) -> None:
    stop = After(13)
    execute(runs(CELLS[0])[0], tiny, "cpu", stop=stop, on_step=stop.on_step)

    records = execute_together(runs(*CELLS), 8, tiny, "cpu")

    together = [r.provenance["segments"][-1]["replicas"] for r in records]
    assert together == [1, 2, 2]
    for record in records:
        assert_equal(tiny, separate, record)


def test_what_has_ended_is_not_trained_again(tiny: Path, separate: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in separate.rglob(CHECKPOINT)}

    records = execute_together(runs(*CELLS), 8, separate, "cpu")

    assert [r.status for r in records] == ["finished"] * 3
    assert before == {p: p.stat().st_mtime_ns for p in separate.rglob(CHECKPOINT)}


def test_a_run_that_diverges_ends_alone(
    tiny: Path, separate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Run.build

    def poisoned(run: Run, *args: object, **kwargs: object) -> tuple:
        model, *rest = build(run, *args, **kwargs)
        if run.seed.model == 2:
            torch.nn.init.constant_(model.generator[0].weight, torch.nan)
        return model, *rest

    monkeypatch.setattr(Run, "build", poisoned)
    good, bad, other = execute_together(runs(*CELLS), 8, tiny, "cpu")

    assert bad.status == "diverged"
    assert "not finite" in bad.error["message"]
    assert json.loads((folder(tiny, bad) / RECORD).read_text())["status"] == "diverged"
    for record in (good, other):
        assert record.status == "finished"
        assert_equal(tiny, separate, record)


def test_when_all_diverge_training_ends(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.0)
    build = Run.build

    def poisoned(run: Run, *args: object, **kwargs: object) -> tuple:
        model, *rest = build(run, *args, **kwargs)
        torch.nn.init.constant_(model.generator[0].weight, torch.nan)
        return model, *rest

    monkeypatch.setattr(Run, "build", poisoned)
    records = execute_together(runs(*CELLS[:2], max_epochs=1000), 8, tiny, "cpu")

    assert [r.status for r in records] == ["diverged", "diverged"]
    assert all(r.steps <= 2 for r in records)


def test_an_error_is_in_every_record(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a cable came loose")

    monkeypatch.setattr(replicas._Replicas, "on_train_batch_end", broken)
    records = execute_together(runs(*CELLS[:2]), 8, tiny, "cpu")

    assert [r.status for r in records] == ["crashed", "crashed"]
    assert {r.error["message"] for r in records} == {"a cable came loose"}


def test_a_model_that_cannot_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_gen.papers.improved_gan import SemiSupervisedGAN

    monkeypatch.delattr(SemiSupervisedGAN, "together")
    with pytest.raises(UserError, match=r"SemiSupervisedGAN has no method `together`.*--replicas"):
        execute_together(runs(*CELLS), 8, tiny, "cpu")


# --- the command

SHORT = ["--no-mlflow", "--data.validation", "100", "--data.batch_size", "20", "--device", "cpu"]
COMMAND = [NAME, *SHORT, "--threads", "1", "--trainer.max_epochs", "3", "--seeds", "1-2"]


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143), (signal.SIGINT, 130)],
)
def test_killed_replicas_go_on(reproduce, tmp_path: Path, number: int, status: int) -> None:
    process = reproduce(*COMMAND, "--replicas", "2", background=True)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob(f"runs/{NAME}/*/{CHECKPOINT}"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == status, said + errors

    again = reproduce(*COMMAND, "--replicas", "2")

    assert again.returncode == 0, again.stderr
    records = [json.loads(p.read_text()) for p in tmp_path.glob(f"runs/{NAME}/*/{RECORD}")]
    assert [r["status"] for r in records] == ["finished", "finished"]
    assert all(len(r["provenance"]["segments"]) == 2 for r in records)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--replicas", "0"], "--replicas 0: give 1 or more"),
        (["--replicas", "2", "--workers", "2"], "leave out --workers"),
        (["--replicas", "2", "--devices", "2"], "leave out --devices"),
        (["--replicas", "2", "--until", "decided"], "leave out --until"),
        (["--replicas", "2", "--compile"], "leave out --compile"),
    ],
)
def test_what_does_not_go_with_replicas_is_refused(reproduce, words: list[str], said: str) -> None:
    result = reproduce(*COMMAND, *words)

    assert result.returncode == 2
    assert said in result.stderr


SMALL = Path(__file__).parents[1] / "small" / "network.yaml"


def test_another_network_from_a_file_of_one_s_own(tiny: Path) -> None:
    spec = find(str(SMALL))
    changes = {"data": {"init_args": {"validation": 100}}, "trainer": {"precision": "64-true"}}
    cell = spec.default_setting, spec.default_protocol
    several = [Run(spec, *cell, Seed(k, k), changes) for k in range(1, 6)]

    together = execute_together(several, 5, tiny / "together", "cpu")

    for run, record in zip(several, together, strict=True):
        alone = execute(run, tiny / "alone", "cpu")
        assert record.status == alone.status == "finished", record.error
        assert record.result["metrics"] == alone.result["metrics"]
        states = [
            torch.load(tiny / way / spec.name / alone.name / CHECKPOINT, weights_only=True)
            for way in ("together", "alone")
        ]
        assert largest_difference(*states) <= 1e-9
