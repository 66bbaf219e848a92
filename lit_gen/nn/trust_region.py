"""Trust-region steps: advantages, conjugate gradients, Fisher-vector products, line search.

Trust Region Policy Optimization (Schulman et al., 2015), arXiv:1502.05477, App. C, with the
constants of the code of Generative Adversarial Imitation Learning; generalised advantage estimation
is arXiv:1506.02438, Eq. 16.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_gen.nn.policies import StochasticPolicy


def discounted_sums(x: Tensor, lengths: Sequence[int], discount: float) -> Tensor:
    """y_t = x_t + discount y_{t+1} within each episode; beyond its end y is 0.

    Args:
        x: steps of all episodes, one after another, (N,).
        lengths: of the episodes; they add up to N.

    Returns:
        (N,).
    """
    lengths_ = torch.as_tensor(lengths)
    inside = torch.arange(int(lengths_.max())) < lengths_.unsqueeze(1)  # (E, T)
    padded = x.new_zeros(inside.shape)
    padded[inside] = x
    steps = padded.T.contiguous().cpu().numpy()  # NumPy's small operations cost a tenth of torch's
    for t in reversed(range(len(steps) - 1)):
        steps[t] += discount * steps[t + 1]
    return torch.from_numpy(steps).to(x.device).T[inside]


def gae(
    rewards: Tensor,
    values: Tensor,
    lengths: Sequence[int],
    last_values: Tensor,
    gamma: float = 0.995,
    lam: float = 0.97,
) -> Tensor:
    """Advantages sum_l (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t.

    Args:
        rewards, values: of the steps of all episodes, one after another, (N,).
        lengths: of the episodes.
        last_values: V after each episode's last step, (E,): 0 where it has terminated, and where a
            time limit counts as an end.
        gamma: discount.
        lam: 0 trusts the values, 1 the returns.

    Returns:
        (N,).
    """
    following = torch.cat([values[1:], values.new_zeros(1)])
    ends = torch.as_tensor(lengths, device=values.device).cumsum(0) - 1
    following[ends] = last_values
    return discounted_sums(rewards + gamma * following - values, lengths, gamma * lam)


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, iterations: int = 10, tolerance: float = 1e-10
) -> Tensor:
    """x with A x = b, roughly, for a symmetric positive definite A given as `product`.

    Args:
        product: v -> A v.
        b: (P,).
        iterations: at most.
        tolerance: of the squared length of b - A x, at which it ends after the first iteration.
            The code's is a part of b's, which for b of length 1 is the same.
    """
    x, r = torch.zeros_like(b), b.clone()
    p, rr = b.clone(), b.dot(b)
    for i in range(iterations):
        if rr == 0 or (rr < tolerance and i):
            break
        Ap = product(p)
        alpha = rr / p.dot(Ap)
        x += alpha * p
        r -= alpha * Ap
        rr, before = r.dot(r), rr
        p = r + rr / before * p
    return x


def fisher_vector_product(
    divergence: Tensor, parameters: Sequence[Tensor], damping: float = 0.0
) -> Callable[[Tensor], Tensor]:
    """v -> (H + damping) v, where H is the Hessian of a divergence.

    Where the divergence is KL(old || new) and new is old, H is Fisher's information.

    Args:
        divergence: a scalar of the parameters, with its graph.
        parameters: P numbers in all.
    """
    slopes = flat(torch.autograd.grad(divergence, parameters, create_graph=True))

    def product(v: Tensor) -> Tensor:
        Hv = torch.autograd.grad(slopes.dot(v), parameters, retain_graph=True)
        return flat(Hv) + damping * v

    return product


def flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


class Step(NamedTuple):
    """What a trust-region step did: of the objective, the divergence, and the length taken."""

    gain: float
    divergence: float
    scale: float  # of the full step; 0 if none was taken


def surrogate(
    policy: StochasticPolicy, s: Tensor, a: Tensor, A: Tensor, some: Tensor
) -> tuple[Callable[[], tuple[Tensor, Tensor]], Callable[[], Tensor]]:
    """What a policy's trust-region step is of, from where the policy is now.

    Args:
        policy: changes between calls.
        s, a: observations (N, D) and actions of its steps, (N, A) or (N,).
        A: their advantages, (N,).
        some: indices of the steps that the divergence's curvature is taken of.

    Returns:
        `evaluate` and `curved` of `trust_region_step`: mean advantage under importance weights and
        mean KL(old || new) in nats, and the latter of `some` steps.
    """
    with torch.no_grad():
        old = tuple(p.clone() for p in policy(s))  # not a view of what will move
        log_old = policy.log_prob(old, a)

    def evaluate() -> tuple[Tensor, Tensor]:
        new = policy(s)
        ratio = (policy.log_prob(new, a) - log_old).exp()
        return (ratio * A).mean(), policy.kl(old, new).mean()

    def curved() -> Tensor:
        return policy.kl(tuple(p[some] for p in old), policy(s[some])).mean()

    return evaluate, curved


def trust_region_step(
    parameters: Iterable[Tensor],
    evaluate: Callable[[], tuple[Tensor, Tensor]],
    curved: Callable[[], Tensor],
    limit: float = 0.01,
    damping: float = 0.1,
    iterations: int = 10,
    tries: int = 10,
    ratio: float = 0.5,
    sufficient: float = 0.1,
    wall: float = 2.0,
    failing: Literal["beyond", "last", "none"] = "beyond",
    flat_below: float = 1e-6,
    tiny: float = 1e-8,
) -> Step:
    """Moves parameters to a larger objective at a divergence of about `limit`.

    The full step goes along the natural gradient to where the divergence's second order, damped,
    is `limit`. It is shortened until the gain is a part of what the slope promises and the
    divergence stands within its wall.

    Args:
        parameters: are changed in place.
        evaluate: (objective, divergence from where the parameters are now), scalars.
        curved: the divergence, of a part of the data if that shall be enough for its curvature.
        limit: of the divergence.
        damping: added to its Hessian.
        iterations: of conjugate gradients, at most.
        tries: lengths that are tried, at most.
        ratio: of a length to the one before it.
        failing: what is done if none of them will do: take a step that is shorter by another
            `ratio`, untested ("beyond"), as the code does; take the last one; or none.
        sufficient: part of the promised gain that is enough.
        wall: times `limit`, what the divergence must not exceed.
        flat_below: of the largest slope, below which nothing is moved.
        tiny: added to the natural gradient's divergence in units of `limit`, whose root divides it:
            slopes much smaller than that are no longer stretched to a whole step.
    """
    parameters = list(parameters)
    objective, _ = evaluate()
    g = flat(torch.autograd.grad(objective, parameters))
    before = objective.item()
    if g.abs().max() < flat_below:
        return Step(0.0, 0.0, 0.0)

    product = fisher_vector_product(curved(), parameters, damping)
    direction = conjugate_gradient(product, g, iterations)
    length = (0.5 * direction.dot(product(direction)) / limit + tiny).sqrt()
    full = direction / length
    promised = float(g.dot(full))

    with torch.no_grad():
        start = [p.clone() for p in parameters]

        def move(scale: float) -> None:
            moves = full.split([p.numel() for p in parameters])
            for p, origin, by in zip(parameters, start, moves, strict=True):
                p.copy_(origin + scale * by.view_as(p))

        for i in range(tries):
            scale = ratio**i
            move(scale)
            now, divergence = (x.item() for x in evaluate())
            if now - before >= sufficient * scale * promised and divergence <= wall * limit:
                return Step(now - before, divergence, scale)
        if failing == "beyond":
            scale = ratio**tries
        elif failing == "none":
            scale = 0.0
        move(scale)
        now, divergence = (x.item() for x in evaluate())
        return Step(now - before, divergence, scale)
