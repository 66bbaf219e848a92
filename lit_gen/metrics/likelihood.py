"""Likelihoods of a latent-variable model while it is measured, in constant memory.

What a run keeps of it, and the numbers that are computed from that, are in `bounds.py`.
"""

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
        log_sum = part.double().logsumexp(0)
        total = log_sum if total is None else torch.logaddexp(total, log_sum)
        count += len(part)
    if total is None:
        raise ValueError("there are no log weights: draw one sample or more")
    return total - torch.tensor(count, dtype=torch.float64).log()


def kept(log_px: Tensor) -> Tensor:
    """Nats as a run keeps them: float32 in steps of 2^-10."""
    return (log_px.double() / bounds.KEPT_STEP).round().mul(bounds.KEPT_STEP).float()


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
