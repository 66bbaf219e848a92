"""Inverse Autoregressive Flow (Kingma et al., 2016), arXiv:1606.04934.

Two models: `ConvVAE` on MNIST (Sec. 6.1, Table 1) and `ResNetVAE` on CIFAR-10 (Sec. 6.2, Tables 2
to 4). "Code" is the authors' released one: its TensorFlow half, the default, made the result of
Table 2; its Theano half has the variants of Tables 3 and 4. There is none for MNIST.

Departures from the paper, in `ResNetVAE` all in the direction of the code that was run:
    Alg. 1 has a sigmoid gate; the code shifts and scales, by a tenth of what the network says.
    The paper has a log scale of the likelihood for each colour; the code one for all.
    The code's likelihood has no bins that reach to infinity, so its masses sum to less than 1.
    Sec. 4 reverses the order of the variables after each step; in the code only a second step
    does, by a mask, and most models have one step.
And from the code:
    Units that do not vary on the first batch keep their gain; TensorFlow's half divides by 1e-5.
    The first batch passes through the posterior; in TensorFlow's half through the prior.
    Theano's half marks the padding by one more input map, and halves images by means of pixels.
    TensorFlow's half norms a transposed kernel by its input maps; here it is by output maps.

The paper leaves open much of Sec. 6.1: the depth of a residual branch (two convolutions here), what
a "2-layer MADE" counts (`hidden_layers`), step size, batch size, length and free bits.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from lit_gen.metrics.likelihood import LogLikelihood, Measured, importance_weighted, kept
from lit_gen.nn import distributed, draws, gaussian
from lit_gen.nn.adamax import UncorrectedAdamax
from lit_gen.nn.draws import repeat
from lit_gen.nn.logistic import log_mass
from lit_gen.nn.masked import MaskedConv2d, MaskedLinear
from lit_gen.nn.weight_norm import (
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    WeightNormLinear,
    data_dependent_init,
)

GATE_BIAS = 2.0  # Sec. 4: +1 to +2, so that a step begins near the identity
Form = Literal["gate", "shift_scale"]
Weighed = tuple[Tensor, Tensor, list[Tensor]]


def affine(z: Tensor, m: Tensor, s: Tensor | None, form: Form) -> tuple[Tensor, Tensor]:
    """One step of the flow, elementwise (Alg. 1), and log dz'_i/dz_i, which log q loses.

    The paper's "gate" is z' = g z + (1 - g) m with g = sigmoid(s + bias), which contracts. The
    code's "shift_scale" is z' = (z - m/10) exp(-s/10); without s it moves z only.
    """
    if form == "gate":
        s = s + GATE_BIAS
        g = s.sigmoid()
        return g * z + (1 - g) * m, F.logsigmoid(s)
    if s is None:
        return z - 0.1 * m, torch.zeros_like(z)
    return (z - 0.1 * m) * (-0.1 * s).exp(), -0.1 * s


def free_bits(kl: Tensor, floor: float, chunk: int | None = None) -> Tensor:
    """sum_j max(floor, mean over images of KL_j), in nats (App. C.8).

    Below the floor a group j has no gradient. The mean couples the images of all processes.

    Args:
        kl: of each image, layer and unit, (B, L, U).
        floor: the paper's lambda.
        chunk: images that a mean is over (code: the 32 of one of 8 GPUs); None takes the batch.

    Returns:
        A number: the mean of the chunks'.
    """
    if not floor:
        return kl.sum((1, 2)).mean()  # max(0, .) would not be: one sample's KL may be negative
    kl = distributed.gather(kl)
    chunks = kl.split(chunk or len(kl))
    return sum(len(c) * c.mean(0).clamp_min(floor).sum() for c in chunks) / len(kl)


def exact(x: Tensor) -> Tensor:
    """x in float32 where mixed precision has made it coarser."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


# --- the models' frame


