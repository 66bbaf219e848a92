"""MountainCar of VIME (Houthooft et al., 2016), arXiv:1605.09674, as in rllab."""

import math

import numpy as np

from lit_gen.environments.planar import Planar, chain

HALF = 100  # points of the track on either side
TRACK = [
    (2 * i / HALF, math.sin(math.pi * (i / HALF - 0.5))) for i in range(-HALF, HALF + 1)
]  # about (0, 1): y = 1 - cos(pi x / 2) in the world
GOAL, EDGE = 0.6, 2.0


class MountainCar(Planar):
    """A slippery box of 4 N in a valley, with a force of at most 1 N along its own x axis: too
    little to climb out, so it has to swing.

    An observation is x and its velocity, (2,). An episode begins in the middle with a velocity in
    [-1, 1] m/s, and ends at x >= 0.6, or at |x| >= 2, the ends of the track: who leaves it on the
    left succeeds, too. The box, 0.4 m by 0.2 m, begins slightly inside the ground and is pushed
    out of it in the first steps.

    Args:
        sparse: the reward is 1 for the step that ends the episode, otherwise 0. If not, it is the
            height of the box's centre less 1.
        normalized: makes no difference here, where 1 N is the most. Larger actions are clipped.
        render_mode: "rgb_array" or None.
    """

    sees = 2
    observed = ("position in m", "velocity in m/s")
    view = (-2.2, -0.5, 4.4)
    lines = (
        tuple((x, 1 + y) for x, y in TRACK),
        ((GOAL, 1 - math.cos(math.pi * GOAL / 2)), (GOAL, 1)),
    )
    track = chain(TRACK)

    def __init__(
        self, sparse: bool = False, normalized: bool = True, render_mode: str | None = None
    ) -> None:
        super().__init__(1.0, normalized, render_mode)
        self.sparse = sparse

    def build(self) -> None:
        self.world.CreateStaticBody(position=(0, 1), shapes=self.track)
        self.cart = self.world.CreateDynamicBody(position=(0, 0.05))
        self.cart.CreatePolygonFixture(box=(0.2, 0.1), density=5, friction=0.0005)

    def begin(self) -> None:
        self.cart.linearVelocity = self.np_random.uniform(-1, 1), 0

    def advance(self, u: float) -> None:
        cart = self.cart
        cart.ApplyForceToCenter(cart.GetWorldVector((u, 0)), True)
        self.world.Step(0.05, 8, 3)  # seconds; iterations for velocities and positions

    def observe(self) -> np.ndarray:
        return np.array((self.cart.position.x, self.cart.linearVelocity.x))

    def outcome(self, u: float) -> tuple[float, bool]:
        x, y = self.cart.position
        ended = x >= GOAL or abs(x) >= EDGE
        return float(ended) if self.sparse else y - 1, ended
