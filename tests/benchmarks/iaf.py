"""What a training step of IAF's ResNet VAE costs, beside the fastest that the device multiplies.

    python tests/benchmarks/iaf.py [--setting small] [--device cuda] [--compile] [--write]

All train the same model on the same random images, a step of Adamax and of the average included:

    float32    as a reproduction is written
    bfloat16   convolutions in bfloat16 on images that lie channels last
    compiled   the same with its terms compiled (only with --compile, which takes minutes)

They take turns, each in a process of its own. A step's work is that of its convolutions, counted by
their shapes with masked weights as if dense; it is held against a large matrix product.
"""

import argparse
import contextlib
import statistics
import sys

import measure
import torch
from torch import Tensor, nn

from lit_gen.nn.weight_norm import WeightNormConv2d, WeightNormConvTranspose2d
from lit_gen.papers.iaf import ResNetVAE

WARM_UP, STEPS = 3, 10
SETTINGS = {  # arguments of the model, and a batch size by device
    "tiny": ({"depth": 2, "width": 32, "latents": 8}, {"cpu": 16, "cuda": 256}),
    "small": ({"depth": 4, "width": 32, "latents": 8}, {"cpu": 16, "cuda": 256}),
    "depth8": ({"depth": 8}, {"cpu": 2, "cuda": 256}),
    "depth20": ({"depth": 20}, {"cpu": 1, "cuda": 256}),
}


def make(options: argparse.Namespace, channels_last: bool = False) -> tuple[ResNetVAE, Tensor]:
    """The model, initialised, and a batch of images."""
    arguments, batch = SETTINGS[options.setting]
    torch.manual_seed(1)
    model = ResNetVAE(**arguments, log_scale_init=-3.0, channels_last=channels_last)
    model.to(options.device)
    size = options.batch or batch[options.device]
    x = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, device=options.device)
    model.initialize(x[:32])
    optimizer = model.configure_optimizers()
    model.optimizers = lambda: optimizer
    model.manual_backward = lambda loss: loss.backward()
    return model, x


def flops(options: argparse.Namespace) -> int:
    """Floating-point operations of a step: three times those of the way forward, but the pixels
    need no gradient. Each weight meets each pixel of the smaller side of its layer once."""
    found = [0]

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        small = inputs[0] if isinstance(layer, WeightNormConvTranspose2d) else output
        of_pixels = 2 if inputs[0].shape[1] == 3 else 3
        found[0] += 2 * of_pixels * layer.v.numel() * small[:, 0].numel()

    with torch.device("meta"):
        network = ResNetVAE(**SETTINGS[options.setting][0]).network
        for layer in network.modules():
            if isinstance(layer, WeightNormConv2d):
                layer.register_forward_hook(count)
        network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    return found[0]


def turn(options: argparse.Namespace) -> measure.Turn:
    """Milliseconds of a step, the median of `STEPS`."""
    if options.turn == "ceiling":
        return {"rates": measure.ceiling(options.device)}
    coarse = options.turn != "float32"
    model, x = make(options, channels_last=coarse)
    if options.turn == "compiled":
        model.terms = torch.compile(model.terms)
    autocast = torch.autocast(options.device, torch.bfloat16)
    turns = []
    for _ in range(WARM_UP + STEPS):
        began = measure.now(options.device)
        with autocast if coarse else contextlib.nullcontext():
            model.training_step(x, 0)
        turns.append(measure.per_step(began, measure.now(options.device), 1))
    return {
        clock: statistics.median(one[clock] for one in turns[WARM_UP:])
        for clock in ("ms", "cpu_ms")
    }


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--setting", choices=SETTINGS, default="small")
    parser.add_argument("--batch", type=int, help="images in a step; by setting and device")
    parser.add_argument("--compile", action="store_true", help="also compiled")
    parser.add_argument("--matmul-precision", default="highest", help="of float32 products")
    options = parser.parse_args()
    torch.set_float32_matmul_precision(options.matmul_precision)
    torch.backends.cudnn.allow_tf32 = options.matmul_precision != "highest"
    if options.turn:
        return measure.say(lambda: turn(options), options)

    batch = options.batch or SETTINGS[options.setting][1][options.device]
    names = ["float32", "bfloat16", *["compiled"] * options.compile]
    said = measure.take_turns(__file__, [*names, "ceiling"], options.rounds)
    rates = [one["rates"] for one in said.pop("ceiling")]
    ceiling = {name: round(statistics.median(r[name] for r in rates)) for name in rates[0]}
    found = measure.compare(said, batch, "float32")
    work = batch * flops(options)
    for name, of in found.items():
        of["gflops"] = float(f"{work / of['ms']['median'] / 1e6:.4g}")
        most = ceiling[options.matmul_precision if name == "float32" else "bfloat16"]
        of["share_of_ceiling"] = float(f"{of['gflops'] / most:.3g}")
    print(measure.lines(found).replace("times bare", "times float32"))
    print(
        f"{options.setting}: {work / batch / 1e9:.3g} GFLOP an image, batches of {batch}; GFLOP/s:"
    )
    for name, of in found.items():
        print(f"{name:>12}: {of['gflops']:.5g}, {of['share_of_ceiling']:.1%} of a matrix product's")
    print(f"matrix products: {ceiling}")
    facts = {
        "machine": measure.machine(options.device, options.threads, ("lit-gen", "torch")),
        "options": {
            "setting": options.setting,
            "rounds": options.rounds,
            "matmul_precision": options.matmul_precision,
        },
        "batch": batch,
        "gflop_per_image": float(f"{work / batch / 1e9:.4g}"),
        "ceiling_gflops": ceiling,
        "contenders": found,
    }
    if options.write:
        measure.write(f"iaf_{options.setting}_{options.device}", facts)
    return None


if __name__ == "__main__":
    sys.exit(main())
