"""Small stand-ins for the Inception network, and the real one with random weights."""

import torch
from torch import Tensor, nn

from lit_gen.metrics import inception
from lit_gen.metrics.inception import pixels


class Small(nn.Module):
    """16 features and 10 logits of an image, in no time."""

    num_features, lacking, id = 16, "", "small"

    def __init__(self, lacking: str = "") -> None:
        super().__init__()
        self.lacking = lacking
        draws = torch.Generator().manual_seed(0)
        self.features = nn.Parameter(torch.randn(3 * 8 * 8, 16, generator=draws) / 14)
        self.last = torch.randn(16, 10, generator=draws, dtype=torch.float64).numpy()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return (pixels(images).float().flatten(1) / 32) @ self.features

    def logits(self, features, bias: bool = False):
        if self.lacking:
            raise inception.MetricError(f"not measurable here: {self.lacking}")
        return features.astype(float) @ self.last + (torch.arange(10).numpy() if bias else 0)


def images(n: int, seed: int = 0, side: int = 8) -> Tensor:
    """uint8 (n, 3, side, side), with more than noise in them."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 4, 4, generator=draws)
    return (255 * nn.functional.interpolate(coarse, side, mode="bilinear")).to(torch.uint8)


def random_network() -> nn.Module:
    """torch-fidelity's, with weights that keep images apart down to the last layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = inception.network()
        for block in inception._blocks(network):
            nn.init.kaiming_normal_(block.conv.weight)
            block.bn.running_var.uniform_(0.5, 1.5)
            block.bn.running_mean.normal_(0, 0.1)
            block.bn.bias.normal_(0, 0.1)
        nn.init.normal_(network.fc.weight, std=0.1)
        nn.init.normal_(network.fc.bias)
    return network.requires_grad_(False)
