"""Likelihoods: bounds against closed forms, and sums that do not depend on how they were cut."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from processes import run_in
from torch import Tensor
from torch.distributions import MultivariateNormal

from lit_gen.metrics import bounds
from lit_gen.metrics.likelihood import (
    ActiveUnits,
    LogLikelihood,
    Measured,
    importance_weighted,
    kept,
)
from lit_gen.nn import gaussian

S2 = 0.3  # noise of the linear model below


@pytest.fixture
def linear() -> dict[str, Tensor]:
    """x = W z + mu + noise, z ~ N(0, I): log p(x) and the posterior are known exactly."""
    torch.manual_seed(0)
    w, mu = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    x = mu + w @ torch.randn(3, dtype=torch.float64) + S2**0.5 * torch.randn(8).double()
    precision = torch.eye(3, dtype=torch.float64) + w.T @ w / S2
    mean = torch.linalg.solve(precision, w.T @ (x - mu) / S2)
    covariance = w @ w.T + S2 * torch.eye(8, dtype=torch.float64)
    log_px = MultivariateNormal(mu, covariance).log_prob(x)
    return {"w": w, "mu": mu, "x": x, "A": precision, "mean": mean, "log_px": log_px}


def log_joint(model: dict[str, Tensor], z: Tensor) -> Tensor:
    log_px = gaussian.log_density(
        model["x"], z @ model["w"].T + model["mu"], torch.tensor(S2, dtype=torch.float64).log() / 2
    )
    return log_px.sum(-1) + gaussian.log_density(z).sum(-1)


def log_weights(model: dict[str, Tensor], n: int) -> Tensor:
    """By the best posterior with independent coordinates, (n,)."""
    log_sigma = -0.5 * model["A"].diagonal().log()
    z, log_q = gaussian.sample_with_density(model["mean"].expand(n, 3), log_sigma.expand(n, 3))
    return log_joint(model, z) - log_q.sum(-1)


def test_with_the_true_posterior_every_weight_is_the_likelihood(linear) -> None:
    q = MultivariateNormal(linear["mean"], precision_matrix=linear["A"])
    z = q.sample((100,))
    log_w = log_joint(linear, z) - q.log_prob(z)
    assert log_w.std() < 1e-11
    found = importance_weighted(log_w.unsqueeze(-1).split(7))
    torch.testing.assert_close(found.squeeze(), linear["log_px"])


def test_the_estimate_lies_within_its_error_of_the_likelihood(linear) -> None:
    log_w = log_weights(linear, 200_000)
    found = importance_weighted(log_w.view(1000, 200, 1))
    w = (log_w - linear["log_px"]).exp()
    error = float(w.std() / 200_000**0.5)
    assert error < 0.02
    assert abs(float(found) - float(linear["log_px"])) < 4 * error


def test_the_bound_has_its_closed_form_and_grows_with_samples(linear) -> None:
    log_w = log_weights(linear, 400_000)
    gap = 0.5 * (linear["A"].diagonal().log().sum() - linear["A"].logdet())
    elbo = linear["log_px"] - gap
    assert abs(log_w.mean() - elbo) < 4 * log_w.std() / 400_000**0.5
    means = [
        float(importance_weighted(iter(log_w.view(k, -1).split(10))).mean())
        for k in (1, 2, 5, 10, 50, 500)
    ]
    assert means == sorted(means)
    assert float(elbo) - 0.01 < means[0]
    assert means[-1] < float(linear["log_px"]) + 0.01
    assert means[-1] - means[0] > 0.5 * float(gap)


def test_parts_and_scale_do_not_matter() -> None:
    torch.manual_seed(0)
    log_w = 50 * torch.randn(100, 4).double() - 5000  # exp would be 0
    known = log_w.logsumexp(0) - math.log(100)
    torch.testing.assert_close(importance_weighted(iter(log_w.split(9))), known)
    torch.testing.assert_close(importance_weighted([log_w]), known)
    torch.testing.assert_close(importance_weighted([log_w + 3]), known + 3)
    with pytest.raises(ValueError, match="no log weights"):
        importance_weighted([])


def test_memory_does_not_grow_with_the_samples() -> None:
    """1,000 samples of 784 pixels for 100 images would be .3 GB at once."""
    program = """
import resource, torch
from lit_gen.papers.vae import IWAE
torch.set_num_threads(1)
model, x = IWAE(), torch.rand(100, 784).round()
peaks = []
with torch.no_grad():
    for model.importance_samples in (40, 1000):
        model.measure(x, torch.arange(100))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] - peaks[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    scale = 1024 if sys.platform == "linux" else 1  # bytes elsewhere
    assert int(done.stdout) * scale < 50e6


def examples() -> Tensor:
    """An odd number of them, so that two processes have unequal shares."""
    return torch.randn(1001, generator=torch.Generator().manual_seed(0)) * 30 - 90


@pytest.mark.parametrize("dims", [None, 3072])
def test_the_mean_is_the_same_to_the_bit_for_all_cuts(dims: int | None) -> None:
    values, found = examples(), []
    for size in (1, 7, 100, 1001):
        metric = LogLikelihood(dims)
        for part in values.flip(0).split(size):
            metric.update(part)
        found.append(float(metric.compute()))
    assert len(set(found)) == 1
    of = bounds.MeanLogLikelihood() if dims is None else bounds.BitsPerDim(dims)
    kind = bounds.MeanLogLikelihood if dims is None else bounds.BitsPerDim
    assert found[0] == pytest.approx(of.of({"elbo": kept(values).numpy()}), abs=kind.tolerance)


def of_this_process() -> float:
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    metric = LogLikelihood()
    for part in examples()[rank::size].split(130):
        metric.update(part)
    return float(metric.compute())


def test_two_processes_give_the_number_of_one() -> None:
    alone = LogLikelihood()
    alone.update(examples())
    assert run_in(2, of_this_process) == [float(alone.compute())] * 2


def units_of_this_process() -> float:
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    metric = ActiveUnits(3)
    metric.update(ActiveUnits.sums(UNITS[rank::size]))
    return float(metric.compute())


# Its second unit varies between the processes' shares only, the third by too little
UNITS = torch.tensor([[1.0, 1, 2], [-1, -1, 2.1], [2, 1, 2], [-2, -1, 2.1]])


def test_active_units_are_those_of_all_processes() -> None:
    assert run_in(2, units_of_this_process) == [2, 2]
    metric = ActiveUnits(3)
    for part in UNITS.split(3):
        metric.update(ActiveUnits.sums(part))
    assert float(metric.compute()) == 2


def test_predictions_take_a_test_of_the_same_examples_only() -> None:
    tested, index = Measured(), torch.arange(3)
    tested.put(0, index, {"a": index})
    assert tested.take(0, index + 1) is None
    tested.put(0, index, {"a": index})
    assert tested.take(0, index) == {"a": index}
    assert tested.take(0, index) is None


def test_what_is_not_finite_is_said() -> None:
    metric = LogLikelihood()
    metric.update(torch.tensor([1.0, torch.inf, -torch.inf]))
    assert math.isnan(float(metric.compute()))


def test_a_trivial_model_has_its_code_length() -> None:
    """256 equally likely values are 8 bits each."""
    metric = LogLikelihood(3072)
    metric.update(torch.full((5,), -3072 * math.log(256)))
    assert float(metric.compute()) == pytest.approx(8, abs=1e-6)


def test_what_is_kept_is_near_and_packs() -> None:
    values = examples()
    assert (kept(values) - values).abs().max() <= 2**-11
    assert np.all(kept(values).numpy() * 1024 % 1 == 0)
