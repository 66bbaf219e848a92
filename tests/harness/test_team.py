"""One run by several processes: the same numbers as one, whoever starts them and whoever dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_gen.harness.cli import main
from lit_gen.harness.record import CHECKPOINT, PREDICTIONS, RECORD
from lit_gen.harness.run import Run
from lit_gen.harness.spec import Seed, UserError, find
from lit_gen.harness.team import NAMES, Team, joined
from lit_gen.harness.watch import Watch

NAME = "improved_gan_mnist_semisup"

# A network of somebody else's, with everything that couples the examples of a batch
MINE = """
import time
import pytorch_lightning as pl
import torch
from lit_gen.nn import distributed, draws


class Norm(torch.nn.Module):
    def forward(self, x):
        mu, var = distributed.moments(x)
        return (x - mu) * (var + 1e-5).rsqrt()


class Critic(pl.LightningModule):
    def __init__(
        self, lr: float = 0.01, pause: float = 0.0, fault: str = "", plain: bool = False
    ):
        super().__init__()
        self.lr, self.pause, self.fault = lr, pause, fault
        norm = torch.nn.BatchNorm1d(8) if plain else Norm()
        self.features = torch.nn.Sequential(torch.nn.Linear(6, 8), norm, torch.nn.Tanh())
        self.T = torch.nn.Parameter(torch.randn(8, 4, 3))
        self.out = torch.nn.Linear(12, 1)

    def forward(self, x):
        f = self.features(x)
        if self.training:
            f = f * (draws.randn_like(f) > -0.8)
        m = (f @ self.T.flatten(1)).unflatten(1, (4, 3))  # minibatch discrimination, Sec. 3.2
        closeness = (-(m.unsqueeze(1) - distributed.gather(m)).abs().sum(-1)).exp().sum(1)
        return self.out(torch.cat([f, closeness], 1)).squeeze(1)

    def training_step(self, batch, index):
        time.sleep(self.pause)
        x, y = batch
        loss = torch.nn.functional.binary_cross_entropy_with_logits(self(x), y)
        apart = (distributed.mean(x * y.unsqueeze(1)) - distributed.mean(self.features(x))[:6])
        rank = distributed.rank_and_size()[0]
        fault = self.fault if rank == 1 and self.global_step == 7 else ""
        if fault == "error":
            raise OverflowError("too much")
        return {"loss": loss + apart.square().mean(), "train/odd": float("nan" if fault else 0)}

    def validation_step(self, batch, index):
        x, y = batch
        wrong = (self.features(x).sum(1) > 0) != (y > 0)
        self.log("test/wrong", wrong.double().mean(), sync_dist=True, on_epoch=True)

    test_step = validation_step

    def predict_step(self, batch, index):
        return {"features": self.features(batch[0])}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.lr)


class Batches:
    def __init__(self, data):
        self.data, self.position, self.generator = data, 0, torch.Generator().manual_seed(data.seed)
        self.order = torch.randperm(120, generator=self.generator)

    def __len__(self):
        return 120 // self.data.batch_size

    def __iter__(self):
        if self.position >= len(self):
            self.order = torch.randperm(120, generator=self.generator)
            self.position = 0
        rank, size = getattr(self.data, "shared", (0, 1))
        while self.position < len(self):
            now = self.order[self.position * self.data.batch_size :][: self.data.batch_size]
            self.position += 1
            yield self.data.x[now[rank::size]], self.data.y[now[rank::size]]


class Whole:
    def __init__(self, *both):
        self.both = both

    def __len__(self):
        return 1

    def __iter__(self):
        yield self.both


class Alone(pl.LightningDataModule):
    def __init__(self, batch_size: int = 12, seed: int = 0):
        super().__init__()
        self.batch_size, self.seed = batch_size, seed
        numbers = torch.Generator().manual_seed(0)
        self.x = torch.randn(120, 6, generator=numbers, dtype=torch.float64)
        self.y = (self.x.sum(1) > 0).double()
        self.batches = Batches(self)

    def train_dataloader(self):
        return self.batches

    def val_dataloader(self):
        rank, size = getattr(self, "shared", (0, 1))
        return Whole(self.x[rank::size], self.y[rank::size])

    test_dataloader = predict_dataloader = val_dataloader

    def state_dict(self):
        state = self.batches.generator.get_state()
        return {"at": self.batches.position, "order": self.batches.order, "generator": state}

    def load_state_dict(self, state):
        self.batches.position, self.batches.order = state["at"], state["order"]
        self.batches.generator.set_state(state["generator"])


