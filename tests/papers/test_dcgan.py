"""DCGAN: its networks, whose turn it is, frozen statistics, and digits as a training set."""

import math
from functools import partial
from pathlib import Path

import cifar
import manifests
import numpy as np
import pytest
import pytorch_lightning as pl
import svhn
import torch
import torch.nn.functional as F
from PIL import Image
from processes import run_in, two_steps
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from lit_gen.datamodules import files
from lit_gen.datamodules.labelled import Labelled, LabelledMNIST
from lit_gen.harness.record import PREDICTIONS, Record
from lit_gen.harness.run import Run, execute
from lit_gen.harness.spec import UserError, find
from lit_gen.harness.verdicts import certificate
from lit_gen.metrics.errors import MetricError
from lit_gen.metrics.features import DrawnErrorPercent
from lit_gen.metrics.neighbours import NearestNeighbourErrorPercent
from lit_gen.nn.batch_norm import BatchNorm
from lit_gen.papers import dcgan
from lit_gen.papers.dcgan import (
    DCGAN,
    AlternatingGAN,
    Architecture,
    ConditionalDCGAN,
    FeatureDCGAN,
    with_labels,
)

SMALL = Architecture(5, 5, 6, ((4, 2), (4, 2), (3, 2)), ((4, 2), (6, 2), (8, 2)))
SMALL_64 = Architecture(5, 5, 6, ((4, 2), *SMALL.up), (*SMALL.down, (8, 2)))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dcgan.ARCHITECTURES, "svhn", SMALL)
    monkeypatch.setitem(dcgan.ARCHITECTURES, "64", SMALL_64)


def ready(kind: type[AlternatingGAN] = DCGAN, seed: int = 0, **changes: object) -> AlternatingGAN:
    torch.manual_seed(seed)
    if kind is not ConditionalDCGAN:
        changes = {"architecture": "svhn"} | changes
    return kind(**changes)


def steps(model: AlternatingGAN, batch: object, times: int = 1) -> dict[str, float]:
    """What the last of these training steps says; the optimizers are made once."""
    if not hasattr(model, "made"):
        model.made = made = model.configure_optimizers()
        model.optimizers, model.manual_backward = lambda: made, lambda loss: loss.backward()
    for _ in range(times):
        said = model.training_step(batch, 0)
    return {name: value.item() for name, value in said.items()}


