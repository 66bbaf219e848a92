"""Many runs at a time: whatever is killed, the records are those of runs done one by one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lit_gen.harness import fleet
from lit_gen.harness.fleet import Crew, Worker
from lit_gen.harness.record import CHECKPOINT, PREDICTIONS, RECORD

NAME = "improved_gan_mnist_semisup"
WORDS = [
    NAME, "--seeds", "1-2", "--no-mlflow", "--device", "cpu", "--threads", "1",
    "--data.validation", "100", "--data.limit", "200", "--data.batch_size", "20",
    "--trainer.max_epochs", "16",
]  # fmt: skip
TWO = ["--workers", "2"]


def records(root: Path) -> dict[str, dict]:
    return {p.parent.name: json.loads(p.read_text()) for p in root.glob(f"*/*/{RECORD}")}


def outcomes(root: Path) -> dict[str, tuple]:
    """Result and predictions of every run, all of them finished."""
    found = {}
    for path in sorted(root.glob(f"*/*/{RECORD}")):
        record = json.loads(path.read_text())
        assert record["status"] == "finished", record
        with np.load(path.with_name(PREDICTIONS)) as arrays:
            kept = {name: array.tobytes() for name, array in arrays.items()}
        found[path.parent.name] = record["result"], kept
    return found


def descendants(pid: int) -> dict[int, str]:
    """Processes below that one, with their command lines."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    found: dict[int, str] = {}
    grown = {pid}
    while grown:
        below = {int(r[0]): r[2] for r in rows if int(r[1]) in grown and int(r[0]) not in found}
        found |= below
        grown = set(below)
    return found


def alive(pids: set[int]) -> set[int]:
    def runs(pid: int) -> bool:
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return state.stdout.strip()[:1] not in ("", "Z")

    return {pid for pid in pids if runs(pid)}


def wait_for(what, process: subprocess.Popen | None = None, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)


def steps(root: Path) -> int:
    """That the records tell of, all runs together."""
    return sum(record["steps"] for record in records(root).values())


@pytest.fixture(scope="module")
def one_by_one(tiny_mnist: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("one_by_one")
    command = [sys.executable, "-c", "from lit_gen.harness.cli import main; main()", *WORDS]
    environment = os.environ | tiny_mnist | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return outcomes(folder / "runs")


# --- runs survive


def test_a_killed_worker_costs_nothing(reproduce, tmp_path: Path, one_by_one: dict) -> None:
    pytest.importorskip("ray")
    process = reproduce(*WORDS, *TWO, background=True)
    wait_for(lambda: list(tmp_path.glob(f"runs/*/*/{CHECKPOINT}")), process)
    ours = descendants(process.pid)
    os.kill(next(pid for pid, line in ours.items() if "ray::Reproduce" in line), signal.SIGKILL)
    said, wrong = process.communicate(timeout=200)

    assert process.returncode == 0, wrong
    assert outcomes(tmp_path / "runs") == one_by_one
    assert said.count("its worker died; another goes on") == 1
    assert "raylet" not in said + wrong
    assert not alive(set(ours))


def test_the_same_command_goes_on_after_ctrl_c_and_after_kill_9(
    reproduce, tmp_path: Path, one_by_one: dict
) -> None:
    pytest.importorskip("ray")
    runs = tmp_path / "runs"

    first = reproduce(*WORDS, *TWO, background=True)
    wait_for(lambda: list(runs.glob(f"*/*/{CHECKPOINT}")), first)
    first.send_signal(signal.SIGINT)
    said, wrong = first.communicate(timeout=100)
    assert first.returncode == 130, wrong
    assert {record["status"] for record in records(runs).values()} == {"stopped"}
    assert f"To go on: reproduce {' '.join([*WORDS, *TWO])}" in said

    before = steps(runs)
    second = reproduce(*WORDS, *TWO, background=True)
    wait_for(lambda: steps(runs) > before, second)
    ours = descendants(second.pid)
    second.kill()
    second.communicate()
    wait_for(lambda: not alive(set(ours)), seconds=30)

    third = reproduce(*WORDS, *TWO)
    assert third.returncode == 0, third.stderr
    assert outcomes(runs) == one_by_one
    assert max(len(r["provenance"]["segments"]) for r in records(runs).values()) == 3
    fourth = reproduce(*WORDS, *TWO)  # nothing left: no worker, no Ray
    assert fourth.stdout.count("finished before") == 2
    assert "2 workers" not in fourth.stdout


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_while_workers_start(reproduce, tmp_path: Path, times: int) -> None:
    pytest.importorskip("ray")
    process = reproduce(*WORDS, *TWO, background=True)
    wait_for(lambda: "Reproduce" in str(descendants(process.pid).values()), process)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)  # two at once would be one
    said, wrong = process.communicate(timeout=100)
    assert process.returncode == 130, wrong
    assert "Traceback" not in said + wrong
    assert all(record["status"] != "crashed" for record in records(tmp_path / "runs").values())


