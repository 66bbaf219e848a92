"""MountainCar: the valley, its ends, and rllab's return of random actions."""

import numpy as np
import pytest


def test_a_box_at_rest_touches_the_valley_with_its_corners(make) -> None:
    env = make("MountainCar").unwrapped
    env.reset(seed=0)
    env.cart.linearVelocity = 0, 0

    for _ in range(200):
        seen, reward, terminated, _, _ = env.step(np.zeros(1))

    assert env.cart.mass == pytest.approx(0.4)
    assert reward == pytest.approx(0.1 + 1 - np.cos(np.pi * 0.2 / 2) - 1, abs=0.02)
    assert abs(seen).max() < 0.05
    assert not terminated


def test_the_force_acts_along_the_box(make) -> None:
    env = make("MountainCar").unwrapped
    env.reset(seed=0)
    env.cart.position, env.cart.linearVelocity, env.cart.angle = (0, 3), (0, 0), 0.5  # it falls

    env.step(np.ones(1))

    force, m, dt = np.array((np.cos(0.5), np.sin(0.5))), 0.4, 0.05
    np.testing.assert_allclose(env.cart.linearVelocity, (force / m - (0, 10)) * dt, rtol=1e-5)
    assert env.cart.angularVelocity == 0


def test_episodes_begin_in_the_middle(make) -> None:
    env = make("MountainCar")

    x, velocity = np.array([env.reset(seed=s)[0] for s in range(300)]).T

    assert (x == 0).all()
    assert -1 <= velocity.min() < -0.95
    assert 0.95 < velocity.max() <= 1


@pytest.mark.parametrize("sparse", [False, True])
def test_swinging_gets_out_and_a_constant_force_does_not(make, sparse: bool) -> None:
    env = make("MountainCar", sparse=sparse)
    for swing, out in ((True, True), (False, False)):
        seen, _ = env.reset(seed=1)
        rewards, ended = [], False
        while not ended:
            seen, reward, terminated, truncated, _ = env.step(
                np.array([np.sign(seen[1]) if swing else 1.0])
            )
            rewards.append(reward)
            ended = terminated or truncated
            if not sparse:
                assert reward == env.unwrapped.cart.position.y - 1

        assert terminated == out
        if out:
            assert seen[0] >= 0.6 or seen[0] <= -2
        if sparse:
            assert rewards == [0.0] * (len(rewards) - 1) + [float(out)]


@pytest.mark.parametrize(
    ("x", "ends"), [(-2.01, True), (-1.99, False), (-0.61, False), (0.59, False), (0.61, True)]
)
def test_both_ends_count(make, x: float, ends: bool) -> None:
    env = make("MountainCar", sparse=True).unwrapped
    env.reset(seed=0)
    env.cart.position = x, 1.5

    assert env.outcome(0.0) == (float(ends), ends)


def test_random_actions_return_what_rllab_published(by_chance, agrees) -> None:
    """Duan et al. (2016), arXiv:1604.06778, Table 1: -415.4. A standard error here is 0.1."""
    returns = by_chance("MountainCar", 30)

    assert agrees(returns, -415.4)
    assert returns.std() < 1
    assert by_chance("MountainCar", 10, sparse=True).sum() == 0
