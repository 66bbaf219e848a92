"""What lightning-bolts 0.7 costs: its DCGAN and its VAE beside bare loops of the same networks.

    tox -e bolts [-- --rounds 3 --threads 1 --device cuda]

It needs an environment of its own, with pytorch-lightning 1.9; tox.ini has it. For each model there
are three contenders:

    bare        a tight PyTorch loop on images that lie in memory, transformed beforehand
    dataloader  that loop on torchvision's MNIST and transforms, through a DataLoader
    bolts       bolts' module in the Trainer of pytorch-lightning 1.9, with its default logger and
                progress bar, on that DataLoader

and for DCGAN a fourth:

    suite       lit_gen's `AlternatingGAN` of bolts' networks in that Trainer, without logger and
                progress bar, on images in memory. A minibatch updates one player, so a step is two
                minibatches here, of the same images

Networks, optimizers and batches are bolts' own: DCGAN on 64 x 64 images in batches of 64, the VAE
with its smallest encoder, ResNet-18, on 32 x 32 RGB images in batches of 32, the size of its
DataModules. Timed are the steps inside an epoch, without what bolts does at its ends. First all
sides train three batches from the same weights and the same noise, and must end with equal weights.

The VAE's loss on test images, as bolts logs it, stands beside the bare loop's. lit_gen has no VAE
of a ResNet.
"""

import argparse
import contextlib
import logging
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import measure
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from lit_gen.datamodules import files

CHECKED = 3  # batches that both sides train on
TOLERANCE = 1e-4  # of the way that their weights came, in float64


def import_bolts() -> None:
    """Makes torchvision and bolts 0.7 importable, and less talkative.

    The package index has torchvision as a CUDA build, which beside a CPU build of torch fails on
    two operators that its library would declare. Their schemas are enough for its image transforms.
    The other remedy is in tox.ini: setuptools < 81, as Lightning 1.9 imports pkg_resources.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        global _library  # its declarations end with it
        _library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    with warnings.catch_warnings(record=True):
        import pl_bolts  # noqa: F401
    warnings.filterwarnings("ignore")  # each of its functions says that it is under review
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


class DCGAN:
    """bolts' DCGAN, with its defaults."""

    batch = 64

    @staticmethod
    def make() -> Any:
        from pl_bolts.models.gans import DCGAN as Module

        return Module(image_channels=1)

    @staticmethod
    def transforms() -> tuple[Callable, Callable]:
        """What makes an image of the right size, and what makes floats of it."""
        from torchvision import transforms as t

        return t.Resize(64), t.Compose([t.ToTensor(), t.Normalize((0.5,), (0.5,))])

    @staticmethod
    def floats(pixels: Tensor) -> Tensor:
        return pixels.to(torch.get_default_dtype()).div_(255).sub_(0.5).div_(0.5)

    @staticmethod
    def optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
        networks = (model.discriminator, model.generator)
        return [torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999)) for n in networks]

    @staticmethod
    def step(model: nn.Module, optimizers: list[torch.optim.Optimizer], real: Tensor) -> None:
        generator, discriminator = model.generator, model.discriminator
        ones, zeros = (torch.full((len(real),), v, device=real.device) for v in (1.0, 0.0))

        def noise() -> Tensor:
            return torch.randn(len(real), 100, device=real.device).view(-1, 100, 1, 1)

        loss = F.binary_cross_entropy(discriminator(real), ones)
        with torch.no_grad():
            fake = generator(noise())
        loss = loss + F.binary_cross_entropy(discriminator(fake), zeros)
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()

        discriminator.requires_grad_(False)
        loss = F.binary_cross_entropy(discriminator(generator(noise())), ones)
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        discriminator.requires_grad_(True)

    @staticmethod
    def suite(model: nn.Module) -> Any:
        """lit_gen's training of the same networks."""
        from lit_gen.papers.dcgan import AlternatingGAN

        generator, discriminator = Images(model.generator), Logits(model.discriminator)
        gan = AlternatingGAN(generator, discriminator, latent_dim=100, gaussian=True)
        gan.save_hyperparameters({"lr": 2e-4, "weight_decay": 0.0, "decay_epochs": None})
        gan.minibatches = 1  # bolts' discriminator comes first
        return gan

    loss = None  # nothing that is logged on a test set


