"""Mean returns and scores: computed exactly, and told from what is nearly the same."""

import numpy as np
import pytest

from lit_gen.harness.verdicts.certificate import certify
from lit_gen.metrics import returns
from lit_gen.metrics.returns import MeanReturn, Score

PLAYED = {
    "return": np.array([1.0, 2.0, 6.0]),
    "expert_return": np.array([10.0, 12.0]),
    "random_return": np.array([1.0]),
}


@pytest.mark.parametrize(
    "metric",
    [*map(MeanReturn, (None, 1, 50)), MeanReturn(16, "random_return"), *map(Score, (None, 1, 50))],
    ids=lambda metric: metric.id,
)
def test_certificates_hold(metric: MeanReturn | Score) -> None:
    assert certify(metric) == []


def test_numbers_by_hand() -> None:
    assert MeanReturn().of(PLAYED) == 3
    assert MeanReturn(2, of="expert_return").of(PLAYED) == 11
    assert Score(3).of(PLAYED) == 0.2


def test_a_metric_says_in_its_id_what_it_is_of() -> None:
    assert MeanReturn().id == "mean_return/1"
    assert MeanReturn(50).id == "mean_return/1 of 50"
    assert MeanReturn(16, of="random_return").id == "mean_random_return/1 of 16"
    assert Score().id == "score/1"
    assert Score(50).id == "score/1 of 50"


@pytest.mark.parametrize("episodes", ["x", 0, -1, 2.5, True, [10]])
@pytest.mark.parametrize("kind", [MeanReturn, Score])
def test_a_number_of_episodes_that_is_none(kind: type, episodes: object) -> None:
    with pytest.raises(ValueError, match="it must be a whole number above 0, or null"):
        kind(episodes)


@pytest.mark.parametrize("metric", [MeanReturn(4), Score(4)])
def test_another_number_of_episodes_is_refused(metric: MeanReturn | Score) -> None:
    with pytest.raises(ValueError, match=r"\(3,\) episodes were played, not 4"):
        metric.of(PLAYED)
    with pytest.raises(ValueError, match="episodes were played"):
        MeanReturn().of({"return": np.ones((3, 1))})


def test_what_is_missing_is_named() -> None:
    bare = {"return": np.ones(3)}
    with pytest.raises(ValueError, match=r"it needs random_return; kept are return$"):
        MeanReturn(of="random_return").of(bare)
    with pytest.raises(ValueError, match=r"it needs expert_return, random_return; kept are"):
        Score().of(bare)


def test_a_return_that_is_not_finite_shows() -> None:
    assert np.isnan(returns.mean(np.array([1.0, np.nan])))
    assert np.isnan(returns.score(np.array([np.nan]), np.ones(2), np.zeros(2)))
    assert np.isnan(returns.score(np.ones(2), np.ones(2), np.ones(2)))  # nothing lies between


def test_whole_numbers_do_not_overflow() -> None:
    assert returns.mean(np.full(4, 100, np.int8)) == 100


@pytest.mark.filterwarnings("ignore:invalid value")  # of a wrong score
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("mean", lambda r: float(np.median(r))),
        ("mean", lambda r: float(np.nanmean(r))),
        ("mean", lambda r: float(np.sum(r))),
        ("mean", lambda r: float(np.mean(r[:-1]))),
        ("mean", lambda r: -float(np.mean(r))),
        ("score", lambda r, e, q: float((r.mean() - e.mean()) / (q.mean() - e.mean()))),
        ("score", lambda r, e, q: float(r.mean() / e.mean())),
        ("score", lambda r, e, q: float((r.mean() - q.min()) / (e.max() - q.min()))),
        ("score", lambda r, e, q: min(1.0, (r.mean() - q.mean()) / (e.mean() - q.mean()))),
    ],
)
def test_a_wrong_metric_gets_no_certificate(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong
) -> None:
    monkeypatch.setattr(returns, name, wrong)

    assert certify(MeanReturn() if name == "mean" else Score())