def colours(n: int, seed: int = 0, side: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def digits(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 28, 28, generator=generator), torch.arange(n) % 10


def weights(network: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# --- networks


@pytest.mark.parametrize(
    ("architecture", "side", "latent_dim", "features", "generator", "discriminator"),
    [
        ("64", 64, 100, None, 18_885_760, 17_232_768),  # 18.9 and 17.2 million
        ("imagenet32", 32, 256, 28_672, 6_690_688, 4_586_112),
        ("svhn", 32, 100, 7_168, 1_446_976, 1_033_664),
    ],
)
def test_networks_have_the_sizes_of_the_paper(
    architecture: str, side: int, latent_dim: int, features: int | None, generator: int,
    discriminator: int,
) -> None:  # fmt: skip
    model = ready(architecture=architecture)

    made = model.generator(torch.rand(2, latent_dim))

    assert (size(model.generator), size(model.discriminator)) == (generator, discriminator)
    assert made.shape == (2, 3, side, side)
    assert -1 < made.min() < 0 < made.max() < 1
    assert model.discriminator(made).shape == (2,)
    if features:
        assert model.discriminator.features(made).shape == (2, features)


def test_the_conditional_networks_take_labels_at_every_layer() -> None:
    """Their sizes by hand: ten more inputs in each of four layers."""
    model = ready(ConditionalDCGAN)

    assert size(model.generator) == 110 * 1024 + 1034 * 6272 + 25 * (138 * 64 + 74)
    assert size(model.discriminator) == 25 * (11 * 64 + 74 * 128) + (6272 + 10) * 1024 + 1034
    z = torch.rand(4, 100)
    y = torch.arange(4)
    made = model.generator(z, y)
    assert made.shape == (4, 1, 28, 28)
    assert 0 < made.min() < made.max() < 1
    assert model.discriminator(made, y).shape == (4,)


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_each_layer_learns_from_the_labels_that_it_is_told(player: str) -> None:
    """The last ten inputs of a layer are the labels': only those there have a gradient."""
    network = getattr(ready(ConditionalDCGAN), player)
    x = torch.rand(4, 100) if player == "generator" else digits(4)[0]

    network(x, torch.tensor([3, 7, 7, 3])).square().sum().backward()

    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    gradients = [m.weight.grad[:, -10:] for m in layers]
    layers = [m for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    gradients += [m.weight.grad[-10:].movedim(0, 1) for m in layers]
    assert len(gradients) == 4
    for of in gradients:
        told = of.movedim(1, 0).flatten(1).abs().sum(1)
        assert told.nonzero().flatten().tolist() == [3, 7]


def test_labels_are_constant_maps() -> None:
    y = F.one_hot(torch.tensor([2, 0]), 10).float()

    maps = with_labels(torch.zeros(2, 3, 5, 5), y)

    assert maps.shape == (2, 13, 5, 5)
    assert torch.equal(maps[0].sum((1, 2)).nonzero(), torch.tensor([[5]]))
    assert torch.equal(maps[1, 3], torch.ones(5, 5))
    assert torch.equal(with_labels(torch.zeros(2, 3), y)[:, 3:], y)


@pytest.mark.parametrize("kind", [DCGAN, ConditionalDCGAN])
def test_weights_are_drawn_as_in_the_code_and_there_are_no_biases(kind: type) -> None:
    model = ready(kind)

    layers = list(model.modules())
    assert all(getattr(m, "bias", None) is None for m in layers if not isinstance(m, BatchNorm))
    drawn = [m for m in layers if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    for layer in drawn:
        n = layer.weight.numel()
        assert layer.weight.detach().std() == pytest.approx(0.02, abs=0.02 * 4 / n**0.5)
    norms = [m for m in layers if isinstance(m, BatchNorm)]
    assert {m.eps for m in norms} == {1e-8}
    for m in norms:
        assert (m.weight is None) == (m.bias is None) == (kind is ConditionalDCGAN)
    if kind is DCGAN:
        gamma = torch.cat([m.weight.detach() for m in norms])
        assert gamma.mean() == pytest.approx(1, abs=0.002)
        assert gamma.std() == pytest.approx(0.02, rel=0.1)


def test_what_is_normalised(small: None) -> None:
    """All but the generator's last layer and the discriminator's first (Sec. 3); each unit of the
    flat first layer by itself, not each map."""
    model = ready()
    [[_, flat, *_], d] = [list(n) for n in (model.generator, model.discriminator.blocks)]
    seen = []
    flat.register_forward_hook(lambda layer, args, out: seen.append(out))

    model.generator(torch.rand(40, 5))

    assert seen[0].shape == (40, 6 * 16)
    shift = (seen[0].mean(0) / seen[0].std(0, correction=0)).abs()
    assert shift.max() < 1e-4
    assert [sum(isinstance(m, BatchNorm) for m in block) for block in d] == [0, 1, 1]
    assert isinstance(model.generator[-1], nn.Tanh)
    assert not isinstance(model.generator[-2], BatchNorm)


def test_slopes_and_rectifiers(small: None) -> None:
    model = ready()

    kinds = {type(m) for m in model.generator if not list(m.parameters())}
    assert kinds == {nn.ReLU, nn.Unflatten, nn.Tanh}
    assert {b[-1].negative_slope for b in model.discriminator.blocks} == {0.2}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(DCGAN, architecture="128"), "architecture='128'"),
        (partial(DCGAN, latent="gauss"), "latent='gauss'"),
        (partial(FeatureDCGAN, draws=0), "draws=0: use 1 or more"),
        (partial(ConditionalDCGAN, samples=()), r"samples=\[\]"),
        (partial(ConditionalDCGAN, samples=(5, 0)), r"samples=\[5, 0\]"),
    ],
)
def test_what_cannot_be_is_refused(make: partial, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


# --- the game


@pytest.mark.parametrize("kind", [DCGAN, ConditionalDCGAN])
def test_losses_at_zero_logits(kind: type, small: None) -> None:
    """log 2 for the generator, 2 log 2 for the discriminator; one step of the generator's moves no
    logit of a last layer of zeros."""
    model = ready(kind)
    nn.init.zeros_(model.discriminator.last.weight)
    batch = digits(6) if kind is ConditionalDCGAN else colours(6)

    first, second = steps(model, batch), steps(model, batch)

    assert first["train/loss_generator"] == pytest.approx(2 * math.log(2))  # every other minibatch
    assert second["train/loss_discriminator"] == pytest.approx(2 * 2 * math.log(2))
    assert first["train/loss_discriminator"] == second["train/loss_generator"] == 0


@pytest.mark.parametrize(("kind", "units"), [(DCGAN, 256 * 16), (ConditionalDCGAN, 1024)])
@torch.no_grad()
def test_losses_of_untrained_networks(kind: type, units: int) -> None:
    """Near log 2 and 2 log 2, but not there, as weights of N(0, 0.02^2) make no small logits.

    The last layer adds up `units` that are normalised and rectified, E[h^2] = (1 + 0.2^2) / 2. Its
    sum has the standard deviation 0.02 sqrt(0.52 units): 0.92 in the network for SVHN, 0.46 for
    digits. To second order a loss is log 2 -+ l / 2 + l^2 / 8 of its logits l. So D's, of real and
    generated images, is above 2 log 2 in the mean; and G's goes up and down from network to
    network, as all its logits share a part.
    """
    logits, losses = [], []
    for seed in range(4):
        model = ready(kind, seed)
        x, *told = digits(32) if kind is ConditionalDCGAN else (colours(32),)
        z = model.latent(32)
        logits.append(model.discriminator(model.generator(z, *told), *told))
        losses.append([model.discriminator_loss(x, z, *told), model.generator_loss(z, *told)])

    spread = torch.stack(logits).square().mean().sqrt().item()
    d, g = torch.tensor(losses).unbind(1)
    assert spread == pytest.approx(0.02 * (0.52 * units) ** 0.5, rel=0.25)
    assert d.mean().item() == pytest.approx(2 * math.log(2) + spread**2 / 4, abs=0.15)
    assert ((d > 1.3) & (d < 1.8)).all()
    assert ((g > 0.35) & (g < 1.3)).all()
    assert g.std() > 0.02


def test_losses_are_those_of_probabilities(small: None) -> None:
    model, x = ready().double(), colours(6).double()
    z = torch.rand(6, 5, dtype=torch.float64)
    fake = model.generator(z)
    p_fake = model.discriminator(fake).sigmoid()
    p_real = model.discriminator(2 * x - 1).sigmoid()

    torch.testing.assert_close(model.generator_loss(z), -p_fake.log().mean())
    expected = -p_real.log().mean() - (1 - p_fake).log().mean()
    torch.testing.assert_close(model.discriminator_loss(x, z), expected)


def test_real_and_generated_images_are_batches_of_their_own(small: None) -> None:
    model, x = ready(), colours(6)
    z = model.latent(6)
    apart = model.discriminator_loss(x, z)

    logits = model.discriminator(torch.cat([2 * x - 1, model.generator(z)]))
    together = F.softplus(-logits[:6]).mean() + F.softplus(logits[6:]).mean()

    assert (apart - together).abs() > 1e-4


@pytest.mark.parametrize("kind", [DCGAN, ConditionalDCGAN])
def test_they_take_turns_and_leave_each_other_alone(kind: type, small: None) -> None:
    model = ready(kind)
    batch = digits(6) if kind is ConditionalDCGAN else colours(6)
    players = (model.generator, model.discriminator)

    for turn in range(4):
        before = [weights(player) for player in players]
        steps(model, batch)
        moved = [not equal(weights(p), b) for p, b in zip(players, before, strict=True)]
        assert moved == [turn % 2 == 0, turn % 2 == 1]  # the generator first
        assert all(p.requires_grad for p in model.parameters())


def test_after_n_minibatches_each_has_half_as_many_steps(small: None) -> None:
    model = ready()

    steps(model, colours(4), times=7)

    counts = [{int(s["step"]) for s in o.state.values()} for o in model.made]
    assert counts == [{4}, {3}]


@pytest.mark.parametrize(("minibatches", "epochs"), [(4, 1), (5, 2), (1, 2)])
def test_an_epoch_s_losses_are_means_over_their_own_minibatches(
    minibatches: int, epochs: int, small: None
) -> None:
    """Of an odd number, too, whoever begins; each epoch of one minibatch has one player's."""
    model = ready()
    said: list[dict[str, float]] = []
    losses: list[dict[str, float]] = []
    for player in ("generator", "discriminator"):

        def kept(*given: torch.Tensor, player: str = player) -> torch.Tensor:
            loss = getattr(DCGAN, f"{player}_loss")(model, *given)
            losses.append({f"train/loss_{player}": loss.item()})
            return loss

        setattr(model, f"{player}_loss", kept)

    class Listening(pl.Callback):
        def on_train_batch_end(self, trainer, model, outputs, batch, index) -> None:
            said.append({name: value.item() for name, value in outputs.items()})

    batches = torch.utils.data.DataLoader(colours(4 * minibatches), batch_size=4)
    fits = trainer(epochs)
    fits.callbacks.append(Listening())
    fits.fit(model, batches)

    turns = ["generator", "discriminator"] * epochs * minibatches
    assert [list(loss) for loss in losses] == [
        [f"train/loss_{player}"] for player in turns[: epochs * minibatches]
    ]
    for at in range(0, epochs * minibatches, minibatches):
        epoch, own = said[at : at + minibatches], losses[at : at + minibatches]
        for name in {name for loss in own for name in loss}:
            found = sum(step[name] for step in epoch) / minibatches
            values = [loss[name] for loss in own if name in loss]
            assert found == pytest.approx(sum(values) / len(values), rel=1e-6)
        if minibatches == 1:
            assert epoch[0].keys() == own[0].keys()
        if minibatches % 2 == 0:  # to the bit
            for step, loss in zip(epoch, own, strict=True):
                assert {k: v for k, v in step.items() if v} == {k: 2 * v for k, v in loss.items()}


def test_every_minibatch_has_a_fresh_z(small: None) -> None:
    model, seen = ready(), []
    model.generator.register_forward_pre_hook(lambda net, args: seen.append(args[0]))

    steps(model, colours(4), times=4)

    assert len({bytes(z.numpy()) for z in seen}) == 4


def test_a_checkpoint_knows_whose_turn_it_is(small: None) -> None:
    model, other, checkpoint = ready(), ready(), {}
    steps(model, colours(4), times=3)

    model.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(checkpoint)

    before = weights(other.generator)
    steps(other, colours(4))
    assert equal(weights(other.generator), before)  # the fourth is the discriminator's


def test_weight_decay_is_part_of_the_gradient(small: None) -> None:
    """Adam's first step is lr g / (|g| + eps), with g + decay * p for g: a decay that outweighs the
    gradient turns it to the sign of the weight. A decoupled one would shrink weights instead."""
    model = ready(weight_decay=1e6, lr=1e-3)
    before = weights(model.generator)

    steps(model, colours(4))

    for p, b in zip(model.generator.parameters(), before, strict=True):
        decays = b != 0  # shifts begin there
        torch.testing.assert_close(p[decays], (b - 1e-3 * b.sign())[decays], atol=1e-6, rtol=0)


def test_one_step_of_adam_by_hand(small: None) -> None:
    model, decay = ready(lr=1e-3, weight_decay=0.1).double(), 0.1
    before = weights(model.generator)
    torch.manual_seed(5)
    steps(model, colours(4).double())

    other = ready(lr=1e-3).double()
    torch.manual_seed(5)
    other.generator_loss(other.latent(4)).backward()
    for p, b, q in zip(
        model.generator.parameters(), before, other.generator.parameters(), strict=True
    ):
        g = q.grad + decay * b
        torch.testing.assert_close(p.detach(), b - 1e-3 * g / (g.abs() + 1e-8))
    assert {o.defaults["betas"] for o in model.made} == {(0.5, 0.999)}


def test_lr_falls_linearly_after_the_constant_epochs() -> None:
    """100 epochs and one more are constant; the last of 200 has a hundredth (code)."""
    model = ready(ConditionalDCGAN)
    optimizers = model.configure_optimizers()
    model.optimizers = lambda: optimizers

    class Trainer:
        current_epoch = 0

    found = {}
    model._trainer = trainer = Trainer()
    for trainer.current_epoch in (0, 99, 100, 101, 150, 199, 250):
        model.on_train_epoch_start()
        found[trainer.current_epoch] = {g["lr"] for o in optimizers for g in o.param_groups}

    factors = {0: 1, 99: 1, 100: 1, 101: 0.99, 150: 0.5, 199: 0.01, 250: 0}
    assert {e: max(lr) for e, lr in found.items()} == pytest.approx(
        {e: 2e-4 * factor for e, factor in factors.items()}
    )
    assert all(len(lr) == 1 for lr in found.values())


@pytest.mark.parametrize("decay", [(5, 5), (6, 5), (-1, 5)])
def test_a_decay_that_is_none_is_refused_before_the_training(decay: tuple[int, int]) -> None:
    with pytest.raises(MisconfigurationException, match=r"decay_epochs=\[.*use \[first, last\]"):
        ready(decay_epochs=decay).on_fit_start()


@pytest.mark.parametrize(("latent", "std"), [("uniform", 3**-0.5), ("normal", 1)])
def test_z_is_uniform_or_normal(latent: str, std: float) -> None:
    model = ready(latent=latent)
    own = model._noise(400, torch.Generator().manual_seed(0))

    for z in (model.latent(400), own):
        assert z.shape == (400, 100)
        assert z.mean() == pytest.approx(0, abs=0.02)
        assert z.std() == pytest.approx(std, abs=0.02)
        assert (z.abs().max() <= 1) == (latent == "uniform")


# --- samples


@pytest.mark.parametrize("kind", [DCGAN, ConditionalDCGAN])
def test_samples_are_drawn_beside_the_training(kind: type, small: None) -> None:
    model = ready(kind).eval()
    state = torch.get_rng_state()

    x = model.sample(130)

    assert x.shape == ((130, 1, 28, 28) if kind is ConditionalDCGAN else (130, 3, 32, 32))
    assert 0 <= x.min() < x.max() <= 1
    assert torch.equal(model.sample(130), x)
    assert torch.equal(model.sample(50), x[:50])
    assert not torch.equal(model.sample(130, seed=1), x)
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_are_normalised_by_their_own_batch(small: None) -> None:
    """In eval mode as in training: no running averages."""
    model, z = ready().eval(), torch.rand(8, 5)

    assert torch.equal(model.images(z), model.train().images(z))
    assert (model.images(z)[:4] - model.images(z[:4])).abs().max() > 1e-4


def test_digits_come_in_turn() -> None:
    model, said = ready(ConditionalDCGAN), []
    model.generator.register_forward_pre_hook(lambda net, args: said.append(args[1]))

    model.sample(256)

    assert torch.equal(torch.cat(said), torch.arange(256) % 10)


@pytest.mark.parametrize("latent", ["uniform", "normal"])
def test_interpolations_are_a_series(latent: str, small: None) -> None:
    """Each row ends where the next begins, up to those beside it in the batch."""
    model = ready(latent=latent)

    rows = model.pictures(colours(1))["interpolations"]

    assert rows.shape == (8, 10, 3, 32, 32)
    ends, starts = rows[:-1, -1], rows[1:, 0]
    assert (ends - starts).abs().mean() < 0.3 * (rows[:-1, 0] - starts).abs().mean()


def test_pictures_of_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = ready(ConditionalDCGAN), []
    model.generator.register_forward_pre_hook(lambda net, args: seen.append(args))

    found = model.pictures(digits(1)[0])

    assert {name: x.shape for name, x in found.items()} == {
        "digits": (10, 10, 1, 28, 28),
        "interpolations": (10, 10, 1, 28, 28),
        "arithmetic": (5, 10, 1, 28, 28),
        "interpolations_lean": (10, 10, 1, 28, 28),
    }
    (z, columns), (way, rows), *_ = seen
    z, way = (points[:100].unflatten(0, (10, 10)) for points in (z, way))
    assert len(seen[0][0]) == 128
    assert torch.equal(z, z[:, :1].expand_as(z))
    assert torch.equal(columns[:100], torch.arange(10).repeat(10))
    assert torch.equal(rows[:100], torch.arange(10).repeat_interleave(10))
    torch.testing.assert_close(
        way[:, 1:] - way[:, :-1], (way[:, 1:2] - way[:, :1]).expand(-1, 9, -1)
    )


# --- features


def test_features_are_the_maxima_of_rectified_maps(small: None) -> None:
    d = ready().discriminator
    x = 2 * colours(3) - 1

    found = d.features(x)

    h = F.leaky_relu(F.conv2d(x, d.blocks[0][0].weight, stride=2, padding=2), 0.2)
    first = torch.stack([h[:, :, i : i + 4, j : j + 4].amax((2, 3)) for i in (0, 4, 8, 12)
                         for j in (0, 4, 8, 12)], -1).flatten(1)  # fmt: skip
    assert found.shape == (3, 16 * (4 + 6 + 8))
    torch.testing.assert_close(found[:, : 16 * 4], first)
    torch.testing.assert_close(found[:, -16 * 8 :], d.maps(x)[-1].flatten(1))


def test_frozen_statistics_by_hand(small: None) -> None:
    """Averages of batches' moments, each layer behind layers that the batch itself normalises."""
    d = ready().double().discriminator
    batches = [(2 * colours(5, seed) - 1).double() for seed in range(3)]
    moments: list[list[tuple]] = [[], []]
    for x in batches:
        h = F.leaky_relu(d.blocks[0][0](x), 0.2)
        for i, (conv, norm, _) in enumerate(list(d.blocks)[1:]):
            h = conv(h)
            mean = h.mean((0, 2, 3), keepdim=True)
            var = (h - mean).square().mean((0, 2, 3), keepdim=True)
            moments[i].append((mean.flatten(), var.flatten()))
            h = (h - mean) / (var + 1e-8).sqrt()
            h = F.leaky_relu(h * norm.weight[:, None, None] + norm.bias[:, None, None], 0.2)

    found = d.statistics(batches)

    for (mean, var), of_layer in zip(found, moments, strict=True):
        torch.testing.assert_close(mean, sum(m for m, _ in of_layer) / 3)
        torch.testing.assert_close(var, sum(v for _, v in of_layer) / 3)


def test_frozen_features_depend_on_their_image_alone(small: None) -> None:
    d = ready().eval().discriminator
    x = 2 * colours(6) - 1
    statistics = d.statistics([x, 2 * colours(6, 1) - 1])

    with d.frozen(statistics):
        torch.testing.assert_close(d.features(x[:2]), d.features(x)[:2])
    assert (d.features(x[:2]) - d.features(x)[:2]).abs().max() > 1e-3


class Toy(Labelled):
    """Ten patterns under noise, in place of a data set's files."""

    dataset = "toy"

    def prepare_data(self) -> None:
        self.provided = files.DataFiles("toy", Path(), {}, "toy", "0" * 64, deviations=())

    def read(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        rng = np.random.RandomState(0)
        patterns = rng.randint(0, 256, (10, 3, 32, 32))
        sets = []
        for n in (300, 120):
            y = rng.randint(0, 10, n)
            x = 0.5 * patterns[y] + rng.normal(0, 30, (n, 3, 32, 32)) + 60
            sets.append((x.clip(0, 255).astype(np.uint8), y))
        return tuple(sets)


def trainer(epochs: int = 1) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip


def arrays(batches: list[dict[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    return {name: torch.cat([b[name] for b in batches]).numpy() for name in batches[0]}


def test_the_test_s_error_is_that_of_what_is_kept(small: None) -> None:
    pytest.importorskip("sklearn")
    model = ready(FeatureDCGAN, per_class=5, validation=100, draws=3, trials=1)
    data, fits = Toy(batch_size=30), trainer()

    fits.fit(model, datamodule=data)
    [said] = fits.test(model, datamodule=data, verbose=False)
    kept = arrays(fits.predict(model, datamodule=data))

    assert model.minibatches == 10
    assert kept["predicted"].shape == (120, 3)
    for array in ("predicted", "predicted_random_features"):
        name = array.removeprefix("predicted")
        mean = DrawnErrorPercent(3, 120, array=array).of(kept)
        spread = DrawnErrorPercent(3, 120, "spread", array).of(kept)
        assert said[f"test/error_percent{name}"] == pytest.approx(mean, abs=1e-3)
        assert said[f"test/error_percent_spread{name}"] == pytest.approx(spread, abs=1e-3)
        assert mean < 80  # chance is 90
    ours, untrained = (one.network for one in model.classifiers.values())
    assert ours is model.discriminator
    assert not equal(weights(ours)[:1], weights(untrained)[:1])

    before = model.classifiers[""].svms.weights
    fits = trainer()
    fits.fit(model, datamodule=data)  # what was learned of other weights is not said of these
    fits.predict(model, datamodule=data)
    assert not np.array_equal(model.classifiers[""].svms.weights, before)


def test_each_seed_has_a_control_of_its_own(small: None) -> None:
    """And the same one when its run is resumed, whatever was drawn since it was built."""
    pytest.importorskip("sklearn")
    data, controls = Toy(batch_size=30), []
    for seed, drawn in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(seed)  # as the harness does
        model = FeatureDCGAN(per_class=5, validation=100, draws=1, trials=1)
        first = weights(model.generator)
        torch.manual_seed(1000 + drawn)
        trainer().predict(model, datamodule=data)
        controls.append(weights(model.classifiers["_random_features"].network))
        torch.manual_seed(seed)
        assert equal(weights(DCGAN("svhn", "normal").generator), first)  # draws nothing itself

    assert equal(controls[0], controls[1])
    assert not equal(controls[0], controls[2])


@pytest.mark.parametrize(
    ("kind", "images", "said"),
    [
        (partial(DCGAN, "64"), colours(4), "of 3 x 64 x 64 numbers, the data's have 3 x 32 x 32"),
        (partial(DCGAN, "svhn"), colours(4)[:, :1], "have 1 x 32 x 32.*choose another arch"),
        (ConditionalDCGAN, colours(4), "of 1 x 28 x 28 numbers.*Give images of that size.$"),
    ],
)
def test_images_of_another_size_are_told_before_the_training(
    kind: partial, images: torch.Tensor, said: str, small: None
) -> None:
    model = kind()
    batches = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, torch.arange(4)), batch_size=4
    )

    with pytest.raises(MisconfigurationException, match=said):
        trainer().fit(model, batches)

    assert model.minibatches == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"validation": 300}, "300 validation images"), ({"per_class": 40}, "40 labels a class")],
)
def test_what_would_fail_after_the_training_fails_before(
    changes: dict, said: str, small: None
) -> None:
    model = ready(FeatureDCGAN, **{"per_class": 5, "validation": 100} | changes)

    with pytest.raises(MetricError, match=said):
        trainer().fit(model, datamodule=Toy(batch_size=30))

    assert model.minibatches == 0


