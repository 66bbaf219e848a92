"""InfoGAN: its bound on the mutual information, who learns from it, and the tables of App. C."""

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from processes import run_in, two_steps
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from lit_gen.datamodules.passes import MNISTInPasses
from lit_gen.harness import pictures
from lit_gen.harness.run import Run, execute, quiet_lightning
from lit_gen.harness.spec import Seed, find
from lit_gen.harness.verdicts.certificate import contradiction
from lit_gen.metrics.clustering import CategoriesOwned, ClusterError
from lit_gen.metrics.updates import Late, Peak
from lit_gen.nn import draws
from lit_gen.nn.batch_norm import BatchNorm
from lit_gen.papers import infogan
from lit_gen.papers.infogan import ARCHITECTURES, Codes, Conv, InfoGAN, log_d
from lit_gen.papers.infogan_digits import DigitInfoGAN

SMALL = replace(
    ARCHITECTURES["mnist"],
    trunk=(Conv(4, norm=False), Conv(6)),
    trunk_units=16,
    head_units=8,
    dense=16,
    maps=(6, 7),
    up=(Conv(4),),
)
# of generator and discriminator: weights and biases by App. C, and two numbers for each unit that
# is normalised
NUMBERS = {
    "mnist": (
        75 * 1024 + 1025 * 6272 + 128 * 64 * 16 + 64 + 64 * 16 + 1 + 2 * (1024 + 6272 + 64),
        17 * 64 + 64 * 128 * 16 + 128 + 6273 * 1024 + 1025
        + 1025 * 128 + 129 * 14 + 2 * (128 + 1024 + 128),
    ),
    "svhn": (
        169 * 1792 + 16 * (448 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + 256 + 128 + 64 + 3
        + 2 * (1792 + 256),
        (3 * 16 + 1) * 64 + 16 * (64 * 128 + 128 * 256) + 128 + 256 + 4097
        + 4097 * 128 + 129 * 48 + 2 * (128 + 256 + 128),
    ),
    "celeba": (
        229 * 1792 + 16 * (448 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + 256 + 128 + 64 + 3
        + 2 * (1792 + 256),
        (3 * 16 + 1) * 64 + 16 * (64 * 128 + 128 * 256) + 128 + 256 + 4097
        + 4097 * 128 + 129 * 100 + 2 * (128 + 256 + 128),
    ),
    "faces": (
        134 * 1024 + 1025 * 8192 + 128 * 64 * 16 + 64 + 64 * 16 + 1 + 2 * (1024 + 8192 + 64),
        17 * 64 + 64 * 128 * 16 + 128 + 8193 * 1024 + 1025 + 1025 * 10 + 2 * (128 + 1024),
    ),
    "chairs": (
        190 * 1024 + 1025 * 16384 + 16 * (2 * 256 * 256 + 256 * 128 + 128 * 64 + 64)
        + 256 + 256 + 128 + 64 + 1 + 2 * (1024 + 16384 + 256 + 256 + 128 + 64),
        17 * 64 + 16 * (64 * 128 + 128 * 256 + 2 * 256 * 256) + 128 + 3 * 256 + 16385 * 1024 + 1025
        + 1025 * 62 + 2 * (128 + 3 * 256 + 1024),
    ),
}  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same layers with a few units each."""
    monkeypatch.setitem(infogan.ARCHITECTURES, "mnist", SMALL)


def ready(kind: type[InfoGAN] = InfoGAN, seed: int = 0, **options: object) -> InfoGAN:
    """A model that can take steps without a trainer."""
    torch.manual_seed(seed)
    model = kind(**options)
    optimizers = model.configure_optimizers()
    model.optimizers, model.manual_backward = lambda: optimizers, lambda loss: loss.backward()
    return model


def images(n: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def weights(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def moved(module: nn.Module, before: list[Tensor]) -> list[bool]:
    return [not torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True)]


def gradients(module: nn.Module, loss: Tensor) -> list[Tensor]:
    return torch.autograd.grad(
        loss, list(module.parameters()), allow_unused=True, retain_graph=True
    )


# --- the tables of App. C


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sizes_numbers_and_one_step_of_each_architecture(name: str) -> None:
    model = ready(architecture=name, posterior_std="exp")
    c, side = model.shape.image
    before = [weights(n) for n in (model.generator, model.discriminator)]

    latent = model.latent(3)
    said = model.training_step(torch.rand(3, c, side, side), 0)

    inputs = {"mnist": 74, "svhn": 168, "celeba": 228, "faces": 133, "chairs": 189}
    assert latent.shape == (3, inputs[name])
    made = model.generator(latent)
    assert made.shape == (3, c, side, side)
    assert bool(made.min() < 0) is (name in ("svhn", "celeba"))
    found = [sum(p.numel() for p in n.parameters()) for n in (model.generator, model.discriminator)]
    assert tuple(found) == NUMBERS[name]
    assert all(value.isfinite() for value in said.values())
    for network, was in zip((model.generator, model.discriminator), before, strict=True):
        assert all(moved(network, was)[:1])
    assert 0 <= model.images(latent).min() <= model.images(latent).max() <= 1


def test_weights_are_drawn_as_in_the_code() -> None:
    torch.manual_seed(0)
    model = InfoGAN()
    conv, up = model.discriminator.trunk[2].weight, model.generator[7].weight

    assert conv.abs().max() <= 0.04
    assert conv.std().item() == pytest.approx(0.02 * 0.8796, rel=0.01)  # of a normal cut at 2 sigma
    assert up.abs().max() > 0.04
    assert up.std().item() == pytest.approx(0.02, rel=0.01)
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            assert not layer.bias.any()


def test_the_generator_steps_five_times_as_far() -> None:
    model = InfoGAN()

    d, g = (optimizer.param_groups[0] for optimizer in model.configure_optimizers())

    assert (d["lr"], g["lr"]) == (2e-4, 1e-3)
    assert d["betas"] == g["betas"] == (0.5, 0.999)
    assert d["eps"] == g["eps"] == 1e-8
    assert {id(p) for p in d["params"]} == {id(p) for p in model.discriminator.parameters()}
    assert {id(p) for p in g["params"]} == {id(p) for p in model.generator.parameters()}


@pytest.mark.parametrize("stride", [1, 2])
def test_a_transposed_convolution_is_the_transpose(stride: int) -> None:
    """<conv(x), y> = <x, conv^T(y)> for the same kernels, without biases."""
    x, y = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 5, 8 // stride, 8 // stride).double()
    conv = infogan.SameConv2d(3, 5, stride).double()
    up = infogan.SameConvTranspose2d(5, 3, stride).double()
    up.load_state_dict({"weight": conv.weight, "bias": torch.zeros(3)})

    assert conv(x).shape == y.shape
    torch.testing.assert_close((conv(x) * y).sum(), (x * up(y)).sum())


@pytest.mark.parametrize(
    ("options", "said"),
    [({"architecture": "mnists"}, "architecture='mnists'"),
     ({"posterior_std": "log"}, "posterior_std='log'"),
     ({"categories": [10, 1]}, r"categories=\[10, 1\]"), ({"continuous": -1}, "continuous=-1"),
     ({"noise": -1}, "noise=-1"), ({"categories": [], "continuous": 0}, "needs a code")],
)  # fmt: skip
def test_what_cannot_be_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        InfoGAN(**options)


def test_digits_need_categories() -> None:
    with pytest.raises(ValueError, match="nothing to match"):
        DigitInfoGAN(categories=[])


# --- latent numbers


def test_latents_are_uniform_and_in_the_code_s_order() -> None:
    """z, then a one-hot vector, then two numbers on [-1, 1]: variance 1/3, not a normal's."""
    model = ready()

    z, one_hot, rest = model.latent(4000).split([62, 10, 2], 1)

    assert torch.equal(one_hot.sum(1), torch.ones(4000))
    assert torch.equal(one_hot.sort(1).values[:, :9], torch.zeros(4000, 9))
    assert (one_hot.mean(0) - 0.1).abs().max() < 0.02
    for uniform in (z, rest):
        assert uniform.min() >= -1
        assert uniform.max() <= 1
        assert uniform.var().item() == pytest.approx(1 / 3, rel=0.05)


def test_codes_of_several_kinds() -> None:
    codes = Codes((3, 2), 2, "exp")

    c = codes.of(torch.tensor([[0.0, 0.99, 0.0, 0.75], [0.999999, 0.49, 0.5, 1.0]]))

    expected = [[1, 0, 0, 0, 1, -1, 0.5], [0, 0, 1, 1, 0, 0, 1]]
    torch.testing.assert_close(c, torch.tensor(expected, dtype=c.dtype))
    assert (codes.size, codes.outputs, codes.uniforms) == (7, 9, 4)


def test_each_player_gets_latents_of_its_own(small, monkeypatch) -> None:
    model, drawn = ready(), []

    def rand(*shape: int, **options: object) -> Tensor:
        drawn.append(torch.rand(*shape, **options))
        return drawn[-1]

    monkeypatch.setattr(draws, "rand", rand)
    model.training_step(images(), 0)

    assert [len(u) for u in drawn] == [16, 16]
    assert not torch.equal(*drawn)


# --- the bound


@pytest.mark.parametrize("std", ["one", "exp", "sqrt_exp"])
def test_log_q_is_that_of_distributions(std: str) -> None:
    codes = Codes((4, 3), 2, std)
    torch.manual_seed(0)
    output, u = torch.randn(6, codes.outputs).double(), torch.rand(6, 4).double()
    c = codes.of(u)
    kinds = [output[:, :4], output[:, 4:7]]
    mean, raw = output[:, 7:9], output[:, 9:]
    sigma = {"one": torch.ones_like(raw), "exp": raw.exp(), "sqrt_exp": raw.exp().sqrt()}[std]

    categorical, continuous = codes.information(output, c)

    log_q = sum(
        Categorical(logits=logit).log_prob(part.argmax(1))
        for logit, part in zip(kinds, (c[:, :4], c[:, 4:7]), strict=True)
    )
    expected = log_q + math.log(12)
    torch.testing.assert_close(categorical, expected, rtol=0, atol=1e-6)  # TINY
    expected = Normal(mean, sigma).log_prob(c[:, 7:]).sum(1) + 2 * math.log(2)
    torch.testing.assert_close(continuous, expected)


def test_a_perfect_q_reaches_the_entropy_and_a_wrong_one_falls_below_nought() -> None:
    codes = Codes((10,), 0, "one")
    c = codes.of(torch.rand(32, 1))

    perfect, _ = codes.information(100 * c, c)
    ignorant, _ = codes.information(torch.zeros(32, 10), c)
    wrong, _ = codes.information(100 * c.roll(1, 1), c)

    torch.testing.assert_close(perfect, torch.full((32,), math.log(10)))
    torch.testing.assert_close(ignorant, torch.zeros(32), rtol=0, atol=1e-6)
    torch.testing.assert_close(wrong, torch.full((32,), math.log(1e-8) + math.log(10)))


def test_a_fixed_sigma_bounds_what_continuous_codes_tell() -> None:
    """By the code's entropy, under N(0, 1), it is sum (c^2 - (c - mu)^2)/2, at most 2/6 on average
    (Sec. 7.1's runs); the uniform prior's is lower by a constant."""
    codes = Codes((), 2, "one")
    c = codes.of(torch.rand(100_000, 2))
    constant = 2 * (0.5 * math.log(2 * math.pi) + 1 / 6 - math.log(2))

    def mean(of: Tensor) -> float:
        return codes.information(torch.cat([of, of], 1), c)[1].mean().item() + constant

    assert mean(c) == pytest.approx(1 / 3, abs=0.01)
    assert mean(0.5 * c) < mean(c)
    assert mean(torch.zeros_like(c)) == pytest.approx(0, abs=0.01)


def test_logarithms_of_d_are_bounded_and_add_up() -> None:
    logits = torch.tensor([-200.0, -3.0, 0.0, 3.0, 200.0], requires_grad=True)

    real, fake = log_d(logits)

    torch.testing.assert_close(real.exp() + fake.exp(), torch.ones(5), rtol=0, atol=1e-6)
    assert real.min().item() == pytest.approx(math.log(1e-8))
    torch.testing.assert_close(real, fake.flip(0))
    (real + fake).sum().backward()
    assert logits.grad.isfinite().all()


def test_an_untrained_model_s_losses() -> None:
    model = ready(lr_discriminator=0.0, lr_generator=0.0)

    said = {name: value.item() for name, value in model.training_step(images(64), 0).items()}

    information = said["train/mutual_information"] + said["train/mutual_information_continuous"]
    entropies = 2 * (0.5 * math.log(2 * math.pi) + 1 / 6 - math.log(2))  # the code's less ours
    assert said["train/mutual_information"] == pytest.approx(0, abs=0.02)
    assert said["train/mutual_information_continuous"] == pytest.approx(-entropies, abs=0.05)
    gan = said["train/loss_discriminator"] + information
    assert gan == pytest.approx(2 * math.log(2), abs=0.05)


# --- who learns what


def test_the_discriminator_s_step_leaves_the_generator_alone_and_the_other_way_round(small) -> None:
    for still, others in (("lr_generator", "discriminator"), ("lr_discriminator", "generator")):
        model = ready(**{still: 0.0})
        other = "generator" if others == "discriminator" else "discriminator"
        before = {name: weights(getattr(model, name)) for name in (others, other)}

        model.training_step(images(), 0)

        assert not any(moved(getattr(model, other), before[other]))
        assert any(moved(getattr(model, others), before[others]))
        assert all(p.requires_grad for p in model.parameters())


def test_one_player_s_loss_gives_the_other_no_gradient(small) -> None:
    model, after = ready(), []
    networks = model.discriminator, model.generator

    def backward(loss: Tensor) -> None:
        loss.backward()
        after.extend([deepcopy([p.grad for p in network.parameters()]) for network in networks])

    model.manual_backward = backward
    model.training_step(images(), 0)

    d, g, d_later, g_later = after  # of the discriminator's loss, then of the generator's
    assert d[0].any()
    assert all(grad is None for grad in g)
    assert all(torch.equal(a, b) for a, b in zip(d, d_later, strict=True))
    assert all(grad is not None for grad in g_later)


def test_mutual_information_moves_the_trunk_and_q_in_the_discriminator_s_step(small) -> None:
    model, told = ready(), {}
    latent = model.latent(16)
    generated = model.generator(latent).detach()
    for weight in (0.0, 1.0):
        model.hparams.lambda_categorical = model.hparams.lambda_continuous = weight
        loss, *_ = model.discriminator_loss(images(), generated, latent)
        told[weight] = [
            gradients(n, loss) for n in (model.discriminator.trunk, model.discriminator.q)
        ]

    for without, with_it in zip(told[0.0][0], told[1.0][0], strict=True):  # the trunk
        assert (without - with_it).abs().max() > 0
    assert not any(g.any() for g in told[0.0][1] if g is not None)
    assert all(g is not None for g in told[1.0][1])
    unused = told[1.0][1][-1]  # biases of Q's outputs: with sigma fixed the last two say nothing
    assert unused[:12].all()
    assert not unused[12:].any()


def test_mutual_information_reaches_the_generator_unless_it_is_a_gan(small) -> None:
    grads, losses = {}, {}
    for informed in (True, False):
        model = ready(inform_generator=informed)
        latent = model.latent(16)
        losses[informed] = model.generator_loss(latent)
        grads[informed] = gradients(model.generator, losses[informed])
    output = model.discriminator.both(model.generator(latent))[1]
    torch.testing.assert_close(
        losses[False] - losses[True], model.information(output, latent)[2], rtol=1e-5, atol=1e-6
    )
    nn.init.normal_(model.discriminator.q[-1].weight, std=3.0)
    other_q = gradients(model.generator, model.generator_loss(latent))

    assert any((a - b).abs().max() > 1e-6 for a, b in zip(*grads.values(), strict=True))
    for a, b in zip(grads[False], other_q, strict=True):  # of a GAN, Q is no matter
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_each_kind_of_code_has_its_weight(small) -> None:
    model = ready(lambda_categorical=2.0, lambda_continuous=0.05)
    output, latent = torch.randn(8, 14), model.latent(8)

    categorical, continuous, weighted = model.information(output, latent)

    torch.testing.assert_close(weighted, 2 * categorical + 0.05 * continuous)


def test_shuffled_codes_are_worse_than_ignorance(small) -> None:
    """Q learns which code made an image; of another image's code it is wrongly sure."""
    model = ready(lr_discriminator=4e-3, lr_generator=1e-2)
    for i in range(60):
        said = model.training_step(images(64, seed=i), i)
    latent = model.latent(64)
    output = model.discriminator.both(model.generator(latent))[1]

    right, *_ = model.information(output, latent)
    wrong, *_ = model.information(output, latent.roll(1, 0))

    assert said["train/mutual_information"] > 0.5
    assert right > 0.5
    assert wrong < 0


# --- batches and averages


def test_real_and_generated_images_are_batches_of_their_own(small) -> None:
    model = ready().double()
    latent, x = model.latent(16), images().double()
    generated = model.generator(latent).detach()

    loss, *_ = model.discriminator_loss(x, generated, latent)
    d = model.discriminator
    real = log_d(d(x))[0].mean()
    logits, output = d.both(generated)
    apart = -real - log_d(logits)[1].mean() - model.information(output, latent)[2]

    torch.testing.assert_close(loss, apart)
    together = log_d(d(torch.cat([x, generated])))[0][:16].mean()
    assert (together - real).abs() > 1e-4


def test_eval_mode_changes_nothing(small) -> None:
    model = ready()
    latent, x = model.latent(16), images()

    for network, of in ((model.generator, latent), (model.discriminator, x)):
        torch.testing.assert_close(network.train()(of), network.eval()(of))


def test_running_averages_are_those_of_the_discriminator_s_passes_and_only_if_asked(small) -> None:
    model = ready(DigitInfoGAN).double()
    for i in range(3):
        model.training_step(images(32, seed=i).double(), i)
    tracked = {name for name, m in model.named_modules() if isinstance(m, BatchNorm) and m.track}
    model.eval()
    x = images(40, seed=9).double()
    averages = [b.clone() for b in model.buffers()]

    alone = torch.cat([model.category(part, running=True) for part in x.split(8)])
    whole = model.category(x, running=True)

    assert len(tracked) == 3
    assert all(name.startswith("discriminator") for name in tracked)
    assert torch.equal(alone, whole)  # no image depends on another
    assert all(torch.equal(a, b) for a, b in zip(averages, model.buffers(), strict=True))
    layer = model.discriminator.trunk[3]
    assert layer.running_var.min() > 0
    assert layer.running_mean.abs().max() > 0


def test_labels_beside_the_images_are_not_looked_at(small) -> None:
    one, other = ready(), ready()
    for model, batch in ((one, images()), (other, (images(), torch.arange(16)))):
        torch.manual_seed(1)
        model.training_step(batch, 0)

    assert not any(moved(one, weights(other)))


# --- samples and pictures


def test_samples_are_the_same_each_time_and_draw_from_nobody(small) -> None:
    model = ready().eval()
    state = torch.get_rng_state()

    first, again = model.sample(130), model.sample(130)

    assert first.shape == (130, 1, 28, 28)
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.sample(5), first[:5])


@torch.no_grad()
def test_pictures_vary_one_code_in_a_batch_of_training_s_size(small) -> None:
    model, seen = ready().eval(), []
    generate = model.images
    model.images = lambda latent: seen.append(latent) or generate(latent)

    shown = model.pictures(images())

    assert list(shown) == [
        "traversal_c1",
        "traversal_c2",
        "traversal_c2_wide",
        "traversal_c3",
        "traversal_c3_wide",
    ]
    assert {x.shape for x in shown.values()} == {(10, 10, 1, 28, 28)}
    assert [len(latent) for latent in seen] == [128] * 5
    where = (slice(62, 72), slice(72, 73), slice(72, 73), slice(73, 74), slice(73, 74))
    for latent, at, end in zip(seen, where, (1, 1, 2, 1, 2), strict=True):
        rows = latent[:100].view(10, 10, -1)
        values = rows[:, :, at]
        assert torch.equal(values, values[:1].expand_as(values))  # the same in each row
        if at.stop - at.start == 10:
            assert torch.equal(values[0], torch.eye(10))
        else:
            torch.testing.assert_close(values[0, :, 0], torch.linspace(-end, end, 10))
        others = torch.ones(74, dtype=torch.bool)
        others[at] = False
        fixed = rows[..., others]
        assert torch.equal(fixed, fixed[:, :1].expand_as(fixed))
    assert torch.equal(model.pictures(images())["traversal_c1"], shown["traversal_c1"])


@torch.no_grad()
def test_pictures_of_many_codes_are_few_enough() -> None:
    for name, expected in (("svhn", 12), ("celeba", 10), ("faces", 10), ("chairs", 5)):
        model = InfoGAN(name).eval()
        c, side = model.shape.image
        model.images = lambda latent, c=c, side=side: latent.new_zeros(len(latent), c, side, side)

        shown = model.pictures(torch.empty(0))

        assert len(shown) == expected
        columns = {10, 20} if name == "chairs" else {10}
        assert {x.shape[1] for x in shown.values()} == columns
        assert all(x.shape[0] * x.shape[1] <= 128 for x in shown.values())


@torch.no_grad()
@pytest.mark.parametrize(
    ("categories", "continuous", "codes", "wide"),
    [([10] * 4, 4, 8, 4), ([10] * 4, 5, 9, 0), ([2] * 3, 20, 12, 0), ([2] * 20, 1, 12, 0),
     ([120], 0, 1, 0), ([200, 3], 1, 3, 1)],
)  # fmt: skip
def test_pictures_are_no_more_and_no_wider_than_can_be_drawn(
    small, categories: list[int], continuous: int, codes: int, wide: int
) -> None:
    model, seen = ready(categories=categories, continuous=continuous).eval(), []
    generate = model.images
    model.images = lambda latent: seen.append(latent) or generate(latent)

    shown = pictures.checked(model.pictures(images()))

    plain = [name for name in shown if not name.endswith("_wide")]
    assert plain == [f"traversal_c{i}" for i in range(1, codes + 1)]
    assert len(shown) == codes + wide
    assert {len(latent) for latent in seen} == {128}
    k = min(categories[0], 100)
    assert shown["traversal_c1"].shape[1] == k
    first_row = seen[0][:k, model.noise : model.noise + categories[0]]
    assert torch.equal(first_row, torch.eye(k, categories[0]))


# --- MNIST's measures


def measured(model: DigitInfoGAN, fit: tuple, test: tuple) -> tuple[dict, dict]:
    """What the final test logs, and the arrays that the run then keeps."""
    logged, kept = {}, []
    model.eval()
    model.log = lambda name, value, **_: logged.update({name: float(value)})
    with torch.no_grad():
        model.on_test_epoch_start()
        for i, (x, y) in enumerate((fit, test)):
            for j, batch in enumerate(zip(x.split(10), y.split(10), strict=True)):
                model.test_step(batch, j, i)
        model.on_test_epoch_end()
        for j, batch in enumerate(zip(test[0].split(10), test[1].split(10), strict=True)):
            kept.append(model.predict_step(batch, j))
    return logged, {k: torch.cat([each[k] for each in kept]).numpy() for k in kept[0]}


def test_what_is_logged_follows_from_what_is_kept(small) -> None:
    model = ready(DigitInfoGAN)
    for i in range(12):
        if i == 7:
            model.on_train_epoch_start()
        model.training_step(images(32, seed=i), i)
    fit = images(90, seed=50), torch.arange(90) % 10
    test = images(40, seed=51), torch.arange(40) % 10

    logged, kept = measured(model, fit, test)

    assert kept["category"].dtype == np.uint8
    assert kept["training_table"].sum() == kept["training_table_running"].sum() == 90
    measures = {
        "test/error_percent": ClusterError(examples=40),
        "test/error_percent_majority": ClusterError("majority"),
        "test/error_percent_running": ClusterError(statistics="running"),
        "test/error_percent_majority_running": ClusterError("majority", "running"),
        "test/categories_owned": CategoriesOwned(),
        "test/categories_owned_running": CategoriesOwned("running"),
        "train/mutual_information": Late("mutual_information", 5, 12),
        "train/mutual_information_peak": Peak("mutual_information", 10),
    }
    assert logged.keys() == measures.keys()
    for name, measure in measures.items():
        assert measure.of(kept) == pytest.approx(logged[name], abs=1e-5)


def test_categories_that_follow_the_digits_make_no_error(small) -> None:
    """Category k for digit 9 - k, in whatever batches: the matching finds it."""
    model = ready(DigitInfoGAN)
    y = torch.arange(60) % 10
    x = (y.view(-1, 1, 1, 1) / 10).expand(60, 1, 28, 28)
    model.category = lambda x, running=False: 9 - (10 * x[:, 0, 0, 0]).round().long()

    logged, _ = measured(model, (x, y), (x[:30], y[:30]))

    assert logged["test/error_percent"] == logged["test/error_percent_majority_running"] == 0
    assert logged["test/categories_owned"] == 1


def test_validation_measures_all_sets_by_the_matching_of_training(small) -> None:
    model, logged = ready(DigitInfoGAN), {}
    model.log = lambda name, value, **_: logged.update({name: float(value)})
    y = torch.arange(20) % 10
    model.category = lambda x, running=False: x[:, 0, 0, 0].long()
    turned = ((y + 1) % 10).view(-1, 1, 1, 1).expand(20, 1, 28, 28)
    wrong = ((y + 2) % 10).view(-1, 1, 1, 1).expand(20, 1, 28, 28)

    model.on_validation_epoch_start()
    for i, x in enumerate((turned, turned, wrong)):
        model.validation_step((x, y), 0, i)
    model.on_validation_epoch_end()

    assert logged["val/error_percent"] == 0
    assert logged["test/error_percent"] == logged["test/error_percent_majority"] == 100
    assert logged["test/categories_owned"] == 1


def test_predicting_needs_a_test_of_the_same_weights(small, tiny: Path) -> None:
    model, data = DigitInfoGAN(), MNISTInPasses(60, 1, validation=100, limit=200)
    names = "logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"
    trainer = pl.Trainer(
        max_epochs=1, limit_val_batches=0, accelerator="cpu", **dict.fromkeys(names, False)
    )

    def refused() -> bool:
        with pytest.raises(MisconfigurationException, match=r"DigitInfoGAN .*Call trainer\.test"):
            trainer.predict(model, data)
        return True

    with quiet_lightning():
        assert refused()
        trainer.test(model, data, verbose=False)
        first, *_ = trainer.predict(model, data)
        assert first["training_table"].sum() == first["training_table_running"].sum() == 100
        trainer.fit(model, data)
        assert refused()
        trainer.test(model, data, verbose=False)
        trainer.limit_val_batches = 1.0
        trainer.validate(model, data, verbose=False)
        assert refused()


def test_the_curve_goes_on_after_a_checkpoint(small) -> None:
    model, checkpoint = ready(DigitInfoGAN), {}
    for i in range(5):
        if i == 3:
            model.on_train_epoch_start()
        model.training_step(images(seed=i), i)
    model.on_save_checkpoint(checkpoint)

    other = ready(DigitInfoGAN, seed=1)
    other.on_load_checkpoint(checkpoint)
    other.training_step(images(), 0)

    assert len(other.curve) == 6
    assert other.epoch_began == 3
    torch.testing.assert_close(other._curve()[:5], model._curve(), rtol=0, atol=0)


@pytest.mark.parametrize("after", [3, 4, 6])
def test_a_run_that_is_interrupted_gives_the_record_of_one_that_is_not(
    small, tiny: Path, after: int
) -> None:
    """Two epochs of four updates, stopped within the first, at its end, or within the second."""
    overrides = {
        "data": {"init_args": {"limit": 500, "validation": 100, "batch_size": 60, "updates": 4}},
        "trainer": {"max_epochs": 2, "check_val_every_n_epoch": 2},
    }
    run = Run(find("infogan_mnist"), "all", "code", Seed(1, 1), overrides)
    asked, threads = iter(range(1, 100)), torch.get_num_threads()
    stopped = execute(
        run, tiny / "a", "cpu", 1, stop=lambda: "now" if next(asked) == after else None
    )
    resumed = execute(run, tiny / "a", "cpu", 1)
    whole = execute(run, tiny / "b", "cpu", 1)
    torch.set_num_threads(threads)

    assert (stopped.status, resumed.status) == ("stopped", "finished")
    assert resumed.result["curve"] == whole.result["curve"]
    assert resumed.result["metrics"] == whole.result["metrics"]
    assert contradiction(whole) == ""
    kept = [np.load(next((tiny / name).rglob("predictions.npz"))) for name in ("a", "b")]
    for name in kept[0]:
        assert np.array_equal(kept[0][name], kept[1][name])
    assert kept[0]["mutual_information"].shape == (8,)


def one_step() -> list[Tensor]:
    """Weights, averages and the curve after two steps from the same state.

    Biases before batch normalisation change nothing and have gradients of rounding alone, which
    Adam makes larger.
    """
    infogan.ARCHITECTURES["mnist"] = SMALL  # in a process of its own, too
    torch.manual_seed(0)
    model = DigitInfoGAN().double()
    torch.manual_seed(1)
    x = torch.rand(12, 1, 28, 28).double()
    training_step = model.training_step
    model.training_step = lambda batch, index: training_step(batch[0], index)
    return two_steps(model, (x,)) + model.curve


def test_two_processes_take_the_step_of_one(small) -> None:
    alone, (one, other) = one_step(), run_in(2, one_step)

    assert len(alone) == len(one)
    for a, b, c in zip(alone, one, other, strict=True):
        torch.testing.assert_close(b, c, rtol=0, atol=0)
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)
