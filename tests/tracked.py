"""A record and a verdict to upload, made without training."""

import hashlib

from lit_gen.harness.record import Record
from lit_gen.harness.spec import Claim
from lit_gen.harness.verdicts.verdict import Verdict

DATA = hashlib.sha256(b"data").hexdigest()


def make(epochs: int = 3, status: str = "finished", seed: int = 1, **changes) -> Record:
    ended = {} if status == "running" else {"wall_s": 30.0, "cpu_s": 50.0, "peak_memory_mb": 400}
    start = {"started": "2026-01-02T03:04:05Z", "commit": "abc", "dirty": True, "device": "cpu"}
    made = Record(
        reproduction="paper_table",
        setting="labels_100",
        protocol="release",
        seed={"data": seed, "model": seed},
        config={
            "model": {"class_path": "lit_gen.papers.paper.Model", "init_args": {"lr": 0.003}},
            "data": {"class_path": "lit_gen.datamodules.images.MNIST", "init_args": {"n": [1, 2]}},
            "trainer": {"max_epochs": 4},
        },
        spec_hash=f"{seed:064d}",
        deviations=["pixels are divided by 255.", "4 epochs instead of 300."],
        status=status,
        epochs=epochs,
        max_epochs=4,
        result={
            "curve": {
                "train/loss": [1.0 / (i + 1) for i in range(epochs)],
                "val/errors": [None if i == 1 else 7.0 for i in range(epochs)],
                "test/errors": [float(f"{10.0 / 3 + i:.7g}") for i in range(epochs)],
            }
        },
        provenance={"segments": [start | ended], "data": DATA},
    )
    if status == "finished":
        made.result["metrics"] = {"test/errors": 10.0 / 3 + epochs - 1, "test/nll": 86.4}
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def claim(name: str = "single") -> Claim:
    return Claim(name, "test/errors", "labels_100", value=93.0, spread=6.5, margin=6.5)


def judged(
    mean: float | None, status: str = "reproduced", n: int = 2, name: str = "single", **changes
) -> Verdict:
    low, high = (None, None) if mean is None else (mean - 1, mean + 1)
    return Verdict(
        claim(name), "paper_table", "release", status, f"{name} is {status} over {n} seeds",
        **{"n": n, "mean": mean, "low": low, "high": high} | changes,
    )  # fmt: skip
