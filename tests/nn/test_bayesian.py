"""The Bayesian network, against autograd, explicit weights and posteriors, and sums by hand."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from lit_gen.nn import bayesian
from lit_gen.nn.bayesian import BayesianNetwork

HIDDEN = [[], [7], [6, 5]]
F64 = torch.float64


def network(hidden: list[int], seed: int = 0, **constants: float) -> BayesianNetwork:
    """Of 3 inputs and 2 outputs, away from where it begins, each sigma another."""
    torch.manual_seed(seed)
    made = BayesianNetwork(3, 2, hidden, **constants).double()
    with torch.no_grad():
        made.rho += 0.7 * torch.randn_like(made.rho)
    return made


def data(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, 3, dtype=F64), torch.randn(*shape, 2, dtype=F64)


def slopes_of_nll(net: BayesianNetwork, x: Tensor, y: Tensor, noise: Tensor) -> list[Tensor]:
    """By autograd, of one transition: by mu and rho of the mean over draws (S, units)."""
    loss = net.nll(net(x, noise), y).mean()
    return list(torch.autograd.grad(loss, [net.mu, net.rho]))


def stepped(net: BayesianNetwork, x: Tensor, y: Tensor, noise: Tensor, step: float) -> list[Tensor]:
    """mu and rho after a natural step, whose Fisher information is a Gaussian's textbook one."""
    by_mu, by_rho = slopes_of_nll(net, x, y, noise)
    sigma, rise = net.sigma.detach(), net.rho.detach().sigmoid()
    mu = net.mu.detach() - step * sigma**2 * by_mu
    return [mu, net.rho.detach() - step * by_rho / (2 * rise**2 / sigma**2)]


@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_gain_is_the_curved_length_of_each_transitions_step(hidden: list[int]) -> None:
    net = network(hidden)
    (x, y), noise = data(6), net.noise(6, 4)

    known = []
    for at in zip(x, y, noise, strict=True):
        by_mu, by_rho = slopes_of_nll(net, *at)
        sigma, rise = net.sigma.detach(), net.rho.detach().sigmoid()
        known.append((sigma**2 * by_mu**2 + by_rho**2 * sigma**2 / (2 * rise**2)).sum())
    found = net.information_gain(x, y, step=0.3, noise=noise)

    torch.testing.assert_close(found, 0.3**2 * torch.stack(known))


@pytest.mark.parametrize("hidden", HIDDEN)
def test_for_short_steps_it_is_the_divergence_of_two_posteriors(hidden: list[int]) -> None:
    """With Taylor's half. What second order leaves out falls with the step."""
    net = network(hidden)
    (x, y), noise = data(1), net.noise(1, 5)
    old = Normal(net.mu.detach(), net.sigma.detach())

    off = []
    for step in (1e-1, 1e-2, 1e-3):
        mu, rho = stepped(net, x[0], y[0], noise[0], step)
        known = kl_divergence(Normal(mu, rho.exp().log1p()), old).sum()
        found = net.information_gain(x, y, step=step, half=True, noise=noise)
        off.append(abs(found.item() / known.item() - 1))

    assert off[2] < 2e-3
    assert off[0] > 5 * off[1] > 25 * off[2]
    whole = net.information_gain(x, y, step=step, noise=noise)
    torch.testing.assert_close(whole, 2 * found)


def test_its_mean_is_the_one_that_explicit_weights_predict() -> None:
    """One layer, one draw: E g_mu^2 = x^2 E err^2 / std^4, where err ~ N(mu x - y, sigma^2 x^2);
    and by sigma it is sigma x^2 err eps / root / std^2."""
    net = network([], likelihood_std=2.0)
    x, y = data(1)
    (mu,), (sigma,) = (net.layers(p.detach()) for p in (net.mu, net.sigma))
    input_ = torch.cat([x[0], torch.ones(1, dtype=F64)])
    bias, variance = mu @ input_ - y[0], sigma**2 @ input_**2
    by_mu = (sigma**2 @ input_**2) * (bias**2 + variance)  # sum over a unit's weights
    eps_err = bias**2 + 3 * variance  # E (eps err)^2
    by_sigma = (sigma**4 @ input_**4) * eps_err / variance / 2
    known = (by_mu + by_sigma).sum() / 2.0**4

    torch.manual_seed(1)
    drawn = net.information_gain(x.expand(40_000, 3), y.expand(40_000, 2), samples=1, step=1.0)

    assert drawn.mean().item() == pytest.approx(known.item(), rel=0.03)
    assert drawn.unique().numel() == len(drawn)  # noise of each transition alone


