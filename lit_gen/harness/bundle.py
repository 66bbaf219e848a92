"""Bundles: one file with all that a verdict follows from, to be judged again anywhere.

    MANIFEST.json          format, reproduction, SHA-256 and size of every other member
    records/*.json         the runs, with their predictions
    reproductions/P/N.yaml the reproduction, and claims/P.yaml, what the paper reports
    verdicts.json          what the records said when they were packed
    data.yaml              the manifest of the data files
    requirements.txt       every package of the environment that packed them, and its Python

A bundle is an uncompressed zip without times, so the same content is the same file. Reading one
runs nothing that is in it, writes nothing but its two YAML files, and takes nothing on trust: the
hashes show damage, while what is derived from the predictions shows the rest.
"""

import hashlib
import io
import json
import re
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lit_gen.harness import record as records
from lit_gen.harness import store
from lit_gen.harness.record import Record, dumps
from lit_gen.harness.spec import Spec, UserError, load, shipped
from lit_gen.harness.verdicts import certificate
from lit_gen.harness.verdicts.certificate import OURS

FORMAT = 1
MANIFEST, VERDICTS, DATA, LOCK = "MANIFEST.json", "verdicts.json", "data.yaml", "requirements.txt"
NAME = r"[^/\\:\0]+"
MEMBERS = re.compile(
    rf"{MANIFEST}|{VERDICTS}|{DATA}|{LOCK}"
    rf"|records/{NAME}\.json|reproductions/{NAME}/{NAME}\.yaml|claims/{NAME}\.yaml"
)
MOST_BYTES, MOST_MEMBERS = 2**31, 10_000


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read: `told` are the verdicts as packed."""

    spec: Spec
    records: dict[str, Record]  # by member
    told: list[dict[str, Any]]
    manifest: Path  # of the data files


# --- packing


def pack(spec: Spec, runs_dir: Path, say: Callable[[str], None]) -> bytes:
    """The bundle of a reproduction: records that count, and runs that are not among them.

    Raises:
        UserError: there is none.
    """
    chosen = {record.name: record for record in store.kept(spec, say)}
    for record, folder in store.runs(spec, runs_dir, say):
        counted = chosen.get(record.name)
        better = counted and (counted.status == "finished" or record.status != "finished")
        if record.smoke or better:
            continue
        try:
            chosen[record.name] = store.packed(record, folder)
        except UserError as error:
            say(str(error))
    if not chosen:
        raise UserError(
            f"There are no records of {spec.name}, neither in {store.results(spec)} nor in "
            f"{runs_dir}. Run it first: reproduce {spec.name}"
        )
    home = spec.path.parent.name
    members = {f"records/{n}.json": records.encoded(r) for n, r in chosen.items()}
    members[f"reproductions/{home}/{spec.path.name}"] = spec.path.read_bytes()
    for name, path in (
        (f"claims/{home}.yaml", shipped("claims") / f"{home}.yaml"),
        (DATA, shipped("data") / "manifest.yaml"),
    ):
        if path.is_file():
            members[name] = path.read_bytes()
    members[LOCK] = lock().encode()
    members[VERDICTS] = (dumps({"verdicts": verdicts(spec, list(chosen.values()))}) + "\n").encode()
    listed = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for name, content in sorted(members.items())
    }
    about = {"format": FORMAT, "reproduction": spec.name, "members": listed}
    return archive({MANIFEST: (dumps(about) + "\n").encode()} | members)


def archive(members: dict[str, bytes]) -> bytes:
    """A zip whose bytes follow from its members alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in sorted(members.items()):
            info = zipfile.ZipInfo(name)  # of 1980
            info.create_system, info.external_attr = 3, 0o644 << 16
            file.writestr(info, content)
    return buffer.getvalue()


def lock() -> str:
    """Every installed package with its version, as pip reads it, and the Python they are for."""
    found = {d.metadata["Name"].lower(): d.version for d in metadata.distributions() if d.version}
    python = ".".join(map(str, sys.version_info[:3]))
    lines = [f"{name}=={version}" for name, version in sorted(found.items())]
    return "\n".join([f"# Python {python}", *lines]) + "\n"


def verdicts(spec: Spec, runs: list[Record]) -> list[dict[str, Any]]:
    """What the records say, claim by claim, as far as it is a matter of numbers."""
    return [
        {
            "setting": v.claim.setting,
            "claim": v.claim.name,
            "protocol": v.protocol,
            "overrides": v.overrides,
            "status": v.status,
            "n": v.n,
            "mean": v.mean,  # of an order, the difference
            "values": v.values,
            "sentence": v.sentence,
        }
        for claim in spec.judged
        for v in certificate.judge_all(spec, claim, runs, store.predictions)
    ]


