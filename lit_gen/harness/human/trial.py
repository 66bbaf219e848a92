"""One human test on disk: what is shown, in which order, and every answer.

    trial.json      what was fixed when it began; written last, so that it is there or not
    images.npz      the pool, as uint8, and which of it is generated: the key
    secret          32 random bytes, from which orders and the names of images follow
    votes/ID.jsonl  one line for each answer of the rater ID, in the order in which they were given
    lock            held by the one process that begins it or serves it

The folder and its files are readable by their owner alone.
"""

import contextlib
import fcntl
import hashlib
import hmac
import io
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lit_gen.harness.record import write_atomically
from lit_gen.harness.spec import UserError
from lit_gen.harness.verdicts.human import Votes

TRIAL, IMAGES, SECRET, VOTES = "trial.json", "images.npz", "secret", "votes"
RATER = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class NotStored(Exception):
    """A vote that the disk did not take; nothing of it is counted."""


class Ended(Exception):
    """A vote that came after the test's end; nothing of it is counted."""


class Refused(Exception):
    """A vote for another image than the one that is the rater's turn."""


def private(path: Path, content: bytes) -> None:
    """Writes a file that its owner alone can read, as a whole.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(path, "ab") as file:  # no moment at which others could open it
            os.fchmod(file.fileno(), 0o600)
            file.truncate(0)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror}. Free some space there, or choose another "
            "folder with --runs-dir."
        ) from error


def begin(folder: Path, about: dict[str, Any], real: Pixels, generated: Pixels) -> None:
    """Makes a test of these images.

    Args:
        about: what goes into trial.json; its `images` is how many each rater sees.
        real, generated: (N, H, W) or (N, H, W, 3); of both half of `images` at least.

    Raises:
        UserError: the folder cannot be written.
    """
    pool = np.concatenate([real, generated])
    key = np.arange(len(pool)) >= len(real)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, pixels=pool, generated=key)
    shas = {"real": sha256(real), "generated": sha256(generated)}
    _make(folder)
    private(folder / SECRET, secrets.token_bytes(32))
    private(folder / IMAGES, buffer.getvalue())
    text = json.dumps(about | {"sha256": shas}, indent=1) + "\n"
    write_atomically(folder / TRIAL, text.encode())


def _make(folder: Path) -> None:
    """A folder that its owner alone can read."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror}. Choose another folder with --runs-dir."
        ) from error


def sha256(pixels: Pixels) -> str:
    """Of the shape and the bytes."""
    whole = hashlib.sha256(str(pixels.shape).encode())
    whole.update(np.ascontiguousarray(pixels).tobytes())
    return whole.hexdigest()


