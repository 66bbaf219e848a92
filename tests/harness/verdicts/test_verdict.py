"""Verdicts: what statistics and fairness imply, on runs whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from simulated import CLAIM, run, runs

from lit_gen.harness.spec import Seed, UserError
from lit_gen.harness.verdicts.verdict import judge, judge_all, select, selections


def with_moments(n, mean, spread):
    """n numbers with exactly this mean and standard deviation."""
    x = np.linspace(-1, 1, n)
    return mean + spread * (x - x.mean()) / x.std(ddof=1)


# --- the words


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ([91, 92, 93, 94, 95, 93], "reproduced"),
        ([71, 72, 73, 74, 75], "better"),
        ([111, 112, 113, 114, 115], "worse"),
        ([96, 98, 100, 102, 104], "inconclusive"),
        ([53, 73, 93, 113, 133], "inconclusive"),  # the interval holds the whole margin
    ],
)
def test_the_word_follows_the_interval_and_mirrors_with_the_numbers(values, status) -> None:
    mirrored = replace(CLAIM, value=-93.0, better="higher")

    verdict = judge(CLAIM, runs(values))
    mirror = judge(mirrored, runs([-v for v in values]))

    assert verdict.status == mirror.status == status
    assert (mirror.low, mirror.high) == pytest.approx((-verdict.high, -verdict.low))
    assert mirror.more == verdict.more
    assert mirror.power == pytest.approx(verdict.power)
    assert verdict.sentence.startswith(status)


def test_higher_is_better_turns_better_into_worse_and_leaves_reproduced() -> None:
    claim = replace(CLAIM, better="higher")

    assert judge(claim, runs([111, 112, 113, 114, 115])).status == "better"
    assert judge(claim, runs([71, 72, 73, 74, 75])).status == "worse"
    assert judge(claim, runs([91, 92, 93, 94, 95])).status == "reproduced"


def test_verdicts_do_not_depend_on_the_unit() -> None:
    values = np.array([88, 95, 101, 93.0])
    scaled = replace(CLAIM, value=0.93, margin=0.065, spread=0.065)

    verdict, other = judge(CLAIM, runs(values)), judge(scaled, runs(values / 100))

    assert (verdict.status, verdict.more) == (other.status, other.more)
    assert other.power == pytest.approx(verdict.power)


def test_a_wider_margin_keeps_what_is_reproduced() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        sample = runs(rng.normal(93, 4, 5))
        words = [judge(replace(CLAIM, margin=m), sample).status for m in np.linspace(1, 40, 14)]

        assert words == sorted(words, key="reproduced".__eq__)
        assert words[-1] == "reproduced"


def test_verdicts_of_simulated_tables_err_no_more_often_than_stated() -> None:
    """The whole path from records to words; truth: equal, at the margin's edge, far worse."""
    random, said = np.random.default_rng(8), {}
    for shift in (0.0, 9.0, 40.0):
        said[shift] = words = []
        for _ in range(300):
            theirs = random.normal(93, 6.5, 10)
            claim = replace(CLAIM, value=theirs.mean(), spread=theirs.std(), margin=9.0)
            words.append(judge(claim, runs(random.normal(93 + shift, 6.5, 8))).status)

    limit = 300 * 0.05 + 4 * np.sqrt(300 * 0.05 * 0.95)
    assert said[0.0].count("worse") + said[0.0].count("better") <= limit
    assert said[9.0].count("reproduced") <= limit
    assert said[9.0].count("worse") <= limit
    assert said[0.0].count("reproduced") > 150
    assert said[40.0].count("worse") > 290


def test_one_seed_is_never_enough() -> None:
    verdict = judge(CLAIM, runs([93]))

    assert (verdict.status, verdict.n, verdict.low) == ("inconclusive", 1, None)
    assert verdict.more >= 4
    assert f"{verdict.more} more seeds" in verdict.sentence
    assert judge(CLAIM, []).more == verdict.more + 1


def test_equal_numbers_are_not_taken_for_certainty() -> None:
    assert judge(CLAIM, runs([93, 93, 93])).status == "inconclusive"
    assert judge(replace(CLAIM, spread=0.0), runs([93, 93, 93])).status == "reproduced"


