"""InfoGAN (arXiv:1606.03657v1) on images whose factors are known, so that codes can be scored.

No experiment of the paper's, which judges by eye that a code stands for one factor. The scores came
later: `lit_gen.metrics.disentanglement`.
"""

import numpy as np
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lit_gen.metrics.disentanglement import MIG, SAP, FactorVAEScore
from lit_gen.papers.infogan import InfoGAN

DISCRETE = CATEGORICAL = (0,)  # the factor, and the code, without an order: shape, c1


class SpriteInfoGAN(InfoGAN):
    """`InfoGAN`, whose codes are scored when it is tested: `test/mig`, `test/sap` and
    `test/factor_vae_score`.

    An evaluation batch is (x, factors), as `lit_gen.datamodules.sprites.Sprites` has it.
    """

    def on_fit_start(self) -> None:
        """
        Raises:
            MisconfigurationException: the scores, which must know which codes have no order, are
                of other codes.
        """
        if len(self.codes.categories) != 1 or not self.codes.continuous:
            raise MisconfigurationException(
                f"categories={list(self.codes.categories)}, continuous={self.codes.continuous}: "
                "codes are scored as one categorical code and one continuous one or more."
            )

    def code(self, x: Tensor) -> Tensor:
        """What Q takes an image's codes to be, normalised by this batch: the most probable value of
        each categorical one, the mean of each continuous one, (B, K)."""
        logits, rest = self.codes.split(
            self.discriminator.q(self.discriminator.trunk(self.scaled(x)))
        )
        categories = [each.argmax(1, keepdim=True).to(x) for each in logits]
        return torch.cat([*categories, rest.chunk(2, 1)[0]], 1)

    def on_test_epoch_start(self) -> None:
        self.seen: list[dict[str, np.ndarray]] = []

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.seen.append({k: v.cpu().numpy() for k, v in self.predict_step(batch, 0).items()})

    def on_test_epoch_end(self) -> None:
        arrays = {k: np.concatenate([each[k] for each in self.seen]) for k in self.seen[0]}
        self.log("test/mig", MIG().of(arrays))
        self.log("test/sap", SAP(DISCRETE, CATEGORICAL).of(arrays))
        self.log("test/factor_vae_score", FactorVAEScore(CATEGORICAL).of(arrays))

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """What the scores are computed from."""
        x, factors = batch
        return {"codes": self.code(x).float(), "factors": factors.byte()}