@dataclass
class Trial:
    """A test that has begun.

    Attributes:
        about: what trial.json says.
        pixels: (N, H, W) or (N, H, W, 3) uint8; generated: (N,), which of them are not real.
        done: the answers of each rater, as far as they are stored.
        ended: no more answers are taken, see `end`.
    """

    folder: Path
    about: dict[str, Any]
    pixels: Pixels
    generated: np.ndarray[Any, np.dtype[np.bool_]]
    secret: bytes
    done: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # bytes of whole lines in each file
    turn: Any = field(default_factory=threading.Lock)
    ended: bool = False

    @property
    def images(self) -> int:
        """How many each rater sees."""
        return self.about["images"]

    def order(self, rater: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        """What a rater sees, as numbers of the pool: as many real as generated, well mixed."""
        seed = int.from_bytes(hmac.digest(self.secret, f"order:{rater}".encode(), "sha256"))
        random = np.random.Generator(np.random.PCG64(seed))
        half = self.images // 2
        chosen = [
            random.choice(np.flatnonzero(self.generated == kind), half, replace=False)
            for kind in (False, True)
        ]
        return random.permutation(np.concatenate(chosen))

    def name(self, rater: str, position: int) -> str:
        """What a rater's image is called outside: 32 letters that say nothing of it."""
        words = f"image:{rater}:{position}".encode()
        return hmac.digest(self.secret, words, "sha256").hex()[:32]

    def png(self, index: int) -> bytes:
        """An image of the pool. Nothing is compressed: all files have the same length."""
        buffer = io.BytesIO()
        Image.fromarray(self.pixels[index]).save(buffer, "PNG", compress_level=0)
        return buffer.getvalue()

    def vote(self, rater: str, position: int, said_generated: bool, seconds: float) -> None:
        """Stores an answer: when this returns, it is on the disk.

        Args:
            position: of the image in the rater's order; it must be his next.
            seconds: that he took.

        Raises:
            Ended: the test has ended here.
            Refused: it is not the next, such as a second answer to one image.
            NotStored: the disk did not take it.
        """
        with self.turn:
            if self.ended:
                raise Ended
            votes = self.done.setdefault(rater, [])
            if position != len(votes) or position >= self.images:
                raise Refused
            one = {
                "position": position,
                "image": int(self.order(rater)[position]),
                "answer": "generated" if said_generated else "real",
                "seconds": round(seconds, 2),
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            line = (json.dumps(one) + "\n").encode()
            path, before = self.folder / VOTES / f"{rater}.jsonl", self.sizes.get(rater, 0)
            try:
                append(path, line, before)
            except OSError as error:
                raise NotStored(f"{path} cannot be written: {error.strerror}") from error
            votes.append(one)
            self.sizes[rater] = before + len(line)

    def end(self) -> None:
        """From now on no answer is stored; one that is being stored is waited for.

        Threads of connections that stay open outlive the server. Without this they would write
        into files that another process holds by then.
        """
        with self.turn:
            self.ended = True

    def votes(self) -> Votes:
        """All answers; raters are numbered by their ids in order."""
        rows = [
            (number, one["image"], one["answer"] == "generated")
            for number, rater in enumerate(sorted(self.done))
            for one in self.done[rater]
        ]
        rater, image, said = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        return Votes(rater, image, self.generated[image], said.astype(bool))


def append(path: Path, line: bytes, before: int) -> None:
    """Adds a line behind the first `before` bytes, on the disk when this returns; all or nothing.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = not path.exists()
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.ftruncate(file, before)  # what a crash left of a line
        try:
            at = before
            while rest := line[at - before :]:  # a disk that is nearly full takes a part
                at += os.pwrite(file, rest, at)
            os.fsync(file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file, before)
            raise
    finally:
        os.close(file)
    if fresh:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def load(folder: Path) -> Trial:
    """The test in a folder, with every answer that was stored.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        about = json.loads((folder / TRIAL).read_text())
        with np.load(folder / IMAGES) as arrays:
            pixels, generated = arrays["pixels"], arrays["generated"]
        secret = (folder / SECRET).read_bytes()
        real, made = pixels[~generated], pixels[generated]
        if about["sha256"] != {"real": sha256(real), "generated": sha256(made)}:
            raise ValueError("its images are not those that it began with")
        trial = Trial(folder, about, pixels, generated, secret)
        for path in sorted((folder / VOTES).glob("*.jsonl")):
            _read(trial, path)
    except FileNotFoundError as error:
        raise UserError(
            f"There is no human test in {folder} ({Path(error.filename).name} is missing). "
            "Run the command without --score and --export to begin one."
        ) from error
    except Exception as error:  # zip's, zlib's, NumPy's and JSON's own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"The human test in {folder} cannot be used: {reason}. Move that folder away to begin "
            "another."
        ) from error
    return trial


def _read(trial: Trial, path: Path) -> None:
    """One rater's answers; half a line at the end is what a crash left, and was never counted."""
    rater, content = path.stem, path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    votes, order = [json.loads(line) for line in whole.splitlines()], trial.order(rater)
    for position, one in enumerate(votes):
        right = {"position": position, "image": int(order[position])}
        if {key: one[key] for key in right} != right or one["answer"] not in ("real", "generated"):
            raise ValueError(f"line {position + 1} of {path.name} is not an answer to its image")
    if votes:
        trial.done[rater] = votes
    trial.sizes[rater] = len(whole)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps a second process from beginning the same test, and from its answers. The folder is
    made if there is none.

    Raises:
        UserError: there is one, or the folder cannot be written.
    """
    _make(folder)
    try:
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror}. Without it no answer could be stored: "
            "make it writable, or choose another folder with --runs-dir."
        ) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another process serves the human test in {folder}. Use its page, or end it first."
            ) from None
        yield
    finally:
        os.close(file)
