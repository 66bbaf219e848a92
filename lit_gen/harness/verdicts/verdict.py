"""Verdicts: what records say about a claim.

Records go in, numbers and plain words come out; no file is read and nothing is printed here.

A claim counts as met when our mean and the paper's differ by no more than its margin. Both are
means of a few runs, so the difference has an interval, and the words are read from it:

    reproduced      the interval of the difference lies within the margin, on both sides
    better, worse   it lies wholly beyond the margin, on that side
    inconclusive    anything else, with how many more seeds would settle it
    not comparable  our number is not the paper's kind of number, or nothing vouches for it

Each end of the interval is a one-sided test at 5 %; `statistics` has the formulas, their sources
and what they assume. What the paper's +- is decides which of them is valid, see `_paper`. A run
that diverged or crashed has no number that could be averaged: with one, a claim is never called
reproduced or better.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lit_gen.harness.record import Record
from lit_gen.harness.spec import CHOICES, Claim, Order, Seed, UserError, digest
from lit_gen.harness.verdicts import statistics
from lit_gen.harness.verdicts.ensembles import Predictions, ensembles
from lit_gen.harness.verdicts.statistics import ALPHA, Difference, Paper, interval
from lit_gen.harness.words import number, plural, unit, with_interval

RULES = ("last", "best_on_val", "best_on_test")
RUNS = ("seeds", "label subsets", "policies")  # a spread over these is one over trainings
FEWEST = {"median": 5, "best": 8}  # runs, below which resampling them says nothing
WIDEN = {"median": 1.0, "best": 2.0}  # see `statistics.bootstrap`
POWER = 0.9  # what is recommended


@dataclass(frozen=True)
class Verdict:
    """What the runs of one setting, protocol and configuration say about one claim.

    Attributes:
        status: reproduced, better, worse, inconclusive or not comparable.
        sentence: the same with its numbers and reasons, for people.
        n: independent numbers behind the mean: data seeds, or label subsets of an ensemble.
        low, high: 95 % interval of the mean; None below two numbers and for other statistics.
        more: further seeds (label subsets of an ensemble) that would decide; None if the verdict
            is given, or if no number of them would.
        leaning: the verdict they would give if mean and spread stayed as they are; "" if unknown.
        values: each finished run's number by its seed; each ensemble's by its label subset.
        alternatives: the mean under each selection rule; None where the runs do not tell.
        counts: runs finished, unfinished, diverged, crashed.
        details: further numbers, such as another way to average an ensemble.
        difference: ours minus the paper's, with the interval that the verdict is read from.
        not_worse: whether we are shown to be no worse than the paper by more than the margin.
        power: how often so many runs of a true match would be called reproduced.
        notes: what else a reader must know, a sentence each: the power, what the paper's ± allows,
            a number that was never verified.
    """

    claim: Claim
    reproduction: str
    protocol: str
    status: str
    sentence: str
    n: int = 0
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    more: int | None = None
    values: dict[str, float] = field(default_factory=dict)
    alternatives: dict[str, float | None] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()
    overrides: dict[str, Any] = field(default_factory=dict)
    details: dict[str, float] = field(default_factory=dict)
    difference: tuple[float, float, float] | None = None  # estimate, low, high
    not_worse: bool | None = None
    power: float | None = None
    notes: tuple[str, ...] = ()
    leaning: str = ""


# --- one run's number


def select(record: Record, claim: Claim | Order, rule: str | None = None) -> float:
    """The number of one finished run, by the claim's rule or another one.

        last           the test after the last epoch
        best_on_val    the curve's value at the epoch where val/<metric> is best
        best_on_test   the curve's best value: what looking at the test set would have given

    Of equal epochs the earliest counts. The number may be nan or infinite: the run's own doing.

    Raises:
        UserError: an unknown rule; the run did not log what the rule needs.
    """
    rule = rule or claim.select
    if rule not in RULES:
        raise UserError(
            f"The claim {claim.name!r} selects by {rule!r}. Write one of {', '.join(RULES)}."
        )
    if rule == "last":
        metrics = record.result.get("metrics", {})
        if claim.metric not in metrics:
            raise _not_logged(record, claim, claim.metric, metrics, "in its test")
        value = metrics[claim.metric]
        return math.nan if value is None else float(value)
    chooser = claim.metric
    if rule == "best_on_val":
        chooser = f"val/{claim.metric.partition('/')[2] or claim.metric}"
    rows = record.curve()
    for name in (claim.metric, chooser):
        if not any(name in row for row in rows):
            raise _not_logged(record, claim, name, {k for row in rows for k in row}, "in its curve")
    rows = [
        row for row in rows if claim.metric in row and math.isfinite(row.get(chooser, math.nan))
    ]
    sign = 1 if claim.better == "lower" else -1
    best = min(rows, key=lambda row: sign * row[chooser], default={})
    return float(best.get(claim.metric, math.nan))


def selections(record: Record, claim: Claim) -> dict[str, float | None]:
    """A run's number by every rule, so that nobody has to guess which one a number is."""
    numbers: dict[str, float | None] = {}
    for rule in RULES:
        try:
            numbers[rule] = select(record, claim, rule)
        except UserError:
            numbers[rule] = None
    return numbers


