"""What a record's file must hold, field by field.

A record may have been edited by hand or written by another version. Whatever reads one relies on
this: no field has another type, a curve has one value per epoch, and no number is nan or infinite,
and none of a result beyond 1e60.

    result.metrics        the final test's numbers; of a finished run always there
    result.metric_ids     which metric gave each of them, such as errors/1; absent in old records
    result.beside         numbers that no claim is about; see lit_gen.harness.beside
    result.measured       what `reproduce measure` found of samples before the end, or of fewer
    result.rescored       what `reproduce rescore` changed: metric, was, was_id, now, id
    result.curve          metric -> one number or null per finished epoch
    result.predictions    packed arrays, in results/ only: name -> dtype, shape, data
    provenance.data       SHA-256 of the data files
    provenance.needs      data's argument -> {run, spec_hash} of the run that gave it
    provenance.no_clip    why a run that has one to show left none
    provenance.not_beside why some numbers of samples are missing, by the metric's name
    provenance.plan       {first, most >= 2} of a run made for a plan to look after every seed
    provenance.measured   the same of each `reproduce measure` that added numbers, with their names
    provenance.segments   one mapping for each stretch of training; see lit_gen.harness.provenance
"""

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

SCHEMA = OLDEST = 1
STATUSES = ("running", "stopped", "finished", "crashed", "diverged")
LARGEST = 10**12  # of a whole number, and of what a stretch cost; of epochs a million
LARGEST_NUMBER = 1e60  # of a result: its fourth power, in verdicts, is a number, too
MOST_SEEDS = 100_000  # of a plan
MEND = "Correct it or move the file away."


def _text(x: Any) -> bool:
    return isinstance(x, str) and bool(x)


def _name(x: Any) -> bool:
    return _text(x) and not {"/", "\0"} & set(x)  # it becomes part of a file's name


