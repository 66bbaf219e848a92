"""Orders: whether one setting does better than another, as a paper's curves show without a number.

Both sides are runs of ours. With d = the median (mean) of the one less that of the other, signed so
that better is positive,

    reproduced      the interval of d lies wholly above 0
    worse           it lies wholly below 0
    inconclusive    anything else
    not comparable  as of a claim, see `verdict`

Each end of the interval is a one-sided test at 5 %; `statistics` has the formulas. A run that was
lost has no number: one on either side keeps an order from being called reproduced, one of the other
setting from being called worse.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lit_gen.harness.record import Record
from lit_gen.harness.spec import Order, UserError, digest
from lit_gen.harness.verdicts import statistics
from lit_gen.harness.verdicts.statistics import Difference, Paper
from lit_gen.harness.verdicts.verdict import (
    FEWEST,
    WIDEN,
    by_data_seed,
    casualties,
    distinct,
    judged,
    level,
    lost,
    not_comparable,
    select,
    started,
    tally,
    unmeasured,
)
from lit_gen.harness.words import number, plural, unit, with_interval


@dataclass(frozen=True)
class Side:
    """The runs of one of the two settings; the fields of `Verdict` mean the same.

    Attributes:
        value: their median or mean; None without a number.
        more: further seeds without which nothing can be said.
    """

    setting: str
    n: int
    value: float | None
    values: dict[str, float]
    counts: dict[str, int]
    more: int


@dataclass(frozen=True)
class Ranking:
    """What the runs of two settings, by one protocol and with the same changes by the user, say
    about their order; the fields of `Verdict` mean the same.

    Attributes:
        sides: the setting that should do better, and the other.
        difference: the one less the other, better is positive; None if there are too few runs.
    """

    order: Order
    reproduction: str
    protocol: str
    status: str
    sentence: str
    sides: tuple[Side, Side]
    difference: tuple[float, float, float] | None = None  # estimate, low, high
    deviations: tuple[str, ...] = ()
    overrides: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def claim(self) -> Order:
        """What it is about, as a verdict's claim."""
        return self.order

    @property
    def n(self) -> list[int]:
        return [side.n for side in self.sides]

    @property
    def mean(self) -> float | None:
        """The difference; None without one."""
        return self.difference and self.difference[0]

    @property
    def values(self) -> dict[str, dict[str, float]]:
        return {side.setting: side.values for side in self.sides}

    @property
    def more(self) -> int:
        return sum(side.more for side in self.sides)


def judge_all(
    order: Order,
    records: Iterable[Record],
    doubts: Callable[[list[Record]], Mapping[str, str]] = lambda records: {},
) -> list[Ranking]:
    """One for each protocol and each set of the user's changes by which either setting was run;
    what is as written in the reproduction comes first."""
    kinds: dict[tuple, list[Record]] = {}
    for record in records:
        if record.setting in (order.setting, order.over) and not record.smoke:
            key = bool(record.overrides), record.protocol, digest(record.overrides)
            kinds.setdefault(key, []).append(record)
    return [judge(order, kinds[key], doubts(kinds[key])) for key in sorted(kinds)]


