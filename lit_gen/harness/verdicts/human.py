"""How well people tell real images from generated ones: votes in, a share and its interval out.

Raters differ, and one image is easier than another; a rater gives many votes, and an image gets
votes of many raters, so that votes are not independent. With N votes of R raters, y = 1 where a
vote is right and p the mean of all y, the variance of p is taken by both ways of grouping them
(Cameron, Gelbach & Miller, J. Bus. Econ. Stat. 29, 2011; Owen, Ann. Appl. Stat. 1, 2007):

    V_raters = R / (R - 1)  sum over raters of (sum of y - p)^2 / N^2
    V_images = sum over kinds k of I_k / (I_k - 1)  sum over images of (sum of y - p_k)^2 / N^2
    V_votes  = sum over votes of (y - p_k)^2 / N^2
    se^2     = V_raters + max(0, V_images - V_votes)

where a kind k, real or generated, has I_k images and the mean p_k: half of what is shown is real by
design, so that the difference between kinds is no luck. p -+ t(0.975; R - 1) se is the interval; it
is never narrower than Wilson's for N independent votes, which is that of a single rater and holds
for him alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_gen.harness.spec import Claim
from lit_gen.harness.verdicts.statistics import ALPHA, LEVEL, Difference, t_quantile
from lit_gen.harness.verdicts.verdict import Verdict
from lit_gen.harness.words import number, plural, with_interval

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
METRICS = ("human/accuracy_percent", "human/error_percent")
MOST_RATERS = 1000  # more are not worth recommending


@dataclass(frozen=True)
class Votes:
    """One entry for each vote, (N,) each.

    Attributes:
        rater, image: numbers of whose vote it is, and of what was shown.
        generated: what the image is; `said` is what the rater took it for.
    """

    rater: Ints
    image: Ints
    generated: Bools
    said: Bools

    def __len__(self) -> int:
        return len(self.rater)


COLUMNS = tuple(each.name for each in fields(Votes))  # as records have them


def goes_on(later: Mapping[str, list[int]], earlier: Mapping[str, list[int]]) -> bool:
    """Whether votes, by COLUMNS, begin with all earlier ones of each rater, in their order."""
    # raters are numbered by their pseudonyms in order, so new ones come in between
    rest = iter(_by_rater(later))
    return all(any(now[: len(then)] == then for now in rest) for then in _by_rater(earlier))


def _by_rater(votes: Mapping[str, list[int]]) -> list[list[tuple[int, ...]]]:
    found: dict[int, list[tuple[int, ...]]] = {}
    for rater, *answer in zip(*(votes[name] for name in COLUMNS), strict=True):
        found.setdefault(rater, []).append(tuple(answer))
    return [found[rater] for rater in sorted(found)]


@dataclass(frozen=True)
class Measured:
    """What the votes say; shares are of 1.

    Attributes:
        accuracy: the share of right votes; low, high: its 95 % interval.
        se: its standard error over raters and images; None of a single rater.
        by_raters: the raters' part of se^2, which further raters make smaller.
        raters: (votes, right ones) of each.
        real, generated: the same of the votes on images of that kind.
        said_real: the share of the answer "real": 0.5 without a leaning.
        d_prime: distance of the kinds in standard deviations, whatever the leaning; 0 is chance.
    """

    accuracy: float
    low: float
    high: float
    se: float | None
    by_raters: float
    raters: tuple[tuple[int, int], ...]
    real: tuple[int, int]
    generated: tuple[int, int]
    said_real: float
    d_prime: float

    @property
    def votes(self) -> int:
        return sum(votes for votes, _ in self.raters)


def wilson(right: int, votes: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a share of independent votes (Wilson, J. Am. Stat. Assoc. 22, 1927).

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    """
    from scipy.special import ndtri

    z, p, n = float(ndtri((1 + level) / 2)), right / votes, votes
    centre = p + z**2 / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((centre + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    return (0.0 if right == 0 else low), (1.0 if right == votes else high)


def measure(votes: Votes) -> Measured:
    """What at least one vote says."""
    y = (votes.generated == votes.said).astype(float)
    n, p = len(y), float(y.mean())
    kinds = {k: votes.generated == k for k in (False, True)}
    low, high = wilson(int(y.sum()), n)
    se, by_raters = None, 0.0
    of_rater = _sums(votes.rater, y - p)
    if (count := len(of_rater)) > 1:
        by_raters = count / (count - 1) * float(of_rater @ of_rater) / n**2
        by_images = sum(_image_part(votes.image[k], y[k]) for k in kinds.values()) / n**2
        least = (high - low) / 2 / float(t_quantile((1 + LEVEL) / 2, np.inf))
        se = max(math.sqrt(by_raters + max(0.0, by_images)), least)
        half = float(t_quantile((1 + LEVEL) / 2, count - 1)) * se
        low, high = max(0.0, min(low, p - half)), min(1.0, max(high, p + half))
    real, generated = ((int(k.sum()), int(y[k].sum())) for k in kinds.values())
    own = [y[votes.rater == rater] for rater in np.unique(votes.rater)]
    return Measured(
        accuracy=p,
        low=low,
        high=high,
        se=se,
        by_raters=by_raters,
        raters=tuple((len(one), int(one.sum())) for one in own),
        real=real,
        generated=generated,
        said_real=float(1 - votes.said.mean()),
        d_prime=d_prime(real, generated),
    )


def _image_part(image: Ints, y: NDArray[np.float64]) -> float:
    """N^2 (V_images - V_votes) of one kind."""
    if not len(y):
        return 0.0
    rest = y - y.mean()
    sums = _sums(image, rest)
    if len(sums) < 2:
        return 0.0
    return len(sums) / (len(sums) - 1) * float(sums @ sums) - float(rest @ rest)


def _sums(group: Ints, x: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place = np.unique(group, return_inverse=True)
    return np.bincount(place, weights=x)


def d_prime(real: tuple[int, int], generated: tuple[int, int]) -> float:
    """z(hits) - z(false alarms), where a generated image that is called so is a hit.

    Half a vote is added to each answer, so that shares of 0 and 1 have a value (Hautus, Behav. Res.
    Methods 27, 1995).

    Args:
        real, generated: votes on images of that kind, and how many of them were right.
    """
    from scipy.special import ndtri

    hits = (generated[1] + 0.5) / (generated[0] + 1)
    alarms = (real[0] - real[1] + 0.5) / (real[0] + 1)
    return float(ndtri(hits) - ndtri(alarms))


# --- against the paper


def difference(measured: Measured, value: float, alpha: float = ALPHA) -> Difference | None:
    """Our accuracy minus the paper's, in shares; None of a single rater.

    The paper's number is another such test with raters and images of its own. How it scattered is
    not known: it is taken to be as uncertain as ours, so that the variance doubles.
    """
    if measured.se is None:
        return None
    degrees = len(measured.raters) - 1
    half = float(t_quantile(1 - alpha, degrees)) * math.sqrt(2) * measured.se
    d = measured.accuracy - value
    return Difference(d, d - half, d + half)


def judge(
    claim: Claim,
    measured: Measured,
    reproduction: str = "",
    protocol: str = "",
    reasons: tuple[str, ...] = (),
) -> Verdict:
    """What the votes say about a claim on `human/accuracy_percent` or `human/error_percent`.

    Args:
        reproduction, protocol: of the run whose samples were shown.
        reasons: why the number is not the paper's kind of number, if it is not.
    """
    error = claim.metric == "human/error_percent"
    shares = measured.accuracy, measured.low, measured.high
    mean, low, high = [100 * x for x in shares]
    if error:
        mean, low, high = 100 - mean, 100 - high, 100 - low
    d = difference(measured, (100 - claim.value if error else claim.value) / 100)
    if d is not None:
        ends = [100 * x for x in (d.estimate, d.low, d.high)]
        d = Difference(-ends[0], -ends[2], -ends[1]) if error else Difference(*ends)
    what = "error" if error else "correct"
    raters = len(measured.raters)
    said = (
        f"{with_interval(mean, low, high)} % {what} in {plural(measured.votes, 'vote')} of "
        f"{plural(raters, 'rater')}"
    )
    status, more = _status(claim, d), None
    if reasons:
        status, clause = "not comparable", "; ".join(reasons)
    elif d is None:
        clause = "how raters differ cannot be seen from one; at least 1 more rater"
    else:
        clause = _place(claim, d, status)
        if status == "inconclusive":
            more, outlook = _outlook(claim, measured, error)
            clause += f"; {outlook}"
    return Verdict(
        claim=claim,
        reproduction=reproduction,
        protocol=protocol,
        status=status,
        sentence=f"{status}: {said}; {clause}",
        n=raters,
        mean=mean,
        low=low,
        high=high,
        more=more,
        difference=None if d is None or reasons else (d.estimate, d.low, d.high),
        notes=_notes(d is not None and not reasons),
    )


def _status(claim: Claim, d: Difference | None) -> str:
    if d is None:
        return "inconclusive"
    if d.equivalent(claim.margin):
        return "reproduced"
    if d.above(claim.margin):
        return "better" if claim.better == "higher" else "worse"
    if d.below(claim.margin):
        return "better" if claim.better == "lower" else "worse"
    return "inconclusive"


def _place(claim: Claim, d: Difference, status: str) -> str:
    margin = number(claim.margin)
    place = {
        "reproduced": f"within the margin of {margin}",
        "inconclusive": f"across the margin of {margin}",
    }.get(status, f"wholly beyond the margin of {margin} ({claim.better} is better)")
    signed = "+" * (d.estimate > 0) + with_interval(d.estimate, d.low, d.high)
    return f"{signed} against the paper's, the {100 - 200 * ALPHA:.3g} % interval {place}"


def _outlook(claim: Claim, measured: Measured, error: bool) -> tuple[int | None, str]:
    """How many more raters would decide, and the clause that says so."""
    now = len(measured.raters)
    value = (100 - claim.value if error else claim.value) / 100
    d, margin = measured.accuracy - value, claim.margin / 100
    total = np.arange(now + 1, MOST_RATERS + 1)
    images = measured.se**2 - measured.by_raters
    se = np.sqrt(np.maximum(images, 0) + measured.by_raters * now / total)
    half: Any = t_quantile(1 - ALPHA, total - 1) * math.sqrt(2) * se
    decided = (abs(d) + half <= margin) | (abs(d) - half > margin)
    if not decided.any():
        return None, "no number of raters would decide as long as they vote like these"
    more = int(total[decided.argmax()]) - now
    return more, f"{plural(more, 'more rater')} would decide it, if they vote like these"


def _notes(compared: bool) -> tuple[str, ...]:
    ours = "The samples are of a model that we trained; the paper's own were never published."
    if not compared:
        return (ours,)
    return (
        ours,
        "The paper does not say how its raters differed; its number is taken to be as uncertain as "
        "ours.",
    )
