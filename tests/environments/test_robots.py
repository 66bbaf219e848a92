"""HalfCheetah, Walker2D and Swimmer: torques, rewards, ends, rllab's returns by chance."""

import gymnasium
import numpy as np
import pytest

ROBOTS = ("HalfCheetah", "Walker2D", "Swimmer")


def centre(env: gymnasium.Env, ahead: float) -> float:
    """x of the centre of mass after so many seconds of the present velocities."""
    mujoco = pytest.importorskip("mujoco")
    data = mujoco.MjData(env.model)
    data.qpos[:] = env.data.qpos + ahead * env.data.qvel  # slides and hinges only
    mujoco.mj_forward(env.model, data)
    masses = env.model.body_mass[1:]
    return float(masses @ data.xipos[1:, 0] / masses.sum())


@pytest.mark.parametrize(
    ("name", "torques", "step"),
    [
        ("HalfCheetah", [120, 90, 60, 120, 60, 30], 0.01),
        ("Walker2D", [150, 100, 100, 150, 100, 100], 0.005),
        ("Swimmer", [50, 50], 0.05),
    ],
)
def test_torques_and_time(make, name: str, torques: list[float], step: float) -> None:
    env = make(name).unwrapped
    env.reset(seed=0)

    env.step(np.full(len(torques), -2.0))

    np.testing.assert_allclose(env.data.qfrc_actuator[3:], -np.array(torques))
    assert (env.data.qfrc_actuator[:3] == 0).all()
    assert env.data.time == pytest.approx(step)
    assert env.metadata["render_fps"] == pytest.approx(1 / step)


@pytest.mark.parametrize(
    ("name", "armature", "fluid"),
    [("HalfCheetah", 0.1, (0, 0)), ("Walker2D", 0.01, (0, 0)), ("Swimmer", 0, (4000, 0.1))],
)
def test_bodies_and_their_surroundings(
    make, name: str, armature: float, fluid: tuple[float, float]
) -> None:
    mujoco = pytest.importorskip("mujoco")
    env = make(name).unwrapped
    env.reset(seed=0)
    for _ in range(20):
        env.step(np.zeros(env.action_space.shape))

    assert env.model.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER
    assert (env.model.opt.density, env.model.opt.viscosity) == fluid
    np.testing.assert_array_equal(env.model.dof_armature[3:], armature)
    assert (env.data.ncon == 0) == (name == "Swimmer")
    if name == "Walker2D":
        feet = [env.model.geom(foot).friction[0] for foot in ("foot_geom", "foot_left_geom")]
        assert feet == [0.9, 1.9]


@pytest.mark.parametrize(
    ("name", "cost"), [("HalfCheetah", 0.05), ("Walker2D", 0.005), ("Swimmer", 0.005)]
)
def test_rewards_are_speed_less_effort(make, name: str, cost: float) -> None:
    env, rng = make(name).unwrapped, np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(10):
        action = rng.uniform(-2, 2, env.action_space.shape)

        _, reward, *_ = env.step(action)

        speed = (centre(env, 1e-5) - centre(env, -1e-5)) / 2e-5
        effort = cost * (np.clip(action, -1, 1) ** 2).sum()
        assert reward == pytest.approx(speed - effort, abs=1e-6)


@pytest.mark.parametrize("name", ROBOTS)
def test_observations_are_positions_velocities_and_centre_of_mass(make, name: str) -> None:
    env = make(name).unwrapped
    env.reset(seed=0)

    for _ in range(3):
        seen, *_ = env.step(np.full(env.action_space.shape, 0.5))

    q, v = env.data.qpos.copy(), env.data.qvel.copy()
    if name == "HalfCheetah":
        q = q[1:]
    if name == "Walker2D":  # z comes first
        assert seen[0] == pytest.approx(1.25, abs=0.1)
        assert seen[1] == pytest.approx(0, abs=0.1)
        q[:2], v[:2] = q[[1, 0]], v[[1, 0]]
    np.testing.assert_array_equal(seen[:-3], [*q, *v])
    assert seen[-3] == pytest.approx(centre(env, 0), abs=1e-12)


