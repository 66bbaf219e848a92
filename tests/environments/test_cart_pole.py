"""CartPole and CartPoleSwingup: masses, rewards, how they begin, rllab's returns by chance."""

from math import cos, pi, sqrt

import numpy as np
import pytest


def test_masses(make) -> None:
    env = make("CartPole").unwrapped
    env.reset(seed=0)

    assert env.cart.mass == pytest.approx(1)
    assert env.pole.mass == pytest.approx(0.1)
    assert env.pole.inertia == pytest.approx(0.1 * (1 + 0.1**2) / 12 + 0.1 / 4)  # about the pivot


def test_only_the_force_changes_the_momentum(make) -> None:
    env = make("CartPoleSwingup").unwrapped
    env.reset(seed=0)

    def momentum() -> float:
        at = env.pole.worldCenter
        pole = env.pole.GetLinearVelocityFromWorldPoint(at).x
        return env.cart.mass * env.cart.linearVelocity.x + env.pole.mass * pole

    for action in (0.0, 1.0, -0.3, 0.0):
        before = momentum()
        env.step(np.array([action]))
        assert momentum() - before == pytest.approx(10 * action * 0.05, abs=1e-5)


@pytest.mark.parametrize(
    ("x", "angle", "ends"),
    [
        (0, 0.1, False),
        (2.39, -0.19, False),
        (2.41, 0, True),
        (-2.41, 0, True),
        (0, 0.21, True),
        (0, -0.21, True),
    ],
)
def test_balancing(make, x: float, angle: float, ends: bool) -> None:
    env = make("CartPole").unwrapped
    env.reset(seed=0)
    env.put(x, 0, angle, 0)

    reward, ended = env.outcome(-5.0)

    assert ended == ends
    assert reward == pytest.approx(0 if ends else 10 - (1 - cos(angle)) - 25e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("x", "angle", "near", "ends"),
    [
        (0, 0, True, False),
        (-2.99, 0.64, True, False),  # cos > 0.8 below 0.6435
        (0, 0.65, False, False),
        (0, 2 * pi - 0.64, True, False),
        (0, pi, False, False),
        (3.01, 0, False, True),
        (-3.01, pi, False, True),
    ],
)
def test_swinging_up(make, x: float, angle: float, near: bool, ends: bool) -> None:
    for sparse in (False, True):
        env = make("CartPoleSwingup", sparse=sparse).unwrapped
        env.reset(seed=0)
        env.put(x, 0, angle, 0)

        reward, ended = env.outcome(10.0)

        known = float(near) if sparse else -100 if ends else cos(angle)
        assert reward == pytest.approx(known, abs=1e-6)
        assert ended == ends


@pytest.mark.parametrize(
    ("name", "middle", "most"),
    [
        ("CartPole", [0, 0, 0, 0], [0.12, 0.2, 0.01, 0.2]),
        ("CartPoleSwingup", [0, 0, pi, 0], [1, 2, 1, 3]),
    ],
)
def test_episodes_begin_uniformly(make, name: str, middle: list[float], most: list[float]) -> None:
    env = make(name)

    drawn = np.array([env.reset(seed=s)[0] for s in range(500)])

    parts = (drawn - middle) / most
    assert abs(parts).max() <= 1 + 1e-6
    assert (abs(parts).max(0) > 0.97).all()
    assert (abs(parts.std(0) - 1 / sqrt(3)) < 0.06).all()


@pytest.mark.parametrize(("below", "std", "drop"), [(False, 0.58, 0.0), (True, 1.03, 0.533)])
def test_the_first_step_joins_cart_and_pole(make, below: bool, std: float, drop: float) -> None:
    """The pole turns by -x, roughly, and the cart falls onto a track that lies below it."""
    env = make("CartPoleSwingup", track_below=below).unwrapped
    rows = []
    for seed in range(500):
        x, _, angle, _ = env.reset(seed=seed)[0]
        height = env.cart.position.y
        after = env.step(np.zeros(1))[0]
        rows.append((x, after[2] - angle - 0.05 * after[3], height - env.cart.position.y, after[2]))
    x, jump, fall, angle = np.array(rows).T

    assert jump.std() == pytest.approx(std, abs=0.06)
    assert np.corrcoef(x, jump)[0, 1] < (-0.9 if below else -0.97)
    assert fall == pytest.approx(drop, abs=1e-3)
    if not below:
        assert np.polyfit(x, jump, 1)[0] == pytest.approx(-1, abs=0.1)
        assert 1.4 < angle.min() < 1.7
        assert 4.6 < angle.max() < 4.9


def test_random_actions_return_what_rllab_published(by_chance, agrees) -> None:
    """Duan et al. (2016), arXiv:1604.06778, Table 1, when the track lay below: 77.1 and -153.4.
    Standard errors here are 1.5 and 2.2."""
    below = by_chance("CartPole", 800, track_below=True)
    now = by_chance("CartPole", 800)

    assert agrees(below, 77.1)
    assert agrees(now, 65.5)  # ours, of 4,000 episodes
    assert not agrees(now, 77.1)
    assert agrees(by_chance("CartPoleSwingup", 400, track_below=True), -153.4)
    assert by_chance("CartPoleSwingup", 50, sparse=True).sum() == 0