class Network(nn.Module):
    """What both models' networks have.

    encode(x)                 what x alone decides
    weigh(x, code, samples)   log p(x|z) (S B,); the KL of each unit, log q - log p at one z,
                              (S B, L, U); and z, a tensor for each layer, the last first
    generate(n, z)            pixels' means (n, C, H, W) in [0, 1], at z or at one of the prior's
    """

    def forward(self, x: Tensor, samples: int = 1) -> Weighed:
        return self.weigh(x, self.encode(x), samples)


class Autoencoder(LightningModule):
    """Trains a `Network` by the bound with free bits, and measures its averaged weights.

    Its processes share each batch (`lit_gen.nn.distributed`); replicas are not for convolutions.
    """

    compilable = ("terms",)
    metrics = "elbo", "log_px"
    dims: int | None = None  # of x, where metrics are bits per dimension
    at_once = 16  # samples of each image in one evaluation step; their noise depends on it

    def __init__(self, network: Network) -> None:
        super().__init__()
        if (samples := self.hparams.importance_samples) < 1:
            raise ValueError(f"importance_samples={samples}: use 1 or more")
        self.automatic_optimization = False  # the average follows each step
        self.network = network
        self.averaged = copy.deepcopy(network).requires_grad_(False).eval()
        self.update_average = get_ema_multi_avg_fn(self.hparams.averaging)
        self.register_buffer("initialized", torch.tensor(False))
        names = [f"{split}_{name}" for split in ("val", "test") for name in self.metrics]
        self.measures = nn.ModuleDict({name: LogLikelihood(self.dims) for name in names})
        self.tested = Measured()

    # --- training

    def on_train_start(self) -> None:
        if not self.initialized:  # a resumed run brings its own scales
            x = self.trainer.datamodule.initialization_images(self.hparams.init_images)
            self.initialize(x.to(self.device))

    def initialize(self, x: Tensor) -> None:
        """Data-dependent initialisation; the average starts from there (code)."""
        x = x.to(self.dtype) if x.is_floating_point() else x
        data_dependent_init(self.network, x)
        self.averaged.load_state_dict(self.network.state_dict())
        self.initialized.fill_(True)

    def on_train_epoch_start(self) -> None:
        decay = self.hparams.decay_epoch
        slow = decay is not None and self.current_epoch >= decay
        for group in self.optimizers().param_groups:
            group["lr"] = self.hparams.lr * (0.1 if slow else 1)

    def terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x|z) (B,) and KL (B, L, U) of the network that is trained."""
        return self.network(x)[:2]

    def training_step(self, x: Tensor, batch_idx: int) -> dict[str, Tensor]:
        log_px, kl = self.terms(x)
        floored = free_bits(kl, self.hparams.free_bits, self.hparams.free_bits_chunk)
        loss = floored - log_px.mean()
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.update_average(list(self.averaged.parameters()), list(self.network.parameters()), None)
        total = kl.sum((1, 2)).mean()
        said = {"loss": loss, "elbo": log_px.mean() - total, "kl": total, "log_px_z": log_px.mean()}
        return {f"train/{name}": value.detach() for name, value in said.items()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # the code sums over the images of a chunk, beside which its epsilon is smaller
        eps = 1e-8 / (self.hparams.free_bits_chunk or 1)
        return UncorrectedAdamax(self.network.parameters(), self.hparams.lr, eps=eps)

    # --- how it is measured

    def log_weights(self, x: Tensor, sizes: list[int]) -> Iterator[Tensor]:
        """log p(x, z) - log q(z|x), (S, B) for each S of the sizes, in nats; encodes x once."""
        code = self.averaged.encode(x)
        for samples in sizes:
            log_px, kl, _ = self.averaged.weigh(x, code, samples)
            yield (log_px - kl.sum((1, 2))).unflatten(0, (samples, -1))

    @torch.no_grad()
    def measure(self, x: Tensor, index: Tensor, samples: int) -> dict[str, Tensor]:
        """One sample's bound and the importance-weighted one, (B,) each, with noise by image."""
        whole, rest = divmod(samples, self.at_once)
        sizes = [] if samples == 1 else [self.at_once] * whole + [rest] * (rest > 0)
        with draws.of_examples(index, 0):
            parts = self.log_weights(x, [1, *sizes])
            elbo = next(parts).squeeze(0)
            log_px = importance_weighted(parts) if sizes else elbo
        drawn = torch.full((len(x),), samples, device=x.device)
        return {"elbo": kept(elbo), "log_px": kept(log_px), "samples": drawn}

    def validation_step(
        self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._log(("val", "test")[dataloader_idx], self.metrics[:1], self.measure(*batch, 1))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        found = self.measure(*batch, self.hparams.importance_samples)
        self.tested.put(batch_idx, batch[1], found)
        self._log("test", self.metrics, found)

    def _log(self, split: str, names: tuple[str, ...], found: dict[str, Tensor]) -> None:
        for name, values in zip(names, found.values(), strict=False):
            measure = self.measures[f"{split}_{name}"]
            measure.update(values)
            self.log(f"{split}/{name}", measure, on_epoch=True, add_dataloader_idx=False)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """What the metrics are computed from; what was just tested is not measured again."""
        found = self.tested.take(batch_idx, batch[1])
        return found or self.measure(*batch, self.hparams.importance_samples)

    def on_test_start(self) -> None:
        self.tested.forget()

    def on_predict_end(self) -> None:
        self.tested.forget()

    @torch.no_grad()
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n images (n, C, H, W) in [0, 1], means of p(x|z) at z ~ p(z), from a noise of its own."""
        streams = torch.arange(n, device=self.device) + (2**32 + seed * 2**20)  # of no image
        with draws.of_examples(streams, 0):
            return self.averaged.generate(n)

    def pictures(self, x: Tensor) -> dict[str, Tensor]:
        """Test images above their reconstructions, ways between them, and nats by layer, unit."""
        with draws.of_examples(torch.arange(len(x), device=x.device), 0):
            _, kl, z = self.averaged(x)
        shown, n = {"nats_of_layers_and_units": kl.mean(0).flip(0)}, min(10, len(x)) // 2 * 2
        if not n:
            return shown
        z = [layer[:n] for layer in z]
        decoded = self.averaged.generate(n, z)
        seen = (x[:n] / 255 if x.dtype == torch.uint8 else x[:n]).view_as(decoded)
        ways = [
            self.averaged.generate(n // 2, [torch.lerp(one[::2], one[1::2], t / 9) for one in z])
            for t in range(10)
        ]
        shown["reconstructions"] = torch.stack([seen, decoded])
        shown["interpolations"] = torch.stack(ways, 1)
        return shown


# --- MNIST


def dense(inputs: int, outputs: int, std: float = 0.1) -> WeightNormLinear:
    init = partial(nn.init.normal_, std=0.05)
    layer = WeightNormLinear(inputs, outputs, init, train_scale=True, eps=1e-12)
    layer.std = std
    return layer


class ResidualBlock(nn.Module):
    """Shortcut(x) + conv(ELU(conv(ELU(x)))), 3x3; (B, m, H, W) -> (B, n, H', W') (Sec. 6.1).

    Args:
        inputs, outputs: maps m and n.
        size: side of the output where it is not the input's: then the first convolution has stride
            2, or is the transpose of one (`up`), and so is the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, size: int | None = None, up: bool = False):
        super().__init__()
        stride = 1 if size is None else 2
        kind = partial(WeightNormConvTranspose2d, size=size) if up else WeightNormConv2d
        self.first = kind(inputs, outputs, 3, stride)
        self.second = WeightNormConv2d(outputs, outputs)
        self.shortcut = nn.Identity() if size is None else kind(inputs, outputs, 3, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.second(F.elu(self.first(F.elu(x))))


class MADE(nn.Module):
    """(m, s) = AR(z, h) (Sec. 4): z (S B, D), h (B, C) -> (S B, D) each; m_i, s_i see z_1..z_(i-1).

    Args:
        latents, width, context: D, units of a hidden layer, C.
        hidden_layers: how many.
    """

    def __init__(self, latents: int, width: int, context: int, hidden_layers: int) -> None:
        super().__init__()
        self.context = dense(context, width, std=1.0)
        sizes = [latents, *[width] * hidden_layers]
        self.hidden = nn.ModuleList(MaskedLinear(m, n, False, 1.0) for m, n in pairwise(sizes))
        self.heads = nn.ModuleList(MaskedLinear(width, latents, True, 0.1) for _ in range(2))

    def forward(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        first, *more = self.hidden
        u = first(z).unflatten(0, (-1, len(h))) + self.context(h)
        u = F.elu(u.flatten(0, 1))
        for layer in more:
            u = F.elu(layer(u))
        m, s = (head(u) for head in self.heads)
        return m, s


class ConvNetwork(Network):
    """Sec. 6.1's network for 28 x 28 binary pixels (B, 784), with one layer of D units.

    Args:
        o: the arguments of `ConvVAE`.
    """

    def __init__(self, o: Any) -> None:
        super().__init__()
        self.latent_size = d = o.latents
        block, up = ResidualBlock, partial(ResidualBlock, up=True)
        self.encoder = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            *(block(1, 16, 14), block(16, 16), block(16, 32, 7), block(32, 32), block(32, 32, 4)),
            *(nn.ELU(), nn.Flatten(), dense(512, 450), nn.ELU()),
        )
        self.base = dense(450, 2 * d)
        self.context = dense(450, 450) if o.steps else None
        self.steps = nn.ModuleList(MADE(d, o.width, 450, o.hidden_layers) for _ in range(o.steps))
        self.decoder = nn.Sequential(
            *(dense(d, 450), nn.ELU(), dense(450, 512), nn.Unflatten(1, (32, 4, 4))),
            *(up(32, 32, 7), block(32, 32), up(32, 16, 14), block(16, 16), up(16, 16, 28)),
            *(nn.ELU(), WeightNormConv2d(16, 1), nn.Flatten()),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """mu_0, log sigma_0 (B, D) and, for a flow, h (B, 450)."""
        h = self.encoder(x)
        base = self.base(h).chunk(2, 1)
        return (*base, self.context(h)) if self.steps else base

    def posterior(self, code: tuple[Tensor, ...], samples: int) -> tuple[Tensor, Tensor]:
        """z ~ q(z|x) and log q of its units, (S B, D) each (Alg. 1)."""
        mu, log_sigma, *h = code
        mu, log_sigma = repeat(mu, samples, 0), repeat(log_sigma, samples, 0)
        z = gaussian.sample(mu, log_sigma)
        log_q = gaussian.log_density(z, mu, log_sigma)
        for made in self.steps:
            z, log_det = affine(z, *made(z, *h), "gate")
            z, log_q = z.flip(1), (log_q - log_det).flip(1)  # the other order next
        return z, log_q

    def weigh(self, x: Tensor, code: tuple[Tensor, ...], samples: int) -> Weighed:
        z, log_q = self.posterior(code, samples)
        logits = self.decoder(z).unflatten(0, (samples, -1))
        loss = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        kl = log_q - gaussian.log_density(z)
        return -loss.sum(-1).flatten(), kl.unsqueeze(1), [z]

    def generate(self, n: int, z: list[Tensor] | None = None) -> Tensor:
        if z is None:
            zero = self.base.b.new_zeros(n, self.latent_size)
            z = [gaussian.sample(zero, zero)]
        return self.decoder(z[0]).sigmoid().unflatten(1, (1, 28, 28))


class ConvVAE(Autoencoder):
    """Table 1: a convolutional VAE whose posterior is a diagonal Gaussian, or a flow from one.

    Args:
        steps: T, the table's depth; 0 is "diagonal covariance".
        width: of the hidden layers of each step's MADE (Table 1).
        hidden_layers: 1 or 2, two readings of Sec. 6.1's "2-layer MADE".
        latents: units (Sec. 6.1).
        free_bits, free_bits_chunk: see `free_bits`; 0 is the bound itself.
        lr: Adamax's step size.
        averaging: decay of the averaged weights, which are those measured.
        decay_epoch: from this epoch on, `lr` is a tenth; None keeps it.
        importance_samples: behind `test/log_px` (Sec. 6.1).
        init_images: training images of the data-dependent initialisation.
    """

    def __init__(
        self,
        steps: int = 2,
        width: int = 320,
        hidden_layers: Literal[1, 2] = 1,
        latents: int = 32,
        free_bits: float = 0.0,
        free_bits_chunk: int | None = None,
        lr: float = 0.002,
        averaging: float = 0.998,
        decay_epoch: int | None = None,
        importance_samples: int = 128,
        init_images: int = 128,
    ) -> None:
        self.save_hyperparameters()
        super().__init__(ConvNetwork(self.hparams))


# --- CIFAR-10


class ConvAR(nn.Module):
    """(m, s) = AR(z, c) by masked 3x3 convolutions (code); z (B, Z, H, W) -> (B, Z, H, W) each.

    Without a hidden layer it is one linear map of z, whose even maps are m; c has no part in it.

    Args:
        o: the arguments of `ResNetVAE`.
        reverse: turns the order of maps and pixels around.
    """

    def __init__(self, o: Any, reverse: bool) -> None:
        super().__init__()
        conv = partial(MaskedConv2d, reverse=reverse, exponent=o.gain_exponent)
        self.kinds = 1 if o.location_only else 2
        sizes = [o.latents, *[o.width] * o.hidden_layers]
        self.hidden = nn.ModuleList(conv(m, n, strict=False) for m, n in pairwise(sizes))
        heads = [o.latents] * self.kinds if self.hidden else [self.kinds * o.latents]
        std = 0.1 if o.flow == "gate" else 1.0  # the code's form takes a tenth of it
        self.heads = nn.ModuleList(conv(sizes[-1], n, strict=True, std=std) for n in heads)

    def forward(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor | None]:
        u = z
        for i, layer in enumerate(self.hidden):
            u = F.elu(layer(u) if i else layer(u) + c)
        found = [exact(head(u)) for head in self.heads]
        if not self.hidden:
            found = [found[0][:, i :: self.kinds] for i in range(self.kinds)]
        return found[0], found[1] if self.kinds == 2 else None


class Layer(nn.Module):
    """One stochastic layer with its residual blocks on the way up and down (Sec. 6.2, code).

    Bidirectional: the posterior's base sums what both ways say. Bottom-up: z is drawn on the way up
    and joins it, and the way down only scores it.

    Args:
        o: the arguments of `ResNetVAE`.
        halves: whether it lies at half the resolution of the layer below.
    """

    def __init__(self, o: Any, halves: bool) -> None:
        super().__init__()
        self.bottom_up, self.form, self.stride = o.direction == "bottom_up", o.flow, 1 + halves
        h, z = o.width, o.latents
        c = h if o.steps and o.hidden_layers else 0
        self.up_parts = [h, z, z, c] if self.bottom_up else [z, z, c, h]
        self.down_parts = [h, z, z] if self.bottom_up else [z, z, z, z, c, h]
        conv = partial(WeightNormConv2d, exponent=o.gain_exponent)
        last = partial(WeightNormConvTranspose2d, exponent=o.gain_exponent) if halves else conv
        self.up_conv1 = conv(h, sum(self.up_parts), 3, self.stride)
        self.up_conv2 = conv(h + z if self.bottom_up else h, h)
        self.down_conv1 = conv(h, sum(self.down_parts))
        self.down_conv2 = last(z + h, h, 3, self.stride)
        self.flow = nn.ModuleList(ConvAR(o, reverse=i % 2 == 1) for i in range(o.steps))

    def posterior(self, mu: Tensor, log_sigma: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """z ~ q and log q of its numbers, (B, Z, H, W) each (Alg. 1)."""
        z = gaussian.sample(mu, log_sigma)
        log_q = gaussian.log_density(z, mu, log_sigma)
        for step in self.flow:
            z, log_det = affine(z, *step(z, c), self.form)
            log_q = log_q - log_det
        return z, log_q

    def up(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (B, h, H, W) -> the same, and for the way down mu, log sigma and c; or z and log q."""
        parts = self.up_conv1(F.elu(x)).split(self.up_parts, 1)
        if self.bottom_up:
            h, mu, log_sigma, c = parts
            found = self.posterior(exact(mu), exact(log_sigma), c)
            h = torch.cat([h, found[0].to(h.dtype)], 1)
        else:
            mu, log_sigma, c, h = parts
            found = exact(mu), exact(log_sigma), c
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return shortcut + 0.1 * self.up_conv2(F.elu(h)), *found

    def down(
        self, x: Tensor, *found: Tensor, z: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """x (B, h, H, W) -> the same, z, and the KL of its maps (B, Z) if it is the posterior's.

        Args:
            found: by the way up; without it, z is the given one or the prior's.
        """
        parts = list(self.down_conv1(F.elu(x)).split(self.down_parts, 1))
        h = parts.pop(0 if self.bottom_up else -1)
        prior, kl = [exact(p) for p in parts[:2]], None
        if found:
            if not self.bottom_up:
                found = self.posterior(*(f + p for f, p in zip(found, parts[2:], strict=True)))
            z, log_q = found
            kl = (log_q - gaussian.log_density(z, *prior)).sum((2, 3))
        elif z is None:
            z = gaussian.sample(*prior)
        if self.stride > 1:
            x = F.interpolate(x, scale_factor=self.stride, mode="nearest")
        return x + 0.1 * self.down_conv2(F.elu(torch.cat([z.to(h.dtype), h], 1))), z, kl


class ResNetNetwork(Network):
    """The ladder of `Layer`s between images (B, 3, 32, 32) of 256 levels and a learned vector.

    Args:
        o: the arguments of `ResNetVAE`.
    """

    def __init__(self, o: Any) -> None:
        super().__init__()
        self.o = o
        self.format = torch.channels_last if o.channels_last else torch.contiguous_format
        self.x_enc = WeightNormConv2d(3, o.width, 5, 2, exponent=o.gain_exponent)
        self.layers = nn.ModuleList(
            Layer(o, halves=i > 0 and i % o.depth == 0) for i in range(o.levels * o.depth)
        )
        self.h_top = nn.Parameter(torch.zeros(o.width))
        self.x_dec = WeightNormConvTranspose2d(o.width, 3, 5, 2, exponent=o.gain_exponent)
        shape = (3, 1, 1) if o.channel_scales else ()
        self.log_scale = nn.Parameter(torch.full(shape, float(o.log_scale_init)))
        self.to(memory_format=self.format)

    def run(self, way: Callable[..., Any], *inputs: Tensor) -> tuple[Tensor, ...]:
        if self.o.checkpointing and torch.is_grad_enabled():
            return checkpoint(way, *inputs, use_reentrant=False)
        return way(*inputs)

    def way_up(self, x: Tensor) -> list[tuple[Tensor, ...]]:
        """What each layer finds on the way up, from x (B, 3, 32, 32)."""
        x = ((x.to(self.h_top.dtype) + 0.5) / 256).clamp(0, 1) - 0.5
        h, found = self.x_enc(x.contiguous(memory_format=self.format)), []
        for layer in self.layers:
            h, *of_layer = self.run(layer.up, h)
            found.append(tuple(of_layer))
        return found

    def way_down(
        self, n: int, found: list[tuple[Tensor, ...]] | None, z: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
        """Location of the pixels (n, 3, 32, 32); z and KL (n, Z) of the layers, the last first.

        What was found of B images serves n / B samples of each, a layer at a time.
        """
        side = 16 // 2 ** (self.o.levels - 1)
        h = self.h_top[:, None, None].expand(n, -1, side, side)
        h, drawn, kl = h.contiguous(memory_format=self.format), [], []
        for i, layer in enumerate(reversed(self.layers)):
            way = partial(layer.down, z=z[i]) if z else layer.down
            of_layer = found[-1 - i] if found else ()
            h, *both = self.run(way, h, *(repeat(t, n // len(t), 0) for t in of_layer))
            drawn.append(both[0])
            kl.append(both[1])
        mu = self.o.output_scale * exact(self.x_dec(F.elu(h)))
        return mu.clamp(-0.5 + 1 / 512, 0.5 - 1 / 512), drawn, kl

    def encode(self, x: Tensor) -> list[tuple[Tensor, ...]] | None:
        """The way up, unless it draws z."""
        return None if self.o.direction == "bottom_up" else self.way_up(x)

    def weigh(self, x: Tensor, code: list[tuple[Tensor, ...]] | None, samples: int) -> Weighed:
        found = self.way_up(repeat(x, samples, 0)) if code is None else code
        mu, z, kl = self.way_down(samples * len(x), found)
        mu, edges = mu.unflatten(0, (samples, -1)), self.o.edge_bins
        log_px = log_mass(x, mu, self.log_scale, edges, floor=0.0 if edges else 1e-7)
        return log_px.sum((-3, -2, -1)).flatten(), torch.stack(kl, 1), z

    def generate(self, n: int, z: list[Tensor] | None = None) -> Tensor:
        return self.way_down(n, None, z)[0] + 0.5


class ResNetVAE(Autoencoder):
    """Tables 2 to 4: a ladder of stochastic layers whose posteriors flow. Defaults: the 3.11 model.

    Args:
        depth: layers of each level (Table 2: 20; the other tables: 4, 8 and 12).
        levels: of resolution, 16 x 16 and halves of it (code: 1; first version of the paper: 2).
        width, latents: deterministic maps and those of z (code: 160 and 32).
        direction: of the inference (Tables 3 and 4).
        steps: of each layer's flow; 0 is the diagonal posterior.
        hidden_layers: of each step's network (Tables 3 and 4).
        location_only: steps that move z without scaling it (Table 3).
        flow: "shift_scale" of the code, or the paper's "gate".
        edge_bins: whether the first and last level's bins reach to infinity.
        channel_scales: a log scale of the likelihood for each colour (paper), or one (code).
        log_scale_init: where it starts (code: 0, the whole range; 2,000 steps from where it ends).
        gain_exponent: 1 in TensorFlow's code, 3 in Theano's; see `WeightNormConv2d`.
        output_scale: of what the last convolution says about the pixels (Theano's code: 0.1).
        free_bits: nats of each map (3.11 model: 0.1; default of the code: 0.25).
        free_bits_chunk: see `free_bits`.
        lr, averaging, decay_epoch: as in `ConvVAE`.
        importance_samples: behind `test/bits_per_dim`; 1 is the bound itself.
        init_images: training images of the data-dependent initialisation (code).
        checkpointing: forgets activations inside layers and computes them again.
        channels_last: memory layout of images, faster in bfloat16.
    """

    metrics = "elbo_bits_per_dim", "bits_per_dim"
    dims = 3 * 32 * 32
    at_once = 8

    def __init__(
        self,
        depth: int = 20,
        levels: int = 1,
        width: int = 160,
        latents: int = 32,
        direction: Literal["bidirectional", "bottom_up"] = "bidirectional",
        steps: Literal[0, 1, 2] = 1,
        hidden_layers: Literal[0, 1, 2] = 2,
        location_only: bool = False,
        flow: Form = "shift_scale",
        edge_bins: bool = False,
        channel_scales: bool = False,
        log_scale_init: float = 0.0,
        gain_exponent: float = 1.0,
        output_scale: float = 1.0,
        free_bits: float = 0.1,
        free_bits_chunk: int | None = 32,
        lr: float = 0.002,
        averaging: float = 0.999,
        decay_epoch: int | None = None,
        importance_samples: int = 1,
        init_images: int = 32,
        checkpointing: bool = False,
        channels_last: bool = False,
    ) -> None:
        if location_only and flow == "gate":
            raise ValueError("location_only with flow gate, which scales: use flow shift_scale")
        self.save_hyperparameters()
        super().__init__(ResNetNetwork(self.hparams))
