"""IAF: what Alg. 1, the networks' sizes and the released code imply, whatever the weights."""

import copy
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from processes import run_in
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_gen.metrics.bounds import bits_per_dim
from lit_gen.nn import draws, gaussian
from lit_gen.nn.distributed import rank_and_size, share
from lit_gen.nn.weight_norm import WeightNorm, WeightNormLinear
from lit_gen.papers.iaf import (
    MADE,
    Autoencoder,
    ConvAR,
    ConvNetwork,
    ConvVAE,
    Layer,
    Network,
    ResNetVAE,
    affine,
    free_bits,
)

VARIANTS = {  # of Tables 2 to 4
    "headline": {},
    "bottom_up": {"direction": "bottom_up", "hidden_layers": 1},
    "diagonal": {"steps": 0},
    "bottom_up_diagonal": {"direction": "bottom_up", "steps": 0},
    "linear": {"hidden_layers": 0},
    "location_only": {"hidden_layers": 0, "location_only": True, "direction": "bottom_up"},
    "two_steps": {"hidden_layers": 1, "steps": 2},
    "paper": {"flow": "gate", "channel_scales": True},
    "two_levels": {"levels": 2, "depth": 1, "edge_bins": True},
}


def small(**options: object) -> ResNetVAE:
    torch.manual_seed(0)
    defaults = {"depth": 2, "width": 8, "latents": 4, "log_scale_init": -3.0, "gain_exponent": 3.0}
    return ResNetVAE(**defaults | options).double()


