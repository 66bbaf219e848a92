"""Statistics of a verdict: numbers in, numbers out. Nothing here knows of runs, papers or words.

Compared are two unknown means: ours, of which we have n runs, and the paper's, of which we have
what it printed. With d = our mean - the paper's, delta its expectation and M the claim's margin:

    equivalent       reject both delta <= -M and delta >= M       (two one-sided tests)
    beyond           reject delta <= M, or delta >= -M            (on that side)
    not worse        reject only the one on the bad side          (non-inferiority)

each at the one-sided level ALPHA, so that equivalence holds if the 90 % interval of delta lies in
[-M, M] (Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987). Each wrong statement therefore has a
probability of at most 5 % under the assumptions of its interval:

    the paper printed a standard deviation over m runs, or each run      Welch: `welch`
    it printed neither: its m runs (1, if it is silent) are assumed to
    scatter like ours, and nothing is assumed about their luck           Student: `like_ours`
    medians and best runs                                                bootstrap: `bootstrap`

An order between two settings of ours is delta > 0, with the runs of the other setting in the place
of the paper's: `difference` of means, `medians` of medians.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05  # of each one-sided test
LEVEL = 0.95  # of an interval that only describes
MOST_RUNS = 1000  # more are not worth recommending
SPENDING = 2.0  # exponent of the alpha-spending function
RESAMPLES = 4000

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Ours minus the paper's, and how well it is known.

    Attributes:
        estimate: d.
        low, high: interval of delta, each end at the one-sided level of the test.
    """

    estimate: float
    low: float
    high: float

    def equivalent(self, margin: float) -> bool:
        return -margin <= self.low and self.high <= margin

    def above(self, margin: float) -> bool:
        return self.low > margin

    def below(self, margin: float) -> bool:
        return self.high < -margin

    def not_above(self, margin: float) -> bool:
        return self.high <= margin

    def not_below(self, margin: float) -> bool:
        return self.low >= -margin


