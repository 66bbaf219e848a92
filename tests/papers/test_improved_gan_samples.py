"""The sample-quality models of Improved GAN: what each technique changes, and the code's script."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from processes import run_in, two_steps
from torch import nn

from lit_gen.nn.distributed import share
from lit_gen.papers import improved_gan_samples
from lit_gen.papers.improved_gan import Noise
from lit_gen.papers.improved_gan_images import Generator
from lit_gen.papers.improved_gan_samples import SampleGAN, VirtualGenerator
from lit_gen.papers.improved_gan_techniques import MinibatchDiscrimination, VirtualBatchNorm

SCRIPT = {"normalization": "batch", "real_target": 1.0}


def images(n: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    channels = 3 if size == 32 else 1
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(n, channels, size, size, generator=generator) - 1


def trained_numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def ready(seed: int = 0, **changes: object) -> SampleGAN:
    torch.manual_seed(seed)
    return SampleGAN(**{"channels": (6, 8)} | changes)


@pytest.fixture(autouse=True)
def _few_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(improved_gan_samples, "BATCH", 6)


def step(model: SampleGAN, x: torch.Tensor, y: torch.Tensor, times: int = 1) -> dict:
    optimizers = model.configure_optimizers()
    model.optimizers, model.manual_backward = lambda: optimizers, lambda loss: loss.backward()
    n = len(y)
    for _ in range(times):
        said = model.training_step((x[:n], y, x[n : 2 * n], x[2 * n : 3 * n]), 0)
    return {name: value.item() for name, value in said.items()}


def test_the_script_s_networks() -> None:
    """The published net but for noise at the entry and 100 kernels of 5 numbers."""
    model = SampleGAN(**SCRIPT)
    d = model.discriminator

    assert isinstance(model.generator, Generator)
    assert isinstance(d.features[0], Noise)
    assert d.features[0].sigma == 0.2
    assert d.minibatch.v.shape == (192, 100, 5)
    assert d.classifier.v.shape == (10, 292)
    more = 192 * 500 + 500 + 100 + 100 * 10  # T, s and beta, and the logits' weights of o
    assert trained_numbers(d) == 1_406_804 + more
    assert trained_numbers(model.generator) == 4_933_382


def test_each_technique_is_an_argument() -> None:
    def kinds(model: SampleGAN) -> set[type]:
        return {type(m) for m in model.modules()}

    whole = kinds(ready())
    assert {MinibatchDiscrimination, VirtualBatchNorm} < whole
    assert MinibatchDiscrimination not in kinds(ready(minibatch_kernels=0))
    assert VirtualBatchNorm not in kinds(ready(normalization="batch"))
    assert ready(minibatch_kernels=0).discriminator.classifier.v.shape == (10, 8)
    assert ready(minibatch_kernels=7).discriminator.classifier.v.shape == (10, 15)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"normalization": "layer"}, "normalization='layer'"),
     ({"real_target": 0.4}, "real_target=0.4"), ({"real_target": 1.1}, "real_target=1.1"),
     ({"image_size": 64}, "image_size=64"),
     ({"historical_weight": -1.0}, "historical_weight=-1.0"),
     ({"minibatch_kernels": -1}, "minibatch_kernels=-1")],
)  # fmt: skip
def test_what_cannot_be_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SampleGAN(**changes)


@pytest.mark.parametrize("size", [32, 28])
def test_images_of_both_sizes(size: int) -> None:
    model = ready(image_size=size)
    shape = (3, 3, 32, 32) if size == 32 else (3, 1, 28, 28)

    made = model.generator(torch.rand(3, 100))

    assert made.shape == shape
    assert made.abs().max() <= 1
    assert model.discriminator(made).shape == (3, 10)
    assert model.sample(5).shape == (5, *shape[1:])


def test_virtual_samples_depend_on_their_own_noise_alone() -> None:
    model = ready().double()
    z = torch.rand(4, 100, dtype=torch.float64)

    together = model.generator(z)

    torch.testing.assert_close(model.generator(z[2:3]), together[2:3])
    assert "generator.reference" in model.state_dict()
    other = ready(seed=1).double()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.generator(z), together)


def test_a_reference_batch_is_drawn_once_and_not_trained() -> None:
    model = ready()
    before = model.generator.reference.clone()

    step(model, images(12), torch.arange(4))

    assert isinstance(model.generator, VirtualGenerator)
    assert torch.equal(model.generator.reference, before)
    assert 0 <= before.min() < before.max() <= 1


def test_the_script_s_losses_at_zero_logits() -> None:
    """ln 10 for labels; (ln 11 - ln 10)/2 + ln 11/2 for real and generated; -ln 11 for G."""
    model = ready(**SCRIPT, lr=0.0)
    nn.init.zeros_(model.discriminator.classifier.g)

    said = step(model, images(12), torch.arange(4))

    assert said["train/loss_labeled"] == pytest.approx(math.log(10))
    assert said["train/loss_unlabeled"] == pytest.approx((2 * math.log(11) - math.log(10)) / 2)
    assert said["train/loss_generator"] == pytest.approx(-math.log(11))


def test_smoothing_changes_the_real_half_alone() -> None:
    real, generated = torch.randn(5, 10), torch.randn(6, 10)
    plain = ready(real_target=1.0).unsupervised_loss(real, generated)
    smooth = ready(real_target=0.9).unsupervised_loss(real, generated)
    evidence = real.logsumexp(-1)
    target = torch.full_like(evidence, 0.9)

    expected = F.binary_cross_entropy_with_logits(evidence, target, reduction="none") / 2
    torch.testing.assert_close(smooth[0], expected)
    assert not torch.equal(smooth[0], plain[0])
    assert torch.equal(smooth[1], plain[1])


def test_kinds_of_images_are_batches_of_their_own() -> None:
    model = ready(**SCRIPT).eval()
    a, b = images(4, seed=1), images(5, seed=2)

    first, second = model.logits(a, b)

    torch.testing.assert_close(first, model.discriminator(a))
    torch.testing.assert_close(second, model.discriminator(b))
    assert (first - model.discriminator(torch.cat([a, b]))[:4]).abs().max() > 1e-6


def test_three_updates_of_the_generator_follow_one_of_the_discriminator() -> None:
    model, counts = ready(**SCRIPT), []
    optimizers = model.configure_optimizers()
    for i, optimizer in enumerate(optimizers):
        optimizer.step = partial(counts.append, i)
    model.optimizers, model.manual_backward = lambda: optimizers, lambda loss: loss.backward()
    x = images(12)

    model.training_step((x[:4], torch.arange(4), x[4:8], x[8:]), 0)

    assert counts == [0, 1, 1, 1]


def test_without_labels_they_do_not_matter() -> None:
    x = images(12)
    told = {}
    for weight in (0.0, 1.0):
        for labels in (torch.arange(4), torch.arange(4).flip(0)):
            model = ready(labeled_weight=weight)
            torch.manual_seed(3)
            step(model, x, labels)
            told.setdefault(weight, []).append(model.discriminator.classifier.v.detach().clone())

    assert torch.equal(*told[0.0])
    assert not torch.equal(*told[1.0])


def test_historical_averaging_holds_both_players_back() -> None:
    """The second step is the first that has a past; its costs differ by the penalty's gradient."""
    x, y = images(12), torch.arange(4)
    moved = {}
    for weight in (0.0, 100.0):
        model = ready(historical_weight=weight, lr=0.001)
        networks = (model.discriminator, model.generator)
        before = [[p.detach().clone() for p in n.parameters()] for n in networks]
        torch.manual_seed(4)
        step(model, x, y, times=4)
        moved[weight] = [
            sum((p - q).abs().sum().item() for p, q in zip(n.parameters(), b, strict=True))
            for n, b in zip(networks, before, strict=True)
        ]

    assert all(held < free for held, free in zip(moved[100.0], moved[0.0], strict=True))
    assert int(model.history_d.t) == 4
    assert int(model.history_g.t) == 12
    assert "history_g.mean_0" in model.state_dict()


