"""Curves: what stored runs tell about a run that is not finished."""

from dataclasses import replace

import numpy as np
import pytest
from simulated import CLAIM, run

from lit_gen.harness.record import Record
from lit_gen.harness.verdicts.curves import progress


def unfinished(value, epochs=3, **changes) -> Record:
    return run(9, value, "stopped", curve=[2000, 1200, value][-epochs:], **changes)


STORED = [run(s, 93, curve=[2000 + s, 1200 + s, v, 93]) for s, v in ((1, 790), (2, 800), (3, 815))]


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
    seen = progress(CLAIM, run(9, curve=[2010, 1190], status="stopped"), STORED)

    assert (seen.epoch, seen.value) == (2, 1190)
    assert seen.low < 1202 < seen.high


def test_one_stored_run_is_no_reference_because_it_has_no_spread() -> None:
    seen = progress(CLAIM, unfinished(805), STORED[:1])

    assert (seen.status, seen.n, seen.low) == ("no reference", 1, None)
    assert "no spread" in seen.sentence


def test_runs_like_the_stored_ones_are_called_off_track_in_at_most_2_5_percent() -> None:
    logs = np.random.default_rng(4).normal(6, 0.1, (2000, 4))

    off = 0
    for *stored, new in np.exp(logs):
        known = [run(i, curve=[v]) for i, v in enumerate(stored)]
        off += progress(CLAIM, run(9, new, curve=[new]), known).status == "off track"

    assert off / 2000 == pytest.approx(0.025, abs=4 * np.sqrt(0.025 * 0.975 / 2000))


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
    diverged = run(9, curve=[2000, 1200], status="diverged")
    assert progress(CLAIM, diverged, STORED).status == "off track"
