"""What is measured of a model's samples when a run ends.

    memorisation    do the samples copy training images? See lit_gen/harness/nearest.py
    proxies         metrics of the reproduction's that compare two sets of images, as in

                        metrics: {proxy/c2st_accuracy_percent: lit_gen.metrics.two_sample.TwoSample}

                    Such a class has `images`, how many of each set it asks for, and
                    `compare(real, generated)`, which returns numbers by their names
    quality         metrics that draw samples themselves, as in

                        metrics: {samples: lit_gen.metrics.sample_quality.OfSamples}

                    Such a class has `names` and `judge(sample, data, most, progress)`, which
                    returns numbers, notes, ids and arrays by name

The first two go into `result.beside` and are no claims. Quality is of the final test: it goes into
`result.metrics`, and its arrays to the predictions. All need a model with `sample` and data with
`images`. Where they fail the run is as good: `provenance.not_beside` says why they are missing.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from lit_gen.harness import nearest
from lit_gen.harness.record import Record, write_atomically
from lit_gen.harness.schema import LARGEST_NUMBER
from lit_gen.harness.spec import Spec
from lit_gen.harness.verdicts import certificate
from lit_gen.harness.watch import at_rest

SMOKE = 100  # images of each set that a metric gets in a smoke run
TOLERANCE = 1e-3  # by which a sample may leave [0, 1], as rounding does
EVERY = 30.0  # seconds between two words about progress

Numbers = Mapping[str, float]


def measure(
    record: Record,
    spec: Spec,
    model: pl.LightningModule,
    data: pl.LightningDataModule,
    path: Path,
) -> dict[str, np.ndarray]:
    """Adds what can be measured to the record, and draws the nearest training images.

    Args:
        spec: whose metrics.
        path: of that picture.

    Returns:
        Arrays that scores can be computed from again.
    """
    path.unlink(missing_ok=True)  # of an earlier try
    record.result.pop("beside", None)
    record.provenance.pop("not_beside", None)
    if not hasattr(model, "sample") or not hasattr(data, "images"):
        return {}
    _keep(record, "memorisation", partial(memorisation, model, data, path))
    return judged(record, spec, model, data, SMOKE if record.smoke else None)


def judged(
    record: Record,
    spec: Spec,
    model: pl.LightningModule,
    data: pl.LightningDataModule,
    most: int | None,
) -> dict[str, np.ndarray]:
    """Adds what the reproduction's metrics say of samples, or why they say nothing.

    Args:
        most: a metric gets at most so many images of each set; None gives it all it asks for.

    Returns:
        Arrays that scores can be computed from again.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, metric in asked(spec).items():
        if hasattr(metric, "compare"):
            _keep(record, name, partial(compared, model, data, metric, most))
        else:
            arrays |= quality(record, model, data, metric, most)
    return arrays


def asked(spec: Spec) -> dict[str, Any]:
    """The reproduction's metrics of samples."""
    all_of_them = {name: certificate.metric(spec, name) for name in spec.metrics}
    return {n: m for n, m in all_of_them.items() if hasattr(m, "compare") or hasattr(m, "judge")}


def quality(
    record: Record,
    model: pl.LightningModule,
    data: pl.LightningDataModule,
    metric: Any,
    most: int | None,
) -> dict[str, np.ndarray]:
    """Adds what a metric says of samples to the final test's numbers, or why there are none."""
    try:
        found = metric.judge(
            partial(_samples, model, images=data.images("test")), data, most, _Told()
        )
        _bounded(found.numbers)
    except Exception as error:  # of a user's own model, data or metric, too
        _excuse(record, dict.fromkeys(metric.names, _sentence(error)))
        return {}
    _excuse(record, found.notes)
    record.result["metrics"] |= {name: float(value) for name, value in found.numbers.items()}
    record.result.setdefault("metric_ids", {}).update(found.ids)
    return found.arrays


