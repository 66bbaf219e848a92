"""Metrics that add up over batches and processes, exactly: integer sums have no order."""

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_gen.metrics.classification import errors


class ErrorCount(Metric):
    """`classification.errors` over all batches and, under DDP, all ranks.

    Each example must reach one rank once: a sampler that pads counts some twice.
    """

    higher_is_better, is_differentiable, full_state_update = False, False, False
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("count", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Adds a batch: scores (B, K), target (B,).

        Raises:
            ValueError: a score is not finite.
        """
        self.count += int(errors(scores, target))

    def compute(self) -> Tensor:
        return self.count
