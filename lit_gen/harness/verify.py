"""What can be derived again from a record, what does not follow, and what nobody can tell here."""

import hashlib
import json
import os
import subprocess
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lit_gen.harness import provenance, store
from lit_gen.harness import record as records
from lit_gen.harness.human import score
from lit_gen.harness.predictions import load, unpacked
from lit_gen.harness.record import RECORD, Record
from lit_gen.harness.reports import report
from lit_gen.harness.spec import PACKAGE, Seed, Spec, UserError, digest, find, flatten, shipped
from lit_gen.harness.verdicts import certificate

OK, FAILED, CANNOT = "ok", "FAILED", "cannot be verified here"


class Finding(NamedTuple):
    """One thing about a record: `mark` is OK, FAILED or CANNOT."""

    mark: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.mark}: {self.sentence}"


def findings(
    spec: Spec | None, record: Record, path: Path, manifest: Path | None = None
) -> Iterator[Finding]:
    """Everything about one record.

    Args:
        spec: its reproduction; None if there is none here.
        path: its file; a run directory's has its predictions beside it.
        manifest: of the data files, where the reproduction is a bundle's; else None.
    """
    yield Finding(OK, f"schema {record.schema}, every field of its type")
    yield from _name(spec, record, path)
    given = digest(record.config | {"seed": record.seed})
    if given == record.spec_hash:
        yield Finding(OK, f"the configuration's hash is {given[:8]}, as recorded")
    else:
        yield Finding(
            FAILED,
            f"the configuration's hash is {given[:8]}, not {record.spec_hash[:8]} as recorded",
        )
    if odd := certificate.contradiction(record):
        yield Finding(FAILED, odd)
    if spec is None:
        yield Finding(
            CANNOT, f"configuration, metrics, verdict: there is no {record.reproduction} here"
        )
    else:
        yield _configuration(spec, record, foreign=manifest is not None)
        yield from _metrics(spec, record, path.parent if path.name == RECORD else None)
    yield _data(record, manifest)
    yield from _code(record)
    yield Finding(
        CANNOT,
        "that the training took place, its curve, its time and its machine: only training again "
        "can tell",
    )


def _name(spec: Spec | None, record: Record, path: Path) -> Iterator[Finding]:
    """Where records lie together, each has its place, or one run could count twice."""
    if spec and record.reproduction != spec.name:
        yield Finding(FAILED, f"it is a record of {record.reproduction}, not of {spec.name}")
    together = spec and path.parent in (store.results(spec), Path("records"))
    if together and path.stem != record.name:
        yield Finding(FAILED, f"its name is {path.stem}, by its content {record.name}")


def _configuration(spec: Spec, record: Record, foreign: bool) -> Finding:
    """Whether the reproduction, as it is now, would train the same thing.

    To build a configuration imports what it names; what others wrote may name lit_gen's own only.
    """
    if sentence := store.gone(spec, record):
        return Finding(FAILED, sentence)
    written = [record.overrides]
    if foreign:
        written += [spec.config, spec.settings, spec.protocols, spec.smoke]
    if strange := [p for p in _class_paths(written) if not str(p).startswith("lit_gen.")]:
        return Finding(CANNOT, f"its configuration: {strange[0]} is not lit_gen's, and not run")
    try:
        today = _today(spec, record)
    except UserError as error:
        return Finding(FAILED, f"its configuration cannot be built any more: {error}".rstrip("."))
    hidden = [d for d in today.deviations if d not in (*spec.deviations, *record.deviations)]
    if hidden:
        return Finding(FAILED, f"it does not say how it departs: {'; '.join(hidden)}")
    as_read = json.loads(json.dumps(today.config))  # tuples are lists, as in the record
    then, now = dict(flatten(record.config)), dict(flatten(as_read))
    changed = [
        f"{key} was {then[key]!r}, now {now[key]!r}"
        for key in then
        if key in now and then[key] != now[key]
    ]
    if changed:
        return Finding(FAILED, f"{spec.path} is another configuration: {', '.join(changed)}")
    if odd := sorted(then.keys() ^ now.keys()):
        return Finding(
            CANNOT,
            f"its whole configuration: the classes here do not have the same arguments "
            f"({', '.join(odd[:5])}{', ...' if len(odd) > 5 else ''})",
        )
    return Finding(OK, f"{spec.path.name} is still this configuration")


