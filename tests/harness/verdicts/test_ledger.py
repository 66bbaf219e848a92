"""The ledger: effects of departures on runs whose effects are known."""

from dataclasses import replace

import pytest
from simulated import CLAIM, run

from lit_gen.harness.spec import Deviation, find
from lit_gen.harness.verdicts.ledger import effects

SPEC = replace(
    find("improved_gan_mnist_semisup"),
    claims=(CLAIM,),
    ledger=(
        Deviation("pixel_scale", "pixels are divided by 255", "the file is lost", "june"),
        Deviation("order", "another order", "nobody knows"),
    ),
    settings={"labels_100": {}},
    default_setting="labels_100",
    protocols={"paper": {}, "june": {}},
)
MEDIUM = {
    "overrides": {"matmul_precision": "medium"},
    "config": {"model": {"init_args": {"lr": 0.003}}, "matmul_precision": "medium"},
}


def told(records):
    return {effect.name: effect for effect in effects(SPEC, records)}


def test_seeds_run_both_ways_are_compared_one_by_one() -> None:
    """Seeds differ by tens of errors, the flag by about 2: only pairs show it."""
    usual = [run(s, v) for s, v in ((1, 90.0), (2, 140.0), (3, 115.0))]
    medium = [run(s, v, **MEDIUM) for s, v in ((1, 92.0), (2, 141.5), (3, 117.5))]

    effect = told([*usual, *medium])["matmul_precision = medium"]

    assert effect.estimate == pytest.approx(2.0)
    assert 0 < effect.low < 2 < effect.high < 4
    assert effect.pairs == 3
    assert "3 seeds run both ways" in effect.sentence


def test_other_seeds_are_compared_by_their_means_and_one_of_each_has_no_interval() -> None:
    usual = [run(s, v) for s, v in ((1, 90.0), (2, 94.0))]
    medium = [run(s, v, **MEDIUM) for s, v in ((8, 99.0), (9, 101.0))]

    many = told([*usual, *medium])["matmul_precision = medium"]
    one = told([usual[0], medium[0]])["matmul_precision = medium"]

    assert (many.estimate, many.pairs) == (8, 0)
    assert many.low < 8 < many.high
    assert (one.estimate, one.low) == (9, None)
    assert "too few" in one.sentence


def test_an_ablation_gives_the_effect_of_the_deviation_it_undoes() -> None:
    usual = [run(s, v) for s, v in ((1, 90.0), (2, 94.0))]
    undone = [run(s, v, protocol="june") for s, v in ((1, 80.0), (2, 85.0))]

    found = told([*usual, *undone])

    assert found["pixel_scale"].estimate == pytest.approx(9.5)  # with it minus without it
    assert found["protocol june"].estimate == pytest.approx(-9.5)


def test_what_was_not_measured_says_so() -> None:
    found = told([run(1, 90.0), run(2, status="diverged", **MEDIUM)])

    assert found["order"].estimate is None
    assert "no ablation is named" in found["order"].sentence
    assert "no runs tell" in found["pixel_scale"].sentence
    assert "matmul_precision = medium" not in found
