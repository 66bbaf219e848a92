"""Records: one run as JSON, written whole or not at all.

A record has three parts. `result` is what the mathematics gave: equal, bit for bit on a CPU,
however often the run was interrupted. `provenance` says where it came from, with one entry for
each stretch between two interruptions. The rest identifies the run and says how far it got.
"""

import base64
import json
import os
import tempfile
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lit_gen.harness import schema
from lit_gen.harness.schema import SCHEMA
from lit_gen.harness.schema import STATUSES as STATUSES
from lit_gen.harness.spec import Seed, UserError, digest

RECORD, CHECKPOINT = "record.json", "checkpoint.ckpt"  # the files of a run directory
PREDICTIONS, SAMPLES = "predictions.npz", "samples.png"
PICTURES, CLIP = "pictures", "clip.webp"  # a folder, and what may be in it
NEAREST = "nearest.png"  # there, too: samples beside the training images nearest to them
HANDED_ON = "handed_on.npz"  # for runs that need this one
MOST_BYTES = 2**28  # of one packed array
ADVICE = "Free some space there or choose another folder with --runs-dir."


@dataclass
class Record:
    """One run: reproduction, setting, protocol and seed, and what came of it."""

    reproduction: str
    setting: str
    protocol: str
    seed: dict[str, int]  # data, model
    config: dict[str, Any]  # resolved: every argument of model, data and trainer
    spec_hash: str  # of config
    deviations: list[str]
    smoke: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)
    status: str = "running"
    error: dict[str, Any] | None = None  # type, message, step, traceback's tail
    epochs: int = 0  # finished
    max_epochs: int = 0
    steps: int = 0
    result: dict[str, Any] = field(default_factory=dict)  # see lit_gen.harness.schema
    provenance: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def key(self) -> Seed:
        return Seed(**self.seed)

    @property
    def name(self) -> str:
        """A file name that no other run of the reproduction has."""
        return f"{self.cell}-seed_{str(self.key).replace(':', '.')}"

    @property
    def cell(self) -> str:
        """What all seeds of one cell of the table share: setting, protocol, departures of ours."""
        departs = f"+{digest(self.config)[:8]}" if self.overrides or self.smoke else ""
        return f"{self.setting}-{self.protocol}{departs}{'-smoke' if self.smoke else ''}"

    @property
    def hours(self) -> float:
        """Wall time of all stretches; of runs trained as one computation, each one's part."""
        return sum(s.get("wall_s") or 0 for s in self.provenance.get("segments", [])) / 3600

    @property
    def whole_hours(self) -> float | None:
        """What the run takes to its last epoch at its pace so far; None before its first one."""
        return self.hours / self.epochs * self.max_epochs if self.epochs else None

    def curve(self) -> list[dict[str, float]]:
        """One row of metrics per finished epoch; row i is epoch i + 1."""
        columns = self.result.get("curve", {})
        return [
            {key: values[i] for key, values in columns.items() if values[i] is not None}
            for i in range(self.epochs)
        ]


def write(path: Path, record: Record) -> None:
    """Replaces `path` by the record; a reader or a crash meets the old one or the new, never half.

    Raises:
        UserError: the folder cannot be written.
    """
    write_atomically(path, encoded(record))


def encoded(record: Record) -> bytes:
    """The content of a record's file."""
    return (dumps(asdict(record)) + "\n").encode()


def write_atomically(path: Path, content: bytes, advice: str = ADVICE) -> None:
    """Replaces a file, or what a link leads to, by the content as a whole.

    Args:
        advice: what to do if that fails.

    Raises:
        UserError: it cannot be written, or is no file but a folder or a device.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            raise UserError(f"{path} is {kind}. Give the name of a file.")
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, 0o644)
            os.replace(partial, target)
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as error:
        cause = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
        raise UserError(f"{path} cannot be written: {cause}. {advice}") from error


def dumps(value: Any) -> str:
    """JSON with one line per key of the upper levels; long lists of numbers stay on one line."""

    def block(value: Any, depth: int) -> str:
        if isinstance(value, dict) and value and depth < 4:
            pad = "  " * (depth + 1)
            lines = [f"{pad}{json.dumps(k)}: {block(v, depth + 1)}" for k, v in value.items()]
            return "{\n" + ",\n".join(lines) + "\n" + "  " * depth + "}"
        return json.dumps(value, allow_nan=False)

    return block(value, 0)


def read(path: Path) -> Record:
    """The record in that file, every field of the type that the rest of lit_gen relies on.

    Raises:
        UserError: not a record, damaged, edited beyond use, or of another version of lit_gen.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} is not a readable record ({error.strerror}). Give a record's file."
        ) from error
    return parse(content, str(path))


def parse(content: bytes, where: str) -> Record:
    """The record in these bytes; `where` names them in messages.

    Raises:
        UserError: as `read`.
    """
    try:
        raw = json.loads(content.decode(), object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not a readable record (byte {error.start} is not UTF-8). Move it away."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not a readable record ({error}). Move it away.") from error
    if complaint := schema.complaint(raw):
        raise UserError(f"{where} {complaint}")
    return Record(**raw)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which no key stands twice: of two values nobody knows which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"the key {twice!r} stands twice")
    return found


def pack(content: bytes) -> str:
    return base64.b85encode(zlib.compress(content, 9)).decode()


def unpack(text: str, most: int = MOST_BYTES) -> bytes:
    """Undoes `pack`.

    Raises:
        ValueError: the text is damaged, or holds more than `most` bytes.
    """
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(base64.b85decode(text), most)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if stream.unconsumed_tail:
        raise ValueError(f"it holds more than {most:,} bytes")
    if not stream.eof:
        raise ValueError("it breaks off")
    return content
