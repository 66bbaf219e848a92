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

import lit_gen  # noqa: F401  before a test's file imports Lightning: see tests/conftest.py


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


def two_steps(model: Any, batch: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """A GAN's weights and buffers after two steps on this process's share of a batch, where
    gradients are averaged over the processes, as DDP does."""
    from lit_gen.nn.distributed import rank_and_size, share

    networks, (_, size) = [model.discriminator, model.generator], rank_and_size()

    def backward(loss: torch.Tensor) -> None:
        loss.backward()
        for p in (p for network in networks for p in network.parameters()):
            if p.grad is not None and p.requires_grad and size > 1:
                dist.all_reduce(p.grad)
                p.grad /= size

    optimizers = model.configure_optimizers()
    model.optimizers, model.manual_backward = lambda: optimizers, backward
    for _ in range(2):
        model.training_step(tuple(map(share, batch)), 0)
    return [p.detach() for p in model.parameters()] + [b.detach() for b in model.buffers()]


def _main(file: str, name: str, folder: str, rank: int, size: int) -> None:
    spec = importlib.util.spec_from_file_location("theirs", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    store = dist.FileStore(f"{folder}/store", size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    torch.save(getattr(module, name)(), f"{folder}/{rank}")
    dist.barrier()  # whoever ends early would break the others' connecting
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(*sys.argv[1:4], *map(int, sys.argv[4:]))