def test_data_initialise_the_generator_unless_it_is_8_june() -> None:
    x = images(20)
    for initialized in (True, False):
        model = ready(initialize_generator=initialized)
        drawn = model.generator.last.g.clone()
        model.initialize(x)
        assert torch.equal(model.generator.last.g, drawn) is not initialized
        assert model.discriminator.minibatch.beta.any()


def test_tested_images_come_by_the_batch() -> None:
    model = ready(averaging=None, **SCRIPT).eval()
    x = images(10)

    torch.testing.assert_close(model(x)[6:], model.discriminator(x[6:]))
    assert (model(x)[:6] - model.discriminator(x)[:6]).abs().max() > 1e-6


def one_step() -> list[torch.Tensor]:
    """Weights after two steps from the same state, of a discriminator that averages, too."""
    improved_gan_samples.BATCH = 6  # in a process of its own, too
    torch.manual_seed(0)
    model = SampleGAN(minibatch_kernels=6, historical_weight=0.1, channels=(6, 8)).double()
    x, y = images(24).double(), torch.arange(8) % 10
    torch.manual_seed(1)
    model.initialize(share(x))
    return two_steps(model, (x[:8], y, x[8:16], x[16:]))


def test_two_processes_take_the_step_of_one() -> None:
    alone, (one, other) = one_step(), run_in(2, one_step)

    for a, b, c in zip(alone, one, other, strict=True):
        torch.testing.assert_close(b, c, rtol=0, atol=0)
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
