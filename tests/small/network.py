"""A network so small that what surrounds its arithmetic costs most: for tests and benchmarks."""

from collections.abc import Sequence
from typing import Self

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from lit_gen.nn import distributed, draws
from lit_gen.nn.replicas import stack
from lit_gen.nn.weight_norm import WeightNormLinear


class Small(LightningModule):
    """A classifier of labelled images; their features are drawn to those of unlabelled ones."""

    compilable = ("loss",)

    def __init__(self, hidden: int = 16, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.hidden = WeightNormLinear(784, hidden, lambda v: nn.init.normal_(v, std=0.05))
        self.classifier = WeightNormLinear(hidden, 10, lambda v: nn.init.normal_(v, std=0.1))

    @classmethod
    def together(cls, models: Sequence[Self], streams: Sequence[torch.Generator]) -> Self:
        return stack(models, streams)

    def features(self, x: Tensor) -> Tensor:
        if self.training:
            x = x + 0.3 * draws.randn_like(x)
        return self.hidden(x).relu()

    def loss(self, x: Tensor, y: Tensor, others: Tensor) -> Tensor:
        ours = self.features(x)
        log_p = self.classifier(ours).log_softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
        means = distributed.mean(ours, -2) - distributed.mean(self.features(others), -2)
        return means.square().mean(-1) - log_p.mean(-1)

    def training_step(self, batch: Sequence[Tensor], index: int) -> dict[str, Tensor]:
        x, y, others, _ = batch
        loss = self.loss(x, y, others)
        self.optimizers().zero_grad()
        self.manual_backward(loss.sum())
        self.optimizers().step()
        return {"train/loss": loss.detach()}

    def validation_step(
        self, batch: tuple[Tensor, Tensor], index: int, dataloader_idx: int
    ) -> None:
        self._log(("val", "test")[dataloader_idx], batch)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._log("test", batch)

    def _log(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        x, y = batch
        wrong = (self.classifier(self.features(x)).argmax(-1) != y).sum(-1).float()
        options = {"reduce_fx": "sum", "on_epoch": True, "sync_dist": True}
        self.log(f"{split}/errors", wrong, add_dataloader_idx=False, **options)

    def predict_step(self, batch: tuple[Tensor, Tensor], index: int) -> dict[str, Tensor]:
        x, y = batch
        return {"logits": self.classifier(self.features(x)), "target": y}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.hparams.lr, momentum=0.9)
