"""Disentanglement scores: worked out by hand on small designs, and what they must not depend on."""

import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest

from lit_gen.harness.verdicts.certificate import certify
from lit_gen.metrics import disentanglement
from lit_gen.metrics.disentanglement import (
    MIG,
    SAP,
    FactorVAEScore,
    factor_vae_score,
    mig,
    mutual_information,
    sap,
)

SCORES = [mig, sap, factor_vae_score]
SIZES = (3, 6, 8, 8, 8)


def design(*sizes: int, times: int = 1) -> np.ndarray:
    """All combinations of the factors' values, (N, F)."""
    return np.tile(np.indices(sizes).reshape(len(sizes), -1).T, (times, 1))


def noise(n: int, k: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, k))


def noisy(v: np.ndarray, std: float) -> np.ndarray:
    return v + std * noise(*v.shape)


def turned(v: np.ndarray, degrees: float) -> np.ndarray:
    a = np.radians(degrees)
    return (v - v.mean(0)) @ np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


# What all scores have in common


@pytest.mark.parametrize("score", SCORES)
def test_codes_that_are_the_factors_are_perfect(score: Callable) -> None:
    v = design(4, 6, 8)

    assert score(v, v) == pytest.approx(1)
    assert score(noisy(3 - 2 * v[:, [2, 0, 1]], 1e-3), v, **one_bin(score)) > 0.99


def one_bin(score: Callable) -> dict[str, int]:
    """Few values times few bins, so that slight noise stays within a bin."""
    return {"bins": 8} if score is mig else {}


@pytest.mark.parametrize(("score", "chance"), [(mig, 0), (sap, 0), (factor_vae_score, 1 / 5)])
def test_noise_has_the_score_of_chance(score: Callable, chance: float) -> None:
    v = design(*SIZES)

    assert score(noise(len(v), 12), v) == pytest.approx(chance, abs=0.02)


@pytest.mark.parametrize("score", SCORES)
def test_turned_pairs_of_codes_lie_between(score: Callable) -> None:
    v = design(8, 8, times=4)

    straight, a_bit, half = (score(turned(v, degrees), v) for degrees in (0, 20, 45))

    assert straight == pytest.approx(1)
    assert half < 0.6
    assert half < a_bit <= straight
    if score is not factor_vae_score:  # the code that varies least is still the right one
        assert a_bit < 0.9


@pytest.mark.parametrize("score", SCORES)
def test_order_scale_sign_and_rows_do_not_matter(score: Callable) -> None:
    v = design(3, 4, 5, 6)
    z = noisy(np.concatenate([v[:, :1] + v[:, 1:2], v], 1), 1.0)
    rows = np.random.default_rng(1).permutation(len(v))
    scaled = z * [1e-6, 3, 1e5, 0.7, -1] + [0, 4, 1, -2, 0]

    expected = score(z, v)

    assert 0.1 < expected < 0.98
    assert score(z[:, [3, 1, 4, 0, 2]], v) == pytest.approx(expected)
    assert score(scaled, v) == pytest.approx(expected, abs=1e-3)
    assert score(z[rows], v[rows]) == pytest.approx(expected, rel=1e-9)
    assert score(z, v[:, [2, 0, 3, 1]]) == pytest.approx(expected, abs=0.02)
    assert score(z, 7 - 3 * v) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_codes_that_are_not_finite_have_no_score(score: Callable, bad: float) -> None:
    v = design(4, 4, times=5)
    z = v.astype(np.float32)
    z[7, 1] = bad

    assert np.isnan(score(z, v))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("codes", "factors", "said"),
    [
        (np.zeros((8, 2)), np.zeros((7, 2)), r"codes \(8, 2\) and factors \(7, 2\) are not"),
        (np.zeros(8), np.zeros((8, 2)), r"codes \(8,\) and factors \(8, 2\) are not"),
        (np.zeros((8, 0)), np.zeros((8, 2)), "are not"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "of one image or more"),
        (np.eye(8), np.full((8, 2), 0.5), "must be the whole numbers"),
        (np.eye(8), np.full((8, 2), np.nan), "must be the whole numbers"),
        (np.eye(8), np.arange(16).reshape(8, 2) * [1, 0], "factor 1 has one value in all 8 images"),
    ],
)
def test_arrays_that_allow_no_score(
    score: Callable, codes: np.ndarray, factors: np.ndarray, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        score(codes, factors)


def test_too_few_images_or_codes_are_refused() -> None:
    v = design(4, 4, times=2)

    with pytest.raises(ValueError, match="32 images are too few for 20 bins of a code and 4 value"):
        mig(noise(32, 2), v)
    with pytest.raises(ValueError, match="32 images are too few to predict 4 values of factor 0"):
        sap(noise(32, 2), v)
    with pytest.raises(ValueError, match="factor 0 has the value 9 in 1 image only"):
        factor_vae_score(noise(33, 2), np.concatenate([v, [[9, 0]]]))
    for score in (mig, sap):
        with pytest.raises(ValueError, match="there is 1 code"):
            score(design(4, 4, times=3)[:, :1], design(4, 4, times=3))


@pytest.mark.parametrize("score", SCORES)
def test_ten_thousand_images_cost_a_few_seconds(score: Callable) -> None:
    v = design(5, 5, 5, 8, 10)
    began = time.process_time()

    score(noise(len(v), 12), v)

    assert len(v) == 10_000
    assert time.process_time() - began < 5


# MIG


def test_mig_by_hand() -> None:
    """Codes a, and a AND b, of two bits: I(AND; a) is H(1/4) - 1/2 bits, as is I(AND; b)."""
    v = design(2, 2, times=3)
    a, b = v.T
    about = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75)) - 0.5

    found = mutual_information(np.stack([a, a & b], 1), v)

    np.testing.assert_allclose(found, [[1, 0], [about, about]], atol=1e-12)
    assert mig(np.stack([a, a & b], 1), v) == pytest.approx(((1 - about) + about) / 2)