def unmeasured(claim: Claim | Order, record: Record) -> str:
    """Why a finished run has no number for the claim, though nothing is wrong; '' if it has."""
    if claim.select != "last" or claim.metric in record.result.get("metrics", {}):
        return ""
    if claim.metric.startswith("human/"):
        return f"people judge it: `reproduce human {record.reproduction}`"
    return record.provenance.get("not_beside", {}).get(claim.metric, "")


def _not_logged(
    record: Record, claim: Claim | Order, name: str, logged: Iterable[str], where: str
) -> UserError:
    names = ", ".join(sorted(logged)) or "nothing"
    return UserError(
        f"{record.reproduction} claims {claim.metric!r} ({claim.select}), but the run "
        f"{record.name} logged no {name!r} {where} (logged: {names})."
        "\nRename the claim's metric, or log it in the model."
    )


# --- which runs belong together


def group(record: Record) -> tuple[str, str, str, bool, str]:
    """Equal for two runs whose numbers may be averaged: all but the seed is the same."""
    return (
        record.reproduction,
        record.setting,
        record.protocol,
        record.smoke,
        digest(record.config),
    )


def judge_all(
    claim: Claim,
    records: Iterable[Record],
    predictions: Predictions | None = None,
    doubts: Callable[[list[Record]], Mapping[str, str]] = lambda records: {},
) -> list[Verdict]:
    """One verdict for each protocol and configuration among the records; what is as written in the
    reproduction comes first.

    Args:
        predictions, doubts: as in `judge`; doubts are asked for of each kind's records.
    """
    kinds: dict[tuple, list[Record]] = {}
    for record in _of(claim, records):
        kinds.setdefault(group(record), []).append(record)
    order = sorted(kinds.values(), key=lambda kind: (bool(kind[0].overrides), group(kind[0])))
    return [judge(claim, k, predictions=predictions, doubts=doubts(k)) for k in order]


def _of(claim: Claim, records: Iterable[Record]) -> list[Record]:
    """The records that can count: of the claim's setting, and no smoke runs; by seed."""
    kept = [r for r in records if r.setting == claim.setting and not r.smoke]
    return sorted(kept, key=lambda r: (r.key, started(r)))


def started(record: Record) -> str:
    return str(next(iter(record.provenance.get("segments", [])), {}).get("started", ""))


