"""Runs that can be trusted: killed and continued, they give the record of an unbroken one."""

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from short import short

from lit_gen.harness.replicas import execute_together
from lit_gen.harness.run import (
    CHECKPOINT,
    PREDICTIONS,
    RECORD,
    Run,
    execute,
    locked,
    set_up,
)
from lit_gen.harness.spec import Seed, UserError, find
from lit_gen.papers.improved_gan import SemiSupervisedGAN

NAME = "improved_gan_mnist_semisup"
SMALL = Path(__file__).parents[1] / "small" / "network.yaml"
SHORT = ["--seeds", "1", "--no-mlflow", "--data.validation", "100", "--data.batch_size", "20"]


def outcome(runs: Path) -> tuple[dict, dict[str, np.ndarray], int]:
    """Result, predictions and number of stretches of the only run below `runs`."""
    (folder,) = (p.parent for p in runs.glob(f"{NAME}/*/{RECORD}"))
    record = json.loads((folder / RECORD).read_text())
    assert record["status"] == "finished", record
    with np.load(folder / PREDICTIONS) as arrays:
        return record["result"], dict(arrays), len(record["provenance"]["segments"])


@pytest.fixture(scope="module")
def unbroken(tiny_mnist: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 x 60 steps that nothing interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in tiny_mnist.items():
            patch.setenv(key, value)
        root = tmp_path_factory.mktemp("unbroken")
        overrides = {
            "data": {"init_args": {"validation": 100, "batch_size": 20}},
            "trainer": {"max_epochs": 3},
        }
        threads = torch.get_num_threads()
        execute(
            Run(find(NAME), "labels_100", "release", Seed(1, 1), overrides), root, "cpu", threads=1
        )
        torch.set_num_threads(threads)
    return root


def assert_same(one: Path, other: Path, stretches: int) -> None:
    (a, p, _), (b, q, n) = outcome(one), outcome(other)
    assert a == b
    assert p.keys() == q.keys()
    assert all(np.array_equal(p[k], q[k]) for k in p)
    assert n >= stretches


def interrupt(reproduce, tmp_path: Path, number: int, after: float) -> int:
    """Starts the run, sends it the signal `after` seconds past its first checkpoint."""
    words = [NAME, *SHORT, "--trainer.max_epochs", "3", "--device", "cpu", "--threads", "1"]
    process = reproduce(*words, background=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(f"runs/{NAME}/*/{CHECKPOINT}")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(after)
    process.send_signal(number)
    print(*process.communicate(timeout=60))
    return process.returncode


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143), (signal.SIGINT, 130)],
)
def test_a_killed_run_goes_on_to_the_same_bits(
    reproduce, tmp_path: Path, unbroken: Path, number: int, status: int
) -> None:
    first = interrupt(reproduce, tmp_path, number, after=0.3)
    again = [NAME, *SHORT, "--trainer.max_epochs", "3", "--device", "cpu", "--threads", "1"]
    second = reproduce(*again)

    assert first == status
    assert second.returncode == 0, second.stderr
    assert_same(unbroken, tmp_path / "runs", stretches=2)


@pytest.mark.parametrize("step", [1, 59, 60, 61, 120])
def test_stopping_at_any_step_gives_the_same_bits(tiny: Path, unbroken: Path, step: int) -> None:
    """In an epoch, at its last step, at its end, and at the start of the next one."""
    overrides = {
        "data": {"init_args": {"validation": 100, "batch_size": 20}},
        "trainer": {"max_epochs": 3},
    }
    run = Run(find(NAME), "labels_100", "release", Seed(1, 1), overrides)
    asked = []

    def stop() -> str | None:
        asked.append(1)
        return "enough" if len(asked) == step else None

    threads = torch.get_num_threads()
    first = execute(run, tiny / "runs", "cpu", threads=1, stop=stop)
    torch.rand(7), np.random.rand(3)  # whatever happens in between
    second = execute(run, tiny / "runs", "cpu", threads=1)
    torch.set_num_threads(threads)

    assert (first.status, second.status) == ("stopped", "finished")
    assert_same(unbroken, tiny / "runs", stretches=2)


