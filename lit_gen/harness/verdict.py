"""Verdicts: what records say about a claim.

Numbers go in, numbers and plain words come out; no file is read and nothing is printed here.

A claim counts as met when our mean lies within `margin` of the paper's value. Whether it does is
told by a 95 % interval of our mean, so the words mean: given these seeds, is the question settled?

    reproduced      the whole interval lies in the band [value - margin, value + margin]
    better, worse   the whole interval lies beyond the band, on that side
    inconclusive    anything else, with how many more seeds would settle it
    not comparable  our number is not the paper's kind of number

The first three are an equivalence test by interval inclusion (Schuirmann, J. Pharmacokinet.
Biopharm. 15, 1987), at 2.5 % on each side rather than his 5 %.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lit_gen.harness.record import Record
from lit_gen.harness.spec import Claim, Seed, UserError, digest

LEVEL = 0.95  # of every interval
MOST_RUNS = 1000  # more are not worth recommending
NO_NUMBER = "no number of seeds would help as long as the mean sits at the band's edge"
RULES = ("last", "best_on_val", "best_on_test")
STATISTICS = ("mean", "ensemble")

Predictions = Callable[[Record], dict[str, np.ndarray] | None]


@dataclass(frozen=True)
class Verdict:
    """What the runs of one setting, protocol and configuration say about one claim.

    Attributes:
        status: reproduced, better, worse, inconclusive or not comparable.
        sentence: the same with its numbers and reasons, for people.
        n: independent numbers behind the mean: data seeds, or label subsets of an ensemble.
        low, high: 95 % interval of the mean; None below two numbers.
        more: further seeds (label subsets of an ensemble) that would decide; None if the verdict
            is given, or if no number of them would.
        values: each finished run's number by its seed; each ensemble's by its label subset.
        alternatives: the mean under each selection rule; None where the runs do not tell.
        counts: runs finished, unfinished, diverged, crashed.
        details: further numbers, such as another way to average an ensemble.
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


@dataclass(frozen=True)
class Progress:
    """How a run that is not finished does beside stored ones at the same epoch.

    Attributes:
        status: on track, off track, too early or no reference.
        epoch: where it is compared, the last one with a value.
        low, high: between these a run like the n stored ones is expected.
    """

    claim: Claim
    reproduction: str
    protocol: str
    seed: Seed
    status: str
    sentence: str
    epoch: int
    max_epochs: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    deviations: tuple[str, ...] = ()


# --- one run's number


def select(record: Record, claim: Claim, rule: str | None = None) -> float:
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


def _not_logged(
    record: Record, claim: Claim, name: str, logged: Iterable[str], where: str
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
    claim: Claim, records: Iterable[Record], predictions: Predictions | None = None
) -> list[Verdict]:
    """One verdict for each protocol and configuration among the records; what is as written in the
    reproduction comes first."""
    groups: dict[tuple, list[Record]] = {}
    for record in _of(claim, records):
        groups.setdefault(group(record), []).append(record)
    order = sorted(groups.values(), key=lambda g: (bool(g[0].overrides), group(g[0])))
    return [judge(claim, members, predictions=predictions) for members in order]


def _of(claim: Claim, records: Iterable[Record]) -> list[Record]:
    """The records that can count: of the claim's setting, and no smoke runs; by seed."""
    kept = [r for r in records if r.setting == claim.setting and not r.smoke]
    return sorted(kept, key=lambda r: (r.key, _started(r)))


def _started(record: Record) -> str:
    return str(next(iter(record.provenance.get("segments", [])), {}).get("started", ""))


def _distinct(records: Sequence[Record]) -> list[Record]:
    """One record for each seed. A run done twice counts once, by its first finished record; a
    diverged one stays beside it, or bad luck could be rerolled."""
    rank = {"finished": 0, "stopped": 1, "running": 1, "crashed": 2}
    best: dict[tuple[Seed, bool], Record] = {}
    for record in sorted(records, key=lambda r: (rank.get(r.status, 0), _started(r))):
        best.setdefault((record.key, record.status == "diverged"), record)
    return [best[key] for key in sorted(best)]


# --- the verdict


