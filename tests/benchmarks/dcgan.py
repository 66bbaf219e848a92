"""What a minibatch of DCGAN costs, beside the fastest that the device multiplies.

    python tests/benchmarks/dcgan.py [--setting svhn] [--device cuda] [--write]

A minibatch updates one network; timed are pairs of them, one update of each, on random images:

    float32    as a reproduction is written
    bfloat16   convolutions and products in bfloat16 on images that lie channels last

They take turns, each in a process of its own. The work of a step is what torch counts of its
convolutions and products; it is held against a large matrix product.
"""

import argparse
import contextlib
import statistics
import sys
from typing import Any

import measure
import torch
from torch.utils.flop_counter import FlopCounterMode

from lit_gen.papers.dcgan import DCGAN, AlternatingGAN, ConditionalDCGAN

WARM_UP, PAIRS = 2, 6
SIDES = {"mnist": 28, "svhn": 32, "imagenet32": 32, "64": 64}
BATCHES = {"mnist": 128, "svhn": 64, "imagenet32": 128, "64": 128}  # those of the reproductions


def make(options: argparse.Namespace, channels_last: bool = False) -> tuple[AlternatingGAN, Any]:
    """The model and a batch."""
    torch.manual_seed(1)
    mnist, side, n = options.setting == "mnist", SIDES[options.setting], BATCHES[options.setting]
    model = ConditionalDCGAN() if mnist else DCGAN(options.setting)
    x = torch.rand(n, 1 if mnist else 3, side, side)
    form = torch.channels_last if channels_last else torch.contiguous_format
    model, x = (it.to(options.device, memory_format=form) for it in (model, x))
    optimizers = model.configure_optimizers()
    model.optimizers = lambda: optimizers
    model.manual_backward = lambda loss: loss.backward()
    return model, (x, torch.arange(n, device=options.device) % 10)


def pair(model: AlternatingGAN, batch: Any) -> None:
    """An update of each network."""
    for _ in range(2):
        model.training_step(batch, 0)


def flops(options: argparse.Namespace) -> int:
    """Floating-point operations of a pair."""
    model, batch = make(argparse.Namespace(setting=options.setting, device="cpu"))
    with FlopCounterMode(display=False) as counter:
        pair(model, batch)
    return counter.get_total_flops()


def turn(options: argparse.Namespace) -> measure.Turn:
    """Milliseconds of a minibatch, the median of `PAIRS`."""
    if options.turn == "ceiling":
        return {"rates": measure.ceiling(options.device), "flops": flops(options)}
    coarse = options.turn == "bfloat16"
    model, batch = make(options, channels_last=coarse)
    autocast = torch.autocast(options.device, torch.bfloat16)
    turns = []
    for _ in range(WARM_UP + PAIRS):
        began = measure.now(options.device)
        with autocast if coarse else contextlib.nullcontext():
            pair(model, batch)
        turns.append(measure.per_step(began, measure.now(options.device), 2))
    return {
        clock: statistics.median(one[clock] for one in turns[WARM_UP:])
        for clock in ("ms", "cpu_ms")
    }


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--setting", choices=SIDES, default="mnist")
    options = parser.parse_args()
    if options.turn:
        return measure.say(lambda: turn(options), options)

    said = measure.take_turns(__file__, ["float32", "bfloat16", "ceiling"], options.rounds)
    ceilings = said.pop("ceiling")
    rates = {n: round(statistics.median(c["rates"][n] for c in ceilings))
             for n in ceilings[0]["rates"]}  # fmt: skip
    batch, work = BATCHES[options.setting], ceilings[0]["flops"] / 2
    found = measure.compare(said, batch, "float32")
    for name, of in found.items():
        of["gflops"] = float(f"{work / of['ms']['median'] / 1e6:.4g}")
        most = rates["highest" if name == "float32" else "bfloat16"]
        of["share_of_ceiling"] = float(f"{of['gflops'] / most:.3g}")
    print(measure.lines(found).replace("times bare", "times float32"))
    print(f"{options.setting}: {work / 1e9:.3g} GFLOP a minibatch of {batch}; GFLOP/s:")
    for name, of in found.items():
        print(f"{name:>12}: {of['gflops']:.5g}, {of['share_of_ceiling']:.1%} of a matrix product's")
    print(f"matrix products: {rates}")
    if options.write:
        facts = {
            "machine": measure.machine(options.device, options.threads, ("lit-gen", "torch")),
            "options": {"setting": options.setting, "rounds": options.rounds},
            "batch": batch,
            "gflop_per_minibatch": float(f"{work / 1e9:.4g}"),
            "ceiling_gflops": rates,
            "contenders": found,
        }
        measure.write(f"dcgan_{options.setting}_{options.device}", facts)
    return None


if __name__ == "__main__":
    sys.exit(main())
