"""Shares of right votes: known answers, and intervals that hold what they promise."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from lit_gen.harness.human import score
from lit_gen.harness.spec import Claim, find
from lit_gen.harness.verdicts import human
from lit_gen.harness.verdicts.human import Measured, Votes, judge, measure
from lit_gen.harness.verdicts.verdict import Verdict

ERROR = Claim(
    "error", "human/error_percent", "all", value=20.0, spread=None, margin=4.0, better="higher",
    statistic="best",
)  # fmt: skip
RIGHT = replace(ERROR, name="people", metric="human/accuracy_percent", better="lower", value=80.0)


def votes(right: list[list[int]], shared: bool = True) -> Votes:
    """One row for each rater, on the same images or on his own; every second one is generated."""
    y = np.array(right)
    images = y.shape[1]
    rater, image = (x.ravel() for x in np.indices(y.shape))
    generated = image % 2 == 1
    image = image if shared else image + rater * images
    return Votes(rater, image, generated, generated == y.ravel().astype(bool))


def simulated(
    rng: np.random.Generator, raters: int, pool: int, seen: int, by_rater: float, by_image: float
) -> Votes:
    """Raters and images of different strength, in logits around 1; half of the pool is real."""
    ease = 1 + rng.normal(0, by_image, pool)
    skill = rng.normal(0, by_rater, raters)
    half = pool // 2
    rows = []
    for r in range(raters):
        chosen = np.concatenate(
            [rng.choice(half, seen // 2, False), half + rng.choice(half, seen // 2, False)]
        )
        right = rng.random(seen) < expit(ease[chosen] + skill[r])
        generated = chosen >= half
        rows.append(Votes(np.full(seen, r), chosen, generated, generated == right))
    names = ("rater", "image", "generated", "said")
    return Votes(*(np.concatenate([getattr(row, name) for row in rows]) for name in names))


def truth(by_rater: float, by_image: float) -> float:
    """Mean of expit(1 + N(0, total variance)), by quadrature."""
    x, w = np.polynomial.hermite_e.hermegauss(80)
    return float(w @ expit(1 + math.hypot(by_rater, by_image) * x) / w.sum())


def test_shares_by_hand() -> None:
    found = measure(votes([[1, 0, 1, 1], [1, 0, 0, 0]]))

    assert found.accuracy == pytest.approx(4 / 8)
    assert found.raters == ((4, 3), (4, 1))
    assert (found.real, found.generated) == ((4, 3), (4, 1))
    assert found.said_real == pytest.approx(6 / 8)
    assert found.votes == 8


def test_wilson_by_the_textbook() -> None:
    # Newcombe, Stat. Med. 17, 1998, table I
    assert human.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert human.wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert human.wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert human.wilson(29, 29) == pytest.approx((0.8830, 1), abs=5e-5)


def test_one_rater_has_wilsons_interval() -> None:
    found = measure(votes([[1] * 15 + [0] * 5]))

    assert (found.low, found.high) == human.wilson(15, 20)
    assert found.se is None


def test_raters_with_images_of_their_own_give_students_interval() -> None:
    rng = np.random.default_rng(1)
    right = (rng.random((6, 40)) < rng.uniform(0.4, 0.95, (6, 1))).astype(int)

    found = measure(votes(right.tolist(), shared=False))

    shares = right.mean(axis=1)
    half = stats.t.ppf(0.975, 5) * shares.std(ddof=1) / math.sqrt(6)
    assert found.low == pytest.approx(shares.mean() - half, rel=0.01)
    assert found.high == pytest.approx(min(1, shares.mean() + half), rel=0.01)


def test_images_that_all_find_hard_widen_it() -> None:
    """Ten raters who agree on every image know little about other images."""
    hard = [[1, 1, 0, 0] * 5] * 10
    scattered = [(hard[0][i:] + hard[0][:i]) for i in range(10)]

    assert measure(votes(hard)).se == pytest.approx(math.sqrt(0.25 / 20), rel=0.1)
    assert measure(votes(scattered)).se < 0.5 * measure(votes(hard)).se


def test_votes_that_are_all_right_still_have_an_interval() -> None:
    found = measure(votes([[1] * 20] * 3))

    assert found.accuracy == found.high == 1
    assert found.low < 0.95
    assert found.se > 0


def test_d_prime_does_not_follow_a_leaning() -> None:
    """Observers of one d' and three criteria; without half a vote added the answer is exact."""
    n = 10**6
    for criterion in (-0.5, 0.5, 1.5):
        hits, alarms = stats.norm.sf(criterion - 1.0), stats.norm.sf(criterion)
        given = human.d_prime((n, round(n * (1 - alarms))), (n, round(n * hits)))
        assert given == pytest.approx(1.0, abs=1e-3)
    assert human.d_prime((20, 0), (20, 0)) < -3  # always wrong
    assert math.isfinite(human.d_prime((0, 0), (5, 5)))


DESIGNS = {
    "two raters": (2, 200, 100, 0.5, 0.0),
    "few raters": (4, 2000, 100, 0.6, 1.0),
    "many raters, few images": (25, 40, 40, 0.3, 1.2),
    "many raters": (20, 200, 60, 0.6, 0.8),
    "all alike": (8, 400, 100, 0.0, 0.0),
}


@pytest.mark.parametrize("design", DESIGNS)
def test_the_interval_holds_the_truth_as_often_as_it_says(design) -> None:
    """95 %, less two standard errors of 600 simulated tests and what few images cost."""
    rng = np.random.default_rng(0)
    expected = truth(*DESIGNS[design][3:])
    found = [measure(simulated(rng, *DESIGNS[design])) for _ in range(600)]

    held = np.mean([m.low <= expected <= m.high for m in found])

    assert held > 0.925, held


