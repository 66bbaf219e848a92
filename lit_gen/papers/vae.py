"""Variational autoencoders of MNIST: two papers.

AEVB: Auto-Encoding Variational Bayes (Kingma & Welling, 2013), arXiv:1312.6114.
IWAE: Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2015), arXiv:1509.00519, with
the tables that the first paper lacks; "code" is its authors' released one.

Departures from the papers, those of IWAE in the direction of the code that was run:
    Sec. 5 of IWAE has a minibatch's mean; the code maximises its sum, beside which Adam's epsilon
    is smaller.
    Sec. 5 has Adam; the code's second moment starts at one, and its epsilon is added to the root of
    the biased moment.
    In the code layers of equal shape start at equal weights, one seed for all; here they do not.
    AEVB does not say which of three step sizes a curve was made with, nor whether its initial
    N(0, 0.01) has a variance or a standard deviation of 0.01; here it is the variance.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from lit_gen.metrics.likelihood import (
    ActiveUnits,
    LogLikelihood,
    Measured,
    double,
    importance_weighted,
    kept,
)
from lit_gen.nn import distributed, draws, gaussian
from lit_gen.nn.adam import UnitStartAdam
from lit_gen.nn.linear import Linear
from lit_gen.nn.replicas import stack

SIDE = 28
PIXELS = SIDE * SIDE
AT_ONCE = 20  # samples of each image that are measured at once, in memory; the noise depends on it
OF_A_MEAN = 50  # samples of h^1 that the mean of a deeper unit is taken over


class DiagonalGaussian(nn.Module):
    """h (..., in) -> tanh layers -> mean and log standard deviation of the next, (..., out) each.

    Args:
        log_variance: whether the linear head gives log sigma^2, as in AEVB, or log sigma.
    """

    def __init__(
        self, in_features: int, hidden: int, depth: int, out_features: int, log_variance: bool
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *tanh_layers(in_features, hidden, depth), Linear(hidden, 2 * out_features)
        )
        self.log_variance = log_variance

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_scale = self.layers(h).chunk(2, -1)
        return mu, log_scale / 2 if self.log_variance else log_scale


def tanh_layers(in_features: int, hidden: int, depth: int) -> list[nn.Module]:
    widths = [in_features] + [hidden] * depth
    return [layer for m, n in pairwise(widths) for layer in (Linear(m, n), nn.Tanh())]


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x) of independent pixels, (..., D) -> (...), nats; x may be grey, between 0 and 1."""
    return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(
        -1
    )


