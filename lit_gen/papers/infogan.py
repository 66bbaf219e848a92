"""InfoGAN (Chen, Duan, Houthooft, Schulman, Sutskever & Abbeel, 2016), arXiv:1606.03657v1.

A GAN whose generator also gets codes c, which an auxiliary posterior Q(c|x) must find in the image.
Section, equation and table numbers are those of v1; "code" is the authors' released one, for MNIST.

Departures from the paper, all in the direction of the code that was run:
    Eq. 6 gives the discriminator no mutual information; in the code its step maximises it, too, and
        moves the trunk that D and Q share.
    App. C has leaky rectifiers of slope 0.1; the code has 0.01 on MNIST.
    Sec. 6 learns the standard deviation of Q of a continuous code; the code fixes it to 1 on MNIST.
    Eq. 1 is the minimax game; the code's generator minimises -log D(G).

The code's entropy of a continuous code is that under N(0, 1), here it is the uniform prior's: a
constant, so that only what is reported differs, by 0.39 nats a code. For the other data sets there
is no code: their layers are those of App. C, normalised before the rectifier as on MNIST.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from lit_gen.nn import draws
from lit_gen.nn.batch_norm import BatchNorm
from lit_gen.nn.images import check_size

BATCH = 128  # of samples and pictures, whose batch normalisation depends on it, as in training
TINY = 1e-8  # inside each logarithm (code)
PICTURES, COLUMNS = 12, 100  # the most that are drawn of a model, see lit_gen/harness/pictures.py


class Conv(NamedTuple):
    """A 4 x 4 convolution, or its transpose, and whether it is batch-normalised."""

    channels: int
    stride: int = 2
    norm: bool = True


@dataclass(frozen=True)
class Architecture:
    """A table of App. C.

    Attributes:
        image: (C, S) of images (C, S, S).
        categories: values of each categorical code.
        continuous: codes that are uniform on [-1, 1].
        noise: numbers in z.
        trunk: what D and Q share; `trunk_units`: of a dense layer at its end, 0 for none.
        head_units: of Q's own hidden layer, 0 for none.
        dense: units of the generator's first layer, 0 for none.
        maps: (channels, side) of its first maps.
        up: its transposed convolutions but the last, which has stride 2.
        tanh: it ends in a tanh instead of a sigmoid.
    """

    image: tuple[int, int]
    categories: tuple[int, ...]
    continuous: int
    noise: int
    trunk: tuple[Conv, ...]
    trunk_units: int
    head_units: int
    dense: int
    maps: tuple[int, int]
    up: tuple[Conv, ...]
    tanh: bool = False


_SVHN = Architecture(  # Table 2
    image=(3, 32),
    categories=(10,) * 4,
    continuous=4,  # Sec. 7.2 says two; only four give the table's 168 inputs
    noise=124,
    trunk=(Conv(64, norm=False), Conv(128), Conv(256)),
    trunk_units=0,
    head_units=128,
    dense=0,
    maps=(448, 2),
    up=(Conv(256), Conv(128, norm=False), Conv(64, norm=False)),
    tanh=True,
)
ARCHITECTURES = {
    "mnist": Architecture(  # Table 1
        image=(1, 28),
        categories=(10,),
        continuous=2,
        noise=62,
        trunk=(Conv(64, norm=False), Conv(128)),
        trunk_units=1024,
        head_units=128,
        dense=1024,
        maps=(128, 7),
        up=(Conv(64),),
    ),
    "svhn": _SVHN,
    "celeba": Architecture(  # Table 3, which differs in its codes alone
        **{**vars(_SVHN), "categories": (10,) * 10, "continuous": 0, "noise": 128}
    ),
    "faces": Architecture(  # Table 4
        image=(1, 32),
        categories=(),
        continuous=5,
        noise=128,
        trunk=(Conv(64, norm=False), Conv(128)),
        trunk_units=1024,
        head_units=0,
        dense=1024,
        maps=(128, 8),
        up=(Conv(64),),
    ),
    "chairs": Architecture(  # Table 6
        image=(1, 64),
        categories=(20,) * 3,  # Sec. 7.2 says four; only three give the table's 189 inputs
        continuous=1,
        noise=128,
        trunk=(Conv(64, norm=False), Conv(128), Conv(256), Conv(256, 1), Conv(256, 1)),
        trunk_units=1024,
        head_units=0,
        dense=1024,
        maps=(256, 8),
        up=(Conv(256, 1), Conv(256, 1), Conv(128), Conv(64)),
    ),
}


class SameConv2d(nn.Conv2d):
    """4 x 4, with padding so that n pixels become n / stride; an odd one goes to the end."""

    def __init__(self, m: int, n: int, stride: int) -> None:
        super().__init__(m, n, 4, stride, padding=1 if stride == 2 else 0)
        nn.init.trunc_normal_(self.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 2, 1, 2)) if self.stride == (1, 1) else x)


class SameConvTranspose2d(nn.ConvTranspose2d):
    """The transpose of that convolution without its bias: n pixels become stride times n."""

    def __init__(self, m: int, n: int, stride: int) -> None:
        super().__init__(m, n, 4, stride, padding=1)
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y[..., :-1, :-1] if self.stride == (1, 1) else y


def dense(m: int, n: int) -> nn.Linear:
    layer = nn.Linear(m, n)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


class Generator(nn.Sequential):
    """(z, c) (B, D) -> images (B, C, S, S), in [0, 1] or with a tanh in [-1, 1]."""

    def __init__(self, shape: Architecture, inputs: int) -> None:
        layers: list[nn.Module] = []
        m, (maps, side) = inputs, shape.maps
        for n in filter(None, (shape.dense, maps * side**2)):
            layers += [dense(m, n), BatchNorm(n), nn.ReLU()]
            m = n
        layers.append(nn.Unflatten(1, (maps, side, side)))
        m = maps
        for n, stride, norm in shape.up:
            layers += [SameConvTranspose2d(m, n, stride), *([BatchNorm(n)] * norm), nn.ReLU()]
            m = n
        last = SameConvTranspose2d(m, shape.image[0], 2)
        super().__init__(*layers, last, nn.Tanh() if shape.tanh else nn.Sigmoid())


class Discriminator(nn.Module):
    """D and Q, which share all but their last layers.

    Running averages of its batch normalisation are those of all passes of its training, of real and
    of generated images; only `by_running_averages` uses them.

    Args:
        shape: of the images and layers.
        outputs: numbers that describe Q(c|x).
        slope: of the leaky rectifiers.
    """

    def __init__(self, shape: Architecture, outputs: int, slope: float) -> None:
        super().__init__()
        m, side = shape.image
        layers: list[nn.Module] = []

        def norm(n: int) -> BatchNorm:
            return BatchNorm(n, track=True)

        for n, stride, normed in shape.trunk:
            layers += [SameConv2d(m, n, stride), *([norm(n)] * normed), nn.LeakyReLU(slope)]
            m, side = n, side // stride
        layers.append(nn.Flatten())
        m *= side**2
        if n := shape.trunk_units:
            layers += [dense(m, n), norm(n), nn.LeakyReLU(slope)]
            m = n
        self.trunk = nn.Sequential(*layers)
        self.d = nn.Sequential(dense(m, 1), nn.Flatten(0))
        layers = []
        if n := shape.head_units:
            layers += [dense(m, n), norm(n), nn.LeakyReLU(slope)]
            m = n
        self.q = nn.Sequential(*layers, dense(m, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of D(x), (B,)."""
        return self.d(self.trunk(x))

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of D(x), (B,), and what describes Q(c|x), (B, outputs)."""
        features = self.trunk(x)
        return self.d(features), self.q(features)


def log_d(logits: Tensor) -> tuple[Tensor, Tensor]:
    """log D and log(1 - D), bounded below by log TINY as in the code: (B,) each."""
    return tuple((logit.sigmoid() + TINY).log() for logit in (logits, -logits))


class Codes:
    """c = (categories as one-hot vectors, continuous ones), and its bound on I(c; x).

    Args:
        categories: values of each categorical code, all equally probable.
        continuous: codes that are uniform on [-1, 1].
        std: of Q of a continuous code, see `InfoGAN`.
    """

    def __init__(self, categories: Sequence[int], continuous: int, std: str) -> None:
        self.categories, self.continuous, self.std = tuple(categories), continuous, std
        self.uniforms = len(self.categories) + continuous  # numbers that a draw of c takes
        self.size = sum(self.categories) + continuous
        self.outputs = sum(self.categories) + 2 * continuous  # logits, means, and what makes stds

    def of(self, u: Tensor) -> Tensor:
        """Codes by numbers that are uniform on [0, 1), (B, uniforms) -> (B, size)."""
        parts = [
            F.one_hot((u[:, i] * k).long().clamp_max(k - 1), k).to(u.dtype)
            for i, k in enumerate(self.categories)
        ]
        return torch.cat([*parts, 2 * u[:, len(self.categories) :] - 1], 1)

    def split(self, c: Tensor) -> tuple[list[Tensor], Tensor]:
        """What is of each categorical code, (B, K) each, and the rest."""
        *parts, rest = c.split([*self.categories, c.shape[1] - sum(self.categories)], 1)
        return parts, rest

    def information(self, output: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """log Q(c|x) + H(c) of the categorical and of the continuous codes, in nats.

        Their mean over x = G(z, c) is L_I, a lower bound on the mutual information (Eq. 5).

        Args:
            output: of Q, (B, outputs).
            c: codes (B, size).

        Returns:
            One term per image, (B,) each.
        """
        logits, rest = self.split(output)
        ones, x = self.split(c)
        categorical = output.new_zeros(len(output))
        for code, logit in zip(ones, logits, strict=True):
            log_q = (code * (logit.softmax(1) + TINY).log()).sum(1)
            categorical = categorical + log_q + math.log(code.shape[1])
        mean, raw = rest.chunk(2, 1)
        # the network's output is a logarithm, of the standard deviation or of the variance
        log_std = {"one": torch.zeros_like(raw), "exp": raw, "sqrt_exp": raw / 2}[self.std]
        deviations = (x - mean) * (-log_std).exp()
        log_q = -0.5 * math.log(2 * math.pi) - log_std - 0.5 * deviations.square()
        return categorical, (log_q + math.log(2)).sum(1)


class InfoGAN(LightningModule):
    """min over G and Q, max over D, of V(D, G) - lambda L_I(G, Q)   (Eq. 6, as the code plays it).

    A training step is one update of D and Q, then one of G, each with latent numbers of its own.
    Real and generated images are batches of their own. Images come in [0, 1].

    Args:
        architecture: mnist, svhn, celeba, faces or chairs (App. C).
        categories: values of each categorical code; None takes the architecture's.
        continuous: how many codes are uniform on [-1, 1]; None likewise.
        noise: size of z, uniform on [-1, 1] as well (code); None likewise.
        lambda_categorical, lambda_continuous: weights of L_I (code: 1).
        inform_generator: whether G maximises L_I; otherwise this is a GAN beside which Q learns
            (Fig. 1, "GAN").
        posterior_std: of Q of a continuous code: "one" (code, MNIST), "exp" of an output of the
            network (Sec. 6), or "sqrt_exp", its root, as the code has where it is learned.
        slope: of the discriminator's leaky rectifiers (code: 0.01; App. C: 0.1).
        lr_discriminator, lr_generator: step sizes of Adam, whose betas are 0.5 and 0.999 (code).

    Raises:
        ValueError: an argument is out of its range.
    """

    compilable = "discriminator_loss", "generator_loss"

    def __init__(
        self,
        architecture: Literal["mnist", "svhn", "celeba", "faces", "chairs"] = "mnist",
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
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(
                f"architecture={architecture!r}: use one of {', '.join(ARCHITECTURES)}."
            )
        if posterior_std not in ("one", "exp", "sqrt_exp"):
            raise ValueError(f'posterior_std={posterior_std!r}: use "one", "exp" or "sqrt_exp".')
        self.shape = shape = ARCHITECTURES[architecture]
        categories = shape.categories if categories is None else categories
        continuous = shape.continuous if continuous is None else continuous
        self.noise = shape.noise if noise is None else noise
        if any(k < 2 for k in categories):
            raise ValueError(f"categories={list(categories)}: a code needs 2 values or more.")
        for name, value in (("continuous", continuous), ("noise", self.noise)):
            if value < 0:
                raise ValueError(f"{name}={value}: use 0 or more.")
        if not categories and not continuous:
            raise ValueError("categories=[] and continuous=0: InfoGAN needs a code.")
        self.save_hyperparameters()
        self.automatic_optimization = False  # two players, one optimizer each
        self.codes = Codes(categories, continuous, posterior_std)
        self.generator = Generator(shape, self.noise + self.codes.size)
        self.discriminator = Discriminator(shape, self.codes.outputs, slope)

    def latent(self, n: int) -> Tensor:
        """(z, c) of n images, (n, D), in the code's order."""
        k = self.noise + self.codes.uniforms
        return self.latent_of(draws.rand(n, k, device=self.device, dtype=self.dtype))

    def latent_of(self, u: Tensor) -> Tensor:
        """(z, c) by numbers that are uniform on [0, 1)."""
        return torch.cat([2 * u[:, : self.noise] - 1, self.codes.of(u[:, self.noise :])], 1)

    def scaled(self, x: Tensor) -> Tensor:
        """Images in [0, 1] as the generator would make them."""
        return 2 * x - 1 if self.shape.tanh else x

    def information(self, output: Tensor, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """L_I of both kinds of codes, means over the batch, and their weighted sum."""
        both = self.codes.information(output, latent[:, self.noise :])
        categorical, continuous = (x.mean() for x in both)
        h = self.hparams
        weighted = h.lambda_categorical * categorical + h.lambda_continuous * continuous
        return categorical, continuous, weighted

    def discriminator_loss(
        self, x: Tensor, generated: Tensor, latent: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The GAN's part of what D and Q minimise, and L_I of both kinds of codes with its weighted
        sum taken off: (loss, L_I categorical, L_I continuous).

        Args:
            x, generated: images as the generator makes them.
            latent: what the generated ones were made of.
        """
        real, _ = log_d(self.discriminator(x))
        logits, output = self.discriminator.both(generated)
        _, fake = log_d(logits)
        categorical, continuous, weighted = self.information(output, latent)
        return -real.mean() - fake.mean() - weighted, categorical, continuous

    def generator_loss(self, latent: Tensor) -> Tensor:
        """-log D(G) - lambda L_I: the mutual information reaches G through D's trunk and Q."""
        logits, output = self.discriminator.both(self.generator(latent))
        loss = -log_d(logits)[0].mean()
        return loss - self.information(output, latent)[2] if self.hparams.inform_generator else loss

    def training_step(
        self, batch: Tensor | tuple[Tensor, Tensor], batch_idx: int
    ) -> dict[str, Tensor]:
        """An update of each, on images x; labels beside them are not looked at.

        Raises:
            MisconfigurationException: they are not of the architecture's size.
        """
        x = batch[0] if isinstance(batch, tuple | list) else batch
        channels, side = self.shape.image
        check_size(x, (channels, side, side), choice=True)
        optimizer_d, optimizer_g = self.optimizers()

        latent = self.latent(len(x))
        with torch.no_grad():
            generated = self.generator(latent)
        loss_d, categorical, continuous = self.discriminator_loss(self.scaled(x), generated, latent)
        optimizer_d.zero_grad()
        self.manual_backward(loss_d)
        optimizer_d.step()

        self.discriminator.requires_grad_(False)
        loss_g = self.generator_loss(self.latent(len(x)))
        optimizer_g.zero_grad()
        self.manual_backward(loss_g)
        optimizer_g.step()
        self.discriminator.requires_grad_(True)

        said = {"train/loss_discriminator": loss_d, "train/loss_generator": loss_g}
        if self.codes.categories:
            said["train/mutual_information"] = categorical
        if self.codes.continuous:
            said["train/mutual_information_continuous"] = continuous
        return {name: value.detach() for name, value in said.items()}

    def images(self, latent: Tensor) -> Tensor:
        """What the generator makes, in [0, 1]."""
        x = self.generator(latent)
        return (x + 1) / 2 if self.shape.tanh else x

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n images (n, C, S, S) in [0, 1], by numbers of its own, in batches of training's size,
        which they are normalised by."""
        generator = torch.Generator(self.device).manual_seed(seed)
        with torch.no_grad():
            batches = [self.images(self._latent(BATCH, generator)) for _ in range(-(-n // BATCH))]
        return torch.cat(batches)[:n]

    def pictures(self, x: Tensor) -> dict[str, Tensor]:
        """Each code varied along the columns, all else fixed along a row (Figs. 2 to 6).

        A continuous code goes from -1 to 1 (code), and from -2 to 2 as in the paper's Fig. 2. Where
        these would be more pictures than are drawn the second are left out, then the last codes; of
        a code with more values than columns the first are shown.
        """
        generator = torch.Generator(self.device).manual_seed(1)
        fixed, others = self._latent(10, generator), self._latent(BATCH, generator)
        categories, continuous = self.codes.categories, self.codes.continuous
        ends = {"": 1, "_wide": 2}
        if len(categories) + len(ends) * continuous > PICTURES:
            del ends["_wide"]
        shown, at = {}, self.noise
        for i, k in enumerate(categories[:PICTURES], 1):
            values = torch.eye(min(k, COLUMNS), k, device=self.device, dtype=self.dtype)
            shown[f"traversal_c{i}"] = self._varied(fixed, slice(at, at + k), values, others)
            at += k
        for i in range(len(categories), min(self.codes.uniforms, PICTURES)):
            for name, end in ends.items():
                values = torch.linspace(-end, end, 10, device=self.device, dtype=self.dtype)
                whole = self._varied(fixed, slice(at, at + 1), values[:, None], others)
                shown[f"traversal_c{i + 1}{name}"] = whole
            at += 1
        return shown

    def _varied(self, fixed: Tensor, where: slice, values: Tensor, others: Tensor) -> Tensor:
        """Images (R, V, C, S, S), made in one batch of training's size with `others`."""
        columns = len(values)
        rows = fixed[: max(1, BATCH // columns)]
        latent = rows.repeat_interleave(columns, 0)
        latent[:, where] = values.repeat(len(rows), 1)
        batch = torch.cat([latent, others[: max(0, BATCH - len(latent))]])
        return self.images(batch)[: len(latent)].unflatten(0, (len(rows), columns))

    def _latent(self, n: int, generator: torch.Generator) -> Tensor:
        k = self.noise + self.codes.uniforms
        return self.latent_of(
            torch.rand(n, k, generator=generator, device=self.device).to(self.dtype)
        )

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        pairs = (
            (self.discriminator, self.hparams.lr_discriminator),
            (self.generator, self.hparams.lr_generator),
        )
        return [
            torch.optim.Adam(network.parameters(), lr, betas=(0.5, 0.999), fused=True)
            for network, lr in pairs
        ]
