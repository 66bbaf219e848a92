"""A run of the real model on few images, for tests of what surrounds it."""

from lit_gen.harness.run import Run
from lit_gen.harness.spec import Seed, find


def short(**model: object) -> Run:
    """2 epochs of 10 steps, with these arguments of the model."""
    overrides = {
        "data": {"init_args": {"validation": 100, "limit": 200, "batch_size": 20}},
        "trainer": {"max_epochs": 2},
        "model": {"init_args": model},
    }
    return Run(find("improved_gan_mnist_semisup"), "labels_100", "release", Seed(1, 1), overrides)
