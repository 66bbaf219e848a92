"""Improved Techniques for Training GANs (Salimans et al., 2016), arXiv:1606.03498v1.

Semi-supervised learning with feature matching on permutation-invariant MNIST (Secs. 3.1, 5, 6.1;
Table 1). Section and equation numbers are those of v1; "code" is the authors' released one.

Departures from the paper, all in the direction of the code that was run:
    Sec. 5 adds both unsupervised terms in full; the code halves each.
    Sec. 3.1 has the squared norm of the feature difference; the code averages over features.
    Sec. 6.1 gives both networks five hidden layers; the generator of the code has two.
    Sec. 6.1 uses the remaining images as unlabelled ones; the code uses all of them.
    The paper names neither step size, Adam's betas, length, initialisation nor weight averaging.

The code exists in two states that could have made the table: that of 14 June 2016, `release`, whose
values are the defaults here, and that of 8 June, `paper_june8`, before the paper appeared.
"""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lit_gen.nn import distributed, draws
from lit_gen.nn.adam import InsideEpsilonAdam
from lit_gen.nn.interpolate import interpolations
from lit_gen.nn.linear import Linear
from lit_gen.nn.replicas import stack
from lit_gen.nn.weight_norm import WeightNormLinear, data_dependent_init

BATCH = 100  # of the generator, whose batch normalisation depends on it


