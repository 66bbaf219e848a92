"""Linear SVMs on features: the optimum of their problem, the draws of labels, the choice of C."""

import sys

import numpy as np
import pytest

from lit_gen.harness.verdicts.certificate import certify
from lit_gen.metrics.errors import MetricError
from lit_gen.metrics.features import (
    DrawnErrorPercent,
    LinearSVMs,
    check,
    draw_balanced,
    from_few_labels,
    linear_svms,
    over_draws,
)

svm = pytest.importorskip("sklearn.svm")


def clouds(n: int, dims: int = 20, apart: float = 2.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Features of ten classes about ten corners, and their labels."""
    rng = np.random.RandomState(seed)
    labels = np.arange(n) % 10
    corners = apart * np.eye(10, dims)
    return (corners[labels] + rng.normal(size=(n, dims))).astype(np.float32), labels


def objective(w: np.ndarray, b: float, x: np.ndarray, y: np.ndarray, cost: float) -> float:
    """LinearSVC's: |w|^2 / 2 + b^2 / 2 + C sum max(0, 1 - y f(x))^2."""
    hinge = np.maximum(0, 1 - y * (x @ w + b))
    return (w @ w + b * b) / 2 + cost * (hinge**2).sum()


@pytest.mark.parametrize("dims", [20, 300], ids=["fewer features", "fewer images"])
def test_it_finds_the_least_of_its_objective(dims: int) -> None:
    x, labels = clouds(100, dims)
    x = x.astype(float)
    rng = np.random.RandomState(1)

    ((weights, biases),) = linear_svms(x, labels, [0.01])

    for k in (0, 7):
        w, b, y = weights[k].astype(float), float(biases[k]), np.where(labels == k, 1, -1)
        least = objective(w, b, x, y, 0.01)
        for _ in range(20):
            dw, db = 0.02 * rng.normal(size=dims), 0.02 * rng.normal()
            assert objective(w + dw, b + db, x, y, 0.01) > least


def test_a_rotation_into_the_images_span_changes_nothing() -> None:
    x, labels = clouds(80, 400)

    learned = linear_svms(x, labels, [1e-3, 1e-1])

    for cost, (weights, biases) in zip([1e-3, 1e-1], learned, strict=True):
        plain = svm.LinearSVC(C=cost, random_state=0).fit(x, labels)
        np.testing.assert_allclose(weights, plain.coef_, atol=1e-4)
        np.testing.assert_allclose(biases, plain.intercept_, atol=1e-4)


def test_separable_classes_are_learned_without_an_error() -> None:
    x, labels = clouds(200, apart=20.0)
    [learned] = linear_svms(x, labels, [1.0])
    machines = LinearSVMs(*(part[None] for part in learned), 1.0, {})

    assert (machines.predict(x)[:, 0] == labels).all()
    assert machines.predict(x).dtype == np.uint8


def test_what_cannot_be_learned_from_is_refused() -> None:
    x, labels = clouds(40)
    for y in (labels % 2, labels + 1, np.where(labels == 3, 4, labels)):
        with pytest.raises(MetricError, match="give all of 0 to K - 1"):
            linear_svms(x, y, [1.0])
    x[3, 3] = np.nan
    with pytest.raises(FloatingPointError, match="features are not finite"):
        linear_svms(x, labels, [1.0])


def test_draws_are_balanced_and_among_what_they_may_be() -> None:
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(10), [30] * 9 + [12]))
    among = np.arange(0, len(labels), 2)
    rng = np.random.RandomState(1)
    one, other = (draw_balanced(labels, among, 3, rng) for _ in range(2))

    assert np.bincount(labels[one]).tolist() == [3] * 10
    assert set(one) <= set(among)
    assert len(set(one)) == 30
    assert set(one) != set(other)
    with pytest.raises(MetricError, match="13 labels a class were asked for"):
        draw_balanced(labels, among, 13, rng)


class Asked:
    """Features that note whose were asked for."""

    def __init__(self, x: np.ndarray) -> None:
        self.x, self.log = x, []

    def __call__(self, index: np.ndarray) -> np.ndarray:
        self.log.append(index)
        return self.x[index]


def test_validation_images_are_none_that_are_learned_from() -> None:
    x, labels = clouds(400)
    asked = Asked(x)

    machines = from_few_labels(asked, labels, 4, 100, draws=3, trials=2, costs=(1e-3, 1e-1))

    assert [len(index) for index in asked.log] == [40] * 2 + [100] + [40] * 3
    held_out = set(asked.log[2])
    assert held_out == set(np.random.RandomState(42).permutation(400)[:100])
    assert not any(held_out & set(index) for i, index in enumerate(asked.log) if i != 2)
    assert machines.weights.shape == (3, 10, 20)
    assert machines.biases.shape == (3, 10)


