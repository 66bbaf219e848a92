"""Improved Techniques for Training GANs (Salimans et al., 2016), arXiv:1606.03498v1: samples.

The models whose samples are judged: by their Inception score on CIFAR-10 (Sec. 6.2, Table 3) and by
people (Secs. 6.1 and 6.2). The classifier of Sec. 5 plays the minimax game, without feature
matching; minibatch discrimination, virtual batch normalisation, one-sided label smoothing, labels
and historical averaging can be had or left out, which makes the rows of Table 3.

What is published: the authors' script for minibatch discrimination on CIFAR-10 ("code"), which has
neither virtual batch normalisation nor label smoothing. What is our choice, as nobody knows it:
    the smoothed target 0.9 (Sec. 3.4 names .9 as an example; the ImageNet code has .75);
    a weight of 1 for historical averaging (Sec. 3.3 has no other);
    4,000 labels, batches of 100, lr and length, which are the script's;
    virtual batch normalisation as in the ImageNet code, with a reference batch of 100;
    without labels the same ten outputs, whose log-sum-exp says "real";
    MNIST's model, whose script could not run: maps of 7, 14 and 28 pixels, the last layer without
        a stride, images in [-1, 1].
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_gen.nn.weight_norm import WeightNormLinear, data_dependent_init
from lit_gen.papers.improved_gan import BATCH, FeatureMatchingGAN, Noise, log_evidence
from lit_gen.papers.improved_gan_images import (
    Discriminator,
    Generator,
    ImageGAN,
    draw_weights,
    hidden_layers,
    last_layer,
)
from lit_gen.papers.improved_gan_techniques import (
    HistoricalAverage,
    MinibatchDiscrimination,
    VirtualBatchNorm,
    smoothed_loss,
)

# pixels of images: colours, pixels of the generator's first maps, stride of its last layer
SHAPES = {32: (3, 4, 2), 28: (1, 7, 1)}


class VirtualGenerator(nn.Module):
    """z (B, D) -> images in [-1, 1] as `Generator` makes them, but each by itself: normalised by a
    reference batch, which passes through the network of now with every batch.

    Args:
        latent_dim, output_std, eps, channels, side, stride: see `Generator`.
    """

    def __init__(
        self,
        latent_dim: int,
        output_std: float,
        eps: float,
        channels: int,
        side: int,
        stride: int,
    ) -> None:
        super().__init__()
        self.register_buffer("reference", torch.rand(BATCH, latent_dim))  # drawn once

        def norm(features: int) -> VirtualBatchNorm:
            return VirtualBatchNorm(features, BATCH)

        self.hidden = nn.Sequential(*hidden_layers(latent_dim, side, norm, norm))
        draw_weights(self.hidden)
        self.last = last_layer(channels, stride, output_std, eps)

    def forward(self, z: Tensor) -> Tensor:
        h = self.hidden(torch.cat([self.reference.to(z), z]))
        return self.last(h[len(self.reference) :]).tanh()


class MinibatchDiscriminator(Discriminator):
    """x (B, C, H, W) -> logits (B, K) of images that are seen as one batch (Sec. 3.2).

    Args:
        kernels: of minibatch discrimination, between the pooled features and the logits; 0 has
            none.
        kernel_std: see `MinibatchDiscrimination`.
        image_channels, padding: C, and that of the first layer, which makes 28 x 28 pixels 32 x 32.
        channels, slope, output_std, eps, num_classes: see `Discriminator`.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        kernels: int,
        kernel_std: float,
        image_channels: int,
        padding: int,
        slope: float,
        output_std: float,
        eps: float,
        num_classes: int,
    ) -> None:
        super().__init__(channels, slope, output_std, eps, num_classes, image_channels, padding)
        features = channels[1]
        self.features[0] = Noise(0.2)  # code: no dropout there
        self.minibatch = nn.Identity()
        if kernels:
            self.minibatch = MinibatchDiscrimination(features, kernels, std=kernel_std)
            self.classifier = WeightNormLinear(
                features + kernels, num_classes, lambda v: nn.init.normal_(v, std=0.05), True, eps
            )
            self.classifier.std = output_std

    def judge(self, features: Tensor) -> Tensor:
        """Logits by the features of one batch, (B, F) -> (B, K)."""
        return self.classifier(self.minibatch(features))

    def forward(self, x: Tensor) -> Tensor:
        return self.judge(self.features(x))


