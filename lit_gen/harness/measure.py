"""Samples of a trained run, measured now: `reproduce measure`.

A finished run gets the numbers of samples that it lacks, as where the Inception network's weights
were not to be had at its end; those that it has stay. What a run is worth before its end, or what
fewer samples than the reproduction asks for say, answers no claim: it goes into `result.measured`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lit_gen.harness import beside, provenance
from lit_gen.harness import record as records
from lit_gen.harness.predictions import load
from lit_gen.harness.record import PREDICTIONS, RECORD, Record, write_atomically
from lit_gen.harness.run import npz
from lit_gen.harness.spec import Spec, UserError
from lit_gen.harness.verdicts import certificate


def fills(record: Record, most: int | None) -> bool:
    """Whether a measurement of at most so many samples can answer the run's claims."""
    return record.status == "finished" and most is None


def lacking(spec: Spec, record: Record) -> list[str]:
    """The numbers of samples that the reproduction asks for and the record has not.

    Raises:
        UserError: it asks for none.
    """
    asked = beside.asked(spec)
    if not asked:
        raise UserError(
            f"{spec.name} names no metric of samples. Add one to its `metrics`, such as "
            "`samples: lit_gen.metrics.sample_quality.OfSamples`."
        )
    names = [
        each
        for name, metric in asked.items()
        if not getattr(metric, "never", False)
        for each in getattr(metric, "names", (name,))
    ]
    has = record.result.get("metrics", {}).keys() | record.result.get("beside", {}).keys()
    return [name for name in names if name not in has]


def measure(
    spec: Spec,
    record: Record,
    folder: Path,
    model: pl.LightningModule,
    data: pl.LightningDataModule,
    most: int | None,
) -> dict[str, Any]:
    """Measures samples of the model, and writes what was found into the run's directory.

    Args:
        record: the run's, whose directory is locked.
        model, data: see `trained.restored`.
        most: samples; None takes as many as the reproduction asks for.

    Returns:
        epochs and steps of the model, metrics, metric_ids, and not_measured: why, by name. In
        `result.measured` stands `by`, too: as `provenance.segments` has it.

    Raises:
        UserError: the model has no samples, or the data no images.
    """
    for what, who, gives in (
        ("sample", model, "samples"),
        ("images", data, "images to compare them with"),
    ):
        if not hasattr(who, what):
            raise UserError(f"{type(who).__name__} has no method {what}, so there are no {gives}.")
    data.prepare_data()
    data.setup("fit")
    began = provenance.Stretch(str(data.images("train").device), torch.get_num_threads())
    now = replace(record, result={"metrics": {}}, provenance={})
    arrays = beside.judged(now, spec, model, data, most)
    numbers = now.result["metrics"] | now.result.get("beside", {})
    found = {
        "epochs": record.epochs,
        "steps": record.steps,
        "metrics": numbers,
        "metric_ids": certificate.ids(spec, numbers) | now.result.get("metric_ids", {}),
        "not_measured": now.provenance.get("not_beside", {}),
    }
    began.measure(0)
    if fills(record, most):
        before = load(record, folder) or {}
        if arrays.keys() - before.keys():
            write_atomically(folder / PREDICTIONS, npz(arrays | before))
        new = _filled(record, now, found["metric_ids"], began.facts)
    else:
        earlier = [each for each in record.result.get("measured", []) if not _same(each, found)]
        new = replace(
            record, result=record.result | {"measured": [*earlier, found | {"by": began.facts}]}
        )
    records.write(folder / RECORD, new)
    return found


def _filled(record: Record, now: Record, ids: dict[str, str], by: dict[str, Any]) -> Record:
    """The record with the numbers that it lacked, and by which code and machine; those that it has
    stay."""
    result = dict(record.result)
    for part in ("metrics", "beside"):
        if found := now.result.get(part):
            result[part] = found | result.get(part, {})
    result["metric_ids"] = ids | result.get("metric_ids", {})
    has = result["metrics"].keys() | result.get("beside", {}).keys()
    why = record.provenance.get("not_beside", {}) | now.provenance.get("not_beside", {})
    why = {name: reason for name, reason in why.items() if name not in has}
    had = record.result["metrics"].keys() | record.result.get("beside", {}).keys()
    told = {k: v for k, v in record.provenance.items() if k != "not_beside"}
    if why:
        told["not_beside"] = why
    if added := sorted(has - had):
        told["measured"] = [*told.get("measured", []), by | {"numbers": added}]
    return replace(record, result=result, provenance=told)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two are of the same samples, measured in the same way."""
    return all(one[name] == other[name] for name in ("steps", "metric_ids"))