def judged(records: Sequence[Record]) -> list[Record]:
    """The records that count, one for each seed. A run done twice counts once, by its first
    finished record; a diverged one stays beside it, or bad luck could be rerolled."""
    rank = {"finished": 0, "stopped": 1, "running": 1, "crashed": 2}
    best: dict[tuple[Seed, bool], Record] = {}
    for record in sorted(records, key=lambda r: (rank.get(r.status, 0), started(r))):
        best.setdefault((record.key, record.status == "diverged"), record)
    return [best[key] for key in sorted(best)]


def tally(runs: Sequence[Record]) -> dict[str, int]:
    """How many of them finished, diverged, crashed, and did not finish."""
    counts = {s: sum(r.status == s for r in runs) for s in ("finished", "diverged", "crashed")}
    return counts | {"unfinished": len(runs) - sum(counts.values())}


def lost(runs: Sequence[Record]) -> list[str]:
    """Those that left no number and may have been the worse ones, in words."""
    states = {"diverged": "diverged", "crashed": "crashed", "stopped": "stopped before the end"}
    counts = {words: sum(r.status == s for r in runs) for s, words in states.items()}
    return [f"{count} {words}" for words, count in counts.items() if count]


def distinct(finished: Sequence[Record]) -> bool:
    """Whether all learned differently, so that equal numbers are no doubt of the seed's."""
    return len({repr(r.result.get("curve")) for r in finished}) == len(finished)


# --- the verdict


def judge(
    claim: Claim,
    records: Iterable[Record],
    protocol: str | None = None,
    predictions: Predictions | None = None,
    doubts: Mapping[str, str] | None = None,
) -> Verdict:
    """What the records say about the claim.

    Args:
        records: any; those of another setting and smoke runs are passed over.
        protocol: only the records of this one.
        predictions: gives a run's "logits" or "probabilities" (N, K) and "target" (N,), or None
            if it kept none; needed by ensembles.
        doubts: metrics that can give no verdict, and why.

    Raises:
        UserError: the records mix protocols or configurations (see `judge_all`), or lack the
            claim's metric; the claim itself makes no sense.
    """
    _check(claim)
    records = [r for r in _of(claim, records) if protocol in (None, r.protocol)]
    if len({group(r) for r in records}) > 1:
        raise UserError(
            f"The runs of {claim.setting} {claim.name} differ in more than their seeds: "
            f"{'; '.join(sorted({_variant(r) for r in records}))}. Judge each kind by itself."
        )
    runs = judged(records)
    finished = [r for r in runs if r.status == "finished"]
    counts = tally(runs)
    common = {
        "claim": claim,
        "reproduction": records[0].reproduction if records else "",
        "protocol": records[0].protocol if records else protocol or "",
        "counts": counts,
        "deviations": tuple(dict.fromkeys(d for r in records for d in r.deviations)),
        "overrides": records[0].overrides if records else {},
    }
    lacking, details = "", {}
    if claim.statistic == "ensemble":
        whole = ensembles(claim, finished, predictions or (lambda record: None))
        values, details, lacking = whole.values, whole.details, whole.lacking
        units = list(values.values())
        mean = float(np.mean(units)) if units and np.isfinite(units).all() else None
        alternatives = {"last": mean, "best_on_val": None, "best_on_test": None}
    else:
        if without := [why for r in finished if (why := unmeasured(claim, r))]:
            # nothing is said of the others: what could not be measured may have been worse
            said = f"no number of {plural(len(without), 'finished run')}: {without[0]}"
            sentence = f"inconclusive: {said}{casualties(counts)}"
            return Verdict(**common, status="inconclusive", sentence=sentence)
        values = {str(r.key): select(r, claim) for r in finished}
        units = list(by_data_seed(finished, list(values.values())).values())
        alternatives = _alternatives(claim, finished)
    common |= {"values": values, "alternatives": alternatives, "details": details}
    if reason := (doubts or {}).get(claim.metric) or not_comparable(claim, finished, values):
        sentence = f"not comparable: {reason}{casualties(counts)}"
        return Verdict(**common, status="not comparable", sentence=sentence)

    plan = _plan(records)
    found = _weigh(claim, units, level(records, len(units)), distinct(finished))
    gone = lost(runs)
    status = _status(claim, found, bool(gone))
    more, leaning, outlook = None, "", ""
    if status == "inconclusive":
        more, leaning, outlook = _outlook(claim, found, gone, plan and plan[1])
    subject = _subject(claim, found, len(finished))
    clauses = [f"{status}: {lacking}{subject}", _reason(claim, found, status), outlook]
    inside = found.difference is not None and (
        found.difference.not_above if claim.better == "lower" else found.difference.not_below
    )(claim.margin)
    power, notes = _power(claim, found)
    if status != "inconclusive" or gone:
        notes = []
    if status == "inconclusive" and inside and not gone:
        notes = ["Shown is that it is not worse than the paper's by more than the margin.", *notes]
    return Verdict(
        **common,
        status=status,
        sentence="; ".join(c for c in clauses if c) + casualties(counts),
        n=found.n,
        mean=found.value,
        low=found.low,
        high=found.high,
        more=more,
        difference=found.difference
        and (found.difference.estimate, found.difference.low, found.difference.high),
        not_worse=None if found.difference is None else bool(inside and not gone),
        power=power,
        notes=(*notes, *_caveats(claim)),
        leaning=leaning,
    )


