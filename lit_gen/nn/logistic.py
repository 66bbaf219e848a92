"""A logistic distribution over 256 equal bins, the likelihood of a pixel (Kingma et al., 2016)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 256


def log_mass(
    levels: Tensor, mu: Tensor, log_scale: Tensor, edge_bins: bool, floor: float = 0.0
) -> Tensor:
    """log P(k), elementwise, in nats, of a logistic variable that falls into bin k of [-1/2, 1/2].

    Bin k is [a, b] with a = k/256 - 1/2 and b = a + 1/256, and with A = (a - mu)/s, B = (b - mu)/s

        P(k) = sig(B) - sig(A) = sig(B) sig(-A) (1 - exp(A - B)),

    whose logarithm loses no digits where the difference of two sigmoids does.

    Args:
        levels: k, 0 to 255, of any shape and type.
        mu, log_scale: location and log s, which broadcast against it.
        edge_bins: whether the first and last bin reach to infinity, so that P sums to 1. Otherwise
            what falls outside is lost, as in the authors' code: a bound of a bound.
        floor: added to P; the authors' code has 1e-7.
    """
    a = levels.to(mu.dtype) / LEVELS - 0.5
    below = (a - mu) * (-log_scale).exp()
    width = (-log_scale).exp() / LEVELS  # B - A
    log_p = F.logsigmoid(below + width) + F.logsigmoid(-below) + (-(-width).expm1()).log()
    if edge_bins:
        log_p = torch.where(levels == 0, F.logsigmoid(below + width), log_p)
        log_p = torch.where(levels == LEVELS - 1, F.logsigmoid(-below), log_p)
    return torch.logaddexp(log_p, log_p.new_tensor(math.log(floor))) if floor else log_p