def judge(
    claim: Claim,
    records: Iterable[Record],
    protocol: str | None = None,
    predictions: Predictions | None = None,
) -> Verdict:
    """What the records say about the claim.

    Args:
        records: any; those of another setting and smoke runs are passed over.
        protocol: only the records of this one.
        predictions: gives a run's "logits" or "probabilities" (N, K) and "target" (N,), or None
            if it kept none; needed by ensembles.

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
    runs = _distinct(records)
    finished = [r for r in runs if r.status == "finished"]
    counts = {s: sum(r.status == s for r in runs) for s in ("finished", "diverged", "crashed")}
    counts["unfinished"] = len(runs) - sum(counts.values())
    common = {
        "claim": claim,
        "reproduction": records[0].reproduction if records else "",
        "protocol": records[0].protocol if records else protocol or "",
        "counts": counts,
        "deviations": tuple(dict.fromkeys(d for r in records for d in r.deviations)),
        "overrides": records[0].overrides if records else {},
    }
    if claim.statistic == "ensemble":
        units, values, alternatives, details, lacking = _ensembles(
            claim, finished, predictions or (lambda record: None)
        )
    else:
        values = {str(r.key): select(r, claim) for r in finished}
        units = list(_by_data_seed(finished, list(values.values())).values())
        alternatives = _alternatives(claim, finished)
        details, lacking = {}, ""
    common |= {"values": values, "alternatives": alternatives, "details": details}
    casualties = _casualties(counts)
    if reason := _not_comparable(claim, finished, values):
        return Verdict(
            **common,
            status="not comparable",
            sentence=f"not comparable: {reason}{casualties}",
        )

    n = len(units)
    mean, low, high, spread = interval(units) if n else (None, None, None, 0.0)
    status, more, words = _settle(claim, n, mean, low, high, spread, counts["diverged"] > 0)
    subject = _subject(claim, n, len(finished), mean, low, high)
    sentence = f"{status}: {lacking}{subject}; {words}{casualties}"
    return Verdict(
        **common, status=status, sentence=sentence, n=n, mean=mean, low=low, high=high, more=more
    )


def _settle(
    claim: Claim,
    n: int,
    mean: float | None,
    low: float | None,
    high: float | None,
    spread: float,
    diverged: bool,
) -> tuple[str, int | None, str]:
    """Status, seeds that would decide, and the clauses that explain both."""
    status = _compare(claim, low, high)
    band = f"{number(claim.band[0])} to {number(claim.band[1])}"
    if status in ("better", "worse"):
        side = "below" if (status == "better") == (claim.better == "lower") else "above"
        place = f"lies wholly {side} the claim's band, {band} ({claim.better} is better)"
    else:
        verb = "lies inside" if status == "reproduced" else "crosses the edge of"
        place = f"{verb} the claim's band, {band}"
    words = [f"the 95 % interval {place}"]
    if n < 2:
        words = ["one number has no interval"] if n else []
    elif not spread and claim.spread != 0:  # as luck or a bug has it; a width of 0 tells nothing
        status, words = "inconclusive", ["all are equal, does the seed reach the model?"]
    if diverged and status in ("reproduced", "better"):
        status = "inconclusive"
    more = None
    if status == "inconclusive":
        more, outlook = _outlook(claim, n, mean, spread, diverged)
        words.append(outlook)
    return status, more, "; ".join(words)


def interval(values: Sequence[float]) -> tuple[float, float | None, float | None, float]:
    """Mean, both ends of its 95 % interval, and the sample's standard deviation.

    mean -+ t(0.975; n - 1) s / sqrt(n), with s^2 = sum (x - mean)^2 / (n - 1)

    (Student, Biometrika 6, 1908). It assumes independent, roughly normal numbers; a single one has
    no interval.
    """
    x = np.asarray(values, dtype=np.float64)
    n, mean = len(x), float(x.mean())
    if n < 2:
        return mean, None, None, 0.0
    spread = 0.0 if (x == x[0]).all() else float(x.std(ddof=1))
    half = float(_t(n - 1) * spread / math.sqrt(n))
    return mean, mean - half, mean + half, spread


def runs_to_decide(claim: Claim, n: int, mean: float, spread: float) -> int | None:
    """The smallest total, beyond n, at which an interval would be expected to decide.

    The first N > n with

        t(0.975; N - 1) spread / sqrt(N)  <  | margin - |mean - value| |,

    the distance from the mean to the band's nearer edge: from inside, the interval then fits into
    the band; from outside, it clears it. Mean and spread are taken to stay as they are, so the
    truth may need more or fewer. None beyond 1000.
    """
    room = abs(claim.margin - abs(mean - claim.value))
    totals = np.arange(max(2, n + 1), MOST_RUNS + 1)
    enough = np.flatnonzero(_t(totals - 1) * spread / np.sqrt(totals) < room)
    return int(totals[enough[0]]) if len(enough) else None


def _t(degrees: Any) -> Any:
    """Quantile of Student's t at both ends of an interval."""
    from scipy.special import stdtrit  # here, because `reproduce list` needs to be quick

    return stdtrit(degrees, (1 + LEVEL) / 2)