@dataclass(frozen=True)
class _Weighed:
    """Our runs against the paper's.

    Attributes:
        value: our statistic; low, high: the 95 % interval of a mean.
        alpha: level of each one-sided test.
        difference: None if there are too few runs, or no luck in them at all.
    """

    n: int
    value: float | None
    low: float | None
    high: float | None
    spread: float
    alpha: float
    difference: Difference | None


def _weigh(claim: Claim, units: Sequence[float], alpha: float, distinct: bool) -> _Weighed:
    """
    Equal runs that learned differently give medians an interval without width: the median lies
    above all n of them, or below, with a probability of at most 2^-n each (order statistics; Hahn &
    Meeker, Statistical Intervals, 1991, Sec. 5.2).

    Args:
        distinct: the runs learned differently, so that equal numbers are no doubt of the seed's.
    """
    n, spread = len(units), statistics.deviation(units)
    if not n:
        return _Weighed(0, None, None, None, 0.0, alpha, None)
    paper = _paper(claim)
    fair = spread > 0 or (paper.known and paper.spread == 0 and n > 2)
    certain = distinct and 2.0**-n <= alpha  # that their median lies within [x_(1), x_(n)]
    if claim.statistic in FEWEST:
        x, runs, lower = np.asarray(units, float), paper.runs, claim.better == "lower"
        if claim.statistic == "median":
            difference = statistics.bootstrap(
                units, claim.value, runs, lambda a: np.median(a, axis=-1), alpha=alpha,
                widen=WIDEN["median"],
            ) if n >= FEWEST["median"] and (fair or certain) else None  # fmt: skip
            return _Weighed(n, float(np.median(x)), None, None, spread, alpha, difference)
        if n < max(runs, FEWEST["best"]):
            return _Weighed(
                n, float(x.min() if lower else x.max()), None, None, spread, alpha, None
            )
        difference = statistics.bootstrap(
            units,
            claim.value,
            runs,
            lambda a: statistics.expected_best(a, runs, lower),
            lambda a: a.min(axis=-1) if lower else a.max(axis=-1),
            alpha=alpha,
            widen=WIDEN["best"],
        ) if fair else None  # fmt: skip
        best = float(statistics.expected_best(x, runs, lower))
        return _Weighed(n, best, None, None, spread, alpha, difference)
    mean, low, high, _ = interval(units)
    capped = not spread and paper.known and distinct and n > 2  # all at the best, or the worst
    scatter = paper.spread if capped else None
    difference = statistics.difference(units, paper, alpha, scatter) if fair or capped else None
    return _Weighed(n, mean, low, high, spread, alpha, difference)