def judge(
    order: Order, records: Iterable[Record], doubts: Mapping[str, str] | None = None
) -> Ranking:
    """What the records say about the order.

    Args:
        records: any of one protocol and with the same changes; those of other settings and smoke
            runs are passed over.
        doubts: metrics that can give no verdict, and why.

    Raises:
        UserError: the records mix protocols or changes (see `judge_all`), or lack the metric.
    """
    both = (order.setting, order.over)
    records = [r for r in records if r.setting in both and not r.smoke]
    records.sort(key=lambda r: (r.key, started(r)))
    if len({(r.protocol, digest(r.overrides)) for r in records}) > 1:
        raise UserError(
            f"The runs of {' and '.join(both)} differ in protocol or in what was changed. Judge "
            "each kind by itself."
        )
    runs = {s: judged([r for r in records if r.setting == s]) for s in both}
    finished = {s: [r for r in runs[s] if r.status == "finished"] for s in both}
    every = [r for s in both for r in finished[s]]
    without = [why for r in every if (why := unmeasured(order, r))]
    values: dict[str, dict[str, float]] = {s: {} for s in both}
    if not without:
        values = {s: {str(r.key): select(r, order) for r in finished[s]} for s in both}
    units = {
        s: list(by_data_seed(finished[s], list(values[s].values())).values()) if values[s] else []
        for s in both
    }
    named = {f"{seed} of {s}": value for s in both for seed, value in values[s].items()}
    reason = (
        (doubts or {}).get(order.metric)
        or _mixed(records, both)
        or not_comparable(order, every, named)
    )
    fewest = 0 if without or reason else FEWEST.get(order.statistic, 2)
    sides = [
        Side(s, len(units[s]), _middle(order, units[s]), values[s], tally(runs[s]),
             max(0, fewest - len(units[s])))
        for s in both
    ]  # fmt: skip

    def said(status: str, words: str, difference: Difference | None = None) -> Ranking:
        words += "".join(casualties(side.counts, f" of {side.setting}") for side in sides)
        known = difference and (difference.estimate, difference.low, difference.high)
        recalled = order.evidence == "recalled"
        return Ranking(
            order=order,
            reproduction=records[0].reproduction if records else "",
            protocol=records[0].protocol if records else "",
            status=status,
            sentence=f"{status}: {words}",
            sides=(sides[0], sides[1]),
            difference=known,
            deviations=tuple(dict.fromkeys(d for r in records for d in r.deviations)),
            overrides=records[0].overrides if records else {},
            notes=("The paper's order is an unverified transcription.",) * recalled,
        )

    if without:
        return said(
            "inconclusive", f"no number of {plural(len(without), 'finished run')}: {without[0]}"
        )
    if reason:
        return said("not comparable", reason)
    words = [f"{order.statistic} {unit(order.metric)} {_shown(sides)}"]
    if more := [
        f"{plural(side.more, 'more seed')} of {side.setting}" for side in sides if side.more
    ]:
        return said("inconclusive", "; ".join([*words, f"at least {' and '.join(more)}"]))
    stuck = [s for s in both if len({*units[s]}) == 1 and not distinct(finished[s])]
    if stuck:
        why = f"all of {' and '.join(stuck)} are equal, does the seed reach the model?"
        return said("inconclusive", "; ".join([*words, why]))
    alpha = min(level([r for r in records if r.setting == s], len(units[s])) for s in both)
    found = _difference(order, *units.values(), alpha)
    if found is None:
        why = "too few for the level that their plan has left"
        if order.statistic == "mean":
            why = "all are equal on both sides, and without a spread means have no interval"
        return said("inconclusive", "; ".join([*words, why]))
    status = "reproduced" if found.low > 0 else "worse" if found.high < 0 else "inconclusive"
    place = {"reproduced": "wholly above 0", "worse": "wholly below 0"}.get(status, "across 0")
    signed = "+" * (found.estimate > 0) + with_interval(found.estimate, found.low, found.high)
    words.append(
        f"{signed} in favour of {order.setting}, the {100 - 200 * alpha:.3g} % interval {place}"
    )
    gone = [f"{what} of {s}" for s in both for what in lost(runs[s])]
    if (status == "reproduced" and gone) or (status == "worse" and lost(runs[order.over])):
        words.append(
            f"it would be {status}, but {' and '.join(gone)}: none of these may be left out"
        )
        status = "inconclusive"
    elif status == "inconclusive":
        words.append("how many more seeds would decide cannot be told")
    return said(status, "; ".join(words), found)


def _middle(order: Order, units: Sequence[float]) -> float | None:
    of = np.median if order.statistic == "median" else np.mean
    return float(of(units)) if units and np.isfinite(units).all() else None


def _mixed(records: Sequence[Record], both: Sequence[str]) -> str:
    """That runs of one side differ in more than their seeds; '' if they do not."""
    for setting in both:
        if len({digest(r.config) for r in records if r.setting == setting}) > 1:
            return (
                f"the runs of {setting} differ in more than their seeds; move those of an earlier "
                "configuration away"
            )
    return ""


def _difference(
    order: Order, ours: Sequence[float], theirs: Sequence[float], alpha: float
) -> Difference | None:
    """The difference, better is positive; None if they are too few for this level, or their means
    are of equal numbers on both sides."""
    sign = 1 if order.better == "higher" else -1
    ours, theirs = ([sign * x for x in each] for each in (ours, theirs))
    if order.statistic == "median":
        found = statistics.medians(ours, theirs, alpha, WIDEN["median"])
        return found if math.isfinite(found.high - found.low) else None
    spreads = statistics.deviation(ours), statistics.deviation(theirs)
    if not any(spreads):
        return None
    one, other = (spread or max(spreads) for spread in spreads)  # hidden at an end of the scale
    paper = Paper(float(np.mean(theirs)), other, len(theirs))
    return statistics.difference(ours, paper, alpha, one)


def _shown(sides: Iterable[Side]) -> str:
    """'0.42 of vime over 10 seeds, 0.01 of trpo over 10 seeds'"""
    return ", ".join(
        f"{number(side.value)} of {side.setting} over {plural(side.n, 'seed')}"
        if side.n
        else f"no number of {side.setting} yet"
        for side in sides
    )
