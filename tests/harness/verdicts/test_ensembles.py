"""Ensembles: votes of members whose errors are known."""

from dataclasses import replace

import numpy as np
import pytest
from simulated import CLAIM, run

from lit_gen.harness.spec import UserError
from lit_gen.harness.verdicts.ensembles import ensemble_errors
from lit_gen.harness.verdicts.verdict import judge

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
    assert verdict.details["logits averaged"] == 1
    assert 0 <= verdict.details["members drawn anew, from"] <= verdict.details["to"] <= 1


def test_an_incomplete_ensemble_is_inconclusive_and_says_what_is_missing() -> None:
    members = [run((1, model), 1.0) for model in (1, 2)]

    verdict = judge(ENSEMBLE, members, predictions=predictions)

    assert (verdict.status, verdict.n, verdict.mean) == ("inconclusive", 0, None)
    assert "2 of 3 members of label subset 1 finished" in verdict.sentence


def test_members_that_saw_other_examples_are_refused() -> None:
    odd = {"logits": MEMBERS[0]["logits"], "target": TARGET[::-1]}

    with pytest.raises(UserError, match="different examples"):
        ensemble_errors([MEMBERS[0], odd])
