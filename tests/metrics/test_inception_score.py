"""Inception score: what the formula implies, the official program, and the certificate."""

import numpy as np
import pytest

from lit_gen.harness.verdicts.certificate import certify
from lit_gen.metrics.errors import MetricError
from lit_gen.metrics.inception_score import (
    ClassifierScore,
    InceptionScore,
    divergences,
    inception_score,
    score,
)

LOGITS = np.random.RandomState(0).randn(503, 20) * 2


def test_sure_and_even_answers_score_the_number_of_classes_and_unsure_ones_1() -> None:
    sure = np.where(np.eye(7)[np.arange(700) % 7] > 0, 0.0, -np.inf)  # logarithms of 1 and 0

    assert inception_score(sure)[:2] == pytest.approx((7, 0))
    assert inception_score(np.tile(LOGITS[:1], (50, 1)))[:2] == pytest.approx((1, 0))


def test_it_is_the_formula_spelt_out() -> None:
    p = np.exp(LOGITS[:50]) / np.exp(LOGITS[:50]).sum(1, keepdims=True)
    scores = []
    for part in np.split(p, 5):
        kl = [sum(a * np.log(a / b) for a, b in zip(x, part.mean(0), strict=True)) for x in part]
        scores.append(np.exp(np.mean(kl)))

    found = inception_score(LOGITS[:50], splits=5)

    np.testing.assert_allclose(found.groups, scores, rtol=1e-12)
    assert found.mean == pytest.approx(np.mean(scores))
    assert found.std == pytest.approx(np.sqrt(np.mean((scores - np.mean(scores)) ** 2)))


def test_a_number_that_groups_do_not_divide_loses_no_sample() -> None:
    found = inception_score(LOGITS)

    assert len(found.groups) == 10
    last = inception_score(LOGITS[9 * 503 // 10 :], splits=1)
    assert found.groups[9] == pytest.approx(last.mean)


def test_huge_logits_and_a_constant_change_nothing() -> None:
    assert inception_score(LOGITS + 1e4).mean == pytest.approx(inception_score(LOGITS).mean)
    assert np.isfinite(inception_score(LOGITS * 1e4).mean)


@pytest.mark.parametrize("seed", [None, 2020])
def test_it_agrees_with_torch_fidelity(seed: int | None) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.metric_isc import isc_features_to_metric

    theirs = isc_features_to_metric(torch.from_numpy(LOGITS), 10, seed is not None, seed)

    found = inception_score(LOGITS, seed=seed)
    assert found.mean == pytest.approx(theirs["inception_score_mean"], abs=1e-12)
    assert found.std == pytest.approx(theirs["inception_score_std"], abs=1e-12)


def test_what_a_run_keeps_gives_its_number_again_in_float32_too() -> None:
    kl = divergences(np.array_split(LOGITS[:500], 10))
    arrays = {"inception_kl": kl.astype(np.float32)}
    metric = InceptionScore(500)

    assert metric.of(arrays) == pytest.approx(inception_score(LOGITS[:500]).mean, abs=1e-6)
    assert InceptionScore(500, statistic="std").of(arrays) == pytest.approx(
        inception_score(LOGITS[:500]).std, abs=1e-6
    )
    with pytest.raises(ValueError, match=r"\(499,\) samples were scored, not 500"):
        metric.of({"inception_kl": kl[1:]})
    with pytest.raises(ValueError, match="kept are classifier_kl"):
        metric.of({"classifier_kl": kl})


@pytest.mark.parametrize("samples", [None, 503, 50_000])
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"statistic": "std"}, {"splits": 3}])
def test_the_certificate_holds(samples: int | None, options: dict) -> None:
    assert certify(InceptionScore(samples, **options)) == []


def test_a_wrong_score_fails_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    class OfAll(InceptionScore):
        def of(self, arrays) -> float:
            return float(np.exp(arrays[self.array].mean()))  # one group instead of ten

    class Sample(InceptionScore):
        def of(self, arrays) -> float:
            return float(np.std(score(arrays[self.array]).groups, ddof=1))

    assert certify(OfAll())
    assert certify(Sample(statistic="std"))


def test_ids_tell_apart_what_must_not_be_compared() -> None:
    metrics = [
        InceptionScore(50_000),
        InceptionScore(5_000),
        InceptionScore(50_000, bias=True),
        InceptionScore(50_000, splits=1),
        InceptionScore(50_000, statistic="std"),
        ClassifierScore("0a1b2c3d", 50_000),
        ClassifierScore("0a1b2c3e", 50_000),
    ]

    assert len({metric.id for metric in metrics}) == len(metrics)
    assert metrics[0].id == (
        "inception_score/1 of 50000 in 10 splits; inception-2015-12-05 6726825d; TF1 bilinear 299; "
        "logits without bias"
    )
    assert all("inception" not in metric.id for metric in metrics[-2:])
    assert certify(metrics[-1]) == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: inception_score(LOGITS[:9]), "9 samples cannot be cut into 10 groups"),
        (lambda: inception_score(np.where(LOGITS > 3, np.nan, LOGITS)), "not finite"),
        (lambda: InceptionScore(5), "5 samples cannot be cut into 10"),
        (lambda: InceptionScore(0), "samples is 0"),
        (lambda: InceptionScore(splits=2.5), "splits is 2.5"),
        (lambda: InceptionScore(statistic="median"), "'median'; it must be mean or std"),
    ],
)
def test_what_cannot_be_scored_is_said(call, said: str) -> None:
    with pytest.raises(MetricError, match=said):
        call()
