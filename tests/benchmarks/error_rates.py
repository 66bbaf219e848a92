"""How often verdicts err, by simulation: the table in docs/verdicts.md.

    python tests/benchmarks/error_rates.py [--draws 4000] [--orders]

Each row draws our runs and the paper's from known distributions and asks how often a verdict says
what is not so: "reproduced" or "beyond" (better, worse) where the true difference is the margin, on
the side where it errs more often. The last column is what is gained: "reproduced" at a true match.
A second table is about orders between two settings of ours: "reproduced" or "worse" where there is
no difference, and "reproduced" where there is one.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from sys import path

import numpy as np

path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulated import CLAIM, run, runs

from lit_gen.harness.spec import Order
from lit_gen.harness.verdicts import orders, statistics, verdict
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


ORDER = Order(
    "above", "test/errors", "one", "other", better="higher", statistic="median", select="last",
    runs=10, id="", where="", row="", evidence="text",
)  # fmt: skip
HALF: Draw = lambda r, n: 0.9 * (r.random(n) < 0.5) + 0.02 * r.normal(size=n)  # noqa: E731
ALWAYS: Draw = lambda r, n: 0.9 + 0.02 * r.normal(size=n)  # noqa: E731
NINE: Draw = lambda r, n: 0.9 * (r.random(n) < 0.9) + 0.02 * r.normal(size=n)  # noqa: E731
NEVER: Draw = lambda r, n: np.zeros(n)  # noqa: E731


def order_row(
    name: str, draws: int, n: int, m: int, one: Draw, other: Draw, better: Draw,
    statistic: str = "median",
) -> str:  # fmt: skip
    """One line of the second table.

    Args:
        one, other: two settings without a difference.
        better: what is better than the other.
    """
    random, order = np.random.default_rng(0), replace(ORDER, statistic=statistic)

    def status(ours: Draw) -> str:
        sides = {"one": ours(random, n), "other": other(random, m)}
        records = [
            run(seed, float(x), setting=s, curve=[seed, float(x)])
            for s, values in sides.items()
            for seed, x in enumerate(values, 1)
        ]
        return orders.judge(order, records).status

    wrong = [status(one) for _ in range(draws)]
    right = [status(better) for _ in range(draws // 4)]
    rates = [100 * wrong.count(word) / draws for word in ("reproduced", "worse")]
    shown = 100 * right.count("reproduced") / len(right)
    return f"| {name} | {n} | {m} | {rates[0]:.1f} | {rates[1]:.1f} | {shown:.0f} |"


def print_orders(draws: int) -> None:
    print("| runs are | of the one | of the other | reproduced without a difference "
          "| worse without one | reproduced where it is better |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    shifted: Draw = lambda r, n: r.normal(2, 1, n)  # noqa: E731
    wider: Draw = lambda r, n: r.normal(0, 3, n)  # noqa: E731
    raised: Draw = lambda r, n: r.exponential(size=n) + 1  # noqa: E731
    kinds = (
        ("normal; better by 2 standard deviations", NORMAL, NORMAL, shifted),
        ("normal, the one scatters three times as much; better by 2", wider, NORMAL, shifted),
        ("exponential; better by 2 standard deviations", SKEWED, SKEWED, raised),
        ("half near 0, half near 0.9; better: all near 0.9", HALF, HALF, ALWAYS),
        ("all exactly 0; better: nine in ten near 0.9", NEVER, NEVER, NINE),
    )
    for name, one, other, better in kinds:
        for n, m in ((5, 5), (10, 10), (5, 10)):
            print(order_row(name, draws, n, m, one, other, better), flush=True)
    for n in (3, 10):
        name = "normal, means; better by 2 standard deviations"
        print(order_row(name, draws, n, n, NORMAL, NORMAL, shifted, "mean"), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--orders", action="store_true", help="only the second table")
    options = parser.parse_args()
    draws = options.draws
    statistics.RESAMPLES = 1000  # of a bootstrap; the real number changes no rate by a percent
    if options.orders:
        return print_orders(draws // 4)
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
    print()
    print_orders(draws // 4)


if __name__ == "__main__":
    main()
