"""Runs that build on runs of another reproduction, as an imitator does on its expert.

A reproduction's `needs: {ARG: NAME}` names it. What counts is a finished run of NAME's default
setting and first seed: of the protocol that has the same name as this run's, else of NAME's own
default. It is looked for among the user's runs; where there is none, it is trained first.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from lit_gen.harness.record import HANDED_ON, RECORD, Record, read
from lit_gen.harness.run import Run, new_record
from lit_gen.harness.spec import Spec, UserError, find


def missing(runs: Iterable[Run], root: Path) -> list[Run]:
    """Runs to be trained before these can be."""
    wanted = {}
    for run in runs:
        for argument, name in _asked(run):
            if _finished(run, argument, name, root) is None:
                first = _candidates(run, name)[0]
                wanted[first.spec.name, first.protocol] = first
    return list(wanted.values())


def provided(run: Run, root: Path) -> Run:
    """The run, with the files of those that it needs.

    Raises:
        UserError: one of them is not there.
    """
    needed = {}
    for argument, name in _asked(run):
        theirs = _finished(run, argument, name, root)
        if theirs is None:
            first = _candidates(run, name)[0]
            smoke = " --smoke" * run.smoke
            raise UserError(
                f"{run.spec.name} needs a finished run of {name} with its {HANDED_ON}; there is "
                f"none in {root}. Run `reproduce {name} --protocol {first.protocol}{smoke} "
                f"--runs-dir {root}`; if it says that it is finished, move its folder away first."
            )
        needed[argument] = theirs
    return dataclasses.replace(run, needed=needed) if needed else run


def _asked(run: Run) -> list[tuple[str, str]]:
    """What the run needs and the user has not given."""
    config = run.spec.merged(run.setting, run.protocol, run.smoke, run.overrides)
    given = config["data"].get("init_args") or {}
    return [(a, name) for a, name in run.spec.needs.items() if given.get(a) is None]


def _candidates(run: Run, name: str) -> list[Run]:
    beside = run.spec.path.parent / f"{name.removeprefix(run.spec.path.parent.name + '_')}.yaml"
    spec: Spec = find(str(beside) if beside.is_file() else name)  # a user's own files stay together
    protocols = [p for p in (run.protocol, spec.default_protocol) if p in spec.protocols]
    return [
        Run(spec, spec.default_setting, protocol, spec.seeds[0], {}, run.smoke)
        for protocol in dict.fromkeys(protocols)
    ]


def _finished(run: Run, argument: str, name: str, root: Path) -> dict[str, str] | None:
    """The first finished run that will do, as it stands in `Run.needed`.

    Raises:
        UserError: the one that there is diverged, and would again.
    """
    diverged = None
    for candidate in _candidates(run, name):
        _, config = candidate.resolve()
        record: Record = new_record(candidate, config.as_dict())
        folder = candidate.directory(root, record)
        if not (folder / RECORD).is_file():
            continue
        theirs = read(folder / RECORD)
        if theirs.status == "diverged":
            diverged = diverged or folder
        if not (folder / HANDED_ON).is_file():
            continue
        if theirs.status == "finished" and theirs.spec_hash == record.spec_hash:
            return {
                "file": str(folder / HANDED_ON),
                "run": f"{name}/{theirs.name}",
                "spec_hash": theirs.spec_hash,
            }
    if diverged:
        raise UserError(
            f"{run.spec.name} builds on a run of {name}, which diverged: {diverged}. Give "
            f"--data.{argument} with another's {HANDED_ON}, or move that folder away to train anew."
        )
    return None
