"""FID, KID, precision and recall: closed forms, toy sets that tell them apart, torch-fidelity."""

import numpy as np
import pytest

from lit_gen.metrics import distances
from lit_gen.metrics.errors import MetricError

RNG = np.random.RandomState(0)


def correlated(n: int, dims: int = 24, seed: int = 0) -> np.ndarray:
    """float32 features with means off 0 and unequal variances."""
    rng = np.random.RandomState(seed)
    mixing = np.random.RandomState(99).randn(dims, dims)
    return (rng.randn(n, dims) @ mixing + rng.rand(dims)).astype(np.float32)


def test_statistics_are_numpys_whatever_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    features = correlated(101)
    monkeypatch.setattr(distances, "ROWS", 7)

    found = distances.statistics(features)

    np.testing.assert_allclose(found.mean, features.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features.astype(float).T), rtol=1e-10)
    assert found.n == 101


def test_fid_of_gaussians_with_commuting_covariances_is_their_closed_form() -> None:
    turn = np.linalg.qr(RNG.randn(5, 5))[0]
    a, b = np.array([1.0, 4, 9, 16, 25]), np.array([4.0, 1, 1, 9, 36])
    ours = distances.Statistics(np.zeros(5), turn @ np.diag(a) @ turn.T, 9)
    theirs = distances.Statistics(np.full(5, 2.0), turn @ np.diag(b) @ turn.T, 9)

    # 5 x 2^2, and the squared differences of standard deviations 1 2 3 4 5 and 2 1 1 3 6
    assert distances.fid(ours, theirs) == pytest.approx(20 + 1 + 1 + 4 + 1 + 1, abs=1e-9)
    assert distances.fid(ours, ours) == pytest.approx(0, abs=1e-9)


def test_kid_is_the_mean_over_pairs_spelt_out() -> None:
    x, y = correlated(13, 4), correlated(11, 4, seed=1)

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a.astype(float) @ b.astype(float)) / 4 + 1) ** 3

    within = sum(
        np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])
        for z in (x, y)
    )
    between = np.mean([k(a, b) for a in x for b in y])

    assert distances.kid_of_all(x, y) == pytest.approx(within - 2 * between, rel=1e-10)


def test_kid_of_subsets_scatters_about_that_of_all_and_does_not_hear_the_global_seed() -> None:
    x, y = correlated(400), correlated(400, seed=1) + np.float32(0.5)
    np.random.seed(1)
    mean, std = distances.kid(x, y, subsets=50, size=100)
    np.random.seed(2)

    assert distances.kid(x, y, subsets=50, size=100) == (mean, std)
    assert distances.kid(x, y, subsets=50, size=100, seed=1) != (mean, std)
    assert abs(mean - distances.kid_of_all(x, y)) < 4 * std / 50**0.5


def test_precision_falls_with_samples_off_the_data_and_recall_with_modes_left_out() -> None:
    modes = np.array([[0.0, 0], [100, 0]])
    real = np.concatenate([m + RNG.randn(200, 2) for m in modes])
    one_mode = modes[0] + 0.5 * RNG.randn(200, 2)
    also_wrong = np.concatenate([one_mode, RNG.randn(200, 2) + np.array([0, 1000])])

    precision, recall = distances.precision_recall(one_mode, real)
    half, _ = distances.precision_recall(also_wrong, real)

    assert precision > 0.95
    assert recall < 0.5
    assert half == pytest.approx(precision / 2)
    assert distances.precision_recall(real, real) == (1, 1)


def test_precision_counts_the_neighbour_that_it_says() -> None:
    real = np.array([[0.0], [1], [3], [7]])  # reach: 1 1 2 4 with one neighbour, 3 2 3 6 with two
    far = np.full((1, 1), 99.0)

    def among(point: float, neighbours: int) -> float:
        samples = np.concatenate([far, [[point]], far])
        return distances.precision_recall(samples, real, neighbours)[0] * 3

    assert among(-0.9, 1) == pytest.approx(1)
    assert among(-1.1, 1) == 0
    assert among(-2.9, 2) == pytest.approx(1)
    assert among(10.9, 1) == pytest.approx(1)
    assert among(11.1, 1) == 0


def test_all_agree_with_torch_fidelity() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch_fidelity")
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    x, y = correlated(500), correlated(600, seed=1) * np.float32(1.1)
    theirs = [torch.from_numpy(features) for features in (x, y)]
    fid = metric_fid.fid_statistics_to_metric(
        *map(metric_fid.fid_features_to_statistics, theirs), verbose=False
    )
    kid = metric_kid.kid_features_to_metric(
        *theirs, kid_subset_size=200, kid_subsets=20, verbose=False
    )
    prc = metric_prc.prc_features_to_metric(*theirs, verbose=False)

    ours = distances.fid(distances.statistics(x), distances.statistics(y))
    assert ours == pytest.approx(fid["frechet_inception_distance"], rel=1e-6)
    mean, std = distances.kid(x, y, subsets=20, size=200)
    assert mean == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-5)
    assert std == pytest.approx(kid["kernel_inception_distance_std"], rel=1e-5)
    precision, recall = distances.precision_recall(x, y)
    assert precision == pytest.approx(prc["precision"], abs=1e-6)
    assert recall == pytest.approx(prc["recall"], abs=1e-6)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: distances.statistics(x[:1]), "needs 2 images or more.* has 1"),
        (lambda x: distances.kid(x, x, size=200), "KID needs 200 images or more.* has 101"),
        (lambda x: distances.precision_recall(x[:3], x), "needs 4 images or more.* has 3"),
        (lambda x: distances.statistics(x.ravel()), r"\(2424,\), not \(N, D\)"),
        (lambda x: distances.kid_of_all(np.where(x > 1, np.nan, x), x), "not finite"),
        (
            lambda x: distances.fid(distances.statistics(x), distances.statistics(x[:, :3])),
            "24 and 3 dimensions",
        ),
    ],
)
def test_what_cannot_be_measured_is_said(call, said: str) -> None:
    with pytest.raises(MetricError, match=said):
        call(correlated(101))
