"""The semi-supervised GAN of Improved GAN as one would write it without a suite.

The style is that of many PyTorch versions of papers: a data set that converts one image at a time,
a DataLoader for each stream, one discriminator pass each for labelled, unlabelled and generated
images, torch's own weight normalisation and Adam, a loop for the averaged weights, and three losses
read back in every step. Where such code differs, the faster way was taken: features of real images
are computed without a graph.

The mathematics is that of `lit_gen.papers.improved_gan`, from which the initial weights are taken;
tests/test_benchmarks.py holds the two together. They differ in one thing: torch's Adam has epsilon
outside the square root.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, Dataset

from lit_gen.nn.weight_norm import WeightNormLinear
from lit_gen.papers.improved_gan import BatchNorm, Noise, SemiSupervisedGAN


class Images(Dataset):
    """MNIST, an image at a time: (784,) floats in [0, 1], and its label."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.images[i]).float().div(255), int(self.labels[i])


class GaussianNoise(nn.Module):
    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) * self.sigma if self.training else x


class ShiftedBatchNorm(nn.Module):
    """By this batch's statistics, with a shift and no scale."""

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm1d(
            len(shift), eps=1e-6, affine=False, track_running_stats=False
        )
        self.shift = nn.Parameter(shift.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(x) + self.shift


def usual(layer: nn.Module) -> nn.Module:
    """A layer of the suite's as torch has it, with the same weights."""
    if isinstance(layer, WeightNormLinear):
        linear = nn.Linear(layer.v.shape[1], layer.v.shape[0])
        with torch.no_grad():
            linear.weight.copy_(layer.v)
            linear.bias.copy_(layer.b)
        weight_norm(linear)
        scale = linear.parametrizations.weight.original0
        scale.data.copy_(layer.g.unsqueeze(1))
        scale.requires_grad_(isinstance(layer.g, nn.Parameter))
        return linear
    if isinstance(layer, Noise):
        return GaussianNoise(layer.sigma)
    if isinstance(layer, BatchNorm):
        return ShiftedBatchNorm(layer.shift)
    return copy.deepcopy(layer)


class Port:
    """The two networks, their optimizers and a training step.

    Args:
        model: the suite's, initialised; gives the weights.
    """

    def __init__(self, model: SemiSupervisedGAN, device: str = "cpu", lr: float = 0.003) -> None:
        self.device, self.decay = device, 0.9999
        features = nn.Sequential(*map(usual, model.discriminator.features))
        classifier = nn.Sequential(*map(usual, model.discriminator.classifier))
        self.discriminator = nn.ModuleDict({"features": features, "classifier": classifier})
        self.discriminator.to(device)
        self.generator = nn.Sequential(*map(usual, model.generator)).to(device)
        self.averaged = copy.deepcopy(self.discriminator).eval()
        for p in self.averaged.parameters():
            if p.requires_grad:
                p.data.zero_()
            p.requires_grad_(False)
        self.optimizer_d, self.optimizer_g = (
            torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr, (0.5, 0.999))
            for network in (self.discriminator, self.generator)
        )

    def logits(self, x: Tensor) -> Tensor:
        return self.discriminator["classifier"](self.discriminator["features"](x))

    def step(
        self, x_labeled: Tensor, y: Tensor, x_unlabeled: Tensor, x_matching: Tensor
    ) -> tuple[float, float, float]:
        """One update of each network; the labelled, unsupervised and matching loss."""
        x_labeled, y = x_labeled.to(self.device), y.to(self.device)
        x_unlabeled, x_matching = x_unlabeled.to(self.device), x_matching.to(self.device)

        fake = self.generator(torch.rand(len(x_unlabeled), 100, device=self.device)).detach()
        loss_labeled = F.cross_entropy(self.logits(x_labeled), y)
        real_score = torch.logsumexp(self.logits(x_unlabeled), 1)
        fake_score = torch.logsumexp(self.logits(fake), 1)
        loss_unlabeled = 0.5 * F.softplus(-real_score).mean() + 0.5 * F.softplus(fake_score).mean()
        self.optimizer_d.zero_grad()
        (loss_labeled + loss_unlabeled).backward()
        self.update_average()
        self.optimizer_d.step()

        with torch.no_grad():
            wanted = self.discriminator["features"](x_matching).mean(0)
        fake = self.generator(torch.rand(len(x_matching), 100, device=self.device))
        got = self.discriminator["features"](fake).mean(0)
        loss_matching = ((wanted - got) ** 2).mean()
        self.optimizer_g.zero_grad()
        loss_matching.backward()
        self.optimizer_g.step()

        return loss_labeled.item(), loss_unlabeled.item(), loss_matching.item()

    @torch.no_grad()
    def update_average(self) -> None:
        pairs = zip(self.averaged.parameters(), self.discriminator.parameters(), strict=True)
        for average, p in pairs:
            if p.requires_grad:
                average.mul_(self.decay).add_(p, alpha=1 - self.decay)

    @torch.no_grad()
    def errors(self, loader: DataLoader) -> int:
        wrong = 0
        for x, y in loader:
            logits = self.averaged["classifier"](self.averaged["features"](x.to(self.device)))
            wrong += (logits.argmax(1) != y.to(self.device)).sum().item()
        return wrong


class Loaders:
    """An epoch's batches (x_labeled, y, x_unlabeled, x_matching), from three DataLoaders.

    Args:
        images, labels: (N, 784) and (N,) uint8.
        labeled: indices of the labelled images, which are repeated to the length of the others.
        workers: processes of each loader.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, labeled: np.ndarray, workers: int
    ) -> None:
        repeated = np.resize(labeled, len(images))
        options = {"batch_size": 100, "shuffle": True, "drop_last": True, "num_workers": workers}
        options |= {"persistent_workers": workers > 0}
        self.labeled = DataLoader(Images(images[repeated], labels[repeated]), **options)
        self.unlabeled = DataLoader(Images(images, labels), **options)
        self.matching = DataLoader(Images(images, labels), **options)

    def __len__(self) -> int:
        return len(self.unlabeled)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        streams = zip(self.labeled, self.unlabeled, self.matching, strict=True)
        for (x_labeled, y), (x_unlabeled, _), (x_matching, _) in streams:
            yield x_labeled, y, x_unlabeled, x_matching
