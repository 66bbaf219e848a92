"""The regression gate: short runs on real data, held against stored ones of the same kind.

A reproduction's YAML names its gate: seeds, and for each protocol what makes its runs short. Their
learning curves are stored once (`remake`), and from then on `train` repeats a few of them and
`compare` says whether the code still trains like that.

Of the n stored curves, every metric at every epoch is a cell with a mean and a standard deviation
s (of logarithms where all are positive). The mean of k new runs is expected in each of the C cells
within

    mean -+ t(1 - FALSE_ALARM / 2C; n - 1) s sqrt(1/k + 1/n),

Student's prediction interval for the mean of k further observations (Hahn & Meeker, Statistical
Intervals, 1991, Sec. 4.8) with Bonferroni's division. Code that draws the same random numbers gives
the stored curves; of 80 harmless runs that drew others none left the band.

A small error hides in that band. So the `probe` comes first: a few steps without any randomness.
"""

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch

from lit_gen.harness import needs, probe, provenance
from lit_gen.harness import record as records
from lit_gen.harness.record import Record
from lit_gen.harness.run import Run, device_name, execute, new_record, quiet_lightning
from lit_gen.harness.spec import Spec, UserError, digest, flatten, parse_seeds
from lit_gen.harness.store import results
from lit_gen.harness.verdicts.statistics import t_quantile
from lit_gen.harness.words import number, plural

FALSE_ALARM = 1e-4  # of one protocol's comparison, if curves were normal; their tails are heavier
FEWEST = 5  # stored runs that make a band
REMAKE = "`reproduce check --remake-probe` makes it anew."


@dataclass(frozen=True)
class Finding:
    """What the new runs of one protocol say, or a probe.

    Attributes:
        of: the protocol, or which probe.
        status: "identical", "inside", "outside", "broken" or "no reference".
        worst: the cell furthest from its mean, in units of its band's half width.
    """

    of: str
    status: str
    sentence: str
    worst: float = 0.0

    @property
    def bad(self) -> bool:
        return self.status in ("outside", "broken")


class Machine(NamedTuple):
    """Where the gate trains, how it is followed, and how it is stopped."""

    device: str
    threads: int | None = None
    data_dir: str | None = None
    say: Callable[[str], None] = lambda line: None
    stop: Callable[[], str | None] = lambda: None

    def execute(self, run: Run, root: Path) -> Record:
        run = self.supplied(run, root)
        record = execute(run, root, self.device, self.threads, self.data_dir, self.stop)
        self.say(f"  {run.spec.name} {run.protocol} seed {run.seed}: {record.status}")
        return record

    def supplied(self, run: Run, root: Path) -> Run:
        """The run with the runs that it needs, which are trained in `root` if they are missing."""
        for other in needs.missing([run], root):
            self.execute(other, root)
        return needs.provided(run, root)

    def probe(self, run: Run, root: Path) -> probe.Values:
        """On one thread if nobody chose: its steps are too few to share."""
        alone = self.exact._replace(threads=self.threads or 1)
        return probe.measure(alone.supplied(run, root), alone.device, alone.threads, self.data_dir)

    @property
    def exact(self) -> "Machine":
        """One that has float64, which Apple's GPUs lack."""
        return self._replace(device="cpu") if torch.backends.mps.is_available() else self


