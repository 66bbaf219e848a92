"""Fixtures: records like those that training leaves, without training, and a results/ for them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lit_gen.harness import record as records
from lit_gen.harness import store
from lit_gen.harness.record import PREDICTIONS, RECORD, Record
from lit_gen.harness.spec import digest

NAME = "improved_gan_mnist_semisup"
N = 10_000  # examples that the metric asks for
CONFIG = {"model": {"init_args": {"lr": 0.003}}, "trainer": {"max_epochs": 300}}


@pytest.fixture
def run() -> Callable[..., Path]:
    """Makes a run directory with that many errors of 10,000."""

    def make(
        root: Path, seed: int, errors: int, status: str = "finished", smoke: bool = False
    ) -> Path:
        rng = np.random.RandomState(seed)
        target = rng.randint(0, 10, N)
        logits = rng.normal(size=(N, 10)).astype(np.float32)
        logits[np.arange(N), target] = 9
        logits[np.arange(errors), (target[:errors] + 1) % 10] = 11
        done = status == "finished"
        record = Record(
            reproduction=NAME,
            setting="labels_100",
            protocol="release",
            seed={"data": seed, "model": seed},
            config=CONFIG,
            spec_hash=digest(CONFIG | {"seed": {"data": seed, "model": seed}}),
            deviations=[],
            smoke=smoke,
            status=status,
            epochs=2,
            max_epochs=2,
            result={"curve": {"test/errors": [90.0, errors]}}
            | ({"metrics": {"test/errors": float(errors)}} if done else {}),
        )
        folder = root / NAME / record.name
        records.write(folder / RECORD, record)
        if done:
            np.savez_compressed(folder / PREDICTIONS, logits=logits, target=target)
        return folder

    return make


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results/ of this test's own."""
    shipped = store.shipped

    def elsewhere(folder: str) -> Path:
        return tmp_path / "results" if folder == "results" else shipped(folder)

    monkeypatch.setattr(store, "shipped", elsewhere)
    return tmp_path / "results"
