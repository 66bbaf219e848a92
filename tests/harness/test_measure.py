"""`reproduce measure`: a finished run gets what it lacks, an unfinished one is told how it does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lit_gen.harness import record as records
from lit_gen.harness import schema, store, verify
from lit_gen.harness.cli import main
from lit_gen.harness.record import PREDICTIONS, RECORD
from lit_gen.harness.reports import beside
from lit_gen.harness.run import locked
from lit_gen.harness.spec import find

LOOKS = '''
"""The mean of samples; with weights, which may be missing, their spread, too."""

import os
from typing import NamedTuple


class Found(NamedTuple):
    numbers: dict
    notes: dict
    ids: dict
    arrays: dict


class Looks:
    id, names = "looks/1", ("test/mean", "test/fid")

    def judge(self, sample, data, most, progress):
        x = sample(min(most or 150, 150))
        numbers, arrays = {"test/mean": float(x.mean())}, {"means": x.mean((1, 2, 3)).numpy()}
        notes = {}
        if "WEIGHTS" in os.environ:
            numbers["test/fid"] = float(x.std())
            arrays["stds"] = x.std((1, 2, 3)).numpy()
        else:
            notes["test/fid"] = "not measurable here: no weights"
        return Found(numbers, notes, {name: f"{name} of {len(x)}" for name in numbers}, arrays)
'''
HERE = Path(__file__).parent / "human"
YAML = "reproductions/blurred/looks.yaml"
NAME = "blurred_looks"
RUN = Path("runs") / NAME / "all-paper-seed_1"
METRICS = """\
metrics:
  samples: looks.Looks
  never: {class_path: lit_gen.metrics.unmeasured.Unmeasured, init_args: {metric: seen/factors, why: by eye}}
  proxy/c2st_accuracy_percent: {class_path: lit_gen.metrics.two_sample.TwoSample, init_args: {images: 40, steps: 2}}
