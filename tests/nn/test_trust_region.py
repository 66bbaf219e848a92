"""Trust-region steps, against explicit matrices, loops and sums worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call

from lit_gen.nn.policies import CategoricalPolicy, GaussianPolicy, StochasticPolicy
from lit_gen.nn.trust_region import (
    Step,
    conjugate_gradient,
    discounted_sums,
    fisher_vector_product,
    flat,
    gae,
    trust_region_step,
)

KINDS = [CategoricalPolicy, GaussianPolicy]


def random_policy(kind: type[StochasticPolicy], seed: int = 0) -> StochasticPolicy:
    torch.manual_seed(seed)
    policy = kind(3, 2, hidden=[4]).double()
    for p in policy.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return policy


def of_vector(policy: StochasticPolicy, s: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """All of the policy's parameters as one vector -> the distribution's."""
    named = dict(policy.named_parameters())

    def outputs(theta: Tensor) -> tuple[Tensor, ...]:
        parts = theta.split([p.numel() for p in named.values()])
        given = {n: x.view_as(p) for (n, p), x in zip(named.items(), parts, strict=True)}
        return functional_call(policy, given, (s,))

    return outputs


def matrix(product: Callable[[Tensor], Tensor], size: int) -> Tensor:
    return torch.stack([product(v) for v in torch.eye(size, dtype=torch.float64)])


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_hessian(kind: type[StochasticPolicy]) -> None:
    """Also where the new policy is not the old one."""
    policy, s = random_policy(kind), torch.randn(7, 3, dtype=torch.float64)
    theta = flat(policy.parameters()).detach()
    old = tuple(p.detach() for p in random_policy(kind, seed=1)(s))
    outputs = of_vector(policy, s)
    H = hessian(lambda x: policy.kl(old, outputs(x)).mean(), theta)
    H = H + 0.3 * torch.eye(len(theta), dtype=torch.float64)

    divergence = policy.kl(old, policy(s)).mean()
    product = fisher_vector_product(divergence, list(policy.parameters()), damping=0.3)

    torch.testing.assert_close(matrix(product, len(theta)), H)


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_old_policy_they_are_those_of_the_fisher_information(
    kind: type[StochasticPolicy],
) -> None:
    """J^T M J: of log-probabilities M is diag(p), of mean and log std diag(1 / std^2, 2)."""
    policy, s = random_policy(kind), torch.randn(7, 3, dtype=torch.float64)
    theta, outputs = flat(policy.parameters()).detach(), of_vector(policy, s)
    old = tuple(p.detach().clone() for p in policy(s))
    if kind is CategoricalPolicy:
        weights = old[0].exp()
    else:
        weights = torch.cat([(-2 * old[1]).exp(), torch.full_like(old[1], 2.0)], -1)
    J = jacobian(lambda x: torch.cat(outputs(x), -1), theta)  # (N, A, P)
    fisher = torch.einsum("nap,na,naq->pq", J, weights, J) / len(s)

    divergence = policy.kl(old, policy(s)).mean()
    product = fisher_vector_product(divergence, list(policy.parameters()))

    assert divergence == 0
    torch.testing.assert_close(matrix(product, len(theta)), fisher)


def positive_definite(size: int) -> np.ndarray:
    root = np.random.default_rng(0).normal(size=(size, size))
    return root @ root.T + 0.5 * np.eye(size)


def test_conjugate_gradients_solve_a_linear_system() -> None:
    A, b = positive_definite(8), np.random.default_rng(1).normal(size=8)
    known = torch.from_numpy(np.linalg.solve(A, b))
    A, b = torch.from_numpy(A), torch.from_numpy(b)

    found = conjugate_gradient(lambda v: A @ v, b, iterations=20, tolerance=1e-24)
    rough = [conjugate_gradient(lambda v: A @ v, b, iterations=i) - known for i in range(8)]

    torch.testing.assert_close(found, known)
    errors = torch.stack([e @ A @ e for e in rough])
    assert (errors.diff() < 0).all()  # each iteration comes nearer


def test_conjugate_gradients_end_when_they_are_near_enough() -> None:
    A = torch.from_numpy(positive_definite(8))
    asked = []

    def product(v: Tensor) -> Tensor:
        asked.append(v)
        return A @ v

    b = torch.ones(8, dtype=torch.float64)
    x = conjugate_gradient(product, b, iterations=100, tolerance=1e-2)
    assert (b - A @ x).square().sum() < 1e-2
    assert 0 < len(asked) < 8
    asked.clear()
    assert (conjugate_gradient(product, torch.zeros(8).double()) == 0).all()
    assert not asked
    assert (conjugate_gradient(product, 1e-9 * b) != 0).all()  # a direction, however short


# a step on a quadratic: the objective g . x, the divergence h |x - start|^2 / 2


def quadratic(
    x: Tensor, steep: float = 1.0, bent: float = 0.0, h: float = 1.0
) -> tuple[Callable[[], tuple[Tensor, Tensor]], Callable[[], Tensor]]:
    """`steep` times the divergence is what is evaluated; `bent` makes the gain fall short."""
    start = x.detach().clone()

    def evaluate() -> tuple[Tensor, Tensor]:
        moved = x - start
        divergence = steep * 0.5 * h * moved.square().sum()
        return moved.sum() - bent * moved.square().sum(), divergence

    return evaluate, lambda: 0.5 * h * (x - start).square().sum()


def step_on(limit: float, damping: float = 0.0, **shape: float) -> tuple[Step, float]:
    x = torch.full((1,), 5.0, dtype=torch.float64, requires_grad=True)
    step = trust_region_step([x], *quadratic(x, **shape), limit=limit, damping=damping)
    return step, x.item() - 5


def test_the_full_step_is_a_natural_gradient_up_to_the_limit() -> None:
    H, g = torch.from_numpy(positive_definite(6)), torch.randn(6, dtype=torch.float64)
    parts = [torch.zeros(2, 2).double(), torch.zeros(2).double()]
    for part in parts:
        part.requires_grad_()

    def divergence() -> Tensor:
        x = flat(parts)
        return 0.5 * x @ H @ x

    step = trust_region_step(
        parts, lambda: (flat(parts) @ g, divergence()), divergence, limit=0.03, damping=0.0
    )

    along = torch.linalg.solve(H, g)
    known = along * (2 * 0.03 / (g @ along)).sqrt()
    torch.testing.assert_close(flat(parts).detach(), known, rtol=1e-6, atol=0)
    assert step.scale == 1
    assert step.divergence == pytest.approx(0.03, rel=1e-6)
    assert step.gain == pytest.approx(float(g @ known), rel=1e-6)


def test_damping_shortens_the_step() -> None:
    assert step_on(0.5)[1] == pytest.approx(1)
    assert step_on(0.5, damping=3.0)[1] == pytest.approx(0.5)
    assert step_on(0.5, h=4.0)[1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("steep", "scale"), [(1.95, 1), (2.05, 1 / 2), (7.9, 1 / 2), (8.1, 1 / 4), (2000, 1 / 32)]
)
def test_the_divergence_stays_below_twice_the_limit(steep: float, scale: float) -> None:
    """The full step would have `steep` times the limit, and half of it a quarter of that."""
    step, moved = step_on(0.01, steep=steep)

    assert step.scale == scale
    assert moved == pytest.approx(scale * 0.02**0.5, rel=1e-6)
    assert step.divergence == pytest.approx(steep * 0.01 * scale**2, rel=1e-6)


@pytest.mark.parametrize(
    ("bent", "scale"), [(0.89, 1), (0.91, 1 / 2), (1.79, 1 / 2), (1.81, 1 / 4)]
)
def test_a_tenth_of_the_promised_gain_is_enough(bent: float, scale: float) -> None:
    step, moved = step_on(0.5, bent=bent)  # a full step of 1, which promises 1

    assert step.scale == scale
    assert step.gain == pytest.approx(moved - bent * moved**2)


def test_if_no_length_will_do_a_tiny_step_is_taken_untested() -> None:
    asked = []
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    evaluate, curved = quadratic(x, steep=1e12)

    def counted() -> tuple[Tensor, Tensor]:
        asked.append(x.item())
        return evaluate()

    step = trust_region_step([x], counted, curved, limit=0.5, damping=0.0)

    assert step.scale == 2**-10
    assert x.item() == pytest.approx(2**-10)
    assert asked[1:] == pytest.approx([2.0**-i for i in range(11)])
    assert step.divergence > 1e5


def test_without_a_slope_nothing_moves() -> None:
    x = torch.full((2,), 3.0, dtype=torch.float64, requires_grad=True)

    def never() -> Tensor:
        raise AssertionError("nothing needs a curvature")

    step = trust_region_step([x], lambda: (9e-7 * x.sum(), x.sum()), never)

    assert step == (0, 0, 0)
    assert x.tolist() == [3, 3]


@pytest.mark.parametrize("limit", [0.01, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_policies_gain_within_the_region(
    kind: type[StochasticPolicy], limit: float
) -> None:
    scales = []
    for seed in range(12):
        policy = random_policy(kind, seed)
        s, A = torch.randn(50, 3).double(), torch.randn(50).double()
        a = torch.randint(2, (50,)) if kind is CategoricalPolicy else torch.randn(50, 2).double()
        with torch.no_grad():
            old = tuple(p.clone() for p in policy(s))
            log_old = policy.log_prob(old, a)

        def evaluate() -> tuple[Tensor, Tensor]:
            new = policy(s)  # noqa: B023
            ratio = (policy.log_prob(new, a) - log_old).exp()  # noqa: B023
            return (ratio * A).mean(), policy.kl(old, new).mean()  # noqa: B023

        before = evaluate()[0].item()
        step = trust_region_step(policy.parameters(), evaluate, lambda: evaluate()[1], limit)
        after, divergence = (x.item() for x in evaluate())

        assert np.log2(step.scale) in range(-10, 1)
        assert (after - before, divergence) == (step.gain, step.divergence)
        if step.scale > 2**-10:
            assert step.gain > 0
            assert 0 < step.divergence <= 2 * limit
        scales.append(step.scale)
    assert np.median(scales) >= 2**-4
    assert limit == 0.01 or min(scales) < 1  # far from the old policy, second order is too little


# sums over time


def test_sums_are_those_of_a_loop() -> None:
    lengths = [3, 1, 7, 2]
    x = torch.randn(13, dtype=torch.float64)
    given, known, end = x.clone(), [], 0
    for n in lengths:
        part = x[end : end + n].tolist()
        known += [sum(0.9**k * y for k, y in enumerate(part[t:])) for t in range(n)]
        end += n

    torch.testing.assert_close(discounted_sums(x, lengths, 0.9), torch.tensor(known).double())
    assert torch.equal(x, given)
    assert torch.equal(discounted_sums(x, lengths, 0.0), x)


REWARDS = torch.tensor([1, 2, 3, 4, 5, 6], dtype=torch.float64)
VALUES = torch.tensor([1, 1, 1, 2, 0, 4], dtype=torch.float64)
LENGTHS = [3, 1, 2]


@pytest.mark.parametrize(
    ("last", "known"),
    [
        ([0, 0, 0], [1, 2, 2, 2, 7.5, 2]),
        ([0, 3, 2], [1, 2, 2, 3.5, 7.75, 3]),  # a value follows where a time limit was
    ],
)
def test_advantages_worked_out_by_hand(last: list[float], known: list[float]) -> None:
    found = gae(REWARDS, VALUES, LENGTHS, torch.tensor(last).double(), gamma=0.5, lam=0.5)

    assert found.tolist() == known


def test_lambda_trusts_the_values_or_the_returns() -> None:
    last = torch.tensor([0, 3, 2], dtype=torch.float64)

    values = gae(REWARDS, VALUES, LENGTHS, last, gamma=0.5, lam=0)
    returns = gae(REWARDS, VALUES, LENGTHS, last, gamma=0.5, lam=1)

    assert values.tolist() == [0.5, 1.5, 2, 3.5, 7, 3]
    ended = REWARDS + 0.5 * torch.tensor([0, 0, 0, 3, 0, 2])  # what follows, as a last reward
    torch.testing.assert_close(returns, discounted_sums(ended, LENGTHS, 0.5) - VALUES)
