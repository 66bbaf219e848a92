"""Improved GAN on images: networks, losses and initialisation as the code has them."""

import pytest
import torch
import torch.nn.functional as F
from processes import run_in, two_steps
from torch import nn

from lit_gen.nn.distributed import share
from lit_gen.nn.weight_norm import ScaledConv2d, ScaledConvTranspose2d
from lit_gen.papers.improved_gan_images import (
    ChannelNorm,
    Discriminator,
    Dropout,
    Generator,
    SemiSupervisedImageGAN,
    absolute_matching_loss,
)

SMALL = (6, 8)
JUNE = {
    "slope": 0.1, "decay_epochs": None, "averaging": 0.999, "average_from_zero": False,
    "output_std": 1.0, "scale_per_unit": False, "eps": 0.0,
}  # fmt: skip


def trained_numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def images(n: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) - 1


def test_networks_have_as_many_trained_numbers_as_the_code_s() -> None:
    assert trained_numbers(Generator()) == 4_933_382
    assert trained_numbers(Discriminator()) == 1_406_804
    assert trained_numbers(Discriminator((64, 128))) < 1_406_804 / 2


def test_images_and_features_have_their_shapes() -> None:
    generator, discriminator = Generator(), Discriminator(SMALL)
    x = generator(torch.rand(4, 100))

    assert x.shape == (4, 3, 32, 32)
    assert x.abs().max() <= 1
    assert discriminator.features(x).shape == (4, 8)
    assert discriminator(x).shape == (4, 10)


def test_layers_have_the_code_s_initial_scale_and_slope() -> None:
    torch.manual_seed(0)
    generator, discriminator = Generator(), Discriminator()

    weights = [generator[0].weight, generator[4].weight, generator[7].weight, generator[10].v]
    weights += [m.v for m in discriminator.modules() if isinstance(m, ScaledConv2d)]
    for w in weights:
        assert w.std().item() == pytest.approx(0.05, rel=0.05)
    assert {m.negative_slope for m in discriminator.modules() if isinstance(m, nn.LeakyReLU)} == {
        0.2
    }
    assert [m.p for m in discriminator.modules() if isinstance(m, Dropout)] == [0.2, 0.5, 0.5]


def test_only_the_last_layers_train_their_scale() -> None:
    model = SemiSupervisedImageGAN(SMALL)
    scales = [name for name, _ in model.discriminator.named_parameters() if name.endswith(".g")]

    assert scales == ["classifier.g"]
    assert [name for name, _ in model.generator.named_parameters() if name.endswith("g")] == [
        "10.g"
    ]