def test_an_interval_over_raters_alone_would_not() -> None:
    """Why images count, too: Student's interval of the raters' shares, on the same votes."""
    rng = np.random.default_rng(0)
    design = DESIGNS["many raters, few images"]
    expected, held = truth(*design[3:]), []
    for _ in range(300):
        found = measure(simulated(rng, *design))
        shares = np.array([right / n for n, right in found.raters])
        half = stats.t.ppf(0.975, len(shares) - 1) * shares.std(ddof=1) / math.sqrt(len(shares))
        held.append(abs(shares.mean() - expected) <= half)

    assert np.mean(held) < 0.8


def test_of_papers_at_the_edge_of_the_margin_few_are_called_reproduced() -> None:
    """The paper's number is another such test, of a model that is exactly the margin away."""
    rng = np.random.default_rng(0)
    design = (8, 2000, 100, 0.3, 0.5)
    called = []
    for _ in range(600):
        ours, theirs = (measure(simulated(rng, *design)) for _ in range(2))
        value = 100 * (1 - theirs.accuracy) + 8
        verdict = judge(replace(ERROR, value=value, margin=8.0), ours)
        called.append(verdict.status)

    assert np.mean([status == "reproduced" for status in called]) < 0.07
    assert np.mean([status in ("better", "worse") for status in called]) < 0.07


def several(accuracy: float, se: float, raters: int = 10) -> Measured:
    return Measured(
        accuracy, accuracy - 2 * se, accuracy + 2 * se, se, se**2,
        ((100, round(100 * accuracy)),) * raters, (500, 400), (500, 400), 0.5, 1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("accuracy", "se", "status"),
    [
        (0.80, 0.005, "reproduced"),
        (0.81, 0.050, "inconclusive"),
        (0.60, 0.020, "better"),  # 40 % error: people are fooled more often
        (0.95, 0.020, "worse"),
    ],
)
def test_error_and_accuracy_get_the_same_verdict(accuracy, se, status) -> None:
    error, right = (judge(claim, several(accuracy, se)) for claim in (ERROR, RIGHT))

    assert error.status == right.status == status
    assert error.mean == pytest.approx(100 - right.mean)
    assert error.low == pytest.approx(100 - right.high)
    assert error.difference == pytest.approx(
        (-right.difference[0], *[-x for x in right.difference[:0:-1]])
    )
    assert error.sentence.startswith(f"{status}: ")
    assert any("a model that we trained" in note for note in error.notes)
    assert any("as uncertain as ours" in note for note in error.notes)


def test_the_difference_is_of_two_uncertain_numbers() -> None:
    d = human.difference(several(0.8, 0.01), 0.78)

    half = stats.t.ppf(0.95, 9) * math.sqrt(2) * 0.01
    assert (d.low, d.high) == pytest.approx((0.02 - half, 0.02 + half))


def test_one_rater_decides_nothing() -> None:
    verdict = judge(ERROR, measure(votes([[1] * 80 + [0] * 20])))

    assert verdict.status == "inconclusive"
    assert verdict.difference is None
    assert "1 more rater" in verdict.sentence


def test_reasons_make_it_not_comparable() -> None:
    verdict = judge(ERROR, several(0.8, 0.001), reasons=("with feedback",))

    assert verdict.status == "not comparable"
    assert verdict.difference is None
    assert "with feedback" in verdict.sentence
    assert "a model that we trained" in verdict.notes[0]


def test_more_raters_would_decide_it() -> None:
    verdict = judge(ERROR, several(0.8, 0.02))

    assert verdict.status == "inconclusive"
    assert f"{verdict.more} more raters" in verdict.sentence
    then = several(0.8, 0.02 * math.sqrt(10 / (10 + verdict.more)), 10 + verdict.more)
    assert judge(ERROR, then).status == "reproduced"
    one_less = several(0.8, 0.02 * math.sqrt(10 / (9 + verdict.more)), 9 + verdict.more)
    assert judge(ERROR, one_less).status == "inconclusive"


def test_without_hope_it_says_so() -> None:
    stuck = replace(several(0.76, 0.02), by_raters=0.0004)  # the edge of the margin

    assert "no number of raters" in judge(ERROR, stuck).sentence


# --- beside the verdicts of runs


def test_people_s_verdict_takes_the_place_of_none_and_remembers_lost_runs(monkeypatch) -> None:
    spec = find("improved_gan_mnist_samples")
    (claim,) = spec.claims
    people = Verdict(claim, spec.name, "script", "reproduced", "reproduced: 52 %", mean=52.0)
    fed = replace(people, status="not comparable", sentence="not comparable: fed")
    counts = {"diverged": 0, "crashed": 0}
    none = Verdict(claim, spec.name, "script", "inconclusive", "no number", counts=counts)
    lost = replace(none, counts={"finished": 1, "diverged": 2, "crashed": 0})
    other = replace(none, protocol="script_june8")

    monkeypatch.setattr(score, "kept", lambda spec: [people])
    assert score.with_people(spec, [none, other]) == [other, people]
    (found,) = score.with_people(spec, [lost])
    assert (found.status, found.counts) == ("inconclusive", lost.counts)
    assert found.sentence == "inconclusive: 52 %; 2 runs diverged"
    monkeypatch.setattr(score, "kept", lambda spec: [fed])
    assert score.with_people(spec, [none]) == [none, fed]
