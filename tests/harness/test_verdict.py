"""Verdicts: what statistics and fairness imply, on runs whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from lit_gen.harness.record import Record
from lit_gen.harness.spec import Claim, Seed, UserError
from lit_gen.harness.verdict import (
    ensemble_errors,
    interval,
    judge,
    judge_all,
    number,
    progress,
    runs_to_decide,
    select,
    selections,
    with_interval,
)

CLAIM = Claim("single", "test/errors", "labels_100", value=93.0, spread=6.5, margin=6.5)


def run(seed, value=93.0, status="finished", curve=None, val=None, **changes) -> Record:
    """A run with that result; `seed` is a number, or a pair (data, model)."""
    data, model = seed if isinstance(seed, tuple) else (seed, seed)
    curve = list(curve if curve is not None else [value + 100, value])
    columns = {"test/errors": curve, "val/errors": list(val or curve)}
    fields = {
        "reproduction": "toy",
        "setting": "labels_100",
        "protocol": "paper",
        "seed": {"data": data, "model": model},
        "config": {"model": {"init_args": {"lr": 0.003}}, "matmul_precision": "highest"},
        "spec_hash": "0" * 64,
        "deviations": [],
        "status": status,
        "epochs": len(curve),
        "max_epochs": 300,
        "result": {"curve": columns, "metrics": {"test/errors": value}},
    }
    return Record(**fields | changes)


def runs(values) -> list[Record]:
    return [run(seed, float(value)) for seed, value in enumerate(values, 1)]


def with_moments(n, mean, spread):
    """n numbers with exactly this mean and standard deviation."""
    x = np.linspace(-1, 1, n)
    return mean + spread * (x - x.mean()) / x.std(ddof=1)


# --- the interval


def test_the_interval_holds_the_truth_in_95_percent_of_samples() -> None:
    samples = np.random.default_rng(0).normal(93, 6.5, (4000, 10))

    ends = np.array([interval(sample)[1:3] for sample in samples])
    coverage = ((ends[:, 0] <= 93) & (ends[:, 1] >= 93)).mean()

    assert coverage == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 4000))


def test_at_the_bands_edge_reproduced_is_said_in_2_5_percent_of_samples() -> None:
    samples = np.random.default_rng(1).normal(93 + 30, 6.5, (4000, 10))  # the far edge is far away
    claim = replace(CLAIM, margin=30.0)

    ends = np.array([interval(sample)[1:3] for sample in samples])
    said = ((claim.band[0] <= ends[:, 0]) & (ends[:, 1] <= claim.band[1])).mean()

    assert said == pytest.approx(0.025, abs=4 * np.sqrt(0.025 * 0.975 / 4000))


def test_the_interval_of_five_numbers_agrees_with_a_table_of_t() -> None:
    mean, low, high, spread = interval([1, 2, 3, 4, 5])

    assert (mean, spread) == (3, pytest.approx(2.5**0.5))
    assert (high - low) / 2 == pytest.approx(2.7764451 * 0.5**0.5)  # t(0.975; 4), s^2 / n = 1/2


# --- the words


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ([91, 92, 93, 94, 95], "reproduced"),
        ([71, 72, 73, 74, 75], "better"),
        ([111, 112, 113, 114, 115], "worse"),
        ([96, 98, 100, 102, 104], "inconclusive"),
        ([53, 73, 93, 113, 133], "inconclusive"),  # the interval holds the whole band
    ],
)
def test_the_word_follows_the_interval_and_mirrors_with_the_numbers(values, status) -> None:
    mirrored = replace(CLAIM, value=-93.0, better="higher")

    verdict = judge(CLAIM, runs(values))
    mirror = judge(mirrored, runs([-v for v in values]))

    assert verdict.status == mirror.status == status
    assert (mirror.low, mirror.high) == pytest.approx((-verdict.high, -verdict.low))
    assert mirror.more == verdict.more
    assert verdict.sentence.startswith(status)


def test_higher_is_better_turns_better_into_worse_and_leaves_reproduced() -> None:
    claim = replace(CLAIM, better="higher")

    assert judge(claim, runs([111, 112, 113, 114, 115])).status == "better"
    assert judge(claim, runs([71, 72, 73, 74, 75])).status == "worse"
    assert judge(claim, runs([91, 92, 93, 94, 95])).status == "reproduced"


def test_verdicts_do_not_depend_on_the_unit() -> None:
    values, scaled = np.array([88, 95, 101, 93.0]), replace(CLAIM, value=0.93, margin=0.065)

    verdict, other = judge(CLAIM, runs(values)), judge(scaled, runs(values / 100))

    assert (verdict.status, verdict.more) == (other.status, other.more)


def test_a_wider_margin_keeps_what_is_reproduced() -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        sample = runs(rng.normal(93, 4, 5))
        words = [judge(replace(CLAIM, margin=m), sample).status for m in np.linspace(1, 40, 14)]

        assert words == sorted(words, key="reproduced".__eq__)
        assert words[-1] == "reproduced"


def test_one_seed_is_never_enough() -> None:
    verdict = judge(CLAIM, runs([93]))

    assert (verdict.status, verdict.n, verdict.low) == ("inconclusive", 1, None)
    assert verdict.more == 6  # t(0.975; 6) / sqrt(7) = 0.92 < 1 <= t(0.975; 5) / sqrt(6) = 1.05
    assert "6 more seeds" in verdict.sentence
    assert judge(CLAIM, []).more == 7


def test_equal_numbers_are_not_taken_for_certainty() -> None:
    assert judge(CLAIM, runs([93, 93, 93])).status == "inconclusive"
    assert judge(replace(CLAIM, spread=0.0), runs([93, 93, 93])).status == "reproduced"


# --- how many more


@pytest.mark.parametrize("mean", [93.0, 97.0, 88.5, 103.0, 84.0])
def test_the_promised_seeds_decide_and_one_fewer_does_not(mean) -> None:
    first = judge(CLAIM, runs(with_moments(3, mean, 9.0)))
    total = 3 + first.more

    assert first.status == "inconclusive"
    assert judge(CLAIM, runs(with_moments(total, mean, 9.0))).status != "inconclusive"
    assert total == 4 or (
        judge(CLAIM, runs(with_moments(total - 1, mean, 9.0))).status == "inconclusive"
    )


def test_at_the_bands_edge_no_number_of_seeds_is_promised() -> None:
    verdict = judge(CLAIM, runs(with_moments(4, 99.5, 9.0)))

    assert verdict.more is None
    assert "no number of seeds would help" in verdict.sentence
    assert runs_to_decide(CLAIM, 4, 99.4, 9.0) is None  # more than a thousand


def test_without_any_spread_a_second_seed_is_asked_for() -> None:
    assert judge(replace(CLAIM, spread=None), runs([93])).more == 1


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
        run(8, 900, "stopped"),
        run(9, 900, "running"),
        run(10, 900, "crashed"),
    ]

    verdict = judge(CLAIM, good + others)

    assert (verdict.mean, verdict.n, verdict.status) == (93, 5, "reproduced")
    assert verdict.counts == {"finished": 5, "diverged": 0, "crashed": 1, "unfinished": 2}
    assert "1 of 8 runs crashed" in verdict.sentence
    assert "2 of 8 runs not finished" in verdict.sentence
    assert set(verdict.values) == {"1", "2", "3", "4", "5"}


@pytest.mark.parametrize("level", [93, 50, 150])
def test_with_a_diverged_run_a_claim_is_neither_reproduced_nor_better(level) -> None:
    sample = [*runs([level - 1, level, level + 1]), run(4, status="diverged")]

    verdict = judge(CLAIM, sample)

    assert verdict.status == ("worse" if level == 150 else "inconclusive")
    assert "1 of 4 runs diverged" in verdict.sentence
    assert verdict.more is None


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


def test_runs_on_different_files_are_not_comparable() -> None:
    sample = [run(s, 92.0 + s, provenance={"data": str(s // 3)}) for s in (1, 2, 3)]

    assert judge(CLAIM, sample).status == "not comparable"


def test_a_claim_that_makes_no_sense_is_refused() -> None:
    for change in ({"margin": None}, {"better": "larger"}, {"statistic": "mode"}):
        with pytest.raises(UserError, match="single"):
            judge(replace(CLAIM, **change), runs([93, 94]))


# --- ensembles

ENSEMBLE = replace(CLAIM, name="ensemble", statistic="ensemble", members=3, value=0, margin=0.5)
TARGET = np.array([0, 1, 0, 1])
# Each member is sure of the truth except on one example, where it errs a little. The third errs a
# lot: averaged logits follow it, averaged probabilities do not.
MEMBERS = [
    {"logits": np.array([[-1, 1], [-4, 4], [4, -4], [-4, 4.0]]), "target": TARGET},
    {"logits": np.array([[4, -4], [1, -1], [4, -4], [-4, 4.0]]), "target": TARGET},
    {"logits": np.array([[4, -4], [-4, 4], [-40, 40], [-4, 4.0]]), "target": TARGET},
]


def predictions(record):
    return MEMBERS[record.key.model % 3]


def test_an_ensemble_beats_its_members_by_averaging_probabilities() -> None:
    alone = [ensemble_errors([member])[0] for member in MEMBERS]

    assert alone == [1, 1, 1]
    assert ensemble_errors(MEMBERS) == (0, 1)
    assert ensemble_errors([{**m, "logits": m["logits"] + 1e4} for m in MEMBERS]) == (0, 1)


def test_each_complete_label_subset_gives_one_number() -> None:
    members = [run((data, model), 1.0) for data in (1, 2, 3) for model in (1, 2, 3)]
    claim = replace(ENSEMBLE, spread=0.0)

    verdict = judge(claim, members, predictions=predictions)

    assert (verdict.status, verdict.n) == ("reproduced", 3)
    assert verdict.values == {"1": 0, "2": 0, "3": 0}
    assert verdict.details == {"logits averaged": 1}


def test_an_incomplete_ensemble_is_inconclusive_and_says_what_is_missing() -> None:
    members = [run((1, model), 1.0) for model in (1, 2)]

    verdict = judge(ENSEMBLE, members, predictions=predictions)

    assert (verdict.status, verdict.n, verdict.mean) == ("inconclusive", 0, None)
    assert "2 of 3 members of label subset 1 finished" in verdict.sentence


def test_members_that_saw_other_examples_are_refused() -> None:
    odd = {"logits": MEMBERS[0]["logits"], "target": TARGET[::-1]}

    with pytest.raises(UserError, match="different examples"):
        ensemble_errors([MEMBERS[0], odd])


# --- runs that are not finished


def unfinished(value, epochs=3, **changes) -> Record:
    return run(9, value, "stopped", curve=[2000, 1200, value][-epochs:], **changes)


STORED = [run(s, 93, curve=[2000, 1200, v, 93]) for s, v in ((1, 790), (2, 800), (3, 815))]


def test_a_run_far_above_the_stored_ones_is_off_track_and_one_far_below_is_not() -> None:
    assert progress(CLAIM, unfinished(1600), STORED).status == "off track"
    assert progress(CLAIM, unfinished(805), STORED).status == "on track"
    assert progress(CLAIM, unfinished(300), STORED).status == "on track"

    higher = replace(CLAIM, better="higher")
    assert progress(higher, unfinished(1600), STORED).status == "on track"
    assert progress(higher, unfinished(300), STORED).status == "off track"


def test_a_new_run_like_the_stored_ones_is_outside_the_band_once_in_twenty() -> None:
    logs = np.random.default_rng(3).normal(6, 0.1, (1000, 4))

    outside = 0
    for *stored, new in np.exp(logs):
        seen = progress(
            CLAIM, run(9, new, curve=[new]), [run(i, curve=[v]) for i, v in enumerate(stored)]
        )
        outside += not seen.low <= new <= seen.high

    assert outside / 1000 == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 1000))


def test_a_run_is_compared_at_its_own_epoch() -> None:
    seen = progress(CLAIM, run(9, curve=[2010, 1190], status="stopped"), STORED[:1])

    assert (seen.epoch, seen.value) == (2, 1190)
    assert seen.low < 1200 < seen.high


def test_one_stored_run_gives_a_band_whose_source_is_said() -> None:
    seen = progress(CLAIM, unfinished(805), STORED[:1])

    assert (seen.status, seen.n) == ("on track", 1)
    assert "1 stored run has no spread" in seen.sentence
    assert progress(CLAIM, unfinished(9000), STORED[:1]).status == "off track"


def test_only_finished_runs_of_the_same_configuration_are_references() -> None:
    other = {"model": {"init_args": {"lr": 0.1}}, "matmul_precision": "highest"}
    unusable = [
        run(1, curve=[1, 1, 1], status="stopped"),
        run(1, curve=[1, 1, 1], smoke=True),
        run(1, curve=[1, 1, 1], config=other),
        run(1, curve=[1, 1, 1], protocol="june"),
        run(1, curve=[1, 1]),
    ]

    assert progress(CLAIM, unfinished(805), unusable).status == "no reference"

    medium = unfinished(805, config=STORED[0].config | {"matmul_precision": "medium"})
    assert progress(CLAIM, medium, STORED).status == "on track"
    assert "highest matmul precision" in progress(CLAIM, medium, STORED).sentence


def test_a_stored_run_of_the_same_seed_is_a_reference_too() -> None:
    """Somebody's first run is mostly seed 1, and so is the one that is stored."""
    stored = run(unfinished(805).key, curve=STORED[0].result["curve"]["test/errors"])

    assert progress(CLAIM, unfinished(805), [stored]).n == 1


