"""How often verdicts err, by simulation: the table in docs/verdicts.md.

    python tests/benchmarks/error_rates.py [--draws 4000]

Each row draws our runs and the paper's from known distributions and asks how often a verdict says
what is not so: "reproduced" or "beyond" (better, worse) where the true difference is the margin, on
the side where it errs more often. The last column is what is gained: "reproduced" at a true match.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from sys import path

import numpy as np

path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulated import CLAIM, runs

from lit_gen.harness.verdicts import statistics, verdict
from lit_gen.harness.verdicts.sequential import Plan

Draw = Callable[[np.random.Generator, int], np.ndarray]
NORMAL: Draw = lambda r, n: r.normal(size=n)  # noqa: E731
SKEWED: Draw = lambda r, n: r.exponential(size=n) - 1  # noqa: E731
TWO_KINDS: Draw = lambda r, n: np.where(r.random(n) < 0.2, 2.0, -0.5) + 0.1 * r.normal(size=n)  # noqa: E731


def row(
    name: str, draws: int, n: int, m: int, draw: Draw = NORMAL, known: bool = True,
    statistic: str = "mean", margin: float = 2.0, plan: bool = False, ratio: float = 1.0,
) -> str:  # fmt: skip
    """One line of the table; distances are in standard deviations of the paper's runs."""
    random = np.random.default_rng(0)
    of = {"mean": np.mean, "median": np.median, "best": np.min}[statistic]
    rates = {}
    for shift in (0.0, margin, -margin):
        words = []
        for _ in range(draws):
            theirs = draw(random, m)
            claim = replace(
                CLAIM, value=float(of(theirs)), runs=m, margin=margin, statistic=statistic,
                spread=float(theirs.std()) if known and m > 1 else None,
            )  # fmt: skip
            sample = runs(ratio * draw(random, n) + shift)
            if plan:
                sample = [Plan(0, n).stamp(r) for r in sample]
                looks = (verdict.judge(claim, sample[:k]).status for k in range(2, n + 1))
                words.append(next((w for w in looks if w != "inconclusive"), "inconclusive"))
            else:
                words.append(verdict.judge(claim, sample).status)
        rates[shift] = {w: words.count(w) / draws for w in {*words}}
    edges = rates[margin], rates[-margin]
    beyond = max(edges[0].get("worse", 0), edges[1].get("better", 0))
    cells = [
        f"{100 * max(edge.get('reproduced', 0) for edge in edges):.1f}",
        f"{100 * beyond:.1f}",
        f"{100 * rates[0.0].get('reproduced', 0):.0f}",
    ]
    return f"| {name} | {n} | {m} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=4000)
    draws = parser.parse_args().draws
    statistics.RESAMPLES = 1000  # of a bootstrap; the real number changes no rate by a percent
    verdict._power = lambda claim, found: (None, [])  # costly, and not what is asked here
    print("| runs are | ours | the paper's | reproduced at the margin | beyond at the margin "
          "| reproduced at a match |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for n in (2, 3, 5, 10):
        print(row("normal", draws, n, 10), flush=True)
    print(row("normal, ours scatter three times as much", draws, 10, 10, ratio=3.0, margin=4.0))
    print(row("normal, the paper's spread unknown", draws, 5, 10, known=False))
    print(row("normal, one run of the paper", draws, 5, 1, known=False, margin=4.0))
    print(row("exponential", draws, 5, 10, SKEWED))
    print(row("exponential", draws, 10, 10, SKEWED))
    print(row("of two kinds, one in five far off", draws, 10, 10, TWO_KINDS))
    for n in (5, 10):
        name = "exponential, the paper's spread unknown"
        print(row(name, draws, n, 10, SKEWED, known=False), flush=True)
    print(row("of two kinds, the paper's spread unknown", draws, 10, 10, TWO_KINDS, known=False))
    print(row("normal, a look after each of them, with a plan", draws // 4, 10, 10, plan=True))
    for kind, draw in (("normal", NORMAL), ("exponential", SKEWED), ("of two kinds", TWO_KINDS)):
        print(row(f"{kind}, median", draws // 4, 10, 10, draw, statistic="median"), flush=True)
        print(row(f"{kind}, best", draws // 4, 12, 10, draw, statistic="best"), flush=True)


if __name__ == "__main__":
    main()