def test_runs_at_the_ceiling_that_learned_differently_are_taken_to_scatter_as_the_papers() -> None:
    claim = replace(CLAIM, better="higher", value=199.5, margin=10.0, raw=(200.0, 200.0, 198.5))
    at_most = [run(seed, 200.0, curve=[100 + seed, 200.0]) for seed in (1, 2, 3)]

    verdict = judge(claim, at_most)

    assert verdict.status == "reproduced"
    assert verdict.difference[1] < 0.5 < verdict.difference[2]
    assert "all equal, scatter as the paper's" in verdict.sentence
    assert judge(claim, at_most[:2]).status == "inconclusive"
    assert judge(replace(claim, margin=0.1), at_most).status == "inconclusive"


def test_equal_runs_that_learned_differently_have_a_certain_median() -> None:
    """All n above the median, or all below: 2^-n each, less than 5 % from five runs on."""
    claim = replace(CLAIM, statistic="median", value=0.0, margin=0.05, spread=None)
    runs_of = lambda n, x: [run(s, x, curve=[100 + s, x]) for s in range(1, n + 1)]  # noqa: E731

    assert judge(claim, runs_of(5, 0.0)).status == "reproduced"
    assert judge(claim, runs_of(5, 0.0)).difference == (0, 0, 0)
    assert judge(claim, runs_of(5, 0.2)).status == "worse"
    assert judge(claim, runs_of(4, 0.0)).status == "inconclusive"
    assert "does the seed reach" in judge(claim, [run(s, 0.0) for s in range(1, 11)]).sentence


def test_not_worse_is_said_where_better_and_equal_cannot_be_told_apart() -> None:
    verdict = judge(CLAIM, runs([60, 95, 82, 88, 70, 90]))

    assert (verdict.status, verdict.not_worse) == ("inconclusive", True)
    assert "not worse" in verdict.notes[0]
    assert judge(CLAIM, runs([96, 98, 100, 102, 104])).not_worse is False


# --- what the paper's number is made of


def test_the_papers_own_luck_widens_the_interval() -> None:
    values = [91, 92, 93, 94, 95]
    many, few = (judge(replace(CLAIM, runs=m), runs(values)).difference for m in (1000, 3))

    assert many[2] - many[1] < few[2] - few[1]


@pytest.mark.parametrize("over", ["splits", "episodes", "not stated"])
def test_a_spread_within_one_training_says_nothing_about_another(over) -> None:
    """The paper's run may be lucky by as much as one of ours, however small its own +- is."""
    claim = replace(CLAIM, spread=0.05, spread_over=over, runs=1, margin=10.0)
    values = [84, 90, 93, 97, 102]

    verdict = judge(claim, runs(values))
    s = np.std(values, ddof=1)

    half = (verdict.difference[2] - verdict.difference[1]) / 2
    assert half == pytest.approx(2.131847 * s * np.sqrt(1 / 5 + 1))  # t(0.95; 4)
    assert "scatter like ours" in " ".join(verdict.notes)
    assert verdict.status == "inconclusive"


@pytest.mark.parametrize(("margin", "said"), [(6.5, "more than"), (0.01, "as much as 1 %, as")])
def test_with_one_run_of_the_paper_no_number_of_ours_shows_a_narrow_match(margin, said) -> None:
    claim = replace(CLAIM, spread=None, runs=1, margin=margin)
    verdict = judge(claim, runs(with_moments(9, 93, 6.5)))

    assert verdict.more is None
    assert "one run" in " ".join(verdict.notes)
    assert f"no number of seeds in {said}" in " ".join(verdict.notes)


def test_the_authors_own_runs_are_used_where_they_are_known() -> None:
    raw = (90.0, 92.0, 99.0)
    verdict = judge(replace(CLAIM, raw=raw, runs=3, spread=1.0), runs([91, 93, 96]))

    assert verdict.difference[0] == pytest.approx(280 / 3 - 281 / 3)
    assert "3 runs that the authors published" in " ".join(verdict.notes)


def test_a_number_that_was_never_checked_says_so() -> None:
    verdict = judge(replace(CLAIM, evidence="recalled"), runs([91, 93]))

    assert "unverified transcription" in " ".join(verdict.notes)


# --- medians and best runs


def test_a_median_needs_five_runs_and_ignores_a_straggler() -> None:
    claim = replace(CLAIM, statistic="median", margin=20.0)
    values = [91, 92, 93, 94, 95, 92.5, 93.5, 91.5, 200]

    assert judge(claim, runs(values[:4])).more == 1
    assert judge(claim, runs(values[:8])).status == "reproduced"
    assert judge(claim, runs(values)).mean == 93
    assert "median 93" in judge(claim, runs(values)).sentence


