"""CartPole and CartPoleSwingup of VIME (Houthooft et al., 2016), arXiv:1605.09674, as in rllab."""

import math

import numpy as np

from lit_gen.environments.planar import Planar

HALF_WIDTH, HALF_HEIGHT = 1 / math.sqrt(3), 0.75 / math.sqrt(3)  # of the cart: 1 m²
POLE = [(-0.05, 0), (0.05, 0), (0.05, 1), (-0.05, 1)]  # its pivot is the origin
BELOW = -0.1  # where the track lay


class Cart(Planar):
    """A cart of 1 kg on a track without friction or ends, and on top of it a pole of 0.1 kg.

    An observation is x and its velocity, and the pole's angle, 0 upright and never wrapped, and its
    velocity, (4,). The action is a force of 10 N at most on the cart.

    When an episode begins, the cart is put where it belongs, but the pole's lower end stays at
    x = 0, as in rllab. The first step joins them: it moves the cart by about 5 % of x, and turns
    the pole by about -x radians.

    Args:
        normalized: actions are parts of 10 N; otherwise they are in N. Larger ones are clipped.
        track_below: the track lies at y = -0.1 instead of the height of the cart's centre, as in
            rllab until June 2016: in the first step the cart also drops by 0.53 m.
        render_mode: "rgb_array" or None.
    """

    sees = 4
    view = (-4, -1.9, 8)

    def __init__(self, normalized: bool, track_below: bool, render_mode: str | None) -> None:
        super().__init__(10.0, normalized, render_mode)
        self.track = BELOW if track_below else HALF_HEIGHT
        self.lines = (((-4, self.track), (4, self.track)),)

    def build(self) -> None:
        world = self.world
        track = world.CreateStaticBody(position=(0, self.track))
        self.cart = world.CreateDynamicBody(position=(0, HALF_HEIGHT))
        self.cart.CreatePolygonFixture(box=(HALF_WIDTH, HALF_HEIGHT), density=1)
        self.pole = world.CreateDynamicBody(position=(0, 2 * HALF_HEIGHT))
        self.pole.CreatePolygonFixture(vertices=POLE, density=1)
        # what a joint connects does not collide
        world.CreatePrismaticJoint(
            bodyA=track,
            bodyB=self.cart,
            localAnchorA=(0, 0),
            localAnchorB=(0, 0),
            localAxisA=(1, 0),
        )
        world.CreateRevoluteJoint(
            bodyA=self.cart, bodyB=self.pole, localAnchorA=(0, HALF_HEIGHT), localAnchorB=(0, 0)
        )

    def put(self, x: float, velocity: float, angle: float, spin: float) -> None:
        """Where an episode begins; the pole's lower end stays where it is."""
        self.cart.position = x, HALF_HEIGHT
        self.cart.linearVelocity = velocity, 0
        self.pole.angle = angle
        self.pole.angularVelocity = spin

    def advance(self, u: float) -> None:
        self.cart.ApplyForceToCenter((u, 0), True)
        self.world.Step(0.05, 8, 3)  # seconds; iterations for velocities and positions

    def observe(self) -> np.ndarray:
        cart, pole = self.cart, self.pole
        return np.array((cart.position.x, cart.linearVelocity.x, pole.angle, pole.angularVelocity))


class CartPole(Cart):
    """Keep the pole upright: an episode ends at |x| > 2.4 m or |angle| > 0.2.

    The reward is 10 - (1 - cos(angle)) - 1e-5 u², with the force u in N, and 0 for the step that
    ends the episode, which begins within 5 % of (2.4 m, 4 m/s, 0.2, 4/s). See `Cart` for the rest.
    """

    def __init__(
        self, normalized: bool = True, track_below: bool = False, render_mode: str | None = None
    ) -> None:
        super().__init__(normalized, track_below, render_mode)

    def begin(self) -> None:
        most = 0.05 * np.array((2.4, 4, 0.2, 4))
        self.put(*self.np_random.uniform(-most, most).tolist())

    def outcome(self, u: float) -> tuple[float, bool]:
        angle = self.pole.angle
        if abs(self.cart.position.x) > 2.4 or abs(angle) > 0.2:
            return 0.0, True
        return 9 + math.cos(angle) - 1e-5 * u * u, False


class CartPoleSwingup(Cart):
    """Swing the pole up, and balance it: an episode ends at |x| > 3 m.

    It begins with x in [-1, 1], its velocity in [-2, 2], an angle within 1 of hanging, and its
    velocity in [-3, 3]. See `Cart` for the rest.

    Args:
        sparse: the reward is 1 where cos(angle) > 0.8, otherwise 0. If not, it is cos(angle), and
            -100 for the step that ends the episode.
    """

    def __init__(
        self,
        sparse: bool = False,
        normalized: bool = True,
        track_below: bool = False,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(normalized, track_below, render_mode)
        self.sparse = sparse

    def begin(self) -> None:
        middle, most = np.array((0, 0, math.pi, 0)), np.array((1, 2, 1, 3))
        self.put(*self.np_random.uniform(middle - most, middle + most).tolist())

    def outcome(self, u: float) -> tuple[float, bool]:
        if abs(self.cart.position.x) > 3:
            return 0.0 if self.sparse else -100.0, True
        height = math.cos(self.pole.angle)
        return float(height > 0.8) if self.sparse else height, False
