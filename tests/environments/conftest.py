"""Fixtures: the environments, and what happens in them by chance."""

from collections.abc import Callable

import gymnasium
import numpy as np
import pytest

ENGINES = dict.fromkeys(("MountainCar", "CartPole", "CartPoleSwingup", "DoublePendulum"), "Box2D")


@pytest.fixture
def make() -> Callable[..., gymnasium.Env]:
    def make(name: str, **options: object) -> gymnasium.Env:
        pytest.importorskip(ENGINES.get(name, "mujoco"))
        return gymnasium.make(f"lit_gen.environments:lit_gen/{name}-v0", **options)

    return make


@pytest.fixture
def by_chance(make: Callable[..., gymnasium.Env]) -> Callable[..., np.ndarray]:
    """Returns of episodes whose actions are drawn uniformly."""

    def play(name: str, episodes: int, **options: object) -> np.ndarray:
        env, rng = make(name, disable_env_checker=True, **options), np.random.default_rng(0)
        low, high = env.action_space.low, env.action_space.high
        returns = np.zeros(episodes)
        for episode in range(episodes):
            env.reset(seed=episode)
            ended = False
            while not ended:
                _, reward, terminated, truncated, _ = env.step(rng.uniform(low, high))
                returns[episode] += reward
                ended = terminated or truncated
        return returns

    return play


@pytest.fixture
def agrees() -> Callable[[np.ndarray, float], bool]:
    """Whether a mean is within four standard errors of what it should be."""

    def agrees(drawn: np.ndarray, mean: float) -> bool:
        return bool(abs(drawn.mean() - mean) < 4 * drawn.std() / len(drawn) ** 0.5)

    return agrees
