"""What all the tasks have in common: spaces, units of actions, reproducible episodes, imports."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

OBSERVATIONS = {
    "MountainCar": 2,
    "CartPole": 4,
    "CartPoleSwingup": 4,
    "DoublePendulum": 6,
    "HalfCheetah": 20,
    "Walker2D": 21,
    "Swimmer": 13,
    "SwimmerGather": 33,
}
STRENGTHS = {
    "MountainCar": [1],
    "CartPole": [10],
    "CartPoleSwingup": [10],
    "DoublePendulum": [50],
    "HalfCheetah": [1] * 6,
    "Walker2D": [150, 100, 100] * 2,
    "Swimmer": [50, 50],
    "SwimmerGather": [50, 50],
}
SPARSE = ("MountainCar", "CartPoleSwingup", "DoublePendulum", "HalfCheetah")
PLANAR = ("MountainCar", "CartPole", "CartPoleSwingup", "DoublePendulum")
EPISODES = """
import hashlib, sys
import gymnasium, numpy as np

name, *seeds = sys.argv[1:]
env = gymnasium.make(f"lit_gen.environments:lit_gen/{name}-v0", max_episode_steps=60)
for seed in map(int, seeds):
    rng, digest = np.random.default_rng(seed), hashlib.sha256()
    size = env.action_space.shape
    digest.update(env.reset(seed=seed)[0])
    ended = False
    while not ended:
        seen, reward, terminated, truncated, _ = env.step(rng.uniform(-2, 2, size))
        digest.update(seen)
        digest.update(np.float64(reward))
        ended = terminated or truncated
    print(digest.hexdigest())
"""


def python(code: str, *words: str) -> list[str]:
    """Lines that a process of its own prints."""
    command = [sys.executable, "-c", code, *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout.split("\n")[:-1]


def trajectory(env: gymnasium.Env, actions: np.ndarray) -> np.ndarray:
    """Observations and rewards, until the episode ends."""
    env.reset(seed=0)
    rows = []
    for action in actions:
        seen, reward, terminated, _, _ = env.step(action)
        rows.append([*seen, reward])
        if terminated:
            break
    return np.array(rows)


@pytest.mark.filterwarnings(
    "error::UserWarning",
    "ignore:.*observation space m..imum value is -?infinity",
    "ignore:.*recommend using a symmetric and normalized space",  # if they are in N or N m
)
@pytest.mark.parametrize("name", OBSERVATIONS)
def test_gymnasium_finds_nothing_wrong(make, name: str) -> None:
    for options in ({}, {"normalized": False}, *([{"sparse": True}] if name in SPARSE else [])):
        env = make(name, **options)
        check_env(env.unwrapped, skip_render_check=name not in PLANAR)

        strengths = STRENGTHS[name] if "normalized" in options else np.ones(len(STRENGTHS[name]))
        seen, _ = env.reset(seed=0)
        assert seen.dtype == np.float64
        assert seen.shape == env.observation_space.shape == (OBSERVATIONS[name],)
        np.testing.assert_array_equal(env.action_space.high, strengths)
        np.testing.assert_array_equal(env.action_space.low, -np.array(strengths))


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_actions_are_scaled_and_clipped(make, name: str) -> None:
    strengths = np.array(STRENGTHS[name])
    actions = np.random.default_rng(0).uniform(-3, 3, (20, len(strengths)))

    known = trajectory(make(name), np.clip(actions, -1, 1))

    for found in (
        trajectory(make(name), actions),
        trajectory(make(name, normalized=False), actions * strengths),
        trajectory(make(name, normalized=False), np.clip(actions, -1, 1) * strengths),
    ):
        np.testing.assert_allclose(found, known, rtol=1e-9, atol=1e-9)
    halved = trajectory(make(name), 0.5 * np.clip(actions, -1, 1))
    assert not np.allclose(halved[: len(known)], known[: len(halved)])


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_an_episode_depends_on_its_seed_alone(make, name: str) -> None:
    make(name)  # or skip

    first, second, third = python(EPISODES, name, "1", "2", "3")

    assert python(EPISODES, name, "3", "1") == [third, first]
    assert len({first, second, third}) == 3


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_the_limit_ends_an_episode(make, name: str) -> None:
    assert make(name).spec.max_episode_steps == 500

    env = make(name, max_episode_steps=2)
    env.reset(seed=0)
    nothing = np.zeros(env.action_space.shape)
    assert [env.step(nothing)[2:4] for _ in range(2)] == [(False, False), (False, True)]


@pytest.mark.parametrize("name", PLANAR)
def test_pictures_show_what_moves(make, name: str) -> None:
    env = make(name, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    for _ in range(5):
        env.step(env.action_space.high)
    after = env.render()

    assert before.shape == (300, 400, 3)
    assert before.dtype == np.uint8
    assert (before != after).any()
    assert (before == 255).mean() > 0.8


def test_ids_are_there_and_engines_are_not_imported() -> None:
    code = """
import sys, lit_gen.environments as e
import gymnasium
e.register()
print(sorted({"Box2D", "mujoco", "torch"} & sys.modules.keys()))
print(*(i.split("/")[1] for i in gymnasium.registry if i.startswith("lit_gen/")))
"""
    engines, ids = python(code)

    assert engines == "[]"
    assert ids.split() == [f"{name}-v0" for name in OBSERVATIONS]


@pytest.mark.parametrize(("engine", "name"), [("Box2D", "CartPole"), ("mujoco", "Swimmer")])
def test_a_missing_engine_is_said(engine: str, name: str) -> None:
    code = f"""
import sys
sys.modules["{engine}"] = None
import gymnasium
try:
    gymnasium.make("lit_gen.environments:lit_gen/{name}-v0")
except gymnasium.error.DependencyNotInstalled as error:
    print(error)
"""
    (said,) = python(code)

    assert f"needs {'MuJoCo' if engine == 'mujoco' else engine}" in said
    assert "pip install 'lit-gen[rl]'" in said
