"""The techniques of Improved GAN: hand-computed cases, and what Secs. 3.2 to 3.5 say of them."""

import math

import pytest
import torch
from processes import run_in
from torch import nn

from lit_gen.nn.distributed import share
from lit_gen.nn.weight_norm import WeightNormLinear, data_dependent_init
from lit_gen.papers.improved_gan_techniques import (
    HistoricalAverage,
    MinibatchDiscrimination,
    VirtualBatchNorm,
    smoothed_loss,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def layer(features: int = 6, kernels: int = 3, dim: int = 2) -> MinibatchDiscrimination:
    torch.manual_seed(0)
    made = MinibatchDiscrimination(features, kernels, dim).double()
    nn.init.normal_(made.s, std=0.3)
    nn.init.normal_(made.beta)
    return made


# --- minibatch discrimination (Sec. 3.2)


def test_nearness_by_hand() -> None:
    """One kernel that compares h's two numbers as they are: distances 3, 1 and 2."""
    made = MinibatchDiscrimination(2, 1, 2).double()
    made.v.data = 7 * torch.eye(2, dtype=torch.float64).unsqueeze(1)  # length 1 after all
    made.beta.data.fill_(0.5)
    h = torch.tensor([[0.0, 0], [1, 2], [1, 0]], dtype=torch.float64)

    out = made(h)

    a, b, c = math.exp(-3), math.exp(-1), math.exp(-2)
    torch.testing.assert_close(out[:, :2], h)
    expected = torch.tensor([a + b + 0.5, a + c + 0.5, b + c + 0.5], dtype=torch.float64)
    torch.testing.assert_close(out[:, 2], expected)


def test_nearness_is_the_paper_s_less_oneself_whatever_the_weights() -> None:
    made, h = layer(), drawn(5, 6)
    t = made.v / made.v.square().sum(0).sqrt() * made.s.exp()
    m = (h @ t.flatten(1)).view(5, 3, 2)
    c = (-(m[:, None] - m[None]).abs().sum(-1)).exp()  # (i, j, b), with c = 1 for j = i

    torch.testing.assert_close(made(h)[:, 6:], c.sum(1) - 1 + made.beta)


def test_only_distances_within_the_batch_count() -> None:
    made, h = layer(), drawn(5, 6)
    out, order = made(h), torch.tensor([3, 0, 4, 1, 2])

    torch.testing.assert_close(made(h[order]), out[order])
    torch.testing.assert_close(made(h + drawn(6, seed=1))[:, 6:], out[:, 6:])
    same = made(h[:1].expand(5, 6))[:, 6:]
    torch.testing.assert_close(same, (4 + made.beta).expand(5, 3))


def test_gradients_of_nearness() -> None:
    made, h = layer(), drawn(4, 6).requires_grad_()
    parameters = (made.v, made.s, made.beta)

    def of(h: torch.Tensor, v: torch.Tensor, s: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(made, {"v": v, "s": s, "beta": beta}, (h,))

    assert torch.autograd.gradcheck(of, (h, *parameters))


def test_data_set_the_nearest_distance_to_two_and_the_offset() -> None:
    made = layer()
    nn.init.zeros_(made.beta)
    model = nn.Sequential(
        WeightNormLinear(6, 6, nn.init.normal_), made, WeightNormLinear(9, 4, nn.init.normal_)
    ).double()
    h = drawn(30, 6)

    data_dependent_init(model, h)

    inner = model[0](h)
    nearest = made.distances(inner).amin(-1).mean(-1)
    torch.testing.assert_close(nearest, torch.full_like(nearest, 2.0))
    torch.testing.assert_close(
        made(inner)[:, 6:].mean(0), torch.zeros(3).double(), atol=1e-9, rtol=0
    )
    out = model(h)  # the layer above saw what this one gives after its initialisation
    assert out.mean(0).abs().max() < 1e-9
    torch.testing.assert_close(out.square().mean(0), torch.ones(4).double())


def nearness_and_gradients() -> list[torch.Tensor]:
    made, h = layer(), share(drawn(8, 6)).requires_grad_()
    made.set_by_data(h.detach())
    out = made(h)
    out.square().mean().backward()
    found = [p.grad for p in made.parameters()]
    if len(h) < 8:
        for g in found:
            torch.distributed.all_reduce(g)
            g /= 8 // len(h)
    return [out.detach().square().mean(), *found, *(p.detach() for p in made.parameters())]


def test_processes_see_the_whole_batch() -> None:
    alone, parts = nearness_and_gradients(), run_in(2, nearness_and_gradients)

    mean = torch.stack([part[0] for part in parts]).mean()
    torch.testing.assert_close(mean, alone[0])
    for part in parts:
        for ours, theirs in zip(part[1:], alone[1:], strict=True):
            torch.testing.assert_close(ours, theirs)


# --- virtual batch normalisation (Sec. 3.5)


def test_normalisation_by_hand() -> None:
    """Reference 0 and 2: mu 1, q 2. For x = 4: mu' = (2 + 4)/3 = 2, q' = (4 + 16)/3 = 20/3."""
    made = VirtualBatchNorm(1, 2, eps=0.0).double()
    made.gamma.data.fill_(3.0)
    made.beta.data.fill_(0.5)

    out = made(torch.tensor([[0.0], [2], [4]], dtype=torch.float64))

    live = 3 * (4 - 2) / math.sqrt(20 / 3 - 4) + 0.5
    expected = torch.tensor([[-2.5], [3.5], [live]], dtype=torch.float64)
    torch.testing.assert_close(out, expected)


def test_an_image_counts_by_the_means_over_its_pixels() -> None:
    made, x = VirtualBatchNorm(3, 4).double(), drawn(6, 3, 5, 5)
    reference, live = x[:4], x[4:]

    mu = (4 * reference.mean((0, 2, 3)) + live[1].mean((1, 2))) / 5
    q = (4 * reference.square().mean((0, 2, 3)) + live[1].square().mean((1, 2))) / 5
    expected = made.gamma.view(3, 1, 1) * (live[1] - mu.view(3, 1, 1))
    expected = expected / (1e-5 + q - mu.square()).sqrt().view(3, 1, 1)

    torch.testing.assert_close(made(x)[5], expected)
    own = made(x)[:4].transpose(0, 1).flatten(1)
    own = own / made.gamma[:, None]
    assert own.mean(1).abs().max() < 1e-9
    torch.testing.assert_close(own.square().mean(1), torch.ones(3).double(), atol=1e-4, rtol=0)


def test_no_example_depends_on_another() -> None:
    made, x = VirtualBatchNorm(3, 4).double(), drawn(9, 3)

    alone = made(torch.cat([x[:4], x[6:7]]))

    torch.testing.assert_close(made(x)[6], alone[4])
    assert torch.autograd.gradcheck(made, (x.requires_grad_(),))


def test_half_precision_does_not_cancel() -> None:
    made, x = VirtualBatchNorm(3, 50), 3 + 0.1 * drawn(80, 3).float()

    out = made.bfloat16()(x.bfloat16())

    assert out.dtype == torch.bfloat16
    assert torch.isfinite(out).all()
    assert out[50:].float().std().item() == pytest.approx(1, abs=0.2)


# --- historical averaging (Sec. 3.3)


def test_the_penalty_is_the_distance_to_the_mean_of_all_steps() -> None:
    theta = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    history = HistoricalAverage([theta], weight=0.5)

    assert history([theta]).item() == 0
    theta.data = torch.tensor([3.0, -2.0], dtype=torch.float64)
    penalty = history([theta])
    penalty.backward()

    assert penalty.item() == pytest.approx(0.5 * (1 + 4))  # the mean is (2, 0)
    torch.testing.assert_close(theta.grad, torch.tensor([1.0, -2.0], dtype=torch.float64))


def test_an_average_goes_on_from_its_state() -> None:
    values = [drawn(3, seed=i) for i in range(5)]
    whole, first, second = (HistoricalAverage([values[0]]) for _ in range(3))

    said = [whole([v]).item() for v in values]
    for v in values[:3]:
        first([v])
    second.load_state_dict(first.state_dict())

    assert [second([v]).item() for v in values[3:]] == said[3:]


def distance(weight: float) -> float:
    """From the equilibrium of the toy game of Sec. 3.3, (f(x) - 1)(y - 1) with f(x) = x below 0 and
    x^2 above, after gradient play by both players."""
    x, y = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.2, 0.2))
    players = [HistoricalAverage([p], weight) for p in (x, y)]
    for _ in range(4000):
        value = (torch.where(x < 0, x, x * x) - 1) * (y - 1)
        costs = [value + players[0]([x]), -value + players[1]([y])]
        gradients = [torch.autograd.grad(c, p, retain_graph=True)[0]
                     for c, p in zip(costs, (x, y), strict=True)]  # fmt: skip
        with torch.no_grad():
            for p, g in zip((x, y), gradients, strict=True):
                p -= 0.02 * g
    return math.hypot(x.item() - 1, y.item() - 1)


def test_historical_averaging_finds_the_equilibrium_that_gradient_play_orbits() -> None:
    assert distance(0.0) > 0.5
    assert distance(1.0) < 0.1  # an average over all steps forgets the first ones slowly


# --- label smoothing (Sec. 3.4)


def test_smoothing_is_the_cross_entropy_of_its_target() -> None:
    logit = drawn(7)

    for target in (1.0, 0.9):
        expected = nn.functional.binary_cross_entropy_with_logits(
            logit, torch.full_like(logit, target), reduction="none"
        )
        torch.testing.assert_close(smoothed_loss(logit, target), expected)


def test_the_best_discriminator_has_a_smoothed_numerator() -> None:
    """D = alpha p_data / (p_data + p_G) (Sec. 3.4), here of densities 3 and 1."""
    logit = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    loss = 3 * smoothed_loss(logit, 0.8) + nn.functional.softplus(logit)

    assert logit[loss.argmin()].sigmoid().item() == pytest.approx(0.8 * 3 / 4, abs=1e-3)
