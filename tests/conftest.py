"""Fixtures: a small data set in MNIST's file format, and runs of the real model on it."""

import contextlib
import gzip
import hashlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import manifests
import numpy as np
import pytest
import yaml

import lit_gen  # noqa: F401  before Lightning, so that a torchvision that does not fit can be imported

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.pop("COLUMNS", None)  # set where files are tested side by side; commands would heed it
NAME = "improved_gan_mnist_semisup"


def idx(array: np.ndarray) -> bytes:
    """uint8 array -> the content of an IDX file."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(autouse=True)
def small_numbers() -> Iterator[None]:
    """Training flushes those below 1e-38, for the whole process."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def tiny_mnist(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """1,200 + 300 images of ten blurred patterns; the environment that makes them "MNIST"."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.RandomState(0)
    patterns = rng.randint(0, 256, (10, 28, 28))
    contents = {}
    for split, n in (("train", 1200), ("t10k", 300)):
        y = np.arange(n, dtype=np.uint8) % 10
        x = np.clip(patterns[y] + rng.normal(0, 60, (n, 28, 28)), 0, 255).astype(np.uint8)
        contents[f"{split}-images-idx3-ubyte"] = idx(x)
        contents[f"{split}-labels-idx1-ubyte"] = idx(y)
    (folder / "mnist").mkdir()
    files = {}
    for name, content in contents.items():
        (folder / "mnist" / f"{name}.gz").write_bytes(gzip.compress(content))
        files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = manifests.shipped()
    entry = next(iter(manifest.values())) if "mnist" not in manifest else manifest["mnist"]
    edition = entry["editions"][0]
    edition["files"], edition["mirrors"] = files, []
    entry["editions"] = [edition]
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return {
        "LIT_GEN_MANIFEST": str(folder / "manifest.yaml"),
        "LIT_GEN_DATA": str(folder),
        "LIT_GEN_OFFLINE": "1",
    }


@pytest.fixture
def tiny(tiny_mnist: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The tiny data set as this process's data; an empty folder as the current one."""
    for key, value in tiny_mnist.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def reproduce(tiny_mnist: dict[str, str], tmp_path: Path):
    """Runs the command in a process of its own, in `tmp_path`, on the tiny data set."""

    def call(
        *words: str, env: dict[str, str] | None = None, background: bool = False, **kwargs
    ) -> subprocess.CompletedProcess | subprocess.Popen:
        environment = os.environ | tiny_mnist | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        environment |= env or {}
        command = [sys.executable, "-c", "from lit_gen.harness.cli import main; main()", *words]
        options = {"cwd": tmp_path, "env": environment, "text": True} | kwargs
        if background:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            # whoever started the tests in the background made their children deaf to Ctrl-C
            heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
            return subprocess.Popen(command, **(pipes | heard | options))
        return subprocess.run(command, capture_output=True, timeout=240, **options)

    return call


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: making its tables takes seconds, copying it does not."""
    pytest.importorskip("mlflow")
    from lit_gen.harness.reports import tracking

    path = tmp_path_factory.mktemp("tables") / "mlflow.db"
    tracking.connect(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def server(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server on loopback."""
    root = tmp_path_factory.mktemp("server")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shutil.copy(tables, root / "mlflow.db")
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--workers", "1",
        "--artifacts-destination", str(root / "artifacts"),
    ]  # fmt: skip
    log = open(root / "log", "w")  # noqa: SIM115
    process = subprocess.Popen(command, cwd=root, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            assert process.poll() is None, (root / "log").read_text()
            assert time.monotonic() < deadline, (root / "log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        log.close()
