"""No certificate, no verdict: what keeps a number from being judged."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lit_gen.harness import record as records
from lit_gen.harness import store
from lit_gen.harness.record import PREDICTIONS, RECORD
from lit_gen.harness.spec import Spec, UserError, find
from lit_gen.harness.verdicts import certificate
from lit_gen.metrics.classification import Errors

NAME = "improved_gan_mnist_semisup"


def judged(spec: Spec, root: Path) -> list[tuple[str, str]]:
    """Status and sentence of each verdict on the runs below `root`."""
    pairs = list(store.runs(spec, root))
    said = store.judge(spec, pairs, [record.cell for record, _ in pairs])
    return [(v.status, v.sentence) for v in said if v.claim.name == "single"]


def change(folder: Path, **parts: object) -> None:
    """Edits the result of a run's record by hand."""
    raw = json.loads((folder / RECORD).read_text())
    raw["result"] |= parts
    (folder / RECORD).write_text(json.dumps(raw))


@pytest.fixture
def three(run, tmp_path: Path) -> list[Path]:
    """Three runs that reproduce the claim, 93 within 6.5."""
    return [run(tmp_path / "runs", seed, errors) for seed, errors in ((1, 92), (2, 93), (3, 94))]


def test_sound_runs_get_a_verdict(three: list[Path], tmp_path: Path) -> None:
    assert judged(find(NAME), tmp_path / "runs")[0][0] == "reproduced"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"metrics": {"test/errors": 90.0}}, "= 90, its predictions give 93"),
        ({"metric_ids": {"test/errors": "errors/0"}}, "was measured with errors/0, the claim with"),
    ],
)
def test_a_number_that_does_not_follow_gets_none(
    three: list[Path], tmp_path: Path, parts: dict, reason: str
) -> None:
    change(three[1], **parts)

    ((status, sentence),) = judged(find(NAME), tmp_path / "runs")

    assert status == "not comparable"
    assert reason in sentence


def test_without_predictions_the_id_must_be_there(three: list[Path], tmp_path: Path) -> None:
    for folder in three:
        (folder / PREDICTIONS).unlink()
    before = judged(find(NAME), tmp_path / "runs")
    for folder in three:
        change(folder, metric_ids={"test/errors": Errors(10_000).id})
    after = judged(find(NAME), tmp_path / "runs")

    assert before[0][0] == "not comparable"
    assert "names no metric id" in before[0][1]
    assert after[0][0] == "reproduced"


def test_damaged_predictions_give_no_verdict(three: list[Path], tmp_path: Path) -> None:
    (three[0] / PREDICTIONS).write_bytes(b"PK nothing")

    ((status, sentence),) = judged(find(NAME), tmp_path / "runs")

    assert status == "not comparable"
    assert "cannot be read" in sentence


def test_one_doubtful_cell_does_not_hide_another(run, three: list[Path], tmp_path: Path) -> None:
    change(three[0], metrics={"test/errors": 9.0})
    for seed in (1, 2, 3):
        folder = run(tmp_path / "runs" / "other", seed, 92 + seed)
        raw = json.loads((folder / RECORD).read_text()) | {"protocol": "paper_june8"}
        moved = tmp_path / "runs" / NAME / f"june_{seed}"
        folder.rename(moved)
        (moved / RECORD).write_text(json.dumps(raw))

    statuses = [status for status, _ in judged(find(NAME), tmp_path / "runs")]

    assert sorted(statuses) == ["not comparable", "reproduced"]


def test_a_metric_that_nobody_names_gives_none(three: list[Path], tmp_path: Path) -> None:
    ((status, sentence),) = judged(replace(find(NAME), metrics={}), tmp_path / "runs")

    assert status == "not comparable"
    assert "names no class for 'test/errors'" in sentence


def test_a_metric_that_fails_its_cases_gives_none(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Errors, "of", lambda self, arrays: 93.0)

    ((status, sentence),) = judged(find(NAME), tmp_path / "runs")

    assert status == "not comparable"
    assert (
        "errors/1 of 10000 fails its certificate: its case 1 of 7 gave 93, known is 0" in sentence
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (7, "give a class path"),
        ({"init_args": {}}, "give a class path"),
        ("nowhere.Metric", "cannot be built"),
        ("lit_gen.metrics.classification.Error", "cannot be built"),
        ("lit_gen.metrics.classification.errors", "cannot be built"),
        ("builtins.dict", "it has no id, of, cases"),
        (
            {"class_path": "lit_gen.metrics.classification.Errors", "init_args": {"n": 1}},
            "cannot be built",
        ),
    ],
)
def test_a_metric_that_is_none_is_a_sentence(entry: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        certificate.metric(replace(find(NAME), metrics={"test/errors": entry}), "test/errors")


def test_arguments_make_another_metric() -> None:
    entry = {"class_path": "lit_gen.metrics.classification.Errors", "init_args": {"examples": 9}}

    assert certificate.ids(replace(find(NAME), metrics={"e": entry})) == {"e": "errors/1 of 9"}


def test_a_real_run_names_the_metric_it_was_measured_with(tiny: Path) -> None:
    from lit_gen.harness.run import Run, execute
    from lit_gen.harness.spec import Seed

    overrides = {
        "data": {"init_args": {"validation": 100, "limit": 100, "batch_size": 50}},
        "trainer": {"max_epochs": 1},
    }
    run = Run(find(NAME), "labels_100", "release", Seed(1, 1), overrides)
    record = execute(run, tiny / "runs", "cpu")
    folder = run.directory(tiny / "runs", record)
    arrays = store.predictions(record, folder)

    assert record.result["metric_ids"] == {"test/errors": "errors/1 of 10000"}
    assert records.read(folder / RECORD).result["metric_ids"] == record.result["metric_ids"]
    assert Errors().of(arrays) == record.result["metrics"]["test/errors"]
    assert np.isfinite(arrays["logits"]).all()