def test_the_best_of_the_papers_runs_is_held_against_the_best_of_as_many() -> None:
    claim = replace(CLAIM, statistic="best", value=85.0, margin=40.0)
    values = with_moments(12, 93, 6.5)

    verdict = judge(claim, runs(values))

    assert judge(claim, runs(values[:9])).more == 1
    assert min(values) < verdict.mean < sorted(values)[1] + 1  # best of 10, on average
    assert verdict.status == "reproduced"


# --- how many more


@pytest.mark.parametrize("mean", [93.0, 94.0, 91.5, 110.0, 76.0])
def test_the_promised_seeds_decide_and_one_fewer_does_not(mean) -> None:
    first = judge(CLAIM, runs(with_moments(3, mean, 9.0)))
    total = 3 + first.more

    assert first.status == "inconclusive"
    assert judge(CLAIM, runs(with_moments(total, mean, 9.0))).status != "inconclusive"
    assert total == 4 or (
        judge(CLAIM, runs(with_moments(total - 1, mean, 9.0))).status == "inconclusive"
    )


def test_at_the_margins_edge_no_number_of_seeds_is_promised() -> None:
    verdict = judge(CLAIM, runs(with_moments(4, 99.5, 9.0)))

    assert verdict.more is None
    assert "no number of seeds would decide" in verdict.sentence


def test_without_any_spread_a_second_seed_is_asked_for() -> None:
    assert judge(replace(CLAIM, spread=None), runs([93])).more == 1


def test_the_power_of_what_was_run_is_said() -> None:
    verdict = judge(replace(CLAIM, margin=12.0), runs([88, 97, 107]))

    assert 0 < verdict.power < 0.9
    assert f"3 seeds would show it in about {100 * verdict.power:.0f} %" in verdict.notes[0]
    assert "more seeds in 90 %" in verdict.notes[0]
    assert not judge(replace(CLAIM, margin=30.0), runs([90, 93, 97])).notes  # decided


def test_runs_of_a_plan_are_judged_at_the_level_that_is_left() -> None:
    plan = {"provenance": {"plan": {"first": 0, "most": 10}}}
    values = [88, 95, 101, 93.0]

    free = judge(CLAIM, runs(values)).difference
    planned = judge(CLAIM, [run(s, v, **plan) for s, v in enumerate(values, 1)])

    assert planned.difference[1] < free[1] < free[2] < planned.difference[2]
    assert "99" in planned.sentence.partition("% interval")[0]


# --- which runs count


def test_a_seed_that_ran_twice_counts_once() -> None:
    sample = runs([88, 95, 101])

    assert judge(CLAIM, sample + sample) == judge(CLAIM, sample)


def test_the_order_of_the_records_does_not_matter() -> None:
    sample = [*runs([88, 95, 101]), run(4, 300, "crashed")]

    assert judge(CLAIM, sample[::-1]) == judge(CLAIM, sample)


def test_smoke_runs_and_other_settings_are_passed_over_unfinished_ones_named() -> None:
    good = runs([91, 92, 93, 94, 95])
    others = [
        run(6, 900, smoke=True),
        run(7, 900, setting="labels_20"),
        run(8, 900, "running"),
        run(9, 900, "running"),
    ]

    verdict = judge(CLAIM, good + others)

    assert (verdict.mean, verdict.n, verdict.status) == (93, 5, "reproduced")
    assert verdict.counts == {"finished": 5, "diverged": 0, "crashed": 0, "unfinished": 2}
    assert "2 of 7 runs not finished" in verdict.sentence
    assert set(verdict.values) == {"1", "2", "3", "4", "5"}


@pytest.mark.parametrize("lost", ["diverged", "crashed", "stopped"])
@pytest.mark.parametrize("level", [93, 50, 150])
def test_with_a_lost_run_a_claim_is_neither_reproduced_nor_better(level, lost) -> None:
    sample = [*runs([level - 1, level, level + 1]), run(4, status=lost)]

    verdict = judge(CLAIM, sample)

    assert verdict.status == ("worse" if level == 150 else "inconclusive")
    assert f"1 {lost}" in verdict.sentence or level == 150
    assert verdict.more is None
    assert verdict.not_worse is False


def test_a_diverged_run_is_not_forgotten_when_its_seed_is_run_again() -> None:
    sample = [*runs([92, 93, 94]), run(2, status="diverged")]

    assert judge(CLAIM, sample).status == "inconclusive"


def test_runs_on_the_same_data_are_not_taken_for_independent_ones() -> None:
    one_subset = [run((1, model), 93 + model) for model in range(10)]

    assert judge(CLAIM, one_subset).n == 1
    assert judge(CLAIM, [*one_subset, run((2, 1), 100)]).mean == pytest.approx((97.5 + 100) / 2)


