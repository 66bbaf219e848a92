"""The regression gate: short runs on real data, held against stored ones of the same kind.

A reproduction's YAML names its gate: seeds, and for each protocol what makes its runs short. Their
learning curves are stored once (`remake`), and from then on `train` repeats a few of them and
`compare` says whether the code still trains like that.

Of the n stored curves, every metric at every epoch is a cell with a mean and a standard deviation
s (of logarithms where all are positive). The mean of k new runs is expected in each of the C cells
within

    mean -+ t(1 - FALSE_ALARM / 2C; n - 1) s sqrt(1/k + 1/n),

Student's prediction interval for the mean of k further observations (Hahn & Meeker, Statistical
Intervals, 1991, Sec. 4.8) with Bonferroni's division, so that code that draws other random numbers
but does the same mathematics leaves the band in at most one of 100 checks. Code that draws the
same numbers gives the stored curves, and never does.
"""

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_gen.harness import record as records
from lit_gen.harness.record import Record
from lit_gen.harness.run import Run, execute, new_record
from lit_gen.harness.spec import Spec, UserError, flatten, parse_seeds
from lit_gen.harness.store import results
from lit_gen.harness.verdicts.statistics import t_quantile
from lit_gen.harness.words import number, plural

FALSE_ALARM = 0.01  # of one protocol's comparison
FEWEST = 5  # stored runs that make a band


@dataclass(frozen=True)
class Finding:
    """What the new runs of one protocol say.

    Attributes:
        status: "identical", "inside", "outside", "broken" or "no reference".
        worst: the cell furthest from its mean, in units of its band's half width.
    """

    protocol: str
    status: str
    sentence: str
    worst: float = 0.0

    @property
    def bad(self) -> bool:
        return self.status in ("outside", "broken")


def runs(spec: Spec) -> dict[str, list[Run]]:
    """The gate's runs, by protocol.

    Raises:
        UserError: the reproduction has no gate.
    """
    if not spec.gate:
        raise UserError(
            f"{spec.name} has no gate: nothing says which short runs to train. Add `gate:` to "
            f"{spec.path}, or leave it out of --train."
        )
    seeds = parse_seeds(str(spec.gate["seeds"]))
    return {
        protocol: [Run(spec, spec.default_setting, protocol, seed, changes) for seed in seeds]
        for protocol, changes in spec.gate["protocols"].items()
    }


def folder(spec: Spec) -> Path:
    return results(spec) / "gate"


def stored(spec: Spec) -> dict[str, list[Record]]:
    """The stored records, by protocol."""
    found: dict[str, list[Record]] = {}
    for path in sorted(folder(spec).glob("*.json")):
        record = records.read(path)
        found.setdefault(record.protocol, []).append(record)
    return found


def train(
    spec: Spec,
    budget: float,
    device: str,
    threads: int | None,
    data_dir: str | None,
    say: Callable[[str], None],
    stop: Callable[[], str | None] = lambda: None,
) -> dict[str, list[Record]]:
    """Trains the gate's runs, one seed of each protocol after another, until the time is spent.

    Each protocol gets one run at least. The runs leave nothing behind.

    Args:
        threads: None takes those of the stored runs, which code that is the same then repeats to
            the bit on the same kind of processor.
    """
    began, lists = time.monotonic(), runs(spec)
    threads = threads or _threads(stored(spec))
    fresh: dict[str, list[Record]] = {protocol: [] for protocol in lists}
    turns = [list(turn) for turn in zip(*lists.values(), strict=True)]
    with tempfile.TemporaryDirectory(prefix="lit_gen-gate-") as root:
        for i, turn in enumerate(turns):
            for run in turn:
                spent = time.monotonic() - began
                each = spent / max(1, sum(map(len, fresh.values())))
                if stop() or (i and spent + each > budget):
                    return fresh
                record = execute(run, Path(root), device, threads, data_dir, stop)
                fresh[run.protocol].append(record)
                say(f"  {run.protocol} seed {run.seed}: {record.status}")
    return fresh


def remake(
    spec: Spec,
    device: str,
    threads: int | None,
    data_dir: str | None,
    say: Callable[[str], None],
    stop: Callable[[], str | None] = lambda: None,
) -> None:
    """Trains all runs of the gate and stores them in place of the old ones, all or none.

    Raises:
        UserError: a run did not finish.
    """
    fresh: list[Record] = []
    with tempfile.TemporaryDirectory(prefix="lit_gen-gate-") as root:
        for run in (run for each in runs(spec).values() for run in each):
            record = execute(run, Path(root), device, threads, data_dir, stop)
            if record.status != "finished":
                raise UserError(
                    f"The gate's run {record.name} {record.status}: {record.error}. The stored "
                    "curves stay as they were."
                )
            say(f"  {run.protocol} seed {run.seed}: {record.status}")
            fresh.append(record)
    for path in folder(spec).glob("*.json"):
        path.unlink()
    for record in fresh:
        records.write(folder(spec) / f"{record.name}.json", record)