def test_svms_learn_from_images_that_they_are_shown(small: None) -> None:
    """Each draw by itself, on features as scikit-learn would get them."""
    svm = pytest.importorskip("sklearn.svm")
    data = Toy(batch_size=30)
    data.prepare_data()
    data.setup("fit")
    d = ready().eval().discriminator
    x, y = data.images("train"), data.targets("train")

    made = dcgan.Classifiers(d, x, y, data.form, per_class=5, validation=100, draws=1, trials=1)

    order = np.random.RandomState(42)
    rest = order.permutation(300)[100:]  # those held out say nothing of statistics either
    shown = [2 * data.form(x[rest[at : at + 128]]) - 1 for at in (0, 128)]
    with torch.no_grad(), d.frozen(d.statistics(shown)):
        features = d.features(2 * data.form(x) - 1).numpy()
    np.testing.assert_allclose(made.features(data.form(x)), features, atol=1e-5)
    for _ in range(2):  # one draw chooses C
        shuffled = order.permutation(rest)
        drawn = np.concatenate([shuffled[y.numpy()[shuffled] == k][:5] for k in range(10)])
    plain = svm.LinearSVC(C=made.svms.cost, random_state=0).fit(features[drawn], y.numpy()[drawn])
    agree = made.predict(data.form(x))[:, 0] == plain.predict(features)
    assert agree.mean() > 0.99  # but for rounding