seeds:"""  # noqa: E501

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def reproduce(tiny: Path, capsys: pytest.CaptureFixture) -> Call:
    """Runs a command in a folder with a reproduction that measures samples."""
    (tiny / YAML).parent.mkdir(parents=True)
    yaml = (HERE / "blur.yaml").read_text().replace("seeds:", METRICS)
    (tiny / YAML).write_text(yaml.replace("{max_epochs: 1}", "{max_epochs: 3}"))
    shutil.copy(HERE / "blur.py", tiny / YAML.replace("looks.yaml", "blur.py"))
    (tiny / YAML.replace("yaml", "py")).write_text(LOOKS)

    def call(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([words[0], YAML, *words[1:]])
        said = capsys.readouterr()
        return ended.value.code, said.out + said.err

    return call


@pytest.fixture
def trained(reproduce: Call) -> Callable[..., records.Record]:
    def train(*words: str) -> records.Record:
        words = ("--seeds", "1", "--device", "cpu", "--threads", "1", "--no-mlflow", *words)
        status, said = reproduce("run", *words)
        assert status == 0, said
        return records.read(RUN / RECORD)

    return train


def test_a_finished_run_gets_the_numbers_it_lacks_and_keeps_those_it_has(
    reproduce: Call, trained: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trained()
    kept = dict(np.load(RUN / PREDICTIONS))
    before.result["metrics"]["test/mean"] = 0.125  # as another machine might have measured it
    records.write(RUN / RECORD, before)
    monkeypatch.setenv("WEIGHTS", "1")

    status, said = reproduce("measure")

    assert status == 0, said
    assert f"1 number added to {RUN / RECORD}" in said
    after, arrays = records.read(RUN / RECORD), dict(np.load(RUN / PREDICTIONS))
    assert after.result["metrics"]["test/mean"] == 0.125
    assert after.result["metrics"]["test/fid"] == pytest.approx(0.4, abs=0.3)
    assert after.result["metric_ids"]["test/fid"] == "test/fid of 150"
    assert after.result["beside"] == before.result["beside"]
    why, by_eye = "not measurable here: no weights", {"seen/factors": "by eye"}
    assert before.provenance["not_beside"] == {"test/fid": why} | by_eye
    assert after.provenance["not_beside"] == by_eye
    assert arrays["stds"].shape == (150,)
    for name, array in kept.items():
        np.testing.assert_array_equal(arrays[name], array)
    assert "measured" not in after.result
    (by,) = after.provenance["measured"]
    assert by["numbers"] == ["test/fid"]
    assert by.keys() > {"started", "commit", "packages", "device", "cpu_s"}
    assert verify.examine([RUN], lambda _: None, print) == 0

    status, said = reproduce("measure")
    assert (status, "has all numbers of samples already" in said) == (0, True)


def test_what_is_still_missing_says_why(reproduce: Call, trained: Callable) -> None:
    before = trained()

    status, said = reproduce("measure")

    assert status == 0
    assert "test/fid: not measurable here: no weights" in said
    assert "0 numbers added" in said
    assert records.read(RUN / RECORD) == before


def test_an_unfinished_run_is_told_how_it_does_and_goes_on(
    reproduce: Call, trained: Callable, monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    trained()
    record = records.read(RUN / RECORD)
    whole = record.result["metrics"]
    record.status, record.epochs, record.steps = "stopped", 1, 12
    record.result = {"curve": {k: v[:1] for k, v in record.result["curve"].items()}}
    records.write(RUN / RECORD, record)
    monkeypatch.setenv("WEIGHTS", "1")

    for _ in range(2):  # the second in the place of the first
        status, said = reproduce("measure", "--samples", "60")
        assert status == 0, said
    reproduce("measure", "--samples", "80")

    assert "Of the model after 1 of 3 epochs; no claim is judged by it" in said
    after = records.read(RUN / RECORD)
    found, other = after.result["measured"]
    assert found["by"]["device"] == "cpu"
    assert found["metric_ids"]["test/fid"] == "test/fid of 60"
    assert other["metric_ids"]["test/fid"] == "test/fid of 80"
    assert (found["epochs"], found["steps"]) == (1, 12)
    assert 50 <= found["metrics"]["proxy/c2st_accuracy_percent"] <= 100
    assert "metrics" not in after.result
    assert any("no claim: proxy/c2st_accuracy_percent = " in s for s in beside.said(after))
    (sentence, _) = [s for s in beside.said(after) if "FID" in s]
    assert sentence.startswith("Of samples after 1 of 3 epochs, no claim: FID 0.")
    store.keep(find(YAML), Path("runs"), lambda _: None)
    (kept,) = results.glob("blurred/looks/*.json")
    assert records.read(kept).result["measured"] == after.result["measured"]

    finished = trained()
    assert finished.status == "finished"
    assert finished.result["metrics"]["test/errors"] == whole["test/errors"]
    assert finished.result["measured"] == after.result["measured"]


def test_fewer_samples_of_a_finished_run_answer_no_claim(
    reproduce: Call, trained: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trained()
    monkeypatch.setenv("WEIGHTS", "1")

    assert reproduce("measure", "--samples", "60")[0] == 0

    after = records.read(RUN / RECORD)
    assert after.result["metrics"] == before.result["metrics"]
    assert len(after.result["measured"]) == 1


def test_mistakes_are_told_and_nothing_is_written(
    reproduce: Call, trained: Callable, tiny: Path
) -> None:
    assert "no run of blurred_looks with a checkpoint" in reproduce("measure")[1]
    trained()
    content = (RUN / RECORD).read_bytes()
    for words, said in (
        (("--samples", "1"), "--samples 1: give 2 or more"),
        (("--setting", "al"), "no setting 'al'. Did you mean all?"),
        (("--seed", "7"), "seed 7"),
    ):
        status, told = reproduce("measure", *words)
        assert status == 2, told
        assert said in told
    with locked(RUN):
        status, told = reproduce("measure", "--samples", "60")
        assert (status, "is in use by process" in told) == (2, True)
    yaml = (tiny / YAML).read_text()
    (tiny / YAML).write_text(yaml.replace(METRICS, "seeds:"))
    status, told = reproduce("measure")
    assert (status, "names no metric of samples" in told) == (2, True)
    assert (RUN / RECORD).read_bytes() == content


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "a list of mappings"),
        ([{"epochs": -1}], r"measured[0].epochs = -1"),
        (
            [{"epochs": 1, "steps": 1, "metrics": {"a": "1"}, "metric_ids": {}}],
            "measured[0].metrics",
        ),
        ([{"epochs": 1, "steps": 1, "metrics": {}, "metric_ids": {"a": 1}}], "metric_ids"),
    ],
)
def test_a_damaged_measurement_is_said(
    run: Callable, tmp_path: Path, found: object, said: str
) -> None:
    raw = json.loads((run(tmp_path, 1, 90) / RECORD).read_text())
    assert schema.complaint(raw) == ""
    raw["result"]["measured"] = found
    assert said in schema.complaint(raw)
