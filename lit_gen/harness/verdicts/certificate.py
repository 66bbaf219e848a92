"""Certificates: a metric gives a verdict only after it has passed arrays with known answers.

A reproduction names the class behind each metric that its claims are about,

    metrics: {test/errors: lit_gen.metrics.classification.Errors}

or, with arguments, as {class_path, init_args}. What such a class offers stands at the top of
lit_gen/metrics/classification.py. Its id goes into every record; where the ids of records and
reproduction differ, or a number does not follow from what its run kept, there is no verdict.
"""

import importlib
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, overload

import numpy as np

from lit_gen.harness.record import Record
from lit_gen.harness.spec import Claim, Order, Spec, UserError, digest, flatten
from lit_gen.harness.verdicts import orders, verdict
from lit_gen.harness.verdicts.ensembles import Predictions

OURS = "lit_gen.metrics."


def metric(spec: Spec, name: str) -> Any:
    """The object that computes the metric of that name.

    Raises:
        UserError: the reproduction names none, or it cannot be built.
    """
    entry = spec.metrics.get(name)
    if entry is None:
        raise UserError(
            f"{spec.path} names no class for {name!r}, so its numbers have no certificate. "
            f"Add `metrics: {{{name}: lit_gen.metrics...}}` there"
        )
    entry = {"class_path": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or not isinstance(entry.get("class_path"), str):
        raise UserError(
            f"{spec.path}: the metric {name!r} is {entry!r}; give a class path, or a mapping of "
            "class_path and init_args"
        )
    path, arguments = entry["class_path"], json.dumps(entry.get("init_args") or {}, sort_keys=True)
    beside = str(spec.path.parent)
    if not path.startswith("lit_gen.") and beside not in sys.path:
        sys.path.append(beside)  # as for a model of the user's own
    try:
        built = _built(path, arguments)
        parts = ("id", "names") if hasattr(built, "judge") else ("id", "of", "cases")
        if lacking := [part for part in parts if not hasattr(built, part)]:
            raise TypeError(f"it has no {', '.join(lacking)}")
        return built
    except Exception as error:  # whatever an import or a class raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{spec.path}: the metric {path} cannot be built ({reason})") from error


@cache
def _built(class_path: str, arguments: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)(**json.loads(arguments))


def ids(spec: Spec, logged: Iterable[str] | None = None) -> dict[str, str]:
    """The id of each metric that the reproduction names: what a run writes beside its numbers.

    Args:
        logged: only of these.

    Raises:
        UserError: see `metric`.
    """
    named = [name for name in spec.metrics if logged is None or name in logged]
    return {name: metric(spec, name).id for name in named}


def certify(tested: Any, files: Mapping[str, Path] | None = None) -> list[str]:
    """What speaks against a metric: known answers that it does not give.

    Args:
        files: real files by name, for its anchor.
    """
    if hasattr(tested, "judge"):  # the numbers that it gives have metrics of their own
        return []
    found = []
    try:
        known = [(arrays, float(answer)) for arrays, answer in tested.cases()]
    except Exception as error:  # whatever a metric raises
        return [f"its cases raised {type(error).__name__}: {error}"]
    if not known:
        found.append("it has no arrays with known answers")
    for i, (arrays, answer) in enumerate(known, 1):
        try:
            given = float(tested.of(arrays))
        except Exception as error:  # whatever a metric raises
            found.append(f"its case {i} of {len(known)} raised {type(error).__name__}: {error}")
            continue
        if not _equal(given, answer, 0):
            found.append(f"its case {i} of {len(known)} gave {given:.10g}, known is {answer:.10g}")
    anchor = tested.anchor(files) if files and hasattr(tested, "anchor") else None
    if anchor and not _equal(*anchor, getattr(tested, "tolerance", 0)):
        found.append(f"real data gave {anchor[0]:.10g}, known is {anchor[1]:.10g}")
    return found


def recomputed(tested: Any, arrays: Mapping[str, np.ndarray]) -> float:
    """The metric of what a run kept.

    Raises:
        UserError: it cannot be computed from these arrays.
    """
    try:
        return float(tested.of(arrays))
    except Exception as error:  # whatever a metric raises at damaged arrays
        raise UserError(" ".join(str(error).split())) from error


def objection(
    tested: Any, name: str, record: Record, arrays: Mapping[str, np.ndarray] | None
) -> str:
    """Why a finished run's number of that metric must not be used; '' if it may."""
    value = record.result["metrics"].get(name)
    theirs = record.result.get("metric_ids", {}).get(name)
    if value is None:
        return ""  # a matter of the claim, not of the number
    if theirs not in (None, tested.id):
        return (
            f"{record.name} was measured with {theirs}, the claim with {tested.id}; "
            "`reproduce rescore` recomputes it from what the run kept"
        )
    if arrays is None:
        if theirs is None:
            return f"{record.name} names no metric id and kept no predictions to recompute it from"
        return ""
    try:
        ours = recomputed(tested, arrays)
    except UserError as error:
        return f"{name} of {record.name} cannot be recomputed: {error}"
    if not _equal(ours, value, getattr(tested, "tolerance", 0)):
        return f"{record.name} says {name} = {value:.10g}, its predictions give {ours:.10g}"
    return ""


def doubts(
    spec: Spec, records: Iterable[Record], predictions: Predictions | None = None
) -> dict[str, str]:
    """Why the records give no verdict, by metric; a metric without doubts is left out."""
    finished = [r for r in records if r.status == "finished" and not r.smoke]
    return {
        name: reason
        for name in spec.judged_metrics
        if (reason := _doubt(spec, name, finished, predictions or (lambda record: None)))
    }


def _doubt(spec: Spec, name: str, finished: Sequence[Record], predictions: Predictions) -> str:
    if not finished:
        return ""
    try:
        tested = metric(spec, name)
        if complaints := certify(tested):
            return f"the metric {tested.id} fails its certificate: {complaints[0]}"
        for record in finished:
            if reason := objection(tested, name, record, predictions(record)):
                return reason
    except UserError as error:
        return str(error)
    return ""


def contradiction(record: Record) -> str:
    """In what a finished record contradicts itself; '' if in nothing."""
    if record.status != "finished":
        return ""
    if record.epochs != record.max_epochs:
        return f"it is finished after {record.epochs} of {record.max_epochs} epochs"
    moved = {change["metric"] for change in record.result.get("rescored", [])}
    rows = record.curve()
    for name, value in record.result.get("metrics", {}).items():
        last = rows[-1].get(name) if rows else None
        if name in moved or last is None or value is None:
            continue
        if not _equal(last, value, 1e-3 * abs(last)):
            return f"its curve ends at {name} = {last:.10g}, its test gave {value:.10g}"
    return ""


def _reservations(
    spec: Spec, claim: Claim | Order, members: list[Record], predictions: Predictions
) -> list[str]:
    """What a reader must know about the records behind a verdict, a sentence each."""
    finished = [r for r in members if r.status == "finished"]
    said = []
    if bare := sum(predictions(r) is None for r in finished):
        said.append(
            f"{bare} of {len(finished)} finished runs kept no predictions: nothing shows that "
            f"their {claim.metric} is right."
        )
    for record in finished:
        given = digest(record.config | {"seed": record.seed})
        odd = contradiction(record)
        if given != record.spec_hash:
            odd = odd or "its configuration is not the one it was trained with"
        if odd:
            said.append(f"{record.name} does not hold together: {odd}. See `reproduce check`.")
    return said[:4]


@overload
def judge_all(
    spec: Spec, claim: Claim, records: Iterable[Record], predictions: Predictions | None = None
) -> list[verdict.Verdict]: ...


@overload
def judge_all(
    spec: Spec, claim: Order, records: Iterable[Record], predictions: Predictions | None = None
) -> list[orders.Ranking]: ...


def judge_all(
    spec: Spec,
    claim: Claim | Order,
    records: Iterable[Record],
    predictions: Predictions | None = None,
) -> Any:
    """`verdict.judge_all` or `orders.judge_all`, where numbers that are in doubt give "not
    comparable"; deviations that the file has learnt of since a run stand beside its verdict, too.

    Every verdict that anyone sees comes from here.
    """

    def readable(record: Record) -> dict[str, np.ndarray] | None:
        try:
            return predictions(record) if predictions else None
        except UserError:
            return None  # a doubt says so

    members: list[list[Record]] = []

    def remembered(kind: list[Record]) -> dict[str, str]:
        members.append(kind)
        return doubts(spec, kind, predictions)

    settings, verdicts = [claim.setting], []
    if isinstance(claim, Order):
        settings.append(claim.over)
        verdicts += orders.judge_all(
            claim, records, lambda kind: remembered(kind) | _uneven(spec, claim, kind)
        )
    else:
        verdicts += verdict.judge_all(claim, records, readable, remembered)
    return [
        replace(
            said,
            deviations=tuple(
                dict.fromkeys(
                    [
                        *(d for one in settings for d in spec.departures(one, said.protocol)),
                        *said.deviations,
                    ]
                )
            ),
            notes=(*said.notes, *_reservations(spec, claim, kind, readable)),
        )
        for said, kind in zip(verdicts, members, strict=True)
    ]


def _uneven(spec: Spec, order: Order, members: list[Record]) -> dict[str, str]:
    """That runs of the two settings differ in what the settings do not: one may have trained for
    longer, of a file that was changed between them."""
    both = (order.setting, order.over)
    first = [next((r for r in members if r.setting == s), None) for s in both]
    if None in first:
        return {}

    def apart(a: dict[str, Any], b: dict[str, Any]) -> set[str]:
        a, b = dict(flatten(a)), dict(flatten(b))
        return {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)}

    meant = apart(*(spec.merged(s, members[0].protocol) for s in both))
    others = {key.partition(".")[0] for key in meant if key.endswith("class_path")}
    odd = [
        key
        for key in sorted(apart(*(r.config for r in first)) - meant)
        if key.partition(".")[0] not in others  # another class has other arguments
    ]
    if not odd:
        return {}
    return {
        order.metric: f"the runs of {' and '.join(both)} also differ in {', '.join(odd)}, which "
        "the settings do not; train one side anew"
    }


def _equal(a: float, b: float, tolerance: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or abs(a - b) <= tolerance