class _Told:
    """Says now and then how far it is; drawing samples' features takes an hour on a CPU."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, what: str, done: int, of: int) -> None:
        if time.monotonic() - self.last > EVERY:
            self.last = time.monotonic()
            print(f"  {what}: {done:,} of {of:,}", flush=True)


def _sentence(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _bounded(numbers: Numbers) -> None:
    """
    Raises:
        ValueError: one is too large for a record, or none at all.
    """
    for name, value in numbers.items():
        if not abs(value) <= LARGEST_NUMBER:
            raise ValueError(f"{name} is {value}")


def _excuse(record: Record, why: Mapping[str, str]) -> None:
    """Says why numbers are missing, by their names; where this user's folders are is left out, as
    records are published."""
    if why:
        for name in ("LIT_GEN_CACHE", "LIT_GEN_DATA", "HOME"):
            folder = f"{Path(os.environ.get(name) or '/').absolute()}/"
            if folder != "//":
                why = {key: text.replace(folder, f"${name}/") for key, text in why.items()}
        record.provenance.setdefault("not_beside", {}).update(why)


def _keep(record: Record, name: str, measured: Callable[[], Numbers]) -> None:
    """Puts numbers into the record, or why there are none."""
    try:
        numbers = {key: float(f"{value:.6g}") for key, value in measured().items()}
        _bounded(numbers)
    except Exception as error:  # of a user's own model, data or metric, too
        _excuse(record, {name: _sentence(error)})
    else:
        record.result.setdefault("beside", {}).update(numbers)


def memorisation(model: pl.LightningModule, data: pl.LightningDataModule, path: Path) -> Numbers:
    """Draws samples beside the training images nearest to them, and measures how near they are.

    Raises:
        ValueError: samples and images cannot be compared.
    """
    train, test = data.images("train"), nearest.spread(data.images("test"), nearest.MEASURED)
    samples = _samples(model, nearest.MEASURED, train)
    count = len(samples)
    found = nearest.search(torch.cat([samples, (test / 255).to(samples)]), train)
    of_samples, of_test = nearest.cut(found, 0, count), nearest.cut(found, count, None)
    write_atomically(path, nearest.panel(of_samples, train))
    known = nearest.distances(of_samples, of_test, train)
    return {
        "memorisation/sample_distance": known.samples,
        "memorisation/test_distance": known.test,
        "memorisation/ratio": known.ratio,
    }


def compared(
    model: pl.LightningModule, data: pl.LightningDataModule, metric: Any, most: int | None
) -> Numbers:
    """What a metric says of test images, as many as it asks for or at most so many, and samples."""
    real = nearest.spread(data.images("test"), min(metric.images, most or metric.images))
    return metric.compare(real, _samples(model, len(real), real))


def _samples(model: pl.LightningModule, n: int, images: Tensor) -> Tensor:
    """Samples (n, C, H, W) in [0, 1], floats, on the images' device; a model that is done may have
    been put elsewhere.

    Raises:
        ValueError: they have not the images' shape, or are not in [0, 1].
    """
    with _on(model, images.device), at_rest(model):
        samples = model.sample(n).detach().float()
    finite = samples.isfinite()
    low, high = (float(x) for x in samples[finite].aminmax()) if finite.any() else (0.0, 1.0)
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise ValueError(
            f"samples lie in [{low:.4g}, {high:.4g}], not in [0, 1]: those of a tanh become so by "
            "(x + 1) / 2"
        )
    samples = samples.clamp(0, 1).masked_fill(~finite, torch.nan)
    if samples.shape[1:] != images.shape[1:]:
        ours, theirs = (tuple(x.shape[1:]) for x in (samples, images))
        raise ValueError(f"samples have the shape {ours}, the data's images {theirs}")
    return samples.to(images.device)


@contextlib.contextmanager
def _on(model: pl.LightningModule, device: torch.device) -> Iterator[None]:
    before = model.device
    model.to(device)
    try:
        yield
    finally:
        model.to(before)
