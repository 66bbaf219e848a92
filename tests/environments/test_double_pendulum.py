"""DoublePendulum: masses, torque, where its tip is, and rllab's return of random actions."""

from math import pi, sqrt

import gymnasium
import numpy as np
import pytest


def place(env: gymnasium.Env, elbow: tuple[float, float], angle: float) -> tuple[float, bool]:
    env.reset(seed=0)
    env.lower.position, env.lower.angle = elbow, angle
    return env.outcome(0.0)


@pytest.mark.parametrize(
    ("elbow", "angle", "distance"),
    [
        ((0, -1), 0, 4),  # it hangs
        ((0, 1), pi, 0),  # it stands
        ((1, 0), pi / 2, 2),  # its tip is at (2, 0), but counts at (0, 0)
        ((-1, 0), pi / 2, 2 * sqrt(2)),
        ((0, 1), pi - 1, 2 * np.sin(0.5)),
        ((0, 1), pi + 1.1, 2 * np.sin(0.55)),
    ],
)
def test_rewards(make, elbow: tuple[float, float], angle: float, distance: float) -> None:
    reward, ended = place(make("DoublePendulum").unwrapped, elbow, angle)
    near, _ = place(make("DoublePendulum", sparse=True).unwrapped, elbow, angle)

    assert reward == pytest.approx(-distance, abs=1e-5)
    assert near == (1.0 if distance < 1 else 0.0)
    assert not ended


@pytest.mark.parametrize(("torque", "action"), [(2.0, 0.5), (2.0, -0.5), (1.0, 3.0)])
def test_torque_turns_the_links_against_each_other(make, torque: float, action: float) -> None:
    env = make("DoublePendulum", torque=torque).unwrapped
    env.reset(seed=0)
    for link in (env.upper, env.lower):
        link.angle = link.angularVelocity = 0.0

    seen, *_ = env.step(np.array([action]))

    m = 0.5
    inertia = m * (1 + 0.1**2) / 12 + m / 4  # of a link about its upper end
    masses = np.array([[inertia + m, m / 2], [m / 2, inertia]])
    u = torque * np.clip(action, -1, 1)
    np.testing.assert_allclose(seen[[2, 5]], np.linalg.solve(masses, [-u, u]) * 0.02, rtol=0.05)
    assert env.upper.mass == env.lower.mass == m


def test_how_episodes_begin(make) -> None:
    env = make("DoublePendulum")

    drawn = np.array([env.reset(seed=s)[0] for s in range(500)])

    np.testing.assert_allclose(np.arctan2(drawn[:, [0, 3]], drawn[:, [1, 4]]).std(0), 0.1, rtol=0.1)
    np.testing.assert_allclose(drawn[:, [2, 5]].std(0), 0.01, rtol=0.1)
    assert (abs(drawn[:, [0, 2, 3, 5]].mean(0)) < [0.02, 0.002, 0.02, 0.002]).all()


def test_random_actions_return_what_rllab_published(by_chance, agrees) -> None:
    """Duan et al. (2016), arXiv:1604.06778, Table 1, with 3 N m: -1904.5. A standard error here
    is 10."""
    weak, strong = by_chance("DoublePendulum", 25, torque=3.0), by_chance("DoublePendulum", 25)

    assert agrees(weak, -1904.5)
    assert agrees(strong, -1288)  # ours
    assert not agrees(strong, -1904.5)
