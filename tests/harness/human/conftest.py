"""Fixtures: a trained run, tests of arrays, and a rater who speaks HTTP."""

import contextlib
import http.client
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lit_gen.harness.cli import main
from lit_gen.harness.commands import human as command
from lit_gen.harness.human import trial
from lit_gen.harness.human.server import Server

HERE = Path(__file__).parent
NAME = "improved_gan_blur"
RUN = "all-paper-seed_1"
CLAIMED = """\
  - {name: people, reported: mnist_samples.mturk.minibatch}
  - {name: error, reported: cifar10_samples.mturk.human_error}"""  # no training logs them


@pytest.fixture(scope="session")
def trained(tiny_mnist: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the reproduction's file and one finished run."""
    root = tmp_path_factory.mktemp("trained")
    home = root / "reproductions/improved_gan"
    home.mkdir(parents=True)
    for name in ("blur.py", "blur.yaml"):
        shutil.copy(HERE / name, home / name)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in tiny_mnist.items():
            patch.setenv(key, value)
        words = ["run", str(home / "blur.yaml"), "--seeds", "1", "--device", "cpu", "--no-mlflow"]
        with pytest.raises(SystemExit) as ended:
            main([*words, "--threads", "1", "--runs-dir", str(root / "runs")])
    assert ended.value.code == 0
    return root


@pytest.fixture
def home(trained: Path, tiny: Path) -> Path:
    """A copy of it that claims something about people, too, as the current folder."""
    shutil.copytree(trained / "runs", tiny / "runs")
    shutil.copytree(trained / "reproductions", tiny / "reproductions")
    path = tiny / "reproductions/improved_gan/blur.yaml"
    path.write_text(path.read_text().replace("\nseeds:", f"\n{CLAIMED}\nseeds:"))
    return tiny


@pytest.fixture
def human(home: Path, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str]]:
    """Runs `reproduce human` on it; exit status and what was said."""

    def call(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["human", "reproductions/improved_gan/blur.yaml", *words])
        said = capsys.readouterr()
        return ended.value.code, said.out + said.err

    return call


ABOUT = {
    "run": RUN, "run_started": "", "spec_hash": "0", "status": "finished", "epochs": 1,
    "max_epochs": 1, "dataset": "mnist", "pool": {},
}  # fmt: skip


@pytest.fixture
def begun(tmp_path: Path) -> Callable[..., trial.Trial]:
    """Begins a test of random images, dark real ones and bright generated ones."""

    def make(
        images: int = 10, pool: int = 20, feedback: bool = False, name: str = "test", channels=3
    ) -> trial.Trial:
        rng = np.random.default_rng(0)
        shape = (pool, 8, 8) if channels == 1 else (pool, 8, 8, channels)
        real, generated = (rng.integers(at, at + 100, shape, np.uint8) for at in (0, 150))
        about = ABOUT | {"images": images, "feedback": feedback}
        trial.begin(tmp_path / name, about, real, generated)
        return trial.load(tmp_path / name)

    return make


class Rater:
    """What the page does, without a browser."""

    def __init__(self, server: Server, name: str = "ada", start: bool = True) -> None:
        self.server, self.token = server, ""
        self.turn = self.post("/api/start", {"rater": name})[2] if start else {}
        self.token = self.turn.get("token", "")

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        line = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=10)
        with contextlib.closing(line):
            given = {"X-Token": self.token} | (headers or {})
            line.request(method, path, body, {k: v for k, v in given.items() if v is not None})
            reply = line.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read()

    def post(self, path: str, body: dict, **headers: str) -> tuple[int, dict, dict]:
        given = {"Content-Type": "application/json"} | headers
        status, got, content = self.ask("POST", path, json.dumps(body).encode(), given)
        return status, got, json.loads(content)

    def image(self, name: str | None = None) -> tuple[int, dict[str, str], bytes]:
        return self.ask("GET", f"/api/image/{name or self.turn['image']}")

    def vote(self, answer: str, name: str | None = None) -> tuple[int, dict]:
        said = {"image": name or self.turn["image"], "answer": answer}
        status, _, content = self.post("/api/vote", said)
        if "done" in content:
            self.turn = content
        return status, content

    def see_and_vote(self, answer: str) -> tuple[int, dict]:
        assert self.image()[0] == 200
        return self.vote(answer)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Serves a test until the end; `server.complaints` has what it said."""
    servers = []

    def start(test: trial.Trial) -> Server:
        complaints: list[str] = []
        server = Server(test, 0, complaints.append)
        server.complaints = complaints
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def rater() -> type[Rater]:
    return Rater


@pytest.fixture
def unserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends as soon as it has begun, as by Ctrl-C."""
    monkeypatch.setattr(command, "_serve", lambda *_: None)


@pytest.fixture
def answer() -> Callable[..., None]:
    """Gives all answers of a rater, of which the first so many are wrong."""

    def give(test: trial.Trial, rater: str, wrong: int, count: int | None = None) -> None:
        order = test.order(rater)
        for position in range(count or test.images):
            truth = bool(test.generated[order[position]])
            test.vote(rater, position, truth != (position < wrong), 0.5)

    return give


@pytest.fixture
def begin(human: Callable[..., tuple[int, str]], unserved: None) -> Callable[..., trial.Trial]:
    """Begins a test of the trained run, with 20 images for each rater."""

    def make(*words: str) -> trial.Trial:
        status, said = human("--images", "20", "--no-mlflow", *words)
        assert status == 0, said
        kind = "feedback" if "--feedback" in words else "plain"
        return trial.load(Path("runs") / NAME / RUN / "human" / kind)

    return make