class Images(nn.Module):
    """bolts' generator on flat latents, (n, 100)."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z[..., None, None])


class Logits(nn.Module):
    """bolts' discriminator without the sigmoid that it ends in, -> logits (n,)."""

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        *blocks, last = discriminator.disc
        self.layers = nn.Sequential(*blocks, last[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).flatten()


class VAE:
    """bolts' VAE with its smallest encoder; its loss: squared error + 0.1 KL, both means."""

    batch = 32

    @staticmethod
    def make() -> Any:
        from pl_bolts.models.autoencoders import VAE as Module

        return Module(input_height=32)

    @staticmethod
    def transforms() -> tuple[Callable, Callable]:
        from torchvision import transforms as t

        return t.Compose([t.Pad(2), t.Grayscale(3)]), t.ToTensor()

    @staticmethod
    def floats(pixels: Tensor) -> Tensor:
        return pixels.to(torch.get_default_dtype()).div_(255)

    @staticmethod
    def optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(model.parameters(), lr=1e-4)]

    suite = None

    @staticmethod
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        h = model.encoder(x)
        mu, log_var = model.fc_mu(h), model.fc_var(h)
        z = mu + (0.5 * log_var).exp() * torch.randn_like(mu)
        kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).mean()
        return F.mse_loss(model.decoder(z), x) + 0.1 * kl

    @staticmethod
    def step(model: nn.Module, optimizers: list[torch.optim.Optimizer], x: Tensor) -> None:
        [optimizer] = optimizers
        optimizer.zero_grad()
        VAE.loss(model, x).backward()
        optimizer.step()


MODELS = {"dcgan": DCGAN, "vae": VAE}


# --- data


@contextlib.contextmanager
def mnist(case: Any, split: str = "train") -> Iterator[Dataset]:
    """torchvision's MNIST with bolts' transforms, on the files that lit_gen finds."""
    from torchvision import datasets, transforms

    found = files.provide("mnist").files
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root, "MNIST", "raw")
        raw.mkdir(parents=True)
        for name, path in found.items():
            (raw / name).write_bytes(files.read(path))
        transform = transforms.Compose([*case.transforms()])
        yield datasets.MNIST(root, train=split == "train", transform=transform)


def in_memory(case: Any, data: Dataset, n: int, device: str) -> Tensor:
    """The first n images of the right size, (n, C, H, W) uint8."""
    import numpy as np
    from PIL import Image

    resize, _ = case.transforms()
    images = (np.asarray(resize(Image.fromarray(x.numpy()))) for x in data.data[:n])
    pixels = torch.stack([torch.tensor(x) for x in images])
    pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return pixels.contiguous().to(device)


def batches(case: Any, pixels: Tensor) -> Iterable[Tensor]:
    """Shuffled; each batch an index into memory."""
    for index in torch.randperm(len(pixels), device=pixels.device).split(case.batch):
        yield case.floats(pixels[index])


# --- turns


def loop(
    case: Any, feed: Iterable[Tensor], model: nn.Module, options: argparse.Namespace
) -> measure.Turn:
    """Times the steps after the warm-up, of a loop without anything around it."""
    optimizers, device = case.optimizers(model), options.device
    for i, x in enumerate(feed):
        if i == options.warm_up:
            began = measure.now(device)
        case.step(model, optimizers, x.to(device))
    return measure.per_step(began, measure.now(device), options.steps)


def bare(case: Any, options: argparse.Namespace) -> measure.Turn:
    n = (options.warm_up + options.steps) * case.batch
    with mnist(case) as data:
        pixels = in_memory(case, data, n, options.device)
    model = case.make().to(options.device)
    return loop(case, batches(case, pixels), model, options)


def loader(case: Any, data: Dataset, options: argparse.Namespace) -> DataLoader:
    few = Subset(data, range((options.warm_up + options.steps) * case.batch))
    return DataLoader(few, batch_size=case.batch, shuffle=True, num_workers=options.workers)


def dataloader(case: Any, options: argparse.Namespace) -> measure.Turn:
    model = case.make().to(options.device)
    with mnist(case) as data:
        feed = (x for x, _ in loader(case, data, options))
        return loop(case, feed, model, options)


def bolts(case: Any, options: argparse.Namespace) -> measure.Turn:
    import pytorch_lightning as pl

    times: list[tuple[float, float]] = []
    with mnist(case) as data, tempfile.TemporaryDirectory() as folder, quiet():
        feed = loader(case, data, options)
        trainer = pl.Trainer(
            accelerator=accelerator(options),
            devices=1,
            max_epochs=1,
            default_root_dir=folder,
            callbacks=[clock(times, options)],
        )
        trainer.fit(case.make(), feed)
    return measure.per_step(times[options.warm_up - 1], times[-1], options.steps)


