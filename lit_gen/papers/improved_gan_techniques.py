"""The techniques of Improved GAN (Salimans et al., 2016), arXiv:1606.03498v1, Secs. 3.2 to 3.5.

Each is a layer or a loss by itself; feature matching (Sec. 3.1) is with the models that use it.
Code is published for minibatch discrimination on CIFAR-10, and for virtual batch normalisation and
label smoothing on ImageNet; for historical averaging there is none.

Departures from the paper, all in the direction of the code:
    Sec. 3.2 sums over all examples of a batch, oneself included; the code leaves oneself out and
        adds a trained offset. It gives each kernel's T a length and a scale of its own.
    Sec. 3.5 normalises by the reference batch and the example; of an image the example's part is
        the mean over its pixels.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_gen.nn import distributed


class MinibatchDiscrimination(nn.Module):
    """h (N, A) -> [h, o] (N, A + B): how near an example is to the others of its batch (Sec. 3.2).

        M_i = h_i T, (B, C),    c_b(i, j) = exp(-|M_ib - M_jb|_1),
        o_b(i) = sum over j != i of c_b(i, j) + beta_b.

    T's columns have length exp(s) (code). In training the batch is that of all processes.

    Args:
        features: A.
        kernels: B.
        dim: C, numbers that a kernel compares.
        std: of v, whose columns' directions are T's (code: 0.05; 8 June: 0.1).
    """

    def __init__(self, features: int, kernels: int = 100, dim: int = 5, std: float = 0.05) -> None:
        super().__init__()
        self.v = nn.Parameter(std * torch.randn(features, kernels, dim))
        self.s = nn.Parameter(torch.zeros(kernels, dim))
        self.beta = nn.Parameter(torch.zeros(kernels))

    def distances(self, h: Tensor) -> Tensor:
        """|M_ib - M_jb|_1 of this process's i and all processes' j, (B, N, W N); infinite for
        j = i."""
        t = self.v / self.v.norm(dim=0) * self.s.exp()
        m = torch.einsum("na,abc->bnc", h, t)
        rank, size = distributed.rank_and_size() if self.training else (0, 1)
        everyone = distributed.gather(m, 1) if size > 1 else m
        d = torch.cdist(m, everyone, p=1)
        i = torch.arange(len(h), device=h.device)
        itself = torch.zeros(d.shape[1:], dtype=torch.bool, device=h.device)
        itself[i, rank + size * i] = True
        return d.masked_fill(itself, torch.inf)

    def nearness(self, h: Tensor) -> Tensor:
        """sum over j != i of c_b(i, j), (N, B)."""
        return (-self.distances(h)).exp().sum(-1).T

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([h, self.nearness(h) + self.beta], -1)

    @torch.no_grad()
    def set_by_data(self, h: Tensor) -> Tensor:
        """Sets s and beta so that on h the mean distance to the nearest other example is 2 and o
        has mean 0, and returns the outputs. beta is then that of this batch's size (code)."""
        nearest = distributed.mean(self.distances(h).amin(-1), -1)  # (B,)
        self.s -= (0.5 * nearest).log().unsqueeze(-1)
        self.beta.copy_(-distributed.mean(self.nearness(h)))
        return self.forward(h)  # not through hooks, one of which calls this


class VirtualBatchNorm(nn.Module):
    """Normalises each example by a fixed reference batch and itself (Sec. 3.5).

    Takes the n examples of the reference batch, then others, (n + N, F) or (n + N, F, H, W). With
    the mean mu and the mean square q of a feature over the reference batch (and pixels), and mu_i,
    q_i those of example i alone,

        mu' = (n mu + mu_i) / (n + 1),   q' = (n q + q_i) / (n + 1),
        y_i = gamma (x_i - mu') / sqrt(eps + q' - mu'^2) + beta,

    and the reference batch is normalised by mu and q. So an output depends on no other example.

    Args:
        features: F.
        reference: n.
        eps: code: 1e-5.
    """

    def __init__(self, features: int, reference: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.reference, self.eps = reference, eps
        self.gamma = nn.Parameter(1 + 0.02 * torch.randn(features))  # code
        self.beta = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        n = self.reference
        pixels = tuple(range(2, x.dim()))
        whole = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x  # q - mu^2 cancels
        mu_i, q_i = (m.mean(pixels, keepdim=True) if pixels else m for m in (whole, whole.square()))
        mu, q = mu_i[:n].mean(0, keepdim=True), q_i[:n].mean(0, keepdim=True)
        mu = torch.cat([mu.expand_as(mu_i[:n]), (n * mu + mu_i[n:]) / (n + 1)])
        q = torch.cat([q.expand_as(q_i[:n]), (n * q + q_i[n:]) / (n + 1)])
        shape = (-1, *(1 for _ in pixels))
        scale = self.gamma.view(shape) * (self.eps + (q - mu.square()).clamp_min(0)).rsqrt()
        return ((whole - mu) * scale + self.beta.view(shape)).to(x.dtype)


class HistoricalAverage(nn.Module):
    """weight |theta - (1/t) sum over i <= t of theta_i|^2, for a player's cost (Sec. 3.3).

    Its own gradient is through theta alone: the average counts as a constant, and holds the
    parameters before each step so far, those of now included.

    Args:
        parameters: a player's.
        weight: Sec. 3.3 has none, which is 1.
    """

    def __init__(self, parameters: Iterable[Tensor], weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("t", torch.zeros((), dtype=torch.int64))
        for i, p in enumerate(parameters):
            self.register_buffer(f"mean_{i}", torch.zeros_like(p, requires_grad=False))

    def means(self) -> list[Tensor]:
        return [value for name, value in self.named_buffers() if name != "t"]

    def forward(self, parameters: Iterable[Tensor]) -> Tensor:
        """Takes the parameters of now into the average, and gives the penalty, ()."""
        now = list(parameters)
        with torch.no_grad():
            self.t += 1
            for mean, p in zip(self.means(), now, strict=True):
                mean += (p - mean) / self.t
        gaps = (p - mean for p, mean in zip(now, self.means(), strict=True))
        return self.weight * torch.stack([gap.square().sum() for gap in gaps]).sum()


def smoothed_loss(logit: Tensor, target: float) -> Tensor:
    """-target log D - (1 - target) log(1 - D) of real images, D = sigmoid(logit) (Sec. 3.4).

    Only real images' target is below 1: were that of generated ones above 0, the optimal D would
    have the generator's density in its numerator, and reward it for staying where it is.
    """
    return F.softplus(logit) - target * logit