@pytest.mark.parametrize("name", ROBOTS)
def test_how_episodes_begin(make, name: str) -> None:
    env = make(name).unwrapped
    rows = []
    for seed in range(300):
        env.reset(seed=seed)
        rows.append([*(env.data.qpos - env.model.qpos0) / 0.01, *env.data.qvel / 0.1])

    assert (abs(np.std(rows, 0) - 1) < 0.2).all()
    assert (abs(np.mean(rows, 0)) < 0.25).all()


@pytest.mark.parametrize(("x", "reward"), [(4.98, 0), (5.02, 1), (-5.02, 0)])
def test_the_sparse_cheetah_has_to_be_beyond_five_metres(make, x: float, reward: int) -> None:
    env = make("HalfCheetah", sparse=True).unwrapped
    env.reset(seed=0)
    env.data.qpos[0] += x - centre(env, 0)
    env.simulate(np.zeros(6))

    seen, found, terminated, _, _ = env.step(np.zeros(6))

    assert seen[-3] == pytest.approx(x, abs=0.015)
    assert found == reward
    assert not terminated


@pytest.mark.parametrize(
    ("z", "pitch", "ends"),
    [
        (1.25, 0, False),
        (0.78, 0, True),
        (0.82, 0, False),
        (1.98, 0, False),
        (2.02, 0, True),
        (1.5, 0.97, False),
        (1.5, 1.03, True),
        (1.5, -0.97, False),
        (1.5, -1.03, True),
    ],
)
def test_a_walker_that_falls_ends_its_episode(make, z: float, pitch: float, ends: bool) -> None:
    env = make("Walker2D").unwrapped
    env.reset(seed=0)
    env.data.qpos[1:3], env.data.qvel[:] = (z, pitch), 0
    env.data.qpos[[3, 4, 6, 7]] = -1.5  # legs bent, above the ground

    assert env.step(np.zeros(6))[2] == ends


@pytest.mark.parametrize(
    ("name", "episodes", "known"),
    [("HalfCheetah", 30, -90.8), ("Walker2D", 150, -1.7), ("Swimmer", 8, -1.7)],
)
def test_random_actions_return_what_rllab_published(
    by_chance, agrees, name: str, episodes: int, known: float
) -> None:
    """Duan et al. (2016), arXiv:1604.06778, Table 1, whose MuJoCo was 1.31. Standard errors here
    are 6, 0.4 and 2; those of many episodes show -97.4 +- 2.7, -1.2 +- 0.1 and -1.5 +- 0.9."""
    assert agrees(by_chance(name, episodes), known)


def test_a_sparse_cheetah_finds_nothing_by_chance(by_chance) -> None:
    assert by_chance("HalfCheetah", 5, sparse=True).sum() == 0


def test_a_cheetah_weighs_what_its_file_says_without_a_warning(make, capfd) -> None:
    """MuJoCo warns of every file that states a total mass; the model is the same to the bit."""
    mujoco = pytest.importorskip("mujoco")
    from lit_gen.environments import robots

    ours = make("HalfCheetah").unwrapped
    assert capfd.readouterr().err == ""

    known = mujoco.MjModel.from_xml_path(str(robots.ASSETS / "half_cheetah.xml"))
    assert ours.model.body_mass.sum() == pytest.approx(14)
    one, other = mujoco.MjData(known), mujoco.MjData(ours.model)
    rng = np.random.default_rng(0)
    for _ in range(300):
        one.ctrl[:] = other.ctrl[:] = rng.uniform(-1, 1, 6)
        mujoco.mj_step(known, one)
        mujoco.mj_step(ours.model, other)
    np.testing.assert_array_equal(one.qpos, other.qpos)
