"""The numbers that stand beside the claims, in words: the same on the page and in MLflow."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from lit_gen.harness.record import Record
from lit_gen.harness.spec import Spec
from lit_gen.harness.verdicts.verdict import group
from lit_gen.harness.words import number, plural

PANEL = "samples (left), each beside the training images nearest to it, nearest first"
MEMORISATION, C2ST = "memorisation/", "proxy/c2st_"
SMALLEST = 1e-4  # of a p-value that is written out
QUALITY = {
    "inception_score": "Inception score", "fid": "FID", "kid": "KID", "precision": "precision",
    "recall": "recall", "classifier_score": "classifier score (no Inception score)",
}  # fmt: skip


def said(record: Record) -> Iterator[str]:
    """A sentence or two for what was measured of a run, and for what could not be."""
    numbers = record.result.get("beside", {})
    if len(found := _part(numbers, MEMORISATION)) == 3:
        yield (
            "Memorisation, no claim: half of the samples lie within "
            f"{number(found['sample_distance'])} of a training image, half of the test images "
            f"within {number(found['test_distance'])}; ratio {number(found['ratio'])}. The "
            "distance is the Euclidean one of pixels in [0, 1]. Far below 1 would mean copies; "
            "blur lowers the ratio, too."
        )
    if len(found := _part(numbers, C2ST)) == 5:
        p = found["p_value"]
        chance = f"p {'<' if p < SMALLEST else '='} {number(max(p, SMALLEST))}"
        low, high = number(found["low_percent"]), number(found["high_percent"])
        yield (
            "Machine proxy, not a human test: of "
            f"{found['held_out']:,.0f} images that it had not seen, half of them samples, half "
            f"test images, a small classifier told {number(found['accuracy_percent'])} % "
            f"[{low}, {high}] right; 50 % is chance ({chance})."
        )
    ids = record.result.get("metric_ids", {})
    for sentence in _quality(record.result.get("metrics", {}), ids):
        yield f"Of samples: {sentence}."
    for found in record.result.get("measured", []):
        when = f"after {found['epochs']:,} of {plural(record.max_epochs, 'epoch')}"
        for sentence in _quality(found["metrics"], found["metric_ids"]):
            yield f"Of samples {when}, no claim: {sentence}."
        for name in found["metrics"].keys() - {f"test/{name}" for name in QUALITY}:
            if "_std" not in name:
                yield f"Of samples {when}, no claim: {name} = {number(found['metrics'][name])}."
    for name, value in numbers.items():
        if not name.startswith((MEMORISATION, C2ST)):
            yield f"{name} = {number(value)}"
    for name, reason in record.provenance.get("not_beside", {}).items():
        yield f"Not measured, {name.rpartition('/')[2].replace('_', ' ')}: {reason}"


def _quality(numbers: Mapping[str, float], ids: Mapping[str, str]) -> Iterator[str]:
    for name, words in QUALITY.items():
        if (value := numbers.get(f"test/{name}")) is not None and f"test/{name}" in ids:
            std = numbers.get(f"test/{name}_std")
            spread = "" if std is None else f" ± {number(std)}"
            yield f"{words} {number(value)}{spread} ({ids[f'test/{name}']})"


def over_runs(spec: Spec, records: Sequence[Record]) -> Iterator[str]:
    """A sentence for each cell in which more was tested than is claimed: every tested number's
    mean, median, least and greatest over the finished runs. Of what is 0 or 1, as whether each
    class has a category of its own, the mean is the share of runs."""
    claimed = spec.judged_metrics
    cells: dict[tuple, list[Record]] = {}
    for record in records:
        if record.status == "finished" and not record.smoke:
            cells.setdefault(group(record), []).append(record)
    for cell in cells.values():
        found: dict[str, list[float]] = {}
        for name, value in (pair for r in cell for pair in r.result["metrics"].items()):
            if name.startswith("test/") and value is not None and math.isfinite(value):
                found.setdefault(name.removeprefix("test/"), []).append(value)
        drawn = {name for name in found if name.removesuffix("_std") in QUALITY}  # has its sentence
        rest = {name: values for name, values in found.items() if name not in drawn}
        if any(f"test/{name}" not in claimed for name in rest):
            said = "; ".join(f"{name} {_spread(values)}" for name, values in rest.items())
            yield f"{cell[0].cell}, {plural(len(cell), 'run')}: {said}"


def _spread(values: Sequence[float]) -> str:
    """'31.2 (median 30.4, 28.2 to 35)': of one number, or of equal ones, that number."""
    if min(values) == max(values):
        return number(values[0])
    least, greatest, median = map(number, (min(values), max(values), statistics.median(values)))
    return f"{number(statistics.fmean(values))} (median {median}, {least} to {greatest})"


def ratios(cell: Sequence[Record]) -> str:
    """The memorisation ratio of each run of a cell, if there are several; '' otherwise."""
    found = {
        str(record.key): ratio
        for record in cell
        if (ratio := record.result.get("beside", {}).get(f"{MEMORISATION}ratio")) is not None
    }
    if len(found) < 2:
        return ""
    return ", ".join(f"seed {seed}: {number(ratio)}" for seed, ratio in found.items())


def _part(numbers: dict[str, float], prefix: str) -> dict[str, float]:
    return {k.removeprefix(prefix): v for k, v in numbers.items() if k.startswith(prefix)}
