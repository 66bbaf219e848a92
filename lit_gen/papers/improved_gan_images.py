"""Improved Techniques for Training GANs (Salimans et al., 2016), arXiv:1606.03498v1: images.

Semi-supervised learning with feature matching on CIFAR-10 and SVHN (Secs. 6.2 and 6.3; Table 2,
Fig. 5). "Code" is the authors' released one, and its two states are those of
`lit_gen.papers.improved_gan`; the 8 June one could not run as it stands.

Departures from the paper, all in the direction of the code that was run:
    Sec. 3.1 has the squared norm of the feature difference; the code has the mean absolute one.
    Sec. 6.3 gives SVHN the architecture of CIFAR-10; the code has 64 and 128 channels, not 96, 192.
    Sec. 5 adds both unsupervised terms in full, and uses the remaining images as unlabelled ones;
        the code halves each, and uses all images.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from lit_gen.nn import distributed, draws
from lit_gen.nn.linear import Linear
from lit_gen.nn.weight_norm import (
    ScaledConv2d,
    ScaledConvTranspose2d,
    WeightNormLinear,
    data_dependent_init,
)
from lit_gen.papers.improved_gan import BATCH, BatchNorm, FeatureMatchingGAN


class Dropout(nn.Module):
    """Drops each number with probability p, and scales the others up, in training mode only."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = draws.rand(*x.shape, device=x.device, dtype=x.dtype) >= self.p
        return x * kept / (1 - self.p)


class ChannelNorm(BatchNorm):
    """`BatchNorm` of images (B, C, H, W), by the moments over images and pixels."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or distributed.rank_and_size()[1] == 1:
            return F.batch_norm(x, None, None, bias=self.shift, training=True, eps=self.eps)
        mu, var = distributed.moments(x.movedim(-3, -1).flatten(0, -2))
        mu, scale, shift = (s[:, None, None] for s in (mu, (var + self.eps).rsqrt(), self.shift))
        return (x - mu) * scale + shift


class Generator(nn.Sequential):
    """z (B, D) -> images (B, C, 4 S t, 4 S t) in [-1, 1].

    Args:
        latent_dim: D.
        output_std: of the last layer's outputs when data initialise it.
        eps: of the last layer's weight normalisation.
        channels: C.
        side: S, pixels of a side of the first maps.
        stride: t, of the last layer.
    """

    def __init__(
        self,
        latent_dim: int = 100,
        output_std: float = 0.1,
        eps: float = 1e-6,
        channels: int = 3,
        side: int = 4,
        stride: int = 2,
    ) -> None:
        super().__init__(
            *hidden_layers(latent_dim, side, BatchNorm, ChannelNorm),
            last_layer(channels, stride, output_std, eps),
            nn.Tanh(),
        )
        draw_weights(self)


def last_layer(channels: int, stride: int, output_std: float, eps: float) -> ScaledConvTranspose2d:
    """128 maps to images of `stride` times their size, before the tanh."""
    return ScaledConvTranspose2d(
        128, channels, 5, stride, 2, train_scale=True, std=output_std, eps=eps
    )


def hidden_layers(
    latent_dim: int,
    side: int,
    norm: Callable[[int], nn.Module],
    channel_norm: Callable[[int], nn.Module],
) -> list[nn.Module]:
    """The generator up to its last layer, (B, 128, 4 S, 4 S).

    Args:
        side: S, pixels of a side of the first maps.
        norm, channel_norm: make the normalisation of so many units, and of so many channels.
    """
    up = partial(
        nn.ConvTranspose2d, kernel_size=5, stride=2, padding=2, output_padding=1, bias=False
    )
    units = 512 * side**2
    return [
        Linear(latent_dim, units, bias=False),
        norm(units),
        nn.ReLU(),
        nn.Unflatten(-1, (512, side, side)),
        up(512, 256),
        channel_norm(256),
        nn.ReLU(),
        up(256, 128),
        channel_norm(128),
        nn.ReLU(),
    ]


def draw_weights(layers: nn.Module) -> None:
    """Those without weight normalisation, from N(0, 0.05^2) as all are."""
    for layer in layers.modules():
        if isinstance(layer, Linear | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.05)


class Discriminator(nn.Module):
    """x (B, 3, 32, 32) -> logits of K classes (B, K); that of class "generated" is fixed to 0.

    f, the features of Sec. 3.1, are the last maps' means over pixels, (B, 2 channels).

    Args:
        channels: of the first three layers; the others have twice as many.
        slope: of the leaky rectifiers.
        output_std: of the logits when data initialise them.
        eps: of weight normalisation.
        num_classes: K.
        image_channels: of x, instead of 3.
        padding: of the first layer; with 3, x may have 28 x 28 pixels.
    """

    def __init__(
        self,
        channels: Sequence[int] = (96, 192),
        slope: float = 0.2,
        output_std: float = 0.1,
        eps: float = 1e-6,
        num_classes: int = 10,
        image_channels: int = 3,
        padding: int = 1,
    ) -> None:
        super().__init__()
        n, m = channels

        def conv(a: int, b: int, k: int = 3, stride: int = 1, padding: int = 1) -> list[nn.Module]:
            return [ScaledConv2d(a, b, k, stride, padding, eps=eps), nn.LeakyReLU(slope)]

        self.features = nn.Sequential(
            Dropout(0.2), *conv(image_channels, n, padding=padding), *conv(n, n),
            *conv(n, n, stride=2),
            Dropout(0.5), *conv(n, m), *conv(m, m), *conv(m, m, stride=2),
            Dropout(0.5), *conv(m, m, padding=0), *conv(m, m, 1, padding=0),
            *conv(m, m, 1, padding=0), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.classifier = WeightNormLinear(
            m, num_classes, lambda v: nn.init.normal_(v, std=0.05), train_scale=True, eps=eps
        )
        self.classifier.std = output_std

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def absolute_matching_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Mean over features of |E f(x) - E f(G(z))| (code): couples all examples of a batch.

    Args:
        real, generated: features, (B, F) and (B', F).
    """
    return (distributed.mean(real) - distributed.mean(generated)).abs().mean()


