"""Runs a test file's function in several real processes that talk through gloo (DDP)."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist


def run_in(size: int, function: Callable[[], Any]) -> list[Any]:
    """What `function`, at the top of a file, returns in each of `size` processes."""
    file = sys.modules[function.__module__].__file__
    with TemporaryDirectory() as folder:
        commands = [
            [sys.executable, __file__, file, function.__name__, folder, str(rank), str(size)]
            for rank in range(size)
        ]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        if sys.platform == "darwin":
            environment["GLOO_SOCKET_IFNAME"] = "lo0"
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started = [subprocess.Popen(c, env=environment, **pipes) for c in commands]
        try:
            said = [process.communicate(timeout=120)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        assert not any(process.returncode for process in started), "\n".join(said)
        return [torch.load(Path(folder, str(r)), weights_only=False) for r in range(size)]


def _main(file: str, name: str, folder: str, rank: int, size: int) -> None:
    spec = importlib.util.spec_from_file_location("theirs", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    store = dist.FileStore(f"{folder}/store", size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    torch.save(getattr(module, name)(), f"{folder}/{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(*sys.argv[1:4], *map(int, sys.argv[4:]))
