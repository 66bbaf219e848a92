"""Policies, against torch's distributions and their own copies in NumPy; running moments."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence

from lit_gen.nn.policies import (
    CategoricalPolicy,
    GaussianPolicy,
    Standardizer,
    StochasticPolicy,
    ValueFunction,
    perceptron,
)

KINDS = [CategoricalPolicy, GaussianPolicy]


def trained(kind: type[StochasticPolicy], seed: int = 0, **sizes: object) -> StochasticPolicy:
    """A policy of 5 numbers with 3 actions that depends on what it sees."""
    torch.manual_seed(seed)
    policy = kind(5, 3, **{"hidden": [7, 6]} | sizes).double()
    for p in policy.parameters():
        torch.nn.init.normal_(p, std=0.6)
    policy.standardizer.update(torch.randn(50, 5).double() * torch.arange(1, 6) + 3)
    return policy


def seen(n: int = 40) -> Tensor:
    return torch.randn(n, 5, dtype=torch.float64) * 4


def torchs(parameters: tuple[Tensor, ...]) -> Distribution:
    if len(parameters) == 1:
        return Categorical(logits=parameters[0])
    return Independent(Normal(parameters[0], parameters[1].exp()), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_densities_divergences_and_entropies_are_torchs(kind: type[StochasticPolicy]) -> None:
    old, new, s = trained(kind), trained(kind, seed=1), seen()
    p, q = old(s), new(s)
    a = torchs(p).sample()

    torch.testing.assert_close(old.log_prob(p, a), torchs(p).log_prob(a))
    torch.testing.assert_close(old.kl(p, q), kl_divergence(torchs(p), torchs(q)))
    torch.testing.assert_close(old.entropy(p), torchs(p).entropy())
    assert (old.kl(p, q) > 0).all()
    assert (old.kl(p, p) == 0).all()
    assert old.kl(p, q).shape == (40,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["tanh", "leaky_relu"])
@pytest.mark.parametrize("hidden", [[7, 6], [9], []])
def test_the_copy_in_numpy_is_the_policy(
    kind: type[StochasticPolicy], activation: str, hidden: list[int]
) -> None:
    policy, s = trained(kind, hidden=hidden, activation=activation), seen()
    with torch.no_grad():
        known = policy.net((s - policy.standardizer.mean) / (policy.standardizer.std + 1e-6))
        said = policy(s)
    given = s.numpy().copy()

    copy = policy.numpy()
    found = np.stack([copy.output(x) for x in s.numpy()])

    np.testing.assert_allclose(found, known.numpy(), rtol=1e-10, atol=1e-12)
    if kind is CategoricalPolicy:
        torch.testing.assert_close(known.log_softmax(-1), said[0])
    else:
        torch.testing.assert_close(known, said[0])
        np.testing.assert_allclose(copy.std, said[1][0].detach().exp().numpy())
    np.testing.assert_array_equal(s.numpy(), given)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_stays_what_it_was(kind: type[StochasticPolicy]) -> None:
    policy, s = trained(kind), seen(1)[0].numpy()
    copy = policy.numpy()
    before = copy.output(s), copy.std

    with torch.no_grad():
        for p in policy.parameters():
            p.add_(1)
    policy.standardizer.update(seen() + 7)

    np.testing.assert_array_equal(copy.output(s), before[0])
    assert not np.allclose(policy.numpy().output(s), before[0])
    if kind is GaussianPolicy:
        np.testing.assert_allclose(policy.numpy().std, np.e * before[1])


def test_draws_have_the_probabilities_of_a_categorical() -> None:
    policy, s, n = trained(CategoricalPolicy), seen(1), 20_000
    copy = policy.numpy()
    noise = copy.noise(np.random.default_rng(0), n)

    drawn = np.array([copy.act(s[0].numpy(), row) for row in noise])

    p = policy(s)[0].exp().detach().numpy()[0]
    found = np.bincount(drawn, minlength=3) / n
    assert (abs(found - p) < 4 * np.sqrt(p * (1 - p) / n) + 1e-9).all()
    assert copy.act(s[0].numpy()) == p.argmax()
    assert type(copy.act(s[0].numpy())) is int


def test_draws_have_the_moments_of_a_gaussian() -> None:
    policy, s, n = trained(GaussianPolicy), seen(1), 20_000
    copy = policy.numpy()
    noise = copy.noise(np.random.default_rng(0), n)

    drawn = np.array([copy.act(s[0].numpy(), row) for row in noise])

    mean, log_std = (x.detach().numpy()[0] for x in policy(s))
    std = np.exp(log_std)
    assert (abs(drawn.mean(0) - mean) < 4 * std / n**0.5).all()
    assert (abs(drawn.std(0) / std - 1) < 4 / (2 * n) ** 0.5).all()
    correlations = np.corrcoef(drawn.T) - np.eye(3)
    assert abs(correlations).max() < 4 / n**0.5
    np.testing.assert_allclose(copy.act(s[0].numpy()), mean)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_policy_does_not_depend_on_what_it_sees(kind: type[StochasticPolicy]) -> None:
    policy = kind(5, 3)

    parameters = policy.double()(seen())

    prior = (torch.full((40, 3), 1 / 3).log(),)
    prior = prior if kind is CategoricalPolicy else (torch.zeros(40, 3), torch.zeros(40, 3))
    for found, known in zip(parameters, prior, strict=True):
        torch.testing.assert_close(found, known.double())


def test_perceptrons_begin_with_glorots_weights() -> None:
    torch.manual_seed(0)
    first, second, last = perceptron(300, 2, [100, 200])[::2]

    for layer, sizes in ((first, 300 + 100), (second, 100 + 200)):
        bound = (6 / sizes) ** 0.5
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert (last.weight == 0).all()
    assert all((layer.bias == 0).all() for layer in (first, second, last))


def test_what_lies_between_layers() -> None:
    x = torch.linspace(-3, 3, 9).view(3, 3)
    for activation, known in (
        ("tanh", torch.tanh),
        ("leaky_relu", lambda h: torch.where(h < 0, 0.01 * h, h)),
    ):
        net = perceptron(3, 2, [4], activation)
        torch.nn.init.ones_(net[-1].weight)
        torch.testing.assert_close(net(x), known(net[0](x)).sum(1, keepdim=True).expand(3, 2))


# running moments


def test_moments_are_those_of_all_examples() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 4)) * [1, 10, 0.1, 3] + [0, 50, 5, -2]
    standardizer = Standardizer(4)

    for part in np.split(x, [1, 3, 40, 700]):
        standardizer.update(torch.from_numpy(part))

    y = standardizer(torch.from_numpy(x))
    np.testing.assert_allclose(standardizer.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(standardizer.std, x.std(0), rtol=1e-9)
    np.testing.assert_allclose(y, (x - x.mean(0)) / (x.std(0) + 1e-6), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(standardizer.undo(y), torch.from_numpy(x))


@pytest.mark.parametrize("constant", [0.0, 1.0, -3.7, 1e4])
def test_constant_numbers_become_nought(constant: float) -> None:
    standardizer = Standardizer(2)
    x = torch.stack([torch.full((9,), constant), torch.arange(9.0)], 1).double()
    for part in x.split([2, 3, 4]):
        standardizer.update(part)

    y = standardizer(x)

    torch.testing.assert_close(y[:, 0], torch.zeros(9).double(), rtol=0, atol=1e-5)
    assert y[:, 1].std() > 0.9


def test_before_the_first_update_nothing_changes() -> None:
    x = seen()

    # to the 1e-6 that is added to a deviation of 1
    torch.testing.assert_close(Standardizer(5)(x), x, rtol=1.1e-6, atol=0)


def test_moments_are_part_of_what_is_saved() -> None:
    policy, other = trained(CategoricalPolicy), trained(CategoricalPolicy, seed=1)
    other.load_state_dict(policy.state_dict())

    s = seen()
    assert torch.equal(policy(s)[0], other(s)[0])
    assert other.standardizer.count == 50


def test_values_are_in_the_unit_of_the_returns() -> None:
    value = ValueFunction(5, limit=10, hidden=[7]).double()
    s, t = seen(6), torch.arange(6.0).double()
    value.returns.update(torch.tensor([[100.0], [300.0]]).double())

    assert value(s, t).tolist() == [200] * 6  # a new one gives the mean

    torch.nn.init.normal_(value.net[-1].weight)
    y = value.net(torch.cat([value.standardizer(s), t[:, None] / 10], -1))[:, 0]
    torch.testing.assert_close(value.standardized(s, t), y)
    torch.testing.assert_close(value(s, t), 200 + 100 * y)
    assert (value(s, t) != value(s, t + 1)).all()
