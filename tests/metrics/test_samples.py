"""torchmetrics' classes with the official numbers: whatever the batches, processes and seeds."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from inception_like import Small, images
from processes import run_in

from lit_gen.metrics import distances
from lit_gen.metrics.errors import MetricError
from lit_gen.metrics.inception_score import inception_score
from lit_gen.metrics.samples import (
    FrechetInceptionDistance,
    InceptionScore,
    KernelInceptionDistance,
    PrecisionRecall,
)

pytestmark = pytest.mark.filterwarnings("ignore:Metric .* will save all extracted features")
FAKE, REAL = images(101), images(90, seed=1)


def measured(rows: torch.Tensor | slice = slice(None), index: bool = False) -> dict[str, list]:
    """All metrics of those rows of FAKE and REAL, in batches; with or without their numbers."""
    network = Small()
    metrics = {
        "fid": FrechetInceptionDistance(network),
        "kid": KernelInceptionDistance(network, subsets=7, subset_size=40),
        "prc": PrecisionRecall(network),
        "is": InceptionScore(network, splits=10),
        "biased": InceptionScore(network, splits=10, bias=True),
    }
    numbers, ours = torch.arange(101)[rows], torch.arange(90)[rows]
    for part in numbers.split(13):
        given = {"index": part} if index else {}
        metrics["fid"].update(FAKE[part], real=False)
        for name in ("kid", "prc"):
            metrics[name].update(FAKE[part], real=False, **given)
        for name in ("is", "biased"):
            metrics[name].update(FAKE[part], **given)
    for part in ours.split(17):
        metrics["fid"].update(REAL[part], real=True)
        for name in ("kid", "prc"):
            metrics[name].update(REAL[part], real=True, **({"index": part} if index else {}))
    found = {name: metric.compute() for name, metric in metrics.items()}
    return {n: [float(v) for v in (x if isinstance(x, tuple) else (x,))] for n, x in found.items()}


def test_classes_give_the_numbers_of_the_pure_functions() -> None:
    network = Small()
    fake, real = network(FAKE).numpy(), network(REAL).numpy()
    found = measured()

    fid = distances.fid(distances.statistics(fake), distances.statistics(real))
    assert found["fid"][0] == pytest.approx(fid, rel=1e-9)
    assert found["kid"] == list(distances.kid(fake, real, 7, 40))
    assert found["prc"] == list(distances.precision_recall(fake, real))
    assert found["is"] == list(inception_score(network.logits(fake))[:2])
    assert found["biased"] == list(inception_score(network.logits(fake, bias=True))[:2])
    assert found["is"] != found["biased"]


def shares() -> list[dict[str, list]]:
    """A process's share as a sampler deals it out, 51 and 50 samples; and 91 and 10, numbered."""
    rank = dist.get_rank()
    lopsided = slice(None, 10) if rank else slice(10, None)
    return [measured(slice(rank, None, 2)), measured(lopsided, index=True)]


def test_two_processes_give_the_numbers_of_one() -> None:
    whole = measured()

    for one in run_in(2, shares):
        for found in one:
            for name, values in whole.items():
                assert found[name] == pytest.approx(values, rel=1e-9, abs=1e-12), name


def test_the_order_of_arrival_does_not_count_but_that_of_generation_does() -> None:
    shuffled = torch.randperm(101, generator=torch.Generator().manual_seed(3))
    metric, other = InceptionScore(Small()), InceptionScore(Small())
    metric.update(FAKE[shuffled], shuffled)
    other.update(FAKE[shuffled])

    assert float(metric.compute()[0]) == measured()["is"][0]
    assert float(other.compute()[0]) != measured()["is"][0]


def test_a_sample_that_comes_twice_is_refused() -> None:
    metric = InceptionScore(Small())
    metric.update(FAKE[:20], torch.arange(20) % 19)

    with pytest.raises(MetricError, match="sample 0 came twice"):
        metric.compute()


def test_without_logits_there_is_no_inception_score() -> None:
    with pytest.raises(MetricError, match="not measurable here: no last layer"):
        InceptionScore(Small("no last layer"))


def test_too_few_images_are_said() -> None:
    fid, kid = FrechetInceptionDistance(Small()), KernelInceptionDistance(Small())
    for metric in (fid, kid):
        metric.update(REAL, real=True)
        metric.update(FAKE[:1], real=False)

    with pytest.raises(MetricError, match="2 fake images or more, and has 1"):
        fid.compute()
    with pytest.raises(MetricError, match="KID needs 1,000 images"):
        kid.compute()


def test_a_new_set_of_samples_starts_at_nothing() -> None:
    metric = InceptionScore(Small())
    metric.update(REAL)
    metric.compute()
    metric.reset()
    metric.update(FAKE)

    np.testing.assert_equal([float(v) for v in metric.compute()], measured()["is"])
