"""Classifier score: the formula of the Inception score, with a small CIFAR-10 network of our own.

It is no Inception score and compares with none: ten classes bound it by 10, and its network knows
CIFAR-10 only. It is offered where the Inception network's logits are not to be had, to compare
models with one another. Its id names the network's weights, and it reports the network's accuracy.

The network is trained when it is first asked for, with fixed seeds, and kept in the user's cache
under the fingerprint of its data and the version of this recipe. Another machine's may differ in
its last digits, hence in its id.
"""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_gen.metrics.inception import own_draws, pixels
from lit_gen.metrics.inception_score import RECIPE
from lit_gen.metrics.weights import cache, held, write

STEPS, BATCH, PEAK_LR = 800, 125, 4e-3
Labelled = Callable[[], tuple[Tensor, Tensor, Tensor, Tensor]]
Progress = Callable[[int, int], None]  # steps done, steps in all


class Classifier(nn.Module):
    """Six convolutions with batch normalisation, 32 to 128 wide; logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in (32, 64, 128):
            for stride in (1, 2):
                layers += [
                    nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 10)
        self.accuracy = float("nan")  # on the test set
        self.id = ""  # the first eight digits of its weights' SHA-256

    def forward(self, images: Tensor) -> Tensor:
        """Of uint8 images, or floats in [0, 1], (B, 3, 32, 32)."""
        x = pixels(images).float().sub_(127.5).div_(64)
        return self.head(self.body(x.to(memory_format=torch.channels_last)).mean((2, 3)))

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """As `forward`, in parts and without a graph, in evaluation mode."""
        self.eval()
        return torch.cat([self(part) for part in images.split(500)])


@own_draws()
def classifier(
    data: Labelled, fingerprint: str, steps: int = STEPS, progress: Progress | None = None
) -> Classifier:
    """The network trained on that data, from the cache if it is there.

    Args:
        data: gives training images (N, 3, 32, 32) uint8 and labels (N,), and those of the test.
        fingerprint: names them.
        steps: of training.

    Raises:
        MetricError: the cache cannot be written.
    """
    name = hashlib.sha256(f"{fingerprint} {RECIPE} {steps}".encode()).hexdigest()[:32]
    folder = cache() / "classifiers"
    if found := _read(folder / f"{name}.pt"):  # also from a cache that nobody can write to
        return found
    with held(folder, f"{name}.lock"):
        if found := _read(folder / f"{name}.pt"):
            return found
        trained = train(*data(), steps=steps, progress=progress)
        _write(folder / f"{name}.pt", trained)
        return trained


def train(
    x: Tensor,
    y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    steps: int = STEPS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Classifier:
    """Trains the network on a CPU, and measures it on the test set. Leaves torch's generator alone.

    Args:
        x, y, test_x, test_y: images (N, 3, 32, 32) uint8 and labels (N,) in 0 to 9.
    """
    x, y, test_x, test_y = (part.cpu() for part in (x, y, test_x, test_y))
    draws = torch.Generator().manual_seed(seed)
    with own_draws(), torch.enable_grad(), torch.inference_mode(False):
        torch.manual_seed(seed)
        network = Classifier().to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.AdamW(network.parameters(), PEAK_LR, weight_decay=0.01)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=max(steps, 4))
        order = torch.empty(0, dtype=torch.int64)
        for step in range(steps):
            if len(order) < BATCH:
                order = torch.randperm(len(x), generator=draws)
            batch, order = order[:BATCH], order[BATCH:]
            images, labels = _moved(x[batch], draws), y[batch].long()
            loss = F.cross_entropy(network(images), labels, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            if progress:
                progress(step + 1, steps)
    right = network.logits(test_x).argmax(1) == test_y
    network.accuracy = float(right.double().mean())
    network.requires_grad_(False)
    network.id = _digest(network)
    return network


def _moved(images: Tensor, draws: torch.Generator) -> Tensor:
    """Half of them mirrored, and all shifted by up to two pixels."""
    mirrored = torch.rand(len(images), generator=draws) < 0.5
    images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    right, down = torch.randint(-2, 3, (2,), generator=draws).tolist()
    return F.pad(images, (2, 2, 2, 2))[:, :, 2 + down : 34 + down, 2 + right : 34 + right]


def _digest(network: Classifier) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()[:8]


def _write(path: Path, network: Classifier) -> None:
    content = io.BytesIO()
    torch.save({"weights": network.state_dict(), "accuracy": network.accuracy}, content)
    write(path, content.getvalue())


def _read(path: Path) -> Classifier | None:
    """None if it is not there, or damaged."""
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        network = Classifier().to(memory_format=torch.channels_last)
        network.load_state_dict(kept["weights"])
        network.accuracy = float(kept["accuracy"])
    except Exception:  # torch.load raises anything at a damaged file; a new one takes minutes
        return None
    network.requires_grad_(False)
    network.id = _digest(network)
    return network.eval()