def test_runs_on_other_data_are_references_only_where_there_are_no_better_ones() -> None:
    here = unfinished(805, provenance={"data": "a"})
    others = [run(r.key, curve=r.result["curve"]["test/errors"], provenance={"data": "b"})
              for r in STORED]  # fmt: skip
    same = run(5, curve=STORED[0].result["curve"]["test/errors"], provenance={"data": "a"})

    assert "on other data files" in progress(CLAIM, here, others).sentence
    assert "on other data files" not in progress(CLAIM, here, [*others, same]).sentence
    assert progress(CLAIM, here, [*others, same]).n == 1


def test_nothing_is_said_before_the_first_epoch() -> None:
    assert progress(CLAIM, run(9, curve=[], status="running"), STORED).status == "too early"


def test_a_run_that_diverged_is_off_track() -> None:
    assert progress(CLAIM, unfinished(805, epochs=2), STORED).status == "on track"
    diverged = run(9, curve=[2000, 1200], status="diverged")
    assert progress(CLAIM, diverged, STORED).status == "off track"


# --- numbers in words


@pytest.mark.parametrize(
    ("x", "text"),
    [(93.0, "93"), (6.5, "6.5"), (1024, "1,024"), (1677.3, "1,677"), (0.012344, "0.01234"),
     (11.2371, "11.24"), (-86.4, "-86.4"), (0, "0"), (-0.0, "0"), (99.99999, "100"),
     (1e-6, "1e-06"), (float("nan"), "nan"), (None, "-"), (100.0, "100")],
)  # fmt: skip
def test_numbers_are_written_for_people(x, text) -> None:
    assert number(x) == text


def test_an_interval_shows_the_digits_that_mean_something() -> None:
    assert with_interval(93.6667, 79.69, 107.64) == "94 [80, 108]"
    assert with_interval(3.14159, 3.12, 3.16) == "3.142 [3.120, 3.160]"
    assert with_interval(93.0, None, None) == "93"


def test_seeds_are_named_as_they_are_given() -> None:
    assert set(judge(CLAIM, [run((1, 1)), run((2, 7), 94)]).values) == {"1", str(Seed(2, 7))}
