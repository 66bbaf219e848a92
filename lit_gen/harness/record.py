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

from lit_gen.harness.spec import Seed, UserError, digest

SCHEMA = 1
RECORD, CHECKPOINT = "record.json", "checkpoint.ckpt"  # the files of a run directory
PREDICTIONS, SAMPLES = "predictions.npz", "samples.png"
STATUSES = ("running", "stopped", "finished", "crashed", "diverged")


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
    result: dict[str, Any] = field(default_factory=dict)  # metrics, curve, predictions
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
    write_atomically(path, (dumps(asdict(record)) + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, 0o644)
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror}. Free some space there or choose another "
            "folder with --runs-dir."
        ) from error


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
    """The record in that file.

    Raises:
        UserError: not a record, damaged, or of a newer version of lit_gen.
    """
    try:
        raw = json.loads(path.read_text())
        schema = raw["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a readable record ({error}). Move it away.") from error
    if schema > SCHEMA:
        raise UserError(
            f"{path} has schema {schema}; this lit_gen reads up to {SCHEMA}. Install a newer one."
        )
    try:
        record = Record(**raw)
    except TypeError as error:
        raise UserError(f"{path} is not a complete record ({error}). Move it away.") from error
    if record.status not in STATUSES:
        raise UserError(f"{path} has the unknown status {record.status!r}. Move it away.")
    return record


def pack(content: bytes) -> str:
    return base64.b85encode(zlib.compress(content, 9)).decode()


def unpack(text: str) -> bytes:
    return zlib.decompress(base64.b85decode(text))