@pytest.mark.parametrize("hidden", HIDDEN)
def test_parts_do_not_change_the_gains(hidden: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(hidden)
    (x, y), noise = data(50), net.noise(50, 3)

    whole = net.information_gain(x, y, noise=noise)
    monkeypatch.setattr(bayesian, "AT_A_TIME", 7 * 42)
    parts = net.information_gain(x, y, noise=noise)
    monkeypatch.setattr(bayesian, "ONE_THREAD", 0)  # torch's products
    others = net.information_gain(x, y, noise=noise)
    alone = [
        net.information_gain(x[i : i + 1], y[i : i + 1], noise=noise[i : i + 1]) for i in (0, 49)
    ]

    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(others, whole)
    torch.testing.assert_close(torch.cat(alone), whole[[0, 49]])


def test_the_gain_leaves_the_network_as_it_is() -> None:
    net = network([7])
    net.fit(*data(3, 10))
    before = copy.deepcopy(net.state_dict())

    net.information_gain(*data(20))

    for name, kept in net.state_dict().items():
        assert torch.equal(kept, before[name]), name


# training


@pytest.mark.parametrize("torchs", [False, True])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_an_update_has_the_gradient_of_the_loss(
    hidden: list[int], torchs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which Adam's first moment holds after one step, times 1 - beta1."""
    if torchs:
        monkeypatch.setattr(bayesian, "ONE_THREAD", 0)
    net = network(hidden, prior_std=0.4, likelihood_std=1.5)
    x, y = data(1, 10)
    torch.manual_seed(1)
    noise = net.noise(1, 8)[0].unsqueeze(1)  # (S, 1, units): shared by the mini-batch
    nll = net.nll(net(x[0], noise), y[0])  # (S, B)
    loss = net.kl() / 3 + nll.sum(1).mean()
    known = torch.stack(torch.autograd.grad(loss, [net.mu, net.rho]))

    torch.manual_seed(1)
    said = net.fit(x, y, samples=8, batches=3)

    torch.testing.assert_close(net.m / 0.1, known)
    torch.testing.assert_close(net.v / 0.001, known.square())
    assert said == pytest.approx(nll.mean().item())


def test_adam_by_hand() -> None:
    """Two steps; epsilon is large, so that it shows where it stands."""
    net = network([4])
    x, y = data(2, 10)
    theta, m, v = torch.stack([net.mu, net.rho]).detach(), 0.0, 0.0
    other = copy.deepcopy(net)
    torch.manual_seed(1)
    for t, eps in enumerate(net.noise(2, 10).unsqueeze(2), start=1):
        with torch.no_grad():
            other.mu.copy_(theta[0])
            other.rho.copy_(theta[1])
        loss = other.kl() / 5 + other.nll(other(x[t - 1], eps), y[t - 1]).sum(1).mean()
        g = torch.stack(torch.autograd.grad(loss, [other.mu, other.rho]))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        rate = 0.01 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        theta = theta - rate * m / (v.sqrt() + 0.5)

    torch.manual_seed(1)
    net.fit(x, y, lr=0.01, eps=0.5)

    torch.testing.assert_close(torch.stack([net.mu, net.rho]), theta)
    assert net.updates == 2


def test_parts_do_not_change_what_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data(7, 10)
    said, learned = [], []
    for at_a_time in (bayesian.AT_A_TIME, 3 * 10 * 10 * 7):  # all updates, three
        monkeypatch.setattr(bayesian, "AT_A_TIME", at_a_time)
        net = network([7], seed=1)
        said.append(net.fit(x, y))
        learned.append(net.mu)

    assert said[0] == said[1]
    assert torch.equal(*learned)


def test_it_learns_a_linear_dynamics() -> None:
    torch.manual_seed(0)
    net = BayesianNetwork(3, 2, [16], likelihood_std=0.3).double()
    A = torch.randn(3, 2, dtype=F64)
    x = torch.randn(2000, 10, 3, dtype=F64)

    first = net.fit(x[:20], x[:20] @ A, lr=3e-3)
    net.fit(x, x @ A, lr=3e-3)
    last = net.fit(x[:20], x[:20] @ A, lr=3e-3)

    gains = net.information_gain(x[0], x[0] @ A)
    surprises = net.information_gain(x[0], x[0] @ A + 5)
    noise_alone = 2 * (math.log(0.3) + 0.5 * math.log(2 * math.pi))
    assert noise_alone < last < first / 10
    assert surprises.mean() > 5 * gains.mean()


def test_a_kept_state_goes_on_bit_for_bit() -> None:
    net, (x, y) = network([7]), data(10, 10)
    net.fit(x, y)
    other = BayesianNetwork(3, 2, [7]).double()
    other.load_state_dict(copy.deepcopy(net.state_dict()))

    for one in (net, other):
        torch.manual_seed(5)
        one.fit(x, y)
        one.gains = one.information_gain(x[0], y[0])

    for name, kept in net.state_dict().items():
        assert torch.equal(kept, other.state_dict()[name]), name
    assert torch.equal(net.gains, other.gains)
    assert net.updates == 20


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_precision_and_gradients_stay(dtype: torch.dtype) -> None:
    net = network([7]).to(dtype)
    x, y = data(5, 10)  # of the other precision, too

    net.fit(x, y)
    gains = net.information_gain(x[0], y[0])

    assert {gains.dtype, net.mu.dtype, net.rho.dtype, net.m.dtype} == {dtype}
    assert net(x[0].to(dtype)).requires_grad
    torch.manual_seed(0)
    doubled = net.double().information_gain(x[0], y[0])
    torch.manual_seed(0)
    torch.testing.assert_close(
        net.to(dtype).information_gain(x[0], y[0]).double(), doubled, rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("hidden", HIDDEN)
def test_what_is_not_a_number_is_not_hidden(hidden: list[int]) -> None:
    for broken in (0, 1):
        net, parts = network(hidden), data(6)
        parts[broken][2, 1] = torch.nan

        gains = net.information_gain(*parts)
        net.fit(*(p.unsqueeze(0) for p in parts))

        assert gains.isnan().tolist() == [i == 2 for i in range(6)]
        assert net.mu.isnan().any()


def test_sizes_that_do_not_fit_are_named() -> None:
    net = network([7])
    x, y = data(4)
    for wrong in ((x, y[:, :1]), (y, y), (x, y[:3])):
        with pytest.raises(ValueError, match=r"x is \(4, \d\) and y is .* x of 3 and y of 2"):
            net.information_gain(*wrong)


# the model


def test_outputs_are_distributed_as_those_of_explicit_weights() -> None:
    net = network([])
    x = torch.randn(3, dtype=F64)
    (mu,), (sigma,) = (net.layers(p.detach()) for p in (net.mu, net.sigma))
    weights = mu + sigma * torch.randn(100_000, *mu.shape, dtype=F64)
    explicit = weights[..., :-1] @ x + weights[..., -1]

    with torch.no_grad():
        drawn = net(x.expand(100_000, 3), net.noise(100_000))

    std = explicit.std(0)
    assert ((drawn.mean(0) - explicit.mean(0)).abs() < 0.03 * std).all()
    torch.testing.assert_close(drawn.std(0), std, rtol=0.02, atol=0)
    correlation = np.corrcoef(drawn.T.numpy())[0, 1]
    assert abs(correlation) < 0.02


def test_noise_is_shared_or_each_ones_own() -> None:
    net = network([7])
    x = torch.randn(3, dtype=F64).expand(4, 3)

    shared, own = net(x), net(x, net.noise(4))

    assert (shared == shared[0]).all()
    assert (own[1:] != own[0]).all()
    assert net(x, net.noise(6, 1)).shape == (6, 4, 2)
    still = net(x[0], 0 * net.noise())
    (W, b), (V, c) = ((p[:, :-1], p[:, -1]) for p in net.layers(net.mu))
    torch.testing.assert_close(still, V @ (W @ x[0] + b).relu() + c)


def test_the_divergence_is_that_of_gaussians() -> None:
    net = network([7], prior_std=0.3)

    known = kl_divergence(Normal(net.mu, net.rho.exp().log1p()), Normal(0.0, 0.3)).sum()

    torch.testing.assert_close(net.kl(), known)


def test_the_likelihood_is_a_gaussians() -> None:
    net, (_, y) = network([7], likelihood_std=1.7), data(4)
    prediction = torch.randn(5, 4, 2, dtype=F64)

    known = -Normal(prediction, 1.7).log_prob(y).sum(-1)

    torch.testing.assert_close(net.nll(prediction, y), known)


def test_it_begins_as_the_code_does() -> None:
    torch.manual_seed(0)
    net = BayesianNetwork(30, 20, [40, 30], prior_std=0.4)

    torch.testing.assert_close(net.sigma, torch.full_like(net.sigma, 0.4))
    assert net.mu.std().item() == pytest.approx(1, rel=0.05)
    assert net.mu.numel() == sum((m + 1) * n for m, n in pairwise([30, 40, 30, 20]))
