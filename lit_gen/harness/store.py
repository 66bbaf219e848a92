"""Where records lie: run directories while they train, `results/` once they count.

`keep` copies a run's record into results/ together with its predictions, small enough for git:
class probabilities in steps of 1/65,535, which decide every example as the originals do.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lit_gen.harness import record as records
from lit_gen.harness import report, verdict
from lit_gen.harness.record import Record, pack, unpack, write_atomically
from lit_gen.harness.spec import Spec, UserError, catalogue, digest, find, shipped

RECORD = "record.json"
PREDICTIONS = "predictions.npz"
STEPS = 65_535


def runs(spec: Spec, root: Path) -> Iterator[tuple[Record, Path]]:
    """Records in the run directories of a reproduction, each with its directory."""
    for path in sorted((root / spec.name).glob(f"*/{RECORD}")):
        yield records.read(path), path.parent


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
        return {name: _unpacked(array) for name, array in packed.items()}
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
    everything = {r.name: r for r in [*kept(spec), *(record for record, _ in pairs)]}
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
                said += [verdict.progress(c, record, everything.values()) for c in first.values()]
    return said


def keep(spec: Spec, root: Path) -> list[Path]:
    """Copies the records of runs into results/, with their predictions; not those of smoke runs.

    Raises:
        UserError: the packed predictions would decide an example differently.
    """
    written = []
    for record, folder in runs(spec, root):
        if record.smoke or not record.epochs:
            continue
        arrays = predictions(record, folder)
        if arrays:
            packed = {name: _packed(name, array) for name, array in arrays.items()}
            record = replace(record, result=record.result | {"predictions": packed})
        path = results(spec) / f"{record.name}.json"
        records.write(path, record)
        written.append(path)
    return written


def _packed(name: str, array: np.ndarray) -> dict[str, Any]:
    if name == "logits":
        exponentials = np.exp(array - array.max(1, keepdims=True).astype(np.float64))
        p = exponentials / exponentials.sum(1, keepdims=True)
        small = (p * STEPS).round().astype("<u2")
        if (small.argmax(1) != array.argmax(1)).any():
            raise UserError(
                "Class probabilities lie too close together to be packed in steps of 1/65,535. "
                "Please report this run; its predictions.npz holds them in full."
            )
    elif np.issubdtype(array.dtype, np.integer) and array.min() >= 0 and array.max() < 256:
        small = array.astype("u1")
    else:
        small = array
    kind = "probabilities" if name == "logits" else "values"
    return {"kind": kind, "dtype": small.dtype.str, "shape": list(small.shape)} | {
        "data": pack(small.tobytes())
    }


def _unpacked(array: dict[str, Any]) -> np.ndarray:
    values = np.frombuffer(unpack(array["data"]), array["dtype"]).reshape(array["shape"])
    if array["kind"] == "probabilities":  # back to logits, up to a constant per example
        return np.log(np.maximum(values, 0.25) / STEPS)
    return values


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
        arrays = predictions(record, None)
        errors = record.result.get("metrics", {}).get("test/errors")
        if arrays and errors is not None:
            counted = int((arrays["logits"].argmax(1) != arrays["target"]).sum())
            if counted != errors:
                found.append(f"{where}: its predictions make {counted} errors; it says {errors}.")
    return found
