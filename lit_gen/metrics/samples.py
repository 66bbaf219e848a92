"""Quality of a generator's samples while it is measured: torchmetrics' classes, with the numbers of
the official programs.

What torchmetrics alone would give differs: another resizing (antialiased), floats cut off to bytes,
float32, standard deviations with ddof 1, permutations and subsets from the global random state, and
`chunk` where the number of samples is no multiple of the groups. Here the network is that of
torch-fidelity (inception.py), and the numbers come from pure functions in float64
(inception_score.py, distances.py).

Samples have numbers, in the order in which they were made. What several processes give is put into
that order first, so that they give the number of one.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance as _FID
from torchmetrics.image.inception import InceptionScore as _InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance as _KID
from torchmetrics.utilities import dim_zero_cat

from lit_gen.metrics import distances
from lit_gen.metrics.errors import MetricError
from lit_gen.metrics.inception import Extractor
from lit_gen.metrics.inception_score import divergences, groups_of, score


class FrechetInceptionDistance(_FID):
    """FID in float64. Images go to `update` with real=True or False: uint8, or floats in [0, 1].

    Sums in float64 add up over processes, in any order, to the last digits.
    """

    def __init__(self, extractor: Extractor, **kwargs: Any) -> None:
        super().__init__(feature=extractor, **kwargs)

    def compute(self) -> Tensor:
        both = []
        for name in ("fake", "real"):
            n = int(getattr(self, f"{name}_features_num_samples"))
            if n < 2:
                raise MetricError(f"FID needs 2 {name} images or more, and has {n}")
            total, products = (
                getattr(self, f"{name}_features_{of}").cpu().numpy() for of in ("sum", "cov_sum")
            )
            mean = total / n
            covariance = (products - n * np.outer(mean, mean)) / (n - 1)
            both.append(distances.Statistics(mean, covariance, n))
        return torch.tensor(distances.fid(*both), dtype=torch.float64)


class Numbered(Metric):
    """Rows that are kept with the numbers of their samples."""

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """As `update`: the number of a batch alone would say little, and take a pass of its own."""
        self.update(*args, **kwargs)

    def number(self, index: Tensor | None, rows: Tensor, name: str) -> None:
        """Adds rows (B, ...) of the samples `index` (B,).

        None counts on: sample i of process r of W is number r + i W, as samplers deal them out.
        """
        kept = getattr(self, f"{name}_index")
        if index is None:
            rank, size = _place()
            done = sum(map(len, kept))
            index = rank + size * torch.arange(done, done + len(rows))
        kept.append(index.to(rows.device))
        getattr(self, name).append(rows)

    def in_order(self, name: str) -> Tensor:
        """All rows, in the order of their samples.

        Raises:
            MetricError: there are none, or a sample came twice.
        """
        if not len(getattr(self, name)):
            raise MetricError("there are no samples: call `update` before `compute`")
        index = dim_zero_cat(getattr(self, f"{name}_index"))
        order = index.argsort()
        if (twice := index[order].diff() == 0).any():
            raise MetricError(
                f"sample {int(index[order][:-1][twice][0])} came twice: a sampler that pads the "
                "last batch must not be used here"
            )
        return dim_zero_cat(getattr(self, name))[order]

    def add_rows(self, name: str) -> None:
        self.add_state(name, [], dist_reduce_fx="cat")
        self.add_state(f"{name}_index", [], dist_reduce_fx="cat")


def _place() -> tuple[int, int]:
    """This process's number, and how many there are."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if there else (0, 1)


def kl_of_features(
    features: np.ndarray, extractor: Extractor, splits: int, bias: bool
) -> np.ndarray:
    """KL(p(y|x) || p(y) of its group) of each sample, (N,), from features (N, 2048)."""
    cut = groups_of(len(features), splits)
    return divergences(extractor.logits(features[group], bias) for group in cut)


class InceptionScore(_InceptionScore, Numbered):
    """Mean and standard deviation (ddof 0) over consecutive groups of samples.

    Args:
        extractor: one with logits.
        splits: groups.
        bias: whether the last layer's is added; the official score is without.

    Raises:
        MetricError: the extractor's weights end before the logits.
    """

    def __init__(
        self, extractor: Extractor, splits: int = 10, bias: bool = False, **kwargs: Any
    ) -> None:
        if extractor.lacking:
            raise MetricError(f"not measurable here: {extractor.lacking}")
        super().__init__(feature=extractor, splits=splits, **kwargs)
        self.bias = bias
        self.add_rows("features")

    def update(self, imgs: Tensor, index: Tensor | None = None) -> None:
        """Adds samples (B, 3, H, W) with their numbers (B,)."""
        self.number(index, self.inception(imgs), "features")

    def compute(self) -> tuple[Tensor, Tensor]:
        features = self.in_order("features").cpu().numpy()
        kl = kl_of_features(features, self.inception, self.splits, self.bias)
        found = score(kl, self.splits)
        return tuple(torch.tensor(value, dtype=torch.float64) for value in found[:2])


class KernelInceptionDistance(_KID, Numbered):
    """Mean and standard deviation (ddof 0) over subsets, drawn as torch-fidelity draws them.

    Args:
        subsets, subset_size: how many, and of how many images of each set.
        seed: of the draws.
    """

    def __init__(
        self,
        extractor: Extractor,
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = distances.SEED,
    ) -> None:
        super().__init__(feature=extractor, subsets=subsets, subset_size=subset_size)
        self.seed = seed
        for name in ("real_features", "fake_features"):
            self.add_rows(name)

    def update(self, imgs: Tensor, real: bool, index: Tensor | None = None) -> None:
        """Adds images (B, 3, H, W) with their numbers (B,)."""
        self.number(index, self.inception(imgs), "real_features" if real else "fake_features")

    def compute(self) -> tuple[Tensor, Tensor]:
        fake, real = (self.in_order(f"{of}_features").cpu().numpy() for of in ("fake", "real"))
        found = distances.kid(fake, real, self.subsets, self.subset_size, self.seed)
        return tuple(torch.tensor(value, dtype=torch.float64) for value in found)


class PrecisionRecall(Numbered):
    """The share of samples that lie among real images, and of real images among samples.

    Args:
        extractor: gives the features.
        neighbours: k.
    """

    higher_is_better, is_differentiable, full_state_update = True, False, False

    def __init__(self, extractor: Extractor, neighbours: int = 3) -> None:
        super().__init__()
        self.inception, self.neighbours = extractor, neighbours
        for name in ("real_features", "fake_features"):
            self.add_rows(name)

    update = KernelInceptionDistance.update

    def compute(self) -> tuple[Tensor, Tensor]:
        fake, real = (self.in_order(f"{of}_features").cpu().numpy() for of in ("fake", "real"))
        found = distances.precision_recall(fake, real, self.neighbours)
        return tuple(torch.tensor(value, dtype=torch.float64) for value in found)
