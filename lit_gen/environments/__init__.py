"""The tasks of VIME (Houthooft et al., 2016), arXiv:1605.09674, as Gymnasium environments.

They are rllab's, as the authors' code used them: Gymnasium's own of the same names have other
dynamics, scales and ends. Importing this registers their ids; the engines that simulate them are
imported when one is made:

    gymnasium.make("lit_gen.environments:lit_gen/MountainCar-v0", sparse=True)
"""

ENTRY_POINTS = {
    "MountainCar-v0": "mountain_car:MountainCar",
    "CartPole-v0": "cart_pole:CartPole",
    "CartPoleSwingup-v0": "cart_pole:CartPoleSwingup",
    "DoublePendulum-v0": "double_pendulum:DoublePendulum",
    "HalfCheetah-v0": "robots:HalfCheetah",
    "Walker2D-v0": "robots:Walker2D",
    "Swimmer-v0": "robots:Swimmer",
    "SwimmerGather-v0": "gather:SwimmerGather",
}
LIMIT = 500  # steps of an episode


def register() -> None:
    """Adds the ids, under "lit_gen/", to Gymnasium's; those that are there stay."""
    from gymnasium.envs import registration

    for name, entry_point in ENTRY_POINTS.items():
        if f"lit_gen/{name}" not in registration.registry:
            registration.register(
                f"lit_gen/{name}", f"{__name__}.{entry_point}", max_episode_steps=LIMIT
            )


register()
