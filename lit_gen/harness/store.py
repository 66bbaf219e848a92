"""Where records lie: run directories while they train, `results/` once they count.

`keep` copies a run's record into results/ together with its predictions. Whatever is judged, is
judged here or through `certificate.judge_all`.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from lit_gen.harness import record as records
from lit_gen.harness.predictions import load as predictions
from lit_gen.harness.predictions import packed as pack_arrays
from lit_gen.harness.record import PREDICTIONS as PREDICTIONS
from lit_gen.harness.record import RECORD, Record, write_atomically
from lit_gen.harness.reports import report
from lit_gen.harness.spec import Spec, UserError, catalogue, find, shipped
from lit_gen.harness.verdicts import certificate, curves, human, orders, verdict

Arrays = dict[str, np.ndarray]
HUMAN = "human"  # the folder of what people said of a run's samples


@cache
def warn(message: str) -> None:
    """Says it on stderr, once."""
    print(message, file=sys.stderr)


def read_all(root: Path, pattern: str, say: Callable[[str], None]) -> Iterator[tuple[Record, Path]]:
    """Records below a folder. One that cannot be read is passed over, and said."""
    for path in sorted(root.glob(pattern)):
        try:
            yield records.read(path), path
        except UserError as error:
            say(str(error))


def runs(
    spec: Spec, root: Path, say: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[Record, Path]]:
    """Records in the run directories of a reproduction, each with its directory."""
    for record, path in read_all(root / spec.name, f"*/{RECORD}", say):
        yield record, path.parent


def results(spec: Spec) -> Path:
    """The folder of a reproduction's records that count."""
    return shipped("results") / spec.path.parent.name / spec.path.stem


def kept(spec: Spec, say: Callable[[str], None] = warn) -> list[Record]:
    """The records that count; one of a setting or protocol that is gone is only said."""
    found = []
    for record, path in read_all(results(spec), "*.json", say):
        if record.reproduction != spec.name:
            continue
        if sentence := gone(spec, record):
            say(f"{path}: {sentence}.")
            continue
        found.append(record)
    return found


def gone(spec: Spec, record: Record) -> str:
    """That the reproduction no longer has the setting or protocol of a record; '' if it has."""
    for what, name, known in (
        ("setting", record.setting, spec.settings),
        ("protocol", record.protocol, spec.protocols),
    ):
        if name not in known:
            return (
                f"{spec.path} has no {what} {name!r} (any more); put it back, or move the record "
                "away"
            )
    return ""


def judge(
    spec: Spec, pairs: list[tuple[Record, Path | None]], cells: Iterable[str]
) -> list[verdict.Verdict | orders.Ranking | curves.Progress]:
    """What these records say: each claim's verdict, how each unfinished run does, and then each
    order's verdict, from the records of both its settings.

    Args:
        spec: whose claims and orders.
        pairs: records, each with its run directory if it has one.
        cells: the cells to judge (`Record.cell`), in this order.
    """
    references = [*kept(spec), *(record for record, _ in pairs)]
    folders = {record.name: folder for record, folder in pairs}

    def arrays(record: Record) -> dict[str, np.ndarray] | None:
        return predictions(record, folders[record.name])

    said: list[verdict.Verdict | orders.Ranking | curves.Progress] = []
    kinds = []  # of runs: setting, protocol, the user's changes
    for cell in dict.fromkeys(cells):
        ours = [record for record, _ in pairs if record.cell == cell]
        kinds += [(r.setting, r.protocol, r.overrides) for r in ours[:1] if not r.smoke]
        for claim in (c for c in spec.claims if ours and c.setting == ours[0].setting):
            said += certificate.judge_all(spec, claim, ours, arrays)
        for record in ours:
            if record.status in ("running", "stopped"):
                watched = reversed(spec.watched(record.setting))
                said += [curves.progress(one, record, references) for one in watched]
    every = [record for record, _ in pairs]
    for order in spec.orders:
        for ranking in certificate.judge_all(spec, order, every, arrays):
            both = (order.setting, order.over)
            if any((s, ranking.protocol, ranking.overrides) in kinds for s in both):
                said.append(ranking)
    return said


def keep(spec: Spec, root: Path, say: Callable[[str], None] = print) -> list[Path]:
    """Copies the records of runs into results/, with their predictions.

    Left out are smoke runs and runs that have not finished an epoch and may yet. A record of a run
    that ended is replaced by that run's own alone: another run of the same seed would be a second
    throw of the dice.
    """
    written = []
    for record, folder in runs(spec, root, say):
        going = record.status in ("running", "stopped")
        if record.smoke or (going and not record.epochs):
            continue
        path = results(spec) / f"{record.name}.json"
        try:
            before = records.read(path) if path.is_file() else None
            if before and before.status in ("finished", "diverged"):
                another = verdict.started(before) != verdict.started(record)
                if another or (before.status, record.status) == ("finished", "stopped"):
                    say(
                        f"{path} is of a run that {before.status} and stays; {folder} is another "
                        f"run of that seed, {record.status}."
                    )
                    continue
            records.write(path, packed(record, folder))
            written.append(path)
            written += _keep_human(spec, record, folder, say)
        except UserError as error:
            say(str(error))
    return written


def _keep_human(
    spec: Spec, record: Record, folder: Path, say: Callable[[str], None]
) -> Iterator[Path]:
    """Copies what people said of a run's samples; its pseudonyms are in none of these files."""
    for path in sorted((folder / HUMAN).glob("*.json")):
        content = path.read_bytes()
        try:
            of = json.loads(content)["run"]["run_started"]
        except (ValueError, KeyError, TypeError) as error:
            say(f"{path} is no record of a human test ({error!r}). Move it away.")
            continue
        if of != verdict.started(record):
            say(f"{path} is of an earlier run in that folder, and is not kept.")
            continue
        target = results(spec) / HUMAN / f"{record.name}.{path.name}"
        try:
            goes_on = not target.exists() or _goes_on(content, target.read_bytes())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            say(f"{path} cannot be compared with {target}, which stays: {error!r}.")
            continue
        if not goes_on:
            say(
                f"{target} has answers that {path} does not go on from, and stays; {path} is of "
                "another test, or has lost some."
            )
            continue
        write_atomically(target, content)
        yield target


def _goes_on(later: bytes, earlier: bytes) -> bool:
    """Whether a human test's record has all answers of an earlier one, each rater's as his first.

    A test that was begun anew would be a second throw of the dice. It shows the same images, but
    in other orders.
    """
    one, other = json.loads(later), json.loads(earlier)
    same = one["test"]["images_sha256"] == other["test"]["images_sha256"]
    return same and human.goes_on(one["votes"], other["votes"])


def packed(record: Record, folder: Path | None) -> Record:
    """The record of a run with the predictions in its directory inside."""
    if arrays := predictions(record, folder):
        kept_as = {"predictions": pack_arrays(arrays)}
        return replace(record, result=record.result | kept_as)
    return record


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
