"""Records that count: kept with their predictions, and checked against them."""

import json
from pathlib import Path

import numpy as np
import pytest

from lit_gen.harness import record as records
from lit_gen.harness import store
from lit_gen.harness.cli import main
from lit_gen.harness.spec import find

NAME = "improved_gan_mnist_semisup"


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return stop.value.code or 0


def test_kept_predictions_decide_every_example_as_the_originals(
    run, tmp_path: Path, results: Path
) -> None:
    folder = run(tmp_path / "runs", 1, errors=7)
    original = store.predictions(records.read(folder / store.RECORD), folder)

    (path,) = store.keep(find(NAME), tmp_path / "runs")
    packed = store.predictions(records.read(path), None)
    odds = np.exp(original["logits"])

    assert (packed["target"] == original["target"]).all()
    assert np.abs(packed["probabilities"] - odds / odds.sum(1, keepdims=True)).max() < 1e-5
    assert path.stat().st_size < 200_000


def test_near_ties_are_packed_without_changing_a_decision(
    run, tmp_path: Path, results: Path
) -> None:
    folder = run(tmp_path / "runs", 1, errors=7)
    logits = np.zeros((10_000, 10), np.float32)
    logits[:, 5] = 1e-6
    np.savez_compressed(folder / store.PREDICTIONS, logits=logits, target=np.zeros(10_000, int))

    (path,) = store.keep(find(NAME), tmp_path / "runs")

    assert (store.predictions(records.read(path), None)["probabilities"].argmax(1) == 5).all()


def test_a_finished_record_is_not_replaced_by_an_unfinished_one(
    run, tmp_path: Path, results: Path
) -> None:
    run(tmp_path / "one", 1, errors=7)
    run(tmp_path / "two", 1, errors=70, status="stopped")
    said: list[str] = []

    store.keep(find(NAME), tmp_path / "one")
    written = store.keep(find(NAME), tmp_path / "two", said.append)

    assert written == []
    assert "is of a run that finished and stays" in said[0]
    assert store.kept(find(NAME))[0].status == "finished"


def test_a_run_that_diverged_at_once_counts(run, tmp_path: Path, results: Path) -> None:
    folder = run(tmp_path / "runs", 1, errors=7, status="diverged")
    raw = json.loads((folder / store.RECORD).read_text()) | {"epochs": 0, "result": {}}
    (folder / store.RECORD).write_text(json.dumps(raw))

    store.keep(find(NAME), tmp_path / "runs")

    assert [r.status for r in store.kept(find(NAME))] == ["diverged"]


def test_a_damaged_record_does_not_hide_the_others(run, tmp_path: Path) -> None:
    run(tmp_path / "runs", 1, errors=7)
    (run(tmp_path / "runs", 2, errors=7) / store.RECORD).write_text("{")
    said: list[str] = []

    found = [
        record.key.data for record, _ in store.runs(find(NAME), tmp_path / "runs", said.append)
    ]

    assert found == [1]
    assert "not a readable record" in said[0]


def test_unfinished_and_crashed_runs_are_kept_and_smoke_runs_are_not(
    run, tmp_path: Path, results: Path
) -> None:
    run(tmp_path / "runs", 1, errors=7)
    run(tmp_path / "runs", 2, errors=60, status="stopped")
    run(tmp_path / "runs", 3, errors=400, status="crashed")
    run(tmp_path / "runs", 4, errors=300, smoke=True)

    assert call("keep", NAME, "--runs-dir", str(tmp_path / "runs")) == 0

    kept = store.kept(find(NAME))
    assert [(r.key.data, r.status) for r in kept] == [
        (1, "finished"), (2, "stopped"), (3, "crashed")]  # fmt: skip
    text = (results / "README.md").read_text()
    for part in ("| 2 | stopped | 2 of 2 |", "1 of 3 runs crashed", "93 ± 6.5"):
        assert part in text


def test_check_passes_on_what_keep_wrote(run, tmp_path: Path, results: Path) -> None:
    for seed in (1, 2, 3):
        run(tmp_path / "runs", seed, errors=90 + seed)
    call("keep", NAME, "--runs-dir", str(tmp_path / "runs"))

    assert call("check") == 0


@pytest.mark.parametrize(
    ("tamper", "complaint"),
    [
        (lambda r: r["result"]["metrics"].update({"test/errors": 80.0}), "its predictions give 91"),
        (lambda r: r["config"]["model"]["init_args"].update(lr=0.1), "configuration's hash"),
        (lambda r: r.update(status="diverged"), "not what the records give"),
    ],
)
def test_check_finds_what_was_changed_by_hand(
    run, tmp_path: Path, results: Path, capsys: pytest.CaptureFixture, tamper, complaint: str
) -> None:
    run(tmp_path / "runs", 1, errors=91)
    call("keep", NAME, "--runs-dir", str(tmp_path / "runs"))
    (path,) = store.results(find(NAME)).glob("*.json")
    raw = json.loads(path.read_text())
    tamper(raw)
    path.write_text(json.dumps(raw))

    assert call("check") == 1
    assert complaint in capsys.readouterr().err


def test_check_finds_an_edited_page(
    run, tmp_path: Path, results: Path, capsys: pytest.CaptureFixture
) -> None:
    run(tmp_path / "runs", 1, errors=91)
    call("keep", NAME, "--runs-dir", str(tmp_path / "runs"))
    page = results / "README.md"
    page.write_text(page.read_text().replace("inconclusive", "reproduced"))

    assert call("check") == 1
    assert "not what the records give" in capsys.readouterr().err


def test_the_results_of_this_project_check(capsys: pytest.CaptureFixture) -> None:
    assert call("check") == 0, capsys.readouterr().err


def test_packed_predictions_make_an_ensemble(run, tmp_path: Path, results: Path) -> None:
    """Ten members of one label subset, judged from what results/ holds."""
    spec = find(NAME)
    for member in range(1, 11):
        folder = run(tmp_path / "runs", 1, errors=member)
        raw = json.loads((folder / store.RECORD).read_text())
        raw["seed"] = {"data": 1, "model": member}
        (folder / store.RECORD).write_text(json.dumps(raw))
        folder.rename(folder.with_name(f"member_{member}"))
    store.keep(spec, tmp_path / "runs")
    kept = [(record, None) for record in store.kept(spec)]

    verdicts = store.judge(spec, kept, {record.cell for record, _ in kept})
    (ensemble,) = (v for v in verdicts if v.claim.name == "ensemble")

    assert len(kept) == 10
    assert ensemble.n == 1
    assert ensemble.values == {"1": 5.0}  # the examples that most members have wrong


@pytest.mark.parametrize("part", ["setting", "protocol"])
def test_a_record_of_what_the_file_no_longer_has_is_passed_over_and_said_once(
    run, tmp_path: Path, results: Path, capsys: pytest.CaptureFixture, part: str
) -> None:
    run(tmp_path / "runs", 1, errors=7)
    run(tmp_path / "runs", 2, errors=8)
    one, other = store.keep(find(NAME), tmp_path / "runs")
    record = records.read(other)
    setattr(record, part, "gone")
    other.unlink()
    records.write(results / "improved_gan" / "mnist_semisup" / f"{record.name}.json", record)
    store.warn.cache_clear()

    first, again = store.kept(find(NAME)), store.kept(find(NAME))
    call("check", NAME)
    said = capsys.readouterr().err

    assert [r.name for r in first] == [r.name for r in again] == [one.stem]
    assert said.count(f"has no {part} 'gone' (any more); put it back, or move the record") == 1