# --- digits as a training set


def test_each_size_is_the_beginning_of_the_next() -> None:
    model, (queries, _) = ready(ConditionalDCGAN).eval(), digits(20)

    found = model.nearest_labels(queries, [3, 130, 200])

    x = torch.cat([images for images, _ in model.batches(200, seed=2)])
    distance = torch.cdist(queries.flatten(1).double(), x.flatten(1).double())
    for column, n in zip(found.unbind(1), (3, 130, 200), strict=True):
        assert torch.equal(column, distance[:, :n].argmin(1) % 10)


def test_errors_of_digits_are_those_of_what_is_kept(tiny: Path) -> None:
    model = ready(ConditionalDCGAN, samples=(60, 20), decay_epochs=None)
    data, fits = LabelledMNIST(batch_size=100, validation=100, limit=250), trainer()

    fits.fit(model, datamodule=data)
    validated = dict(fits.callback_metrics)
    [said] = fits.test(model, datamodule=data, verbose=False)
    kept = arrays(fits.predict(model, datamodule=data))

    assert model.minibatches == 2
    assert kept["predicted"].shape == (250, 2)
    for n in (20, 60):
        error = NearestNeighbourErrorPercent(n, 250).of(kept)
        assert said[f"test/error_percent_{n}"] == pytest.approx(error, abs=1e-3)
    assert 0 <= validated["val/error_percent_1024"] <= 100


