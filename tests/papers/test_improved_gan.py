"""Improved GAN: what Secs. 3.1 and 5 and the released code imply, whatever the weights."""

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from lit_gen.nn.weight_norm import data_dependent_init
from lit_gen.papers.improved_gan import (
    BatchNorm,
    Discriminator,
    Generator,
    Noise,
    SemiSupervisedGAN,
    feature_matching_loss,
    log_evidence,
    unsupervised_loss,
)


@pytest.fixture
def logits() -> torch.Tensor:
    torch.manual_seed(0)
    return 3 * torch.randn(64, 10, dtype=torch.float64)


def test_unsupervised_loss_is_half_the_gan_cross_entropy(logits: torch.Tensor) -> None:
    real, fake = unsupervised_loss(logits[:32], logits[32:])
    score = log_evidence(logits)  # the logit of D(x)

    bce = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(2 * real.mean(), bce(score[:32], torch.ones(32).double()))
    torch.testing.assert_close(2 * fake.mean(), bce(score[32:], torch.zeros(32).double()))


def test_d_is_one_minus_the_softmax_of_an_eleventh_logit_at_zero(logits: torch.Tensor) -> None:
    p_fake = F.pad(logits, (0, 1)).softmax(1)[:, 10]

    torch.testing.assert_close(log_evidence(logits).sigmoid(), 1 - p_fake)


def test_losses_of_zero_logits() -> None:
    zero = torch.zeros(4, 10, dtype=torch.float64)
    real, fake = unsupervised_loss(zero, zero)

    assert F.cross_entropy(zero, torch.arange(4)).item() == pytest.approx(math.log(10))
    assert (real.mean() + fake.mean()).item() == pytest.approx(1.2466, abs=1e-4)


def test_a_common_shift_of_the_logits_moves_only_the_unsupervised_loss(
    logits: torch.Tensor,
) -> None:
    y = torch.arange(64) % 10
    before, after = (F.cross_entropy(z, y) for z in (logits, logits + 1))

    torch.testing.assert_close(before, after)
    assert (
        unsupervised_loss(logits + 1, logits)[0].sum() < unsupervised_loss(logits, logits)[0].sum()
    )


def test_feature_matching_is_the_mean_square_of_the_difference_of_means() -> None:
    real = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    fake = torch.tensor([[1.0, 4.0]])

    assert feature_matching_loss(real, fake).item() == pytest.approx(((2 - 1) ** 2 + 4**2) / 2)


def test_feature_matching_gradient() -> None:
    torch.manual_seed(0)
    real = torch.randn(6, 3, dtype=torch.float64)
    fake = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    feature_matching_loss(real, fake).backward()

    by_hand = 2 / (5 * 3) * (fake.detach().mean(0) - real.mean(0)).expand(5, 3)
    torch.testing.assert_close(fake.grad, by_hand)


def test_features_are_those_before_their_noise_and_noise_stays_on_below() -> None:
    torch.manual_seed(0)
    net, x = Discriminator(), torch.rand(3, 784)

    assert isinstance(net.features[-1], torch.nn.ReLU)
    assert isinstance(net.classifier[0], Noise)
    assert not torch.equal(net.features(x), net.features(x))
    net.eval()
    assert torch.equal(net.features(x), net.features(x))


def test_noise_has_the_stated_deviation() -> None:
    torch.manual_seed(0)

    assert Noise(0.3)(torch.zeros(10**5)).std().item() == pytest.approx(0.3, rel=0.01)


def test_batch_norm_uses_the_batch_even_in_evaluation() -> None:
    layer = BatchNorm(4).eval()
    with torch.no_grad():
        layer.shift.fill_(2.0)

    y = layer(5 + 3 * torch.randn(100, 4))

    torch.testing.assert_close(y.mean(0), torch.full((4,), 2.0))
    torch.testing.assert_close(y.var(0, correction=0), torch.ones(4), rtol=1e-4, atol=1e-4)


def test_sizes_are_those_of_the_code() -> None:
    def count(net: torch.nn.Module) -> int:
        return sum(p.numel() for p in net.parameters())

    widths = [784, 1000, 500, 250, 250, 250, 10]
    dense = sum(m * n + n for m, n in pairwise(widths))
    assert count(Discriminator()) == dense + 10  # g is trained in the logit layer only
    assert count(Generator()) == 100 * 500 + 500 + 500 * 500 + 500 + 500 * 784 + 784 + 784
    images = Generator()(torch.rand(100, 100))
    assert images.min() >= 0
    assert images.max() <= 1


def step(model: SemiSupervisedGAN, optimizers: list[torch.optim.Optimizer], seed: int = 0) -> dict:
    """One training step outside Lightning, on random images."""
    torch.manual_seed(seed)
    model.optimizers = lambda: optimizers
    model.manual_backward = lambda loss: loss.backward()
    x = torch.rand(3, 20, 784, dtype=model.dtype)
    return model.training_step((x[0], torch.arange(20) % 10, x[1], x[2]), 0)


