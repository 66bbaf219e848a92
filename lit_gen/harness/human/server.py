"""The page of a human test, served on loopback.

Nothing that goes out says which images are real: all are PNG files of one length, named by a keyed
hash of rater and position, and the same code sends them. Whether an answer was right is looked up
only with feedback, after it is stored.

    GET  /                  the page; /page.css and /page.js are its parts
    POST /api/start         {rater} -> {token, ...}: the rater's turn, see `_turn`
    GET  /api/image/NAME    the image whose turn it is, no other
    POST /api/vote          {image: NAME, answer: "real" or "generated"} -> the next turn

All but the first three ask for the header X-Token. A vote counts if its image is the rater's next
and has been sent; a second one for the same image, as of a second tab, is told the next turn (409).
After the test's end whatever is asked, also over a connection that stayed open, is told so (503).
"""

import json
import re
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lit_gen.harness.human.trial import RATER, Ended, NotStored, Refused, Trial
from lit_gen.harness.spec import UserError

HOST = "127.0.0.1"
LARGEST_BODY = 2048  # bytes; an answer has about 80
MOST_SESSIONS = 1000  # the oldest go
MOST_RATERS = 500
SIZE = 256  # CSS pixels, about, that an image is shown in
PARTS = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
FULL = "Your answer could not be stored, and was not counted"
OVER = "The test has ended here"
LATE = f"{OVER}; this answer was not stored. The image comes again if the test goes on."


class Said(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, error: str, **others: Any) -> None:
        self.status, self.body = status, {"error": error} | others


