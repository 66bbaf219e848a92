"""SwimmerGather: where things lie, what is sensed and collected, how an episode ends."""

import math

import gymnasium
import numpy as np
import pytest


def put(env: gymnasium.Env, things: list[tuple[float, float, bool]], heading: float = 0.0) -> None:
    """The robot's centre of mass at (0, 0), and only these (x, y, is an apple) around it."""
    mujoco = pytest.importorskip("mujoco")
    from lit_gen.environments.gather import Thing

    env.reset(seed=0)
    env.data.qpos[:], env.data.qvel[:] = 0, 0
    env.data.qpos[2] = heading
    mujoco.mj_step1(env.model, env.data)
    assert abs(env.com).max() < 1e-12
    env.things = [Thing(*thing, env.things[i].sphere) for i, thing in enumerate(things)]


def at(distance: float, degrees: float, apple: bool = True) -> tuple[float, float, bool]:
    angle = math.radians(degrees)
    return distance * math.cos(angle), distance * math.sin(angle), apple


def test_things_lie_on_the_grid_and_change_with_each_episode(make) -> None:
    env = make("SwimmerGather")
    seen = set()
    layouts = set()
    for episode in range(60):
        env.reset(seed=0 if episode == 0 else None)
        things = env.unwrapped.things
        places = [(t.x, t.y) for t in things]
        assert [t.apple for t in things] == [True] * 8 + [False] * 8
        assert len(set(places)) == 16
        seen |= set(places)
        layouts.add(tuple(places))

    assert len(layouts) == 60
    grid = {-6, -4, -2, 0, 2, 4}
    assert seen == {(x, y) for x in grid for y in grid} - {(0, 0)}


@pytest.mark.parametrize(
    ("thing", "heading", "number"),
    [
        (at(3, 1), 0, 5),  # just left of what is ahead
        (at(3, -1), 0, 4),
        (at(3, 89), 0, 9),
        (at(3, -89), 0, 0),
        (at(3, 19), 0, 6),
        (at(3, 1), 90, 0),
        (at(3, 179), 90, 9),
        (at(3, 91), 90 + 360, 5),
        (at(3, 91), 90 - 720, 5),
    ],
)
def test_bins_go_from_right_to_left(make, thing: tuple, heading: float, number: int) -> None:
    env = make("SwimmerGather").unwrapped
    for kind, apple in enumerate((True, False)):
        put(env, [(*thing[:2], apple)], math.radians(heading))

        known = np.zeros((2, 10))
        known[kind, number] = 0.5
        np.testing.assert_allclose(env.readings(), known, atol=1e-12)
        np.testing.assert_allclose(env.observe()[13:], known.ravel(), atol=1e-12)


def test_what_is_behind_or_far_away_is_not_sensed(make) -> None:
    env = make("SwimmerGather").unwrapped
    put(env, [at(2, 91), at(2, -91), at(2, 180, apple=False), at(6.01, 0), at(7, 45)])
    assert (env.readings() == 0).all()

    put(env, [at(5.9, 10)])
    assert env.readings()[0, 5] == pytest.approx(0.1 / 6)


def test_nearer_things_hide_farther_ones_of_their_kind(make) -> None:
    env = make("SwimmerGather").unwrapped
    things = [at(4, 5), at(2, 10), at(5, 15), at(3, 5, apple=False), at(4.5, 30)]
    for order in (things, things[::-1]):
        put(env, order)

        known = np.zeros((2, 10))
        known[0, 5], known[0, 6], known[1, 5] = 1 - 2 / 6, 1 - 4.5 / 6, 0.5
        np.testing.assert_allclose(env.readings(), known, atol=1e-12)


def test_things_within_a_metre_are_collected(make) -> None:
    env = make("SwimmerGather").unwrapped
    put(env, [at(0.98, 40), at(1.02, 40), at(0.9, 200), at(0.5, 20, apple=False), at(3, 0)])

    _, first, terminated, _, _ = env.step(np.zeros(2))
    _, second, _, _, _ = env.step(np.zeros(2))

    assert (first, second) == (1, 0)  # two apples and a bomb; nothing else lies there now
    assert [math.hypot(t.x, t.y) for t in env.things] == pytest.approx([1.02, 3])
    assert not terminated

    put(env, [at(0.5, 0, apple=False)])
    _, reward, terminated, _, _ = env.step(np.zeros(2))
    assert (reward, terminated) == (-1, True)


def test_pictures_show_what_is_there(make) -> None:
    """What a renderer draws: spheres at their places, or below the ground."""
    env = make("SwimmerGather").unwrapped
    for seed in range(3):
        env.reset(seed=seed)
        for t in env.things:
            assert env.data.geom_xpos[t.sphere].tolist() == [t.x, t.y, 0]

    put(env, [at(0.5, 0)])
    (thing,) = env.things
    env.step(np.zeros(2))
    env.step(np.zeros(2))
    assert env.data.geom_xpos[thing.sphere, 2] < -1


def test_the_swimmer_swims_as_it_does_alone(make) -> None:
    env, alone = make("SwimmerGather").unwrapped, make("Swimmer").unwrapped
    env.reset(seed=0)
    alone.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        action = rng.uniform(-1, 1, 2)
        seen, reward, *_ = env.step(action)
        np.testing.assert_allclose(seen[:13], alone.step(action)[0], rtol=1e-9, atol=1e-12)
        assert reward == 0


def test_random_actions_collect_nothing(by_chance) -> None:
    """As Duan et al. (2016), arXiv:1604.06778, Table 1, found."""
    assert by_chance("SwimmerGather", 3).sum() == 0
