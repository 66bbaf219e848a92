"""Statistics: tables, symmetries, and error rates on simulated runs whose truth is known."""

import numpy as np
import pytest

from lit_gen.harness.verdicts import statistics
from lit_gen.harness.verdicts.statistics import (
    ALPHA,
    Difference,
    Paper,
    bootstrap,
    deviation,
    difference,
    expected_best,
    interval,
    medians,
    power,
    prediction,
    runs_for_power,
    runs_to_decide,
    shift,
    spent_level,
    welch,
)

DRAWS = 4000


def at_most(rate: float, stated: float, draws: int = DRAWS) -> bool:
    """Within four standard errors of a simulation."""
    return rate <= stated + 4 * np.sqrt(stated * (1 - stated) / draws)


# --- one sample


def test_the_interval_holds_the_truth_in_95_percent_of_samples() -> None:
    samples = np.random.default_rng(0).normal(93, 6.5, (DRAWS, 10))

    ends = np.array([interval(sample)[1:3] for sample in samples])
    coverage = ((ends[:, 0] <= 93) & (ends[:, 1] >= 93)).mean()

    assert coverage == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / DRAWS))


def test_the_interval_of_five_numbers_agrees_with_a_table_of_t() -> None:
    mean, low, high, spread = interval([1, 2, 3, 4, 5])

    assert (mean, spread) == (3, pytest.approx(2.5**0.5))
    assert (high - low) / 2 == pytest.approx(2.7764451 * 0.5**0.5)  # t(0.975; 4), s^2 / n = 1/2


def test_a_further_run_is_where_it_is_predicted_in_95_percent_of_cases() -> None:
    x = np.random.default_rng(1).normal(size=(4, DRAWS))

    low, high = prediction(x[:3])

    assert np.mean((low <= x[3]) & (x[3] <= high)) == pytest.approx(0.95, abs=0.015)


# --- two means


def test_welch_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = np.array([1.0, 4, 2, 8, 5]), np.array([3.0, 3.5, 9, 1])
    wanted = stats.ttest_ind(a, b, equal_var=False).confidence_interval(1 - 2 * ALPHA)

    found = difference(a, Paper(b.mean(), deviation(b), len(b)))

    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_a_difference_shifts_scales_and_mirrors_with_its_numbers() -> None:
    ours, paper = [90.0, 97, 101], Paper(93, 6.5, 10)
    plain = difference(ours, paper)
    moved = difference([x + 50 for x in ours], Paper(143, 6.5, 10))
    scaled = difference([x / 100 for x in ours], Paper(0.93, 0.065, 10))
    mirrored = difference([-x for x in ours], Paper(-93, 6.5, 10))

    assert moved.low == pytest.approx(plain.low)
    assert scaled.high == pytest.approx(plain.high / 100)
    assert (mirrored.low, mirrored.high) == pytest.approx((-plain.high, -plain.low))


def test_a_wider_margin_keeps_what_is_equivalent_and_a_narrower_what_is_beyond() -> None:
    found = Difference(1.0, -2.0, 4.0)

    assert [found.equivalent(m) for m in (1, 2, 3.9, 4, 9)] == [False, False, False, True, True]
    assert [Difference(5, 3, 7).above(m) for m in (2, 2.9, 3, 8)] == [True, True, False, False]
    assert found.not_above(4)
    assert not found.not_above(3)
    assert found.not_below(2)
    assert not found.not_below(1)


SIZES = [(2, 10), (3, 10), (10, 10), (5, 3)]


@pytest.mark.parametrize(
    ("n", "m", "ratio", "known"),
    [(n, m, ratio, True) for n, m in SIZES for ratio in (0.3, 1.0, 3.0)]
    + [(n, m, 1.0, False) for n, m in [*SIZES, (6, 1)]],
)
def test_stated_error_rates_hold(n, m, ratio, known) -> None:
    """At the edge of the margin nothing may be shown more often than ALPHA: that our mean is
    inside, or that it is outside. Where the paper's spread is not known, ours stands for it."""
    random, margin, delta = np.random.default_rng(n), 50.0, 50.0
    ours = random.normal(93 + delta, ratio, (DRAWS, n))
    theirs = random.normal(93, 1, (DRAWS, m))
    ends = []
    for x, y in zip(ours, theirs, strict=True):
        d = difference(x, Paper(y.mean(), deviation(y) if known else None, m))
        ends.append((d.equivalent(margin), d.above(margin)))
    inside, outside = np.mean(ends, axis=0)

    assert at_most(inside, ALPHA)
    assert at_most(outside, ALPHA)
    assert n == 2 or inside > ALPHA / 4  # careful, not blind


