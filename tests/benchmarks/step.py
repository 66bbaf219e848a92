"""What a training step costs: `reproduce` beside what one would write instead.

    python tests/benchmarks/step.py [--rounds 3] [--threads 1] [--device cuda] [--write]

All do the same mathematics on the same data: improved_gan_mnist_semisup with 100 labels, an update
of each network on 100 labelled, 100 unlabelled and 100 other unlabelled images.

    bare        a tight PyTorch loop, which has nothing else but a test after each epoch
    suite       the real command's machinery: Lightning, the display, records, checkpoints, MLflow
                on SQLite, and a validation set besides the test set
    dataloader  an implementation with DataLoaders, see port.py

They take turns, each in a process of its own, and one whole epoch is timed after a warm-up. The
rate at which they compute is held against that of a large matrix product on the same threads.
"""

import argparse
import os
import statistics
import sys
import tempfile
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import measure
import numpy as np
import pytorch_lightning as pl
import torch
from port import Images, Loaders, Port
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_gen.datamodules.images import SemiSupervisedMNIST
from lit_gen.harness.reports.progress import Display
from lit_gen.harness.reports.tracking import Tracker
from lit_gen.harness.run import Run, execute
from lit_gen.harness.spec import Seed, find
from lit_gen.nn.weight_norm import WeightNormLinear, data_dependent_init
from lit_gen.papers.improved_gan import SemiSupervisedGAN, feature_matching_loss, unsupervised_loss

BATCH = 100
WARM_UP = 50  # steps


def bare_step(
    model: SemiSupervisedGAN, optimizers: list[torch.optim.Optimizer], batch: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """The labelled, unsupervised and matching loss, and an update of each network."""
    generator, discriminator = model.generator, model.discriminator
    x_labeled, y, x_unlabeled, x_matching = batch
    optimizer_d, optimizer_g = optimizers
    with torch.no_grad():
        fake = generator(torch.rand(len(x_unlabeled), 100, device=y.device))
    logits = discriminator(torch.cat([x_labeled, x_unlabeled, fake]))
    labeled, real, generated = logits.split(len(x_labeled))
    loss_real, loss_fake = unsupervised_loss(real, generated)
    loss_labeled = nn.functional.cross_entropy(labeled, y)
    loss_unlabeled = loss_real.mean() + loss_fake.mean()
    optimizer_d.zero_grad()
    (loss_labeled + loss_unlabeled).backward()
    model.update_average(list(model.averaged.parameters()), list(discriminator.parameters()), None)
    optimizer_d.step()

    discriminator.requires_grad_(False)
    with torch.no_grad():
        features = discriminator.features(x_matching)
    fake = generator(torch.rand(len(x_matching), 100, device=y.device))
    loss_matching = feature_matching_loss(features, discriminator.features(fake))
    optimizer_g.zero_grad()
    loss_matching.backward()
    optimizer_g.step()
    discriminator.requires_grad_(True)
    return loss_labeled.detach(), loss_unlabeled.detach(), loss_matching.detach()


def flops(model: SemiSupervisedGAN, batch: int = BATCH) -> int:
    """Floating-point operations of a step's matrix products, by the layers' shapes.

    A layer (m, n) costs 2mn for each image on its way forward, as much for the gradient of its
    weights, and as much for that of its input. The discriminator is trained on three batches, whose
    pixels need no gradient; the generator's images are made twice and pass the features once with
    a gradient of the pixels and none of the weights, as do real ones with no gradient at all. What
    is done number by number (noise, activations, Adam) is left out, as is the test of each epoch.
    """

    def sizes(network: nn.Module) -> list[int]:
        layers = (m for m in network.modules() if isinstance(m, nn.Linear | WeightNormLinear))
        return [(m.v if isinstance(m, WeightNormLinear) else m.weight).numel() for m in layers]

    whole, features, generator = (
        sizes(n) for n in (model.discriminator, model.discriminator.features, model.generator)
    )
    train_discriminator = 3 * (3 * sum(whole) - whole[0])
    match_features = 3 * sum(features)
    train_generator = sum(generator) + 3 * sum(generator) - generator[0]
    return 2 * batch * (train_discriminator + match_features + train_generator)


def prepare(options: argparse.Namespace) -> tuple[SemiSupervisedGAN, SemiSupervisedMNIST]:
    """Model and data as the suite's run of seed 1 begins with them."""
    pl.seed_everything(1, verbose=False)
    torch.set_float32_matmul_precision(options.matmul_precision)
    model, data = SemiSupervisedGAN().to(options.device), SemiSupervisedMNIST(limit=options.limit)
    device = torch.device(options.device)
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=device))
    data.prepare_data()
    data.setup("fit")
    data_dependent_init(model.discriminator, data.initialization_images(500))
    for ours, live in zip(model.averaged.buffers(), model.discriminator.buffers(), strict=True):
        ours.copy_(live)
    return model, data


