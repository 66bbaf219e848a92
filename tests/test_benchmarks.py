"""What is measured side by side is the same mathematics, and the README shows what was measured."""

import argparse

import bayesian
import gail
import numpy as np
import pytest
import step
import table
import torch
from port import Port
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from lit_gen.nn.weight_norm import WeightNormLinear, data_dependent_init
from lit_gen.papers.improved_gan import SemiSupervisedGAN

N = 20


@pytest.fixture
def model() -> SemiSupervisedGAN:
    """Initialised, and without noise: what is left is the same for all."""
    torch.manual_seed(0)
    model = SemiSupervisedGAN().eval()
    data_dependent_init(model.discriminator, torch.rand(200, 784))
    for ours, live in zip(model.averaged.buffers(), model.discriminator.buffers(), strict=True):
        ours.copy_(live)
    return model


@pytest.fixture
def batch() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(N, 784, generator=generator) for _ in range(3)]
    return images[0], torch.randint(0, 10, (N,), generator=generator), *images[1:]


def gradients(network: torch.nn.Module) -> list[torch.Tensor]:
    """Of each layer's weights or directions, scales, and biases or shifts, from the input on."""
    found = []
    for layer in network.modules():
        if isinstance(layer, WeightNormLinear):
            found += [layer.v, layer.g, layer.b]
        elif parametrize.is_parametrized(layer):
            weight = layer.parametrizations.weight
            found += [weight.original1, weight.original0, layer.bias]
        elif isinstance(layer, torch.nn.Linear):
            found.append(layer.weight)
        elif hasattr(layer, "shift"):
            found.append(layer.shift)
    return [p.grad.squeeze(-1).clone() for p in found if p.grad is not None]


def suites(model: SemiSupervisedGAN, batch: tuple, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Losses of the suite's own training step, called as Lightning calls it."""
    optimizers = model.configure_optimizers()
    monkeypatch.setattr(model, "optimizers", lambda: optimizers)
    monkeypatch.setattr(model, "manual_backward", lambda loss: loss.backward())
    torch.manual_seed(2)
    return [float(loss) for loss in model.training_step(batch, 0).values()]


def test_the_bare_loop_trains_as_the_suite_does(model, batch, monkeypatch) -> None:
    other = SemiSupervisedGAN().eval()
    other.load_state_dict(model.state_dict())

    ours = suites(model, batch, monkeypatch)
    torch.manual_seed(2)
    bare = step.bare_step(other, other.configure_optimizers(), batch)

    assert ours == pytest.approx([float(loss) for loss in bare], rel=1e-6)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_port_computes_the_suites_losses_and_gradients(model, batch, monkeypatch) -> None:
    port = Port(model)
    port.discriminator.eval()  # no noise
    seen = {}
    for network in ("discriminator", "generator"):
        monkeypatch.setattr(
            getattr(port, f"optimizer_{network[0]}"),
            "step",
            lambda name=network: seen.update({name: gradients(getattr(port, name))}),
        )
    expected = {}
    optimizers = model.configure_optimizers()
    for network, optimizer in zip(("discriminator", "generator"), optimizers, strict=True):
        monkeypatch.setattr(
            optimizer,
            "step",
            lambda name=network: expected.update({name: gradients(getattr(model, name))}),
        )
    monkeypatch.setattr(model, "configure_optimizers", lambda: optimizers)

    ours = suites(model, batch, monkeypatch)
    torch.manual_seed(2)
    theirs = port.step(*batch)

    assert theirs == pytest.approx(ours, rel=1e-4)
    for network, gradient in expected.items():
        assert len(seen[network]) == len(gradient) > 0
        for a, b in zip(seen[network], gradient, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    averaged = port.averaged["classifier"](port.averaged["features"](batch[0]))
    torch.testing.assert_close(averaged, model(batch[0]), rtol=1e-3, atol=1e-4)


def test_flops_are_those_that_torch_counts(model, batch) -> None:
    with FlopCounterMode(display=False) as counter:
        step.bare_step(model, model.configure_optimizers(), batch)

    assert step.flops(model, N) == counter.get_total_flops()


@pytest.fixture
def short(tmp_path) -> argparse.Namespace:
    """One iteration, and an expert that always pushes to the right."""
    rng = np.random.default_rng(0)
    expert = tmp_path / "handed_on.npz"
    arrays = {"observations": rng.normal(size=(40, 4)), "actions": np.ones(40, int)}
    np.savez(expert, **arrays, **{"lengths": np.array([20, 20]), "return": np.array([20.0, 20.0])})
    chosen = "--steps 300 --iterations 1 --gail-iterations 1 --episodes 3 --seconds 0"
    return gail.parser().parse_args([*chosen.split(), "--expert", str(expert)])


@pytest.mark.parametrize("name", ["trpo", "gail1"])
def test_our_side_of_the_peers_benchmark_learns_and_is_evaluated(name, short) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        said = gail.turns(short)[name]["suite"](short)
    finally:
        torch.set_num_threads(threads)

    assert 300 <= said["steps"] < 500  # to the end of an episode
    assert 1 <= said["worst"] <= said["evaluated"] <= 200
    assert said["ms"] > 0 < said["cpu_ms"]


def test_steps_are_counted_of_episodes_and_of_vectors_without_resets(short) -> None:
    task = gail.task_of("cartpole")
    rates = [gail.STEPS[name](task, short) for name in ("players1", "async4")]

    assert all(of["us"] > 0 for of in rates)


@pytest.mark.parametrize("size", ["3-8-2", "3-8-5-2"])
def test_written_out_gradients_are_autograds(size: str) -> None:
    bayesian.check(size, updates=3)


def test_the_readme_shows_what_was_measured() -> None:
    shown = table.README.read_text().partition(table.BEGIN)[2].partition(table.END)[0]

    assert shown == table.text(), "run: python tests/benchmarks/table.py"