def images(n: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 3, 8, 8, generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return (256 * x).to(torch.uint8)


def digits(n: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(n, 784, generator=generator, dtype=torch.float64) < 0.2).double()


def initialized(model: Autoencoder, x: Tensor) -> Autoencoder:
    model.initialize(x)
    return model


def perturbed(module: nn.Module) -> nn.Module:
    """Its weights, shifts and gains moved, so that nothing holds only at the start."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return module


def stepping(model: Autoencoder, optimizer: torch.optim.Optimizer | None = None) -> Autoencoder:
    """Made to train outside Lightning."""
    optimizer = optimizer or model.configure_optimizers()
    model.optimizers = lambda: optimizer
    model.manual_backward = lambda loss: loss.backward()
    return model


# --- the flow


def toy_layer(**options: object) -> Layer:
    torch.manual_seed(2)
    o = dict(small().hparams) | {"width": 4, "latents": 2} | options
    return perturbed(Layer(SimpleNamespace(**o), halves=False).double())


def toy_network(latents: int, steps: int, hidden_layers: int = 1) -> ConvNetwork:
    torch.manual_seed(2)
    o = SimpleNamespace(
        latents=latents, steps=steps, width=4 * latents, hidden_layers=hidden_layers
    )
    return perturbed(ConvNetwork(o).double())


def dense_posterior(latents: int, steps: int, hidden_layers: int = 1):
    """eps (D,) -> z and log q of a posterior with two-fold samples."""
    network = toy_network(latents, steps, hidden_layers)
    mu, log_sigma = torch.randn(2, 1, latents, dtype=torch.float64)
    code = mu, 0.3 * log_sigma, torch.randn(1, 450, dtype=torch.float64)
    return lambda samples=1: network.posterior(code if steps else code[:2], samples)


def conv_posterior(**options: object):
    layer = toy_layer(**options)
    mu, log_sigma = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64)
    c = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    return lambda samples=1: layer.posterior(mu, 0.3 * log_sigma, c)


POSTERIORS = {
    "diagonal": lambda: (dense_posterior(4, 0), (1, 4)),
    "one_step": lambda: (dense_posterior(4, 1), (1, 4)),
    "three_steps": lambda: (dense_posterior(4, 3, 2), (1, 4)),
    **{
        f"conv_{name}": lambda options=options: (conv_posterior(**options), (1, 2, 3, 3))
        for name, options in VARIANTS.items()
        if "levels" not in options
    },
}


@pytest.mark.parametrize("name", POSTERIORS)
def test_log_q_is_that_of_the_noise_less_the_log_determinant_of_the_map(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reversals, flipped masks and sigma included."""
    posterior, shape = POSTERIORS[name]()
    eps = torch.randn(shape, dtype=torch.float64)

    def z_of(eps: Tensor) -> Tensor:
        monkeypatch.setattr(draws, "randn_like", lambda x: eps)
        return posterior()[0]

    jacobian = torch.autograd.functional.jacobian(z_of, eps).reshape(eps.numel(), -1)
    expected = gaussian.log_density(eps).sum() - torch.linalg.slogdet(jacobian).logabsdet

    _, log_q = posterior()
    torch.testing.assert_close(log_q.sum(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_density_integrates_to_one_over_the_plane(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The integral of a narrow N(z; m, s) over z, as that of N(eps) N(z; m, s)/q(z) over eps."""
    line = torch.linspace(-9, 9, 361, dtype=torch.float64)
    eps = torch.cartesian_prod(line, line)
    monkeypatch.setattr(draws, "randn_like", lambda x: eps)

    z, log_q = dense_posterior(2, steps)(len(eps))
    weights = (gaussian.log_density(z, z.mean(0), -1.5) - log_q).sum(1)

    total = (gaussian.log_density(eps).sum(1) + weights).exp().sum() * (18 / 360) ** 2
    assert total.item() == pytest.approx(1, abs=1e-6)


def conv_jacobian(network: ConvAR, kind: int) -> Tensor:
    """d(m or s)/dz in the order of backward reading, (18, 18)."""
    z, c = torch.randn(1, 2, 3, 3).double(), torch.randn(1, 4, 3, 3).double()
    j = torch.autograd.functional.jacobian(lambda z: network(z, c)[kind], z)[0, :, :, :, 0]
    return j.permute(1, 2, 0, 4, 5, 3).reshape(9, 2, 9, 2).flip(0, 2).reshape(18, 18)


@pytest.mark.parametrize("hidden_layers", [0, 1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_convolutions_depend_only_on_pixels_after_and_maps_before(
    hidden_layers: int, reverse: bool
) -> None:
    torch.manual_seed(3)
    o = SimpleNamespace(
        **dict(small().hparams) | {"width": 4, "latents": 2, "hidden_layers": hidden_layers}
    )
    network = perturbed(ConvAR(o, reverse).double())

    for kind in range(2):
        j = conv_jacobian(network, kind)
        j = j.flip(0, 1) if reverse else j
        assert j.triu(0).abs().max() == 0
        assert j.diagonal(-1)[::2].abs().min() > 0  # even the map before of the same pixel
        assert j[2:4, :2].abs().min() > 0  # and the pixel before


@pytest.mark.parametrize("hidden_layers", [1, 2])
def test_made_depends_only_on_variables_before(hidden_layers: int) -> None:
    torch.manual_seed(3)
    made, h = perturbed(MADE(4, 8, 5, hidden_layers).double()), torch.randn(1, 5).double()

    for kind in range(2):
        z = torch.randn(1, 4, dtype=torch.float64)
        j = torch.autograd.functional.jacobian(lambda z, k=kind: made(z, h)[k], z).squeeze()
        assert j.triu(0).abs().max() == 0
        assert j.diagonal(-1).abs().min() > 0
    before, after = made(z, h)[0], made(z, h + 1)[0]
    assert (before != after)[0, 1:].all()  # the first sees nothing but its shift


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_two_steps_have_opposite_orders(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that z depends on its noise both before and after; one step has a triangle of zeros."""
    for steps in (1, 2):
        if kind == "dense":
            posterior, shape = dense_posterior(4, steps), (1, 4)
        else:
            posterior, shape = conv_posterior(steps=steps, hidden_layers=1), (1, 2, 3, 3)

        def z_of(eps: Tensor, posterior: Callable = posterior) -> Tensor:
            monkeypatch.setattr(draws, "randn_like", lambda x: eps)
            return posterior()[0]

        j = torch.autograd.functional.jacobian(z_of, torch.randn(shape, dtype=torch.float64))
        if kind == "dense":
            j = j.squeeze().flip(0) if steps == 1 else j.squeeze()
        else:
            j = j[0, :, :, :, 0].permute(1, 2, 0, 4, 5, 3).reshape(9, 2, 9, 2)
            j = j.flip(0, 2).reshape(18, 18)
        assert j.tril(-1).abs().max() > 0
        assert bool(j.triu(1).abs().max() > 0) is (steps == 2)


def test_steps_begin_near_the_identity() -> None:
    z, zero = torch.randn(50, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)

    gated, log_det = affine(z, zero, zero, "gate")
    torch.testing.assert_close(gated, z * torch.sigmoid(torch.tensor(2.0)).double())
    assert 0.73 < log_det.exp().min() < 0.89  # bias +1 to +2
    scaled, log_det = affine(z, zero, zero, "shift_scale")
    assert torch.equal(scaled, z)
    assert not log_det.any()


def test_a_gate_moves_towards_m_and_the_code_s_form_away() -> None:
    z, one = torch.zeros(1), torch.ones(1)

    assert 0 < affine(z, one, -one, "gate")[0] < 1
    torch.testing.assert_close(affine(one, one, one, "shift_scale")[0], 0.9 * (-0.1 * one).exp())


def test_without_scale_the_flow_keeps_volumes() -> None:
    m = torch.randn(3)

    shifted, log_det = affine(torch.zeros(3), m, None, "shift_scale")
    torch.testing.assert_close(shifted, -0.1 * m)
    assert not log_det.any()
    with pytest.raises(ValueError, match="location_only with flow gate"):
        ResNetVAE(location_only=True, flow="gate")


# --- the objective


def test_free_bits_take_the_larger_and_only_it_has_a_gradient() -> None:
    kl = torch.tensor([[0.3, 0.9, 2.5]]).repeat(4, 1).unsqueeze(1).requires_grad_()

    value = free_bits(kl, 1.0)
    value.backward()

    assert value.item() == pytest.approx(4.5)
    torch.testing.assert_close(kl.grad.sum((0, 1)), torch.tensor([0.0, 0.0, 1.0]))


def test_free_bits_floor_the_mean_of_each_chunk() -> None:
    kl = torch.tensor([0.0, 4.0, 0.0, 0.2, 3.0]).view(5, 1, 1)

    assert free_bits(kl, 1.0, 2).item() == pytest.approx((2 * 2 + 2 * 1 + 1 * 3) / 5)
    assert free_bits(kl, 1.0).item() == pytest.approx(7.2 / 5)
    assert free_bits(-kl, 0.0, 2).item() == pytest.approx(-7.2 / 5)  # one sample's may be negative


def test_measures_never_have_free_bits() -> None:
    x, index = images(), torch.arange(6)
    found = [initialized(small(free_bits=f), x).measure(x, index, 1)["elbo"] for f in (0.0, 9.0)]

    assert torch.equal(*found)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_a_bound_and_trains(name: str) -> None:
    """The loss falls on one batch, and every weight takes part; the sign cannot be wrong."""
    x = images(3)
    model = stepping(initialized(small(lr=0.02, free_bits=0.0, **VARIANTS[name]), x))

    losses = [model.training_step(x, 0)["train/loss"].item() for _ in range(6)]

    unused = f"layers.{len(model.network.layers) - 1}.up_conv2"  # as in the code
    for name, p in model.network.named_parameters():
        assert (p.grad is None) == name.startswith(unused), name
    assert losses[-1] < 0.99 * losses[0]


def test_mnist_trains_by_its_bound() -> None:
    x = digits(8)
    torch.manual_seed(0)
    model = stepping(initialized(ConvVAE(width=32, hidden_layers=2, lr=0.01).double(), x))

    said = [model.training_step(x, 0) for _ in range(6)]

    assert said[-1]["train/elbo"] > said[0]["train/elbo"] + 20
    for one in said:
        torch.testing.assert_close(one["train/elbo"], one["train/log_px_z"] - one["train/kl"])
        torch.testing.assert_close(one["train/elbo"], -one["train/loss"])
    assert all(p.grad is not None for p in model.network.parameters())


def test_sampled_kl_is_the_closed_form_on_average() -> None:
    torch.manual_seed(0)
    network, x = toy_network(4, 0), digits(2)
    mu, log_sigma = network.encode(x)

    z, log_q = network.posterior((mu, log_sigma), 2000)

    expected = gaussian.kl_to_standard_normal(mu, log_sigma).sum(1)
    found = (log_q - gaussian.log_density(z)).sum(1).view(-1, 2)
    error = 5 * found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - expected).abs() < error).all()


def test_importance_weighting_tightens_the_bound() -> None:
    torch.manual_seed(0)
    model, x = ConvVAE(width=32).double(), digits(10)
    initialized(model, x)
    with torch.no_grad():  # a posterior that is off
        model.averaged.base.b.fill_(0.4)

    found = [model.measure(x, torch.arange(10), k) for k in (1, 4, 30)]

    means = [one["log_px"].mean().item() for one in found]
    assert means == sorted(means)
    assert means[2] > means[0] + 1
    assert torch.equal(found[0]["elbo"], found[0]["log_px"])
    assert torch.equal(found[2]["elbo"], found[0]["elbo"])
    assert found[2]["samples"].tolist() == [30] * 10


# --- likelihood, bits


def test_code_length_of_all_levels_from_an_untrained_decoder() -> None:
    """One logistic of scale 1 in the middle: 10.03 bits for a level, on average over all."""
    model = small(log_scale_init=0.0)
    with torch.no_grad():
        model.network.x_dec.s.fill_(-30)
    x = torch.arange(256).repeat(12).view(1, 3, 32, 32).to(torch.uint8)

    log_px, _, _ = model.network(x)

    assert bits_per_dim(log_px.item(), 3072) == pytest.approx(10.03, abs=5e-3)


def test_a_location_at_the_input_s_value_is_in_the_middle_of_its_bin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x, seen = small(log_scale_init=-8.0), images(), []
    monkeypatch.setattr(model.network, "x_enc", nn.Sequential(Spy(seen), model.network.x_enc))
    model.network.encode(x)
    mu = seen[0]
    monkeypatch.setattr(model.network, "way_down", lambda n, found: (mu, [], [torch.zeros(6, 4)]))

    log_px, _, _ = model.network.weigh(x, [], 1)

    middle = 2 / (1 + math.exp(-math.exp(8) / 512)) - 1  # mass within half a bin
    torch.testing.assert_close(log_px, torch.full((6,), 3072 * math.log(middle + 1e-7)).double())


class Spy(nn.Module):
    def __init__(self, seen: list) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x


class Uniform(Network):
    """256 levels, each as likely as the other."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def encode(self, x: Tensor) -> Tensor:
        return x

    def weigh(self, x: Tensor, code: Tensor, samples: int) -> tuple[Tensor, Tensor, list]:
        log_px = torch.full((samples * len(x),), -3072 * math.log(256))
        return log_px, torch.zeros(samples * len(x), 1, 1), []


def test_uniform_levels_take_eight_bits() -> None:
    model = small(importance_samples=7).float()
    model.averaged = Uniform()
    data = Data(images())

    pl.Trainer(**QUIET).test(model, data, verbose=False)

    assert model.trainer.callback_metrics["test/bits_per_dim"].item() == pytest.approx(8, abs=1e-6)
    assert model.trainer.callback_metrics["test/elbo_bits_per_dim"].item() == pytest.approx(8)


# --- initialisation and sizes


@pytest.mark.parametrize("name", ["mnist", "headline", "paper", "two_levels", "bottom_up"])
def test_initialisation_gives_each_layer_its_deviation(name: str) -> None:
    if name == "mnist":
        torch.manual_seed(0)
        model, x = ConvVAE(width=32, hidden_layers=2).double(), digits(24)
    else:
        model, x = small(**VARIANTS[name]), images(12)
    torch.manual_seed(7)
    model.initialize(x)
    outputs: dict[str, Tensor] = {}
    layers = {n: m for n, m in model.network.named_modules() if isinstance(m, WeightNorm)}
    for n, layer in layers.items():
        layer.register_forward_hook(lambda m, _, y, n=n: outputs.__setitem__(n, y))

    torch.manual_seed(7)  # the same z
    model.network(x)

    assert outputs.keys() == layers.keys()
    for n, y in outputs.items():
        units = y.movedim(layers[n].units, -1).flatten(0, -2)
        std = units.std(0, correction=0)
        varies = std > 1e-9
        assert varies.float().mean() > 0.7 or n.endswith(
            f"{len(model.network.layers) - 1}.down_conv1"
        )
        torch.testing.assert_close(units.mean(0), torch.zeros_like(std), atol=1e-8, rtol=0)
        target = torch.full_like(std, layers[n].std)
        torch.testing.assert_close(std[varies], target[varies], rtol=1e-5, atol=0)


def test_autoregressive_layers_start_at_one_and_others_at_a_tenth() -> None:
    model = small()

    stds = {n: m.std for n, m in model.network.named_modules() if isinstance(m, WeightNorm)}

    assert {s for n, s in stds.items() if "flow" in n} == {1.0}
    assert {s for n, s in stds.items() if "flow" not in n} == {0.1}
    gated = small(flow="gate").network.layers[0].flow[0]
    assert [m.std for m in (*gated.hidden, *gated.heads)] == [1.0, 1.0, 0.1, 0.1]


def test_the_kl_of_a_fresh_ladder_follows_from_deviations_of_a_tenth() -> None:
    """Posterior and prior differ by three such terms in mean and log deviation: 0.046 nats.

    Above the vector of zeros only the way up speaks, so there it is one: 0.015. A flow that begins
    near the identity adds little.
    """
    x = images(16)
    for steps, extra in ((0, 0.0), (1, 0.03)):
        model = initialized(small(depth=3, latents=8, steps=steps), x)
        _, kl, _ = model.network(x)

        top, *others = (kl.mean((0, 2)) / 256).tolist()
        assert kl.shape == (16, 3, 8)
        assert 0.010 < top < 0.020 + extra
        assert all(0.035 < layer < 0.057 + extra for layer in others)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sizes_are_those_of_the_papers_models() -> None:
    with torch.device("meta"):
        whole = ResNetVAE().network
        ablations = [ResNetVAE(depth=d, hidden_layers=1).network for d in (12, 8, 4)]
        steps = [MADE(32, w, 450, n) for w, n in ((320, 1), (320, 2), (1920, 1), (1920, 2))]

    assert count(whole) / 1e6 == pytest.approx(41.56, abs=0.005)
    flows = sum(count(layer.flow) for layer in whole.layers)
    assert (count(whole) - flows) / 1e6 == pytest.approx(34.2, abs=0.05)
    assert [round(count(m) / 1e6, 1) for m in ablations] == [22.2, 14.8, 7.4]
    kernels = [
        sum(m.v.numel() for m in s.modules() if isinstance(m, WeightNormLinear)) for s in steps
    ]
    assert [round(k / 1e6, 3) for k in kernels] == [0.175, 0.277, 1.048, 4.735]


def test_latent_numbers_and_maps_of_each_layer() -> None:
    o = dict(small().hparams)
    _, kl, z = small(levels=2, depth=1).network(images(2))

    assert [tuple(one.shape) for one in z] == [(2, 4, 8, 8), (2, 4, 16, 16)]
    assert kl.shape == (2, 2, 4)
    layer = Layer(SimpleNamespace(**o | {"width": 160, "latents": 32}), halves=False)
    found = [p.v.shape[0] for p in (layer.up_conv1, layer.down_conv1)]
    assert found == [384, 448]
    assert layer.down_conv2.v.shape[1] == 192


def test_a_layer_begins_as_a_tenth_of_a_tenth_beside_its_shortcut() -> None:
    x = images(16)
    model = initialized(small(), x)
    outputs: list[Tensor] = []
    layer = model.network.layers[0]
    layer.up_conv2.register_forward_hook(lambda m, _, y: outputs.append(y))
    layer.down_conv2.register_forward_hook(lambda m, _, y: outputs.append(y))
    h = 0.1 * torch.randn(16, 8, 16, 16).double()

    up, *found = layer.up(h)
    down, z, kl = layer.down(h, *found)

    torch.testing.assert_close(up, h + 0.1 * outputs[0])
    torch.testing.assert_close(down, h + 0.1 * outputs[1])
    assert z.shape == (16, 4, 16, 16)
    assert kl.shape == (16, 4)


def test_bottom_up_inference_knows_nothing_of_the_way_down() -> None:
    x = images(2)
    for direction, same in (("bottom_up", True), ("bidirectional", False)):
        model = initialized(small(direction=direction), x)
        found = []
        for _ in range(2):
            torch.manual_seed(4)
            found.append(model.network(x)[2])
            with torch.no_grad():
                for layer in model.network.layers:
                    layer.down_conv1.b.add_(0.5)
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)) is same


# --- averages, steps


def test_the_average_forgets_its_start_by_its_decay() -> None:
    model = stepping(initialized(small(), x := images(2)), Idle(small().network.parameters(), 0.0))
    start = [p.detach().clone() for p in model.averaged.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(start, model.network.parameters(), strict=True))
    perturbed(model.network)

    for _ in range(5):
        model.training_step(x, 0)

    kept = 0.999**5
    for old, new, p in zip(
        start, model.network.parameters(), model.averaged.parameters(), strict=True
    ):
        torch.testing.assert_close(p.data, kept * old + (1 - kept) * new.data)


class Idle(torch.optim.SGD):
    def step(self, closure: object = None) -> None: ...


def test_measures_and_samples_are_those_of_the_averaged_weights() -> None:
    x, model = images(2), small()
    initialized(model, x)
    before = model.measure(x, torch.arange(2), 1), model.sample(2)

    perturbed(model.network)

    assert torch.equal(model.measure(x, torch.arange(2), 1)["elbo"], before[0]["elbo"])
    assert torch.equal(model.sample(2), before[1])


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1.0), (7, 1.0), (8, 0.1), (9, 0.1)])
def test_step_size_of_the_last_epochs(
    epoch: int, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stepping(small(decay_epoch=8))
    monkeypatch.setattr(type(model), "current_epoch", epoch)

    model.on_train_epoch_start()

    assert model.optimizers().param_groups[0]["lr"] == pytest.approx(0.002 * factor)


@pytest.mark.parametrize("options", [{"checkpointing": True}, {"channels_last": True}])
@pytest.mark.parametrize("direction", ["bidirectional", "bottom_up"])
def test_options_of_the_machine_change_no_gradient(
    options: dict, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draws, "randn_like", lambda x: torch.randn(x.shape, dtype=x.dtype))
    x, found = images(3), []
    for chosen in ({}, options):
        model = initialized(small(direction=direction, **chosen), x)
        torch.manual_seed(5)
        log_px, kl = model.terms(x)
        (kl.sum((1, 2)) - log_px).mean().backward()
        found.append([p.grad for p in model.network.parameters()])

    torch.testing.assert_close(*found)


def test_mixed_precision_leaves_densities_in_float32() -> None:
    x = images(3)
    for name in ("headline", "bottom_up", "two_levels"):
        model = initialized(small(**VARIANTS[name]).float(), x)
        torch.manual_seed(5)
        exact_px, exact_kl, _ = model.network(x)
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16):
            log_px, kl, z = model.network(x)
            (kl.sum() - log_px.sum()).backward()

        assert {t.dtype for t in (log_px, kl, *z)} == {torch.float32}
        torch.testing.assert_close(log_px, exact_px, rtol=0.02, atol=0)
        torch.testing.assert_close(kl.sum(), exact_kl.sum(), rtol=0.05, atol=0)


@pytest.mark.parametrize("kind", ["mnist", "cifar10"])
def test_compiled_terms_are_the_terms(kind: str) -> None:
    torch.manual_seed(0)
    model, x = (
        (ConvVAE(width=32).double(), digits(2)) if kind == "mnist" else (small(depth=1), images(2))
    )
    initialized(model, x)
    assert model.compilable == ("terms",)
    torch.compiler.reset()  # or what the other model was compiled for makes sizes symbols
    found = []
    for terms in (model.terms, torch.compile(model.terms, fullgraph=True, backend="eager")):
        model.zero_grad()
        torch.manual_seed(1)
        log_px, kl = terms(x)
        (kl.sum() - log_px.sum()).backward()
        found.append([p.grad for p in model.network.parameters()])

    torch.testing.assert_close(*found)


# --- noise by image


def both_models() -> Iterator[tuple[Autoencoder, Tensor]]:
    torch.manual_seed(0)
    yield initialized(ConvVAE(width=32, importance_samples=20).double(), digits()), digits()
    for direction in ("bidirectional", "bottom_up"):
        model = small(direction=direction, importance_samples=6)
        yield initialized(model, images()), images()


def test_measures_do_not_depend_on_how_images_are_cut_into_batches() -> None:
    for model, x in both_models():
        index, k = torch.arange(6), model.hparams.importance_samples
        whole = model.measure(x, index, k)
        parts = [model.measure(x[p], index[p], k) for p in (slice(0, 1), slice(1, 6))]

        for name in ("elbo", "log_px"):
            cut = torch.cat([part[name] for part in parts])
            torch.testing.assert_close(cut, whole[name], rtol=0, atol=1 / 1024)


def test_samples_repeat_differ_by_seed_and_leave_the_random_state_alone() -> None:
    for model, _ in both_models():
        state = torch.get_rng_state()
        first, again, other = model.sample(4), model.sample(4), model.sample(4, seed=1)

        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert first.shape[0] == 4
        assert first.shape[1:] in ((1, 28, 28), (3, 32, 32))
        assert 0 <= first.min() <= first.max() <= 1


def test_pictures_show_images_and_nats() -> None:
    for model, x in both_models():
        with torch.no_grad():
            found = model.pictures(x)

        seen, decoded = found["reconstructions"]
        shape = seen.shape[1:]
        assert torch.equal(
            seen.flatten().double(), (x / x.max() if x.max() == 1 else x / 255).flatten()
        )
        assert found["interpolations"].shape == (3, 10, *shape)
        torch.testing.assert_close(found["interpolations"][:, 0], decoded[::2])
        torch.testing.assert_close(found["interpolations"][:, -1], decoded[1::2])
        assert found["nats_of_layers_and_units"].dim() == 2


# --- in Lightning


QUIET = {
    "accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False,
    "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}  # fmt: skip


class Data(pl.LightningDataModule):
    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x

    def initialization_images(self, n: int) -> Tensor:
        return self.x[:n]

    def train_dataloader(self) -> DataLoader:
        return DataLoader([self.x, self.x], batch_size=None)

    def test_dataloader(self) -> DataLoader:
        batches = [(self.x[:4], torch.arange(4)), (self.x[4:], torch.arange(4, 6))]
        return DataLoader(batches, batch_size=None)

    def val_dataloader(self) -> list:
        return [self.test_dataloader(), self.test_dataloader()]

    predict_dataloader = test_dataloader


def test_a_run_logs_its_metrics_and_predictions_follow_without_measuring_again() -> None:
    model, data, trainer = small(importance_samples=5).float(), Data(images()), pl.Trainer(**QUIET)
    trainer.fit(model, data)
    assert {"val/elbo_bits_per_dim", "test/elbo_bits_per_dim"} <= trainer.callback_metrics.keys()
    assert model.initialized

    trainer.test(model, data, verbose=False)
    tested = dict(trainer.callback_metrics)
    model.measure = None
    predicted = trainer.predict(model, data)

    for metric, name in (("elbo_bits_per_dim", "elbo"), ("bits_per_dim", "log_px")):
        nats = torch.cat([p[name] for p in predicted])
        assert torch.equal(nats * 1024, (nats * 1024).round())
        assert tested[f"test/{metric}"].item() == pytest.approx(
            bits_per_dim(nats.double().mean().item(), 3072), rel=1e-6
        )
    assert tested["test/bits_per_dim"] < tested["test/elbo_bits_per_dim"]


# --- two processes follow one


def trained() -> dict[str, list[Tensor]]:
    """Weights and averages after three steps on this process's share of each batch."""
    found = {}
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    made = {
        "mnist": (ConvVAE(width=32, free_bits=0.05, free_bits_chunk=4), digits(8)),
        "cifar10": (small(free_bits=2.0, free_bits_chunk=4), images(8)),
    }
    for name, (model, x) in made.items():
        x = share(x)
        torch.manual_seed(6)
        model.initialize(x)
        optimizer = model.configure_optimizers()
        stepping(model, optimizer)

        def backward(loss: Tensor, model: Autoencoder = model) -> None:
            loss.backward()
            for p in model.network.parameters():
                if rank_and_size()[1] > 1 and p.grad is not None:
                    torch.distributed.all_reduce(p.grad)
                    p.grad /= rank_and_size()[1]

        model.manual_backward = backward
        for _ in range(3):
            model.training_step(x, 0)
        found[name] = [p.detach() for p in model.parameters()]
    torch.set_default_dtype(torch.float32)
    return found


def test_two_processes_follow_one() -> None:
    alone = trained()

    for theirs in run_in(2, trained):
        for name, parameters in alone.items():
            for p, q in zip(theirs[name], parameters, strict=True):
                torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)


def test_networks_are_copied_for_their_average() -> None:
    model = small()

    assert not {id(p) for p in model.network.parameters()} & {
        id(p) for p in model.averaged.parameters()
    }
    assert not any(p.requires_grad for p in model.averaged.parameters())
    assert copy.deepcopy(model).hparams == model.hparams