def runs(spec: Spec) -> dict[str, list[Run]]:
    """The gate's runs, by protocol.

    Those that need another reproduction's runs are smoke runs, and so are what they need.

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
        protocol: [
            Run(spec, spec.default_setting, protocol, seed, changes, smoke=bool(spec.needs))
            for seed in seeds
        ]
        for protocol, changes in spec.gate["protocols"].items()
    }


def folder(spec: Spec) -> Path:
    return results(spec) / "gate"


def stored(spec: Spec) -> dict[str, list[Record]]:
    """The stored records, by protocol."""
    found: dict[str, list[Record]] = {}
    for path in sorted(folder(spec).glob("*-seed_*.json")):
        record = records.read(path)
        found.setdefault(record.protocol, []).append(record)
    return found


def train(spec: Spec, budget: float, machine: Machine) -> dict[str, list[Record]]:
    """Trains the gate's runs, one seed of each protocol after another, until the time is spent.

    Each protocol gets one run at least. The runs leave nothing behind. If nobody chose a number of
    threads it is that of the stored runs, which code that is the same then repeats to the bit on
    the same kind of processor.
    """
    began, lists = time.monotonic(), runs(spec)
    machine = machine._replace(threads=machine.threads or _threads(stored(spec)))
    fresh: dict[str, list[Record]] = {protocol: [] for protocol in lists}
    turns = [list(turn) for turn in zip(*lists.values(), strict=True)]
    with _passing_folder() as root:
        for i, turn in enumerate(turns):
            for run in turn:
                spent = time.monotonic() - began
                each = spent / max(1, sum(map(len, fresh.values())))
                if machine.stop() or (i and spent + each > budget):  # one run of each at least
                    return fresh
                fresh[run.protocol].append(machine.execute(run, root))
    return fresh


def findings(spec: Spec, budget: float, machine: Machine) -> Iterator[Finding]:
    """Everything that training tells: first the probe, then the short runs in the time left."""
    began, references = time.monotonic(), stored(spec)
    yield from run_probe(spec, machine)
    left = budget - (time.monotonic() - began)
    for protocol, fresh in train(spec, left, machine).items():
        yield compare(protocol, references[protocol], fresh)


def remake(spec: Spec, machine: Machine) -> None:
    """Trains all runs of the gate and stores them in place of the old ones, all or none.

    Raises:
        UserError: a run did not finish.
    """
    fresh: list[Record] = []
    with _passing_folder() as root:
        for run in (run for each in runs(spec).values() for run in each):
            record = machine.execute(run, root)
            if record.status != "finished":
                raise UserError(
                    f"The gate's run {record.name} {record.status}: {record.error}. The stored "
                    "curves stay as they were."
                )
            fresh.append(record)
        probed = _measured_probe(spec, machine, root)
    for path in folder(spec).glob("*.json"):
        path.unlink()
    for record in fresh:
        records.write(folder(spec) / f"{record.name}.json", record)
    records.write_atomically(probe_path(spec), probed)


def remake_probe(spec: Spec, machine: Machine) -> None:
    """Measures the probe and stores its numbers in place of the old ones; the curves stay."""
    with _passing_folder() as root:
        probed = _measured_probe(spec, machine, root)
    records.write_atomically(probe_path(spec), probed)


def _measured_probe(spec: Spec, machine: Machine, root: Path) -> bytes:
    """What is stored of a probe: its numbers, and where they were measured."""
    alone = machine.exact._replace(threads=1)
    with quiet_lightning():
        trainer = pl.Trainer(accelerator=alone.device, devices=1, barebones=True)
    stretch = provenance.Stretch(device_name(trainer), alone.threads)
    cells = {probe.name(run): alone.probe(run, root) for run in probe.cells(spec)}
    content = {"segment": stretch.facts, "cells": cells}
    return (records.dumps(content) + "\n").encode()


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
    """Whether new runs train like the stored ones: their curves, and what they measured at the end.

    Args:
        references: stored runs, each whole (`complaints` has said so).
        fresh: new ones.
    """
    for record in fresh:
        if record.status != "finished" or record.epochs != record.max_epochs:
            error = record.error or {}
            return Finding(
                protocol, "broken",
                f"seed {record.key} {record.status} after {record.epochs} of {record.max_epochs} "
                f"epochs at step {error.get('step', record.steps)}: "
                f"{error.get('type')}: {error.get('message')}",
            )  # fmt: skip
    data = {r.provenance.get("data") for r in fresh}
    same = [r for r in references if {r.provenance.get("data")} == data]
    if not fresh or len(same) < FEWEST:
        why = "no run was finished" if not fresh else f"{len(same)} stored runs on the same data"
        return Finding(protocol, "no reference", f"{why}, nothing to compare")
    names = list(_numbers(same[0]))
    for record in fresh:
        numbers = _numbers(record)
        lost = [
            name for name in names if len(numbers.get(name, [])) != len(_numbers(same[0])[name])
        ]
        if lost:
            return Finding(protocol, "broken", f"the runs no longer log {', '.join(lost)}")

    def cells(record: Record) -> np.ndarray:
        return np.concatenate([_numbers(record)[name] for name in names])

    where = [(name, at) for name in names for at in range(1, len(_numbers(same[0])[name]) + 1)]
    old, new = np.stack([cells(r) for r in same]), np.stack([cells(r) for r in fresh])
    ours = f"{plural(len(fresh), 'run')} of {plural(fresh[0].epochs, 'epoch')}"
    if len(new) > 1 and (new == new[0]).all():
        return Finding(protocol, "broken", f"{ours}: all seeds gave the same numbers")
    known = {r.key: cells(r) for r in same}
    if all(r.key in known and np.array_equal(cells(r), known[r.key]) for r in fresh):
        return Finding(protocol, "identical", f"{ours}: the stored curves, bit for bit")
    positive = (old > 0).all(0) & (new > 0).all(0)
    x, y = (np.where(positive, np.log(np.where(positive, a, 1)), a) for a in (old, new))
    n, k = len(x), len(y)
    spread = np.maximum(x.std(0, ddof=1), 1e-6 * np.abs(x.mean(0)) + 1e-12)
    level = 1 - FALSE_ALARM / (2 * len(where))
    half = t_quantile(level, n - 1) * spread * math.sqrt(1 / k + 1 / n)
    away = (y.mean(0) - x.mean(0)) / half
    at = int(np.abs(away).argmax())
    worst = float(abs(away[at]))
    back = np.exp if positive[at] else float
    name, epoch = where[at]
    place = f"{name} after epoch {epoch}" if name in fresh[0].result["curve"] else f"the {name}"
    seen = (
        f"{place} {number(float(back(y.mean(0)[at])))}, expected "
        f"{number(float(back((x.mean(0) - half)[at])))} to "
        f"{number(float(back((x.mean(0) + half)[at])))} (of {n} stored runs)"
    )
    if not worst <= 1:
        many = f"{int((np.abs(away) > 1).sum())} of {away.size} numbers leave the band"
        return Finding(protocol, "outside", f"{ours}: {many}; furthest is {seen}", worst)
    words = f"{ours}: inside the band; nearest its edge is {seen}"
    return Finding(protocol, "inside", words, worst)


def _numbers(record: Record) -> dict[str, list[float]]:
    """Curves by epoch, and the final test's metrics as curves of one number."""
    final = record.result.get("metrics", {})
    return record.result["curve"] | {f"final {name}": [value] for name, value in final.items()}


