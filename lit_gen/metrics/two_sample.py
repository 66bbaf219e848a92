"""Classifier two-sample test (Lopez-Paz & Oquab, 2017), arXiv:1610.06545: are they from one source?

A small network learns to tell real images from generated ones, and is asked about others that it
has not seen. If both come from one distribution it is right in half of the cases, whatever it has
learned; a better sampler brings it closer to that. It is a machine's proxy for what people see, and
no substitute for asking them: it notices traces that nobody sees, and misses what it cannot learn
from so few images.

Departures from the paper: its network for images has features that were trained on others, or fully
connected layers; here it is a small convolutional one, which begins anew and stops early.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST = 20  # images of each kind: fewer leave nothing to learn from
BATCH = 64
LEVEL = 0.95
VALIDATION = 0.2  # part of the training half that says when to stop
LOOKS = 20  # at it


class TwoSampleTest(NamedTuple):
    """What a classifier told apart among the images that were held out.

    Attributes:
        accuracy_percent: how many of them it put on the right side; 50 is chance.
        low_percent, high_percent: exact 95 % interval of that (Clopper & Pearson).
        p_value: of so many right answers, or more, by chance.
        held_out: how many images that was, half of them real.
    """

    accuracy_percent: float
    low_percent: float
    high_percent: float
    p_value: float
    held_out: int


def classifier_two_sample_test(
    real: Tensor, generated: Tensor, seed: int = 0, steps: int = 400
) -> TwoSampleTest:
    """Trains on one half of the images, tests on the other.

    Generated images are rounded to 256 levels, as a file of them would be: otherwise grey values
    that no file holds would tell them apart. The result depends on the images, their order and the
    arguments; on a CPU it is the same to the last bit. No global random state is used or changed.

    Given the classifier, its right answers are sums of independent ones on real and on generated
    images. Under the null hypothesis their variance is at most that of the binomial distribution by
    which they are judged, so that `p_value` errs on the cautious side.

    Args:
        real, generated: uint8, or floats in [0, 1], (N, C, H, W) with as many of each.
        seed: of the halves, the first weights and the order.
        steps: updates of the network, on 32 real and 32 generated images each.

    Raises:
        ValueError: the images are not as they should be.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: use 1 or more")
    sets = [_checked(real, "real"), _checked(generated.to(real.device), "generated")]
    if sets[0].shape != sets[1].shape:
        raise ValueError(
            f"real images are {tuple(real.shape)}, generated ones {tuple(generated.shape)}: give "
            "as many of each, of one size"
        )
    n = len(sets[0])
    rng = np.random.RandomState(seed)
    held_out = n // 2
    kept = int(np.ceil(VALIDATION * (n - held_out)))
    parts = [np.split(rng.permutation(n), [held_out, held_out + kept]) for _ in sets]
    test, validation, training = (
        [x[torch.from_numpy(one[part])] for x, one in zip(sets, parts, strict=True)]
        for part in range(3)
    )
    with _deterministic():
        network = _trained(training, validation, rng, steps)
        right = sum(_right(network, x, y) for x, y in zip(test, (1, 0), strict=True))
    low, high, p_value = _binomial(right, 2 * held_out)
    return TwoSampleTest(100 * right / (2 * held_out), 100 * low, 100 * high, p_value, 2 * held_out)


def _checked(x: Tensor, name: str) -> Tensor:
    """Floats of 256 levels in [-1, 1].

    Raises:
        ValueError: no such images.
    """
    if x.dim() != 4 or not x.numel():
        raise ValueError(f"{name} images have the shape {tuple(x.shape)}; give (N, C, H, W)")
    if len(x) < LEAST:
        raise ValueError(f"there are {len(x)} {name} images; give {LEAST} or more")
    if x.dtype == torch.uint8:
        levels = x.float()
    elif not x.is_floating_point():
        raise ValueError(f"{name} images are {x.dtype}; give uint8, or floats in [0, 1]")
    elif not x.isfinite().all():
        wrong = int((~x.flatten(1).isfinite().all(1)).sum())
        raise ValueError(f"{wrong} of {len(x)} {name} images have pixels that are not finite")
    elif not 0 <= x.min() <= x.max() <= 1:
        low, high = float(x.min()), float(x.max())
        raise ValueError(f"{name} images go from {low:.4g} to {high:.4g}; give floats in [0, 1]")
    else:
        levels = (x.float() * 255).round()
    return levels / 127.5 - 1


