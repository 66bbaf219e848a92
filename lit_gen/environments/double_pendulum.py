"""DoublePendulum of VIME (Houthooft et al., 2016), arXiv:1605.09674, as in rllab."""

import math
from typing import Any, ClassVar

import numpy as np

from lit_gen.environments.planar import Planar

LINK = [(-0.05, -1), (0.05, -1), (0.05, 0), (-0.05, 0)]  # hangs from its origin
FASTEST = 1e5  # radians per second, never reached: the motor gives all of its torque


class DoublePendulum(Planar):
    """Two links of 1 m and 0.5 kg hang from (0, 0), and a torque between them is to raise them.

    An observation is (sin, cos, velocity) of the first link's angle and of the second's, (6,); both
    are measured from hanging. They begin with a standard deviation of 0.1, the velocities with
    0.01, and the second link hangs from the first after the first step. An episode never ends.

    The reward counts the tip at (p - sin(angle), q - cos(angle)), where (p, q) is the elbow and the
    angle the second link's, as rllab does, though the link reaches to p + sin(angle).

    Args:
        sparse: the reward is 1 where the tip is within 1 m of (0, 2), otherwise 0. If not, it is
            less the distance.
        torque: N m at most. 50 is the authors'; rllab's published returns are those of 3.
        normalized: actions are parts of `torque`; otherwise they are in N m. Larger ones are
            clipped.
        render_mode: "rgb_array" or None.
    """

    metadata: ClassVar[dict[str, Any]] = Planar.metadata | {"render_fps": 50}
    sees = 6
    view = (-3.2, -2.4, 6.4)
    lines = (((-0.2, 0), (0.2, 0)), ((-0.1, 2), (0.1, 2)), ((0, 1.9), (0, 2.1)))

    def __init__(
        self,
        sparse: bool = False,
        torque: float = 50.0,
        normalized: bool = True,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(torque, normalized, render_mode)
        self.sparse = sparse

    def build(self) -> None:
        world = self.world
        hook = world.CreateStaticBody(position=(0, 0))
        self.upper = world.CreateDynamicBody(position=(0, 0))
        self.lower = world.CreateDynamicBody(position=(0, -1))
        for link in (self.upper, self.lower):
            link.CreatePolygonFixture(vertices=LINK, density=5)
        # what a joint connects does not collide
        world.CreateRevoluteJoint(
            bodyA=hook, bodyB=self.upper, localAnchorA=(0, 0), localAnchorB=(0, 0)
        )
        self.elbow = world.CreateRevoluteJoint(
            bodyA=self.upper,
            bodyB=self.lower,
            localAnchorA=(0, -1),
            localAnchorB=(0, 0),
            enableMotor=True,
        )

    def begin(self) -> None:
        angles = self.np_random.normal(0, 0.1, 2).tolist()
        velocities = self.np_random.normal(0, 0.01, 2).tolist()
        for link, angle, velocity in zip((self.upper, self.lower), angles, velocities, strict=True):
            link.angle, link.angularVelocity = angle, velocity

    def advance(self, u: float) -> None:
        self.elbow.motorSpeed = math.copysign(FASTEST, u)
        self.elbow.maxMotorTorque = abs(u)
        for _ in range(2):
            self.world.Step(0.01, 20, 20)  # seconds; iterations for velocities and positions

    def observe(self) -> np.ndarray:
        first, second = self.upper.angle, self.lower.angle
        return np.array(
            (
                math.sin(first),
                math.cos(first),
                self.upper.angularVelocity,
                math.sin(second),
                math.cos(second),
                self.lower.angularVelocity,
            )
        )

    def outcome(self, u: float) -> tuple[float, bool]:
        (p, q), angle = self.lower.position, self.lower.angle
        # p - sin mirrors the tip left to right about the elbow: rllab's formula, kept
        distance = math.hypot(p - math.sin(angle), q - math.cos(angle) - 2)
        return float(distance < 1) if self.sparse else -distance, False
