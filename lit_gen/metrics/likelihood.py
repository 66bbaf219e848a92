"""Likelihoods of a latent-variable model while it is measured, in constant memory.

What a run keeps of it, and the numbers that are computed from that, are in `bounds.py`.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lit_gen.metrics import bounds


def importance_weighted(log_weights: Iterable[Tensor]) -> Tensor:
    """log 1/K sum_k w_k, whose mean over x bounds log p(x) from below and grows with K.

    Burda et al. (2015), Eq. 8, arXiv:1509.00519.

    Args:
        log_weights: log w_k = log p(x, z_k) - log q(z_k|x), in parts (S_i, B) with sum S_i = K.
            A part is let go of before the next is asked for.

    Returns:
        (B,), in nats, in float64.
    """
    total, count = None, 0
    for part in log_weights:
        log_sum = double(part).logsumexp(0)
        total = log_sum if total is None else torch.logaddexp(total, log_sum)
        count += len(part)
    if total is None:
        raise ValueError("there are no log weights: draw one sample or more")
    return total - math.log(count)


def double(x: Tensor) -> Tensor:
    """x in float64, on the CPU if its device has none."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def kept(log_px: Tensor) -> Tensor:
    """Nats as a run keeps them: float32 in steps of 2^-10."""
    return (double(log_px) / bounds.KEPT_STEP).round().mul(bounds.KEPT_STEP).float()


class LogLikelihood(Metric):
    """Mean of log p(x), or of a bound on it, over all batches and, under DDP, all ranks.

    It is the same to the last bit however the examples were cut apart: they are kept one by one and
    their sum is rounded once. Each example must reach one rank once.

    Args:
        dims: D of x, for bits per dimension instead of nats.
    """

    higher_is_better, is_differentiable, full_state_update = None, False, False
    values: list[Tensor]

    def __init__(self, dims: int | None = None) -> None:
        super().__init__()
        self.dims = dims
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, log_px: Tensor) -> None:
        """Adds a batch (B,), in nats."""
        self.values.append(kept(log_px.detach()))

    def compute(self) -> Tensor:
        nats = bounds.mean(dim_zero_cat(self.values).cpu().numpy())
        return torch.tensor(nats if self.dims is None else bounds.bits_per_dim(nats, self.dims))


class ActiveUnits(Metric):
    """Number of units with Var_x(E_q[u]) above a threshold, over all batches and ranks.

    Args:
        units: U.
        threshold: of the variance.
    """

    higher_is_better, is_differentiable, full_state_update = True, False, False
    names = "units_sum", "units_square", "units_count"
    units_sum: Tensor
    units_square: Tensor
    units_count: Tensor

    def __init__(self, units: int, threshold: float = 0.01) -> None:
        super().__init__()
        self.of = bounds.ActiveUnits(threshold).of
        for name in ("units_sum", "units_square"):
            self.add_state(name, torch.zeros(1, units, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("units_count", torch.zeros(1, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, sums: dict[str, Tensor]) -> None:
        """Adds a batch, as `sums` tells of it."""
        for name in self.names:
            getattr(self, name).add_(sums[name].to(self.device))

    def compute(self) -> Tensor:
        return torch.tensor(self.of({n: getattr(self, n).cpu().numpy() for n in self.names}))

    @staticmethod
    def sums(means: Tensor) -> dict[str, Tensor]:
        """What a run keeps of E_q[u] for a batch, (B, U)."""
        u = double(means)
        return {
            "units_sum": u.sum(0, keepdim=True),
            "units_square": u.square().sum(0, keepdim=True),
            "units_count": torch.tensor([len(u)], device=u.device),
        }


class Measured:
    """What a test measured of each batch, for the predictions that are made right after it."""

    def __init__(self) -> None:
        self.batches: dict[int, tuple[Tensor, dict[str, Tensor]]] = {}

    def put(self, batch_idx: int, index: Tensor, found: dict[str, Tensor]) -> None:
        self.batches[batch_idx] = index, found

    def take(self, batch_idx: int, index: Tensor) -> dict[str, Tensor] | None:
        """Of the same examples, once; else None."""
        theirs, found = self.batches.pop(batch_idx, (None, None))
        return found if theirs is not None and torch.equal(theirs, index) else None

    def forget(self) -> None:
        self.batches.clear()
