"""Simulated runs for the tests of verdicts and curves."""

import numpy as np

from lit_gen.harness.record import Record
from lit_gen.harness.spec import Claim

CLAIM = Claim(
    "single", "test/errors", "labels_100", value=93.0, spread=6.5, margin=6.5, runs=10,
    spread_over="seeds",
)  # fmt: skip


def run(seed, value=93.0, status="finished", curve=None, val=None, **changes) -> Record:
    """A run with that result; `seed` is a number, or a pair (data, model)."""
    data, model = seed if isinstance(seed, tuple) else (seed, seed)
    curve = list(curve if curve is not None else [value + 100, value])
    columns = {"test/errors": curve, "val/errors": list(val or curve)}
    fields = {
        "reproduction": "toy",
        "setting": "labels_100",
        "protocol": "paper",
        "seed": {"data": data, "model": model},
        "config": {"model": {"init_args": {"lr": 0.003}}, "matmul_precision": "highest"},
        "spec_hash": "0" * 64,
        "deviations": [],
        "status": status,
        "epochs": len(curve),
        "max_epochs": 300,
        "result": {"curve": columns, "metrics": {"test/errors": value}},
    }
    return Record(**fields | changes)


def runs(values) -> list[Record]:
    return [run(seed, float(value)) for seed, value in enumerate(values, 1)]


def with_moments(n, mean, spread):
    """n numbers with exactly this mean and standard deviation."""
    x = np.linspace(-1, 1, n)
    return mean + spread * (x - x.mean()) / x.std(ddof=1)