def test_a_crash_is_a_record_and_the_run_goes_on_afterwards(tiny: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the lights went out")

    crashed = execute(short(), tiny / "runs", "cpu", on_epoch=fail)
    on_disk = json.loads(next(tiny.glob(f"runs/*/*/{RECORD}")).read_text())
    again = execute(short(), tiny / "runs", "cpu")

    assert crashed.status == on_disk["status"] == "crashed"
    assert "lights went out" in on_disk["error"]["traceback"][-1]
    assert on_disk["error"]["step"] == 10
    assert again.status == "finished"
    assert again.error is None


def test_a_run_that_dies_after_its_last_epoch_is_still_tested(tiny: Path) -> None:
    def die(record: object) -> None:
        if record.epochs == 2:
            raise RuntimeError("the lights went out")

    whole = execute(short(), tiny / "whole", "cpu")
    crashed = execute(short(), tiny / "runs", "cpu", on_epoch=die)
    again = execute(short(), tiny / "runs", "cpu")

    assert (crashed.status, crashed.epochs) == ("crashed", 2)
    assert again.result == whole.result
    assert again.provenance["data"] == whole.provenance["data"]
    assert again.deviations == whole.deviations


def test_pictures_that_cannot_be_drawn_cost_no_training(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with samples: the record says why, and the mended model goes on from the checkpoint."""
    given = {"../../kl": np.zeros((1, 3))}

    def pictures(self: SemiSupervisedGAN, x: torch.Tensor) -> dict[str, np.ndarray]:
        return given

    whole = execute(short(), tiny / "whole", "cpu")
    monkeypatch.setattr(SemiSupervisedGAN, "pictures", pictures, raising=False)
    crashed = execute(short(), tiny / "runs", "cpu")
    given = {"kl": np.full((20, 32), np.nan)}
    again = execute(short(), tiny / "runs", "cpu", on_step=lambda *_: pytest.fail("trained"))

    assert (crashed.status, crashed.epochs) == ("crashed", 2)
    said = crashed.error["message"]
    assert said.startswith("SemiSupervisedGAN.pictures: '../../kl' cannot name a picture; use")
    assert (again.status, again.error) == ("finished", None)
    assert again.result == whole.result
    assert [p.parent.name for p in tiny.rglob("kl.png")] == ["pictures"]


def test_pictures_of_runs_trained_together_are_those_of_separate_ones(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = find(str(SMALL))
    changes = {"data": {"init_args": {"validation": 100}}, "trainer": {"precision": "64-true"}}
    cell = spec.default_setting, spec.default_protocol
    runs = [Run(spec, *cell, Seed(k, k), changes) for k in (1, 2)]
    runs[0].resolve()  # makes the class's file importable

    def pictures(self: pl.LightningModule, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": self.features(x)[:8]}

    monkeypatch.setattr(importlib.import_module("network").Small, "pictures", pictures, False)
    together = execute_together(runs, 2, tiny / "together", "cpu")
    alone = [execute(run, tiny / "alone", "cpu") for run in runs]

    def drawn(way: str) -> list[bytes]:
        folders = [tiny / way / spec.name / record.name for record in alone]
        return [(folder / "pictures/features.png").read_bytes() for folder in folders]

    assert [r.status for r in (*together, *alone)] == ["finished"] * 4
    assert drawn("together") == drawn("alone")
    assert drawn("alone")[0] != drawn("alone")[1]


def test_a_run_that_diverges_stops_at_once_and_says_at_which_step(tiny: Path) -> None:
    record = execute(short(lr=1e30), tiny / "runs", "cpu")

    assert record.status == "diverged"
    assert f"at step {record.steps}" in record.error["message"]
    assert record.steps < 10
    assert execute(short(lr=1e30), tiny / "runs", "cpu").status == "diverged"


def test_there_is_a_record_from_the_start(tiny: Path) -> None:
    def look(*_: object) -> None:
        (path,) = tiny.glob(f"runs/*/*/{RECORD}")
        assert json.loads(path.read_text())["status"] == "running"
        seen.append(path)

    seen: list[Path] = []
    execute(short(), tiny / "runs", "cpu", on_start=look)

    assert seen


def test_a_finished_run_is_not_trained_again(tiny: Path) -> None:
    first = execute(short(), tiny / "runs", "cpu")
    second = execute(short(), tiny / "runs", "cpu", on_step=lambda *_: pytest.fail("trained"))

    assert second.result == first.result


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "run"),
        pytest.raises(UserError, match=r"in use by process \d+"),
        locked(tmp_path / "run"),
    ):
        pass


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import os, signal\n"
        "from lit_gen.harness.run import locked\n"
        f"with locked(Path({str(tmp_path)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)

    with locked(tmp_path):
        pass


def test_a_run_of_another_specification_is_refused(tiny: Path) -> None:
    record = execute(short(), tiny / "runs", "cpu", stop=lambda: "enough")
    path = next(tiny.glob(f"runs/*/*/{RECORD}"))
    changed = json.loads(path.read_text())
    changed["config"]["model"]["init_args"]["lr"] = 0.5
    changed["spec_hash"] = "0" * 64
    path.write_text(json.dumps(changed))

    with pytest.raises(UserError, match=r"model.lr was 0.5, now 0.003"):
        execute(short(), tiny / "runs", "cpu")
    assert record.status == "stopped"


def test_another_runs_checkpoint_is_refused(tiny: Path) -> None:
    execute(short(), tiny / "runs", "cpu", stop=lambda: "enough")
    (mine,) = tiny.glob(f"runs/*/*/{CHECKPOINT}")
    theirs = mine.parent.with_name(mine.parent.name.replace("seed_1", "seed_2")) / CHECKPOINT
    theirs.parent.mkdir()
    theirs.write_bytes(mine.read_bytes())
    second = short()
    second = Run(second.spec, second.setting, second.protocol, Seed(2, 2), second.overrides)

    with pytest.raises(UserError, match="of another specification or seed"):
        execute(second, tiny / "runs", "cpu")


def test_validating_every_other_epoch_leaves_gaps_and_goes_on_to_the_same_bits(
    tiny: Path,
) -> None:
    every_other = short()
    every_other.overrides["trainer"] |= {"check_val_every_n_epoch": 2, "max_epochs": 4}
    asked = []

    def stop() -> str | None:
        asked.append(1)
        return "enough" if len(asked) == 25 else None

    whole = execute(every_other, tiny / "whole", "cpu")
    execute(every_other, tiny / "runs", "cpu", stop=stop)
    again = execute(every_other, tiny / "runs", "cpu")
    errors = whole.result["curve"]["test/errors"]

    assert [e is None for e in errors] == [True, False, True, False]
    assert again.result == whole.result


def test_going_on_with_other_data_is_refused(tiny: Path) -> None:
    execute(short(), tiny / "runs", "cpu", stop=lambda: "enough")
    path = next(tiny.glob(f"runs/*/*/{RECORD}"))
    changed = json.loads(path.read_text())
    changed["provenance"]["data"] = "f" * 64
    path.write_text(json.dumps(changed))

    for _ in range(2):  # a refusal takes nothing away, or the second try would go through
        with pytest.raises(UserError, match="begun on other data files"):
            execute(short(), tiny / "runs", "cpu")


def test_a_damaged_checkpoint_is_named(tiny: Path) -> None:
    execute(short(), tiny / "runs", "cpu", stop=lambda: "enough")
    path = next(tiny.glob(f"runs/*/*/{CHECKPOINT}"))
    path.write_bytes(path.read_bytes()[:1000])

    with pytest.raises(UserError, match=r"checkpoint.ckpt cannot be read"):
        execute(short(), tiny / "runs", "cpu")


def test_a_folder_that_cannot_be_written_is_a_sentence(tiny: Path) -> None:
    (tiny / "file").write_text("")

    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        execute(short(), tiny / "file" / "runs", "cpu")


def test_provenance_says_where_a_number_came_from(tiny: Path) -> None:
    record = execute(short(), tiny / "runs", "cpu")
    (segment,) = record.provenance["segments"]

    assert len(record.provenance["data"]) == 64
    assert segment["packages"]["torch"]
    assert segment["device"] == "cpu"
    assert 100 < segment["peak_memory_mb"] < 20_000  # of the whole test process
    assert segment["wall_s"] > 0
    assert segment["steps"] == record.steps == 20
    assert record.config["model"]["init_args"]["lr"] == 0.003  # the default, resolved
    assert "data.limit = 200" in record.deviations


def test_a_moment_that_fades_becomes_nought() -> None:
    """Or it stays just above it for ever, where a CPU is slow."""
    _, config = Run(find(NAME), "labels_100", "release", Seed(1, 1), {}).resolve()
    moment = torch.full((8,), 1e-45)
    assert (moment * 0.9 > 0).all()
    set_up(config, None)
    assert (moment * 0.9 == 0).all()


LIKELIHOODS = {
    "vae_mnist_switch": {"switch": [1, "iwae", 3], "importance_samples": 5},
    "iaf_mnist": {"importance_samples": 2, "init_images": 20, "averaging": 0.9},
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_likelihood_model_goes_on_in_mid_epoch_to_the_same_bits(tiny: Path, name: str) -> None:
    """Draws of pixels and noise go on; and so does an objective that the epoch began with."""
    overrides = {
        "model": {"init_args": LIKELIHOODS[name]},
        "data": {"init_args": {"limit": 100, "batch_size": 20, "validation": 10, "shuffle": True}},
        "trainer": {"max_epochs": 3, "check_val_every_n_epoch": 1},
    }
    spec = find(name)
    run = Run(spec, spec.default_setting, spec.default_protocol, Seed(3, 3), overrides)
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    whole = execute(run, tiny / "whole", "cpu", threads=1)
    stop = {"stop": lambda: "enough" if steps >= 8 else None, "on_step": count}
    assert execute(run, tiny / "cut", "cpu", threads=1, **stop).status == "stopped"
    cut = execute(run, tiny / "cut", "cpu", threads=1)

    assert (whole.status, cut.status) == ("finished", "finished")
    assert len(cut.provenance["segments"]) == 2
    assert cut.result == whole.result
    states = [
        torch.load(folder, weights_only=True)["state_dict"]
        for folder in sorted(tiny.glob(f"*/*/*/{CHECKPOINT}"))
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    ("name", "part", "argument", "said"),
    [
        ("iaf_mnist", "model", {"width": 100}, "multiple of the other"),
        ("vae_mnist", "model", {"samples": 0}, "vae with 0 samples: use vae or iwae"),
        ("vae_mnist", "data", {"binarization": "grey"}, "one of 'dynamic', 'static', 'gray'"),
        ("iaf_mnist", "model", {"hidden_layers": 3}, "hidden_layers = 3 is not valid: expected on"),
    ],
)
def test_what_a_class_refuses_is_said_in_its_words(
    tiny: Path, name: str, part: str, argument: dict, said: str
) -> None:
    spec = find(name)
    cell = (spec, spec.default_setting, spec.default_protocol, Seed(1, 1))
    with pytest.raises(UserError) as refused:
        execute(Run(*cell, {part: {"init_args": argument}}), tiny, "cpu")
    assert said in str(refused.value)
    assert "Namespace" not in str(refused.value)
    assert len(str(refused.value)) < 150
