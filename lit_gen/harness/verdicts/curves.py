"""Learning curves: what stored runs tell about one that is not finished."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_gen.harness.record import Record
from lit_gen.harness.spec import Claim, Seed, Watched, digest
from lit_gen.harness.verdicts.statistics import prediction
from lit_gen.harness.verdicts.verdict import group, started
from lit_gen.harness.words import number, plural, unit


@dataclass(frozen=True)
class Progress:
    """How a run that is not finished does beside stored ones at the same epoch.

    Attributes:
        status: on track, off track, too early or no reference.
        epoch: where it is compared, the last one with a value.
        low, high: between these a run like the n stored ones is expected.
    """

    claim: Claim | Watched
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


def progress(claim: Claim | Watched, record: Record, references: Iterable[Record]) -> Progress:
    """Whether a run does as well as stored ones did after the same number of epochs.

    With n >= 2 stored runs a new one like them lies in `band` in 95 of 100 cases; a run on its
    better side is on track too, so that one like the stored ones is called off track in 2.5 of
    100 looks. Nothing is extrapolated, and one stored run tells nothing: it has no spread.

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
        return said("too early", f"no {claim.metric} yet after {plural(len(rows), 'epoch')}")
    value = rows[epoch - 1][claim.metric]
    now = f"{number(value)} {unit(claim.metric)} after {epoch} of {record.max_epochs} epochs"
    at = {"epoch": epoch, "value": value}
    if record.status == "diverged" or not math.isfinite(value):
        return said("off track", f"{now}, then the run diverged", **at)
    stored = _references(claim, record, references, epoch)
    others = np.array([r.curve()[epoch - 1][claim.metric] for r in stored])
    if not len(others):
        return said("no reference", f"{now}; no stored run to compare with", **at)
    if len(others) < 2 or (others == others[0]).all():
        alone = "one stored run has" if len(others) == 1 else f"{len(others)} equal runs have"
        return said(
            "no reference", f"{now}; {alone} no spread to compare with", n=len(others), **at
        )
    low, high = band(others)
    bad = value > high if claim.better == "lower" else value < low
    basis = f"{len(others)} stored runs"
    precisions = {r.config.get("matmul_precision") for r in stored}
    if precisions != {record.config.get("matmul_precision")}:
        basis += f", run in {' and '.join(sorted(map(str, precisions)))} matmul precision"
    if stored[0].provenance.get("data") != record.provenance.get("data"):
        basis += ", on other data files"
    words = f"{now}, expected {number(low)} to {number(high)} ({basis})"
    return said("off track" if bad else "on track", words, low=low, high=high, n=len(others), **at)


def band(values: Any) -> tuple[Any, Any]:
    """Where a further run is expected at 95 %, along the first axis (runs): of the logarithms where
    all values are positive, as learning curves span decades."""
    x = np.asarray(values, dtype=np.float64)
    positive = (x > 0).all(axis=0)
    with np.errstate(over="ignore"):  # two runs far apart: anything is expected
        logs = np.exp(prediction(np.log(np.where(positive, x, 1.0))))
    plain = prediction(x)
    return tuple(np.where(positive, a, b)[()] for a, b in zip(logs, plain, strict=True))


def _references(
    claim: Claim | Watched, record: Record, records: Iterable[Record], epoch: int
) -> list[Record]:
    """Stored runs to compare with at that epoch, one for each data seed, as runs on the same data
    are more alike than others; of two precisions its own.

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
    by_data: dict[int, Record] = {}
    for other in sorted(
        same_data or usable, key=lambda r: (precision_differs(r), r.key, started(r))
    ):
        by_data.setdefault(other.key.data, other)
    return list(by_data.values())