DEADLY = """
import os
import signal
import sys

sys.path.insert(0, os.path.dirname(__file__))
import torch
import pytorch_lightning as pl


class Line(pl.LightningModule):
    def __init__(self, seed: int = 0):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(()))
        self.seed = torch.initial_seed()

    def training_step(self, batch, index):
        if self.seed == 1 and self.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        x, y = batch
        return {"loss": (self.slope * x - y).square().mean()}

    def test_step(self, batch, index):
        self.log("test/slope", self.slope)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Points(pl.LightningDataModule):
    def train_dataloader(self):
        x = torch.linspace(-1, 1, 32)
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, 2 * x), 8)

    test_dataloader = train_dataloader
"""
DEADLY_YAML = """
claims: [{metric: test/slope, reported: [2.0, 0.1], margin: 0.1}]
seeds: 1-3
model: {class_path: deadly.Line}
data: {class_path: deadly.Points}
trainer: {max_epochs: 3}
"""


def test_a_run_that_kills_its_workers_is_given_up_and_others_go_on(
    reproduce, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "deadly.py").write_text(DEADLY)
    (tmp_path / "own" / "line.yaml").write_text(DEADLY_YAML)

    done = reproduce("own/line.yaml", "--no-mlflow", "--device", "cpu", *TWO)
    status = {record["seed"]["model"]: record for record in records(tmp_path / "runs").values()}

    assert done.returncode == 1, done.stderr
    assert [status[seed]["status"] for seed in (1, 2, 3)] == ["running", "finished", "finished"]
    assert status[1]["epochs"] == 1  # as last written
    assert done.stdout.count("its worker died") == 2
    assert "seed 1 lost: 3 workers died of it without reaching another checkpoint" in done.stdout
    assert "1 run not finished. To go on" in done.stdout


# --- mistakes


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory):
    """The address of a Ray cluster of one machine, and the environment that may talk to it."""
    pytest.importorskip("ray")
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5e" * 32}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start"]
    command += ["--head", f"--port={port}", "--block", "--num-cpus=2"]
    command += ["--include-dashboard=false", "--node-ip-address=127.0.0.2"]
    command += ["--object-store-memory=80000000", "--temp-dir=" + str(tmp_path_factory.mktemp("r"))]
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield f"127.0.0.2:{port}", environment
    finally:
        ours = descendants(process.pid)
        process.terminate()
        process.wait(30)
        wait_for(lambda: not alive(set(ours)), seconds=30)


def test_a_mistake_that_only_a_worker_finds_is_a_sentence(
    reproduce, cluster: tuple[str, dict], tmp_path: Path
) -> None:
    """On a cluster, whose machines have nothing from this command's environment."""
    address, environment = cluster
    words = [*WORDS, "--address", address, "--trainer.gradient_clip_val", "1"]

    done = reproduce(*words, env=environment)

    assert done.returncode == 2, done.stderr
    assert "cannot be trained like this" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert f"1 worker, 1 CPU thread each, on the Ray cluster at {address}" in done.stdout
    assert not records(tmp_path / "runs")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0"], "--workers 0: give 1 or more"),
        (["--workers", "two"], "invalid int value"),
        (["--workers", "2", "--gpus-per-run", "2"], "a run has one GPU or a part of it"),
        (["--gpus-per-run", "0.5"], "add --workers"),
        (["--workers", "2", "--until", "decided"], "takes seeds one by one"),
        (["--workers", "2", "--devices", "2"], "give --devices or --workers"),
        (["--workers", "2", "--data.labels", "15"], "the classes share them equally"),
        (["--address", "127.0.0.1:9"], "There is no Ray at 127.0.0.1:9: "),
        (["--address", "127.0.0.1:no"], "There is no Ray at 127.0.0.1:no"),
        (["--workers", "2", "--runs-dir", "/dev/null"], "cannot be written"),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    words: list[str], message: str, tiny: Path, capsys: pytest.CaptureFixture
) -> None:
    from lit_gen.harness.cli import main

    with pytest.raises(SystemExit) as stop:
        main([*WORDS, *words])

    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not records(tiny / "runs")