def expected(spec: Spec) -> dict[str, dict[str, Any]]:
    """The configuration that each protocol's runs have today."""
    configs = {}
    for protocol, each in runs(spec).items():
        _, resolved = each[0].resolve()
        config = new_record(each[0], resolved.as_dict()).config
        configs[protocol] = json.loads(json.dumps(config))  # tuples are lists, as when read back
    return configs


def outdated(spec: Spec, references: dict[str, list[Record]]) -> Iterable[str]:
    """Where the stored curves are of another configuration than today's, a sentence each."""
    for protocol, config in expected(spec).items():
        if protocol not in references:
            yield (
                f"{spec.name} {protocol}: no stored curves. `reproduce check --remake` makes them."
            )
            continue
        now = dict(flatten(config))
        then = dict(flatten(references[protocol][0].config))
        changed = [k for k in {**then, **now} if then.get(k) != now.get(k)]
        if changed:
            what = ", ".join(f"{k} was {then.get(k)!r}, is {now.get(k)!r}" for k in changed)
            yield (
                f"{spec.name} {protocol}: the stored curves are of another configuration ({what}). "
                "If that is meant, `reproduce check --remake` makes new ones."
            )


def compare(protocol: str, references: Sequence[Record], fresh: Sequence[Record]) -> Finding:
    """Whether new runs train like the stored ones."""
    for record in fresh:
        if record.status in ("crashed", "diverged"):
            error = record.error or {}
            return Finding(
                protocol, "broken",
                f"seed {record.key} {record.status} at step {error.get('step')}: "
                f"{error.get('type')}: {error.get('message')}",
            )  # fmt: skip
    fresh = [r for r in fresh if r.epochs]
    data = {r.provenance.get("data") for r in fresh}
    same = [r for r in references if {r.provenance.get("data")} == data]
    if not fresh or len(same) < FEWEST:
        why = "no epoch was finished" if not fresh else f"{len(same)} stored runs on the same data"
        return Finding(protocol, "no reference", f"{why}, nothing to compare")
    epochs = min(r.epochs for r in [*same, *fresh])
    names = [n for n in same[0].result["curve"] if all(n in r.result["curve"] for r in fresh)]
    if lost := [n for n in same[0].result["curve"] if n not in names]:
        return Finding(protocol, "broken", f"the runs no longer log {', '.join(lost)}")

    def cells(record: Record) -> np.ndarray:
        columns = [record.result["curve"][name][:epochs] for name in names]
        return np.array(columns, dtype=np.float64)  # (metrics, epochs)

    old, new = np.stack([cells(r) for r in same]), np.stack([cells(r) for r in fresh])
    ours = f"{plural(len(fresh), 'run')} of {plural(epochs, 'epoch')}"
    known = {r.key: cells(r) for r in same}
    if all(r.key in known and np.array_equal(cells(r), known[r.key]) for r in fresh):
        return Finding(protocol, "identical", f"{ours}: the stored curves, bit for bit")
    positive = (old > 0).all(0) & (new > 0).all(0)
    x, y = (np.where(positive, np.log(np.where(positive, a, 1)), a) for a in (old, new))
    n, k = len(x), len(y)
    spread = np.maximum(x.std(0, ddof=1), 1e-6 * np.abs(x.mean(0)) + 1e-12)
    level = 1 - FALSE_ALARM / (2 * x[0].size)
    half = t_quantile(level, n - 1) * spread * math.sqrt(1 / k + 1 / n)
    away = (y.mean(0) - x.mean(0)) / half
    at = np.unravel_index(np.abs(np.nan_to_num(away, nan=np.inf)).argmax(), away.shape)
    worst = float(abs(away[at]))
    back = np.exp if positive[at] else float
    seen = (
        f"{names[at[0]]} {number(float(back(y.mean(0)[at])))} after epoch {at[1] + 1}, expected "
        f"{number(float(back((x.mean(0) - half)[at])))} to "
        f"{number(float(back((x.mean(0) + half)[at])))} (of {n} stored runs)"
    )
    outside = int((np.abs(away) > 1).sum())
    if not worst <= 1:
        many = f"{outside} of {away.size} numbers leave the band"
        return Finding(protocol, "outside", f"{ours}: {many}; furthest is {seen}", worst)
    words = f"{ours}: inside the band; nearest its edge is {seen}"
    return Finding(protocol, "inside", words, worst)


def _threads(references: dict[str, list[Record]]) -> int | None:
    made = (s for each in references.values() for r in each for s in r.provenance["segments"])
    return next((segment["threads"] for segment in made), None)
