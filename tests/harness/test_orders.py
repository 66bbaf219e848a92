"""A reproduction that only has orders: what people are shown of it, from the file to the page."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from lit_gen.harness import claims, store, verify
from lit_gen.harness import record as records
from lit_gen.harness import spec as specs
from lit_gen.harness.cli import main
from lit_gen.harness.record import RECORD, Record
from lit_gen.harness.reports import page, report, standing
from lit_gen.harness.spec import Spec, UserError, digest, find
from lit_gen.metrics.classification import Errors

CATALOGUE = """\
paper: {title: Sizes, year: 2015, arxiv: '0000.00000'}
tables:
  - where: Figure 1
    dataset: MNIST
    metric: test/errors
    unit: errors
    better: lower
    protocol: as usual
    statistic: median
    runs: 3
    evidence: figure
    claims:
      mnist.wide: {row: wide, order: wide < narrow, wide < none}
      mnist.narrow: {row: narrow, value: 5, margin: 1, reason: a fifth}
""".replace("order: wide < narrow, wide < none", "order: 'wide < narrow, wide < none'")
FILE = """\
# Figure 1: three sizes
paper: {title: Sizes, authors: Ada & Bo, year: 2015, arxiv: '0000.00000'}
orders:
  - {reported: mnist.wide, setting: wide, over: narrow}
  - {reported: mnist.wide, setting: wide, over: none}
metrics: {test/errors: lit_gen.metrics.classification.Errors}
settings:
  wide: {}
  narrow: {model: {init_args: {hidden: 2}}}
  none: {model: {init_args: {hidden: 1}}}
seeds: 1-5
model: {class_path: network.Small}
data:
  class_path: lit_gen.datamodules.images.SemiSupervisedMNIST
  init_args: {labels: 100, batch_size: 20}
