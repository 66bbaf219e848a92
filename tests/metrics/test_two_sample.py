"""The classifier two-sample test: blind where there is nothing to see, and sharp where there is."""

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from lit_gen.harness.verdicts.certificate import certify
from lit_gen.metrics import two_sample
from lit_gen.metrics.two_sample import TwoSample, classifier_two_sample_test


def images(n: int, seed: int, mean: float = 0.5, size: int = 8, channels: int = 1) -> Tensor:
    """Noise of the given mean, in [0, 1]."""
    stream = torch.Generator().manual_seed(seed)
    return (mean + 0.15 * torch.randn(n, channels, size, size, generator=stream)).clamp(0, 1)


def test_of_one_distribution_the_intervals_hold_one_half() -> None:
    found = [
        classifier_two_sample_test(images(100, 2 * k), images(100, 2 * k + 1), seed=k, steps=20)
        for k in range(20)
    ]

    held = sum(one.low_percent <= 50 <= one.high_percent for one in found)
    assert held >= binom.ppf(0.001, len(found), 0.95)
    assert sum(one.p_value < 0.05 for one in found) <= binom.ppf(0.999, len(found), 0.05)
    mean = np.mean([one.accuracy_percent for one in found])
    assert abs(mean - 50) < 3.3 * 50 / (100 * len(found)) ** 0.5  # binomial standard errors
    assert len({one.accuracy_percent for one in found}) > 5  # it did try


def test_what_differs_is_told_apart() -> None:
    found = classifier_two_sample_test(images(200, 1), images(200, 2, mean=0.6), steps=60)

    assert found.accuracy_percent > 95
    assert found.held_out == 200
    assert found.p_value < 1e-20
    assert 90 < found.low_percent < found.accuracy_percent <= found.high_percent


def test_the_interval_is_the_exact_one() -> None:
    low, high, p_value = two_sample._binomial(60, 100)

    assert binom.sf(59, 100, low) == pytest.approx(0.025)
    assert binom.cdf(60, 100, high) == pytest.approx(0.025)
    assert p_value == pytest.approx(binom.sf(59, 100, 0.5))


def test_held_out_images_are_never_seen_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image has a level of its own, by which it is found again."""
    levels = (torch.arange(100, dtype=torch.uint8) + 100).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    seen, tested = [], []
    train, judge = two_sample._trained, two_sample._right

    def training(used: list[Tensor], validation: list[Tensor], *rest: object) -> object:
        seen.extend([*used, *validation])
        return train(used, validation, *rest)

    def right(network: object, x: Tensor, y: int) -> int:
        tested.append(x)
        return judge(network, x, y)

    monkeypatch.setattr(two_sample, "_trained", training)
    monkeypatch.setattr(two_sample, "_right", right)
    classifier_two_sample_test(levels, levels.clone(), steps=2)

    for k in range(2):  # real, generated
        used = torch.cat([seen[k], seen[k + 2]])[:, 0, 0, 0].tolist()
        held_out = tested[k][:, 0, 0, 0].tolist()
        assert (len(used), len(held_out)) == (50, 50)
        assert not {*used} & {*held_out}


def test_it_stops_where_the_validation_images_are_told_apart_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Later weights, here spoilt ones, do not count."""
    losses = iter([0.6, 0.6, 0.1, 0.1, *[9.0] * 100])  # of two kinds at each look
    kept = []
    monkeypatch.setattr(two_sample, "_loss", lambda network, x, y: next(losses))
    copied = two_sample.copy.deepcopy

    def remember(network: object) -> object:
        kept.append(copied(network))
        return kept[-1]

    monkeypatch.setattr(two_sample.copy, "deepcopy", remember)
    pair = [two_sample._checked(images(40, k), "real") for k in range(2)]
    best = two_sample._trained(pair, pair, np.random.RandomState(0), 20)

    assert len(kept) == 3  # as begun, and after the two looks that were better
    assert best is kept[2]


def test_the_same_seed_gives_the_same_result_and_another_one_another() -> None:
    pair = images(60, 1), images(60, 2)

    results = [classifier_two_sample_test(*pair, seed=seed, steps=5) for seed in (3, 3, 4, 5, 6)]

    assert results[0] == results[1]
    assert len({*results}) > 1


def test_the_global_random_state_is_neither_used_nor_changed() -> None:
    pair = images(40, 1), images(40, 2)
    torch.manual_seed(0)
    np.random.seed(0)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = classifier_two_sample_test(*pair, steps=4)

    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    torch.manual_seed(99)
    with torch.no_grad():  # as in a test step
        assert classifier_two_sample_test(*pair, steps=4) == first


def test_grey_values_between_two_levels_tell_nothing() -> None:
    """Generated images are floats, real ones bytes; a file of them would have the same levels."""
    levels = (images(60, 1) * 255).round()
    between = (levels + 0.4 * torch.rand_like(levels) - 0.2).clamp(0, 255) / 255

    as_bytes = classifier_two_sample_test(images(60, 2), levels.to(torch.uint8), steps=5)

    assert classifier_two_sample_test(images(60, 2), between, steps=5) == as_bytes


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (2, 1, 1), (1, 3, 70)])
def test_images_may_have_any_size(shape: tuple[int, int, int]) -> None:
    pair = torch.rand(2, 20, *shape)

    assert classifier_two_sample_test(*pair, steps=2).held_out == 20


FINE = torch.rand(20, 1, 4, 4)


@pytest.mark.parametrize(
    ("generated", "said"),
    [
        (FINE * torch.nan, "20 of 20 generated images have pixels that are not finite"),
        (FINE.index_fill(0, torch.tensor(3), torch.inf), "1 of 20 generated images have pixels"),
        (2 * FINE - 1, "generated images go from -.* give floats in \\[0, 1\\]"),
        (255 * FINE, "generated images go from .* to 2"),
        (FINE[:19], "there are 19 generated images; give 20 or more"),
        (FINE[:, 0], r"have the shape \(20, 4, 4\); give \(N, C, H, W\)"),
        (FINE[:, :, :0], "have the shape"),
        (FINE.repeat(2, 1, 1, 1), "as many of each, of one size"),
        (FINE.repeat(1, 3, 1, 1), "as many of each, of one size"),
        ((255 * FINE).long(), "are torch.int64; give uint8, or floats"),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(generated: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        classifier_two_sample_test(FINE, generated)


def test_no_steps_are_too_few() -> None:
    with pytest.raises(ValueError, match="steps=0: use 1 or more"):
        classifier_two_sample_test(FINE, FINE, steps=0)


def test_the_metric_gives_its_known_answers_and_says_what_it_is() -> None:
    metric = TwoSample(images=30, seed=2, steps=40)

    assert certify(metric) == []
    assert metric.id == "c2st/1 of 30, 40 steps, seed 2"
    assert metric.compare(FINE, FINE).keys() == {
        f"proxy/c2st_{name}" for name in two_sample.TwoSampleTest._fields
    }
    with pytest.raises(ValueError, match=r"\['real'\] are missing"):
        metric.of({"generated": FINE.numpy()})


@pytest.mark.parametrize("count", [19, 2.5, "many", True])
def test_the_metric_refuses_a_number_of_images_that_is_none(count: object) -> None:
    with pytest.raises(ValueError, match="must be a whole number from 20 on"):
        TwoSample(images=count)