class Shared(Alone):
    def share(self, rank, size):
        if self.batch_size % size:
            raise ValueError(f"{self.batch_size} examples are not for {size} processes")
        self.shared = rank, size
"""
MINE_YAML = """
# A network of the user's own
claims: [{metric: test/wrong, reported: [0.0, 0.1], margin: 0.1}]
seeds: 1-2
model: {class_path: critic.Critic, init_args: {pause: 0.05}}
data: {class_path: critic.Shared}
trainer: {max_epochs: 5, precision: 64-true}
"""
WORDS = ["own/critic.yaml", "--no-mlflow", "--device", "cpu", "--threads", "1"]
FLOAT64 = [
    "--seeds", "1", "--no-mlflow", "--device", "cpu", "--threads", "1", "--trainer.precision",
    "64-true", "--trainer.max_epochs", "2", "--data.limit", "500", "--data.batch_size", "20",
]  # fmt: skip
PAPERS = {
    "improved_gan": [
        NAME, "--protocol", "release,paper_june8", "--data.validation", "101",
        "--model.decay_epochs", "[0, 4]",
    ],
    "iwae": [
        "vae_mnist", "--setting", "iwae_L2_k5,vae_L1_k1", "--data.validation", "101",
        "--model.importance_samples", "10", "--trainer.check_val_every_n_epoch", "1",
    ],
    "iaf": [
        "iaf_mnist", "--setting", "diagonal,iaf_2x320", "--data.validation", "101",
        "--model.importance_samples", "2",
    ],
    "infogan": [
        "infogan_mnist", "--data.validation", "100", "--data.eval_batch_size", "50",
        "--data.updates", "25", "--trainer.check_val_every_n_epoch", "1",
    ],
    "dcgan": ["dcgan_mnist", "--smoke", "--data.validation", "100"],
}  # fmt: skip
LARGE = {"infogan", "dcgan"}  # networks: one run is enough


class Shell:
    """Runs the command in a folder in which the user's own network lies."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen] = []
        self.environment = os.environ | environment | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
        (folder / "own").mkdir()
        (folder / "own/critic.py").write_text(MINE)
        (folder / "own/critic.yaml").write_text(MINE_YAML)

    def start(self, *words: str, before: tuple[str, ...] = (), **env: str) -> subprocess.Popen:
        script = str(Path(sys.executable).with_name("reproduce"))
        process = subprocess.Popen(
            [*before, script, *words],
            cwd=self.folder,
            env=self.environment | env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # whoever started the tests in the background made their children deaf to Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.started.append(process)
        return process

    def run(self, *words: str, before: tuple[str, ...] = (), **env: str) -> tuple[int, str, str]:
        process = self.start(*words, before=before, **env)
        said, wrong = process.communicate(timeout=240)
        return process.returncode, said, wrong

    def files(self, runs: str, name: str) -> list[Path]:
        return sorted(self.folder.glob(f"{runs}/*/*/{name}"))

    def record(self, runs: str) -> dict:
        (path,) = self.files(runs, RECORD)
        return json.loads(path.read_text())

    def wait_for(self, runs: str, name: str, process: subprocess.Popen) -> None:
        deadline = time.monotonic() + 120
        while not self.files(runs, name):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture(scope="module")
def shell(tiny_mnist: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("team"), tiny_mnist)
    yield shell
    for process in shell.started:  # of tests that failed
        process.kill()


@pytest.fixture(scope="module")
def alone(shell: Shell) -> Shell:
    """50 steps of both seeds, in one process."""
    status, said, wrong = shell.run(*WORDS, "--runs-dir", "alone")
    assert status == 0, said + wrong
    return shell


def children(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    rows = [map(int, line.split()) for line in listed.stdout.splitlines()]
    return [child for child, parent in rows if parent == pid]


def ends(pid: int, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        if state.stdout.strip()[:1] in ("", "Z"):
            return True
        time.sleep(0.1)
    return False


def flat(tree: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flat(value, f"{path}/{key}")
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from flat(value, f"{path}/{i}")
    else:
        yield path, tree


def assert_same(one: dict, other: dict) -> int:
    """Numbers to 1e-9, everything else exactly. Returns how many tensors were compared."""
    a, b = dict(flat(one)), dict(flat(other))
    assert a.keys() == b.keys()
    tensors = 0
    for path, x in a.items():
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            torch.testing.assert_close(x, b[path], rtol=1e-9, atol=1e-9, msg=path)
            tensors += 1
        elif isinstance(x, torch.Tensor):
            assert torch.equal(x, b[path]), path
        elif isinstance(x, float):
            assert x == pytest.approx(b[path], rel=1e-6, abs=1e-9), path  # curves keep 7 digits
        else:
            assert x == b[path], path
    return tensors


def compare(shell: Shell, ours: str, theirs: str, runs: int) -> None:
    """Checkpoints (weights, averages, moments, random states, order), curves, predictions."""
    checkpoints = shell.files(ours, CHECKPOINT), shell.files(theirs, CHECKPOINT)
    assert len(checkpoints[0]) == runs
    for a, b in zip(*checkpoints, strict=True):
        assert a.parent.name == b.parent.name
        one, other = (torch.load(path, weights_only=True) for path in (a, b))
        assert one["global_step"] >= 40
        assert {"torch", "numpy", "python"} <= one["callbacks"]["Watch"]["random_state"].keys()
        for kept in (one, other):
            kept.pop("loops")  # how it was stopped shows there
        assert assert_same(one, other) > 10
        records = [json.loads(path.with_name(RECORD).read_text()) for path in (a, b)]
        assert {record["status"] for record in records} == {"finished"}
        assert_same(*[record["result"] for record in records])
        with np.load(a.with_name(PREDICTIONS)) as p, np.load(b.with_name(PREDICTIONS)) as q:
            for key in p:
                np.testing.assert_allclose(p[key], q[key], rtol=1e-9, atol=1e-9)


# --- two processes follow one


@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_by_two_processes_is_the_paper_by_one(shell: Shell, paper: str) -> None:
    """A run or two of each: 40 steps or more, a validation and the final test."""
    for where, more in (("one", []), ("two", ["--devices", "2"])):
        words = [*PAPERS[paper], *FLOAT64, *more, "--runs-dir", f"{paper}_{where}"]
        status, _, wrong = shell.run(*words)
        assert status == 0, wrong

    compare(shell, f"{paper}_two", f"{paper}_one", runs=1 if paper in LARGE else 2)
    last = shell.files(f"{paper}_two", CHECKPOINT)[-1]
    kept = torch.load(last, weights_only=True)["state_dict"]
    if paper == "improved_gan":
        assert kept["discriminator.features.1.g"].std() > 0.01  # initialised from data
        assert any(name.startswith("averaged.") for name in kept)


def test_another_network_two_runs_one_after_the_other(alone: Shell) -> None:
    status, said, wrong = alone.run(*WORDS, "--devices", "2", "--runs-dir", "two")

    assert (status, wrong) == (0, "")
    assert said.count("finished") == 2
    compare(alone, "two", "alone", runs=2)
    record = json.loads(alone.files("two", RECORD)[0].read_text())
    assert record["provenance"]["segments"][0]["processes"] == 2


def test_torchrun(alone: Shell) -> None:
    torchrun = (
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "--no-python",
    )  # fmt: skip
    status, said, wrong = alone.run(*WORDS, "--runs-dir", "torchrun", before=torchrun)

    assert status == 0, wrong
    assert said.count("finished") == 2  # one process speaks
    compare(alone, "torchrun", "alone", runs=2)


def slurm(rank: int, port: int) -> dict[str, str]:
    """What srun tells a task."""
    names = {
        "STEP_NUM_TASKS": 2, "NTASKS": 2, "PROCID": rank, "LOCALID": rank, "NODEID": 0,
        "STEP_NUM_NODES": 1, "NNODES": 1, "STEP_NODELIST": "127.0.0.1", "NODELIST": "127.0.0.1",
        "JOB_ID": 1234, "JOB_NAME": "job",
    }  # fmt: skip
    return {f"SLURM_{k}": str(v) for k, v in names.items()} | {"MASTER_PORT": str(port)}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_slurm_preempted_and_requeued(alone: Shell) -> None:
    """srun sends SIGTERM to all tasks; the same command goes on."""
    for again in (False, True):
        port = free_port()
        tasks = [alone.start(*WORDS, "--runs-dir", "slurm", **slurm(rank, port)) for rank in (0, 1)]
        if not again:
            alone.wait_for("slurm", CHECKPOINT, tasks[0])
            for task in tasks:
                task.send_signal(signal.SIGTERM)
        told = [task.communicate(timeout=120) for task in tasks]
        statuses = [task.returncode for task in tasks]
        assert statuses == ([0, 0] if again else [143, 0]), told
        assert told[1] == ("", "")

    compare(alone, "slurm", "alone", runs=2)
    record = json.loads(alone.files("slurm", RECORD)[0].read_text())
    assert len(record["provenance"]["segments"]) == 2


def test_a_mistake_is_told_once(shell: Shell) -> None:
    tasks = [shell.start("improved_gan", **slurm(rank, 1)) for rank in (0, 1)]
    told = [task.communicate(timeout=60) for task in tasks]

    assert [task.returncode for task in tasks] == [2, 2]
    assert "There is no reproduction" in told[0][1]
    assert told[1] == ("", "")


def test_a_batch_script_without_srun_trains_alone(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (slurm(0, 1) | {"SLURM_NTASKS_PER_NODE": "2"}).items():
        if "STEP" not in name and name != "MASTER_PORT":
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(shell.folder)
    few = ["--seeds", "1", "--trainer.max_epochs", "1", "--runs-dir", "batch"]
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit) as end:
        main([*WORDS, *few])
    torch.set_num_threads(threads)

    assert end.value.code == 0
    assert shell.record("batch")["status"] == "finished"


# --- whoever dies


def test_processes_are_killed_and_the_run_goes_on_to_the_same_numbers(alone: Shell) -> None:
    """First the second process, then the leader; then one process alone ends it."""
    words = [*WORDS, "--seeds", "1", "--runs-dir", "killed"]
    first = alone.start(*words, "--devices", "2")
    alone.wait_for("killed", CHECKPOINT, first)
    (other,) = children(first.pid)
    os.kill(other, signal.SIGKILL)
    said, wrong = first.communicate(timeout=60)
    record = alone.record("killed")
    assert (first.returncode, wrong) == (1, "")
    assert record["status"] == "crashed"
    assert "process 1 was killed by signal 9 (SIGKILL)" in record["error"]["message"]
    assert "To go on: reproduce" in said
    epochs = record["epochs"]

    second = alone.start(*words, "--devices", "2")
    deadline = time.monotonic() + 60
    while alone.record("killed")["epochs"] <= epochs and time.monotonic() < deadline:
        time.sleep(0.05)
    (other,) = children(second.pid)
    second.kill()
    second.communicate()
    assert ends(other)
    assert epochs < alone.record("killed")["epochs"] < 5

    status, _, wrong = alone.run(*words)
    assert status == 0, wrong
    for path in alone.files("alone", RECORD)[1:]:  # compare seed 1 alone
        path.parent.rename(alone.folder / "aside")
    try:
        compare(alone, "killed", "alone", runs=1)
    finally:
        (alone.folder / "aside").rename(path.parent)
    assert len(alone.record("killed")["provenance"]["segments"]) == 3


HANGS = """
import ctypes, os, subprocess, sys, time
if len(sys.argv) > 1:
    from lit_gen.harness import team
    team._follow_to_the_end()
    open(sys.argv[1], "w").close()
    ctypes.PyDLL(None).sleep(60)  # with Python's lock, as a library's destructor may
else:
    me = {"LIT_GEN_LEADER": str(os.getpid())}
    subprocess.Popen([sys.executable, __file__, "ready"], env=os.environ | me).wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process that hangs so")
def test_one_that_hangs_with_pythons_lock_ends_with_its_leader(tmp_path: Path) -> None:
    path = tmp_path / "hangs.py"
    path.write_text(HANGS)
    leader = subprocess.Popen([sys.executable, path], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    (other,) = children(leader.pid)
    leader.kill()
    leader.wait()
    assert ends(other, seconds=20)


def test_ctrl_c_in_mid_epoch_of_one_process_then_two(alone: Shell) -> None:
    words = [*WORDS, "--seeds", "1-2", "--runs-dir", "stopped"]
    first = alone.start(*words)
    alone.wait_for("stopped", CHECKPOINT, first)
    time.sleep(0.3)
    first.send_signal(signal.SIGINT)
    assert first.communicate(timeout=60)[1] == ""
    assert first.returncode == 130
    assert 10 < alone.record("stopped")["steps"] < 50

    second = alone.start(*words, "--devices", "2")
    deadline = time.monotonic() + 60
    while len(alone.files("stopped", RECORD)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    second.send_signal(signal.SIGTERM)  # the leader's alone: both stop at the same step
    said, wrong = second.communicate(timeout=60)
    assert (second.returncode, wrong) == (143, ""), said

    assert alone.run(*words, "--devices", "2")[0] == 0
    compare(alone, "stopped", "alone", runs=2)


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        ("number", "diverged", "a number of another process is not finite"),
        ("error", "crashed", "process 1: OverflowError: too much"),
    ],
)
def test_what_one_process_alone_meets_ends_both(
    shell: Shell, fault: str, status: str, message: str
) -> None:
    words = [*WORDS, "--seeds", "1-2", "--devices", "2", "--runs-dir", fault]
    code, said, wrong = shell.run(*words, "--model.fault", fault, "--trainer.max_epochs", "2")
    record = json.loads(shell.files(fault, RECORD)[0].read_text())

    assert (code, wrong) == (1, ""), said
    assert record["status"] == status
    assert message in record["error"]["message"]
    assert record["steps"] < 20


# --- what is refused


def test_a_batch_that_cannot_be_shared_leaves_nothing_behind(shell: Shell) -> None:
    words = [*WORDS, "--data.batch_size", "15", "--devices", "2", "--runs-dir", "refused"]
    process = shell.start(*words)
    said, wrong = process.communicate(timeout=60)

    assert (process.returncode, said) == (2, "")
    assert "15 examples are not for 2 processes" in wrong
    assert "Traceback" not in wrong
    assert not shell.files("refused", RECORD) + shell.files("refused", CHECKPOINT)


class Two(Team):
    size, local_size = 2, 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data": {"class_path": "critic.Alone"}}, r"Alone gives every process the same batches"),
        ({"model": {"init_args": {"plain": True}}}, r"features.1 \(BatchNorm1d\) would normalise"),
    ],
)
def test_what_would_change_the_mathematics_is_refused(
    shell: Shell, overrides: dict, message: str
) -> None:
    spec = find(str(shell.folder / "own/critic.yaml"))
    run = Run(spec, spec.default_setting, spec.default_protocol, Seed(1, 1), overrides)
    watch = Watch(None, shell.folder, lambda: None, None, None)

    with pytest.raises(UserError, match=message):
        run.build(*run.resolve(), "cpu", None, watch, Two())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--devices", "0"], "--devices 0: give 1 or more"),
        (["--devices", "2", "--workers", "2"], "give --devices or --workers"),
        (["--devices", "2", "--device", "mps"], "Apple's GPU trains alone"),
        pytest.param(
            ["--devices", "2", "--device", "cuda"],
            "torch finds no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_mistakes_come_before_anything_is_started(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("started"))

    with pytest.raises(SystemExit) as end:
        main([NAME, "--no-mlflow", *words])

    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_launcher_decides_how_many(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in slurm(0, 1).items():
        monkeypatch.setenv(name, value)
    for name in {*NAMES, "GROUP_RANK"} - {"MASTER_PORT"}:
        monkeypatch.setenv(name, "")  # so that what is set here is undone
        monkeypatch.delenv(name)

    with pytest.raises(SystemExit) as end:
        main([NAME, "--devices", "4"])

    assert end.value.code == 2
    assert "--devices 4, but 2 processes were started" in capsys.readouterr().err


def test_a_machine_has_too_few_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)

    for device in ("auto", "cuda"):
        with pytest.raises(UserError, match="torch finds 2 GPUs here"):
            joined(4, [], None, device).__enter__()


# --- the job script of docs/scaling.md


@pytest.mark.parametrize(("status", "requeued"), [(143, True), (0, False), (1, False), (2, False)])
def test_the_job_script_requeues_what_was_preempted(
    tmp_path: Path, status: int, requeued: bool
) -> None:
    page = Path(__file__).parents[2].joinpath("docs/scaling.md").read_text()
    script = page.split("<!-- job script -->\n```bash\n")[1].split("```")[0]
    (tmp_path / "job.sh").write_text(script)
    for name, lines in {
        "srun": f'echo "$@" > srun.txt; exit {status}',
        "scontrol": 'echo "$@" > scontrol.txt',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(tmp_path), "SLURM_JOB_ID": "77"}

    subprocess.run(["bash", "-n", "job.sh"], cwd=tmp_path, check=True)
    done = subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=environment, check=False)

    assert done.returncode == status
    words = (tmp_path / "srun.txt").read_text().split()
    assert words[1:3] == ["reproduce", NAME]
    asked = tmp_path / "scontrol.txt"
    assert (asked.read_text() if asked.exists() else None) == ("requeue 77\n" if requeued else None)