def test_c_is_the_one_that_does_best_on_validation() -> None:
    """Its mean over the trials, computed again; noise makes a large C a bad one."""
    x, labels = clouds(600, 30)
    costs = (1e-5, 1e-3, 1.0)
    asked = Asked(x)

    machines = from_few_labels(asked, labels, 10, 200, draws=1, trials=3, costs=costs)

    held_out = asked.log[3]
    error = {}
    for c in costs:
        wrong = []
        for index in asked.log[:3]:
            plain = svm.LinearSVC(C=c, random_state=0).fit(x[index], labels[index])
            wrong.append(100 * (plain.predict(x[held_out]) != labels[held_out]).mean())
        error[c] = np.mean(wrong)
    assert machines.validation_error == pytest.approx(error, abs=0.5)
    assert machines.cost == min(error, key=error.get) == 1e-3
    assert max(error.values()) - min(error.values()) > 2


def test_it_is_the_same_again_and_leaves_random_numbers_alone() -> None:
    x, labels = clouds(300)
    np.random.seed(5)
    before = np.random.get_state()[1].copy()

    one, other = (from_few_labels(Asked(x), labels, 3, 60, 2, 1) for _ in range(2))

    assert np.array_equal(one.weights, other.weights)
    assert np.array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("validation", [0, 300])
def test_there_must_be_something_to_choose_by_and_to_learn_from(validation: int) -> None:
    x, labels = clouds(300)
    with pytest.raises(MetricError, match=f"{validation} validation images"):
        from_few_labels(Asked(x), labels, 3, validation)


def test_without_scikit_learn_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = clouds(300)
    monkeypatch.setitem(sys.modules, "sklearn", None)

    for call in (lambda: check(labels, 3, 100), lambda: linear_svms(x, labels, [1.0])):
        with pytest.raises(MetricError, match=r"pip install 'lit-gen\[features\]'"):
            call()


# --- as the harness asks for it


def test_mean_and_spread_over_draws() -> None:
    """Errors of 0, 25 and 50 %: their standard deviation is 25 sqrt(2/3)."""
    target = np.arange(4)
    predicted = np.array([[0, 0, 0], [1, 1, 1], [2, 2, 9], [3, 9, 9]])

    mean, spread = over_draws(predicted, target)

    assert mean == pytest.approx(25)
    assert spread == pytest.approx(1.96 * 25 * (2 / 3) ** 0.5)


def test_another_array_has_its_own_number() -> None:
    arrays = {"predicted": np.zeros((4, 2)), "other": np.ones((4, 3)), "target": np.zeros(4)}

    assert DrawnErrorPercent().of(arrays) == 0
    assert DrawnErrorPercent(array="other").of(arrays) == 100
    assert DrawnErrorPercent(array="other").id != DrawnErrorPercent().id
    for metric, said in [
        (DrawnErrorPercent(draws=3), "there are 2 draws, not 3"),
        (DrawnErrorPercent(examples=5), "4 examples were tested, not 5"),
        (DrawnErrorPercent(array="third"), "needs third"),
        (DrawnErrorPercent(array="target"), "are not"),
    ]:
        with pytest.raises(MetricError, match=said):
            metric.of(arrays)


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"examples": 1.5}, {"statistic": "median"}])
def test_arguments_that_are_none(wrong: dict) -> None:
    with pytest.raises(MetricError, match="it must be"):
        DrawnErrorPercent(**wrong)


CERTIFIED = [
    {}, {"statistic": "spread"}, {"draws": 100, "examples": 26032},
    {"draws": 100, "examples": 26032, "statistic": "spread"}, {"draws": 1, "examples": 7},
]  # fmt: skip


@pytest.mark.parametrize("given", CERTIFIED)
def test_its_own_certificate_holds(given: dict) -> None:
    assert certify(DrawnErrorPercent(**given)) == []


@pytest.mark.parametrize("statistic", ["mean", "spread"])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda p, y: (float((p != y[:, None]).mean()), float((p != y[:, None]).std())),
        lambda p, y: (100 * float((p[:, 0] != y).mean()), 0.0),
        lambda p, y: (100 * float((p == y[:, None]).mean()),
                      196 * float((p != y[:, None]).mean(0).std(ddof=1))),
    ],
)  # fmt: skip
def test_a_wrong_metric_gets_no_certificate(
    monkeypatch: pytest.MonkeyPatch, wrong, statistic: str
) -> None:
    monkeypatch.setattr("lit_gen.metrics.features.over_draws", wrong)

    assert certify(DrawnErrorPercent(statistic=statistic))