def _network(channels: int, rng: np.random.RandomState) -> nn.Sequential:
    """Images (B, C, H, W) of any size -> logits of "real" (B, 1)."""
    layers: list[nn.Module] = []
    widths = (channels, 32, 48, 64)
    with torch.random.fork_rng(devices=[]):  # torch's own first weights are not used
        for m, n in pairwise(widths):
            layers += [nn.Conv2d(m, n, 3, 2, 1), nn.LeakyReLU(0.2)]
        head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * widths[-1], 1)]
        network = nn.Sequential(*layers, *head)
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                std = (2 / layer.weight[0].numel()) ** 0.5  # He et al.
                drawn = std * rng.standard_normal(layer.weight.shape)
                layer.weight.copy_(torch.from_numpy(drawn))
                layer.bias.zero_()
    return network


def _trained(
    training: list[Tensor], validation: list[Tensor], rng: np.random.RandomState, steps: int
) -> nn.Sequential:
    """The network as it was when it did best on the validation images.

    Args:
        training, validation: real and generated images.
    """
    x = training[0]
    network = _network(x.shape[1], rng).to(x.device, memory_format=torch.channels_last)  # faster
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, (0.5, 0.999))
    half = min(BATCH // 2, len(x))
    y = torch.tensor([[1.0]] * half + [[0.0]] * half, device=x.device)
    orders = [_order(len(one), half, rng) for one in training]
    best, least = copy.deepcopy(network), float("inf")
    with torch.enable_grad():
        for step in range(1, steps + 1):
            batch = torch.cat([s[next(o)] for s, o in zip(training, orders, strict=True)])
            loss = F.binary_cross_entropy_with_logits(network(batch), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % max(1, steps // LOOKS) == 0 or step == steps:
                now = sum(_loss(network, s, y) for s, y in zip(validation, (1, 0), strict=True))
                if now < least:
                    best, least = copy.deepcopy(network), now
    return best


def _order(n: int, size: int, rng: np.random.RandomState) -> Iterator[Tensor]:
    """Indices of batches, in a new order each time all have been seen."""
    while True:
        order = torch.from_numpy(rng.permutation(n))
        yield from order[: n // size * size].split(size)


@torch.no_grad()
def _logits(network: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([network(part) for part in x.split(500)]).squeeze(1).cpu().double()


def _loss(network: nn.Module, x: Tensor, y: int) -> float:
    """Mean cross-entropy of images that are all real (1), or all generated (0)."""
    logits = _logits(network, x)
    return float(F.softplus(-logits if y else logits).mean())


def _right(network: nn.Module, x: Tensor, y: int) -> int:
    return int(((_logits(network, x) > 0) == bool(y)).sum())


def _binomial(right: int, n: int) -> tuple[float, float, float]:
    """Exact interval of the probability behind right answers, and their p-value against 1/2."""
    from scipy.stats import binomtest  # here: it takes half a second to import

    low, high = binomtest(right, n).proportion_ci(LEVEL, "exact")
    return float(low), float(high), float(binomtest(right, n, alternative="greater").pvalue)


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """A GPU's convolutions repeat, too, and products of matrices are whole float32."""
    precision = torch.get_float32_matmul_precision()
    with torch.backends.cudnn.flags(True, benchmark=False, deterministic=True, allow_tf32=False):
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)


class TwoSample:
    """The test as the harness asks for it: its accuracy, and what else it says.

    Args:
        images: of each kind.
        seed, steps: see `classifier_two_sample_test`.
    """

    def __init__(self, images: int = 2000, seed: int = 0, steps: int = 400) -> None:
        if type(images) is not int or images < LEAST:
            raise ValueError(f"images is {images!r}; it must be a whole number from {LEAST} on")
        self.images, self.seed, self.steps = images, seed, steps

    @property
    def id(self) -> str:
        return f"c2st/1 of {self.images}, {self.steps} steps, seed {self.seed}"

    def compare(self, real: Tensor, generated: Tensor) -> dict[str, float]:
        """
        Raises:
            ValueError: see `classifier_two_sample_test`.
        """
        found = classifier_two_sample_test(real, generated, self.seed, self.steps)
        return {f"proxy/c2st_{name}": float(value) for name, value in found._asdict().items()}

    def of(self, arrays: Mapping[str, np.ndarray]) -> float:
        """The accuracy in percent on "real" and "generated" images.

        Raises:
            ValueError: one is missing, or see `classifier_two_sample_test`.
        """
        if lacking := {"real", "generated"} - arrays.keys():
            raise ValueError(f"it needs real and generated images; {sorted(lacking)} are missing")
        pair = (torch.from_numpy(arrays[name]) for name in ("real", "generated"))
        return self.compare(*pair)["proxy/c2st_accuracy_percent"]

    def cases(self) -> Iterator[tuple[Mapping[str, np.ndarray], float]]:
        """Images that differ wholly, and such that nothing tells apart."""
        black = np.zeros((40, 1, 8, 8), np.uint8)
        yield {"real": black + 255, "generated": black}, 100.0
        yield {"real": black, "generated": black}, 50.0