def test_predictions_can_be_had_without_a_test(tiny: Path) -> None:
    model = ready(ConditionalDCGAN, samples=(20,))
    data = LabelledMNIST(batch_size=100, validation=100, limit=250)

    kept = arrays(trainer().predict(model, datamodule=data))

    assert kept["predicted"].shape == (250, 1)


def test_predictions_are_of_the_weights_of_now(tiny: Path) -> None:
    model = ready(ConditionalDCGAN, samples=(60,), decay_epochs=None, lr=0.01)
    data = LabelledMNIST(batch_size=100, validation=100, limit=250)
    trainer().test(model, datamodule=data, verbose=False)
    before = torch.cat(list(model.predicted))

    fits = trainer()
    fits.fit(model, datamodule=data)
    kept = arrays(fits.predict(model, datamodule=data))

    x = torch.cat([x for x, _ in data.test_dataloader()])
    assert np.array_equal(kept["predicted"], model.nearest_labels(x, [60]).numpy())
    assert not np.array_equal(kept["predicted"], before.numpy())


# --- several processes


def one_step() -> list[torch.Tensor]:
    """Weights after an update of each network, without labels and with, from the same state."""
    dcgan.ARCHITECTURES["svhn"] = SMALL  # in a process of its own, too
    x, y = digits(8)
    plain = two_steps(ready(weight_decay=1e-3).double(), (colours(8).double(), y))
    told = two_steps(ready(ConditionalDCGAN, latent_dim=4).double(), (x.double(), y))
    return plain + [p[:10].clone() for p in told]  # whole ones are much to hand over


