"""SwimmerGather of VIME (Houthooft et al., 2016), arXiv:1605.09674, as in rllab."""

import math
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from lit_gen.environments.robots import Swimmer

EACH = 8  # apples, and as many bombs
PLACES = [(x, y) for x in range(-6, 6, 2) for y in range(-6, 6, 2) if (x, y) != (0, 0)]
REACH = 1.0  # of the robot's centre of mass, in m
BINS, RANGE = 10, 6.0  # of the sensors, over the half circle in front; in m
COLORS = {"apple": "0.1 0.7 0.1 1", "bomb": "0.8 0.1 0.1 1"}


class Thing(NamedTuple):
    """An apple or a bomb, and the sphere that shows it."""

    x: float
    y: float
    apple: bool
    sphere: int


class SwimmerGather(Swimmer):
    """Collect apples, each +1, and no bombs, each -1; swimming itself has no reward.

    8 apples and 8 bombs lie at different points of the grid {-6, -4, -2, 0, 2, 4}², never where the
    robot begins; they are drawn anew for each episode. One within 1 m of the robot's centre of mass
    is collected, and gone. An episode ends when none is left.

    An observation is Swimmer's, then 10 readings for apples and 10 for bombs, (33,). Each belongs
    to 18° of the half circle in front, from right to left, and is 1 - distance/6 of the nearest one
    there, or 0 if there is none within 6 m. rllab's walls collide with nothing and are left out.
    """

    sees = 33
    things: list[Thing]

    def change(self, root: ElementTree.Element) -> None:
        super().change(root)
        world, torso = root.find("worldbody"), root.find("worldbody/body")
        torso.remove(torso.find("camera"))
        ElementTree.SubElement(world, "camera", name="track", pos="-1 -1 18")  # sees all of it
        for kind, color in COLORS.items():
            ElementTree.SubElement(root.find("asset"), "material", name=kind, rgba=color)
            for i in range(EACH):
                where = {"name": f"{kind}{i}", "pos": "0 0 -10"}  # below the ground
                look = {"type": "sphere", "size": "0.25", "material": kind, "rgba": color}
                ElementTree.SubElement(world, "geom", where | look)

    def begin(self) -> None:
        super().begin()
        places = self.np_random.permutation(PLACES)[: 2 * EACH].tolist()
        self.things = []
        for i, (x, y) in enumerate(places):
            kind = "apple" if i < EACH else "bomb"
            sphere = self.model.geom(f"{kind}{i % EACH}").id
            self.model.geom_pos[sphere] = x, y, 0
            self.things.append(Thing(x, y, kind == "apple", sphere))

    def collect(self) -> float:
        """Takes what is within reach, and returns its reward."""
        x, y, _ = self.com.tolist()
        near = [t for t in self.things if (t.x - x) ** 2 + (t.y - y) ** 2 < REACH**2]
        for thing in near:
            self.things.remove(thing)
            self.model.geom_pos[thing.sphere, 2] = -10  # below the ground
        return float(sum(1 if thing.apple else -1 for thing in near))

    def readings(self) -> np.ndarray:
        """For apples, and for bombs, (2, 10)."""
        x, y, _ = self.com.tolist()
        ahead = float(self.data.qpos[2])
        seen = [0.0] * BINS, [0.0] * BINS
        for thing in self.things:
            if (distance := math.hypot(thing.x - x, thing.y - y)) > RANGE:
                continue
            angle = math.remainder(math.atan2(thing.y - y, thing.x - x) - ahead, 2 * math.pi)
            if abs(angle) <= math.pi / 2:
                number = min(int((angle / math.pi + 0.5) * BINS), BINS - 1)
                kind = seen[0 if thing.apple else 1]
                kind[number] = max(kind[number], 1 - distance / RANGE)
        return np.array(seen)

    def observe(self) -> np.ndarray:
        return np.concatenate((super().observe(), self.readings().ravel()))

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.simulate(action)
        reward = self.collect()
        return self.observe(), reward, not self.things, False, {}
