"""Batch normalisation: whose statistics, and when."""

import pytest
import torch
from processes import run_in
from torch import Tensor, nn

from lit_gen.nn.batch_norm import BatchNorm, by_running_averages
from lit_gen.nn.distributed import rank_and_size, share

SHAPES = [(12, 5), (12, 5, 3, 2)]


def batch(shape: tuple[int, ...], seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(shape, generator=generator, dtype=torch.float64) + 1


def layer(**options: object) -> BatchNorm:
    torch.manual_seed(0)
    return BatchNorm(5, **options).double()


def torchs(like: BatchNorm, shape: tuple[int, ...]) -> nn.Module:
    norm = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(5, eps=like.eps).double()
    norm.load_state_dict(like.state_dict(), strict=False)
    return norm


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_each_feature_gets_gamma_and_beta_in_either_mode(
    shape: tuple[int, ...], training: bool
) -> None:
    norm = layer().train(training)
    nn.init.normal_(norm.bias)

    y = norm(batch(shape)).transpose(0, 1).flatten(1)  # (F, everything else)

    torch.testing.assert_close(y.mean(1), norm.bias)
    torch.testing.assert_close(y.std(1, correction=0), norm.weight, rtol=1e-4, atol=0)


def test_gamma_is_drawn_about_one() -> None:
    torch.manual_seed(0)
    norm = BatchNorm(100_000)

    assert norm.weight.mean().item() == pytest.approx(1, abs=3e-4)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert not norm.bias.any()


@pytest.mark.parametrize("shape", SHAPES)
def test_without_gamma_and_beta(shape: tuple[int, ...]) -> None:
    norm = layer(affine=False)

    assert not list(norm.parameters())
    assert norm(batch(shape)).mean().item() == pytest.approx(0, abs=1e-12)


def test_nothing_is_kept_unless_it_is_asked_for() -> None:
    norm = layer()
    before = {name: value.clone() for name, value in norm.state_dict().items()}

    norm(batch((12, 5)))

    assert before.keys() == norm.state_dict().keys() == {"weight", "bias"}
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("shape", SHAPES)
def test_running_averages_are_torchs(shape: tuple[int, ...]) -> None:
    ours = layer(track=True)
    theirs = torchs(ours, shape)

    for seed in range(3):
        torch.testing.assert_close(ours(batch(shape, seed)), theirs(batch(shape, seed)))

    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    x = batch(shape, 9)
    with by_running_averages(ours):
        torch.testing.assert_close(ours(x), theirs.eval()(x))


@pytest.mark.parametrize("training", [True, False])
def test_averages_move_in_training_mode_alone(training: bool) -> None:
    norm = layer(track=True).train(training)

    norm(batch((12, 5)))

    assert bool(norm.running_mean.any()) is training


def test_given_statistics_make_each_example_its_own_and_move_nothing() -> None:
    norm, x = layer(track=True), batch((12, 5, 3, 2))
    mean, var = torch.arange(5.0).double(), torch.full((5,), 4.0).double()

    with norm.frozen(mean, var):
        y = norm(x)
        torch.testing.assert_close(norm(x[3:4]), y[3:4])

    expected = (x - mean.view(-1, 1, 1)) / (4 + norm.eps) ** 0.5
    torch.testing.assert_close(y, expected * norm.weight.view(-1, 1, 1))
    assert not norm.running_mean.any()
    assert norm.given is None


def test_statistics_are_given_back_when_something_fails() -> None:
    norm = layer(track=True)

    with pytest.raises(RuntimeError), by_running_averages(norm):
        norm(torch.zeros(2, 3).double())

    assert norm.given is None


def test_a_layer_without_averages_is_named() -> None:
    model = nn.Sequential(BatchNorm(5, track=True), BatchNorm(5))

    with pytest.raises(ValueError, match="1 keeps no running averages"), by_running_averages(model):
        pass
    assert model[0].given is None


def everything() -> list[Tensor]:
    """Outputs, gradients and averages of this process, all processes' gradients averaged."""
    found = []
    for shape in SHAPES:
        norm, x = layer(track=True), batch(shape).requires_grad_()
        y = norm(share(x))
        (y.pow(3) + y.sin()).mean().backward()
        grads = [x.grad, norm.weight.grad, norm.bias.grad]
        if rank_and_size()[1] > 1:
            for grad in grads:
                torch.distributed.all_reduce(grad)
                grad /= rank_and_size()[1]
        found += [y.detach(), *grads, norm.running_mean, norm.running_var]
    return found


def test_two_processes_are_one() -> None:
    alone, (even, odd) = everything(), run_in(2, everything)

    for i, (whole, a, b) in enumerate(zip(alone, even, odd, strict=True)):
        if i % 6 == 0:  # outputs, of which each has its share
            torch.testing.assert_close(whole, torch.stack([a, b], 1).flatten(0, 1))
        else:
            torch.testing.assert_close(whole, a)
            torch.testing.assert_close(a, b)
