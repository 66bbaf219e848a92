"""Where records lie: run directories while they train, `results/` once they count.

`keep` copies a run's record into results/ together with its predictions, small enough for git:
class probabilities in steps of 1/65,535, whose largest is that of the original in every example.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lit_gen.harness import record as records
from lit_gen.harness import report, verdict
from lit_gen.harness.record import (
    PREDICTIONS,
    RECORD,
    Record,
    pack,
    unpack,
    write_atomically,
)
from lit_gen.harness.spec import Spec, UserError, catalogue, digest, find, shipped

STEPS = 65_535


def runs(
    spec: Spec, root: Path, say: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[Record, Path]]:
    """Records in the run directories of a reproduction, each with its directory.

    One that cannot be read is passed over, and said.
    """
    for path in sorted((root / spec.name).glob(f"*/{RECORD}")):
        try:
            yield records.read(path), path.parent
        except UserError as error:
            say(str(error))


def results(spec: Spec) -> Path:
    """The folder of a reproduction's records that count."""
    return shipped("results") / spec.path.parent.name / spec.path.stem


def kept(spec: Spec) -> list[Record]:
    """The records that count."""
    return [records.read(path) for path in sorted(results(spec).glob("*.json"))]


def predictions(record: Record, folder: Path | None) -> dict[str, np.ndarray] | None:
    """What a run's metrics are computed from: from its directory, or as packed in its record."""
    if folder and (folder / PREDICTIONS).is_file():
        with np.load(folder / PREDICTIONS) as arrays:
            return dict(arrays)
    if packed := record.result.get("predictions"):
        return _unpacked(packed)
    return None


def judge(
    spec: Spec, pairs: list[tuple[Record, Path | None]], cells: Iterable[str]
) -> list[verdict.Verdict | verdict.Progress]:
    """What these records say: each claim's verdict, and how each unfinished run does.

    Args:
        spec: whose claims.
        pairs: records, each with its run directory if it has one.
        cells: the cells to judge (`Record.cell`), in this order.
    """
    references = [*kept(spec), *(record for record, _ in pairs)]
    folders = {record.name: folder for record, folder in pairs}

    def arrays(record: Record) -> dict[str, np.ndarray] | None:
        return predictions(record, folders[record.name])

    said: list[verdict.Verdict | verdict.Progress] = []
    for cell in dict.fromkeys(cells):
        ours = [record for record, _ in pairs if record.cell == cell]
        claims = [c for c in spec.claims if ours and c.setting == ours[0].setting]
        for claim in claims:
            said += verdict.judge_all(claim, ours, predictions=arrays)
        for record in ours:
            if record.status in ("running", "stopped"):
                first = {c.metric: c for c in reversed(claims)}  # each metric once
                said += [verdict.progress(c, record, references) for c in first.values()]
    return said


def keep(spec: Spec, root: Path, say: Callable[[str], None] = print) -> list[Path]:
    """Copies the records of runs into results/, with their predictions.

    Left out are smoke runs and runs that have not finished an epoch and may yet. A finished record
    is not replaced by one of a run that is not finished.
    """
    written = []
    for record, folder in runs(spec, root, say):
        going = record.status in ("running", "stopped")
        if record.smoke or (going and not record.epochs):
            continue
        path = results(spec) / f"{record.name}.json"
        better = path.is_file() and records.read(path).status == "finished"
        if better and record.status != "finished":
            say(f"{path} is of a finished run and stays; {folder} is {record.status}.")
            continue
        if arrays := predictions(record, folder):
            packed = {name: _packed(array) for name, array in _compact(arrays).items()}
            record = replace(record, result=record.result | {"predictions": packed})
        records.write(path, record)
        written.append(path)
    return written


def _compact(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Class probabilities instead of logits, in steps of 1/65,535, and small integers as bytes."""
    small = {}
    for name, array in arrays.items():
        if name == "logits":
            p = (verdict.softmax(array) * STEPS).round().astype("<u2")
            best = array.argmax(1)
            for row in np.flatnonzero(p.argmax(1) != best):  # a tie after rounding
                p[row, best[row]] = p[row].max() + 1
            small["probabilities"] = p
        elif np.issubdtype(array.dtype, np.integer) and array.min() >= 0 and array.max() < 256:
            small[name] = array.astype("u1")
        else:
            small[name] = array
    return small


def _packed(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": pack(array.tobytes())}


def _unpacked(packed: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    arrays = {
        name: np.frombuffer(unpack(a["data"]), a["dtype"]).reshape(a["shape"])
        for name, a in packed.items()
    }
    if "probabilities" in arrays:
        arrays["probabilities"] = arrays["probabilities"] / STEPS
    return arrays


def specs(names: Iterable[str]) -> list[Spec]:
    """The named reproductions, or all."""
    return [find(name) for name in (names or catalogue())]


# --- results/README.md


def readme_path() -> Path:
    return shipped("results") / "README.md"


def readme() -> str:
    """The text of results/README.md, as the records give it."""
    reproductions = {spec.name: spec for spec in specs([])}
    records = {name: kept(spec) for name, spec in reproductions.items()}
    return report.markdown(
        records, reproductions, lambda record: predictions(record, None), "reproduce keep"
    )


def write_readme() -> Path:
    write_atomically(readme_path(), readme().encode())
    return readme_path()


def complaints(spec: Spec) -> list[str]:
    """What is wrong with the records that count: numbers that do not follow from what they kept."""
    found = []
    for record in kept(spec):
        where = f"{results(spec) / record.name}.json"
        given = digest(record.config | {"seed": record.seed})
        if given != record.spec_hash:
            found.append(f"{where}: the configuration's hash is {given[:8]}, not as recorded.")
        arrays = predictions(record, None) or {}
        errors = record.result.get("metrics", {}).get("test/errors")
        if errors is not None and {"probabilities", "target"} <= arrays.keys():
            counted = int((arrays["probabilities"].argmax(1) != arrays["target"]).sum())
            if counted != errors:
                found.append(f"{where}: its predictions make {counted} errors; it says {errors}.")
    return found
