"""Random numbers of a training step: those that a run alone in one process would draw.

Several processes that share a batch (DDP) hold the same random state; each draws the numbers of the
whole batch and keeps its own examples'. Several runs that train as one computation (`replicas`)
have a stream of numbers each. While a model is measured each example may have a stream of its own,
so that a number does not depend on how the data are cut into batches.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Generator, Tensor

from lit_gen.nn.distributed import rank_and_size, share

WORTH_THREADS = 2**16  # numbers; drawing them takes longer than waking threads
_streams: Sequence[Generator] | None = None  # a plain global: torch.compile reads it, too
_examples: tuple[Sequence[Generator], int] | None = None


@contextlib.contextmanager
def streams(generators: Sequence[Generator]) -> Iterator[None]:
    """Within, every draw is one from each of K generators, stacked: (K, B, ...)."""
    global _streams
    before, _streams = _streams, generators
    try:
        yield
    finally:
        _streams = before


@contextlib.contextmanager
def of_examples(index: Tensor, axis: int = -2) -> Iterator[None]:
    """Within, `randn_like` draws the numbers of each example from a stream of its own.

    Args:
        index: which examples a batch holds, (B,): each seeds its stream.
        axis: of the batch in what is drawn. It may hold S samples of each example, as `repeat`
            makes them. Axes before it, of replicas, share the numbers.
    """
    global _examples
    generators = [torch.Generator(index.device).manual_seed(i) for i in index.tolist()]
    before, _examples = _examples, (generators, axis)
    try:
        yield
    finally:
        _examples = before


def repeat(x: Tensor, samples: int, axis: int = -2) -> Tensor:
    """Each example S times along the axis, all of them once before any again: (..., S B, ...)."""
    if samples == 1:
        return x
    times = [1] * x.dim()
    times[axis] = samples
    return x.repeat(times)


def randn_like(x: Tensor) -> Tensor:
    """N(0, 1) for a batch (B, ...), or (K, B, ...) of K replicas."""
    if _examples is not None:
        return _of_examples(x, *_examples)
    if _streams is None and rank_and_size()[1] == 1:
        return torch.randn_like(x, memory_format=torch.contiguous_format)  # in one order always
    shape = x.shape if _streams is None else x.shape[1:]
    return _draw(torch.randn, shape, x.device, x.dtype)


def rand(*shape: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """U[0, 1] for a batch of the shape (B, ...), which gets a leading K among K replicas."""
    return _draw(torch.rand, shape, device, dtype)


def _draw(
    draw: Callable[..., Tensor], shape: Sequence[int], device: torch.device, dtype: torch.dtype
) -> Tensor:
    if _streams is None:
        b, *rest = shape
        return share(draw(b * rank_and_size()[1], *rest, device=device, dtype=dtype))
    drawn = torch.empty(len(_streams), *shape, device=device, dtype=dtype)

    def fill(rows: Sequence[tuple[Tensor, Generator]]) -> None:
        for row, generator in rows:
            draw(*shape, generator=generator, out=row)

    rows = list(zip(drawn, _streams, strict=True))
    threads = min(torch.get_num_threads(), len(rows))
    if device.type != "cpu" or threads == 1 or drawn.numel() < WORTH_THREADS:
        fill(rows)
    else:  # torch draws in one thread, and lets others run meanwhile
        list(_threads(threads).map(fill, [rows[i::threads] for i in range(threads)]))
    return drawn


def _of_examples(x: Tensor, generators: Sequence[Generator], axis: int) -> Tensor:
    rows, *rest = x.shape[axis % x.dim() :]
    samples = rows // len(generators)
    drawn = torch.empty(samples, len(generators), *rest, device=x.device, dtype=x.dtype)
    for b, generator in enumerate(generators):
        drawn[:, b] = torch.randn(
            samples, *rest, generator=generator, device=x.device, dtype=x.dtype
        )
    return drawn.flatten(0, 1).expand_as(x)


@functools.cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n)