def t_quantile(level: Any, degrees: Any) -> Any:
    """Student's t: the value that a share `level` lies below."""
    from scipy.special import stdtrit  # here, because `reproduce list` needs to be quick

    return stdtrit(degrees, level)


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation, s^2 = sum (x - mean)^2 / (n - 1); 0 if all are equal."""
    x = np.asarray(values, dtype=np.float64)
    return 0.0 if len(x) < 2 or (x == x[0]).all() else float(x.std(ddof=1))


def interval(values: Sequence[float]) -> tuple[float, float | None, float | None, float]:
    """Mean, both ends of its 95 % interval, and the sample's standard deviation.

    mean -+ t(0.975; n - 1) s / sqrt(n)   (Student, Biometrika 6, 1908)

    It assumes independent, roughly normal numbers; a single one has no interval.
    """
    x = np.asarray(values, dtype=np.float64)
    n, mean, s = len(x), float(x.mean()), deviation(values)
    if n < 2:
        return mean, None, None, 0.0
    half = float(t_quantile((1 + LEVEL) / 2, n - 1) * s / math.sqrt(n))
    return mean, mean - half, mean + half, s


# --- differences of means


def welch(
    mean: Any, s: Any, n: Any, value: float, spread: float, runs: int, alpha: Any = ALPHA
) -> tuple[Any, Any, Any]:
    """d and its interval, both standard deviations known from their runs; all arguments broadcast.

    se^2 = s^2 / n + spread^2 / runs,
    degrees of freedom = se^4 / (s^4 / (n^2 (n - 1)) + spread^4 / (runs^2 (runs - 1)))

    (Welch, Biometrika 34, 1947). With two runs on a side that errs too often, 7 % at a stated 5 %;
    the fewer degrees of freedom of the two sides never do (Hsu, Stat. Res. Mem. 2, 1938).
    """
    ours, theirs = np.square(s) / n, spread**2 / runs
    total = ours + theirs
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = total**2 / (ours**2 / (np.asarray(n) - 1) + theirs**2 / max(runs - 1, 1))
        fewer = np.minimum(np.asarray(n) - 1, runs - 1)
        degrees = np.where(fewer < 2, fewer, np.nan_to_num(degrees, nan=1.0))
        half = t_quantile(1 - alpha, degrees) * np.sqrt(total)
    half = np.where(total > 0, half, 0.0)
    d = mean - value
    return d, d - half, d + half


def like_ours(
    mean: Any, s: Any, n: Any, value: float, runs: int, alpha: Any = ALPHA
) -> tuple[Any, Any, Any]:
    """d and its interval where the paper's runs scatter as ours do, se^2 = s^2 (1/n + 1/runs).

    With one run of the paper this is Student's prediction interval of a further run of ours: the
    paper's number can then never be known better than a single run.
    """
    half = t_quantile(1 - alpha, np.asarray(n) - 1) * s * np.sqrt(1 / np.asarray(n) + 1 / runs)
    d = mean - value
    return d, d - half, d + half


@dataclass(frozen=True)
class Paper:
    """What the paper's number is made of.

    Attributes:
        spread: sample standard deviation over `runs` trainings; None if it is not known.
    """

    value: float
    spread: float | None
    runs: int

    @property
    def known(self) -> bool:
        """Whether the paper itself tells how its runs scatter."""
        return self.spread is not None and self.runs > 1

    def difference(self, mean: Any, s: Any, n: Any, alpha: Any = ALPHA) -> tuple[Any, Any, Any]:
        if self.known:
            return welch(mean, s, n, self.value, self.spread, self.runs, alpha)
        return like_ours(mean, s, n, self.value, self.runs, alpha)


def difference(
    values: Sequence[float], paper: Paper, alpha: float = ALPHA, spread: float | None = None
) -> Difference | None:
    """Our mean minus the paper's; None below two runs.

    Args:
        spread: standard deviation of ours, if the values do not tell it.
    """
    if len(values) < 2:
        return None
    mean, s = float(np.mean(values)), deviation(values) if spread is None else spread
    return Difference(*map(float, paper.difference(mean, s, len(values), alpha)))


# --- medians and best runs


def expected_best(values: Array, runs: int, lower: bool) -> Any:
    """Mean of the best of `runs` runs drawn without replacement, along the last axis (>= runs).

    sum_i x_(i) C(n - i, runs - 1) / C(n, runs), x sorted from the best: unbiased, and the plain
    best at n = runs (Dodge et al., EMNLP 2019, give it with replacement).
    """
    n = values.shape[-1]
    ordered = np.sort(values, axis=-1)
    ordered = ordered if lower else ordered[..., ::-1]
    weights = [math.comb(n - 1 - i, runs - 1) / math.comb(n, runs) for i in range(n)]
    return ordered[..., : n - runs + 1] @ np.array(weights[: n - runs + 1])


def bootstrap(
    values: Sequence[float],
    value: float,
    runs: int,
    statistic: Callable[[Array], Any],
    theirs: Callable[[Array], Any] | None = None,
    alpha: float = ALPHA,
    widen: float = 1.0,
) -> Difference:
    """Our statistic minus the paper's, by resampling; both are luck.

    The ends are taken at alpha / 2, and `widen` times as far, because resampling few numbers
    understates; docs/verdicts.md has the error rates that remain.

    A draw resamples our n runs for our statistic, and `runs` of them for the paper's, which is
    thereby assumed to scatter like ours. Draws are widened around each run by a normal kernel
    (Silverman & Young, Biometrika 74, 1987), because medians and extremes of few numbers take few
    values, and by sqrt(n / (n - 1)) t / z, because a percentile interval of few numbers is too
    narrow (Hesterberg, Am. Stat. 69, 2015, Sec. 3.2).

    Args:
        statistic: (draws, n) -> (draws,).
        theirs: the paper's, if it is another function of its runs.
    """
    random, n = np.random.default_rng(0), len(values)  # same runs, same verdict
    estimate = float(statistic(np.asarray(values, np.float64)[None])[0]) - value
    ours = statistic(_draws(values, n, random))
    resampled = ours - (theirs or statistic)(_draws(values, runs, random))
    return _around(estimate, resampled, n, alpha, widen)


def medians(
    values: Sequence[float], others: Sequence[float], alpha: float = ALPHA, widen: float = 1.0
) -> Difference:
    """The median of some runs minus that of others, both ours; each end is the further one of two.

    `bootstrap`'s, each side resampled from its own runs and the smaller one widening, is about the
    medians. But it errs in 14 % of cases where ten runs a side end in one of two places, one half
    here and one there: their medians jump. `shift`'s errs in at most 5 %, whatever the runs are
    like, where both sides are alike, but not if their medians are all that is.
    """
    random, sides = np.random.default_rng(0), (values, others)
    ours, theirs = (np.median(_draws(x, len(x), random), axis=-1) for x in sides)
    d = float(np.median(values) - np.median(others))
    found = _around(d, ours - theirs, min(map(len, sides)), alpha, widen)
    low, high = shift(values, others, alpha)
    return Difference(d, min(found.low, low), max(found.high, high))


def shift(
    values: Sequence[float], others: Sequence[float], alpha: float = ALPHA
) -> tuple[float, float]:
    """Interval of how much further up the values lie; infinite where they are too few.

    Of all n m differences the k-th smallest and the k-th largest, with the largest k for which
    Mann & Whitney's U is below k with a probability of at most alpha if all n + m are of one kind
    (Ann. Math. Stat. 18, 1947; Hodges & Lehmann, Ann. Math. Stat. 34, 1963). It is exact for
    any numbers without ties, and errs less often with them.
    """
    n, m = len(values), len(others)
    ways = np.zeros(n * m + 1)  # the C(n + m, n) arrangements by their U, prod (1-q^(m+i))/(1-q^i)
    ways[0] = 1
    for i in range(1, n + 1):
        ways[m + i :] -= ways[: max(n * m + 1 - m - i, 0)].copy()
        for u in range(i, n * m + 1):
            ways[u] += ways[u - i]
    k = int(np.searchsorted(np.cumsum(ways) / math.comb(n + m, n), alpha, side="right"))
    pairs = np.sort(np.subtract.outer(np.asarray(values, float), others), axis=None)
    return (float(pairs[k - 1]), float(pairs[-k])) if k else (-math.inf, math.inf)


def _draws(values: Sequence[float], size: int, random: np.random.Generator) -> Array:
    """Smoothed resamples, (RESAMPLES, size)."""
    x = np.asarray(values, dtype=np.float64)
    kernel = len(x) ** -0.2  # in standard deviations; shrinking the centres keeps the variance
    shrink = 1 / math.sqrt(1 + kernel**2)
    noise = kernel * deviation(values) * random.standard_normal((RESAMPLES, size))
    return x.mean() + shrink * (random.choice(x, (RESAMPLES, size)) - x.mean() + noise)


def _around(estimate: float, resampled: Array, n: int, alpha: float, widen: float) -> Difference:
    """The interval around an estimate: its half width is the further end of the resamples."""
    from scipy.special import ndtri

    alpha /= 2
    widen *= math.sqrt(n / (n - 1)) * float(t_quantile(1 - alpha, n - 1) / ndtri(1 - alpha))
    ends = np.quantile(resampled - np.median(resampled), [alpha, 1 - alpha])
    half = widen * float(np.abs(ends).max())
    return Difference(estimate, estimate - half, estimate + half)


# --- how many runs


@functools.cache
def power(paper: Paper, margin: float, spread: float, n: int, alpha: float = ALPHA) -> float:
    """How often n runs of a true match would be called equivalent.

    Our runs are normal with the given spread, the paper's with its own if it is known. Given our
    standard deviation, d is normal around 0; the mean over the former's law (chi, at midpoints of
    equal probability) remains.
    """
    from scipy.special import gammaincinv, ndtr

    share = (np.arange(100) + 0.5) / 100
    s = spread * np.sqrt(2 * gammaincinv((n - 1) / 2, share) / (n - 1))
    _, low, high = paper.difference(paper.value, s, n, alpha)
    room = np.maximum(margin - (high - low) / 2, 0)
    theirs = (paper.spread if paper.known else spread) ** 2 / paper.runs
    return float(np.mean(2 * ndtr(room / math.sqrt(spread**2 / n + theirs)) - 1))


def runs_for_power(
    paper: Paper, margin: float, spread: float, wanted: float = 0.9
) -> tuple[int | None, float]:
    """The smallest number of runs with that power, and the most that any number of runs gives.

    None if no number up to MOST_RUNS reaches it: then the paper's own runs are too few for the
    margin. Power need not rise with the number of runs: with one run of the paper, a few of ours
    may happen to scatter little, many never do.
    """
    totals = [*range(2, 61), *np.unique(np.geomspace(61, MOST_RUNS, 40).astype(int)).tolist()]
    most = 0.0
    for n in totals:
        here = power(paper, margin, spread, n)
        if here >= wanted:
            return n, here
        most = max(most, here)
    return None, most


def runs_to_decide(
    paper: Paper, margin: float, n: int, mean: float, spread: float, alpha: float = ALPHA
) -> int | None:
    """The smallest total beyond n at which the interval of delta would no longer hold an edge of
    the margin, if mean and spread stayed as they are. None if no total up to MOST_RUNS would."""
    totals = np.arange(max(2, n + 1), MOST_RUNS + 1)
    _, low, high = paper.difference(mean, spread, totals, alpha)
    decided = ((-margin <= low) & (high <= margin)) | (low > margin) | (high < -margin)
    enough = np.flatnonzero(decided)
    return int(totals[enough[0]]) if len(enough) else None


# --- looking after every run


@functools.cache
def spent_level(looks: tuple[int, ...], most: int, alpha: float = ALPHA) -> float:
    """One-sided level of the last of these looks, so that all looks together err at most `alpha`.

    After n of at most N runs, alpha (n/N)^2 may have been spent (Kim & DeMets, Biometrika 74,
    1987). What is left for a look follows from the joint law of the test statistics, which moves
    like a Brownian motion at the times n/N (Lan & DeMets, Biometrika 70, 1983; Armitage, McPherson
    & Rowe, J. R. Stat. Soc. A 132, 1969, for the recursion); t statistics are held against it
    by their p-values (Jennison & Turnbull, Group Sequential Methods, 2000, Sec. 3.8).

    Args:
        looks: numbers of runs at which the verdict was read, increasing, the last one now.
        most: planned number of runs N.
    """
    from scipy.special import ndtr

    times = np.minimum(np.array(looks) / most, 1.0)
    spent = 0.85 * alpha * times**SPENDING  # t of few runs wanders more than a Brownian motion
    level = float(spent[0])
    grid, density = np.zeros(1), np.ones(1)  # of the path, where it has not crossed
    before, done = 0.0, 0.0
    for time, total in zip(times, spent, strict=True):
        if time <= before:
            return level  # beyond the plan nothing is left; the last look's level stands
        step = math.sqrt(time - before)
        width = np.gradient(grid) if len(grid) > 1 else np.ones(1)
        mass = density * width

        def crossing(
            edge: float, mass: Array = mass, grid: Array = grid, step: float = step
        ) -> Any:
            return float(mass @ ndtr((grid - edge) / step))

        low, high = -8.0, 8.0
        for _ in range(60):
            edge = (low + high) / 2
            low, high = (edge, high) if crossing(edge) > total - done else (low, edge)
        level = float(ndtr(-edge / math.sqrt(time)))
        fresh = np.linspace(-8 * math.sqrt(time), edge, 801)
        kernel = np.exp(-0.5 * ((fresh[:, None] - grid) / step) ** 2) / (
            step * math.sqrt(2 * math.pi)
        )
        grid, density, before, done = fresh, kernel @ mass, time, total
    return level


# --- one further run


def prediction(values: Any, level: float = LEVEL) -> tuple[Any, Any]:
    """Where one further run is expected: mean -+ t s sqrt(1 + 1/n), along the first axis.

    (Geisser, Predictive Inference, 1993, Sec. 2.2.) It holds for normal numbers.
    """
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    half = t_quantile((1 + level) / 2, n - 1) * x.std(axis=0, ddof=1) * math.sqrt(1 + 1 / n)
    return x.mean(axis=0) - half, x.mean(axis=0) + half
