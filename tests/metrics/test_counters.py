"""Errors that come in batches and from several processes add up to the whole."""

import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lit_gen.metrics.classification import errors
from lit_gen.metrics.counters import ErrorCount


def test_batches_add_up_whatever_their_size() -> None:
    scores, target = torch.randn(101, 10), torch.randint(10, (101,))
    metric = ErrorCount()

    for part in torch.arange(101).split(25):
        metric.update(scores[part], target[part])

    assert int(metric.compute()) == errors(scores, target)


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        ErrorCount().update(torch.full((2, 3), torch.nan), torch.zeros(2))


def process(rank: int, port: int, results: str) -> None:
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", address, world_size=2, rank=rank, timeout=timedelta(seconds=60))
    scores, target = (
        torch.randn(101, 10, generator=torch.Generator().manual_seed(0)),
        torch.arange(101) % 10,
    )
    metric = ErrorCount()
    metric.update(scores[rank::2], target[rank::2])
    if rank == 0:
        Path(results).write_text(f"{int(metric.compute())} {int(errors(scores, target))}")
    else:
        metric.compute()
    dist.destroy_process_group()


def test_processes_add_up(tmp_path: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(process, (port, str(tmp_path / "out")), nprocs=2)

    ours, whole = (tmp_path / "out").read_text().split()
    assert ours == whole
