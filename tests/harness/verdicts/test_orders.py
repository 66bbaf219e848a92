"""Orders: what the runs of two settings say about which does better, from records made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from simulated import run

from lit_gen.harness.record import Record
from lit_gen.harness.spec import Order, UserError
from lit_gen.harness.verdicts.orders import Ranking, judge, judge_all
from lit_gen.harness.verdicts.sequential import Plan

ORDER = Order(
    "above_trpo", "test/errors", "vime", "trpo", better="higher", statistic="median",
    select="last", runs=10, id="sparse.vime", where="Figure 1", row="VIME", evidence="figure",
)  # fmt: skip
HIGH, LOW = (7, 9, 8, 10, 6), (1, 2, 0, 3, 1.5)


def runs(setting: str, values, **changes) -> list[Record]:
    """Each has learned differently, whatever its number is."""
    return [
        run(seed, float(v), setting=setting, curve=[100 + seed, float(v)], **changes)
        for seed, v in enumerate(values, 1)
    ]


def said(ours=HIGH, theirs=LOW, order: Order = ORDER, more: tuple = ()) -> Ranking:
    return judge(order, [*runs("vime", ours), *runs("trpo", theirs), *more])


@pytest.mark.parametrize(
    ("ours", "theirs", "status", "place"),
    [
        (HIGH, LOW, "reproduced", "wholly above 0"),
        (LOW, HIGH, "worse", "wholly below 0"),
        (LOW, LOW, "inconclusive", "across 0"),
    ],
)
def test_the_interval_of_the_difference_decides(ours, theirs, status, place) -> None:
    upwards = said(ours, theirs)
    downwards = said(theirs, ours, replace(ORDER, better="lower"))
    estimate, low, high = upwards.difference

    assert upwards.status == downwards.status == status
    assert low < estimate < high
    assert estimate == np.median(ours) - np.median(theirs)
    assert downwards.difference[0] == estimate
    assert f"{status}: median errors {np.median(ours):g} of vime over 5 seeds" in upwards.sentence
    assert f"in favour of vime, the 90 % interval {place}" in upwards.sentence
    assert upwards.n == [5, 5]
    assert upwards.values["vime"] == {str(i): float(v) for i, v in enumerate(ours, 1)}


def test_means_are_compared_by_welch() -> None:
    ranking = said((7, 9, 8), (1, 2, 0), replace(ORDER, statistic="mean"))

    half = 2.131847 * np.sqrt(1 / 3 + 1 / 3)  # Student's t with 4 degrees of freedom
    assert ranking.difference == pytest.approx((7, 7 - half, 7 + half), rel=1e-5)
    assert ranking.status == "reproduced"
    assert said((7, 9), (3, 3), replace(ORDER, statistic="mean")).status == "inconclusive"
    alike = said((7, 7), (3, 3), replace(ORDER, statistic="mean"))
    assert (alike.status, alike.difference) == ("inconclusive", None)


def test_too_few_runs_say_how_many_more_there_must_be() -> None:
    few, none = said(HIGH, LOW[:2]), said(HIGH, ())

    assert (few.status, few.more, few.difference) == ("inconclusive", 3, None)
    assert few.sentence.endswith("at least 3 more seeds of trpo")
    assert "no number of trpo yet" in none.sentence
    assert said(HIGH[:4], LOW[:4]).more == 2


@pytest.mark.parametrize("status", ["diverged", "crashed", "stopped"])
def test_lost_runs_are_not_left_out(status: str) -> None:
    ours = run(9, 8.0, status, setting="vime")
    theirs = run(9, 8.0, status, setting="trpo")

    for lost in (ours, theirs):
        ranking = said(more=(lost,))
        assert ranking.status == "inconclusive"
        assert f"of {lost.setting}: none of these may be left out" in ranking.sentence
    assert said(LOW, HIGH, more=(ours,)).status == "worse"  # its number would not be better
    assert said(LOW, HIGH, more=(theirs,)).status == "inconclusive"


def test_smoke_runs_and_other_settings_do_not_count() -> None:
    more = (*runs("trpo", (50,) * 3, smoke=True), *runs("l2", (50,) * 3))

    assert said(more=more) == said()


def test_a_run_done_twice_counts_once_and_data_seeds_are_averaged() -> None:
    twice = run(1, 900.0, setting="vime", provenance={"segments": [{"started": "2030"}]})
    several = [run((1, m), 9.0, setting="vime") for m in range(2, 7)]

    assert said(more=(twice,)).values == said().values
    assert said(more=several).n == [5, 5]
    assert said(more=several).sides[0].value == pytest.approx((7 + 5 * 9) / 6)  # where it was 7


def test_runs_are_paired_by_protocol_and_by_what_was_changed() -> None:
    changed = {"overrides": {"model": {"lr": 1}}, "config": {"lr": 1}}
    records = [
        *runs("vime", HIGH), *runs("trpo", LOW, protocol="short"),
        *runs("vime", HIGH, **changed), *runs("trpo", LOW, **changed),
    ]  # fmt: skip
    rankings = judge_all(ORDER, records)

    assert [(r.protocol, r.overrides, r.n) for r in rankings] == [
        ("paper", {}, [5, 0]), ("short", {}, [0, 5]), ("paper", changed["overrides"], [5, 5]),
    ]  # fmt: skip
    assert [r.status for r in rankings] == ["inconclusive", "inconclusive", "reproduced"]
    with pytest.raises(UserError, match="Judge each kind by itself"):
        judge(ORDER, records)
    assert judge_all(ORDER, runs("l2", HIGH)) == []


def test_settings_may_differ_but_the_runs_of_one_may_not() -> None:
    other = runs("trpo", LOW, config={"lr": 2})

    assert judge(ORDER, [*runs("vime", HIGH), *other]).status == "reproduced"
    mixed = judge(ORDER, [*runs("vime", HIGH), *other[:2], *runs("trpo", LOW)[2:]])
    assert mixed.status == "not comparable"
    assert "the runs of trpo differ in more than their seeds" in mixed.sentence


def test_equal_runs_count_if_they_learned_differently() -> None:
    """Ten runs that never find a reward are as sure of it as can be."""
    same = [run(seed, 0.0, setting="trpo") for seed in range(1, 11)]

    assert said(HIGH, (0,) * 10).status == "reproduced"
    assert said((1,) * 5, (0,) * 5).difference == (1, 1, 1)
    stuck = said(HIGH, (), more=tuple(same))
    assert stuck.status == "inconclusive"
    assert "all of trpo are equal, does the seed reach the model?" in stuck.sentence


def test_what_cannot_be_compared() -> None:
    other_data = runs("trpo", LOW, provenance={"data": "b" * 64})
    here = runs("vime", HIGH, provenance={"data": "a" * 64})
    doubted = judge(ORDER, runs("vime", HIGH), doubts={"test/errors": "it has no certificate"})

    assert "seed 2 of trpo gave nan" in said(theirs=(1, float("nan"), 2, 3, 4)).sentence
    assert "saw different data files" in judge(ORDER, [*here, *other_data]).sentence
    assert doubted.sentence == "not comparable: it has no certificate"
    assert doubted.more == 0  # more runs would not help
    with pytest.raises(UserError, match="logged no 'test/nll' in its test"):
        said(order=replace(ORDER, metric="test/nll"))


def test_an_order_written_down_from_memory_is_said_to_be() -> None:
    assert said().notes == ()
    assert "unverified" in said(order=replace(ORDER, evidence="recalled")).notes[0]


def test_a_plan_leaves_its_level() -> None:
    """Who looked after every seed has less than 5 % left for an order, too."""
    plan = Plan(2, 10)
    ours = [plan.stamp(r) for r in runs("vime", HIGH)]

    ranking = judge(ORDER, [*ours, *runs("trpo", LOW)])

    assert ranking.difference[1] < said().difference[1]
    assert "90 %" not in ranking.sentence