def test_a_continuous_code_is_told_by_equally_wide_bins() -> None:
    """Factor 0..3 plus a uniform number on [0, 1): 20 bins of [0, 4) part the values; 2 do not."""
    v = design(4, 50, times=5)
    z = np.stack([v[:, 0] + (v[:, 1] + 0.5) / 50, np.zeros(len(v))], 1)
    z[0, 0], z[-1, 0] = 0, 4  # the range; these are of the first and the last value

    twenty, two = (mutual_information(z, v, bins)[0, 0] for bins in (20, 2))

    assert twenty == pytest.approx(1)
    assert two == pytest.approx(1 / 2)  # of two bits


def test_names_of_categories_do_not_matter() -> None:
    v = design(4, 4, times=2)
    named = np.stack([np.array([7, -1, 0.5, 3])[v[:, 0]], v[:, 1] == 2], 1)

    first, second = 1.0, (0.25 * 2 + 0.75 * np.log2(4 / 3)) / 2  # one value told from three
    assert mig(named, v) == pytest.approx((first + second) / 2)


# SAP


def test_sap_by_hand() -> None:
    """a + b has R² 1/2 with either of two factors of one variance."""
    v = design(4, 4, times=3)
    a, b = v.T

    assert sap(np.stack([a, a + b], 1), v) == pytest.approx(((1 - 1 / 2) + (1 / 2 - 0)) / 2)
    assert sap(np.stack([a, b, a], 1), v) == pytest.approx(1 / 2)


def test_best_thresholds_are_found() -> None:
    """Against all thresholds and all classes of their parts."""
    rng = np.random.default_rng(3)
    for _ in range(4):
        y = rng.integers(0, 3, 20)
        z = np.round(y * rng.normal() + rng.normal(size=20), 1)
        cuts = itertools.combinations_with_replacement(np.unique(z), 2)
        best = max(
            np.mean([(np.array(said)[np.searchsorted(cut, z, "left")] == y)[y == c].mean()
                     for c in range(3)])
            for cut in cuts
            for said in itertools.product(range(3), repeat=3)
        )  # fmt: skip

        assert disentanglement._balanced_accuracy(z, y, False) == pytest.approx(best)


def test_discrete_factors_need_no_order() -> None:
    """A line misses what two thresholds find; a guess among three is what the other code has."""
    v = design(3, 10, times=4)
    z = np.stack([np.array([1, 5, 3])[v[:, 0]], v[:, 1]], 1)

    assert sap(z, v, discrete=[0]) == pytest.approx(((1 - 1 / 3) + 1) / 2)
    assert sap(z, v) == pytest.approx((1 / 4 + 1) / 2)  # correlation of (0, 1, 2) and (1, 5, 3)


def test_categories_need_no_order() -> None:
    v = design(3, 4, times=4)
    z = np.stack([np.array([1, 5, 3])[v[:, 0]], v[:, 1]], 1)

    assert sap(z, v, categorical=[0]) == pytest.approx(1)
    assert sap(z, v, discrete=[0], categorical=[0]) == pytest.approx(((1 - 1 / 3) + 1) / 2)
    two = np.stack([v[:, 0] == 1, v[:, 1]], 1)  # classes 0 and 2 are one category
    assert sap(two, v, discrete=[0], categorical=[0]) == pytest.approx(((2 / 3 - 1 / 3) + 1) / 2)


# factor-VAE score


def test_the_code_that_varies_least_votes() -> None:
    """Two codes of a and one of b: no code stands for c."""
    v = design(5, 5, 5)
    a, b, _ = v.T

    assert factor_vae_score(np.stack([a, 2 * a, b], 1), v) == 2 / 3
    assert factor_vae_score(np.stack([a], 1), v) == 1 / 3


