"""Worlds in the plane that Box2D simulates, with one actuator."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Box

from lit_gen.environments.drawing import Points, draw

try:
    from Box2D import b2Body, b2ChainShape, b2World
except ImportError as error:
    raise DependencyNotInstalled(
        "This environment needs Box2D: pip install 'lit-gen[rl]'"
    ) from error


class Planar(gymnasium.Env[np.ndarray, np.ndarray]):
    """What the tasks in a plane share. Lengths are in metres, angles in radians, anticlockwise.

    The world is built anew for each episode. rllab puts the bodies of one world back instead, whose
    solver starts from the forces of the step before; here an episode depends on its seed alone.

    Args:
        strength: largest force (N) or torque (N m) of the actuator.
        normalized: actions are parts of `strength`; otherwise they are in its unit. Larger ones are
            clipped.
        render_mode: "rgb_array" or None.

    Attributes:
        sees: numbers in an observation; `observed`, where it is there, names them.
        view: left, bottom and width of the picture.
        lines: in the picture, behind the bodies that move.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}
    sees: int
    view: tuple[float, float, float]
    lines: tuple[Points, ...] = ()
    world: b2World

    def __init__(self, strength: float, normalized: bool, render_mode: str | None) -> None:
        bound = 1.0 if normalized else strength
        self.strength, self.unit = strength, strength / bound
        self.render_mode = render_mode
        self.action_space = Box(-bound, bound, (1,), np.float64)
        self.observation_space = Box(-np.inf, np.inf, (self.sees,), np.float64)

    def build(self) -> None:
        """Puts the bodies into the empty world."""
        raise NotImplementedError

    def begin(self) -> None:
        """Draws the state in which an episode begins."""
        raise NotImplementedError

    def advance(self, u: float) -> None:
        """Simulates a step with this force or torque."""
        raise NotImplementedError

    def observe(self) -> np.ndarray:
        """(sees,)."""
        raise NotImplementedError

    def outcome(self, u: float) -> tuple[float, bool]:
        """The reward of the step with this force or torque, and whether it ended the episode."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.world = b2World(gravity=(0, -10), doSleep=False)
        self.build()
        self.begin()
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        u = min(max(self.unit * float(action[0]), -self.strength), self.strength)
        self.advance(u)
        reward, ended = self.outcome(u)
        return self.observe(), reward, ended, False, {}

    def render(self) -> np.ndarray | None:
        """(300, 400, 3) uint8."""
        if self.render_mode is None:
            return None
        moving = [outline(body) for body in self.world.bodies if body.mass > 0]
        return draw(*self.view, self.lines, moving)


def chain(points: Points) -> b2ChainShape:
    """A line that bodies rest on."""
    return b2ChainShape(vertices_chain=points)


def outline(body: b2Body) -> Points:
    """Corners of a body's polygon in the world."""
    return [tuple(body.GetWorldPoint(corner)) for corner in body.fixtures[0].shape.vertices]
