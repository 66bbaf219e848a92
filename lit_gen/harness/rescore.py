"""Metrics of finished runs, computed again from what the runs kept, without training."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from lit_gen.harness import record as records
from lit_gen.harness import store
from lit_gen.harness.predictions import load
from lit_gen.harness.record import RECORD, Record
from lit_gen.harness.spec import Spec, UserError
from lit_gen.harness.verdicts import certificate


def rescored(spec: Spec, record: Record, folder: Path | None) -> tuple[Record, list[str]]:
    """The record with its metrics as today's classes compute them, and with the reason for numbers
    that no run can have; and a sentence for each change.

    What the training's own test gave stays in `result.rescored`, a list of {metric, was, was_id,
    now, id}. A record that is as it should be comes back equal.

    Raises:
        UserError: a metric is not to be trusted, or the predictions are damaged.
    """
    metrics = dict(record.result["metrics"])
    ids = dict(record.result.get("metric_ids", {}))
    history, said = list(record.result.get("rescored", [])), []
    for name in [name for name in metrics if name in spec.metrics]:
        tested = certificate.metric(spec, name)
        if complaints := certificate.certify(tested):
            raise UserError(
                f"{tested.id} fails its certificate: {complaints[0]}. Correct it first."
            )
        was, was_id = metrics[name], ids.get(name)
        arrays = load(record, folder)
        if arrays is None:
            said.append(f"{name} = {was:.10g} stays: the run kept no predictions")
            continue
        if was_id == tested.id and not certificate.objection(tested, name, record, arrays):
            continue
        metrics[name] = now = certificate.recomputed(tested, arrays)
        ids[name] = tested.id
        change = {"metric": name, "was": was, "was_id": was_id, "now": now, "id": tested.id}
        history.append(change)
        moved = f"{was:.10g} -> {now:.10g}" if was != now else f"{now:.10g}, as before"
        said.append(f"{name} {moved} ({was_id or 'no id'} -> {tested.id})")
    new = record
    if history != record.result.get("rescored", []):
        result = record.result | {"metrics": metrics, "metric_ids": ids, "rescored": history}
        new = replace(new, result=result)
    known = record.provenance.get("not_beside", {})
    if lacking := {k: v for k, v in never(spec).items() if k not in metrics and k not in known}:
        new = replace(new, provenance=new.provenance | {"not_beside": known | lacking})
        said += [f"{name} is not measured: {why}" for name, why in lacking.items()]
    return new, said


def never(spec: Spec) -> dict[str, str]:
    """Numbers that no run of this reproduction has, and why: of claims that came after a run, too.

    Raises:
        UserError: a metric cannot be made.
    """
    made = (certificate.metric(spec, name) for name in spec.metrics)
    return {name: m.why for m in made if getattr(m, "never", False) for name in m.names}


def rescore(
    spec: Spec, runs_dir: Path, dry: bool, say: Callable[[str], None]
) -> tuple[int, int, bool]:
    """Rescores a reproduction's finished runs, in their directories and in results/.

    Returns:
        How many there are, how many changed, and whether any of these is in results/.
    """
    seen, changed, in_results = 0, 0, False
    for record, path in _finished(spec, runs_dir, say):
        seen += 1
        folder = path.parent if path.name == RECORD else None
        try:
            new, said = rescored(spec, record, folder)
            if new is not record and not dry:
                _replace(path, record, new)
        except UserError as error:
            say(f"{path} stays as it is: {error}")
            continue
        for sentence in said:
            say(f"{path}: {sentence}")
        changed += new is not record
        in_results |= new is not record and folder is None
    return seen, changed, in_results


def _finished(
    spec: Spec, runs_dir: Path, say: Callable[[str], None]
) -> Iterator[tuple[Record, Path]]:
    for record, folder in store.runs(spec, runs_dir, say):
        if record.status == "finished":
            yield record, folder / RECORD
    for record in store.kept(spec, say):
        if record.status == "finished":
            yield record, store.results(spec) / f"{record.name}.json"


def _replace(path: Path, old: Record, new: Record) -> None:
    if path.name != RECORD:
        records.write(path, new)
        return
    from lit_gen.harness.run import locked

    with locked(path.parent):
        if records.read(path) != old:
            raise UserError("it changed meanwhile. Try again.")
        records.write(path, new)