def bare(options: argparse.Namespace) -> measure.Turn:
    model, data = prepare(options)
    optimizers = model.configure_optimizers()
    for batch in islice(data.train_dataloader(), WARM_UP):
        bare_step(model, optimizers, batch)
    data.epochs.position = len(data.epochs)  # a new epoch, which begins with its shuffle
    began = measure.now(options.device)
    for batch in data.train_dataloader():
        bare_step(model, optimizers, batch)
    with torch.no_grad():
        sum((model(x).argmax(1) != y).sum().item() for x, y in data.test_dataloader())
    return measure.per_step(began, measure.now(options.device), len(data.epochs))


def dataloader(options: argparse.Namespace) -> measure.Turn:
    model, data = prepare(options)
    port = Port(model, options.device)
    x, y = data.epochs.images.cpu().numpy(), data.epochs.labels.cpu().numpy().astype(np.uint8)
    test = Images(data.test_x.cpu().numpy(), data.test_y.cpu().numpy())
    loaders = Loaders(x, y, data.epochs.labeled, options.workers)
    for batch in islice(loaders, WARM_UP):
        port.step(*batch)
    began = measure.now(options.device)
    for batch in loaders:
        port.step(*batch)
    port.errors(DataLoader(test, batch_size=BATCH, num_workers=options.workers))
    return measure.per_step(began, measure.now(options.device), len(loaders))


def suite(options: argparse.Namespace) -> measure.Turn:
    ends: list[tuple[float, float]] = []
    steps = 0
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, force_terminal=True)  # the panel is drawn, and not seen
        display = Display(console, 1, None)
        tracker = Tracker(f"sqlite:///{folder}/mlflow.db")
        overrides: dict[str, Any] = {
            "trainer": {"max_epochs": 2},
            "matmul_precision": options.matmul_precision,
        }
        if options.limit:
            overrides["data"] = {"init_args": {"limit": options.limit}}
        run = Run(
            find("improved_gan_mnist_semisup"), "labels_100", "release", Seed(1, 1), overrides
        )

        def on_start(record: object, folder: Path) -> None:
            display.start(record, folder)
            tracker.push(record, folder)  # MLflow's start falls into the first epoch

        def on_step(record: object, step: int, of_epoch: int) -> None:
            nonlocal steps
            steps = of_epoch
            display.step(record, step, of_epoch)

        def on_epoch(record: object) -> None:
            display.epoch(record)
            tracker.push(record, display.folder)
            ends.append(measure.now(options.device))

        execute(run, Path(folder), options.device, None, None, lambda: None, on_start, on_step,
                on_epoch, display.end)  # fmt: skip
        tracker.close(60)
    began, ended = ends
    return measure.per_step(began, ended, steps)


def ceiling(options: argparse.Namespace) -> measure.Turn:
    return {"rates": measure.ceiling(options.device)}


TURNS = {"bare": bare, "suite": suite, "dataloader": dataloader, "ceiling": ceiling}


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--matmul-precision", default="highest")
    parser.add_argument("--limit", type=int, help="training images, for trying this script out")
    options = parser.parse_args()
    if options.turn:
        return measure.say(lambda: TURNS[options.turn](options), options)
    if options.write and options.limit:
        parser.error("--write keeps what whole epochs take; leave --limit out.")

    said = measure.take_turns(__file__, [*TURNS], options.rounds)
    rates = [turn["rates"] for turn in said.pop("ceiling")]
    found = measure.compare(said, 3 * BATCH, "bare")
    best = {name: round(statistics.median(r[name] for r in rates)) for name in rates[0]}
    work = flops(SemiSupervisedGAN())
    for of in found.values():
        of["gflops"] = float(f"{work / of['ms']['median'] / 1e6:.3g}")
    print(measure.lines(found))
    print(f"a step is {work / 1e9:.2f} GFLOP; GFLOP/s of a step, then of a large matrix product:")
    print(", ".join(f"{name} {of['gflops']}" for name, of in found.items()), best)
    facts = {
        "machine": measure.machine(
            options.device,
            options.threads,
            ("lit-gen", "torch", "pytorch-lightning", "mlflow", "numpy"),
        ),
        "options": {
            "workers": options.workers,
            "matmul_precision": options.matmul_precision,
            "rounds": options.rounds,
        },
        "batch": BATCH,
        "gflop_per_step": round(work / 1e9, 3),
        "ceiling_gflops": best,
        "contenders": found,
    }
    if options.write:
        measure.write("step", facts)
    return None


if __name__ == "__main__":
    sys.exit(main())
