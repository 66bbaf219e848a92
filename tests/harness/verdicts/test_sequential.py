"""Looking after every seed: the plan, what it costs, and the command that follows it."""

import json

import numpy as np
import pytest
from simulated import CLAIM, run, runs

from lit_gen.harness.spec import Seed, UserError
from lit_gen.harness.verdicts.sequential import Plan, claims_of, hours_of
from lit_gen.harness.verdicts.verdict import judge

SEEDS = [Seed(s, s) for s in range(1, 11)]


def test_a_plan_counts_what_was_there_before_and_stands_from_then_on() -> None:
    plan = Plan.of(runs([93, 95]), SEEDS)

    assert plan == Plan(first=2, most=10)
    stamped = [plan.stamp(r) for r in runs([93, 95, 90])]
    assert Plan.of(stamped, SEEDS[:5]) == plan  # fewer seeds now: the plan stays
    with pytest.raises(UserError, match="plan of 10 seeds"):
        Plan.of(stamped, [*SEEDS, Seed(11, 11)])
    with pytest.raises(UserError, match="--seeds 1-10"):
        Plan.of([], SEEDS[:2])


def test_whoever_stops_at_the_first_verdict_errs_as_seldom_as_the_plan_says() -> None:
    """Truth at the margin's edge; each simulated user reads a verdict after every seed."""
    random, wrong, naive = np.random.default_rng(0), 0, 0
    plan, trials = Plan(0, 6), 250
    for _ in range(trials):
        claim = CLAIM.__class__(**{**CLAIM.__dict__, "runs": 500, "margin": 8.0, "spread": 4.0})
        sample = runs(random.normal(93 + 8.0, 4.0, 6))
        for record in sample:
            plan.stamp(record)
        planned = [plan.stamp(r) for r in sample]
        looks = range(2, 7)
        wrong += any(judge(claim, planned[:n]).status == "reproduced" for n in looks)
        naive += any(judge(claim, sample[:n]).status == "reproduced" for n in looks)

    assert wrong / trials <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / trials)
    assert naive > wrong


def test_cost_and_looks_are_said_before_anything_starts() -> None:
    said = " ".join(Plan(2, 10).announce([CLAIM], 8, hours=2.0, budget_h=8.0))

    assert "up to 8 more runs" in said
    assert "16.0 h at most" in said
    assert "budget holds about 4 runs" in said
    assert "at most 5 %" in said


def test_hours_are_those_of_a_whole_run() -> None:
    record = run(1, curve=[1, 2, 3], provenance={"segments": [{"wall_s": 60.0}, {"wall_s": 12}]})

    assert hours_of([record]) == pytest.approx(72 / 3 * 300 / 3600)
    assert hours_of([]) is None


def test_an_ensemble_is_decided_only_by_seeds_that_fill_it() -> None:
    ensemble = CLAIM.__class__(**{**CLAIM.__dict__, "statistic": "ensemble", "members": 3})
    filled = [Seed(d, m) for d in (1, 2, 3) for m in (1, 2, 3)]

    assert claims_of([CLAIM, ensemble], "labels_100", SEEDS) == [CLAIM]
    assert claims_of([CLAIM, ensemble], "labels_100", filled) == [CLAIM, ensemble]
    with pytest.raises(UserError, match="ensembles of 3"):
        claims_of([ensemble], "labels_100", SEEDS)


TOY = """
paper: {title: Toy}
claims:
  - {name: single, metric: test/errors, better: lower, runs: 10, spread_over: seeds,
     reported: [0, 5.0], margin: 1.0}
seeds: 1-6
model: {class_path: lit_gen.papers.improved_gan.SemiSupervisedGAN}
data:
  class_path: lit_gen.datamodules.images.SemiSupervisedMNIST
  init_args: {labels: 100, limit: 300, validation: 50}
trainer: {max_epochs: 1}
metrics: {test/errors: lit_gen.metrics.classification.Errors}
"""


def test_the_command_stops_when_the_verdict_is_settled_and_resumes_its_plan(
    reproduce, tmp_path
) -> None:
    """Hundreds of errors against a claim of 0: "worse" after a few of the six seeds."""
    (tmp_path / "toy.yaml").write_text(TOY)
    words = ("./toy.yaml", "--until", "decided", "--no-mlflow", "--threads", "1")

    done = reproduce(*words)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Plan: up to 6 more runs")
    assert "worse" in done.stdout
    records = sorted((tmp_path / "runs").glob("*/*/record.json"))
    assert 2 <= len(records) < 6
    plans = [json.loads(path.read_text())["provenance"]["plan"] for path in records]
    assert plans == [{"first": 0, "most": 6}] * len(records)
    assert "not finished" not in done.stdout

    again = reproduce(*words)
    assert again.returncode == 0, again.stderr
    assert sorted((tmp_path / "runs").glob("*/*/record.json")) == records


def test_a_plan_is_for_one_cell(reproduce) -> None:
    done = reproduce("improved_gan_mnist_semisup", "--until", "decided", "--setting", "all")

    assert done.returncode == 2
    assert "one cell" in done.stderr