def _paper(claim: Claim) -> Paper:
    """What the paper's number is made of, as far as a comparison may use it.

    Its +- counts only if it is over trainings. Papers rarely say whether they divided by n or by
    n - 1; taking it for n is the cautious reading. A number of runs that nobody stated is 1.
    """
    if claim.raw:
        return Paper(float(np.mean(claim.raw)), statistics.deviation(claim.raw), len(claim.raw))
    runs = claim.runs or 1
    if claim.spread is None or claim.spread_over not in RUNS or runs < 2:
        return Paper(claim.value, None, runs)
    return Paper(claim.value, claim.spread * math.sqrt(runs / (runs - 1)), runs)


def _plan(records: Sequence[Record]) -> tuple[int, int] | None:
    """The plan to look after every seed, if these runs follow one: runs at the first look, and in
    all. It stands in the provenance of the runs that were made for it."""
    plans = [plan for r in records if isinstance(plan := r.provenance.get("plan"), dict)]
    if not plans:
        return None
    return min(int(p["first"]) for p in plans), max(int(p["most"]) for p in plans)


def level(records: Sequence[Record], n: int) -> float:
    """Level of each test now: 5 %, or what a plan of these runs has left for this look."""
    plan = _plan(records)
    if plan is None or n < 2:
        return ALPHA
    first, most = plan
    return statistics.spent_level(tuple(range(min(max(2, first), n), n + 1)), max(most, 2))


def _status(claim: Claim, found: _Weighed, lost: bool) -> str:
    if found.difference is None:
        return "inconclusive"
    for status, holds in (
        ("reproduced", found.difference.equivalent),
        ("better" if claim.better == "lower" else "worse", found.difference.below),
        ("worse" if claim.better == "lower" else "better", found.difference.above),
    ):
        if holds(claim.margin):
            return "inconclusive" if lost and status != "worse" else status
    return "inconclusive"


def _reason(claim: Claim, found: _Weighed, status: str) -> str:
    """The clause that explains the status."""
    if found.difference is None:
        if found.n > 1 and not found.spread:
            return "all are equal, does the seed reach the model?"
        return "one run has no interval" if found.n == 1 else ""
    d, margin = found.difference, number(claim.margin)
    level = f"{100 - 200 * found.alpha:.3g} % interval"
    place = {
        "reproduced": f"within the margin of {margin}",
        "inconclusive": f"across the margin of {margin}",
    }.get(status, f"wholly beyond the margin of {margin} ({claim.better} is better)")
    if status == "inconclusive" and d.equivalent(claim.margin):
        place = f"within the margin of {margin}"
    elif status == "inconclusive" and (d.above(claim.margin) or d.below(claim.margin)):
        place = f"wholly beyond the margin of {margin} ({claim.better} is better)"
    signed = "+" * (d.estimate > 0) + with_interval(d.estimate, d.low, d.high)
    said = f"{signed} against the paper's, the {level} {place}"
    if not found.spread and d.low < d.high:
        said += ", if ours, which are all equal, scatter as the paper's"
    return said


