"""What learns beside VIME's exploration: closed forms, the limits of a fit, and steps by hand."""

import copy
from collections.abc import Callable
from math import log, sqrt

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from lit_gen.nn.trust_region import Step, conjugate_gradient, fisher_vector_product, flat
from lit_gen.papers import vime_learners as learners
from lit_gen.papers.vime_learners import LinearBaseline, PerceptronBaseline, RawPolicy

F64 = torch.float64


def played(n: int = 200, seed: int = 0) -> tuple[RawPolicy, Tensor, Tensor, Tensor]:
    """A policy, observations, its actions, and standardised advantages, (N,)."""
    torch.manual_seed(seed)
    policy = RawPolicy(3, 2, [6]).double()
    s, A = torch.randn(n, 3, dtype=F64), torch.randn(n, dtype=F64)
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([0.3, -0.4]))
        a = Normal(*of(policy, s)).sample()
    return policy, s, a, (A - A.mean()) / A.std(correction=0)


def of(policy: RawPolicy, s: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations, from the layers alone."""
    first, _, last = policy.net
    mean = torch.tanh(s @ first.weight.T + first.bias) @ last.weight.T + last.bias
    return mean, policy.log_std.exp().expand_as(mean)


# the policy


def test_all_layers_begin_with_glorots_uniform_weights() -> None:
    torch.manual_seed(0)
    policy = RawPolicy(40, 30, [50, 60])

    for m, n, layer in zip((40, 50, 60), (50, 60, 30), policy.net[::2], strict=True):
        bound = sqrt(6 / (m + n))
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / sqrt(3), rel=0.05)
        assert (layer.bias == 0).all()
    assert torch.equal(policy.log_std, torch.zeros(30))


def test_observations_are_seen_as_they_are() -> None:
    policy, s, *_ = played()
    s = 100 * s + 7

    mean, log_std = policy(s)

    torch.testing.assert_close((mean, log_std.exp()), of(policy, s))
    plays = [policy.numpy().output(x) for x in s.numpy()]
    np.testing.assert_allclose(plays, mean.detach())


def test_the_deviation_has_a_floor() -> None:
    policy, s, *_ = played()
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([-100.0, -13.0]))

    assert policy(s)[1][0].tolist() == [log(1e-6), -13.0]


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_lbfgs_finds_the_least_of_a_quadratic(dtype: torch.dtype) -> None:
    target = [torch.tensor([[3.0, -2.0]], dtype=dtype), torch.tensor(5.0, dtype=dtype)]
    steep = [torch.tensor([[1.0, 20.0]], dtype=dtype), torch.tensor(7.0, dtype=dtype)]
    found = [torch.zeros_like(x, requires_grad=True) for x in target]

    def loss() -> Tensor:
        parts = zip(found, target, steep, strict=True)
        return sum((k * (x - y).square()).sum() for x, y, k in parts) + 1

    begun = loss().item()
    once = learners.lbfgs(found, loss, iterations=1)
    assert 2 < once < begun
    assert once == pytest.approx(loss().item())
    assert learners.lbfgs(found, loss) == pytest.approx(1)
    torch.testing.assert_close([x.detach() for x in found], target, rtol=1e-3, atol=0)
    assert found[0].dtype == dtype


# baselines


def seen(n: int = 300, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Observations, times, and returns that depend on both."""
    rng = np.random.default_rng(seed)
    o, t = rng.normal(size=(n, 2)) * [6, 1] + [3, -1], rng.integers(0, 500, n).astype(float)
    y = np.abs(o[:, 0]) - o[:, 1] ** 2 + 2 * (t / 100) ** 3 + rng.normal(size=n)
    return torch.from_numpy(o), torch.from_numpy(t), torch.from_numpy(y)


def test_the_linear_baseline_is_ridge_regression() -> None:
    """As least squares with a row of sqrt(ridge) for each weight."""
    o, t, y = seen()
    o = torch.cat([o, torch.full((len(o), 1), 0.5)], 1)  # collinear: the ridge decides
    assert (o.abs() > 10).any()
    baseline = LinearBaseline(3)
    assert (baseline(o, t) == 0).all()

    baseline.fit(o, t, y)

    near, far = np.clip(o.numpy(), -10, 10), t.numpy()[:, None] / 100
    X = np.concatenate([near, near**2, far, far**2, far**3, np.ones((len(o), 1))], 1)
    rows, sums = np.concatenate([X, sqrt(1e-5) * np.eye(10)]), np.concatenate([y, np.zeros(10)])
    known = np.linalg.lstsq(rows, sums, rcond=None)[0]
    np.testing.assert_allclose(baseline.weights, known, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(baseline(o, t), X @ known, rtol=1e-6)
    assert (baseline(o, t) - y).square().mean() < 0.2 * y.var()


def test_a_linear_fit_is_the_same_to_the_bit_wherever_its_numbers_stand() -> None:
    """Else a resumed run would not be the same run."""
    o, t, y = seen()
    found = []
    for i in range(30):
        room = torch.empty(y.numel() + 8, dtype=F64)[i % 8 :][: len(y)]
        baseline = LinearBaseline(2)
        baseline.fit(o.clone(), t, room.copy_(y))
        found.append(baseline.weights)

    assert all(torch.equal(w, found[0]) for w in found)


def distributions(net: PerceptronBaseline, x: Tensor) -> Normal:
    with torch.no_grad():
        return Normal(net.net(x).squeeze(-1), net.log_std.exp().clone())


def test_a_perceptrons_fit_stays_near_the_one_before() -> None:
    """Of what is standardised anew, as the old weights see it."""
    torch.manual_seed(0)
    baseline = PerceptronBaseline(2).double()
    for seed in range(4):
        o, t, y = seen(seed=seed)
        o, y = o * (1 + seed), y * 10 - 30
        x, z = ((v - v.mean(0)) / v.std(0, correction=0) for v in (o, y))
        old = distributions(baseline, x)

        baseline.fit(o, t, y)

        new = distributions(baseline, x)
        assert 0.003 < kl_divergence(old, new).mean() <= 0.01
        assert new.log_prob(z).mean() > old.log_prob(z).mean()
        torch.testing.assert_close(baseline.mean, o.mean(0))
        torch.testing.assert_close(baseline.std, o.std(0, correction=0))
        known = y.mean() + y.std(correction=0) * new.mean
        torch.testing.assert_close(baseline(o, t), known, rtol=1e-5, atol=0)


def test_a_perceptron_comes_to_predict_the_return() -> None:
    torch.manual_seed(0)
    baseline = PerceptronBaseline(2).double()
    o, t, _ = seen(100)
    y = o[:, 0].abs() - o[:, 1] ** 2 + 100

    for _ in range(25):
        baseline.fit(o, t, y)

    with torch.no_grad():
        assert (baseline(o, t) - y).square().mean() < 0.2 * y.var()
    assert baseline.log_std < -0.5


@pytest.mark.parametrize(
    ("tries", "taken", "penalty"),
    [
        ([0.5, 0.4, 0.05, 0.04], 0.05, 4),  # too far twice
        ([0.05, 0.04, 0.5, 0.03], 0.04, 1 / 4),  # near enough twice, then too far
        ([0.5] * 10, 0, 2**10),  # never near enough: it stays as it was
        ([0.05] * 6 + [0.06], 0.06, 2**-6),  # down to the least penalty
    ],
)
def test_the_penalty_is_doubled_or_halved_to_the_limit(
    tries: list[float], taken: float, penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log_std higher by 0.05 has a divergence of 0.002 nats, by 0.4 one of 0.12."""
    torch.manual_seed(0)
    baseline, (o, t, y) = PerceptronBaseline(2).double(), seen()
    begun, left, costs = parameters_to_vector(baseline.parameters()).detach().clone(), [*tries], []
    x, z = ((v - v.mean(0)) / v.std(0, correction=0) for v in (o, y))

    def at(values: Tensor, parameters: list[Tensor], loss: Callable[[], Tensor]) -> Tensor:
        vector_to_parameters(values, parameters)
        return loss().detach() + distributions(baseline, x).log_prob(z).mean()

    def moved(parameters: list[Tensor], loss: Callable[[], Tensor]) -> None:
        """To the next log_std; measures what a nat of divergence costs."""
        assert torch.equal(parameters_to_vector(parameters), begun)  # each try begins anew
        old = distributions(baseline, x)
        assert at(begun, parameters, loss) == pytest.approx(0, abs=1e-6)
        cost = at(begun + 0.3, parameters, loss)
        costs.append(float(cost / kl_divergence(old, distributions(baseline, x)).mean()))
        vector_to_parameters(torch.cat([begun.new_tensor([left.pop(0)]), begun[1:]]), parameters)

    monkeypatch.setattr(learners, "lbfgs", moved)
    baseline.fit(o, t, y)

    assert baseline.log_std.item() == taken
    assert baseline.penalty.item() == penalty
    factor = 2 if penalty > 1 else 0.5
    assert costs == pytest.approx([factor**i for i in range(len(costs))], rel=1e-4)
    assert len(left) == (1 if len(tries) == 4 else 0)


# steps of the policy


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-4, 1e-6])
def test_slopes_that_are_hardly_there_are_not_stretched_to_a_whole_step(scale: float) -> None:
    """1e-8 stands beside d H d, which falls with the square of the advantages."""
    policy, s, a, A = played()
    old = copy.deepcopy(policy)
    every = torch.arange(len(A))

    learners.trpo(policy, s, a, scale * A, every)

    with torch.no_grad():
        kl = float(policy.kl(old(s), policy(s)).mean())
    evaluate, curved = learners.surrogate(old, s, a, A, every)
    g = flat(torch.autograd.grad(evaluate()[0], list(old.parameters())))
    product = fisher_vector_product(curved(), list(old.parameters()), 1e-5)
    d = conjugate_gradient(product, scale * g)
    dHd = float(d @ product(d))
    assert kl == pytest.approx(0.01 * dHd / (dHd + 1e-8), rel=0.2)
    assert (kl < 1e-4) == (scale < 1e-4)


def test_a_trust_region_step_gains_within_its_limit() -> None:
    policy, s, a, A = played()
    old = copy.deepcopy(policy)

    step = learners.trpo(policy, s, a, A, torch.arange(0, 200, 10))

    before, after = (Normal(*of(p, s)) for p in (old, policy))
    ratio = (after.log_prob(a) - before.log_prob(a)).sum(-1).exp()
    kl = kl_divergence(before, after).sum(-1).mean().item()
    assert (ratio * A).mean() > 0.02
    assert 0.002 < kl <= 0.01
    assert step.divergence == pytest.approx(kl)
    assert step.gain == pytest.approx((ratio * A).mean().item())


def test_without_damping_a_small_full_step_has_the_length_of_the_limit() -> None:
    policy, s, a, A = played()

    step = learners.trpo(policy, s, a, A, torch.arange(200), max_kl=1e-4)

    assert step.scale >= 0.8
    assert step.divergence == pytest.approx(1e-4 * step.scale**2, rel=0.1)


@pytest.mark.parametrize("keep_last", [True, False])
def test_a_search_that_fails_keeps_its_last_length_or_none(keep_last: bool) -> None:
    """The curvature is of steps that see nothing: the rest of them is carried far away."""
    policy, s, a, A = played()
    s[:20] = 0
    old = copy.deepcopy(policy)

    step = learners.trpo(policy, s, a, A, torch.arange(20), keep_last=keep_last)

    moved = any(
        not torch.equal(p, q) for p, q in zip(policy.parameters(), old.parameters(), strict=True)
    )
    assert moved == keep_last
    assert step.scale == (pytest.approx(0.8**14) if keep_last else 0)
    kl = kl_divergence(Normal(*of(old, s)), Normal(*of(policy, s))).sum(-1).mean().item()
    assert step.divergence == pytest.approx(kl)
    assert (kl > 0.01) == keep_last


def test_the_curvature_is_of_some_steps_and_the_search_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy, s, a, A = played()
    old, some = copy.deepcopy(policy), torch.tensor([3, 5, 5])
    asked = []

    def step(parameters, evaluate, curved, limit, damping, **how) -> Step:
        with torch.no_grad():
            for p in parameters:
                p.add_(0.2)
        kl = kl_divergence(Normal(*of(old, s)), Normal(*of(policy, s))).sum(-1)
        torch.testing.assert_close(evaluate()[1], kl.mean())
        torch.testing.assert_close(curved(), kl[some].mean())
        asked.append((limit, damping, how["tries"], how["ratio"], how["wall"]))
        return Step(0.0, 0.0, 0.0)

    monkeypatch.setattr(learners, "trust_region_step", step)
    learners.trpo(policy, s, a, A, some, 0.02, 1e-3)

    assert asked == [(0.02, 1e-3, 15, 0.8, 1.0)]


def test_reinforce_follows_the_score_times_the_advantage() -> None:
    policy, s, a, A = played()

    ours = torch.autograd.grad(learners.reinforce_loss(policy, s, a, A), list(policy.parameters()))
    by_mean, by_log_std = ours[-1], ours[0]

    mean, std = of(policy, s)
    z = (a - mean) / std
    known = -(A.unsqueeze(1) * z / std).mean(0)  # of the output's biases
    torch.testing.assert_close(by_mean, known)
    torch.testing.assert_close(by_log_std, -(A.unsqueeze(1) * (z**2 - 1)).mean(0))


def test_erwr_weighs_by_advantages_above_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, s, a, A = played()
    losses = []
    monkeypatch.setattr(learners, "lbfgs", lambda parameters, loss: losses.append(loss()))

    learners.erwr(policy, s, a, A)

    weights = A - A.min() + 1e-8
    assert 0 < weights.min() < 1e-7
    log_p = Normal(*of(policy, s)).log_prob(a).sum(-1)
    torch.testing.assert_close(losses[0], -(weights * log_p).mean())


def test_erwr_makes_good_actions_likelier() -> None:
    policy, s, a, A = played()
    good = A.argsort()[-20:]
    before = Normal(*of(policy, s)).log_prob(a).sum(-1)

    value = learners.erwr(policy, s, a, A)

    after = Normal(*of(policy, s)).log_prob(a).sum(-1)
    weights = A - A.min()
    assert (weights * after).mean() > (weights * before).mean()
    assert after[good].mean() > before[good].mean() + 0.1
    assert value == pytest.approx(-(weights * after).mean().item(), rel=1e-5)