def _check(claim: Claim) -> None:
    if claim.margin is None:
        raise UserError(
            f"The claim {claim.name!r} takes the paper's spread as its margin, but {claim.setting} "
            "reports none. Give a margin in numbers."
        )
    if claim.better not in ("lower", "higher"):
        raise UserError(f"The claim {claim.name!r} has better: {claim.better!r}; lower or higher?")
    if claim.statistic not in STATISTICS:
        raise UserError(
            f"The claim {claim.name!r} has the statistic {claim.statistic!r}. "
            f"Known are {' and '.join(STATISTICS)}."
        )


def _compare(claim: Claim, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "inconclusive"
    bottom, top = claim.band
    if bottom <= low and high <= top:
        return "reproduced"
    if high < bottom:
        return "better" if claim.better == "lower" else "worse"
    if low > top:
        return "worse" if claim.better == "lower" else "better"
    return "inconclusive"


def _by_data_seed(records: Sequence[Record], numbers: Sequence[float]) -> dict[int, float]:
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
            means[rule] = float(np.mean([*_by_data_seed(finished, numbers).values()]))
    return means


def _not_comparable(claim: Claim, finished: Sequence[Record], values: dict[str, float]) -> str:
    """Why the numbers cannot be held against the paper's; '' if they can."""
    lost = [f"seed {k} gave {v}" for k, v in values.items() if not math.isfinite(v)]
    if lost:
        return f"{claim.metric} is not a number in every finished run ({', '.join(lost)})"
    data = {r.provenance.get("data") for r in finished} - {None}
    if len(data) > 1:
        names = ", ".join(sorted(str(d)[:8] for d in data))
        return f"the runs saw different data files ({names}); run all seeds on the same ones"
    return ""


def _outlook(
    claim: Claim, n: int, mean: float | None, spread: float, diverged: bool
) -> tuple[int | None, str]:
    """How many more seeds would decide, and the clause that says so."""
    sign = 1 if claim.better == "lower" else -1
    on_worse_side = mean is not None and sign * (mean - claim.value) > claim.margin
    if diverged and not on_worse_side:
        return None, "with a diverged run, more seeds cannot make it reproduced"
    basis = "if mean and spread stay as they are"
    if not spread:  # too few runs, or all equal
        if not claim.spread:
            if n > 1:
                return None, "the paper's spread is not known either"
            return 2 - n, f"at least {_plural(2 - n, _unit(claim))} more to see a spread"
        spread = claim.spread
        basis = "if the spread is the paper's"
        basis += " and the mean stays" if n else " and the mean its value"
    total = runs_to_decide(claim, n, claim.value if mean is None else mean, spread)
    if total is None:
        return None, NO_NUMBER
    return total - n, f"{_plural(total - n, f'more {_unit(claim)}')} would decide {basis}"


def _unit(claim: Claim) -> str:
    return "label subset" if claim.statistic == "ensemble" else "seed"


def _subject(
    claim: Claim, n: int, runs: int, mean: float | None, low: float | None, high: float | None
) -> str:
    if mean is None:
        return "no finished run yet" if not runs else "no number yet"
    over = _plural(n, _unit(claim))
    if claim.statistic == "mean" and runs > n:
        over = f"{_plural(n, 'data seed')} ({runs} runs)"
    return f"{with_interval(mean, low, high)} {unit(claim.metric)} over {over}"


def _casualties(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    names = [s for s in ("diverged", "crashed", "unfinished") if counts[s]]
    words = [f"{counts[s]} of {_plural(total, 'run')} {s}" for s in names]
    return "".join(f"; {w}" for w in words).replace(" unfinished", " not finished")


def _variant(record: Record) -> str:
    changes = digest(record.config)[:8]
    return f"{record.reproduction} {record.protocol} {record.overrides or 'as written'} ({changes})"


# --- ensembles


def _ensembles(
    claim: Claim, finished: Sequence[Record], predictions: Predictions
) -> tuple[list[float], dict[str, float], dict[str, float | None], dict[str, float], str]:
    """One number for each label subset whose members have all finished.

    The members of a subset share seed.data and differ in seed.model; of more than `claim.members`
    the lowest model seeds count, so that nobody chooses.
    """
    if claim.select != "last":
        raise UserError(
            f"The ensemble claim {claim.name!r} selects by {claim.select!r}, but predictions are "
            "kept of the last epoch only. Write select: last."
        )
    if not claim.metric.endswith("errors"):
        raise UserError(
            f"The ensemble claim {claim.name!r} is about {claim.metric!r}; ensembles are counted "
            "in errors. Write metric: test/errors."
        )
    subsets: dict[int, list[Record]] = {}
    for record in sorted(finished, key=lambda r: r.key):
        subsets.setdefault(record.key.data, []).append(record)
    values, by_logits, lacking = {}, [], []
    for subset, members in subsets.items():
        enough = len(members) >= claim.members
        kept = [p for r in members if enough and (p := predictions(r)) is not None]
        if enough and len(kept) >= claim.members:
            values[str(subset)], other = ensemble_errors(kept[: claim.members])
            by_logits += [] if other is None else [other]
            continue
        words = f"{len(members)} of {claim.members} members of label subset {subset} finished"
        if enough:
            words += f", {len(kept)} kept their predictions"
        lacking.append(words)
    if len(lacking) > 2:
        lacking[1:] = [f"{len(lacking) - 1} more label subsets are incomplete"]
    units = list(values.values())
    mean = float(np.mean(units)) if units and np.isfinite(units).all() else None
    details = {"logits averaged": float(np.mean(by_logits))} if by_logits else {}
    alternatives = {"last": mean, "best_on_val": None, "best_on_test": None}
    return units, values, alternatives, details, "".join(f"{words}; " for words in lacking)


def ensemble_errors(members: Sequence[dict[str, np.ndarray]]) -> tuple[float, float | None]:
    """Errors of argmax_k sum_m p_m(k | x), and of argmax_k sum_m logit_m(k | x).

    The first averages probabilities, p_m = softmax(logits_m); the second is their normalised
    geometric mean, None where a member kept no logits. They differ where a confident member is
    wrong. nan if a number is not finite.

    Args:
        members: each with "target" (N,) and "logits" or "probabilities" (N, K), the same examples
            in the same order.

    Raises:
        UserError: the members saw different examples.
    """
    target = members[0]["target"]
    if any(not np.array_equal(m["target"], target) for m in members):
        raise UserError(
            "The members of an ensemble kept predictions of different examples. Were they run with "
            "the same test set, in the same order? Move the odd ones away."
        )

    def errors(scores: Sequence[np.ndarray]) -> float:
        total = np.sum(scores, axis=0, dtype=np.float64)  # (N, K)
        return float((total.argmax(-1) != target).sum()) if np.isfinite(total).all() else math.nan

    by_probability = errors([m.get("probabilities", softmax(m.get("logits"))) for m in members])
    if any("logits" not in m for m in members):
        return by_probability, None
    return by_probability, errors([m["logits"] for m in members])


def softmax(logits: np.ndarray | None) -> np.ndarray | None:
    """Class probabilities (N, K) in float64; None of None."""
    if logits is None:
        return None
    logits = np.asarray(logits, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        return odds / odds.sum(-1, keepdims=True)


# --- runs that are not finished


def progress(claim: Claim, record: Record, references: Iterable[Record]) -> Progress:
    """Whether a run does as well as stored ones did after the same number of epochs.

    With n >= 2 stored runs a new one is expected, at 95 %, within

        mean -+ t(0.975; n - 1) s sqrt(1 + 1/n)

    (prediction interval of one further normal observation; Geisser, Predictive Inference, 1993,
    Sec. 2.2), of logarithms if all values are positive. One stored run has no s: the larger of its
    root mean square change from epoch to epoch and the paper's spread stands in, with 1.96 for t.
    Nothing is extrapolated. A run on the better side of the interval is on track.

    Args:
        references: any records; those that count are finished, and equal in all but the seed and
            the precision of matrix products.
    """
    rows = record.curve()
    common = {
        "claim": claim,
        "reproduction": record.reproduction,
        "protocol": record.protocol,
        "seed": record.key,
        "max_epochs": record.max_epochs,
        "deviations": tuple(record.deviations),
    }

    def said(status: str, words: str, epoch: int = 0, **numbers: Any) -> Progress:
        return Progress(
            **common, status=status, sentence=f"{status}: {words}", epoch=epoch, **numbers
        )

    epoch = max((i for i, row in enumerate(rows, 1) if claim.metric in row), default=0)
    if not epoch:
        return said("too early", f"no {claim.metric} yet after {_plural(len(rows), 'epoch')}")
    value = rows[epoch - 1][claim.metric]
    now = f"{number(value)} {unit(claim.metric)} after {epoch} of {record.max_epochs} epochs"
    at = {"epoch": epoch, "value": value}
    if record.status == "diverged" or not math.isfinite(value):
        return said("off track", f"{now}, then the run diverged", **at)
    stored = _references(claim, record, references, epoch)
    others = np.array([r.curve()[epoch - 1][claim.metric] for r in stored])
    if not len(others):
        return said("no reference", f"{now}; no stored run to compare with", **at)

    log = value > 0 and (others > 0).all()
    there, back = (np.log, np.exp) if log else (np.array, float)
    x, n = there(others), len(others)
    if n > 1 and (x != x[0]).any():
        spread, factor = float(x.std(ddof=1)), _t(n - 1)
        basis = f"95 % prediction interval of {n} stored runs"
    else:
        curve = [row.get(claim.metric, math.nan) for row in stored[0].curve()[:epoch]]
        curve = np.array([v for v in curve if math.isfinite(v) and (v > 0 or not log)])
        spread, source = _assumed_spread(claim, there(curve), log)
        factor = _t(np.inf)
        alone = "1 stored run has" if n == 1 else f"{n} stored runs, all equal, have"
        basis = f"{alone} no spread; {source} assumed"
        if not spread:
            return said("too early", f"{now}; {alone} no spread to compare with", n=n, **at)
    half = factor * spread * math.sqrt(1 + 1 / n)
    with np.errstate(over="ignore"):  # two runs far apart: anything is expected
        low, high = float(back(x.mean() - half)), float(back(x.mean() + half))
    bad = value > high if claim.better == "lower" else value < low
    precisions = {r.config.get("matmul_precision") for r in stored}
    if precisions != {record.config.get("matmul_precision")}:
        basis += f", run in {' and '.join(sorted(map(str, precisions)))} matmul precision"
    if stored[0].provenance.get("data") != record.provenance.get("data"):
        basis += ", on other data files"
    words = f"{now}, expected {number(low)} to {number(high)} ({basis})"
    return said("off track" if bad else "on track", words, low=low, high=high, n=n, **at)


def _references(
    claim: Claim, record: Record, records: Iterable[Record], epoch: int
) -> list[Record]:
    """Stored runs to compare with at that epoch, one for each seed; of two precisions its own.

    Runs on other data files count only where none saw the same ones.
    """

    def alike(other: Record) -> tuple:
        return *group(other)[:3], digest(other.config | {"matmul_precision": None})

    def precision_differs(other: Record) -> bool:
        return other.config.get("matmul_precision") != record.config.get("matmul_precision")

    usable = [
        r
        for r in records
        if r.status == "finished"
        and not r.smoke
        and r.epochs >= epoch
        and alike(r) == alike(record)
        and math.isfinite(r.curve()[epoch - 1].get(claim.metric, math.nan))
    ]
    same_data = [r for r in usable if r.provenance.get("data") == record.provenance.get("data")]
    by_seed: dict[Seed, Record] = {}
    for other in sorted(
        same_data or usable, key=lambda r: (precision_differs(r), r.key, _started(r))
    ):
        by_seed.setdefault(other.key, other)
    return list(by_seed.values())


def _assumed_spread(claim: Claim, curve: np.ndarray, log: bool) -> tuple[float, str]:
    """A standard deviation where runs show none, and where it is from."""
    change = float(np.sqrt((np.diff(curve) ** 2).mean())) if len(curve) > 1 else 0.0
    paper = claim.spread or 0.0
    if log:
        paper = paper / abs(claim.value) if claim.value else 0.0
    if paper > change:
        return paper, "the paper's spread is"
    return change, "its change from epoch to epoch is"


# --- words


def number(x: float | None, decimals: int | None = None) -> str:
    """A number for people: 1,024 or 93.67 or 0.01234; four digits, unless decimals are given."""
    if x is None:
        return "-"
    if not math.isfinite(x):
        return str(x)
    if decimals is not None:
        text = f"{x:,.{decimals}f}"
    elif x == 0:
        return "0"
    elif abs(x) < 1e-4:
        return f"{x:.3g}"
    else:
        text = f"{x:,.{max(0, 3 - math.floor(math.log10(abs(x))))}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.lstrip("-") if not text.strip("-0.") else text


def with_interval(mean: float, low: float | None, high: float | None) -> str:
    """'93.7 [79.7, 107.6]': as many decimals as two digits of the half width need."""
    if low is None or high is None:
        return number(mean)
    half = (high - low) / 2
    decimals = min(9, max(0, 1 - math.floor(math.log10(half)))) if half > 0 else None
    return f"{number(mean, decimals)} [{number(low, decimals)}, {number(high, decimals)}]"


def unit(metric: str) -> str:
    """'test/bits_per_dim' -> 'bits per dim'."""
    return metric.rpartition("/")[2].replace("_", " ")


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
