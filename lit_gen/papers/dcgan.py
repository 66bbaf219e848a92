"""DCGAN (Radford, Metz & Chintala, 2016), arXiv:1511.06434v2.

Convolutional GANs (Sec. 3), linear classification by their discriminators' features (Sec. 5), and
a conditional one on MNIST that is judged by nearest neighbours (appendix, Table 3). Section and
table numbers are those of v2; "code" is the authors' released one.

Departures from the paper, all in the direction of the code that was run:
    z is uniform on [-1, 1]^d, Gaussian for SVHN; the paper says "uniform" and no interval.
    A minibatch trains one of the networks, the generator first; the paper does not say.
    All weights decay, by an L2 penalty in front of Adam; the paper names none.
    Kernels are 3 x 3 in the network for ImageNet's 32 x 32 pixels; Fig. 1 has 5 x 5.
    The network for SVHN has lr 0.0005 and batches of 64; Sec. 4 has 0.0002 and 128.

The networks for ImageNet and SVHN are known by the authors' weights, and not by training scripts.
Vector arithmetic and the dropping of maps (Sec. 6.3) are in `dcgan_probes`.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from lit_gen.metrics import features
from lit_gen.metrics.neighbours import NearestNeighbour
from lit_gen.nn import draws
from lit_gen.nn.batch_norm import BatchNorm
from lit_gen.nn.images import check_size
from lit_gen.nn.interpolate import interpolations, linear, spherical
from lit_gen.papers import dcgan_probes

BATCH = 128  # images that are normalised together when they are sampled, and for features
EPS = 1e-8  # code: of batch normalisation
CLASSES = 10
VAL_SAMPLES = (
    1024  # of digits that validation images are classified by; the code has 1,000 and more
)


class Architecture(NamedTuple):
    """Sizes of both networks.

    Attributes:
        latent_dim: size of z.
        kernel: pixels of a side of all kernels.
        first: channels of the generator's first maps, which are 4 x 4.
        up: channels and stride of each of its convolutions; the last makes images.
        down: the same of the discriminator's.
    """

    latent_dim: int
    kernel: int
    first: int
    up: tuple[tuple[int, int], ...]
    down: tuple[tuple[int, int], ...]


ARCHITECTURES = {
    # 64 x 64: bedrooms and faces (Fig. 1; code)
    "64": Architecture(
        100, 5, 1024,
        ((512, 2), (256, 2), (128, 2), (3, 2)),
        ((128, 2), (256, 2), (512, 2), (1024, 2)),
    ),
    # 32 x 32: ImageNet, whose features classify CIFAR-10 (Sec. 5.1; the authors' weights)
    "imagenet32": Architecture(
        256, 3, 512,
        ((512, 2), (256, 1), (256, 2), (128, 1), (128, 2), (3, 1)),
        ((128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2)),
    ),
    # 32 x 32: SVHN (Sec. 5.2; the authors' weights)
    "svhn": Architecture(
        100, 5, 256, ((128, 2), (64, 2), (3, 2)), ((64, 2), (128, 2), (256, 2))
    ),
}  # fmt: skip


def draw_weights(network: nn.Module) -> None:
    """All from N(0, 0.02^2); batch normalisation has drawn its own."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.02)


def convolution(a: int, b: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False)