def _outlook(
    claim: Claim, found: _Weighed, lost: Sequence[str], planned: int | None
) -> tuple[int | None, str, str]:
    """How many more seeds would decide, for which verdict, and the clause that says so."""
    n, paper, value = found.n, _paper(claim), found.value
    word = _status(claim, found, False)
    if lost and value is not None:
        runs = " and ".join(lost)
        if word in ("reproduced", "better"):
            return None, "", f"it would be {word}, but {runs}: none of these may be left out"
        sign = 1 if claim.better == "lower" else -1
        if sign * (value - paper.value) <= claim.margin:
            return None, "", f"{runs}: with these it cannot be called reproduced"
    if planned is not None:
        left = planned - n
        return (left or None, "", f"{plural(left, f'more {_unit(claim)}')} in the plan") if (
            left > 0
        ) else (None, "", f"the plan's {plural(planned, _unit(claim))} are spent")  # fmt: skip
    if claim.statistic in FEWEST:
        fewest = max(FEWEST[claim.statistic], paper.runs if claim.statistic == "best" else 0)
        if n < fewest:
            return fewest - n, "", f"at least {plural(fewest - n, f'more {_unit(claim)}')}"
        return None, "", "how many more would decide cannot be told for this statistic"
    if not found.spread:  # too few runs, or all equal
        if n > 1:
            return None, "", "without a spread nothing can be planned"
        total = max(2, claim.runs or 0)
        more = plural(total - n, f"more {_unit(claim)}")
        power = planned_power(claim, total)
        if power is None:
            return 2 - n, "", f"at least {plural(2 - n, _unit(claim))} more to see a spread"
        return (
            total - n, "",
            f"{more} would call a true match reproduced in {percent(power)} of cases, if they "
            "scatter as the paper's",
        )  # fmt: skip
    total = statistics.runs_to_decide(paper, claim.margin, n, value, found.spread)
    if total is None:
        return None, "", "no number of seeds would decide as long as the mean stays where it is"
    then = Difference(*map(float, paper.difference(value, found.spread, total)))
    word = _status(claim, replace(found, difference=then), False)
    more = plural(total - n, f"more {_unit(claim)}")
    clause = f"{more} would decide it as {word}, if mean and spread stayed exactly as they are"
    return total - n, word, clause


def planned_power(claim: Claim, n: int) -> float | None:
    """How often n seeds of a true match would be called reproduced, if they scatter as the paper's
    do; None where that is not known."""
    paper = _paper(claim)
    if claim.statistic in FEWEST or not paper.spread or n < 2:
        return None
    return statistics.power(paper, claim.margin, paper.spread, n)


def _power(claim: Claim, found: _Weighed) -> tuple[float | None, list[str]]:
    """How often such runs would show a true match, and what more runs would give."""
    paper = _paper(claim)
    spread = found.spread if found.n > 2 or not paper.spread else paper.spread
    if claim.statistic in FEWEST or not spread or found.n < 2:
        return None, []
    power = statistics.power(paper, claim.margin, spread, found.n, found.alpha)
    wanted, most = statistics.runs_for_power(paper, claim.margin, spread, POWER)
    unit = _unit(claim)
    note = f"If the truth were the paper's number, {plural(found.n, unit)} would show it in "
    note += "" if power < 0.01 else "about "
    note += f"{percent(power)} of cases"
    if wanted is None:
        own = plural(paper.runs, "run")
        limit = "as much as 1 %" if most < 0.01 else f"more than {percent(most)}"
        note += f"; no number of {unit}s in {limit}, as the paper has only {own}"
    elif wanted > found.n:
        note += f", {plural(wanted - found.n, f'more {unit}')} in {percent(POWER)}"
    return power, [f"{note}."]


def percent(share: float) -> str:
    return "fewer than 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def _caveats(claim: Claim) -> list[str]:
    """What the paper's own number leaves open."""
    said = []
    runs = "one run" if not claim.runs else plural(claim.runs, "run")
    if claim.evidence == "recalled":
        said.append("The paper's number is an unverified transcription.")
    if claim.raw:
        said.append(f"Compared with {plural(len(claim.raw), 'run')} that the authors published.")
    elif claim.spread is None or claim.spread_over not in RUNS:
        over = {
            "splits": "The paper's ± is over splits of one sample set",
            "episodes": "The paper's ± is over episodes of one policy",
        }.get(claim.spread_over, "What the paper's ± is over is not stated")
        if claim.spread is None:
            over = "The paper gives no spread"
        scatter = "its run is" if (claim.runs or 1) == 1 else f"its {runs} are"
        said.append(f"{over}; {scatter} taken to scatter like ours.")
    if not claim.runs:
        said.append("How many runs the paper's number is of is not stated; one is assumed.")
    elif claim.runs == 1:
        said.append("The paper's number is of one run: its luck cannot be told from its method.")
    return said


