"""The ledger of deviations: what each departure from the paper does to a claim, where runs tell.

An effect is the mean of the runs that depart minus that of the runs that do not, all else equal:

    same seeds on both sides     paired differences, Student's interval of their mean
    other seeds                  Welch's interval of the difference of the means

Departures are what a flag changed (`--matmul-precision medium`), a protocol beside the default
one, and a deviation of the reproduction's file whose `ablation` names the setting or protocol that
undoes it.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lit_gen.harness.record import Record
from lit_gen.harness.spec import Claim, Seed, Spec, flatten
from lit_gen.harness.verdicts.statistics import LEVEL, Paper, deviation, difference, interval
from lit_gen.harness.verdicts.verdict import group, judged, select, unmeasured
from lit_gen.harness.words import number, plural, unit, with_interval

ALPHA = (1 - LEVEL) / 2  # both ends of a 95 % interval


@dataclass(frozen=True)
class Effect:
    """Attributes:
    name: of the departure, as in the ledger, or as a flag writes it.
    estimate: what departing adds to the claim's number; None if no runs tell.
    low, high: its 95 % interval; None below two runs on a side.
    pairs: seeds that were run both ways.
    """

    name: str
    claim: Claim
    sentence: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0


def effects(spec: Spec, records: Iterable[Record]) -> list[Effect]:
    """What every departure does to every claim that a single run has a number for.

    Deviations of the file come first, then whatever else the records differ in.
    """
    records = [r for r in records if not r.smoke and r.status == "finished"]
    claims = [c for c in spec.claims if c.statistic != "ensemble"]
    found = []
    for entry in spec.ledger:
        told = list(_of_file(spec, entry.name, entry.ablation, claims, records))
        first = next((c for c in claims if c.setting == spec.default_setting), None)
        if not told and first is not None:
            why = "no ablation is named" if not entry.ablation else "no runs tell"
            told = [Effect(entry.name, first, f"not measured: {why}")]
        found += told
    for claim in claims:
        here = [r for r in records if r.setting == claim.setting]
        plain = {
            p: [r for r in here if r.protocol == p and not r.overrides] for p in spec.protocols
        }
        for name, protocol, members in _departures(spec, here):
            found += _effect(name, claim, members, plain[protocol])
    return found


def _of_file(
    spec: Spec, name: str, ablation: str | None, claims: Sequence[Claim], records: Sequence[Record]
) -> Iterator[Effect]:
    """The file departs, the ablation does not: the effect is the one minus the other."""
    for claim in claims:
        base = spec.default_setting if ablation in spec.settings else claim.setting
        if claim.setting != base:
            continue
        as_written = [r for r in records if r.setting == base and not r.overrides]
        usual = [r for r in as_written if r.protocol == spec.default_protocol]
        if ablation in spec.settings:
            undone = [r for r in records if r.setting == ablation and not r.overrides]
            undone = [r for r in undone if r.protocol == spec.default_protocol]
        else:
            undone = [r for r in as_written if r.protocol == ablation]
        yield from _effect(name, claim, usual, undone)


def _departures(spec: Spec, records: Sequence[Record]) -> Iterator[tuple[str, str, list[Record]]]:
    """Groups of runs that depart, what each is called, and the protocol that it departs from."""
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault(group(record), []).append(record)
    for members in groups.values():
        first = members[0]
        if first.protocol not in spec.protocols:
            continue
        if first.overrides:
            changes = ", ".join(f"{k} = {v}" for k, v in flatten(first.overrides))
            yield changes, first.protocol, members
        elif first.protocol != spec.default_protocol:
            yield f"protocol {first.protocol}", spec.default_protocol, members


def _effect(
    name: str, claim: Claim, departing: Sequence[Record], usual: Sequence[Record]
) -> Iterator[Effect]:
    ours, theirs = _numbers(claim, departing), _numbers(claim, usual)
    if not ours or not theirs:
        return
    pairs = sorted(ours.keys() & theirs.keys())
    if pairs:
        estimate, low, high, _ = interval([ours[k] - theirs[k] for k in pairs])
        basis = f"{plural(len(pairs), 'seed')} run both ways"
    else:
        a, b = list(ours.values()), list(theirs.values())
        estimate, low, high = float(np.mean(a) - np.mean(b)), None, None
        if min(len(a), len(b)) > 1:
            found = difference(a, Paper(float(np.mean(b)), deviation(b), len(b)), ALPHA)
            low, high = found.low, found.high
        basis = f"{plural(len(a), 'run')} against {len(b)} of other seeds"
    shown = "+" * (estimate > 0) + (
        with_interval(estimate, low, high) if low is not None else number(estimate)
    )
    doubt = "" if low is not None else ", too few for an interval"
    sentence = f"{shown} {unit(claim.metric)} on {claim.setting} {claim.name} ({basis}{doubt})"
    yield Effect(name, claim, sentence, estimate, low, high, len(pairs))


def _numbers(claim: Claim, records: Sequence[Record]) -> dict[Seed, float]:
    if any(unmeasured(claim, r) for r in judged(records)):
        return {}  # what could not be measured may have been worse
    values = {r.key: select(r, claim) for r in judged(records)}
    return {key: value for key, value in values.items() if math.isfinite(value)}