def test_without_ray_the_runs_are_trained_one_by_one(
    tiny: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lit_gen.harness.cli import main

    monkeypatch.setitem(sys.modules, "ray", None)
    words = [*WORDS, *TWO, "--trainer.max_epochs", "1"]
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capsys.readouterr()
    with pytest.raises(SystemExit) as refused:
        main([*words, "--address", "auto"])

    assert stop.value.code == 0
    assert said.err.splitlines() == [
        "Ray is not installed (pip install 'lit-gen[cluster]'): the runs are trained one by one."
    ]
    assert "(run 2 of 2)" in said.out
    assert refused.value.code == 2
    assert "--address needs it" in capsys.readouterr().err


# --- who gets what, and who may train


@pytest.mark.parametrize(
    ("crew", "machines", "expected"),
    [
        (Crew(4), [(16, 0)], (4, 4, 0)),
        (Crew(4), [(2, 0)], (4, 1, 0)),  # as the user says
        (Crew(4, threads=3), [(2, 0)], (4, 3, 0)),
        (Crew(4), [(16, 1)], (4, 4, 0.25)),
        (Crew(3), [(16, 2)], (3, 5, 0.5)),  # thirds of two GPUs would hold two runs
        (Crew(3), [(9, 1)], (3, 3, 0.3333)),
        (Crew(2), [(16, 4)], (2, 8, 1)),
        (Crew(4, gpus=0.5), [(16, 1)], (4, 4, 0.5)),
        (Crew(4, device="cpu"), [(16, 1)], (4, 4, 0)),
        (Crew(8), [(0, 0), (8, 0), (16, 0)], (8, 2, 0)),  # a head that offers nothing
        (Crew(), [(8, 2), (8, 2)], (4, 4, 1)),
        (Crew(), [(8, 0), (8, 0)], (2, 8, 0)),
    ],
)
def test_workers_share_cores_and_gpus(crew: Crew, machines: list, expected: tuple) -> None:
    full = crew.shared(machines)

    assert (full.workers, full.threads, full.gpus) == expected
    if full.gpus and crew.gpus is None:  # and they fit
        places = sum(gpus * int(1 / full.gpus) for _, gpus in machines)
        assert places >= full.workers


def test_a_worker_looks_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet.time, "sleep", lambda _: None)
    monkeypatch.setenv("LIT_GEN_DATA", "mine")
    token = fleet._leave_token(tmp_path / "runs")
    version, worker = fleet._version(), Worker()

    def check(version: str = version, folder: str = "runs", token: str = token) -> str | None:
        return worker.check(version, str(tmp_path / folder), token, {"LIT_GEN_DATA": "theirs"})

    assert "Install the same there" in check(version="0.0.1")
    assert "shared storage with --runs-dir" in check(folder="elsewhere")
    assert "shared storage with --runs-dir" in check(token="another's")
    assert os.environ["LIT_GEN_DATA"] == "mine"
    assert check() is None
    assert os.environ["LIT_GEN_DATA"] == "theirs"
    assert fleet._leave_token(tmp_path / "runs") == token  # the next command's too


def test_a_worker_without_its_driver_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    assert worker._stop() is None
    worker.news("the budget of 5m is spent")
    assert worker._stop() == "the budget of 5m is spent"
    worker.news(None)
    now = fleet.time.monotonic()
    monkeypatch.setattr(fleet.time, "monotonic", lambda: now + fleet.ORPHANED_AFTER + 1)
    assert worker._stop() == "the command that started it is gone"