# --- reading


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """The bundle in that file, while its YAML files lie in a temporary folder.

    Raises:
        UserError: it is no bundle, is damaged, or asks for what a bundle must not.
    """
    members = _members(path)
    about = _about(path, members)
    try:
        told = json.loads(members[VERDICTS])["verdicts"]
        if not isinstance(told, list) or not all(isinstance(v, dict) for v in told):
            raise ValueError("it is no list of mappings")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _bad(path, f"{VERDICTS} cannot be read ({error})") from error
    found = {
        name: records.parse(content, f"{path}: {name}")
        for name, content in sorted(members.items())
        if name.startswith("records/")
    }
    (yaml_name,) = (name for name in members if name.startswith("reproductions/"))
    with tempfile.TemporaryDirectory() as folder:
        for name, content in members.items():
            if name.endswith(".yaml"):
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).write_bytes(content)
        try:
            spec = load(Path(folder) / yaml_name, about["reproduction"])
        except UserError as error:
            raise _bad(path, str(error).replace(f"{folder}/", "").rstrip(".")) from error
        for metric, entry in spec.metrics.items():
            class_path = entry.get("class_path") if isinstance(entry, dict) else entry
            if not str(class_path).startswith(OURS):
                raise _bad(
                    path,
                    f"its metric {metric} is {class_path}, no class of the installed {OURS[:-1]}, "
                    "and what a bundle names is not run",
                )
        yield Bundle(spec, found, told, Path(folder) / DATA)


def _bad(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is not a bundle to judge: {reason}. Ask for it again.")


def _members(path: Path) -> dict[str, bytes]:
    """Contents by name, after everything that can be wrong with a zip."""
    try:
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
            if len(entries) > MOST_MEMBERS:
                raise _bad(path, f"it has {len(entries):,} members")
            names = [entry.filename for entry in entries]
            for i, entry in enumerate(entries):
                shown = repr(entry.filename[:80])
                if not MEMBERS.fullmatch(entry.filename) or ".." in entry.filename:
                    raise _bad(path, f"a bundle has no member called {shown}")
                if entry.filename in names[:i]:
                    raise _bad(path, f"its member {shown} is there twice")
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise _bad(path, f"its member {shown} is compressed")
                if entry.flag_bits & 1:
                    raise _bad(path, f"its member {shown} is encrypted")
            total = sum(entry.file_size for entry in entries)
            if total > min(MOST_BYTES, path.stat().st_size):
                raise _bad(path, f"its members claim {total:,} bytes, more than there can be")
            return {entry.filename: file.read(entry) for entry in entries}
    except OSError as error:
        raise _bad(path, f"it cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, struct.error,
            ValueError) as error:  # fmt: skip
        raise _bad(path, f"the file is damaged or incomplete ({error})") from error


def _about(path: Path, members: dict[str, bytes]) -> dict[str, Any]:
    """What the manifest says, once every member is what it lists."""
    try:
        about = json.loads(members[MANIFEST])
        version, listed = about["format"], about["members"]
        name = about["reproduction"]
        hashes = {member: entry["sha256"] for member, entry in listed.items()}
    except KeyError as error:
        raise _bad(path, f"it lacks {error}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _bad(path, f"{MANIFEST} cannot be read ({error})") from error
    if not isinstance(version, int) or version != FORMAT:
        raise UserError(
            f"{path} is a bundle of format {version!r}; this lit_gen reads {FORMAT}. "
            "Install another version."
        )
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise _bad(path, f"{MANIFEST} names no reproduction")
    if odd := sorted(hashes.keys() ^ (members.keys() - {MANIFEST})):
        raise _bad(path, f"{MANIFEST} and its members differ ({', '.join(odd[:3])})")
    for member, sha256 in hashes.items():
        if hashlib.sha256(members[member]).hexdigest() != sha256:
            raise _bad(path, f"its member {member} is not as {MANIFEST} says")
    reproductions = [member for member in members if member.startswith("reproductions/")]
    needed = {VERDICTS, DATA} - members.keys()
    if len(reproductions) != 1 or needed or not any(m.startswith("records/") for m in members):
        raise _bad(path, "it lacks a reproduction, records, verdicts or the data's manifest")
    return about
