"""What those who play a task and those who learn it must agree on.

Nothing here needs torch: processes that only play start in a fraction of the time.
"""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Task:
    """An environment, and what of it the paper's Sec. 6 and code fix.

    Attributes:
        env: Gymnasium's id.
        limit: steps of an episode at most.
        observations, actions: numbers in an observation; in an action, or discrete actions.
        discrete: whether actions are numbers 0, 1, ...
        success_ends: an episode ends because the task succeeded: a learner must want it to end.
        raw_state: observe the environment's `state` instead, as Acrobot-v0 did.
        options: further arguments of `gymnasium.make`.
    """

    env: str
    limit: int
    observations: int
    actions: int
    discrete: bool = False
    success_ends: bool = False
    raw_state: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, limit: int | None = None, **options: Any) -> gymnasium.Env:
        """The environment, with another limit if one is given.

        Raises:
            ValueError: it is not there, or does not have these observations and actions.
        """
        try:
            env = gymnasium.make(
                self.env,
                max_episode_steps=limit or self.limit,
                disable_env_checker=True,
                **self.options | options,
            )
        except gymnasium.error.DependencyNotInstalled as error:
            cause = error.__cause__ or error  # the import that failed
            name = getattr(cause, "name", None) or "another package"
            raise ValueError(
                f"{self.env} needs {name}: pip install 'lit-gen[rl]' ({cause})"
            ) from error
        except (gymnasium.error.Error, ImportError, TypeError) as error:
            said = str(error.__cause__ or error).rstrip(".")  # what Gymnasium adds is long
            said = re.sub(r"\. (.)", lambda m: f"; {m[1].lower()}", said)  # one sentence
            raise ValueError(f"{self.env} cannot be made: {said}") from error
        space = env.action_space
        discrete = isinstance(space, gymnasium.spaces.Discrete)
        size = int(space.n if discrete else np.prod(space.shape))
        seen = len(self.look(env, env.reset(seed=0)[0]))
        for what, has, said in (
            ("observations", seen, self.observations),
            ("actions", size, self.actions),
            ("discrete", discrete, self.discrete),
        ):
            if has != said:
                raise ValueError(f"{self.env} has {what} = {has}, the task says {said}.")
        return env

    def look(self, env: gymnasium.Env, observation: Any) -> np.ndarray:
        return np.array(env.unwrapped.state if self.raw_state else observation, float)


class Policy(NamedTuple):
    """A perceptron that maps an observation to an action, as arrays.

    Attributes:
        layers: (weight (m, n), bias (n,)) of each; the first takes observations as they are.
        slope: of leaky rectifiers; None is tanh.
        std: of a Gaussian's actions, (A,); None for discrete actions, whose logits come out.
    """

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    slope: float | None
    std: np.ndarray | None

    def output(self, x: np.ndarray) -> np.ndarray:
        *hidden, (weight, bias) = self.layers
        for w, b in hidden:
            x = x @ w
            x += b
            x = np.tanh(x, x) if self.slope is None else np.where(x < 0, self.slope * x, x)
        return x @ weight + bias

    def noise(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        """For each step what its draw needs: Gumbel's for logits, or normal, (steps, A)."""
        size = (steps, len(self.layers[-1][1]))
        return rng.gumbel(size=size) if self.std is None else self.std * rng.standard_normal(size)

    def act(self, x: np.ndarray, noise: np.ndarray | None = None) -> Any:
        """An action drawn with this noise, or the most probable one without. Never clipped."""
        out = self.output(x) if noise is None else self.output(x) + noise
        return int(out.argmax()) if self.std is None else out


class Rollout(NamedTuple):
    """Steps of E episodes, one after another: N in all."""

    observations: "Tensor"  # (N, D)
    actions: "Tensor"  # (N, A), or (N,) of whole numbers
    rewards: "Tensor"  # (N,)
    times: "Tensor"  # (N,), from 0 in each episode
    lengths: "Tensor"  # (E,)
    returns: "Tensor"  # (E,), undiscounted
    last: "Tensor"  # (E, D): observations after the last steps
    terminated: "Tensor"  # (E,): by the task, not by the limit
