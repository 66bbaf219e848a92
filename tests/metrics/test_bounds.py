"""Certificates of likelihoods: they pass their own cases, and wrong arithmetic does not."""

import math

import numpy as np
import pytest

from lit_gen.harness.verdicts.certificate import certify
from lit_gen.metrics import bounds
from lit_gen.metrics.bounds import ActiveUnits, BitsPerDim, MeanLogLikelihood, NegativeLogLikelihood

ALL = [
    MeanLogLikelihood(),
    MeanLogLikelihood(10_000, 128),
    NegativeLogLikelihood(10_000, 5000),
    BitsPerDim(3072, 10_000),
    BitsPerDim(3072, 10_000, 10_000),
    ActiveUnits(),
    ActiveUnits(0.05, 10_000),
]


@pytest.mark.parametrize("metric", ALL, ids=lambda m: m.id)
def test_each_passes_its_certificate(metric) -> None:
    assert certify(metric) == []


def test_ids_differ_where_numbers_may() -> None:
    assert len({metric.id for metric in ALL}) == len(ALL)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda self, nats: -nats / (self.dims * math.log(10)),
        lambda self, nats: nats / (self.dims * math.log(2)),
        lambda self, nats: -nats / math.log(2),
    ],
)
def test_wrong_units_fail(wrong) -> None:
    broken = type("Broken", (BitsPerDim,), {})(3072, 10_000)
    known = [case for case in broken.cases()]
    type(broken).value = wrong
    type(broken).cases = lambda self: iter(known)
    assert certify(broken)


def test_a_float32_sum_fails() -> None:
    class Broken(MeanLogLikelihood):
        def of(self, arrays):
            return float(arrays["elbo"].astype("f4").mean())

    assert certify(Broken())


def test_the_variance_is_over_examples_and_not_their_mean_square() -> None:
    class Broken(ActiveUnits):
        def of(self, arrays):
            total = arrays["units_count"].sum()
            return float((arrays["units_square"].sum(0) / total > self.threshold).sum())

    assert certify(Broken())


def test_other_bounds_and_other_sizes_are_refused() -> None:
    arrays = {"log_px": np.zeros(10), "samples": np.full(10, 50), "elbo": np.zeros(10)}
    with pytest.raises(ValueError, match="50 samples were drawn for each example, not 5000"):
        NegativeLogLikelihood(10, 5000).of(arrays)
    with pytest.raises(ValueError, match="an unknown number of samples"):
        NegativeLogLikelihood(10, 5000).of({"log_px": np.zeros(10)})
    with pytest.raises(ValueError, match="10 examples were tested, not 10000"):
        MeanLogLikelihood(10_000).of(arrays)
    with pytest.raises(ValueError, match="needs elbo; kept are logits"):
        MeanLogLikelihood().of({"logits": np.zeros((3, 2))})
    with pytest.raises(ValueError, match="examples is 0"):
        MeanLogLikelihood(0)
    with pytest.raises(ValueError, match="it needs units_square"):
        ActiveUnits().of({"units_sum": np.zeros((1, 3)), "units_count": np.ones(1)})


def test_numbers_by_hand() -> None:
    arrays = {"elbo": np.array([-90.0, -100.0], "f4")}
    assert NegativeLogLikelihood().of(arrays) == 95
    assert BitsPerDim(95).of(arrays) == pytest.approx(1 / math.log(2))
    assert bounds.bits_per_dim(-3072 * math.log(256), 3072) == pytest.approx(8)
