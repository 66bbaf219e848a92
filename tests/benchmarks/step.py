"""What the suite costs: a training step of `reproduce` beside a bare PyTorch loop.

    python tests/benchmarks/step.py [--rounds 3] [--threads 2] [--matmul-precision highest]

Both do the same mathematics on the same data. The bare loop has nothing else but a test after each
epoch; the suite has Lightning, the display, records, checkpoints, MLflow on SQLite and the
validation set. They take turns, and whole epochs after each one's first are timed.
"""

import argparse
import os
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import pytorch_lightning as pl
import torch
from rich.console import Console

from lit_gen.datamodules.images import SemiSupervisedMNIST
from lit_gen.harness.reports.progress import Display
from lit_gen.harness.reports.tracking import Tracker
from lit_gen.harness.run import Run, execute
from lit_gen.harness.spec import Seed, find
from lit_gen.nn.weight_norm import data_dependent_init
from lit_gen.papers.improved_gan import SemiSupervisedGAN, feature_matching_loss, unsupervised_loss

EPOCHS = 3  # of which the first is not timed


def bare() -> list[float]:
    """Seconds per epoch of a loop without anything around it."""
    pl.seed_everything(1, verbose=False)
    model = SemiSupervisedGAN()
    generator, discriminator, averaged = model.generator, model.discriminator, model.averaged
    data = SemiSupervisedMNIST()
    data.prepare_data()
    data.setup("fit")
    data_dependent_init(discriminator, data.initialization_images(500))
    optimizer_d, optimizer_g = model.configure_optimizers()
    seconds = []
    for _ in range(EPOCHS):
        began = time.perf_counter()
        for x_labeled, y, x_unlabeled, x_matching in data.train_dataloader():
            with torch.no_grad():
                fake = generator(torch.rand(100, 100))
            logits = discriminator(torch.cat([x_labeled, x_unlabeled, fake]))
            labeled, real, generated = logits.split(100)
            loss_real, loss_fake = unsupervised_loss(real, generated)
            loss = torch.nn.functional.cross_entropy(labeled, y)
            loss = loss + loss_real.mean() + loss_fake.mean()
            optimizer_d.zero_grad()
            loss.backward()
            model.update_average(
                list(averaged.parameters()), list(discriminator.parameters()), None
            )
            optimizer_d.step()

            discriminator.requires_grad_(False)
            with torch.no_grad():
                features = discriminator.features(x_matching)
            matched = discriminator.features(generator(torch.rand(100, 100)))
            loss = feature_matching_loss(features, matched)
            optimizer_g.zero_grad()
            loss.backward()
            optimizer_g.step()
            discriminator.requires_grad_(True)
        averaged.eval()
        with torch.no_grad():
            sum((averaged(x).argmax(1) != y).sum().item() for x, y in data.test_dataloader())
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def suite(precision: str) -> list[float]:
    """Seconds per epoch of the real command's machinery."""
    ends = []
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, force_terminal=True)  # the panel is drawn, and not seen
        display = Display(console, 1, None)
        tracker = Tracker(f"sqlite:///{folder}/mlflow.db")
        overrides = {"trainer": {"max_epochs": EPOCHS}, "matmul_precision": precision}
        run = Run(
            find("improved_gan_mnist_semisup"), "labels_100", "release", Seed(1, 1), overrides
        )

        def on_start(record: object, folder: Path) -> None:
            display.start(record, folder)
            tracker.push(record, folder)  # MLflow's start falls into the first epoch

        def on_epoch(record: object) -> None:
            display.epoch(record)
            tracker.push(record, display.folder)
            ends.append(time.perf_counter())

        execute(run, Path(folder), "cpu", None, None, lambda: None, on_start, display.step,
                on_epoch, display.end)  # fmt: skip
        tracker.close(60)
    return [b - a for a, b in pairwise(ends)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--matmul-precision", default="highest")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision(options.matmul_precision)
    times: dict[str, list[float]] = {"bare": [], "suite": []}
    for _ in range(options.rounds):
        times["bare"] += bare()
        times["suite"] += suite(options.matmul_precision)
        medians = {name: statistics.median(t) / 600 * 1e3 for name, t in times.items()}
        print(
            f"ms a step, median of {len(times['bare'])} epochs: bare {medians['bare']:.2f}, "
            f"suite {medians['suite']:.2f}, ratio {medians['suite'] / medians['bare']:.3f}; "
            f"peak memory {_peak_mb():.0f} MB",
            flush=True,
        )


def _peak_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
