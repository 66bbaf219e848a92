"""Linear layers that also work stacked."""

import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """x W^T + b; a stacked layer (`replicas`) takes x (K, B, in), or the same x (B, in) for all."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 2:
            return F.linear(x, self.weight, self.bias)
        y = x @ self.weight.mT
        return y if self.bias is None else y + self.bias.unsqueeze(-2)
