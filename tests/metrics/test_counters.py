"""Errors that come in batches and from several processes add up to the whole."""

import pytest
import torch
import torch.distributed as dist
from processes import run_in

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


def counted() -> tuple[int, int]:
    scores, target = (
        torch.randn(101, 10, generator=torch.Generator().manual_seed(0)),
        torch.arange(101) % 10,
    )
    metric = ErrorCount()
    rank = dist.get_rank()
    metric.update(scores[rank::2], target[rank::2])
    return int(metric.compute()), int(errors(scores, target))


def test_processes_add_up() -> None:
    for ours, whole in run_in(2, counted):
        assert ours == whole
