"""What the processes of one training exchange, so that several of them follow one (DDP).

Process r of W holds the examples r, r + W, r + 2W, ... of every batch; so the concatenation of two
shares is the share of the concatenation. All hold the same random state, and draw the numbers of
the whole batch (`lit_gen.nn.draws`).

DDP averages gradients over the processes. So a loss follows that of one process if its average over
the processes is that loss. The mean over a process's own examples is one as it stands; what couples
examples of a batch goes through the functions here, whose gradients reach the examples of all.
Called by one process alone, they exchange nothing.
"""

import torch
import torch.distributed
from torch import Tensor


def rank_and_size() -> tuple[int, int]:
    """(r, W): this process among those that train together; (0, 1) if it is alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def share(x: Tensor, dim: int = 0) -> Tensor:
    """This process's examples of a whole batch, W B examples along `dim` -> B.

    Raises:
        ValueError: the processes cannot have equally many.
    """
    rank, size = rank_and_size()
    if x.shape[dim] % size:
        raise ValueError(f"{x.shape[dim]} examples cannot be shared equally by {size} processes")
    return x if size == 1 else x.unflatten(dim, (-1, size)).select(dim % x.dim() + 1, rank)


def gather(x: Tensor, dim: int = 0) -> Tensor:
    """All processes' examples in the order of one process, B along `dim` -> W B; undoes `share`."""
    rank, size = rank_and_size()
    if size == 1:
        return x
    dim %= x.dim()
    rows = [x if r == rank else torch.zeros_like(x) for r in range(size)]
    return _Sum.apply(torch.stack(rows, dim + 1).flatten(dim, dim + 1))


def mean(x: Tensor, dim: int = 0) -> Tensor:
    """Mean over the examples of all processes, along `dim`."""
    size = rank_and_size()[1]
    return x.mean(dim) if size == 1 else _Sum.apply(x.mean(dim)) / size


def total(x: Tensor) -> Tensor:
    """The sum over the processes, elementwise."""
    return x if rank_and_size()[1] == 1 else _Sum.apply(x)


def moments(x: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the examples of all processes, along `dim`."""
    mu = mean(x, dim)
    return mu, mean((x - mu.unsqueeze(dim)).square(), dim)


class _Sum(torch.autograd.Function):
    """The sum over the processes, which all of them get; so the gradients of all of them add up."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # noqa: ANN001
        x = x.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, dy: Tensor) -> Tensor:  # noqa: ANN001
        return _Sum.apply(dy)
