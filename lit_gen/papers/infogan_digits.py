"""InfoGAN on MNIST (arXiv:1606.03657v1), and what the paper measures there.

The categorical code as a classifier of digits (Sec. 7.2), and the mutual information while it is
trained (Sec. 7.1, Fig. 1). The authors published no code for either.
"""

import contextlib
from typing import Any, Literal

import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lit_gen.metrics import clustering, updates
from lit_gen.nn import distributed
from lit_gen.nn.batch_norm import by_running_averages
from lit_gen.papers.infogan import InfoGAN

PEAK = 10  # updates, over which the mutual information's highest mean is taken


class DigitInfoGAN(InfoGAN):
    """InfoGAN on MNIST, measured: its categories as a classifier, and its mutual information.

    An image's category is the most probable value of the first code under Q (Sec. 7.2). Categories
    are matched to digits on all training images. Evaluation has the images that are trained on
    first, then those that errors are counted on.

    Args:
        categories, continuous, noise, lambda_categorical, lambda_continuous, inform_generator,
            posterior_std, slope, lr_discriminator, lr_generator: see `InfoGAN`.

    Raises:
        ValueError: an argument is out of its range, or there is no categorical code.
    """

    digits = 10

    def __init__(
        self,
        categories: list[int] | None = None,
        continuous: int | None = None,
        noise: int | None = None,
        lambda_categorical: float = 1.0,
        lambda_continuous: float = 1.0,
        inform_generator: bool = True,
        posterior_std: Literal["one", "exp", "sqrt_exp"] = "one",
        slope: float = 0.01,
        lr_discriminator: float = 2e-4,
        lr_generator: float = 1e-3,
    ) -> None:
        super().__init__(
            "mnist",
            categories,
            continuous,
            noise,
            lambda_categorical,
            lambda_continuous,
            inform_generator,
            posterior_std,
            slope,
            lr_discriminator,
            lr_generator,
        )
        if not self.codes.categories:
            raise ValueError("categories=[]: without one there is nothing to match to digits.")
        self.curve: list[Tensor] = []  # mutual information of each update
        self.epoch_began = 0  # where the last epoch's updates begin in it
        self.tables: dict[str, Tensor] = {}

    def category(self, x: Tensor, running: bool = False) -> Tensor:
        """(B, 1, 28, 28) -> (B,), normalised by this batch, or by running averages."""
        d = self.discriminator
        with by_running_averages(d) if running else contextlib.nullcontext():
            return self.codes.split(d.q(d.trunk(self.scaled(x))))[0][0].argmax(1)

    # --- the curve of Fig. 1

    def training_step(self, x: Tensor, batch_idx: int) -> dict[str, Tensor]:
        said = super().training_step(x, batch_idx)
        of_all = distributed.mean(said["train/mutual_information"].reshape(1))
        self.curve.append(of_all.squeeze())
        return said

    def on_train_epoch_start(self) -> None:
        self.epoch_began = len(self.curve)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mutual_information"] = self._curve()
        checkpoint["epoch_began"] = self.epoch_began

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.curve = list(checkpoint["mutual_information"])
        self.epoch_began = checkpoint["epoch_began"]

    def _curve(self) -> Tensor:
        return torch.stack([x.float().cpu() for x in self.curve]) if self.curve else torch.zeros(0)

    # --- the categories as a classifier

    def on_fit_start(self) -> None:
        self.tables = {}  # of other weights

    def on_validation_epoch_start(self) -> None:
        self.tables = {}

    def on_test_epoch_start(self) -> None:
        self.tables = {}

    def validation_step(
        self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int
    ) -> None:
        self._count(("fit", "val", "test")[dataloader_idx], batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int) -> None:
        for running in (False, True):
            self._count(("fit", "test")[dataloader_idx], batch, running)

    def _count(self, name: str, batch: tuple[Tensor, Tensor], running: bool = False) -> None:
        x, y = batch
        name += "_running" * running
        k = self.codes.categories[0]
        pairs = self.category(x, running) * self.digits + y
        now = torch.bincount(pairs, minlength=k * self.digits).view(k, self.digits)
        self.tables[name] = self.tables[name] + now if name in self.tables else now

    def on_validation_epoch_end(self) -> None:
        self._log_errors("val")
        self._log_errors("test")

    def on_test_epoch_end(self) -> None:
        for suffix in ("", "_running"):
            self._log_errors("test", suffix)
        if self.curve:
            curve = self._curve().numpy()
            late = updates.late(curve, len(curve) - self.epoch_began)
            self.log("train/mutual_information", late)
            self.log("train/mutual_information_peak", updates.peak(curve, PEAK))

    def _log_errors(self, split: str, suffix: str = "") -> None:
        fit, counts = (self._table(name + suffix) for name in ("fit", split))
        if not counts.any():
            return
        for name, matching in (("", clustering.hungarian), ("_majority", clustering.majority)):
            percent = clustering.error_percent(counts, matching(fit))
            self.log(f"{split}/error_percent{name}{suffix}", percent, sync_dist=True)
        if split == "test":
            owned = float(clustering.owned(fit))
            self.log(f"test/categories_owned{suffix}", owned, sync_dist=True)

    def _table(self, name: str) -> Any:
        """Images of each category and digit, those of all processes, as an array."""
        size = self.codes.categories[0], self.digits
        here = self.tables.get(name, torch.zeros(size, dtype=torch.int64, device=self.device))
        return distributed.total(here).cpu().numpy()

    def on_predict_start(self) -> None:
        """
        Raises:
            MisconfigurationException: nothing has matched these weights' categories to digits.
        """
        if "fit_running" not in self.tables:  # a validation counts by its batches alone
            raise MisconfigurationException(
                f"{type(self).__name__} has no count of the digits in each category: a test makes "
                "it, and none took place since the last training or validation. Call trainer.test "
                "before trainer.predict."
            )

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """What the errors, and with the first batch the matchings and Fig. 1, are made of."""
        x, y = batch
        kept = {"category": self.category(x), "category_running": self.category(x, running=True)}
        once = {
            "training_table": self.tables["fit"],
            "training_table_running": self.tables["fit_running"],
            "mutual_information": self._curve(),
        }
        shown = {name: value if batch_idx == 0 else value[:0] for name, value in once.items()}
        return {name: value.byte() for name, value in (kept | {"target": y}).items()} | shown
