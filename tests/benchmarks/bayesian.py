"""What the Bayesian network's written-out gradients save, beside torch's autograd.

    python tests/benchmarks/bayesian.py [--rounds 5] [--sizes 3-32-2,26-32-20] [--dtype float64]

Both sides are the same mathematics on the same network, which is checked before anything is timed;
they take turns, a process each, with one thread. "fit" is 500 updates on 10 examples with 10 draws,
"gain" the information gain of 5,000 transitions with 10 draws. Quoted are milliseconds of CPU time
(medians) and ratios within a round. Autograd's side draws its updates' noise at once, too, has
torch's fused Adam, and gets each transition's gradient by vmap, as many at a time as is fastest.
"""

import argparse
import os
from collections.abc import Callable, Sequence

import measure
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from lit_gen.nn.bayesian import BayesianNetwork

SIZES = "3-32-2,26-32-20,26-64-64-20"
UPDATES, BATCH, SAMPLES, TRANSITIONS = 500, 10, 10, 5000
AT_A_TIME = 500  # transitions; 100 were slower, and 1,000 with 26-64-64-20


def fit(net: BayesianNetwork, x: Tensor, y: Tensor) -> None:
    """`BayesianNetwork.fit` by autograd; x is (U, B, inputs)."""
    parameters = [net.mu, net.rho]
    optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True)
    noises = net.noise(len(x), SAMPLES).unsqueeze(2)
    for t, (a, b, eps) in enumerate(zip(x, y, noises, strict=True), start=1):
        loss = net.kl() / 5 + net.nll(net(a, eps), b).sum() / SAMPLES
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["eps"] = 1e-8 / (1 - 0.999**t) ** 0.5  # beside the biased root
        optimizer.step()


def gain(net: BayesianNetwork, x: Tensor, y: Tensor, noise: Tensor | None = None) -> Tensor:
    """`BayesianNetwork.information_gain` by autograd, (N,)."""
    noise = net.noise(len(x), SAMPLES) if noise is None else noise
    named = {name: p.detach() for name, p in net.named_parameters()}

    def loss(given: dict[str, Tensor], a: Tensor, b: Tensor, eps: Tensor) -> Tensor:
        return net.nll(functional_call(net, given, (a, eps)), b).mean()

    of_each = vmap(grad(loss), (None, 0, 0, 0), chunk_size=AT_A_TIME)
    g = of_each(named, x, y, noise)
    sigma, rise = net.sigma.detach(), net.rho.detach().sigmoid()
    by_mu, by_rho = g["mu"].square() @ sigma**2, g["rho"].square() @ (sigma / rise) ** 2
    return 0.01**2 * (by_mu + by_rho / 2)


def case(size: str, dtype: torch.dtype) -> tuple[BayesianNetwork, Tensor, Tensor]:
    """A network, and (U, B, ...) examples; all the same for both sides."""
    inputs, *hidden, outputs = map(int, size.split("-"))
    torch.manual_seed(0)
    net = BayesianNetwork(inputs, outputs, hidden).to(dtype)
    x = torch.randn(UPDATES, BATCH, inputs, dtype=dtype)
    return net, x, torch.randn(UPDATES, BATCH, outputs, dtype=dtype)


def check(size: str, updates: int = 20) -> None:
    """Both sides come to the same, in float64.

    Raises:
        AssertionError: they do not.
    """
    nets = [case(size, torch.float64) for _ in range(2)]
    for (net, x, y), side in zip(nets, (BayesianNetwork.fit, fit), strict=True):
        torch.manual_seed(1)
        side(net, x[:updates], y[:updates])
    (net, x, y), (other, *_) = nets
    torch.testing.assert_close(torch.stack([net.mu, net.rho]), torch.stack([other.mu, other.rho]))
    noise = net.noise(BATCH, SAMPLES)
    torch.testing.assert_close(
        net.information_gain(x[0], y[0], noise=noise), gain(net, x[0], y[0], noise)
    )


def clocked(work: Callable[[], None]) -> float:
    """Milliseconds of CPU time, which hardly depends on what else the machine does."""
    began = measure.now("cpu")
    work()
    return measure.per_step(began, measure.now("cpu"), 1)["cpu_ms"]


def turn(name: str, sizes: Sequence[str], dtype: torch.dtype) -> measure.Turn:
    fitted, gained = {
        "ours": (BayesianNetwork.fit, BayesianNetwork.information_gain),
        "autograd": (fit, gain),
    }[name]
    said = {}
    for size in sizes:
        net, x, y = case(size, dtype)
        a, b = x.flatten(0, 1)[:TRANSITIONS], y.flatten(0, 1)[:TRANSITIONS]
        fitted(net, x[:20], y[:20])  # warms up
        gained(net, a[:AT_A_TIME], b[:AT_A_TIME])
        said[f"fit {size}"] = clocked(lambda: fitted(net, x, y))  # noqa: B023
        said[f"gain {size}"] = clocked(lambda: gained(net, a, b))  # noqa: B023
    return said


def parser() -> argparse.ArgumentParser:
    made = measure.parser(__doc__.splitlines()[0])
    made.set_defaults(rounds=5, threads=1)
    made.add_argument("--sizes", default=SIZES, help="inputs-hidden-...-outputs, with commas")
    made.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    return made


def main() -> None:
    options = parser().parse_args()
    sizes = options.sizes.split(",")
    if options.turn:
        dtype = getattr(torch, options.dtype)
        measure.say(lambda: turn(options.turn, sizes, dtype), options)
        return
    for size in sizes:
        check(size)
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(options.threads))
    said = measure.take_turns(__file__, ("ours", "autograd"), options.rounds)
    for what in (f"{kind} {size}" for size in sizes for kind in ("fit", "gain")):
        ours, theirs = ([t[what] for t in said[name]] for name in ("ours", "autograd"))
        ratio = measure.summary([b / a for a, b in zip(ours, theirs, strict=True)])
        print(
            f"{what:>17}: {measure.summary(ours)['median']:.4g} ms, "
            f"autograd {measure.summary(theirs)['median']:.4g} ms, "
            f"{ratio['median']:.1f} [{ratio['min']:.1f}, {ratio['max']:.1f}] times ours"
        )
    for name, turns in said.items():
        print(f"peak memory of {name}: {max(t['peak_memory_mb'] for t in turns)} MB")


if __name__ == "__main__":
    main()