def test_protocols_and_configurations_are_judged_apart() -> None:
    other = {"model": {"init_args": {"lr": 0.1}}, "matmul_precision": "highest"}
    changed = [run(s, 300.0 + s, config=other, overrides={"model": {}}) for s in (1, 2, 3)]
    june = [run(s, 200.0 + s, protocol="june") for s in (1, 2, 3)]
    sample = changed + june + runs([92, 93, 94])

    with pytest.raises(UserError, match="differ in more than their seeds"):
        judge(CLAIM, sample)

    assert sorted(v.mean for v in judge_all(CLAIM, sample)) == [93, 202, 302]
    assert judge_all(CLAIM, sample)[-1].mean == 302  # what was changed comes last
    assert judge(CLAIM, june + runs([92, 93, 94]), protocol="june").mean == 202


def test_deviations_of_all_runs_are_said() -> None:
    sample = runs([92, 93, 94])
    sample[0].deviations, sample[2].deviations = ["255"], ["255", "59,000 images"]

    assert judge(CLAIM, sample).deviations == ("255", "59,000 images")


# --- one run's number


def test_last_best_on_validation_and_best_on_test_are_three_numbers() -> None:
    record = run(1, value=97.0, curve=[120, 90, 95, 98], val=[60, 50, 40, 45])

    assert selections(record, CLAIM) == {"last": 97, "best_on_val": 95, "best_on_test": 90}
    assert select(record, replace(CLAIM, select="best_on_val")) == 95
    assert judge(CLAIM, [record]).alternatives == selections(record, CLAIM)
    assert select(record, replace(CLAIM, better="higher", select="best_on_test")) == 120


def test_a_metric_that_was_not_logged_is_an_error_that_names_those_that_were() -> None:
    with pytest.raises(UserError, match=r"test/accuracy.*logged: test/errors"):
        judge(replace(CLAIM, metric="test/accuracy"), runs([93, 94]))
    with pytest.raises(UserError, match="best_of_all"):
        judge(replace(CLAIM, select="best_of_all"), runs([93, 94]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_makes_the_claim_not_comparable(value) -> None:
    verdict = judge(CLAIM, runs([93, 93.5, 94, value]))

    assert (verdict.status, verdict.mean) == ("not comparable", None)
    assert "seed 4" in verdict.sentence


def test_a_metric_that_nothing_vouches_for_gives_no_verdict() -> None:
    doubts = {"test/errors": "the metric errors/2 fails its certificate"}

    verdict = judge(CLAIM, runs([92, 93, 94]), doubts=doubts)

    assert (verdict.status, verdict.mean) == ("not comparable", None)
    assert "fails its certificate" in verdict.sentence


def test_what_could_not_be_measured_is_said_and_no_run_is_left_out_for_it() -> None:
    records = runs([91, 92, 93, 94])
    assert judge(CLAIM, records).status == "reproduced"
    del records[2].result["metrics"][CLAIM.metric]
    records[2].provenance["not_beside"] = {CLAIM.metric: "not measurable here: no weights"}

    verdict = judge(CLAIM, records)

    assert (verdict.status, verdict.mean) == ("inconclusive", None)
    why = "inconclusive: no number of 1 finished run: not measurable here: no weights"
    assert verdict.sentence.startswith(why)


def test_what_people_judge_names_the_command() -> None:
    claim = replace(CLAIM, metric="human/accuracy_percent")

    verdict = judge(claim, runs([1, 2]))

    assert verdict.status == "inconclusive"
    assert f"`reproduce human {verdict.reproduction}`" in verdict.sentence


def test_runs_on_different_files_are_not_comparable() -> None:
    sample = [run(s, 92.0 + s, provenance={"data": str(s // 3)}) for s in (1, 2, 3)]

    assert judge(CLAIM, sample).status == "not comparable"


def test_a_claim_that_makes_no_sense_is_refused() -> None:
    nan = float("nan")
    for change in ({"margin": None}, {"better": "larger"}, {"statistic": "mode"}, {"value": nan},
                   {"margin": nan}, {"margin": 0.0}, {"spread": nan}):  # fmt: skip
        with pytest.raises(UserError, match="single"):
            judge(replace(CLAIM, **change), runs([93, 94]))


def test_seeds_are_named_as_they_are_given() -> None:
    assert set(judge(CLAIM, [run((1, 1)), run((2, 7), 94)]).values) == {"1", str(Seed(2, 7))}