def _class_paths(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        if "class_path" in tree:
            yield tree["class_path"]
        for value in tree.values():
            yield from _class_paths(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _class_paths(value)


_known: dict[tuple[Path, str], Record] = {}  # resolving takes a tenth of a second


def _today(spec: Spec, record: Record) -> Record:
    """What such a run's record would begin with now.

    Raises:
        UserError: there can be no such run.
    """
    key = spec.path, digest([record.setting, record.protocol, record.smoke, record.overrides])
    if key not in _known:
        _known[key] = _begun(spec, record)
    return _known[key]


def _begun(spec: Spec, record: Record) -> Record:
    from lit_gen.harness.run import Run, new_record

    run = Run(
        spec, record.setting, record.protocol, Seed(**record.seed), record.overrides, record.smoke
    )
    _, config = run.resolve()
    return new_record(run, config.as_dict())


def _metrics(spec: Spec, record: Record, folder: Path | None) -> Iterator[Finding]:
    if record.status != "finished":
        yield Finding(CANNOT, f"metrics: the run is {record.status}")
        return
    try:
        arrays = load(record, folder)
    except UserError as error:
        yield Finding(FAILED, str(error).rstrip("."))
        return
    for name, value in record.result["metrics"].items():
        if name not in spec.judged_metrics:
            continue
        try:
            tested = certificate.metric(spec, name)
        except UserError as error:
            yield Finding(FAILED, str(error))
            continue
        if complaints := certificate.certify(tested):
            yield Finding(FAILED, f"{tested.id} has no certificate: {complaints[0]}")
        elif reason := certificate.objection(tested, name, record, arrays):
            mark = FAILED if arrays is not None else CANNOT
            yield Finding(mark, reason)
        elif arrays is None:
            yield Finding(CANNOT, f"{name} = {value:.10g}: the run kept no predictions")
        else:
            yield Finding(OK, f"{name} = {value:.10g} follows from its predictions ({tested.id})")


def _data(record: Record, manifest: Path | None) -> Finding:
    fingerprint = record.provenance.get("data")
    if fingerprint is None:
        return Finding(CANNOT, "its data: the record has no fingerprint of the files")
    known, told = fingerprints(_manifest()), fingerprints(manifest) if manifest else {}
    if fingerprint in known:
        return Finding(OK, f"its data files are {known[fingerprint]} (SHA-256 {fingerprint[:8]})")
    if fingerprint in told:
        what = f"{told[fingerprint]} by the bundle's manifest, which the one here does not list"
        return Finding(CANNOT, f"its data files: {what}")
    return Finding(
        CANNOT, f"its data files: the manifest lists none with fingerprint {fingerprint[:8]}"
    )


def _manifest() -> Path:
    chosen = os.environ.get("LIT_GEN_MANIFEST")
    return Path(chosen) if chosen else shipped("data") / "manifest.yaml"


@cache
def fingerprints(manifest: Path) -> dict[str, str]:
    """Data sets and their editions in a manifest, by fingerprint; none if it cannot be read."""
    try:
        entries = yaml.safe_load(manifest.read_text(encoding="utf-8"))
        found = {}
        for name, entry in entries.items():
            for edition in entry["editions"]:
                files = edition["files"].values()
                digests = sorted(bytes.fromhex(file["sha256"]) for file in files)
                fingerprint = hashlib.sha256(b"".join(digests)).hexdigest()
                found[fingerprint] = f"{name}, edition {edition['name']}"
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return {}


def _code(record: Record) -> Iterator[Finding]:
    """Whether the code behind each stretch of training is here."""
    segments = record.provenance.get("segments", [])
    states = dict.fromkeys((s.get("commit"), s.get("dirty"), s.get("diff")) for s in segments)
    for commit, dirty, diff in states or {(None, None, None): None}:
        if commit is None:
            yield Finding(CANNOT, "its code: the record names no commit")
        elif dirty:
            same = provenance.code() == {"commit": commit, "dirty": True, "diff": diff} and diff
            mark = OK if same else CANNOT
            where = "this checkout" if same else "not here"
            yield Finding(mark, f"its code, commit {commit[:8]} with changes, is {where}")
        elif _exists(commit):
            yield Finding(OK, f"its code, commit {commit[:8]}, is in this checkout's history")
        else:
            yield Finding(CANNOT, f"its code: no commit {commit[:8]} in a checkout here")


@cache
def _exists(commit: str) -> bool:
    if not (PACKAGE.parent / ".git").exists() or not set(commit) <= set("0123456789abcdef"):
        return False
    try:
        provenance.git(PACKAGE.parent, "cat-file", "-e", f"{commit}^{{commit}}")
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def twins(records: Iterable[Record]) -> Iterator[str]:
    """Runs of different seeds that kept the same scores: one of them is a copy.

    Scores that are all one number, such as the highest return in every episode, come about twice
    without one.
    """
    seen: dict[str, str] = {}
    for record in records:
        packed = record.result.get("predictions") or {}
        scores = {name: array for name, array in packed.items() if name != "target"}
        if any(_constant({name: array}, record.name) for name, array in scores.items()):
            continue
        if scores and (other := seen.setdefault(digest(scores), record.name)) != record.name:
            yield f"{record.name} and {other} kept the same predictions; one is a copy"


def _constant(packed: dict[str, Any], name: str) -> bool:
    (array,) = unpacked(packed, name).values()
    return array.size > 1 and bool((array == array.flat[0]).all())


def anchors(spec: Spec) -> list[str]:
    """What speaks against the reproduction's metrics on its real data files, where these are.

    Of those that no claim can be about (top of lit_gen/harness/beside.py) nothing is asked.
    """
    from lit_gen.harness.run import Run

    files: dict[str, Path] = {}
    run = Run(spec, spec.default_setting, spec.default_protocol, spec.seeds[0], {})
    _, data, _ = run.build(*run.resolve(), "cpu")
    if hasattr(data, "verify"):
        files = {file.name: file.path for file in data.verify() if file.status == "ok"}
    return [
        f"the metric {tested.id} fails its certificate: {complaint}"
        for tested in (certificate.metric(spec, name) for name in spec.metrics)
        if not hasattr(tested, "compare")
        for complaint in certificate.certify(tested, files)
    ]


# --- `reproduce verify`


def examine(paths: Iterable[Path], say: Callable[[str], None], warn: Callable[[str], None]) -> int:
    """Says what can be derived again from records' files, runs' directories and bundles.

    Returns:
        0 if all of it holds, 1 if something does not follow, 2 if something cannot be read.
    """
    status, given = 0, {}
    for path in paths:
        file = path / RECORD if (path / RECORD).is_file() else path
        try:
            if file.suffix == ".zip" or zipfile.is_zipfile(file):
                status = max(status, _examine_bundle(file, say))
                continue
            record = records.read(file.absolute())
        except UserError as error:
            warn(str(error))
            status = 2
            continue
        say(str(path))
        try:
            spec = find(record.reproduction)
        except UserError:
            spec = None
        status = max(status, _tell(findings(spec, record, file.absolute()), say))
        if spec:
            given.setdefault(spec.name, (spec, {}))[1][file.absolute()] = record
    for spec, files in given.values():
        status = max(status, _together(spec, files, say))
    return status


def _together(spec: Spec, files: dict[Path, Record], say: Callable[[str], None]) -> int:
    """What the records of one reproduction say; if they are all that count, as results/ has it."""
    folders = {id(r): path.parent for path, r in files.items() if path.name == RECORD}
    runs = list(files.values())
    say(f"{spec.name}, {len(runs)} of its records together")
    failed = _tell((Finding(FAILED, sentence) for sentence in twins(runs)), say)
    page = store.readme_path()
    whole = {path.absolute() for path in store.results(spec).glob("*.json")} == files.keys()
    written = " ".join(page.read_text().split()) if whole and page.is_file() else None
    for claim in spec.judged:
        for given in certificate.judge_all(
            spec, claim, runs, lambda r: load(r, folders.get(id(r)))
        ):
            said = f"{claim.setting} {claim.name}, {given.protocol}: {report.sentence(given)}"
            if written is None:
                say(f"  by these alone, {said}")
            else:
                mark = OK if " ".join(said.split()) in written else FAILED
                failed |= _tell([Finding(mark, f"in {page.name}, {said}")], say)
    return failed


def _examine_bundle(path: Path, say: Callable[[str], None]) -> int:
    from lit_gen.harness import bundle

    with bundle.opened(path) as opened:
        failed = 0
        say(f"{path}: {len(opened.records)} records of {opened.spec.name}")
        failed |= _tell(_alike(opened.spec), say)
        for member, record in opened.records.items():
            say(member)
            failed |= _tell(findings(opened.spec, record, Path(member), opened.manifest), say)
        say("all records together")
        runs = list(opened.records.values())
        said = [Finding(FAILED, sentence) for sentence in twins(runs)]
        now = {_of(v): v for v in bundle.verdicts(opened.spec, runs)}
        then = {_of(v): v for v in opened.told}
        for key in dict.fromkeys([*now, *then]):
            a, b = then.get(key, {}), now.get(key, {})
            shown = b.get("sentence", "no verdict")
            if all(a.get(part) == b.get(part) for part in ("status", "n", "mean", "values")):
                said.append(Finding(OK, f"{key} follows from the records: {shown}"))
            else:
                before = a.get("status", "not there")
                said.append(Finding(FAILED, f"{key} was packed as {before}; the records: {shown}"))
        return failed | _tell(said, say)


def _alike(spec: Spec) -> Iterator[Finding]:
    """Whether a bundle's reproduction claims what the installed one does."""
    try:
        ours = find(spec.name)
    except UserError:
        yield Finding(CANNOT, f"its claims and metrics: {spec.name} is not installed")
        return
    for what, a, b in (
        ("claims", spec.judged, ours.judged),
        ("metrics", spec.metrics, ours.metrics),
        ("configuration", _written(spec), _written(ours)),
    ):
        if a == b:
            yield Finding(OK, f"its {what}: as in the installed {spec.name}")
        else:
            yield Finding(FAILED, f"its {what}: not as in the installed {spec.name}")


def _written(spec: Spec) -> Any:
    return spec.config, spec.settings, spec.protocols


def _of(told: dict[str, Any]) -> str:
    departs = f" with {told['overrides']}" if told.get("overrides") else ""
    return f"{told.get('setting')} {told.get('claim')}, {told.get('protocol')}{departs}"


def _tell(said: Iterable[Finding], say: Callable[[str], None]) -> int:
    failed = 0
    for finding in said:
        say(f"  {finding}")
        failed |= finding.mark == FAILED
    return int(failed)


# --- everything that is stored


def complaints(spec: Spec) -> list[str]:
    """What is wrong with the records that count: what cannot be read, or does not follow."""
    found = [f"{spec.path}: {sentence}." for sentence in anchors(spec)]
    pairs = list(store.read_all(store.results(spec), "*.json", found.append))
    for record, path in pairs:
        said = [f for f in findings(spec, record, path) if f.mark == FAILED]
        found += [f"{path}: {finding.sentence}." for finding in said]
    score.kept(spec, found.append)
    alike = twins(record for record, _ in pairs)
    return found + [f"{store.results(spec)}: {sentence}." for sentence in alike]


def orphans() -> list[str]:
    """Folders in results/ that no reproduction's records belong into."""
    homes = {store.results(spec) for spec in store.specs([])}
    folders = sorted({path.parent for path in store.shipped("results").glob("*/*/*.json")} - homes)
    return [f"{folder} holds records, but there is no such reproduction." for folder in folders]


def without_runs(spec: Spec) -> str:
    """A sentence naming the settings that no record is of; '' if there is none."""
    there = {record.setting for record in store.kept(spec)}
    lacking = [setting for setting in spec.settings if setting not in there]
    return f"{spec.name} has no runs of {', '.join(lacking)} yet." if lacking else ""