def test_two_processes_take_the_step_of_one(small: None) -> None:
    alone, (one, other) = one_step(), run_in(2, one_step)

    for a, b, c in zip(alone, one, other, strict=True):
        torch.testing.assert_close(b, c, rtol=0, atol=0)
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


# --- whole runs


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny SVHN, a tiny CIFAR-10 and a folder of images of 64 x 64."""
    rng = np.random.default_rng(0)
    manifest = manifests.shipped()
    records = rng.integers(0, 256, (6, 56, 3073), dtype=np.uint8)
    records[:, :, 0] = np.arange(56) % 10
    cifar.write(tmp_path, records)
    cifar.describe(manifest["cifar10"]["editions"][0], tmp_path)
    svhn.write(tmp_path, manifest["svhn"]["editions"][0], train=280, test=60)
    (tmp_path / "bedrooms").mkdir()
    for i in range(40):
        image = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        image.save(tmp_path / f"bedrooms/{i:02d}.png")
    manifests.use(manifest, tmp_path, monkeypatch)
    monkeypatch.setenv("LIT_GEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LIT_GEN_OFFLINE", "1")
    return tmp_path


def smoke(name: str, **data: object) -> Run:
    spec = find(name)
    changes = {"data": {"init_args": data}} if data else {}
    return Run(
        spec, spec.default_setting, spec.default_protocol, spec.seeds[0], changes, smoke=True
    )


@pytest.mark.parametrize(
    ("name", "data", "drawn"),
    [
        ("dcgan_svhn", {}, 2),
        ("dcgan_cifar10", {}, 2),
        ("dcgan_bedrooms", {"folder": "bedrooms"}, None),
    ],
)
def test_a_reproduction_runs_to_its_end(
    name: str, data: dict, drawn: int | None, small: None, pictures: Path
) -> None:
    """Networks are small; all else is as its YAML says."""
    pytest.importorskip("sklearn")

    record = execute(smoke(name, **data), pictures / "runs", "cpu", 1)

    assert record.status == "finished", record.error
    losses = {f"train/loss_{player}" for player in ("generator", "discriminator")}
    assert losses <= record.result["curve"].keys()
    found = {path.name for path in pictures.glob("runs/*/*/**/*.png")}
    assert {"samples.png", "interpolations.png", "nearest.png"} <= found
    assert ("test/error_percent_random_features" in record.result["metrics"]) == bool(drawn)
    if drawn:
        (kept,) = pictures.glob(f"runs/*/*/{PREDICTIONS}")
        assert np.load(kept)["predicted"].shape[1] == drawn


def test_a_folder_of_other_images_is_the_user_s_mistake(small: None, pictures: Path) -> None:
    run = smoke("dcgan_bedrooms", folder="bedrooms", size=32)
    for path in (pictures / "bedrooms").iterdir():
        with Image.open(path) as image:
            image.resize((32, 32)).save(path)

    with pytest.raises(UserError, match=r"3 x 64 x 64 numbers.*--data\.size 64"):
        execute(run, pictures / "runs", "cpu", 1)

    assert not list(pictures.glob("runs/*/*/record.json"))


# --- what is said of the paper's claims


def test_features_of_other_images_say_nothing_about_the_paper_s() -> None:
    """A run on CIFAR-10 gets its number, and the claim about ImageNet's features a reason."""
    spec = find("dcgan_cifar10")
    found = certificate.metric(spec, "not_the_paper_s").judge(sample=None, data=None)
    record = Record(
        reproduction=spec.name, setting="all", protocol=spec.default_protocol,
        seed={"data": 1, "model": 1}, config={}, spec_hash="", deviations=[], max_epochs=1,
        status="finished", result={"metrics": {"test/error_percent": 26.2}},
        provenance={"not_beside": found.notes},
    )  # fmt: skip

    [said] = certificate.judge_all(spec, spec.claims[0], [record])

    assert (said.status, said.mean) == ("inconclusive", None)
    assert "learned from CIFAR-10 itself" in said.sentence
    assert any("not the paper's experiment" in deviation for deviation in said.deviations)


def test_one_run_of_ten_million_images_has_both_numbers_of_table_3() -> None:
    """One of 50,000 claims its own alone: its weights are the same, seed by seed."""
    spec = find("dcgan_mnist")

    claims = {(c.setting, c.metric): c.value for c in spec.claims}

    assert claims == {
        ("images_50k", "test/error_percent_50000"): 2.98,
        ("images_10m", "test/error_percent_10000000"): 1.48,
    }
    for setting, logged in (("images_50k", [50_000]), ("images_10m", [50_000, 10_000_000])):
        arguments = spec.merged(setting, "release")["model"]["init_args"]
        assert ConditionalDCGAN(**arguments).samples == logged