def upward(a: int, b: int, kernel: int, stride: int) -> nn.ConvTranspose2d:
    """A fractionally-strided convolution, to maps of `stride` times the size."""
    return nn.ConvTranspose2d(a, b, kernel, stride, kernel // 2, stride - 1, bias=False)


class Generator(nn.Sequential):
    """z (B, D) -> images (B, 3, H, W) in [-1, 1]. Each unit of the first layer is normalised by
    itself."""

    def __init__(self, of: Architecture) -> None:
        units = of.first * 4**2
        layers: list[nn.Module] = [
            nn.Linear(of.latent_dim, units, bias=False),
            BatchNorm(units, EPS),
            nn.ReLU(),
            nn.Unflatten(1, (of.first, 4, 4)),
        ]
        channels = of.first
        for n, stride in of.up:
            layers += [upward(channels, n, of.kernel, stride), BatchNorm(n, EPS), nn.ReLU()]
            channels = n
        super().__init__(*layers[:-2], nn.Tanh())
        draw_weights(self)


class Discriminator(nn.Module):
    """x (B, 3, H, W) in [-1, 1] -> logits of "real" (B,)."""

    def __init__(self, of: Architecture) -> None:
        super().__init__()
        channels = (3, *(n for n, _ in of.down))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                convolution(a, b, of.kernel, stride),
                *[BatchNorm(b, EPS)] * (a != 3),  # none next to the pixels
                nn.LeakyReLU(0.2),
            )
            for (a, b), (_, stride) in zip(pairwise(channels), of.down, strict=True)
        )
        self.last = nn.Linear(channels[-1] * 4**2, 1, bias=False)
        draw_weights(self)

    def maps(self, x: Tensor) -> list[Tensor]:
        """What each convolution gives after its rectifier, (B, C, H, W) each."""
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.maps(x)[-1].flatten(1)).squeeze(1)

    def features(self, x: Tensor) -> Tensor:
        """All maps, max-pooled to 4 x 4, side by side (Sec. 5.1): (B, 16 sum_l C_l)."""
        return torch.cat([F.adaptive_max_pool2d(h, 4).flatten(1) for h in self.maps(x)], 1)

    def moments(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Mean and variance by which each layer normalises this batch, (C,) each."""
        found = []
        for convolve, *normalise, rectify in self.blocks:
            x = convolve(x)
            found += [layer.moments(x) for layer in normalise]
            for layer in (*normalise, rectify):
                x = layer(x)
        return found

    def statistics(self, batches: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Of each layer the average of the batches' means, and of their variances, as each batch
        has them when it is normalised by itself (code: SVHN)."""
        with torch.no_grad():
            each = [self.moments(x) for x in batches]
        return [
            tuple(torch.stack(part).mean(0) for part in zip(*of_layer, strict=True))
            for of_layer in zip(*each, strict=True)
        ]

    @contextlib.contextmanager
    def frozen(self, statistics: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
        """Within, each layer normalises by its own of these."""
        layers = [layer for layer in self.modules() if isinstance(layer, BatchNorm)]
        with contextlib.ExitStack() as stack:
            for layer, moments in zip(layers, statistics, strict=True):
                stack.enter_context(layer.frozen(*moments))
            yield


def with_labels(h: Tensor, y: Tensor) -> Tensor:
    """Units (B, C) or maps (B, C, H, W) beside the labels' one-hot codes (B, K), constant maps."""
    codes = y if h.dim() == 2 else y[:, :, None, None].expand(-1, -1, *h.shape[2:])
    return torch.cat([h, codes], 1)


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    return F.one_hot(labels, CLASSES).to(like.dtype)


class ConditionalGenerator(nn.Module):
    """z (B, D) and labels (B,) -> digits (B, 1, 28, 28) in [0, 1] (code)."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        k = CLASSES
        self.dense = nn.Sequential(
            nn.Linear(latent_dim + k, 1024, bias=False), BatchNorm(1024, EPS, False), nn.ReLU()
        )
        self.grow = nn.Sequential(
            nn.Linear(1024 + k, 128 * 7 * 7, bias=False), BatchNorm(128 * 7 * 7, EPS, False),
            nn.ReLU(), nn.Unflatten(1, (128, 7, 7)),
        )  # fmt: skip
        self.up = nn.Sequential(upward(128 + k, 64, 5, 2), BatchNorm(64, EPS, False), nn.ReLU())
        self.last = nn.Sequential(upward(64 + k, 1, 5, 2), nn.Sigmoid())
        draw_weights(self)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        y, h = one_hot(labels, z), z
        for layers in (self.dense, self.grow, self.up, self.last):
            h = layers(with_labels(h, y))
        return h


class ConditionalDiscriminator(nn.Module):
    """Digits (B, 1, 28, 28) in [0, 1] and labels (B,) -> logits of "real" (B,) (code)."""

    def __init__(self) -> None:
        super().__init__()
        k, slope = CLASSES, 0.2
        self.first = nn.Sequential(convolution(1 + k, 64, 5, 2), nn.LeakyReLU(slope))
        self.down = nn.Sequential(
            convolution(64 + k, 128, 5, 2), BatchNorm(128, EPS, False), nn.LeakyReLU(slope),
            nn.Flatten(),
        )  # fmt: skip
        self.dense = nn.Sequential(
            nn.Linear(128 * 7 * 7 + k, 1024, bias=False), BatchNorm(1024, EPS, False),
            nn.LeakyReLU(slope),
        )  # fmt: skip
        self.last = nn.Linear(1024 + k, 1, bias=False)
        draw_weights(self)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        y, h = one_hot(labels, x), x
        for layers in (self.first, self.down, self.dense, self.last):
            h = layers(with_labels(h, y))
        return h.squeeze(1)


class AlternatingGAN(LightningModule):
    """Two players that take turns: each minibatch updates one of them, the generator first (code).

    L_D = -log D(x) - log(1 - D(G(z))) and L_G = -log D(G(z)), means over a minibatch. Real and
    generated images pass through D by themselves, normalised by their own statistics. Whatever is
    generated, in training or later, is normalised by the batch that it is generated in.

    What it is made of says `save_hyperparameters`: lr, weight_decay and decay_epochs, as `DCGAN`
    and `ConditionalDCGAN` have them.

    Args:
        generator: z (n, latent_dim), and labels (n,) if there are any, -> images.
        discriminator: images, and labels, -> logits (n,).
        latent_dim: size of z.
        gaussian: z ~ N(0, I) instead of U[-1, 1]^d.
    """

    compilable = "generator_loss", "discriminator_loss"
    shape: tuple[int, int, int] | None = None  # (C, H, W) that the networks are for; None: any
    other_sizes = False  # whether there are networks for them

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, latent_dim: int, gaussian: bool
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # two players, one optimizer each
        self.generator, self.discriminator = generator, discriminator
        self.latent_dim, self.gaussian = latent_dim, gaussian
        self.minibatches = 0  # so far: says whose turn it is
        self.minibatches_per_epoch: float = 2

    def latent(self, n: int) -> Tensor:
        """z, (n, latent_dim)."""
        z = torch.empty(n, self.latent_dim, device=self.device, dtype=self.dtype)
        if self.gaussian:
            return draws.randn_like(z)
        return 2 * draws.rand(*z.shape, device=z.device, dtype=z.dtype) - 1

    def condition(self, batch: Any) -> tuple[Tensor, ...]:
        """What both networks are told of a batch beside its images: nothing."""
        return ()

    def generator_loss(self, z: Tensor, *condition: Tensor) -> Tensor:
        fake = self.generator(z, *condition)
        return F.softplus(-self.discriminator(fake, *condition)).mean()

    def discriminator_loss(self, x: Tensor, z: Tensor, *condition: Tensor) -> Tensor:
        with torch.no_grad():
            fake = self.generator(z, *condition)
        real = F.softplus(-self.discriminator(x, *condition)).mean()
        return real + F.softplus(self.discriminator(fake, *condition)).mean()

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """One player's update, by a fresh z.

        Each loss is there in every other minibatch and is returned about twice as large: the mean
        over an epoch's minibatches is then the mean over its own. Of an epoch's only minibatch one
        player has none, and no loss.

        Raises:
            MisconfigurationException: the images are of another size than the networks'.
        """
        x = batch[0] if isinstance(batch, tuple | list) else batch
        if self.shape:
            check_size(x, self.shape, self.other_sizes)
        z, condition = self.latent(len(x)), self.condition(batch)
        optimizer_g, optimizer_d = self.optimizers()
        generates = self.minibatches % 2 == 0
        self.minibatches += 1
        if generates:
            self.discriminator.requires_grad_(False)
            loss, optimizer = self.generator_loss(z, *condition), optimizer_g
        else:
            loss, optimizer = self.discriminator_loss(x, z, *condition), optimizer_d
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.discriminator.requires_grad_(True)

        own, other = "train/loss_generator", "train/loss_discriminator"
        if not generates:
            own, other = other, own
        said = {own: self._minibatches_per_turn(batch_idx) * loss.detach()}
        return said if self.minibatches_per_epoch == 1 else said | {other: torch.zeros_like(loss)}

    def _minibatches_per_turn(self, batch_idx: int) -> float:
        """Minibatches of this epoch for each that trains the same network as this one.

        They are two of an even number. Of an odd one, whoever begins the epoch has a turn more, and
        has those of even `batch_idx`.
        """
        n = self.minibatches_per_epoch
        if n % 2 != 1:  # also of a stream without an end
            return 2
        return n / (n // 2 + (batch_idx % 2 == 0))

    def on_train_start(self) -> None:
        self.minibatches_per_epoch = self.trainer.num_training_batches

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["minibatches"] = self.minibatches

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.minibatches = checkpoint["minibatches"]

    def on_fit_start(self) -> None:
        """
        Raises:
            MisconfigurationException: `decay_epochs` are not two epochs, one after the other.
        """
        if (decay := self.hparams.decay_epochs) is not None and not 0 <= decay[0] < decay[1]:
            raise MisconfigurationException(
                f"decay_epochs={list(decay)}: use [first, last], with first < last."
            )

    def on_train_epoch_start(self) -> None:
        if self.hparams.decay_epochs is not None:
            first, last = self.hparams.decay_epochs
            factor = min(max(0.0, (last - self.current_epoch) / (last - first)), 1.0)
            for optimizer in self.optimizers():
                for group in optimizer.param_groups:
                    group["lr"] = self.hparams.lr * factor

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.Adam(
                network.parameters(),
                self.hparams.lr,
                betas=(0.5, 0.999),
                weight_decay=self.hparams.weight_decay,  # added to the gradient
                fused=True,
            )
            for network in (self.generator, self.discriminator)
        ]

    def images(self, z: Tensor, *condition: Tensor) -> Tensor:
        """What the generator makes of z (B, latent_dim), normalised together: (B, C, H, W) in
        [0, 1]."""
        raise NotImplementedError

    def told(self, index: Tensor) -> tuple[Tensor, ...]:
        """The condition of the samples of these numbers, (n,)."""
        return ()

    def latents(self, n: int, seed: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """z of at least n samples, a batch at a time, each with its condition; from a noise of its
        own."""
        generator = torch.Generator(self.device).manual_seed(seed)
        for at in range(0, n, BATCH):
            condition = self.told(torch.arange(at, at + BATCH, device=self.device))
            yield self._noise(BATCH, generator), *condition

    def batches(self, n: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
        """Those samples themselves, each batch with its condition."""
        for z, *condition in self.latents(n, seed):
            with torch.no_grad():
                yield self.images(z, *condition), *condition

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n images (n, C, H, W) in [0, 1]."""
        return torch.cat([images for images, *_ in self.batches(n, seed)])[:n]

    def _noise(self, n: int, generator: torch.Generator) -> Tensor:
        draw = torch.randn if self.gaussian else torch.rand
        z = draw(n, self.latent_dim, generator=generator, device=self.device)
        return (z if self.gaussian else 2 * z - 1).to(self.dtype)


class DCGAN(AlternatingGAN):
    """Without labels, of colour images; data are in [0, 1], what both networks see in [-1, 1].

    Args:
        architecture: "64" (64 x 64 pixels: bedrooms and faces), "imagenet32" or "svhn" (32 x 32).
        latent: distribution of z: "uniform" on [-1, 1]^d, or "normal" (code: SVHN).
        lr: Adam's step size (Sec. 4; SVHN: 0.0005).
        weight_decay: of the L2 penalty on all weights (code: faces).
        decay_epochs: [first, last], the epochs between which `lr` falls linearly to 0; None keeps
            it constant.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        architecture: Literal["64", "imagenet32", "svhn"] = "64",
        latent: Literal["uniform", "normal"] = "uniform",
        lr: float = 0.0002,
        weight_decay: float = 1e-5,
        decay_epochs: tuple[int, int] | None = None,
    ) -> None:
        if architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ValueError(f"architecture={architecture!r}: use one of {known}.")
        if latent not in ("uniform", "normal"):
            raise ValueError(f'latent={latent!r}: use "uniform" or "normal".')
        of = ARCHITECTURES[architecture]
        super().__init__(Generator(of), Discriminator(of), of.latent_dim, latent == "normal")
        self.save_hyperparameters()
        side = 4 * math.prod(stride for _, stride in of.up)
        self.shape = (3, side, side)
        self.other_sizes = True

    def discriminator_loss(self, x: Tensor, z: Tensor) -> Tensor:
        return super().discriminator_loss(2 * x - 1, z)

    def images(self, z: Tensor) -> Tensor:
        return (self.generator(z) + 1) / 2

    def pictures(self, x: Tensor) -> dict[str, Tensor]:
        """Images on the way through a series of nine random points of latent space (Fig. 4)."""
        generator = torch.Generator(self.device).manual_seed(1)
        z = self._noise(9 + BATCH - 10, generator)
        way = spherical if self.gaussian else linear
        found = interpolations(self.images, z[:8], z[1:9], 10, way, others=z[9:])
        return {"interpolations": found}


class Classifiers:
    """L2-SVMs on the features of a discriminator, learned from few labels each.

    Args:
        network: the discriminator, which normalises by frozen statistics of those not held out.
        images: those of which a few have labels, (N, C, H, W) uint8.
        labels: (N,); only those drawn are looked at, and the validation images'.
        form: makes pixels floats in [0, 1].
        protocol: per_class, validation, draws and trials, see
            `lit_gen.metrics.features.from_few_labels`.
    """

    def __init__(
        self,
        network: Discriminator,
        images: Tensor,
        labels: Tensor,
        form: Callable[[Tensor], Tensor],
        **protocol: int,
    ) -> None:
        self.network = network
        rest = torch.from_numpy(features.labelled_part(len(images), protocol["validation"]))
        parts = rest.to(images.device).split(BATCH)  # code: shuffled, without those held out
        self.statistics = network.statistics(2 * form(images[part]) - 1 for part in parts)

        def of(index: np.ndarray) -> np.ndarray:
            return self.features(form(images[torch.from_numpy(index).to(images.device)]))

        self.svms = features.from_few_labels(of, labels.cpu().numpy(), **protocol)

    def features(self, x: Tensor) -> np.ndarray:
        """(B, C, H, W) in [0, 1] -> (B, F) float32."""
        with torch.no_grad(), self.network.frozen(self.statistics):
            parts = [self.network.features(2 * part - 1) for part in x.split(BATCH)]
        return torch.cat(parts).float().cpu().numpy()

    def predict(self, x: Tensor) -> np.ndarray:
        """Classes of images in [0, 1] by each draw's SVM, (B, M) uint8."""
        return self.svms.predict(self.features(x))


class FeatureDCGAN(DCGAN):
    """One whose discriminator's features are classified when it is tested (Sec. 5).

    L2-SVMs learn from a few labels of the training images; the test says their error. Beside it
    stands the error by features of a discriminator that nobody trained, drawn by the seed that
    torch was given before this model was built.

    Args:
        per_class: labels of each class that an SVM learns from (Sec. 5.2: 100; Sec. 5.1: 400).
        validation: training images that C is chosen by (Sec. 5.2).
        draws, trials: random draws of the labels that the number is a mean of, and further ones
            that C is chosen by (code).
        architecture, latent, lr, weight_decay, decay_epochs: see `DCGAN`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        per_class: int = 100,
        validation: int = 10_000,
        draws: int = 100,
        trials: int = 10,
        architecture: Literal["64", "imagenet32", "svhn"] = "svhn",
        latent: Literal["uniform", "normal"] = "normal",
        lr: float = 0.0005,
        weight_decay: float = 1e-5,
        decay_epochs: tuple[int, int] | None = None,
    ) -> None:
        protocol = {
            "per_class": per_class, "validation": validation, "draws": draws, "trials": trials
        }  # fmt: skip
        for name, value in protocol.items():
            if value < 1:
                raise ValueError(f"{name}={value}: use 1 or more.")
        super().__init__(architecture, latent, lr, weight_decay, decay_epochs)
        self.save_hyperparameters()
        self.protocol = protocol
        self.control_seed = torch.initial_seed()  # whoever resumes a run builds it by its seed, too
        self.classifiers: dict[str, Classifiers] = {}

    def on_fit_start(self) -> None:
        """Says before the training what would fail after it."""
        super().on_fit_start()
        self.classifiers = {}  # of other weights
        labels = self.trainer.datamodule.targets("train").cpu().numpy()
        features.check(labels, self.protocol["per_class"], self.protocol["validation"])

    def on_test_start(self) -> None:
        """Learns from features of training images, which takes minutes."""
        data = self.trainer.datamodule
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.control_seed)
            untrained = Discriminator(ARCHITECTURES[self.hparams.architecture])
        networks = {
            "": self.discriminator,
            "_random_features": untrained.to(self.discriminator.last.weight),
        }
        for name, network in networks.items():
            self.classifiers[name] = Classifiers(
                network, data.images("train"), data.targets("train"), data.form, **self.protocol
            )
        self.tested: list[dict[str, np.ndarray]] = []

    def on_predict_start(self) -> None:
        if not self.classifiers:
            self.on_test_start()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.tested.append({name: x.numpy() for name, x in self.predict_step(batch, 0).items()})

    def on_test_epoch_end(self) -> None:
        arrays = {k: np.concatenate([part[k] for part in self.tested]) for k in self.tested[0]}
        for name in self.classifiers:
            mean, spread = features.over_draws(arrays[f"predicted{name}"], arrays["target"])
            self.log(f"test/error_percent{name}", mean)  # Table 2
            self.log(f"test/error_percent_spread{name}", spread)  # 1.96 standard deviations

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """What the errors are computed from: what each draw's SVM says."""
        x, y = batch
        said = {
            f"predicted{name}": torch.from_numpy(one.predict(x))
            for name, one in self.classifiers.items()
        }
        return said | {"target": y.cpu()}


class ConditionalDCGAN(AlternatingGAN):
    """MNIST's digits, given their labels (appendix).

    It is tested as a training set: by the errors of a 1-nearest-neighbour classifier on real
    digits that has seen none but generated ones (Table 3). `lit_gen.metrics.neighbours` says what
    that costs.

    Args:
        samples: sizes of the training sets that are tested, each the first images of the largest,
            a tenth of them of each digit. Of n samples the error is test/error_percent_n.
        latent_dim: size of z, uniform on [-1, 1]^d (code).
        lr: Adam's step size (code).
        weight_decay: of the L2 penalty on all weights (code).
        decay_epochs: [first, last], the epochs between which `lr` falls linearly to 0 (code); None
            keeps it constant.

    Raises:
        ValueError: `samples` is empty, or not above 0.
    """

    shape = (1, 28, 28)

    def __init__(
        self,
        samples: tuple[int, ...] = (50_000,),
        latent_dim: int = 100,
        lr: float = 0.0002,
        weight_decay: float = 2.5e-5,
        decay_epochs: tuple[int, int] | None = (100, 200),
    ) -> None:
        if not samples or min(samples) < 1:
            raise ValueError(f"samples={list(samples)}: give one number, or more, above 0.")
        super().__init__(
            ConditionalGenerator(latent_dim), ConditionalDiscriminator(), latent_dim, False
        )
        self.save_hyperparameters()
        self.samples = sorted(set(samples))
        self.predicted: Sequence[Tensor] = ()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.predicted = ()  # of other weights

    def condition(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return (batch[1],)

    def told(self, index: Tensor) -> tuple[Tensor, ...]:
        """Digits in turn: sample i is an i mod 10."""
        return (index % CLASSES,)

    def images(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.generator(z, labels)

    def pictures(self, x: Tensor) -> dict[str, Tensor]:
        """Each row of `digits` has one z, and each of `interpolations` one label; of the others see
        `digit_styles`."""
        generator = torch.Generator(self.device).manual_seed(1)
        z, end, others = (self._noise(n, generator) for n in (10, 10, BATCH - 100))
        index = torch.arange(BATCH, device=self.device)
        rows, columns = index[:100] // 10, index[:100] % 10
        (rest,) = self.told(index[100:])

        def grid(points: Tensor, labels: Tensor) -> Tensor:
            """100 points and labels -> (10, 10, 1, 28, 28), in a batch of training's size."""
            images = self.images(torch.cat([points, others]), torch.cat([labels, rest]))
            return images[:100].unflatten(0, (10, 10))

        return {
            "digits": grid(z[rows], columns),
            "interpolations": grid(linear(z, end, 10).flatten(0, 1), rows),
            **dcgan_probes.digit_styles(self),
        }

    def nearest_labels(self, queries: Tensor, samples: Sequence[int], seed: int = 2) -> Tensor:
        """Labels of the nearest of the first n generated images, for each n: (Q, len(samples)).

        Args:
            queries: (Q, 1, 28, 28).
            samples: the n, in ascending order.
            seed: of the noise.
        """
        search, said, done = NearestNeighbour(queries), [], 0
        stream = self.batches(samples[-1], seed)
        images = labels = queries[:0]
        for n in samples:
            while done < n:
                if not len(images):
                    images, labels = next(stream)
                now = min(n - done, len(images))
                search.update(images[:now], labels[:now])
                images, labels, done = images[now:], labels[now:], done + now
            said.append(search.label.clone())
        return torch.stack(said, 1)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        if batch_idx == 0:
            self.drawn = list(self.batches(VAL_SAMPLES, seed=2))
        search = NearestNeighbour(x)
        for images, labels in self.drawn:
            search.update(images, labels)
        wrong = 100 * (search.label != y).float().mean()
        name = f"val/error_percent_{BATCH * len(self.drawn)}"
        self.log(name, wrong, on_epoch=True, sync_dist=True, batch_size=len(y))

    def on_test_start(self) -> None:
        """Classifies all test images, as their classifiers are generated only once."""
        batches = list(self.trainer.datamodule.test_dataloader())
        found = self.nearest_labels(torch.cat([x for x, _ in batches]), self.samples)
        self.predicted = found.split([len(y) for _, y in batches])

    def on_predict_start(self) -> None:
        if not self.predicted:
            self.on_test_start()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        _, y = batch
        wrong = 100 * (self.predicted[batch_idx] != y[:, None]).float().mean(0)
        for n, errors in zip(self.samples, wrong, strict=True):  # Table 3
            self.log(f"test/error_percent_{n}", errors, on_epoch=True, batch_size=len(y))

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """What the errors are computed from."""
        predicted = self.predicted[batch_idx]
        samples = torch.tensor(self.samples).expand(len(predicted), -1)
        return {"predicted": predicted.byte(), "samples": samples, "target": batch[1]}