class LatentVariableModel(LightningModule):
    """x -> h^1 -> ... -> h^L by q, and back by p: what both papers' models share.

    Batches have examples along -2 and features along -1, so that stacked models (`replicas`) work,
    too. S samples of each of B examples are rows (..., S B, features): see `draws.repeat`.

    Args:
        latent: sizes of h^1 ... h^L.
        hidden: for each, the width of the layers between it and the one below it, both ways.
        depth: how many layers that is.
        log_variance: see `DiagonalGaussian`.
        importance_samples: K of the bound that is tested, `test/nll`.
    """

    compilable = ("bound",)

    def __init__(
        self,
        latent: Sequence[int],
        hidden: Sequence[int],
        depth: int,
        log_variance: bool,
        importance_samples: int,
    ) -> None:
        super().__init__()
        if len(latent) != len(hidden) or not latent:
            raise ValueError(f"latent={latent}, hidden={hidden}: give one width for each layer")
        if importance_samples < 1:
            raise ValueError(f"importance_samples={importance_samples}: use 1 or more")
        self.automatic_optimization = False  # what replicas need
        self.importance_samples = importance_samples
        sizes = [PIXELS, *latent]
        self.encoder = nn.ModuleList(  # q(h^l | h^(l-1)), upwards
            DiagonalGaussian(sizes[i], hidden[i], depth, sizes[i + 1], log_variance)
            for i in range(len(latent))
        )
        self.decoder = nn.ModuleList(  # p(h^(l-1) | h^l), downwards
            DiagonalGaussian(sizes[i + 1], hidden[i], depth, sizes[i], log_variance)
            for i in reversed(range(1, len(latent)))
        )
        self.pixels = nn.Sequential(  # p(x | h^1)
            *tanh_layers(latent[0], hidden[0], depth), Linear(hidden[0], PIXELS)
        )
        self.log_likelihood, self.elbo = LogLikelihood(), LogLikelihood()
        self.active_units = ActiveUnits(sum(latent))
        self.seen: dict[str, list[Tensor]] = {}  # of a validation: sums and numbers of examples
        self.tested = Measured()

    @classmethod
    def together(cls, models: Sequence[Self], streams: Sequence[torch.Generator]) -> Self:
        """K of these as one computation: `training_step` takes (K, B, 784) and returns (K,)."""
        return stack(models, streams)

    # --- the model

    def log_densities(self, x: Tensor, samples: int = 1) -> tuple[list[Tensor], list[Tensor]]:
        """At h ~ q(h|x), unit by unit.

        Returns:
            log q(h^l | h^(l-1)), for each l (..., S B, U), and log p(x | h^1), (..., S B), followed
            by log p(h^l | h^(l+1)).
        """
        first, *others = self.encoder
        mu, log_sigma = first(x)  # once for all samples
        z, log_density = gaussian.sample_with_density(
            draws.repeat(mu, samples), draws.repeat(log_sigma, samples)
        )
        h, log_q = [z], [log_density]
        for layer in others:
            z, log_density = gaussian.sample_with_density(*layer(h[-1]))
            h.append(z)
            log_q.append(log_density)
        log_p = [gaussian.log_density(h[-1])]
        for layer, above, below in zip(self.decoder, h[:0:-1], h[-2::-1], strict=True):
            log_p.insert(0, gaussian.log_density(below, *layer(above)))
        return log_q, [log_bernoulli(draws.repeat(x, samples), self.pixels(h[0])), *log_p]

    def log_weight(self, x: Tensor, samples: int = 1) -> Tensor:
        """log w = log p(x, h) - log q(h|x) of h ~ q(h|x), in nats; (..., B, 784) -> (..., S, B)."""
        log_q, (log_px, *log_p) = self.log_densities(x, samples)
        log_w = log_px + sum(p.sum(-1) - q.sum(-1) for p, q in zip(log_p, log_q, strict=True))
        return log_w.unflatten(-1, (samples, -1))

    def bound(self, x: Tensor) -> Tensor:
        """The bound that is maximised, a mean over the batch; (..., B, 784) -> (...), nats."""
        raise NotImplementedError

    def mean_units(self, x: Tensor) -> list[Tensor]:
        """E_q[h^l | x] of each layer, (B, 784) -> (B, U), by samples of the layers below it."""
        samples = OF_A_MEAN if len(self.encoder) > 1 else 1
        mu, log_sigma = self.encoder[0](x)
        means, (mu, log_sigma) = [mu], (draws.repeat(t, samples) for t in (mu, log_sigma))
        for layer in self.encoder[1:]:
            mu, log_sigma = layer(gaussian.sample(mu, log_sigma))
            means.append(mu.unflatten(-2, (samples, -1)).mean(-3))
        return means

    def decode(self, h: Tensor) -> Tensor:
        """Images (..., 1, 28, 28) of h^L (..., U): pixel means, at the means of lower layers."""
        for layer in self.decoder:
            h, _ = layer(h)
        return self.pixels(h).sigmoid().unflatten(-1, (1, SIDE, SIDE))

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n images (n, 1, 28, 28): pixel means at draws from the prior, by a noise of its own."""
        generator = torch.Generator(self.device).manual_seed(seed)

        def noise(like: Tensor) -> Tensor:
            return torch.randn(
                like.shape, generator=generator, device=self.device, dtype=self.dtype
            )

        with torch.no_grad():
            h = noise(self.encoder[-1].layers[-1].bias.chunk(2, -1)[0].expand(n, -1))
            for layer in self.decoder:
                mu, log_sigma = layer(h)
                h = mu + log_sigma.exp() * noise(mu)
            return self.pixels(h).sigmoid().view(n, 1, SIDE, SIDE)

    # --- training

    def loss(self, bound: Tensor, examples: int) -> Tensor:
        """What is minimised, from the bound and the number of examples behind it."""
        return -bound

    def training_step(self, x: Tensor, batch_idx: int) -> dict[str, Tensor]:
        bound = self.bound(x)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(bound, x.shape[-2]).sum())  # of replicas, if it has an axis
        optimizer.step()
        return {"train/bound": bound.detach()}

    # --- how it is measured

    def validation_step(
        self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int
    ) -> None:
        x, index = batch
        with draws.of_examples(index):
            elbo = double(self.log_weight(x)).sum((-2, -1))  # (K,) of replicas
        name = ("val/elbo", "test/elbo")[dataloader_idx]
        count = elbo.new_full((), len(x)).expand_as(elbo)
        self.seen.setdefault(name, []).append(torch.stack([elbo, count]))

    def on_validation_epoch_end(self) -> None:
        for name, parts in sorted(self.seen.items()):
            # Lightning's own mean rounds the sizes of uneven shares
            nats, count = distributed.total(torch.stack(parts).sum(0))
            self.log(name, nats / count)
        self.seen.clear()

    def parts(self, x: Tensor) -> Iterator[Tensor]:
        """Log weights of all importance samples, as many at a time as memory shall hold."""
        for start in range(0, self.importance_samples, AT_ONCE):
            yield self.log_weight(x, min(AT_ONCE, self.importance_samples - start))

    def measure(self, x: Tensor, index: Tensor) -> dict[str, Tensor]:
        """What `lit_gen.metrics.bounds` computes numbers from."""
        with draws.of_examples(index):
            elbo = self.log_weight(x)[0]
            log_px = importance_weighted(self.parts(x))
            units = torch.cat(self.mean_units(x), -1)
        samples = torch.full_like(index, self.importance_samples)
        found = {"elbo": kept(elbo), "log_px": kept(log_px), "samples": samples}
        return found | ActiveUnits.sums(units)

    def on_test_start(self) -> None:
        self.tested.forget()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        found = self.measure(*batch)
        self.tested.put(batch_idx, batch[1], found)
        self.elbo.update(found["elbo"])
        self.log_likelihood.update(found["log_px"])
        self.active_units.update(found)

    def on_test_epoch_end(self) -> None:
        self.log("test/elbo", self.elbo.compute())
        self.log("test/nll", -self.log_likelihood.compute())
        self.log("test/active_units", self.active_units.compute())
        for metric in (self.elbo, self.log_likelihood, self.active_units):
            metric.reset()

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """What the metrics are computed from; a batch that has just been tested is not again."""
        return self.tested.take(batch_idx, batch[1]) or self.measure(*batch)

    def on_predict_end(self) -> None:
        self.tested.forget()

    def pictures(self, x: Tensor) -> dict[str, Tensor]:
        """Test images beside their reconstructions, ways between them, and nats in each unit."""
        x, n = x[:200], min(10, len(x)) // 2 * 2
        with draws.of_examples(torch.arange(len(x), device=x.device)):
            log_q, (_, *log_p) = self.log_densities(x)
            h = self.mean_units(x)[-1][:n]
        nats = [(q - p).mean(0, keepdim=True) for q, p in zip(log_q, log_p, strict=True)]
        shown = {f"nats_of_each_unit_in_layer_{i}": one for i, one in enumerate(nats, 1)}
        if n:
            seen = x[:n].view(-1, 1, SIDE, SIDE)
            ways = [torch.lerp(h[::2], h[1::2], t / 9) for t in range(10)]
            shown["reconstructions"] = torch.stack([seen, self.decode(h)])
            shown["interpolations"] = self.decode(torch.stack(ways, 1))
        return shown


class IWAE(LatentVariableModel):
    """Burda et al.: maximises L_k, or the VAE's bound with k samples (Sec. 3).

        vae    E[1/k sum_i log w_i]        iwae    E[log 1/k sum_i w_i]        (Eq. 8)

    With k = 1 they are one.

    Args:
        objective: which of them.
        samples: k.
        latent, hidden, depth: as above; Sec. 5: [50], [200] and 2, or [100, 50], [200, 100] and 2.
        betas: Adam's (Sec. 5; the code's default has 0.99 as the first).
        eps: Adam's (Sec. 5).
        switch: [epoch, objective, samples], which go on from that epoch at the last rate (Table 2).
        importance_samples: of `test/nll` (Sec. 5: 5,000).
    """

    STAGES = 8  # stage i has 3^i passes at a rate of 10^(-3 - i/7) (Sec. 5)

    def __init__(
        self,
        objective: Literal["vae", "iwae"] = "iwae",
        samples: int = 1,
        latent: list[int] = [50],  # noqa: B006
        hidden: list[int] = [200],  # noqa: B006
        depth: int = 2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        switch: tuple[int, Literal["vae", "iwae"], int] | None = None,
        importance_samples: int = 5000,
    ) -> None:
        super().__init__(latent, hidden, depth, False, importance_samples)
        self.save_hyperparameters()
        for what, k in ((objective, samples), *([switch[1:]] if switch else [])):
            if what not in ("vae", "iwae") or k < 1:
                raise ValueError(f"{what} with {k} samples: use vae or iwae, with 1 or more")
        self.maximised = objective, samples
        self.register_buffer("initialized", torch.tensor(False))
        for m in self.modules():
            if isinstance(m, Linear):
                nn.init.xavier_uniform_(m.weight)
                nn.init.zeros_(m.bias)
        for m in self.modules():
            if isinstance(m, DiagonalGaussian):  # its head is two layers in one
                for part in m.layers[-1].weight.data.chunk(2):
                    nn.init.xavier_uniform_(part)

    def on_train_start(self) -> None:
        if not self.initialized.all():  # the pixels start at their means (code)
            means = self.trainer.datamodule.pixel_means().to(self.pixels[-1].bias)
            with torch.no_grad():
                self.pixels[-1].bias.copy_(means.clamp(0.001, 0.999).logit())
            self.initialized.fill_(True)

    def rate(self, epoch: int) -> float:
        """The step size in that pass, rounded as in the code; after the last stage it stays."""
        ends = [(3 ** (i + 1) - 1) // 2 for i in range(self.STAGES)]
        stage = min(sum(epoch >= end for end in ends), self.STAGES - 1)
        return round(10 ** (-3 - stage / 7), 5)

    def on_train_epoch_start(self) -> None:
        for group in self.optimizers().param_groups:
            group["lr"] = self.rate(self.current_epoch)

    def training_step(self, x: Tensor, batch_idx: int) -> dict[str, Tensor]:
        switch = self.hparams.switch  # looked at here: an epoch may go on without having begun
        if switch is not None and self.current_epoch >= switch[0]:
            self.maximised = tuple(switch[1:])
        return super().training_step(x, batch_idx)

    def bound(self, x: Tensor) -> Tensor:
        kind, samples = self.maximised
        log_w = self.log_weight(x, samples)  # (..., k, B)
        if kind == "vae":
            return log_w.mean((-2, -1))
        return log_w.logsumexp(-2).mean(-1) - math.log(samples)

    def loss(self, bound: Tensor, examples: int) -> Tensor:
        """Of the whole batch's sum, as in the code; processes that share it average theirs."""
        return -bound * examples * distributed.rank_and_size()[1]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return UnitStartAdam(self.parameters(), self.rate(0), self.hparams.betas, self.hparams.eps)


