"""Reports: nothing that the records say gets lost on the way to people."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lit_gen.harness.record import Record
from lit_gen.harness.reports.report import difference, lines, markdown, show, table
from lit_gen.harness.spec import Claim, Spec
from lit_gen.harness.verdicts.curves import progress
from lit_gen.harness.verdicts.verdict import Verdict, judge, judge_all

TEN = {"runs": 10, "spread_over": "seeds"}
CLAIMS = (
    Claim("single", "test/errors", "labels_20", value=1677.0, spread=452.0, margin=452.0, **TEN),
    Claim("single", "test/errors", "labels_100", value=93.0, spread=6.5, margin=6.5, **TEN),
)
SPEC = Spec(
    name="toy_table",
    path=Path("table.yaml"),
    summary="Table 1: errors",
    paper={"title": "Toy", "authors": "Ada & Bo", "year": 2015, "arxiv": "0000.00000v2"},
    claims=CLAIMS,
    seeds=(),
    settings={"labels_20": {}, "labels_100": {}},
    default_setting="labels_100",
    protocols={"paper": {}},
    config={},
)


def run(seed, value, setting="labels_100", status="finished", epochs=2, **changes) -> Record:
    curve = [value + 40, value + 2][:epochs]
    metrics = {"metrics": {"test/errors": value}} if status == "finished" else {}
    segment = {"commit": "0123456789abcdef", "dirty": True, "device": "cpu", "wall_s": 5400.0}
    fields = {
        "reproduction": "toy_table",
        "setting": setting,
        "protocol": "paper",
        "seed": {"data": seed, "model": seed},
        "config": {},
        "spec_hash": "0" * 64,
        "deviations": ["pixels by 255|256"],
        "status": status,
        "epochs": epochs,
        "max_epochs": 2,
        "result": {"curve": {"test/errors": curve, "val/errors": curve}} | metrics,
        "provenance": {"segments": [segment]},
    }
    return Record(**fields | changes)


@pytest.fixture(autouse=True)
def trusted(monkeypatch) -> None:
    """Numbers that no certificate doubts: those have tests of their own."""
    monkeypatch.setattr("lit_gen.harness.verdicts.certificate.doubts", lambda *_: {})


RUNS = [run(1, 88.0), run(2, 100.0), run(3, 93.0)]
STOPPED = run(4, 99.0, status="stopped", epochs=1)
WIDE = [run(s, v, "labels_20") for s, v in ((1, 1234.0), (2, 2345.0), (3, 1789.0))]


def printed(what) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def shown(verdicts) -> str:
    return printed(table(verdicts))


@pytest.fixture
def verdicts() -> list:
    every = [v for claim in CLAIMS for v in judge_all(claim, RUNS + WIDE + [STOPPED])]
    return [*every, progress(CLAIMS[1], STOPPED, RUNS)]


def test_the_table_fits_80_columns_and_keeps_every_number(verdicts) -> None:
    text = shown(verdicts)

    assert max(map(len, text.splitlines())) <= 80
    for words in ("1,677 ± 452", "93 ± 6.5", "[79, 109]", "inconclusive", "on track", "seed 4"):
        assert words in text
    assert "pixels by 255|256" in text


def test_the_table_says_how_to_go_on() -> None:
    verdict = judge(CLAIMS[1], RUNS)
    said = lines([verdict])[-1]
    last = 3 + verdict.more

    assert last > 4
    assert said.endswith(f"toy_table --setting labels_100 --protocol paper --seeds 4-{last}")


def test_the_way_on_repeats_what_the_user_changed() -> None:
    overrides = {"matmul_precision": "medium", "model": {"init_args": {"lr": 0.1, "decay": None}}}
    said = lines([judge(CLAIMS[1], [run(1, 93.0, overrides=overrides)])])[-1]

    assert said.endswith(" --matmul-precision medium --model.lr 0.1 --model.decay null")


def test_plain_lines_say_what_the_table_says(verdicts) -> None:
    said = lines(verdicts)

    for verdict in verdicts:
        assert sum(verdict.sentence in line for line in said) == 1
    assert not any("\x1b" in line or "\n" in line for line in said)


def test_square_brackets_in_names_are_not_taken_for_markup() -> None:
    odd = Claim("[red]x[/red]", "test/errors", "labels_100", 93.0, 6.5, 6.5)

    assert "[red]x[/red]" in shown([judge(odd, RUNS)])


def test_results_hold_every_run_and_every_claim() -> None:
    crashed = run(5, 70.0, status="crashed", epochs=1)
    text = markdown({"toy_table": [*RUNS, STOPPED, crashed]}, {"toy_table": SPEC})

    assert "Do not edit" in text.splitlines()[0]
    assert "| 93 ± 6.5 errors | 94 [79, 109] | +" in text
    assert "] | 3 | 93.67 | 95.67 | 95.67 | **inconclusive** | 1 |" in text
    assert "| labels_100 | paper | 4 | stopped | 1 of 2 | 139 | 1.5 | cpu | 01234567 + ch" in text
    assert "1 of 5 runs crashed" in text
    assert "labels_100 single seed 4, paper: on track" in text
    assert "No runs yet: labels_20 single." in text
    assert "1. pixels by 255|256" in text


def test_what_no_claim_is_about_is_told_over_runs() -> None:
    """Mean, median and both ends; of what is 0 or 1, the mean is the share of runs."""
    tested = [
        run(seed, 90.0, result={"metrics": {"test/errors": 90.0, "test/owned": owned,
                                            "test/majority": 90.0 - seed, "test/fid": 3.0,
                                            "train/loss": 1.0}})
        for seed, owned in ((1, 1.0), (2, 0.0), (6, 0.0))
    ]  # fmt: skip
    text = markdown({"toy_table": [*tested, STOPPED]}, {"toy_table": SPEC})

    line = "- labels_100-paper, 3 runs: errors 90; owned 0.3333 (median 0, 0 to 1); majority 87 "
    assert f"{line}(median 88, 84 to 89)\n" in text
    assert "Tested, over all" not in markdown({"toy_table": RUNS}, {"toy_table": SPEC})


def test_a_verdict_says_its_notes_and_difference_everywhere() -> None:
    verdict = Verdict(
        CLAIMS[1], "toy_table", "paper", "reproduced", "reproduced: as it is", n=3, mean=94.0,
        low=92.0, high=96.0, difference=(1.0, -0.9, 2.9), notes=("One.", "Two"),
    )  # fmt: skip

    assert difference(verdict) == "+1.0 [-0.9, 2.9]"
    assert lines([verdict])[0].endswith("reproduced: as it is. One. Two")
    assert "reproduced: as it is. One. Two" in shown([verdict])


def test_results_do_not_depend_on_the_order_of_the_records() -> None:
    every = [*RUNS, STOPPED, *WIDE]

    assert markdown({"toy_table": every}, {"toy_table": SPEC}) == markdown(
        {"toy_table": every[::-1]}, {"toy_table": SPEC}
    )


def test_a_bar_in_a_name_does_not_break_the_markdown_table() -> None:
    odd = [run(1, 93.0, protocol="a|b")]
    text = markdown({"toy_table": odd}, {"toy_table": SPEC})

    rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("| labels_")]
    assert {row.count("|") for row in rows} == {11, 13}  # 10 columns of runs, 12 of claims


def test_the_number_of_an_ensemble_by_logits_is_shown_too() -> None:
    claim = Claim(
        "ensemble", "test/errors", "labels_100", 1.0, 0.5, 0.5, statistic="ensemble", members=1
    )
    spec = Spec(**{**vars(SPEC), "claims": (claim,)})
    kept = {"logits": np.array([[1.0, 0.0]]), "target": np.array([1])}

    text = markdown({"toy_table": RUNS}, {"toy_table": spec}, lambda record: kept)

    assert "logits averaged: 1" in text


def test_a_reproduction_is_shown_with_what_it_claims() -> None:
    text = printed(show(SPEC))

    for words in ("toy_table", "labels_20 single", "1,677 ± 452", "± 6.5", "Ada & Bo"):
        assert words in text
    assert "setting: labels_20, labels_100 (default: labels_100)" in text
