"""Categories as a classifier: the best matching of all, and what tells two kinds apart."""

from itertools import permutations

import numpy as np
import pytest

from lit_gen.harness.verdicts.certificate import certify
from lit_gen.metrics.clustering import (
    NONE,
    CategoriesOwned,
    ClusterError,
    error_percent,
    hungarian,
    majority,
    owned,
    table,
)

MERGED = np.array([[9, 0, 0], [6, 4, 0], [0, 0, 5]])  # class 0 has most of two categories


def drawn(seed: int, k: int = 4, c: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 30, (k, c))


def test_a_table_counts_pairs() -> None:
    category, target = np.array([0, 2, 2, 1, 2], np.uint8), [1, 0, 0, 1, 1]

    expected = [[0, 1], [0, 1], [2, 1], [0, 0]]
    assert np.array_equal(table(category, target, 4, 2), expected)
    assert table([], [], 3, 2).shape == (3, 2)


@pytest.mark.parametrize(
    ("category", "target", "said"),
    [([0, 4], [0, 0], "category has numbers from 0 to 4, not 0 to 3"),
     ([0, 1], [0, -1], "target has numbers from -1 to 0"), ([0], [0, 1], "not \\(N,\\) both")],
)  # fmt: skip
def test_what_is_no_category_is_refused(category: list, target: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        table(category, target, 4, 4)


@pytest.mark.parametrize("seed", range(8))
def test_the_hungarian_matching_is_the_best_permutation(seed: int) -> None:
    counts = drawn(seed)

    best = max(sum(counts[i, p[i]] for i in range(4)) for p in permutations(range(4)))

    matching = hungarian(counts)
    assert sorted(matching) == [0, 1, 2, 3]
    assert error_percent(counts, matching) == pytest.approx(100 * (1 - best / counts.sum()))


@pytest.mark.parametrize("seed", range(4))
def test_no_function_of_the_category_beats_the_majority_on_its_own_images(seed: int) -> None:
    counts = drawn(seed)

    errors = [error_percent(counts, np.array(m)) for m in np.ndindex(4, 4, 4, 4)]

    assert error_percent(counts, majority(counts)) == pytest.approx(min(errors))


def test_matchings_follow_when_categories_change_their_numbers() -> None:
    counts, order = drawn(3), np.array([2, 0, 3, 1])

    for match in (hungarian, majority):
        assert np.array_equal(match(counts[order]), match(counts)[order])


def test_merged_classes_cost_the_two_matchings_different_things() -> None:
    assert hungarian(MERGED).tolist() == [0, 1, 2]
    assert majority(MERGED).tolist() == [0, 0, 2]
    assert error_percent(MERGED, hungarian(MERGED)) == pytest.approx(100 * 6 / 24)
    assert error_percent(MERGED, majority(MERGED)) == pytest.approx(100 * 4 / 24)


def test_more_categories_than_classes_and_empty_ones() -> None:
    counts = np.array([[5, 0], [3, 0], [0, 4], [0, 0]])

    assert hungarian(counts).tolist() == [0, NONE, 1, NONE]
    assert majority(counts).tolist() == [0, 0, 1, NONE]
    assert error_percent(np.array([[0, 0], [0, 0], [0, 0], [1, 1]]), majority(counts)) == 100
    assert np.isnan(error_percent(np.zeros((4, 2)), majority(counts)))


def test_each_class_owns_one_category_or_not() -> None:
    assert owned(np.eye(3)[[2, 0, 1]])
    assert not owned(MERGED)
    assert not owned(np.diag([1, 1, 0]))  # an empty one
    assert not owned(np.eye(4)[:, :3] + np.eye(4)[:, 1:])  # two for one class


@pytest.mark.parametrize("examples", [None, 1, 7, 10_000])
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_metrics_pass_their_certificates(examples: int | None, statistics: str) -> None:
    tested = [
        ClusterError(matching, statistics, examples) for matching in ("hungarian", "majority")
    ]
    tested.append(CategoriesOwned(statistics, examples))

    assert [certify(each) for each in tested] == [[], [], []]
    assert len({each.id for each in tested}) == 3
    assert all(statistics in each.id for each in tested)


@pytest.mark.parametrize("wrong", ["swapped", "of_test", "transposed"])
def test_a_wrong_error_fails_its_certificate(wrong: str) -> None:
    class Wrong(ClusterError):
        def of(self, arrays: dict) -> float:
            training, test = self._tables(arrays)
            if wrong == "swapped":
                return error_percent(training, hungarian(test))
            if wrong == "of_test":
                return error_percent(test, hungarian(test))
            return error_percent(test, hungarian(training.T))

    assert certify(Wrong())


def test_statistics_choose_the_arrays() -> None:
    arrays = {
        "target": np.array([0, 1]),
        "category": np.array([0, 1]),
        "training_table": np.eye(2),
        "category_running": np.array([1, 1]),
        "training_table_running": np.eye(2),
    }

    assert ClusterError().of(arrays) == 0
    assert ClusterError(statistics="running").of(arrays) == 50


@pytest.mark.parametrize(
    ("lacking", "said"), [("training_table", "it needs training_table"), ("target", "needs target")]
)
def test_what_was_not_kept_is_named(lacking: str, said: str) -> None:
    arrays = next(ClusterError().cases())[0]
    del arrays[lacking]

    with pytest.raises(ValueError, match=said):
        ClusterError().of(arrays)


def test_another_number_of_images_is_another_number() -> None:
    arrays = next(ClusterError(examples=30).cases())[0]

    with pytest.raises(ValueError, match="30 images were tested, not 10000"):
        ClusterError(examples=10_000).of(arrays)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"matching": "best"}, "matching is 'best'"), ({"statistics": "mean"}, "statistics is 'mean'"),
     ({"examples": 0}, "examples is 0")],
)  # fmt: skip
def test_unknown_options_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClusterError(**options)