class Noise(nn.Module):
    """Adds N(0, sigma^2) to every number, in training mode only."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, draws.randn_like(x), alpha=self.sigma) if self.training else x


class BatchNorm(nn.Module):
    """Normalises each unit by this batch's mean and variance, then adds a trained shift.

    No scale and no running averages: the code's generator always uses the batch at hand, so it must
    be sampled in batches like those of training. In training that is the batch of all processes.
    """

    eps = 1e-6

    def __init__(self, units: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(units))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and distributed.rank_and_size()[1] > 1:
            mu, var = distributed.moments(x, -2)
        elif x.dim() == 2:
            return F.batch_norm(x, None, None, bias=self.shift, training=True, eps=self.eps)
        else:
            var, mu = torch.var_mean(x, -2, correction=0)
        mu, scale, shift = (s.unsqueeze(-2) for s in (mu, (var + self.eps).rsqrt(), self.shift))
        return (x - mu) * scale + shift


class Generator(nn.Sequential):
    """z (B, 100) -> images (B, 784) in [0, 1]."""

    def __init__(self, latent_dim: int = 100) -> None:
        glorot = nn.init.xavier_uniform_
        super().__init__(
            Linear(latent_dim, 500, bias=False),
            BatchNorm(500),
            nn.Softplus(),
            Linear(500, 500, bias=False),
            BatchNorm(500),
            nn.Softplus(),
            WeightNormLinear(500, 784, glorot, train_scale=True),
            nn.Sigmoid(),
        )
        glorot(self[0].weight)
        glorot(self[3].weight)


class Discriminator(nn.Module):
    """x (B, 784) -> logits of K classes (B, K); that of class "generated" is fixed to 0 (Sec. 5).

    Gaussian noise enters every layer; f, the features of Sec. 3.1, are the last hidden layer's
    ReLUs before their noise.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()

        def dense(m: int, n: int, train_scale: bool = False) -> WeightNormLinear:
            return WeightNormLinear(m, n, lambda v: nn.init.normal_(v, std=0.1), train_scale, eps=0)

        widths = [784, 1000, 500, 250, 250, 250]
        layers: list[nn.Module] = []
        for i, (m, n) in enumerate(pairwise(widths)):
            layers += [Noise(0.3 if i == 0 else 0.5), dense(m, n), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(Noise(0.5), dense(250, num_classes, train_scale=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def log_evidence(logits: Tensor) -> Tensor:
    """L(x) = log sum_k exp l_k(x), (B, K) -> (B,); D(x) = sigmoid(L(x)) is p(real | x) (Sec. 5)."""
    return logits.logsumexp(-1)


def unsupervised_loss(real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """-log D(x)/2 of real and -log(1 - D(G(z)))/2 of generated images, halved as in the code.

    Args:
        real, generated: logits, (B, K) and (B', K).

    Returns:
        One loss per image, (B,) and (B',), in nats.
    """
    return 0.5 * F.softplus(-log_evidence(real)), 0.5 * F.softplus(log_evidence(generated))


def feature_matching_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Mean over features of (E f(x) - E f(G(z)))^2 (Sec. 3.1): couples all examples of a batch.

    Args:
        real, generated: features, (B, F) and (B', F).
    """
    difference = distributed.mean(real, -2) - distributed.mean(generated, -2)
    return difference.square().mean(-1)


class FeatureMatchingGAN(LightningModule):
    """The classifier of Sec. 5 against a generator that matches its features (Sec. 3.1).

    One training step is one update of the discriminator on labelled, unlabelled and generated
    images, then one of the generator, or several, on other unlabelled images. Its processes share
    each batch (`lit_gen.nn.distributed`).

    What it is made of says `save_hyperparameters`: lr, decay_epochs, averaging, unlabeled_weight
    and latent_dim, as `SemiSupervisedGAN` has them.

    Args:
        generator: z (B, latent_dim) -> images.
        discriminator: images -> logits, with `features`.
        averaging: decay of the discriminator's averaged weights; None has none.
    """

    compilable = "discriminator_loss", "generator_loss"
    batch_axis = -2  # of images; that of logits and features is always the last but one
    generator_updates = 1  # in a step
    generator_loss_name = "train/loss_matching"

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, averaging: float | None
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # two players, one optimizer each
        self.generator, self.discriminator = generator, discriminator
        self.register_buffer("initialized", torch.tensor(False))
        if averaging is not None:
            self.averaged = copy.deepcopy(self.discriminator).requires_grad_(False).eval()
            for p in self.averaged.parameters():
                p.zero_()  # as in the code: too small by 1 - 0.9999^t early on
            self.update_average = get_ema_multi_avg_fn(averaging)

    def latent(self, n: int) -> Tensor:
        """z ~ U[0, 1], (n, latent_dim)."""
        return draws.rand(n, self.hparams.latent_dim, device=self.device, dtype=self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits of the network under test, (B, ...) -> (B, K)."""
        return self.discriminator(x) if self.hparams.averaging is None else self.averaged(x)

    def on_train_start(self) -> None:
        if not self.initialized.all():  # a resumed run brings its own scales
            self.initialize(self.trainer.datamodule.initialization_images(500).to(self.dtype))
            self.initialized.fill_(True)
            if self.hparams.averaging is not None:  # only trained weights are averaged
                for ours, live in zip(
                    self.averaged.buffers(), self.discriminator.buffers(), strict=True
                ):
                    ours.copy_(live)

    def initialize(self, x: Tensor) -> None:
        """Sets scales and shifts by real images."""
        data_dependent_init(self.discriminator, x)

    def discriminator_loss(
        self, x_labeled: Tensor, y: Tensor, x_unlabeled: Tensor, generated: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The two terms of Sec. 5's loss, each a mean over its images."""
        labeled, real, fake = self.logits(x_labeled, x_unlabeled, generated)
        loss_real, loss_fake = self.unsupervised_loss(real, fake)
        log_p = labeled.log_softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
        return -log_p.mean(-1), loss_real.mean(-1) + loss_fake.mean(-1)

    def logits(self, *images: Tensor) -> tuple[Tensor, ...]:
        """Class logits of each kind of image.

        One pass over all images is the code's three: noise is independent and nothing in the
        discriminator couples examples.
        """
        parts = [x.shape[self.batch_axis] for x in images]
        return self.discriminator(torch.cat(images, self.batch_axis)).split(parts, -2)

    def unsupervised_loss(self, real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
        return unsupervised_loss(real, generated)

    def discriminator_cost(self, loss_labeled: Tensor, loss_unlabeled: Tensor) -> Tensor:
        """What the discriminator minimises."""
        return loss_labeled + self.hparams.unlabeled_weight * loss_unlabeled

    def generator_cost(self, loss: Tensor) -> Tensor:
        return loss

    def generator_loss(self, x_unlabeled: Tensor) -> Tensor:
        """Feature matching against a fresh batch of generated images (Sec. 3.1)."""
        with torch.no_grad():
            real = self.discriminator.features(x_unlabeled)
        generated = self.generator(self.latent(x_unlabeled.shape[self.batch_axis]))
        return self.match(real, self.discriminator.features(generated))

    def match(self, real: Tensor, generated: Tensor) -> Tensor:
        return feature_matching_loss(real, generated)

    def training_step(
        self, batch: tuple[Tensor, Tensor, Tensor, Tensor], batch_idx: int
    ) -> dict[str, Tensor]:
        x_labeled, y, x_unlabeled, x_matching = batch
        optimizer_d, optimizer_g = self.optimizers()

        with torch.no_grad():
            generated = self.generator(self.latent(x_unlabeled.shape[self.batch_axis]))
        loss_labeled, loss_unlabeled = self.discriminator_loss(x_labeled, y, x_unlabeled, generated)
        optimizer_d.zero_grad()
        cost = self.discriminator_cost(loss_labeled, loss_unlabeled)
        self.manual_backward(cost.sum())  # of replicas: none touches another's weights
        if self.hparams.averaging is not None:  # before the step, as in the code: one step late
            self.update_average(
                list(self.averaged.parameters()), list(self.discriminator.parameters()), None
            )
        optimizer_d.step()

        self.discriminator.requires_grad_(False)
        for _ in range(self.generator_updates):
            loss_generator = self.generator_loss(x_matching)
            optimizer_g.zero_grad()
            self.manual_backward(self.generator_cost(loss_generator).sum())
            optimizer_g.step()
        self.discriminator.requires_grad_(True)

        return {
            "train/loss_labeled": loss_labeled.detach(),
            "train/loss_unlabeled": loss_unlabeled.detach(),
            self.generator_loss_name: loss_generator.detach(),
        }

    def validation_step(
        self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int
    ) -> None:
        self._log_errors(("val", "test")[dataloader_idx], batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_errors("test", batch)  # Table 1

    def _log_errors(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        x, y = batch
        errors = (self(x).argmax(-1) != y).sum(-1).float()
        self.log(
            f"{split}/errors",
            errors,
            reduce_fx="sum",
            on_epoch=True,
            sync_dist=True,
            add_dataloader_idx=False,
        )

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """What `test/errors` and the ensemble of Table 1 are computed from."""
        x, y = batch
        return {"logits": self(x), "target": y}

    def images(self, z: Tensor) -> Tensor:
        """What the generator makes of z (B, latent_dim): (B, C, H, W) in [0, 1]."""
        raise NotImplementedError

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n images (n, C, H, W) in [0, 1], from a noise of its own, in batches of training's size,
        which they are normalised by."""
        generator = torch.Generator(self.device).manual_seed(seed)
        with torch.no_grad():
            batches = [self.images(self._noise(BATCH, generator)) for _ in range(-(-n // BATCH))]
        return torch.cat(batches)[:n]

    def pictures(self, x: Tensor) -> dict[str, Tensor]:
        """Images along straight lines between points of latent space, each line in a batch of
        training's size, by a noise of its own."""
        generator = torch.Generator(self.device).manual_seed(1)
        start, end = self._noise(8, generator), self._noise(8, generator)
        others = self._noise(BATCH - 10, generator)
        return {"interpolations": interpolations(self.images, start, end, 10, others=others)}

    def _noise(self, n: int, generator: torch.Generator) -> Tensor:
        z = torch.rand(n, self.hparams.latent_dim, generator=generator, device=self.device)
        return z.to(self.dtype)

    def on_train_epoch_start(self) -> None:
        if self.hparams.decay_epochs is not None:
            first, last = self.hparams.decay_epochs
            factor = min((last - self.current_epoch) / (last - first), 1.0)
            for optimizer in self.optimizers():
                for group in optimizer.param_groups:
                    group["lr"] = self.hparams.lr * factor

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        networks = (self.discriminator, self.generator)
        return [InsideEpsilonAdam(network.parameters(), self.hparams.lr) for network in networks]


class SemiSupervisedGAN(FeatureMatchingGAN):
    """That of MNIST's pixels, without their places (Sec. 6.1).

    `together` trains several of these models as one computation, in which every tensor of a step
    has a leading axis of replicas.

    Args:
        lr: step size of both networks (code: 0.003; 8 June: 0.001).
        decay_epochs: [first, last], the epochs between which `lr` falls linearly to 0 (8 June:
            [200, 300]); None keeps it constant.
        averaging: decay of the discriminator's averaged weights, which start at zero and are those
            tested (code: 0.9999); None tests the weights as they are (8 June).
        unlabeled_weight: weight of the unsupervised loss (code: 1).
        latent_dim: size of z, uniform on [0, 1] (code: 100).
        num_classes: K.
    """

    def __init__(
        self,
        lr: float = 0.003,
        decay_epochs: tuple[int, int] | None = None,
        averaging: float | None = 0.9999,
        unlabeled_weight: float = 1.0,
        latent_dim: int = 100,
        num_classes: int = 10,
    ) -> None:
        super().__init__(Generator(latent_dim), Discriminator(num_classes), averaging)
        self.save_hyperparameters()

    @classmethod
    def together(cls, models: Sequence[Self], streams: Sequence[torch.Generator]) -> Self:
        """K of these as one computation: `training_step` takes (K, B, ...) and returns (K,)."""
        return stack(models, streams)

    def images(self, z: Tensor) -> Tensor:
        return self.generator(z).view(-1, 1, 28, 28)