trainer: {max_epochs: 2}
deviations: [two epochs]
"""
VALUES = {"wide": (10, 12, 11, 9, 13), "narrow": (40, 42, 41, 44, 39), "none": (90, 91, 95, 92, 94)}


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spec]:
    """The only reproduction there is, its paper the only one of the catalogue."""
    for module in (specs, claims, store):
        monkeypatch.setattr(module, "shipped", lambda folder: tmp_path / folder)
    path = tmp_path / "reproductions" / "sizes" / "figure1.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(FILE)
    small = Path(__file__).parents[1] / "small" / "network.py"
    shutil.copy(small, path.parent)
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "sizes.yaml").write_text(CATALOGUE)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield find("sizes_figure1")
    sys.path[:] = before


def record(spec: Spec, setting: str, seed: int, value: float, **changes: object) -> Record:
    config = spec.merged(setting, "paper")
    curve = {"test/errors": [value + 50 + seed / 8, value], "val/errors": [value + 50, value]}
    fields = {
        "reproduction": spec.name, "setting": setting, "protocol": "paper",
        "seed": {"data": seed, "model": seed}, "config": config,
        "spec_hash": digest(config | {"seed": {"data": seed, "model": seed}}),
        "deviations": ["two epochs"], "status": "finished", "epochs": 2, "max_epochs": 2,
        "result": {"curve": curve, "metrics": {"test/errors": value},
                   "metric_ids": {"test/errors": Errors().id}},
        "provenance": {"segments": [{"started": "2026-01-01T00:00:00Z", "device": "cpu"}]},
    }  # fmt: skip
    return Record(**fields | changes)


def keep(spec: Spec, **values: tuple[float, ...]) -> list[Record]:
    """Puts runs of these settings into results/."""
    made = [
        record(spec, setting, seed, float(value))
        for setting, numbers in values.items()
        for seed, value in enumerate(numbers, 1)
    ]
    for one in made:
        records.write(store.results(spec) / f"{one.name}.json", one)
    return made


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return stop.value.code or 0


def stands(spec: Spec) -> standing.Standing:
    (entry,) = [e for e in claims.read("sizes").claims if e.id == "mnist.wide"]
    said = [v for o in spec.orders for v in store.certificate.judge_all(spec, o, store.kept(spec))]
    return standing.standing(entry, [spec], said)


def test_settings_that_trained_for_different_lengths_are_not_compared(spec: Spec) -> None:
    """The file may have changed between the runs of one setting and those of the other."""
    runs = [record(spec, "wide", seed, float(x)) for seed, x in enumerate(VALUES["wide"], 1)]
    for seed, x in enumerate(VALUES["narrow"], 1):
        config = spec.merged("narrow", "paper", overrides={"trainer": {"max_epochs": 1}})
        runs.append(record(spec, "narrow", seed, float(x), config=config))

    (said,) = store.certificate.judge_all(spec, spec.orders[0], runs)

    assert said.status == "not comparable"
    assert "wide and narrow also differ in trainer.max_epochs" in said.sentence


# --- the file


def test_an_order_brings_what_the_catalogue_fixes(spec: Spec) -> None:
    one, other = spec.orders

    assert (one.name, one.setting, one.over) == ("above_narrow", "wide", "narrow")
    assert (one.metric, one.better, one.statistic, one.runs) == (
        "test/errors",
        "lower",
        "median",
        3,
    )
    assert (other.name, other.evidence, spec.claims) == ("above_none", "figure", ())
    assert [w.metric for w in spec.watched("none")] == ["test/errors"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("over: narrow", "over: narow", "names no setting: 'narow'. Did you mean narrow"),
        ("over: narrow", "over: wide", "holds wide against itself"),
        ("mnist.wide, setting: wide, over: nar", "mnist.narrow, setting: wide, over: nar",
         "mnist.narrow, which states no order"),
        ("mnist.wide, setting: wide, over: nar", "mnist.wid, setting: wide, over: nar",
         "no claim 'mnist.wid'. Did you mean mnist.wide"),
        ("over: narrow", "above: narrow", "unknown key 'above'"),
        (", over: narrow", "", "'mnist.wide' lacks 'over'"),
        ("over: narrow", "over: 3", "has over: 3, which is no text"),
        ("over: narrow", "over: narrow, name: above_none", "two claims about wide are called"),
        ("  - {reported: mnist.wide, setting: wide, over: none}\n", "", "no claim is about none"),
        ("orders:", "orders: 5\nclaims:", "orders is 5; it must be a list"),
    ],
)  # fmt: skip
def test_a_faulty_order_is_told_what_is_wrong(spec: Spec, old: str, new: str, message: str) -> None:
    assert old in FILE
    spec.path.write_text(FILE.replace(old, new, 1))

    with pytest.raises(UserError, match=message):
        find(spec.name)


def test_an_order_needs_a_statistic_that_has_one(spec: Spec, tmp_path: Path) -> None:
    text = CATALOGUE.replace("statistic: median", "statistic: best")
    (tmp_path / "claims" / "elsewhere.yaml").write_text(text)
    spec.path.write_text(FILE.replace("mnist.wide", "elsewhere/mnist.wide"))

    with pytest.raises(UserError, match="whose statistic best has no order"):
        find(spec.name)


# --- what is shown


def test_show_lists_orders_among_the_claims(spec: Spec) -> None:
    console = Console(width=100, record=True)
    console.print(report.show(spec))
    text = console.export_text()

    assert "wide above_narrow" in text
    assert "< narrow" in text
    assert "metric: test/errors, lower is better" in text


def test_the_readme_holds_every_order_and_every_run(spec: Spec) -> None:
    keep(spec, wide=VALUES["wide"], narrow=VALUES["narrow"])
    text = store.readme()

    row = "| wide | above_narrow | paper | < narrow | 11; 41 errors | +30.0 ["
    assert row in text
    assert "] | 5; 5 | **reproduced** | 1 |" in text
    assert "- wide above_narrow, paper: reproduced: median errors 11 of wide over 5 seeds" in text
    assert "**not measured yet**, next: 5 more seeds of none" in text
    assert "| narrow | paper | 3 | finished | 2 of 2 | 41 |" in text


def test_an_order_nobody_has_run_is_said(spec: Spec) -> None:
    assert "No runs yet: wide above_narrow, wide above_none." in store.readme()


def test_lines_say_how_to_go_on(spec: Spec) -> None:
    runs = keep(spec, wide=VALUES["wide"][:3], narrow=VALUES["narrow"])
    said = store.judge(spec, [(r, None) for r in runs], [runs[0].cell])
    lines = report.lines(said)

    assert lines[0].startswith("wide above_narrow: paper < narrow; inconclusive: median errors 11")
    assert lines[-1].endswith(f"reproduce {spec.name} --setting wide --protocol paper --seeds 4-5")
    console = Console(width=80, record=True)
    console.print(report.table(said))
    assert "11; 41" in console.export_text()
    assert [v.order.name for v in said] == ["above_narrow", "above_none"]
    none = store.judge(spec, [(r, None) for r in runs], [runs[-1].cell])
    assert [v.order.name for v in none] == ["above_narrow"]


def test_a_run_under_way_is_held_against_its_like(spec: Spec) -> None:
    runs = keep(spec, narrow=VALUES["narrow"])
    late = record(spec, "narrow", 9, 41.0, status="running", epochs=1)
    late.result = {"curve": {"test/errors": [92.0], "val/errors": [92.0]}}

    (progress,) = report.unfinished(spec, [*runs, late])
    assert progress.status == "on track"
    assert report.lines([progress])[0].startswith("narrow test/errors seed 9: paper -; on track")


def test_where_an_entry_stands_that_orders_judge(spec: Spec) -> None:
    keep(spec, wide=VALUES["wide"], narrow=VALUES["narrow"])
    half = stands(spec)
    keep(spec, none=VALUES["none"])
    whole = stands(spec)
    keep(spec, none=(1, 2, 1, 2, 1.5))
    worse = stands(spec)

    assert (half.word, len(half.rankings)) == ("inconclusive", 1)
    assert (whole.word, len(whole.rankings)) == ("reproduced", 2)
    assert whole.why.startswith("wide above_narrow: reproduced: median")
    assert worse.word == "worse"


def test_an_entry_without_runs_is_not_measured_yet(spec: Spec) -> None:
    keep(spec, wide=VALUES["wide"])

    assert (stands(spec).word, stands(spec).why) == ("not measured yet", spec.name)


def test_the_command_lists_them_as_text_and_as_json(spec: Spec, capsys) -> None:
    keep(spec, **VALUES)
    assert call("claims", "sizes", "--json") == 0
    tree = json.loads(capsys.readouterr().out)
    row = tree["sizes"]["claims"][0]

    assert row["status"] == "reproduced"
    assert [o["over"] for o in row["orders"]] == ["narrow", "none"]
    assert row["orders"][0]["sides"][1]["values"]["3"] == 41
    assert row["orders"][0]["difference"][0] == 30
    assert call("claims", "sizes") == 0
    assert "\treproduced\twide above_narrow: reproduced: " in capsys.readouterr().out


def test_records_are_checked_verified_and_packed(spec: Spec, capsys, tmp_path: Path) -> None:
    keep(spec, **VALUES)
    assert call("keep") == 0
    files = [str(path) for path in sorted(store.results(spec).glob("*.json"))]
    call("verify", *files)
    told = capsys.readouterr().out

    assert "in README.md, wide above_narrow, paper: reproduced" in told
    assert "in README.md, wide above_none, paper: reproduced" in told
    runs = store.kept(spec)
    given = verify.store.certificate.judge_all(spec, spec.orders[0], runs)
    assert [v.status for v in given] == ["reproduced"]
    from lit_gen.harness import bundle

    packed = json.loads(json.dumps(bundle.verdicts(spec, runs)))
    assert [v["claim"] for v in packed] == ["above_narrow", "above_none"]
    assert (packed[0]["n"], packed[0]["mean"]) == ([5, 5], 30)


def test_numbers_in_doubt_give_no_verdict(spec: Spec) -> None:
    runs = keep(spec, **VALUES)
    for one in runs[:1]:
        one.result["metric_ids"] = {"test/errors": "another/1"}

    said = store.certificate.judge_all(spec, spec.orders[0], runs)
    assert said[0].status == "not comparable"
    assert "was measured with another/1" in said[0].sentence


def test_a_metric_that_no_run_logs(spec: Spec) -> None:
    runs = keep(spec, wide=VALUES["wide"])
    for one in runs:
        one.result["metrics"] = {"test/other": 1.0}

    with pytest.raises(UserError, match="logged no 'test/errors' in its test"):
        store.certificate.judge_all(spec, spec.orders[0], runs)
    (paper,) = [page._judged(page.Study(spec, tuple((r, None) for r in runs)), spec.orders[0])]
    assert "logged no 'test/errors'" in paper[2]


def test_the_page_shows_orders_and_counts_their_entry_once(spec: Spec) -> None:
    pytest.importorskip("matplotlib")
    runs = keep(spec, **VALUES)
    study = page.Study(spec, tuple((one, None) for one in runs))
    text = page.html([study], [claims.read("sizes")])
    whole = " ".join(text.split())

    assert '<table class="claims orders"' in text
    assert text.count("Which setting does better") == 1
    assert 'wide: <b>11</b> errors, <span class="nowrap">n = 5' in text
    assert text.count('class="strip reproduced" viewBox') == 3  # and the example
    assert "<b>1</b> reproduced" in text
    assert "<b>1</b> not built yet" in text
    assert "wide, above_narrow: paper &lt; narrow, ours 11; 41 errors, n = 5; 5" in whole
    assert "an order that curves show" in text
    assert "paper: -" not in text
    nothing = page.html([page.Study(spec)], [claims.read("sizes")])
    assert "not measured yet" in nothing
    assert "reproduce sizes_figure1" in nothing
    few = page.html([page.Study(spec, tuple((one, None) for one in runs[:7]))])
    assert "3 more seeds of narrow" in few
    assert "--setting narrow --protocol paper --seeds 3-5" in few


# --- training


def test_it_trains_and_is_judged_at_the_end(spec: Spec, tiny: Path, capsys) -> None:
    words = [
        spec.name,
        "--seeds",
        "1",
        "--no-mlflow",
        "--data.validation",
        "100",
        "--device",
        "cpu",
    ]
    words += ["--data.limit", "200"]

    assert call(*words, "--setting", "wide,narrow") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "wide above_narrow: paper < narrow; inconclusive: median errors" in said
    assert "at least 4 more seeds of wide and 4 more seeds of narrow" in said
    assert "--setting wide,narrow --protocol paper --seeds 2-5 --data.validation 100" in said
    assert call(*words, "--until", "decided", "--setting", "wide", "--seeds", "1-4") == 2
    assert "none is about wide: orders are judged once" in capsys.readouterr().err
    assert call("show", spec.name) == 0
    folder = next((tiny / "runs").glob(f"*/*/{RECORD}"))
    assert records.read(folder).status == "finished"