class Twice:
    """Every batch two times in a row: one for each player."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return 2 * len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        return (x for batch in self.batches for x in (batch, batch))


def suite(case: Any, options: argparse.Namespace) -> measure.Turn:
    times: list[tuple[float, float]] = []
    with mnist(case) as data:
        n = (options.warm_up + options.steps) * case.batch
        pixels = in_memory(case, data, n, options.device)
    model = case.suite(case.make().to(options.device))
    train_suite(model, [*batches(case, pixels)], options, clock(times, options))
    return measure.per_step(times[2 * options.warm_up - 1], times[-1], options.steps)


def train_suite(
    model: Any, feed: Sequence[Tensor], options: argparse.Namespace, *callbacks: Any
) -> None:
    import pytorch_lightning as pl

    trainer = pl.Trainer(
        accelerator=accelerator(options),
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks],
    )
    trainer.fit(model, Twice(feed))


def clock(times: list[tuple[float, float]], options: argparse.Namespace) -> Any:
    """Notes when each batch has ended."""
    import pytorch_lightning as pl

    class Clock(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            times.append(measure.now(options.device))

    return Clock()


def check(case: Any, options: argparse.Namespace) -> measure.Turn:
    """How far the weights lie apart after the same few batches and noise, and the test losses.

    In float64, as Adam's first steps are full ones even along gradients that are rounding errors.
    """
    import pytorch_lightning as pl

    torch.set_default_dtype(torch.float64)  # ToTensor and bolts' noise follow it

    class SameNoise(pl.Callback):
        def __init__(self, parts: int = 1) -> None:
            self.parts = parts

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, i: int) -> None:
            if i % self.parts == 0:
                torch.manual_seed(i // self.parts)

        def on_validation_batch_start(self, *_: Any) -> None:
            torch.manual_seed(0)

    pl.seed_everything(1)
    theirs = case.make().to(options.device)
    ours, suites = (case.make().to(options.device) for _ in range(2))
    start = {name: v.clone() for name, v in theirs.state_dict().items()}
    ours.load_state_dict(start)
    suites.load_state_dict(start)
    n = CHECKED * case.batch
    with mnist(case) as data, tempfile.TemporaryDirectory() as folder, quiet():
        pixels = in_memory(case, data, n, options.device)
        optimizers = case.optimizers(ours)
        for i, x in enumerate(pixels.split(case.batch)):
            torch.manual_seed(i)
            case.step(ours, optimizers, case.floats(x))
        trainer = pl.Trainer(
            accelerator=accelerator(options),
            devices=1,
            max_epochs=1,
            default_root_dir=folder,
            callbacks=[SameNoise()],
            num_sanity_val_steps=0,
        )
        trainer.fit(theirs, DataLoader(Subset(data, range(n)), batch_size=case.batch))
        theirs.to(options.device)
        trained = [theirs]
        if case.suite:
            x = [case.floats(x) for x in pixels.split(case.batch)]
            train_suite(case.suite(suites), x, options, SameNoise(parts=2))
            trained.append(suites.to(options.device))
        moved = distance(ours.state_dict(), start)
        found = {"apart": max(distance(m.state_dict(), ours.state_dict()) for m in trained) / moved}
        if case.loss:
            with mnist(case, "t10k") as test, torch.no_grad():
                some = DataLoader(Subset(test, range(case.batch)), batch_size=case.batch)
                [logged] = trainer.validate(theirs, some, verbose=False)
                x = in_memory(case, test, case.batch, options.device)
                torch.manual_seed(0)
                loss = case.loss(ours.eval(), case.floats(x)).item()
            found["test_loss"] = {"bolts": logged["val_loss"], "bare": loss}
    return found


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return math.sqrt(sum((a[k] - b[k]).square().sum().item() for k in b))


def accelerator(options: argparse.Namespace) -> str:
    return "gpu" if options.device == "cuda" else "cpu"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The progress bar is drawn, and not seen."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


TURNS = {
    f"{name}.{turn.__name__}": partial(turn, case)
    for name, case in MODELS.items()
    for turn in (bare, dataloader, bolts, suite, check)
    if turn is not suite or case.suite
}


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS), help="of these, for trying out")
    parser.add_argument("--steps", type=int, default=6, help="timed in each turn")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before them")
    options = parser.parse_args()
    if options.turn:
        import_bolts()
        return measure.say(lambda: TURNS[options.turn](options), options)
    if options.write and options.models != ",".join(MODELS):
        parser.error("--write keeps all models together; leave --models out.")

    facts: dict[str, Any] = {"models": {}}
    for name in options.models.split(","):
        [checked] = measure.take_turns(__file__, [f"{name}.check"], 1)[f"{name}.check"]
        if not checked["apart"] < TOLERANCE:
            raise SystemExit(
                f"{name}: contenders do not train alike: after {CHECKED} batches weights lie "
                f"apart from the bare loop's by {checked['apart']:.2g} of the way that they came, "
                f"more than {TOLERANCE}."
            )
        names = [turn for turn in TURNS if turn.startswith(f"{name}.") and "check" not in turn]
        said = measure.take_turns(__file__, names, options.rounds)
        case = MODELS[name]
        found = measure.compare(
            {turn.partition(".")[2]: turns for turn, turns in said.items()}, case.batch, "bare"
        )
        print(f"{name}: weights apart by {checked['apart']:.1g} of their way", checked, sep="\n")
        print(measure.lines(found), flush=True)
        checked.pop("peak_memory_mb")
        checked.pop("peak_gpu_memory_mb", None)
        facts["models"][name] = {"batch": case.batch, "check": checked, "contenders": found}
    names = (
        "lightning-bolts",
        "pytorch-lightning",
        "torch",
        "torchvision",
        "torchmetrics",
        "numpy",
    )
    facts["machine"] = measure.machine(options.device, options.threads, names)
    facts["options"] = {
        "workers": options.workers,
        "steps": options.steps,
        "rounds": options.rounds,
    }
    if options.write:
        measure.write("bolts", facts)
    return None


if __name__ == "__main__":
    sys.exit(main())
