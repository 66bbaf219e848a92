"""What follows from a record is derived again; what does not is said; what moved is rescored."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lit_gen.harness import predictions, store, verify
from lit_gen.harness import record as records
from lit_gen.harness.cli import main
from lit_gen.harness.record import PREDICTIONS, RECORD, Record
from lit_gen.harness.rescore import rescored
from lit_gen.harness.spec import digest, find
from lit_gen.metrics.classification import Errors

NAME = "improved_gan_mnist_semisup"


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code or 0


def edit(path: Path, change) -> None:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


@pytest.fixture
def kept(run, tmp_path: Path, results: Path) -> list[Path]:
    """Files of two records that count."""
    for seed in (1, 2):
        run(tmp_path / "runs", seed, errors=90 + seed)
    call("keep", NAME, "--runs-dir", tmp_path / "runs")
    return sorted(store.results(find(NAME)).glob("*.json"))


def test_a_sound_record_verifies_and_says_what_it_cannot(
    kept: list[Path], capsys: pytest.CaptureFixture
) -> None:
    assert call("verify", *kept) == 0

    said = capsys.readouterr().out
    assert said.count("ok: test/errors = 9") == 2
    assert "ok: in README.md, labels_100 single, release: " in said
    assert "cannot be verified here: that the training took place" in said
    assert "FAILED" not in said


def test_a_run_directory_verifies_by_its_whole_predictions(
    kept: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = next((tmp_path / "runs" / NAME).iterdir())

    assert call("verify", folder) == 0
    assert "follows from its predictions (errors/1 of 10000)" in capsys.readouterr().out


def reseeded(r: dict) -> None:
    r["seed"] = {"data": 5, "model": 5}
    r["spec_hash"] = digest(r["config"] | {"seed": r["seed"]})


def retrained(r: dict) -> None:
    r["config"]["model"]["init_args"]["lr"] = 0.1
    r["spec_hash"] = digest(r["config"] | {"seed": r["seed"]})


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (lambda r: r["result"]["metrics"].update({"test/errors": 80.0}), "its predictions give 91"),
        (lambda r: r["config"]["trainer"].update(max_epochs=3), "the configuration's hash is"),
        (retrained, "is another configuration: model.lr was 0.1, now 0.003"),
        (lambda r: r.update(protocol="june"), "has no protocol 'june' (any more)"),
        (lambda r: r.update(setting="labels_10"), "has no setting 'labels_10' (any more)"),
        (
            lambda r: r.update(overrides={"model": {"init_args": {"lr": 0.1}}}),
            "it does not say how it departs: model.lr = 0.1",
        ),
        (reseeded, "by its content labels_100-release-seed_5"),
        (lambda r: r["result"]["predictions"]["target"].update(data="!"), "damaged predictions"),
        (lambda r: r["result"]["predictions"]["target"].update(shape=[10**11]), "bytes instead of"),
        (lambda r: r["result"]["predictions"]["target"].update(dtype="O"), "is none of numbers"),
    ],
)
def test_what_was_changed_by_hand_fails_here_and_in_check(
    kept: list[Path], capsys: pytest.CaptureFixture, tamper, sentence: str
) -> None:
    edit(kept[0], tamper)

    assert call("verify", kept[0]) == 1
    assert sentence in "".join(x for x in capsys.readouterr().out.splitlines() if "FAILED" in x)
    assert call("check") == 1
    assert sentence in capsys.readouterr().err


def test_a_copied_run_is_found(kept: list[Path], capsys: pytest.CaptureFixture) -> None:
    edit(kept[0], reseeded)
    kept[1].write_text(kept[0].read_text())
    kept[1].rename(kept[1].with_name("labels_100-release-seed_5.json"))
    edit(kept[0], lambda r: r.update(seed={"data": 1, "model": 1}))

    assert call("check") == 1
    assert "kept the same predictions; one is a copy" in capsys.readouterr().err


def test_runs_that_are_all_at_the_ceiling_are_no_copies() -> None:
    def kept(setting: str, returns: np.ndarray) -> Record:
        arrays = {"return": returns, "random_return": np.arange(3.0)}
        result = {"predictions": predictions.packed(arrays)}
        seed = {"data": 1, "model": 1}
        return Record("gail_cartpole", setting, "paper", seed, {}, "", [], result=result)

    ceiling, others = np.full(50, 200.0), np.linspace(9, 200, 50)

    assert not list(verify.twins([kept("a", ceiling), kept("b", ceiling)]))
    assert len(list(verify.twins([kept("a", others), kept("b", others)]))) == 1


@pytest.mark.parametrize("content", ["{", '{"schema": 99}', "\x00"])
def test_an_unreadable_record_fails_check_and_stops_nothing_else(
    kept: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture, content: str
) -> None:
    kept[0].write_text(content)

    assert call("verify", kept[0], kept[1]) == 2
    assert call("check") == 1
    assert capsys.readouterr().err.count(str(kept[0])) == 2  # once by each
    assert call("list") == 0
    assert call("show", NAME) == 0
    assert call("keep", NAME, "--runs-dir", tmp_path / "none") == 1
    assert call("report", NAME, "-o", tmp_path / "page.html") == 1
    assert [record.key.data for record in store.kept(find(NAME), print)] == [2]


def test_records_of_no_reproduction_are_said(
    kept: list[Path], results: Path, capsys: pytest.CaptureFixture
) -> None:
    (results / "old" / "table").mkdir(parents=True)
    kept[0].rename(results / "old" / "table" / kept[0].name)

    assert call("check") == 1
    assert "old/table holds records, but there is no such reproduction" in capsys.readouterr().err


def test_settings_without_runs_are_said(kept: list[Path], capsys: pytest.CaptureFixture) -> None:
    assert call("check") == 0
    assert "has no runs of labels_20, labels_50, labels_200 yet." in capsys.readouterr().out


# --- rescore


def test_rescoring_adds_ids_once_and_keeps_what_the_training_said(
    kept: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    edit(kept[0], lambda r: r["result"]["metrics"].update({"test/errors": 80.0}))
    runs = ["--runs-dir", tmp_path / "runs"]

    assert call("rescore", NAME, *runs, "--dry-run") == 0
    assert "4 would be rescored" in capsys.readouterr().out
    assert "metric_ids" not in records.read(kept[0]).result
    assert call("rescore", NAME, *runs) == 0
    assert "test/errors 80 -> 91 (no id -> errors/1 of 10000)" in capsys.readouterr().out
    once = [path.read_bytes() for path in kept]
    assert call("rescore", NAME, *runs) == 0
    assert "4 finished records looked at, 0 rescored" in capsys.readouterr().out

    assert [path.read_bytes() for path in kept] == once
    result = records.read(kept[0]).result
    assert result["metrics"] == {"test/errors": 91.0}
    assert result["metric_ids"] == {"test/errors": "errors/1 of 10000"}
    change = {
        "metric": "test/errors",
        "was": 80.0,
        "was_id": None,
        "now": 91.0,
        "id": "errors/1 of 10000",
    }
    assert result["rescored"] == [change]
    assert call("check") == 0


def test_a_claim_that_came_after_a_run_gets_its_reason(kept: list[Path]) -> None:
    record, spec = records.read(kept[0]), find(NAME)
    why = {"class_path": "lit_gen.metrics.unmeasured.Unmeasured",
           "init_args": {"metric": "seen/factors", "why": "people count them"}}  # fmt: skip
    more = replace(spec, metrics={"factors": why})

    new, said = rescored(more, record, None)

    assert said == ["seen/factors is not measured: people count them"]
    assert new.provenance["not_beside"] == {"seen/factors": "people count them"}
    assert new.result == record.result
    assert rescored(more, new, None) == (new, [])


def test_a_new_version_of_a_metric_moves_all_records(
    kept: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if errors/1 had counted wrongly: verdicts wait until the records are rescored."""
    runs = ["--runs-dir", str(tmp_path / "none")]
    call("rescore", NAME, *runs)
    monkeypatch.setattr(Errors, "id", "errors/2")
    spec = find(NAME)

    def statuses() -> set[str]:
        pairs = [(record, None) for record in store.kept(spec)]
        return {v.status for v in store.judge(spec, pairs, [r.cell for r, _ in pairs])}

    before = statuses()
    call("rescore", NAME, *runs)

    assert before == {"not comparable"}
    assert statuses() == {"inconclusive"}
    history = [c["id"] for c in records.read(kept[0]).result["rescored"]]
    assert history == ["errors/1 of 10000", "errors/2"]


def test_a_run_without_predictions_keeps_its_number(
    run, tmp_path: Path, results: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = run(tmp_path / "runs", 1, errors=91)
    (folder / PREDICTIONS).unlink()
    before = (folder / RECORD).read_bytes()

    assert call("rescore", NAME, "--runs-dir", tmp_path / "runs") == 0

    assert (folder / RECORD).read_bytes() == before
    assert "test/errors = 91 stays: the run kept no predictions" in capsys.readouterr().out