def test_categories_have_no_distance() -> None:
    """Category 9, in one image of four, would have nearly all of the variance of a number.

    As a number it falls with a's value; as a category it tells a's value but depends on b as well.
    """
    v = design(4, 4, times=2)
    a, b = v.T
    names = np.array([0, 100, 1, 101])
    z = np.stack([names[a] + 2000 * (b == 3), b], 1)

    assert factor_vae_score(z, v, categorical=[0]) == 1
    assert factor_vae_score(z, v) < 0.8


def test_ginis_variance_is_that_of_pairs() -> None:
    x = np.array([0, 2, 2, 1, 0, 0])
    pairs = np.mean([x[i] != x[j] for i, j in itertools.permutations(range(6), 2)])

    assert disentanglement._gini(np.bincount(x)) == pytest.approx(pairs / 2)


def test_codes_that_hardly_vary_can_be_left_out() -> None:
    v = design(4, 4)
    z = np.concatenate([v, 1e-3 * v], 1)[:, [0, 3]]  # of b there is only a faint one

    assert factor_vae_score(z, v) == 1
    assert factor_vae_score(z, v, least_std=0.05) == 1 / 2
    assert factor_vae_score(z, v, least_std=5) == 0


def test_the_same_votes_are_drawn_each_time() -> None:
    v = design(3, 4, 5)
    z = noise(len(v), 6)
    state = np.random.get_state()[1].tolist()

    assert factor_vae_score(z, v) == factor_vae_score(z, v)
    assert np.random.get_state()[1].tolist() == state


# As the harness asks


@pytest.mark.parametrize(
    "metric",
    [
        MIG(),
        MIG(bins=5),
        SAP(),
        SAP(discrete=[0]),
        SAP(discrete=[0, 2], categorical=[1, 3]),
        FactorVAEScore(),
        FactorVAEScore(categorical=[2], least_std=0.3),
    ],
    ids=lambda metric: metric.id,
)
def test_its_own_certificate_holds(metric: object) -> None:
    assert certify(metric) == []


def test_options_are_part_of_the_id() -> None:
    assert MIG(10).id != MIG().id
    assert len({SAP().id, SAP([0]).id, SAP([], [0]).id}) == 3
    assert len({FactorVAEScore().id, FactorVAEScore([0]).id, FactorVAEScore([], 0.1).id}) == 3


@pytest.mark.parametrize(
    ("metric", "name", "wrong"),
    [
        (MIG(), "_gap", lambda scores: np.sort(scores, 0)[-1]),
        (MIG(), "_gap", lambda scores: np.sort(scores, 0)[-1] - np.sort(scores, 0)[0]),
        (MIG(), "_entropy", lambda counts: float((counts > 0).sum())),
        (SAP(), "_r_squared", lambda z, y, _: abs(np.corrcoef(z, y)[0, 1])),
        (SAP([0]), "_balanced_accuracy", lambda z, y, _: float((z == y).mean())),
        (SAP([0]), "_gap", lambda scores: np.sort(scores, 0)[-1]),
        (FactorVAEScore(), "_variances", lambda z, rows, _: 1 / (z[rows].var(1) + 1)),
        (FactorVAEScore(), "_variances", lambda z, rows, _: z[rows].mean(1)),
    ],
)
def test_a_wrong_score_gets_no_certificate(
    monkeypatch: pytest.MonkeyPatch, metric: object, name: str, wrong: Callable
) -> None:
    monkeypatch.setattr(disentanglement, name, wrong)

    assert certify(metric)


@pytest.mark.parametrize("metric", [MIG(), SAP([0]), FactorVAEScore()])
def test_arrays_that_a_run_lacks_are_named(metric: object) -> None:
    with pytest.raises(ValueError, match="it needs factors; kept are codes, target"):
        metric.of({"codes": np.eye(3), "target": np.arange(3)})


def test_rounding_to_what_a_record_keeps_is_within_tolerance() -> None:
    v = design(3, 6, 8, 8)
    z = noisy(v, 0.7)

    for metric in (MIG(), SAP([0]), FactorVAEScore()):
        kept = {"codes": z.astype(np.float32), "factors": v.astype(np.uint8)}
        whole = metric.of({"codes": z, "factors": v})
        assert metric.of(kept) == pytest.approx(whole, abs=metric.tolerance)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MIG(bins=3), "bins is 3; it must be a whole number, 4 or more"),
        (lambda: MIG(bins=20.0), "bins is 20.0"),
        (lambda: SAP(discrete=[-1]), r"discrete is \[-1\]; it must be a list"),
        (lambda: SAP(categorical="0"), "categorical is '0'; it must be a list"),
        (lambda: FactorVAEScore(categorical=[True]), r"categorical is \[True\]"),
        (lambda: FactorVAEScore(least_std=-1), "least_std is -1; it must be 0 or more"),
        (lambda: sap(np.eye(4), design(2, 2), discrete=[2]), "discrete has 2; columns are 0 to 1"),
        (
            lambda: factor_vae_score(np.eye(4), design(2, 2), categorical=[4]),
            "categorical has 4; columns are 0 to 3",
        ),
    ],
)
def test_arguments_that_cannot_be(make: Callable, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
