"""HalfCheetah, Walker2D and Swimmer of VIME (Houthooft et al., 2016), arXiv:1605.09674.

The robots are Gymnasium's, changed into rllab's where they differ.
"""

from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Box

try:
    import mujoco
except ImportError as error:
    raise DependencyNotInstalled(
        "This environment needs MuJoCo: pip install 'lit-gen[rl]'"
    ) from error

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
TORSO = 1  # the first body after the world: all others hang from it


class Robot(gymnasium.Env[np.ndarray, np.ndarray]):
    """What the tasks of MuJoCo share: Q positions, V velocities, A actuators.

    Observations and rewards belong to the state after the step, positions of the centre of mass,
    COM, included. An episode begins with normal noise of 0.01 in each position and 0.1 in each
    velocity.

    Args:
        normalized: actions are parts of the largest torques; otherwise they are in the actuators'
            unit. Larger ones are clipped.
        render_mode: "rgb_array" or None.
        width, height: of pictures, in pixels.

    Attributes:
        source: Gymnasium's file.
        frames: steps of MuJoCo in one of the task.
        sees: numbers in an observation.
    """

    source: str
    frames = 1
    sees: int

    def __init__(
        self,
        normalized: bool = True,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        root = ElementTree.parse(ASSETS / self.source).getroot()
        self.change(root)
        self.model, self.data = built(root)
        self.strengths = self.model.actuator_ctrlrange[:, 1].copy()
        bounds = np.ones_like(self.strengths) if normalized else self.strengths
        self.unit = self.strengths / bounds
        self.action_space = Box(-bounds, bounds, dtype=np.float64)
        self.observation_space = Box(-np.inf, np.inf, (self.sees,), np.float64)
        self.render_mode = render_mode
        if render_mode is not None:
            from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

            self.model.vis.global_.offwidth, self.model.vis.global_.offheight = width, height
            self.mujoco_renderer = MujocoRenderer(
                self.model, self.data, width=width, height=height, camera_name="track"
            )

    def change(self, root: ElementTree.Element) -> None:
        """Makes the robot rllab's."""

    def begin(self) -> None:
        """Draws the state in which an episode begins."""
        data, draw = self.data, self.np_random.standard_normal
        data.qpos += 0.01 * draw(self.model.nq)
        data.qvel += 0.1 * draw(self.model.nv)

    def simulate(self, action: np.ndarray) -> np.ndarray:
        """A step; returns the action as it was applied, in parts of the largest torques, (A,)."""
        u = np.minimum(np.maximum(action * self.unit, -self.strengths), self.strengths)
        self.data.ctrl[:] = u
        # an mj_step is an mj_step1 and an mj_step2; so what follows from positions and velocities
        # is up to date at the end, at no cost
        mujoco.mj_step2(self.model, self.data)
        if self.frames > 1:
            mujoco.mj_step(self.model, self.data, self.frames - 1)
        mujoco.mj_step1(self.model, self.data)
        return u / self.strengths

    @property
    def com(self) -> np.ndarray:
        """Centre of mass of the robot, (3,) in m."""
        return self.data.subtree_com[TORSO]

    def speed(self) -> float:
        """Of the centre of mass along x, in m/s."""
        mujoco.mj_subtreeVel(self.model, self.data)
        return float(self.data.subtree_linvel[TORSO, 0])

    def observe(self) -> np.ndarray:
        """Positions, velocities and COM, (sees,)."""
        return np.concatenate((self.data.qpos, self.data.qvel, self.com))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.begin()
        mujoco.mj_step1(self.model, self.data)
        return self.observe(), {}

    def render(self) -> np.ndarray | None:
        """(height, width, 3) uint8."""
        return None if self.render_mode is None else self.mujoco_renderer.render(self.render_mode)

    def close(self) -> None:
        if self.render_mode is not None:
            self.mujoco_renderer.close()


def built(root: ElementTree.Element) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """What a file describes. Its total mass is set afterwards, to the same bits: MuJoCo announces,
    on every start, that files will no longer be able to say it."""
    total = root.find("compiler").attrib.pop("settotalmass", None)
    model = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, "unicode"))
    data = mujoco.MjData(model)
    if total:
        mujoco.mj_setTotalmass(model, float(total))
        mujoco.mj_setConst(model, data)
        model.stat.meaninertia = model.dof_M0.mean()  # the solver's scale
        mujoco.mj_resetData(model, data)
    return model, data


class HalfCheetah(Robot):
    """Run. An observation is all positions but x, velocities and COM, (20,); a step is 0.01 s.

    An episode never ends. Controls are in [-1, 1] in any case. See `Robot` for the rest.

    Args:
        sparse: the reward is 1 while COM is beyond x = 5 m, otherwise 0. If not, it is the speed of
            COM less 0.05 |a|².
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 100}
    source = "half_cheetah.xml"
    sees = 20

    def __init__(self, sparse: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.sparse = sparse

    def observe(self) -> np.ndarray:
        return np.concatenate((self.data.qpos[1:], self.data.qvel, self.com))

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        a = self.simulate(action)
        reward = float(self.com[0] > 5) if self.sparse else self.speed() - 0.05 * float(a @ a)
        return self.observe(), reward, False, False, {}


class Walker2D(Robot):
    """Walk. An observation is positions, velocities and COM, (21,); a step is 0.005 s.

    As in rllab, z comes before x in positions and velocities. The reward is the speed of COM less
    0.005 |a|², with a in [-1, 1]. An episode ends unless 0.8 < z < 2 and |pitch| < 1. Torques are
    150 N m in the thighs and 100 elsewhere. See `Robot` for the rest.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 200}
    source = "walker2d.xml"
    sees = 21
    order = np.array((1, 0, *range(2, 9)))

    def change(self, root: ElementTree.Element) -> None:
        root.find("option").attrib.update(integrator="Euler", timestep="0.005")
        for motor in root.iter("motor"):
            most = 150 if "thigh" in motor.get("joint") else 100
            motor.attrib.update(gear="1", ctrlrange=f"{-most} {most}")

    def observe(self) -> np.ndarray:
        return np.concatenate((self.data.qpos[self.order], self.data.qvel[self.order], self.com))

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        a = self.simulate(action)
        _, z, pitch = self.data.qpos[:3].tolist()
        stands = 0.8 < z < 2 and abs(pitch) < 1
        return self.observe(), self.speed() - 0.005 * float(a @ a), not stands, False, {}


class Swimmer(Robot):
    """Swim. An observation is positions, velocities and COM, (13,); a step is 0.05 s.

    The reward is the speed of COM less 0.005 |a|², with a in [-1, 1]. Torques are 50 N m. An
    episode never ends. See `Robot` for the rest.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}
    source = "swimmer.xml"
    frames = 50
    sees = 13

    def change(self, root: ElementTree.Element) -> None:
        root.find("option").attrib.update(integrator="Euler", timestep="0.001")
        root.find("default/joint").set("armature", "0")
        for motor in root.iter("motor"):
            motor.attrib.update(gear="1", ctrlrange="-50 50")

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        a = self.simulate(action)
        return self.observe(), self.speed() - 0.005 * float(a @ a), False, False, {}