class AEVB(LatentVariableModel):
    """Kingma & Welling: the bound with a closed-form KL and one sample (Eq. 10), trained as MAP.

    The prior of the weights, N(0, I), is that of the generative ones; Sec. 5 says that all
    parameters were trained by the MAP criterion.

    Args:
        latent_dim: size of z (Fig. 2: 3, 5, 10, 20, 200).
        hidden_dim: width of the tanh layer of each network (Sec. 5: 500).
        lr: Adagrad's step size; the paper chose among 0.01, 0.02 and 0.1.
        init_std: standard deviation of all initial weights and biases (Sec. 5: N(0, 0.01)).
        images: N that are trained on, beside which the prior counts once (App. F).
        importance_samples: of `test/nll`.
    """

    def __init__(
        self,
        latent_dim: int = 20,
        hidden_dim: int = 500,
        lr: float = 0.02,
        init_std: float = 0.1,
        images: int = 60_000,
        importance_samples: int = 5000,
    ) -> None:
        super().__init__([latent_dim], [hidden_dim], 1, True, importance_samples)
        self.save_hyperparameters()
        for p in self.parameters():
            nn.init.normal_(p, std=init_std)

    def bound(self, x: Tensor) -> Tensor:
        mu, log_sigma = self.encoder[0](x)
        log_px = log_bernoulli(x, self.pixels(gaussian.sample(mu, log_sigma)))
        return (log_px - gaussian.kl_to_standard_normal(mu, log_sigma).sum(-1)).mean(-1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = [
            {"params": self.encoder.parameters()},
            {"params": self.pixels.parameters(), "weight_decay": 1 / self.hparams.images},
        ]
        return torch.optim.Adagrad(groups, self.hparams.lr)