class SampleGAN(ImageGAN):
    """The semi-supervised classifier against a generator that minimises log(1 - D(G(z))) (code).

    A training step is one update of the discriminator and three of the generator (code). Labelled,
    unlabelled and generated images are batches of their own in minibatch discrimination. While it
    is tested, the discriminator takes a process's images by the hundred.

    Args:
        minibatch_kernels: of minibatch discrimination (code: 100); 0 has none.
        normalization: of the generator: "virtual" (Sec. 3.5), or "batch" as in the code.
        real_target: what the discriminator is taught for real images (Sec. 3.4: smoothed, such as
            .9); 1 smooths nothing.
        labeled_weight: of the supervised loss (code: 1); 0 trains without labels.
        historical_weight: of historical averaging in both players' costs (Sec. 3.3); 0 has none.
        image_size: 32 (3 channels, CIFAR-10 and SVHN) or 28 (1 channel, MNIST).
        initialize_generator: data set the generator's last layer (code); otherwise it stays as
            drawn (8 June).
        kernel_std: of minibatch discrimination's weights (code: 0.05; 8 June: 0.1).
        channels, slope, lr, decay_epochs, averaging, average_from_zero, output_std,
            scale_per_unit, eps, unlabeled_weight, latent_dim, num_classes: see
            `SemiSupervisedImageGAN`; 8 June: `decay_epochs` [300, 500], no averaging.

    Raises:
        ValueError: an argument is out of its range.
    """

    generator_updates = 3
    generator_loss_name = "train/loss_generator"

    def __init__(
        self,
        minibatch_kernels: int = 100,
        normalization: Literal["virtual", "batch"] = "virtual",
        real_target: float = 0.9,
        labeled_weight: float = 1.0,
        historical_weight: float = 0.0,
        image_size: int = 32,
        initialize_generator: bool = True,
        kernel_std: float = 0.05,
        channels: tuple[int, int] = (96, 192),
        slope: float = 0.2,
        lr: float = 0.0003,
        decay_epochs: tuple[int, int] | None = (800, 1200),
        averaging: float | None = 0.9999,
        average_from_zero: bool = True,
        output_std: float = 0.1,
        scale_per_unit: bool = True,
        eps: float = 1e-6,
        unlabeled_weight: float = 1.0,
        latent_dim: int = 100,
        num_classes: int = 10,
    ) -> None:
        if normalization not in ("virtual", "batch"):
            raise ValueError(f'normalization={normalization!r}: use "virtual" or "batch".')
        if not 0.5 < real_target <= 1:
            raise ValueError(f"real_target={real_target}: use a number above 0.5, up to 1.")
        if image_size not in SHAPES:
            raise ValueError(f"image_size={image_size}: use 32 or 28.")
        for name, value in (
            ("minibatch_kernels", minibatch_kernels),
            ("labeled_weight", labeled_weight),
            ("historical_weight", historical_weight),
        ):
            if value < 0:
                raise ValueError(f"{name}={value}: use 0 or more.")
        colours, *shape = SHAPES[image_size]
        generator = VirtualGenerator if normalization == "virtual" else Generator
        super().__init__(
            generator(latent_dim, output_std, eps, colours, *shape),
            MinibatchDiscriminator(
                channels,
                minibatch_kernels,
                kernel_std,
                colours,
                1 + (32 - image_size) // 2,
                slope,
                output_std,
                eps,
                num_classes,
            ),
            averaging,
        )
        self.save_hyperparameters()
        if historical_weight:
            self.history_d, self.history_g = (
                HistoricalAverage(network.parameters(), historical_weight)
                for network in (self.discriminator, self.generator)
            )

    def initialize(self, x: Tensor) -> None:
        if self.hparams.initialize_generator:
            super().initialize(x)
        else:
            data_dependent_init(self.discriminator, x, per_unit=self.hparams.scale_per_unit)

    def logits(self, *images: Tensor) -> tuple[Tensor, ...]:
        features = self.discriminator.features(torch.cat(images))
        return tuple(map(self.discriminator.judge, features.split([len(x) for x in images])))

    def unsupervised_loss(self, real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
        loss = 0.5 * smoothed_loss(log_evidence(real), self.hparams.real_target)
        return loss, super().unsupervised_loss(real, generated)[1]

    def discriminator_cost(self, loss_labeled: Tensor, loss_unlabeled: Tensor) -> Tensor:
        cost = super().discriminator_cost(
            self.hparams.labeled_weight * loss_labeled, loss_unlabeled
        )
        return cost + self._history("d", self.discriminator)

    def generator_cost(self, loss: Tensor) -> Tensor:
        return loss + self._history("g", self.generator)

    def _history(self, player: str, network: nn.Module) -> Tensor | float:
        if not self.hparams.historical_weight:
            return 0.0
        return getattr(self, f"history_{player}")(network.parameters())

    def generator_loss(self, x_unlabeled: Tensor) -> Tensor:
        """Mean of log(1 - D(G(z))): as many as there are real images, of which it needs none."""
        generated = self.generator(self.latent(len(x_unlabeled)))
        return -F.softplus(log_evidence(self.discriminator(generated))).mean()

    def forward(self, x: Tensor) -> Tensor:
        """Class logits of the network under test, (B, ...) -> (B, K), a hundred images a batch."""
        return torch.cat([FeatureMatchingGAN.forward(self, part) for part in x.split(BATCH)])
