"""What an iteration of InfoGAN on MNIST costs: an update of D and Q, then one of G.

    python tests/benchmarks/infogan.py [--threads 1] [--device cuda] [--compile] [--write]

All train the same model on the same random images, Adam included:

    contiguous      as the reproduction is written
    channels_last   weights and images that lie channels last
    compiled        the losses compiled (only with --compile, which takes minutes)

They take turns, each in a process of its own. A reproduction has 5,000 iterations. README's table
has what --threads 2 --compile gives on a CPU.
"""

import argparse
import statistics
import sys

import measure
import torch

from lit_gen.papers.infogan import BATCH, InfoGAN

WARM_UP, STEPS, ITERATIONS = 3, 10, 5000


def make(options: argparse.Namespace, channels_last: bool = False) -> tuple[InfoGAN, torch.Tensor]:
    """The model, which can take steps, and a batch of images."""
    torch.manual_seed(1)
    torch.set_flush_denormal(True)  # as a run has it
    model, x = InfoGAN().to(options.device), torch.rand(BATCH, 1, 28, 28, device=options.device)
    if channels_last:
        model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    optimizers = model.configure_optimizers()
    model.optimizers, model.manual_backward = lambda: optimizers, lambda loss: loss.backward()
    return model, x


def turn(options: argparse.Namespace) -> measure.Turn:
    """Milliseconds of an iteration, the median of `STEPS`."""
    model, x = make(options, channels_last=options.turn == "channels_last")
    if options.turn == "compiled":
        for name in model.compilable:
            setattr(model, name, torch.compile(getattr(model, name)))
    turns = []
    for _ in range(WARM_UP + STEPS):
        began = measure.now(options.device)
        model.training_step(x, 0)
        turns.append(measure.per_step(began, measure.now(options.device), 1))
    return {
        clock: statistics.median(one[clock] for one in turns[WARM_UP:])
        for clock in ("ms", "cpu_ms")
    }


def main() -> None:
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="also compiled")
    options = parser.parse_args()
    if options.turn:
        return measure.say(lambda: turn(options), options)

    names = ["contiguous", "channels_last", *["compiled"] * options.compile]
    found = measure.compare(
        measure.take_turns(__file__, names, options.rounds), BATCH, "contiguous"
    )
    print(measure.lines(found).replace("times bare", "times contiguous"))
    for name, of in found.items():
        minutes = [of[clock]["median"] * ITERATIONS / 60e3 for clock in ("ms", "cpu_ms")]
        print(
            f"{name:>14}: {ITERATIONS} iterations in {minutes[0]:.1f} minutes "
            f"({minutes[1]:.1f} of CPU time)"
        )
    if options.write:
        packages = ("torch", "pytorch-lightning")
        facts = {
            "machine": measure.machine(options.device, options.threads, packages),
            "options": {"rounds": options.rounds, "steps": STEPS},
            "batch": BATCH,
            "contenders": found,
        }
        measure.write(f"infogan_{options.device}", facts)
    return None


if __name__ == "__main__":
    sys.exit(main())