def _count(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and 0 <= x < LARGEST


def _number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _map(x: Any) -> bool:
    return isinstance(x, dict)


def _seed(x: Any) -> bool:
    return _map(x) and x.keys() == {"data", "model"} and all(map(_count, x.values()))


def _texts(x: Any) -> bool:
    return isinstance(x, list) and all(isinstance(word, str) for word in x)


def _reasons(x: Any) -> bool:
    return _map(x) and all(map(_text, x.values()))


def _numbers(x: Any) -> bool:
    return _map(x) and all(map(_number, x.values()))


def _error(x: Any) -> bool:
    return x is None or (_map(x) and _text(x.get("type")) and isinstance(x.get("message"), str))


def _time(x: Any) -> bool:
    try:
        return isinstance(x, str) and bool(time.strptime(x, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return False


def _plan(x: Any) -> bool:
    if x is None:
        return True
    whole = _map(x) and _count(x.get("first")) and _count(x.get("most"))
    return whole and x["most"] >= 2 and max(x["first"], x["most"]) <= MOST_SEEDS


def _amount(x: Any) -> bool:
    return _number(x) and 0 <= x <= LARGEST


def _said(x: Any) -> bool:
    return x is None or isinstance(x, str)


def _gpu(x: Any) -> bool:
    return x is None or (_map(x) and _said(x.get("name")))


A_TEXT, A_COUNT, A_MAPPING = "a text", "a whole number from 0", "a mapping"
A_PLAN = f"a mapping of first (from 0) and most (from 2) to whole numbers up to {MOST_SEEDS:,}"
FIELDS = {
    "reproduction": (_text, A_TEXT),
    "setting": (_name, "a text without /"),
    "protocol": (_name, "a text without /"),
    "seed": (_seed, "a mapping of data and model to whole numbers from 0"),
    "config": (_map, A_MAPPING),
    "spec_hash": (_text, A_TEXT),
    "deviations": (_texts, "a list of texts"),
    "smoke": (lambda x: isinstance(x, bool), "true or false"),
    "overrides": (_map, A_MAPPING),
    "status": (lambda x: isinstance(x, str) and x in STATUSES, f"one of {', '.join(STATUSES)}"),
    "error": (_error, "null, or a mapping with type and message"),
    "epochs": (lambda x: _count(x) and x <= 10**6, A_COUNT),
    "max_epochs": (_count, A_COUNT),
    "steps": (_count, A_COUNT),
    "result": (_map, A_MAPPING),
    "provenance": (_map, A_MAPPING),
    "schema": (_count, A_COUNT),
}
NEEDED = ("reproduction", "setting", "protocol", "seed", "config", "spec_hash", "deviations",
          "status", "epochs", "result", "provenance")  # fmt: skip
SEGMENT = {
    "started": (_time, "a time such as 2026-11-22T09:17:02Z"),
    "commit": (lambda x: x is None or _text(x), "a text or null"),
    "dirty": (lambda x: x is None or isinstance(x, bool), "true, false or null"),
    **dict.fromkeys(("packages", "build", "determinism"), (_map, A_MAPPING)),
    **dict.fromkeys(("diff", "python", "platform", "processor"), (_said, "a text or null")),
    **dict.fromkeys(
        ("cores", "memory_mb"), (lambda x: x is None or _count(x), f"{A_COUNT}, or null")
    ),
    "device": (_text, A_TEXT),
    "threads": (lambda x: _count(x) and x > 0, "a whole number from 1"),
    "gpu": (_gpu, "a mapping with a name, or null"),
    "energy_of": (_texts, "a list of texts"),
    "steps": (_count, A_COUNT),
    **dict.fromkeys(
        ("wall_s", "cpu_s", "peak_memory_mb", "peak_gpu_memory_mb", "energy_j"),
        (_amount, "a number from 0 to 1e12"),
    ),
}


MEASURED = {
    "epochs": (_count, A_COUNT),
    "steps": (_count, A_COUNT),
    "metrics": (_numbers, "a mapping of names to numbers"),
    **dict.fromkeys(("metric_ids", "not_measured"), (_reasons, "a mapping of names to texts")),
}


def complaint(raw: Any) -> str:
    """What is wrong with a record's JSON, and what to do, as the rest of a sentence; '' if nothing
    is."""
    if not isinstance(raw, dict):
        return f"is not a readable record (a {_kind(raw)}, not a mapping). Move it away."
    if "schema" not in raw:
        return "is not a readable record (it has no 'schema'). Move it away."
    version = raw["schema"]
    if not _count(version):
        return _is("schema", version, A_COUNT)
    if version > SCHEMA:
        return f"has schema {version}; this lit_gen reads up to {SCHEMA}. Install a newer one."
    if version < OLDEST:
        return f"has schema {version}; this lit_gen reads from {OLDEST} on. Run it again."
    if lacking := [name for name in NEEDED if name not in raw]:
        return f"is not a complete record (it lacks {', '.join(lacking)}). Move it away."
    if unknown := [name for name in raw if name not in FIELDS]:
        return f"has the unknown field {unknown[0]!r}. Remove it, or move the file away."
    for name, value in _leaves(raw):
        if isinstance(value, float) and not math.isfinite(value):
            return f"has {name} = {value}, which is no number. {MEND}"
        if isinstance(value, int) and abs(value) > 2**63:
            return f"has a {name} larger than any number here. {MEND}"
        huge = isinstance(value, float) and abs(value) > LARGEST_NUMBER
        if huge and not name.startswith(("config.", "overrides.")):
            return _is(name, value, f"at most {LARGEST_NUMBER:g}")
    for name, value in raw.items():
        right, words = FIELDS[name]
        if not right(value):
            return _is(name, value, words)
    if 0 < raw.get("max_epochs", 0) < raw["epochs"]:
        return f"has epochs = {raw['epochs']} of max_epochs = {raw['max_epochs']}. {MEND}"
    return _result(raw) or _provenance(raw["provenance"])


def _result(raw: dict[str, Any]) -> str:
    result, epochs = raw["result"], raw["epochs"]
    for name in ("metrics", "metric_ids", "beside", "curve", "predictions"):
        if name in result and not _map(result[name]):
            return _is(f"result.{name}", result[name], A_MAPPING)
    if raw["status"] == "finished" and "metrics" not in result:
        return f"says that the run is finished, but has no result.metrics. {MEND}"
    for part in ("metrics", "beside"):
        for name, value in result.get(part, {}).items():
            if not _number(value):
                return _is(f"result.{part}.{name}", value, "a number")
    for name, value in result.get("metric_ids", {}).items():
        if not _text(value):
            return _is(f"result.metric_ids.{name}", value, "a text")
    for name, column in result.get("curve", {}).items():
        if not isinstance(column, list) or not all(x is None or _number(x) for x in column):
            return f"has result.curve.{name} that is not a list of numbers and nulls. {MEND}"
        if len(column) != epochs:
            return f"has {len(column)} values in result.curve.{name} after {epochs} epochs. {MEND}"
    for name, array in result.get("predictions", {}).items():
        whole = _map(array) and _text(array.get("dtype")) and isinstance(array.get("data"), str)
        if not whole or not isinstance(array.get("shape"), list):
            return f"has result.predictions.{name} without dtype, shape and data. {MEND}"
        if not all(map(_count, array["shape"])):
            return _is(f"result.predictions.{name}.shape", array["shape"], "a list of sizes")
    for part in ("rescored", "measured"):
        history = result.get(part, [])
        if not isinstance(history, list) or not all(map(_map, history)):
            return _is(f"result.{part}", history, "a list of mappings")
    for i, found in enumerate(result.get("measured", [])):
        for name, (right, words) in MEASURED.items():
            if not right(value := found.get(name)):
                return _is(f"result.measured[{i}].{name}", value, words)
    return ""


def _provenance(provenance: dict[str, Any]) -> str:
    data, segments = provenance.get("data"), provenance.get("segments", [])
    if not _plan(plan := provenance.get("plan")):
        return _is("provenance.plan", plan, A_PLAN)
    if data is not None and not _text(data):
        return _is("provenance.data", data, "a text or null")
    if not _reasons(provenance.get("not_beside", {})):
        words = "a mapping of names to texts"
        return _is("provenance.not_beside", provenance["not_beside"], words)
    for part, listed in (("segments", segments), ("measured", provenance.get("measured", []))):
        if not isinstance(listed, list) or not all(map(_map, listed)):
            return _is(f"provenance.{part}", listed, "a list of mappings")
    for i, segment in enumerate(segments):
        if "started" not in segment:
            return f"has provenance.segments[{i}] without 'started'. {MEND}"
        for name, (right, words) in SEGMENT.items():
            if name in segment and not right(segment[name]):
                return _is(f"provenance.segments[{i}].{name}", segment[name], words)
    return ""


def _is(name: str, value: Any, words: str) -> str:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return f"has {name} = {shown}; it must be {words}. {MEND}"


def _kind(x: Any) -> str:
    kinds = {list: "list", str: "text", bool: "truth value", type(None): "null"}
    return kinds.get(type(x), "number")


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{name}.{key}".lstrip("."))
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from _leaves(value, f"{name}[{i}]")
    else:
        yield name, tree