def complaints(spec: Spec) -> list[str]:
    """What is wrong with the stored records and numbers; nothing where none were ever made, which
    is for whoever wants to train to say."""
    if not folder(spec).is_dir():
        return []
    if not spec.gate:
        return [
            f"{folder(spec)} holds a gate's curves, but {spec.path} has no gate, so nothing trains "
            "against them. Restore the gate there, or delete the folder."
        ]
    try:
        references, probed = stored(spec), stored_probe(spec)
    except UserError as error:
        return [str(error)]
    found = list(outdated(spec, references))
    wanted = {(run.protocol, run.seed) for each in runs(spec).values() for run in each}
    here = [(r.protocol, r.key) for each in references.values() for r in each]
    if not found and (set(here) != wanted or len(here) != len(wanted)):
        found.append(
            f"{folder(spec)} holds {plural(len(here), 'run')}, the gate has {len(wanted)}. "
            "`reproduce check --remake` makes them."
        )
    for record in (r for each in references.values() for r in each):
        numbers = (
            [v for values in _numbers(record).values() for v in values] if record.epochs else []
        )
        whole = record.status == "finished" and record.epochs == record.max_epochs
        given = digest(record.config | {"seed": record.seed})
        if not whole or not numbers or any(v is None or not math.isfinite(v) for v in numbers):
            found.append(
                f"{folder(spec) / record.name}.json is not of a whole run with its numbers."
            )
        elif given != record.spec_hash:
            found.append(f"{folder(spec) / record.name}.json: the configuration's hash is wrong.")
    if not found and {probe.name(run) for run in probe.cells(spec)} != probed.keys():
        found.append(f"{probe_path(spec)} is not of today's settings and protocols. {REMAKE}")
    return found


def probe_path(spec: Spec) -> Path:
    return folder(spec) / "probe.json"


def stored_probe(spec: Spec) -> dict[str, probe.Values]:
    """The stored numbers of the probe, by cell.

    Raises:
        UserError: the file is damaged.
    """
    path = probe_path(spec)
    try:
        cells = json.loads(path.read_text())["cells"] if path.is_file() else {}
        for values in (v for cell in cells.values() for v in cell.values()):
            if not values or not all(math.isfinite(v) for v in values):
                raise ValueError(f"numbers are {values}")
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path} is not readable ({error}). {REMAKE}") from error
    return cells


def run_probe(spec: Spec, machine: Machine) -> list[Finding]:
    """Holds a few steps without randomness against the stored ones, for every cell."""
    with _passing_folder() as root:
        return _probe(spec, machine, root)


def _probe(spec: Spec, machine: Machine, root: Path) -> list[Finding]:
    known, found = stored_probe(spec), []
    for run in probe.cells(spec):
        name = probe.name(run)
        try:
            now = machine.probe(run, root)
        except Exception as error:  # whatever broken code raises
            if getattr(error, "exit_status", None) == 2:
                raise
            text = " ".join(f"{type(error).__name__}: {error}".split())
            found.append(Finding(f"probe of {name}", "broken", text))
            continue
        if changed := probe.differences(known.get(name, {}), now):
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            words = f"without randomness, {changed[0]}{more}"
            found.append(Finding(f"probe of {name}", "outside", words))
    if not found:
        words = f"a few steps without randomness give the stored numbers in {len(known)} cells"
        found.append(Finding("probe", "inside", words))
    return found


@contextmanager
def _passing_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lit_gen-gate-") as root:
        yield Path(root)


def _threads(references: dict[str, list[Record]]) -> int | None:
    made = (
        s for each in references.values() for r in each for s in r.provenance.get("segments", [])
    )
    return next((s["threads"] for s in made if isinstance(s.get("threads"), int)), None)