def test_a_true_difference_of_zero_is_seldom_called_one() -> None:
    random, wrong = np.random.default_rng(5), 0
    for _ in range(1000):
        x, y = random.normal(93, 6.5, (2, 10))
        d = difference(x, Paper(y.mean(), deviation(y), 10))
        wrong += d.above(0.5) or d.below(0.5)

    assert at_most(wrong / 1000, 2 * ALPHA, 1000)


# --- medians and best runs


def test_the_expected_best_is_the_mean_over_all_choices() -> None:
    from itertools import combinations

    x = np.array([3.0, 1, 4, 1.5, 9])
    wanted = np.mean([min(c) for c in combinations(x, 3)])

    assert expected_best(x, 3, lower=True) == pytest.approx(wanted)
    assert expected_best(-x, 3, lower=False) == pytest.approx(-wanted)
    assert expected_best(x, 5, lower=True) == 1


@pytest.mark.parametrize("kind", ["normal", "skewed", "two kinds"])
@pytest.mark.parametrize(("statistic", "n", "m"), [("median", 6, 10), ("median", 20, 10),
                                                   ("best", 10, 10), ("best", 20, 10)])  # fmt: skip
def test_bootstrap_errs_in_at_most_8_percent(kind, statistic, n, m, monkeypatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    random, draws = np.random.default_rng(3), 400

    def sample(size):
        if kind == "normal":
            return random.normal(size=size)
        if kind == "skewed":
            return np.exp(0.7 * random.normal(size=size))
        return (random.random(size) > 0.3) + 0.05 * random.normal(size=size)

    def median(a):
        return np.median(a, axis=-1)

    ours, theirs = {
        "median": (median, median),
        "best": (lambda a: expected_best(a, m, True), lambda a: a.min(axis=-1)),
    }[statistic]
    misses = np.zeros(2)
    for _ in range(draws):
        printed = float(theirs(sample((1, m)))[0])
        found = bootstrap(sample(n), printed, m, ours, theirs)
        misses += (found.low > 0, found.high < 0)

    assert at_most(misses.max() / draws, 0.08, draws)


# --- two settings of ours


@pytest.mark.parametrize(("n", "m"), [(3, 3), (5, 5), (5, 10), (12, 7)])
def test_a_shift_is_seen_where_mann_and_whitney_see_it(n: int, m: int) -> None:
    from scipy.stats import mannwhitneyu

    random = np.random.default_rng(4)
    for _ in range(40):
        x, y = random.normal(0.5, 1, n), random.normal(0, 1, m)
        low, high = shift(x, y)
        for side, seen in (("greater", low > 0), ("less", high < 0)):
            p = mannwhitneyu(x, y, alternative=side, method="exact").pvalue
            assert seen == (p <= ALPHA)
        assert shift(y, x) == (-high, -low)


def test_two_runs_a_side_show_no_shift() -> None:
    assert shift([8, 9], [1, 2]) == (-np.inf, np.inf)


@pytest.mark.parametrize(
    "kind", ["normal", "skewed", "one of two places", "never or always", "of another spread"]
)
@pytest.mark.parametrize(("n", "m"), [(5, 5), (10, 10), (5, 10)])
def test_an_order_is_rarely_seen_where_there_is_none(kind, n, m, monkeypatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    random, draws = np.random.default_rng(5), 300

    def sample(size: int, spread: float) -> np.ndarray:
        return {
            "normal": lambda: random.normal(size=size),
            "skewed": lambda: random.exponential(size=size),
            "one of two places": lambda: 0.9 * (random.random(size) < 0.5) + 0.02 * sample_of(size),
            "never or always": lambda: 1.0 * (random.random(size) < 0.5),
            "of another spread": lambda: spread * random.normal(size=size),
        }[kind]()

    def sample_of(size: int) -> np.ndarray:
        return random.normal(size=size)

    found = [medians(sample(n, 3), sample(m, 1)) for _ in range(draws)]
    misses = np.array([[f.low > 0, f.high < 0] for f in found]).sum(0)

    assert at_most(misses.max() / draws, ALPHA, draws)


def test_an_order_is_seen_where_there_is_one() -> None:
    random = np.random.default_rng(6)
    seen = [medians(random.normal(2, 1, 10), random.normal(0, 1, 10)).low > 0 for _ in range(100)]

    assert sum(seen) > 80
    assert medians([1] * 5, [0] * 5) == Difference(1, 1, 1)


# --- how many runs


def test_power_is_the_share_of_simulated_matches() -> None:
    random, said = np.random.default_rng(7), 0
    for _ in range(2000):
        x, y = random.normal(93, 6.5, (2, 10))
        said += difference(x, Paper(y.mean(), 6.5, 10)).equivalent(9.0)

    assert power(Paper(93, 6.5, 10), 9.0, 6.5, 10) == pytest.approx(said / 2000, abs=0.04)


def test_the_promised_number_of_runs_has_the_promised_power_and_one_fewer_has_not() -> None:
    paper = Paper(80.0, 0.05, 10)
    wanted, most = runs_for_power(paper, 0.1, 0.1)

    assert most > 0.9
    assert power(paper, 0.1, 0.1, wanted) >= 0.9 > power(paper, 0.1, 0.1, wanted - 1)
    assert runs_for_power(Paper(80.0, None, 1), 0.05, 0.03)[0] is None  # one run: never


@pytest.mark.parametrize("mean", [93.0, 95.0, 91.5, 110.0, 74.0])
def test_the_promised_runs_decide_and_one_fewer_does_not(mean) -> None:
    paper = Paper(93.0, 6.5, 10)
    total = runs_to_decide(paper, 6.5, 3, mean, 9.0)

    def decided(n):
        _, low, high = welch(mean, 9.0, n, 93.0, 6.5, 10)
        return (low >= -6.5 and high <= 6.5) or low > 6.5 or high < -6.5

    assert decided(total)
    assert total == 4 or not decided(total - 1)


def test_at_the_margins_edge_no_number_of_runs_is_promised() -> None:
    assert runs_to_decide(Paper(93.0, 6.5, 10), 6.5, 4, 99.4, 9.0) is None


# --- looking after every run


@pytest.mark.parametrize(("most", "spread"), [(5, 1.0), (10, 0.01), (10, 1.0), (10, 3.0)])
def test_looking_after_every_run_keeps_the_error_rate_and_without_a_plan_does_not(
    most, spread
) -> None:
    """Truth sits at the margin's edge: 'inside' at any look is an error."""
    random = np.random.default_rng(0)
    x = random.normal(size=(DRAWS, most))
    paper = spread * random.normal(size=(DRAWS, 10))
    planned, naive = np.zeros(DRAWS, bool), np.zeros(DRAWS, bool)
    for n in range(2, most + 1):
        mean, s = x[:, :n].mean(1), x[:, :n].std(1, ddof=1)
        ours, theirs = s**2 / n, paper.std(1, ddof=1) ** 2 / 10
        degrees = (ours + theirs) ** 2 / (ours**2 / (n - 1) + theirs**2 / 9)
        t = (mean - paper.mean(1)) / np.sqrt(ours + theirs)
        level = spent_level(tuple(range(2, n + 1)), most)
        planned |= t < -statistics.t_quantile(1 - level, degrees)
        naive |= t < -statistics.t_quantile(1 - ALPHA, degrees)

    assert at_most(planned.mean(), ALPHA)
    assert naive.mean() > ALPHA + 0.01


def test_a_single_look_at_the_planned_number_has_nearly_the_whole_level() -> None:
    assert 0.8 * ALPHA < spent_level((10,), 10) <= ALPHA
    levels = [spent_level(tuple(range(2, n + 1)), 10) for n in range(2, 11)]
    assert levels == sorted(levels)