def pairs(one: torch.nn.Module, other: torch.nn.Module) -> zip:
    return zip(one.parameters(), other.parameters(), strict=True)


def test_the_average_starts_at_zero_and_follows_one_step_late() -> None:
    model = SemiSupervisedGAN(averaging=0.9)
    optimizers = model.configure_optimizers()

    expected = [torch.zeros_like(p) for p in model.averaged.parameters()]
    for _ in range(3):
        before = [p.detach().clone() for p in model.discriminator.parameters()]
        expected = [a + 0.1 * (p - a) for a, p in zip(expected, before, strict=True)]
        step(model, optimizers)

    for a, e in zip(model.averaged.parameters(), expected, strict=True):
        torch.testing.assert_close(a.data, e)


def test_each_player_moves_only_its_own_weights() -> None:
    model = SemiSupervisedGAN()
    optimizer_d, optimizer_g = model.configure_optimizers()
    d, g = copy.deepcopy(model.discriminator), copy.deepcopy(model.generator)

    class Idle:
        def zero_grad(self) -> None: ...
        def step(self) -> None: ...

    step(model, [Idle(), optimizer_g])
    assert all(torch.equal(p, q) for p, q in pairs(model.discriminator, d))
    assert any(not torch.equal(p, q) for p, q in pairs(model.generator, g))

    g = copy.deepcopy(model.generator)
    step(model, [optimizer_d, Idle()])
    assert all(torch.equal(p, q) for p, q in pairs(model.generator, g))
    assert any(not torch.equal(p, q) for p, q in pairs(model.discriminator, d))


def test_one_pass_over_three_kinds_of_images_is_three_passes() -> None:
    model = SemiSupervisedGAN().double()
    model.discriminator.eval()  # no noise, so that the passes can be compared
    x, y = torch.rand(3, 8, 784, dtype=torch.float64), torch.arange(8)

    labeled, unlabeled = model.discriminator_loss(x[0], y, x[1], x[2])

    logits = [model.discriminator(part) for part in x]
    real, fake = unsupervised_loss(logits[1], logits[2])
    torch.testing.assert_close(labeled, F.cross_entropy(logits[0], y))
    torch.testing.assert_close(unlabeled, real.mean() + fake.mean())


def test_matching_pulls_the_generator_towards_the_data() -> None:
    """A generator trained on feature matching alone lowers it; the sign cannot be wrong."""
    torch.manual_seed(0)
    model = SemiSupervisedGAN(lr=0.03)
    _, optimizer = model.configure_optimizers()
    model.discriminator.requires_grad_(False)
    data_dependent_init(model.discriminator, torch.rand(200, 784))
    x = torch.full((100, 784), 0.9)

    losses = []
    for _ in range(60):
        loss = model.generator_loss(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0, 1.0), (200, 1.0), (250, 0.5), (299, 0.01), (300, 0.0)]
)
def test_step_size_of_8_june(epoch: int, factor: float) -> None:
    model = SemiSupervisedGAN(lr=0.001, decay_epochs=(200, 300), averaging=None)
    optimizers = model.configure_optimizers()
    model.optimizers = lambda: optimizers
    type(model).current_epoch, original = epoch, type(model).current_epoch
    try:
        model.on_train_epoch_start()
    finally:
        type(model).current_epoch = original

    assert optimizers[0].param_groups[0]["lr"] == pytest.approx(0.001 * factor)
    assert optimizers[1].param_groups[0]["lr"] == pytest.approx(0.001 * factor)


def test_samples_repeat_and_leave_the_random_state_alone() -> None:
    model = SemiSupervisedGAN()
    state = torch.get_rng_state()

    first, second = model.sample(10), model.sample(10)

    assert torch.equal(first, second)
    assert first.shape == (10, 1, 28, 28)
    assert torch.equal(torch.get_rng_state(), state)


def test_compiled_losses_are_the_losses() -> None:
    """In one graph each, with the same noise: gradients of every weight included."""
    torch.manual_seed(0)
    model = SemiSupervisedGAN().double()
    x, y = torch.rand(3, 8, 784, dtype=torch.float64), torch.arange(8)

    def gradients(compiled: bool) -> list[torch.Tensor]:
        found = []
        for name, inputs in (
            ("discriminator_loss", (x[0], y, x[1], x[2])),
            ("generator_loss", (x[0],)),
        ):
            assert name in model.compilable
            loss = getattr(model, name)
            if compiled:
                loss = torch.compile(loss, fullgraph=True, backend="aot_eager")
            torch.manual_seed(1)
            model.zero_grad()
            losses = loss(*inputs)
            sum(losses if isinstance(losses, tuple) else (losses,)).backward()
            found += [p.grad for p in model.parameters() if p.grad is not None]
        return found

    plain, compiled = gradients(False), gradients(True)

    assert len(plain) == len(compiled) > len(list(model.discriminator.parameters()))
    torch.testing.assert_close(compiled, plain)