def _check(claim: Claim) -> None:
    if claim.margin is None:
        raise UserError(
            f"The claim {claim.name!r} takes the paper's spread as its margin, but {claim.setting} "
            "reports none. Give a margin in numbers."
        )
    if claim.better not in CHOICES["better"]:
        raise UserError(f"The claim {claim.name!r} has better: {claim.better!r}; lower or higher?")
    if claim.statistic not in CHOICES["statistic"]:
        raise UserError(
            f"The claim {claim.name!r} has the statistic {claim.statistic!r}. "
            f"Known are {', '.join(CHOICES['statistic'])}."
        )
    for what in ("value", "margin", "spread"):
        x = getattr(claim, what)
        if x is not None and not math.isfinite(x):
            raise UserError(
                f"The claim {claim.name!r} of {claim.setting} has the {what} {x}. Give a number."
            )
    if claim.margin <= 0:
        raise UserError(
            f"The claim {claim.name!r} of {claim.setting} has the margin {claim.margin}. Nothing "
            "is ever that equal: give a positive one."
        )


def by_data_seed(records: Sequence[Record], numbers: Sequence[float]) -> dict[int, float]:
    """Means over the runs that share a data seed. Runs on the same data are not independent: ten
    models on one label subset say little about other subsets."""
    shared: dict[int, list[float]] = {}
    for record, value in zip(records, numbers, strict=True):
        shared.setdefault(record.key.data, []).append(value)
    return {seed: float(np.mean(values)) for seed, values in shared.items()}


def _alternatives(claim: Claim, finished: Sequence[Record]) -> dict[str, float | None]:
    means: dict[str, float | None] = dict.fromkeys(RULES)
    every = [selections(r, claim) for r in finished]
    for rule in RULES:
        numbers = [s[rule] for s in every]
        if numbers and all(x is not None and math.isfinite(x) for x in numbers):
            means[rule] = float(np.mean([*by_data_seed(finished, numbers).values()]))
    return means


def not_comparable(
    claim: Claim | Order, finished: Sequence[Record], values: dict[str, float]
) -> str:
    """Why the numbers cannot be held against the paper's; '' if they can."""
    lost = [f"seed {k} gave {v}" for k, v in values.items() if not math.isfinite(v)]
    if lost:
        return f"{claim.metric} is not a number in every finished run ({', '.join(lost)})"
    data = {r.provenance.get("data") for r in finished} - {None}
    if len(data) > 1:
        names = ", ".join(sorted(str(d)[:8] for d in data))
        return f"the runs saw different data files ({names}); run all seeds on the same ones"
    return ""


def _unit(claim: Claim) -> str:
    return "label subset" if claim.statistic == "ensemble" else "seed"


def _subject(claim: Claim, found: _Weighed, runs: int) -> str:
    if found.value is None:
        return "no finished run yet" if not runs else "no number yet"
    over = plural(found.n, _unit(claim))
    if claim.statistic == "mean" and runs > found.n:
        over = f"{plural(found.n, 'data seed')} ({runs} runs)"
    what = f"{claim.statistic} " if claim.statistic in FEWEST else ""
    said = with_interval(found.value, found.low, found.high)
    return f"{what}{said} {unit(claim.metric)} over {over}"


def casualties(counts: dict[str, int], whose: str = "") -> str:
    """'; 1 of 5 runs crashed', or '' if all finished."""
    total = sum(counts.values())
    names = [s for s in ("diverged", "crashed", "unfinished") if counts[s]]
    words = [f"{counts[s]} of {plural(total, 'run')}{whose} {s}" for s in names]
    return "".join(f"; {w}" for w in words).replace(" unfinished", " not finished")


def _variant(record: Record) -> str:
    changes = digest(record.config)[:8]
    return f"{record.reproduction} {record.protocol} {record.overrides or 'as written'} ({changes})"