class Server(ThreadingHTTPServer):
    """Serves one test until `shutdown`.

    Args:
        port: 0 takes a free one.
        complain: told what the one who runs it must know, such as a disk that is full.

    Raises:
        UserError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, trial: Trial, port: int, complain: Callable[[str], None]) -> None:
        self.trial, self.complain = trial, complain
        self.sessions: dict[str, str] = {}  # token -> rater
        self.sent: dict[str, tuple[int, float]] = {}  # rater -> position shown last, and when
        self.turn = threading.Lock()
        folder = Path(__file__).parent
        self.parts = {at: ((folder / f).read_bytes(), kind) for at, (f, kind) in PARTS.items()}
        try:
            super().__init__((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"Port {port} cannot be used: {reason}. Give another with --port, or none."
            ) from error
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    def shutdown(self) -> None:
        self.trial.end()  # first: the threads of open connections go on
        super().shutdown()

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is nobody's concern."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "lit_gen", ""
    timeout = 60  # seconds that a connection may be silent
    server: Server

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, method: Callable[[], tuple[bytes, str]]) -> None:
        status = 200
        try:
            try:
                self._guard()
                if self.server.trial.ended:
                    raise Said(503, LATE if self.path == "/api/vote" else f"{OVER}.")
                content, kind = method()
            except Said as said:
                status, self.close_connection = said.status, True
                content, kind = _json(said.body)
            except (ConnectionError, TimeoutError):
                raise
            except Exception as error:  # a bug must not end the test
                self.server.complain(f"The page asked {self.path}: {type(error).__name__}: {error}")
                status, self.close_connection = 500, True
                content, kind = _json({"error": "The server failed; see its terminal."})
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """A log would say who saw what."""

    def _guard(self) -> None:
        """Only pages that this server has sent may ask: another site's could point its own name at
        this address."""
        hosts, origin = self.headers.get_all("Host") or [], self.headers.get("Origin")
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:
            raise Said(403, f"This address is not served; open {self.server.address}.")
        if origin is not None and origin.lower() not in {f"http://{h}" for h in self.server.hosts}:
            raise Said(403, "Only the test's own page may ask.")

    def _get(self) -> tuple[bytes, str]:
        if self.path in self.server.parts:
            return self.server.parts[self.path]
        if found := re.fullmatch(r"/api/image/([0-9a-f]{32})", self.path):
            trial, rater = self.server.trial, self._rater()
            position = len(trial.done.get(rater, ()))
            if position >= trial.images or trial.name(rater, position) != found[1]:
                raise Said(404, "It is not this image's turn.", **self._turn(rater))
            content = trial.png(int(trial.order(rater)[position]))
            with self.server.turn:
                if self.server.sent.get(rater, (-1, 0.0))[0] != position:
                    self.server.sent[rater] = position, time.monotonic()
            return content, "image/png"
        raise Said(404, "There is no such page.")

    def _post(self) -> tuple[bytes, str]:
        body = self._body()
        if self.path == "/api/start":
            return _json(self._start(body.get("rater")))
        if self.path == "/api/vote":
            return _json(self._vote(body.get("image"), body.get("answer")))
        raise Said(404, "There is no such page.")

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length) or self.headers.get("Transfer-Encoding"):
            raise Said(411, "Say how long the body is.")
        if int(length) > LARGEST_BODY:
            raise Said(413, f"A body has at most {LARGEST_BODY} bytes.")
        if self.headers.get_content_type() != "application/json":
            raise Said(415, "The body must be JSON.")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise Said(400, "The body is not JSON.") from None
        if not isinstance(body, dict):
            raise Said(400, "The body must be an object.")
        return body

    def _rater(self) -> str:
        rater = self.server.sessions.get(self.headers.get("X-Token", ""))
        if rater is None:
            raise Said(401, "Start again: the server does not know this page.")
        return rater

    def _start(self, rater: Any) -> dict[str, Any]:
        trial, name = self.server.trial, rater.strip().lower() if isinstance(rater, str) else ""
        if not RATER.fullmatch(name):
            raise Said(400, "A pseudonym is 1 to 32 letters a-z, digits, - and _.")
        with self.server.turn:
            known = {*trial.done, *self.server.sessions.values()}
            if name not in known and len(known) >= MOST_RATERS:
                raise Said(403, f"There are {MOST_RATERS} raters; no more can take part.")
            if len(self.server.sessions) >= MOST_SESSIONS:
                self.server.sessions.pop(next(iter(self.server.sessions)))
            token = secrets.token_urlsafe(32)
            self.server.sessions[token] = name
        h, w = trial.pixels.shape[1:3]
        times = max(1, round(SIZE / max(h, w)))
        fixed = {"token": token, "rater": name, "feedback": trial.about["feedback"]}
        return fixed | {"width": w * times, "height": h * times} | self._turn(name)

    def _turn(self, rater: str) -> dict[str, Any]:
        """How far the rater is, and the name of the image that is next, or null."""
        trial = self.server.trial
        done = len(trial.done.get(rater, ()))
        image = trial.name(rater, done) if done < trial.images else None
        return {"done": done, "total": trial.images, "image": image}

    def _vote(self, image: Any, answer: Any) -> dict[str, Any]:
        trial, rater = self.server.trial, self._rater()
        if answer not in ("real", "generated") or not isinstance(image, str):
            raise Said(400, 'An answer is "real" or "generated", to an image.')
        position = len(trial.done.get(rater, ()))
        shown, since = self.server.sent.get(rater, (-1, 0.0))
        if position >= trial.images or trial.name(rater, position) != image or shown != position:
            raise Said(409, "Only the image that is shown can be answered.", **self._turn(rater))
        try:
            trial.vote(rater, position, answer == "generated", time.monotonic() - since)
        except Ended:
            raise Said(503, LATE) from None
        except Refused:  # another tab was faster
            raise Said(409, "This image was answered already.", **self._turn(rater)) from None
        except NotStored as error:
            self.server.complain(f"{error}. The answer of {rater} was not counted.")
            reason = str(error.__cause__.strerror)
            raise Said(507, f"{FULL} ({reason}). Tell whoever runs the test.") from None
        if not trial.about["feedback"]:
            return self._turn(rater)
        kind = "generated" if trial.generated[trial.order(rater)[position]] else "real"
        return self._turn(rater) | {"was": kind, "right": kind == answer}


def _json(value: dict[str, Any]) -> tuple[bytes, str]:
    return json.dumps(value).encode(), "application/json"