class ImageGAN(FeatureMatchingGAN):
    """What those of images have in common: how data initialise them, errors in percent."""

    batch_axis = 0

    def initialize(self, x: Tensor) -> None:
        z = self.latent(BATCH // distributed.rank_and_size()[1])
        per_unit = self.hparams.scale_per_unit
        data_dependent_init(self.generator, z, per_unit=per_unit)
        data_dependent_init(self.discriminator, x, per_unit=per_unit)
        if self.hparams.averaging is not None and not self.hparams.average_from_zero:
            self.averaged.load_state_dict(self.discriminator.state_dict())

    def _log_errors(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        x, y = batch
        wrong = 100 * (self(x).argmax(-1) != y).float().mean()
        self.log(
            f"{split}/error_percent",
            wrong,
            on_epoch=True,
            sync_dist=True,
            add_dataloader_idx=False,
            batch_size=len(y),
        )

    def images(self, z: Tensor) -> Tensor:
        return (self.generator(z) + 1) / 2


class SemiSupervisedImageGAN(ImageGAN):
    """Feature matching on 32 x 32 colour images.

    Args:
        channels: of the discriminator's convolutions (code: 96, 192; SVHN: 64, 128).
        slope: of its leaky rectifiers (code: 0.2; 8 June: 0.1).
        lr: step size of both networks.
        decay_epochs: [first, last], the epochs between which `lr` falls linearly to 0 (code:
            [800, 1200]; SVHN: [600, 900]); None keeps it constant (8 June).
        averaging: decay of the discriminator's averaged weights, which are those tested (code:
            0.9999; 8 June: 0.999); None tests the weights as they are.
        average_from_zero: the average starts at zero (code); otherwise at the initialised weights
            (8 June).
        output_std: of logits and of the generator's last layer when data initialise them (code:
            0.1; 8 June: 1). All other units get 1.
        scale_per_unit: initialisation scales each unit by itself (code); otherwise a layer's units
            alike (8 June).
        eps: of weight normalisation (code: 1e-6; 8 June: 0).
        unlabeled_weight: weight of the unsupervised loss (code: 1).
        latent_dim: size of z, uniform on [0, 1] (code: 100).
        num_classes: K.
    """

    def __init__(
        self,
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
        super().__init__(
            Generator(latent_dim, output_std, eps),
            Discriminator(channels, slope, output_std, eps, num_classes),
            averaging,
        )
        self.save_hyperparameters()

    def match(self, real: Tensor, generated: Tensor) -> Tensor:
        return absolute_matching_loss(real, generated)