def test_dropout_is_of_single_numbers_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer, x = Dropout(0.2), torch.full((50, 4, 20, 20), 3.0)

    out = layer(x)

    assert set(out.unique().tolist()) == {0.0, 3.75}
    assert (out == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert ((out == 0).float().mean((2, 3)) < 1).all()  # no channel as a whole
    assert layer.eval()(x) is x


@pytest.mark.parametrize("transposed", [False, True])
def test_a_scaled_convolution_is_that_of_the_normalised_weight(transposed: bool) -> None:
    torch.manual_seed(0)
    kind = ScaledConvTranspose2d if transposed else ScaledConv2d
    layer = kind(3, 4, 5, 2, 2, eps=0.1).double()
    layer.g.copy_(torch.rand(4) + 1)
    nn.init.normal_(layer.b)
    x, v = torch.randn(2, 3, 8, 8, dtype=torch.float64), layer.v
    across, shape = ((0, 2, 3), (1, -1, 1, 1)) if transposed else ((1, 2, 3), (-1, 1, 1, 1))
    w = v * (layer.g / (0.1 + v.square().sum(across)).sqrt()).reshape(shape)

    if transposed:
        expected = F.conv_transpose2d(x, w, layer.b, 2, 2, output_padding=1)
    else:
        expected = F.conv2d(x, w, layer.b, 2, 2)

    assert expected.shape[-1] == (16 if transposed else 4)
    torch.testing.assert_close(layer(x), expected)


def test_channels_are_normalised_by_the_batch_at_hand_with_a_shift_alone() -> None:
    layer = ChannelNorm(3).double()
    nn.init.normal_(layer.shift)
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    mean = x.mean((0, 2, 3), keepdim=True)
    std = ((x - mean).square().mean((0, 2, 3), keepdim=True) + 1e-6).sqrt()

    for mode in (True, False):
        expected = (x - mean) / std + layer.shift.view(1, 3, 1, 1)
        torch.testing.assert_close(layer.train(mode)(x), expected)


def test_matching_is_the_mean_absolute_difference_of_means() -> None:
    real, generated = torch.tensor([[1.0, 5], [3, 5]]), torch.tensor([[0.0, 6], [0, 8], [0, 7]])

    assert absolute_matching_loss(real, generated).item() == pytest.approx((2 + 2) / 2)


def outputs(model: SemiSupervisedImageGAN, x: torch.Tensor) -> list[torch.Tensor]:
    """What each weight-normalised layer of the discriminator gives, in order."""
    found: list[torch.Tensor] = []
    layers = [m for m in model.discriminator.modules() if hasattr(m, "g")]
    hooks = [m.register_forward_hook(lambda _m, _x, y: found.append(y)) for m in layers]
    with torch.no_grad():
        model.discriminator(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("june", [False, True])
def test_data_set_the_scale_of_each_layer(june: bool) -> None:
    """After initialisation, on the same images and without dropout."""
    torch.manual_seed(0)
    model = SemiSupervisedImageGAN(SMALL, **(JUNE if june else {})).double()
    model.discriminator.eval()  # or the next pass would drop other numbers
    x = images(40).double()
    model.latent = lambda n: torch.rand(n, 100, generator=torch.Generator().manual_seed(5)).double()

    model.initialize(x)

    *hidden, logits = outputs(model, x)
    assert len(hidden) == 9
    for a in (*hidden, logits):
        of_unit = a.transpose(0, 1).flatten(1)
        torch.testing.assert_close(of_unit.mean(1), torch.zeros(len(of_unit)).double())
        wanted = 1.0 if june or a is not logits else 0.1
        root = of_unit.square().mean(1).sqrt()
        if june:  # all units alike
            assert of_unit.square().mean().sqrt().item() == pytest.approx(wanted)
            assert root.std() > 1e-3
        else:
            torch.testing.assert_close(root, torch.full_like(root, wanted))
    made = nn.Sequential(*list(model.generator)[:-1])(model.latent(100))
    assert made.square().mean().sqrt().item() == pytest.approx(1.0 if june else 0.1, rel=1e-6)


def test_the_average_starts_at_zero_or_at_the_initialised_weights() -> None:
    for june in (False, True):
        model = SemiSupervisedImageGAN(SMALL, **(JUNE if june else {}))
        model.initialize(images(30))
        same = all(
            torch.equal(p, q)
            for p, q in zip(
                model.averaged.parameters(), model.discriminator.parameters(), strict=True
            )
        )
        assert same is june
        assert june or not any(p.any() for p in model.averaged.parameters())
        assert torch.isfinite(model.averaged.eval()(images(3))).all()


def test_a_step_begins_with_the_losses_of_small_logits_and_lowers_them() -> None:
    """Logits near 0 give log 10 for a label, and log 10 - log 11 and log 11, halved."""
    torch.manual_seed(0)
    model = SemiSupervisedImageGAN(SMALL, lr=0.003)
    x, y = images(60), torch.arange(20) % 2
    x[:20] = (0.3 * x[:20] + y[:, None, None, None]) / 1.3  # dark ones and bright ones
    model.initialize(x)
    optimizers = model.configure_optimizers()
    model.optimizers, model.manual_backward = lambda: optimizers, lambda loss: loss.backward()

    said = [model.training_step((x[:20], y, x[20:40], x[40:]), 0) for _ in range(20)]

    first, last = said[0], said[-1]
    assert first["train/loss_labeled"].item() == pytest.approx(2.303, abs=0.1)
    assert first["train/loss_unlabeled"].item() == pytest.approx(1.247, abs=0.03)
    assert last["train/loss_labeled"] < 1.5
    assert last["train/loss_unlabeled"] < 1.0
    assert all(torch.isfinite(v) for one in said for v in one.values())
    assert not model.discriminator.features[1].g.requires_grad


def test_samples_are_normalised_in_batches_of_training_s_size() -> None:
    model = SemiSupervisedImageGAN(SMALL)
    state = torch.get_rng_state()

    few, more = model.sample(10), model.sample(120)

    assert more.shape == (120, 3, 32, 32)
    assert torch.equal(few, more[:10])
    assert 0 <= more.min() < more.max() <= 1
    assert torch.equal(torch.get_rng_state(), state)


def test_interpolations_begin_and_end_at_their_points_and_draw_their_own_noise() -> None:
    model = SemiSupervisedImageGAN(SMALL)
    state = torch.get_rng_state()

    with torch.no_grad():
        ways = model.pictures(images(2))["interpolations"]

    assert ways.shape == (8, 10, 3, 32, 32)
    assert 0 <= ways.min() < ways.max() <= 1
    steps = (ways[:, 1:] - ways[:, :-1]).flatten(2).norm(dim=2)
    assert (steps < 0.5 * (ways[:, 0] - ways[:, -1]).flatten(1).norm(dim=1)[:, None]).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_runs_of_these_are_not_trained_as_one_computation() -> None:
    assert not hasattr(SemiSupervisedImageGAN, "together")


def one_step() -> list[torch.Tensor]:
    """Losses, and weights after two steps from the same state."""
    torch.manual_seed(0)
    model = SemiSupervisedImageGAN(SMALL).double()
    x, y = images(60).double(), torch.arange(20) % 10
    torch.manual_seed(1)
    model.initialize(share(x))
    return two_steps(model, (x[:20], y, x[20:40], x[40:]))


def test_two_processes_take_the_step_of_one() -> None:
    alone, (one, other) = one_step(), run_in(2, one_step)

    for a, b, c in zip(alone, one, other, strict=True):
        torch.testing.assert_close(b, c, rtol=0, atol=0)
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
