"""Nearest neighbours: as a loop finds them, ties and rounding included, however the images come."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_gen.datamodules import files
from lit_gen.harness.verdicts.certificate import certify
from lit_gen.metrics import neighbours
from lit_gen.metrics.errors import MetricError
from lit_gen.metrics.neighbours import NearestNeighbour, NearestNeighbourErrorPercent


def images(n: int, seed: int, dims: int = 30) -> torch.Tensor:
    return torch.rand(n, dims, generator=torch.Generator().manual_seed(seed))


def nearest(queries: torch.Tensor, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    search = NearestNeighbour(queries)
    search.update(x, labels)
    return search.label


def by_hand(queries: torch.Tensor, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The first of the nearest in float64; argmin of torch need not give the first."""
    squares = ((queries[:, None].double() - x.double()) ** 2).sum(-1).numpy()
    return labels[torch.from_numpy(squares.argmin(1))]


def test_it_agrees_with_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    x, queries, labels = images(500, 0), images(200, 1), torch.arange(500) % 10

    theirs = neighbors.KNeighborsClassifier(1, algorithm="brute").fit(x.numpy(), labels.numpy())

    assert nearest(queries, x, labels).tolist() == theirs.predict(queries.numpy()).tolist()


def test_of_equal_distances_the_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of a coarse lattice: most queries have several nearest ones."""
    x, queries = ((2 * images(n, n, 3)).round() for n in (60, 40))
    labels = torch.arange(60)  # an own one for each: tells which was found

    for part in (4096, 7, 1):
        monkeypatch.setattr(neighbours, "PART", part)
        assert torch.equal(nearest(queries, x, labels), by_hand(queries, x, labels))


def test_a_generator_that_repeats_itself_gives_its_first_label() -> None:
    x, queries = images(1, 0).repeat(300, 1), images(100, 1)

    assert torch.equal(nearest(queries, x, torch.arange(300)), torch.zeros(100).long())


@pytest.mark.parametrize("part", [4096, 20], ids=["in one part", "in several"])
def test_it_sees_what_float32_products_do_not(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances that differ by less than the rounding of squares as large as these."""
    monkeypatch.setattr(neighbours, "PART", part)
    q = 100 + images(20, 3).double()
    away = images(20, 4).double()
    near, far = q + 0.01 * away, q + 0.0101 * away
    x = torch.cat([far, near, images(50, 5).double()])

    products = (-2 * q.float() @ x.float().T + x.float().square().sum(1)).argmin(1)
    assert not torch.equal(products, torch.arange(20, 40))
    assert torch.equal(nearest(q, x, torch.arange(90)), torch.arange(20, 40))


@pytest.mark.parametrize("sizes", [[300], [1] * 300, [128, 128, 44], [0, 300]])
def test_it_does_not_matter_in_what_parts_images_come(
    sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "PART", 64)
    x, queries, labels = images(300, 0), images(50, 1), torch.arange(300)

    search = NearestNeighbour(queries)
    for part, theirs in zip(x.split(sizes), labels.split(sizes), strict=True):
        search.update(part, theirs)

    assert torch.equal(search.label, by_hand(queries, x, labels))


def test_it_can_be_asked_in_between() -> None:
    x, queries, labels = images(40, 0), images(10, 1), torch.arange(40)
    search = NearestNeighbour(queries)

    for n in (10, 40):
        search.update(x[n // 4 if n == 40 else 0 : n], labels[n // 4 if n == 40 else 0 : n])
        assert torch.equal(search.label, by_hand(queries, x[:n], labels[:n]))


def test_what_is_no_training_set_is_refused() -> None:
    search = NearestNeighbour(images(5, 0))

    with pytest.raises(MetricError, match=r"do not fit to queries of 30 pixels"):
        search.update(images(4, 1, 29), torch.arange(4))
    with pytest.raises(MetricError, match=r"a label for each"):
        search.update(images(4, 1), torch.arange(5))
    with pytest.raises(FloatingPointError, match="not finite"):
        search.update(images(4, 1) / 0, torch.arange(4))


def test_a_coarser_precision_of_the_training_does_not_matter_and_comes_back() -> None:
    x, queries, labels = 5 + images(500, 0), 5 + images(100, 1), torch.arange(500)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            found = nearest(queries, x, labels)
            assert torch.mm(queries, queries.T).dtype == torch.bfloat16
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)

    assert torch.equal(found, by_hand(queries, x, labels))


# --- as the harness asks for it


def arrays(**changes: np.ndarray) -> dict[str, np.ndarray]:
    usual = {
        "predicted": np.array([[0, 1], [1, 1], [2, 2], [3, 0]]),
        "samples": np.tile([50, 900], (4, 1)),
        "target": np.arange(4),
    }
    return usual | changes


def test_each_size_has_its_errors() -> None:
    assert NearestNeighbourErrorPercent(50).of(arrays()) == 0
    assert NearestNeighbourErrorPercent(900, 4).of(arrays()) == 50


@pytest.mark.parametrize(
    ("metric", "given", "said"),
    [
        (NearestNeighbourErrorPercent(51), arrays(), "made of 51 samples"),
        (NearestNeighbourErrorPercent(50, 5), arrays(), "4 examples were tested, not 5"),
        (NearestNeighbourErrorPercent(50), {"target": np.arange(4)}, "needs predicted, samples"),
        (NearestNeighbourErrorPercent(50), arrays(predicted=np.arange(4)), "are not"),
    ],
)
def test_another_classifier_is_no_substitute(metric, given: dict, said: str) -> None:
    with pytest.raises(MetricError, match=said):
        metric.of(given)


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"samples": 1.5}, {"samples": 1, "examples": 0}])
def test_numbers_that_are_none(wrong: dict) -> None:
    with pytest.raises(MetricError, match="must be a whole number above 0"):
        NearestNeighbourErrorPercent(**wrong)


def test_its_own_certificate_holds() -> None:
    assert certify(NearestNeighbourErrorPercent(50_000, 10_000)) == []
    assert certify(NearestNeighbourErrorPercent(7)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a: 100 * float((a["predicted"][:, 0] == a["target"]).mean()),
        lambda a: 100 * float((a["predicted"][:, 1] != a["target"]).mean()),
        lambda a: float((a["predicted"][:, 0] != a["target"]).mean()),
        lambda a: 100 * float((a["predicted"] != a["target"][:, None]).mean()),
    ],
)
def test_a_wrong_metric_gets_no_certificate(monkeypatch: pytest.MonkeyPatch, wrong) -> None:
    monkeypatch.setattr(NearestNeighbourErrorPercent, "of", lambda self, arrays: wrong(arrays))

    assert certify(NearestNeighbourErrorPercent(50))


def test_on_real_images_it_is_what_integers_give() -> None:
    found = {f.name: f.path for f in files.verify("mnist") if f.status == "ok"}
    if "t10k-images-idx3-ubyte" not in found:
        pytest.skip("MNIST is not here")

    got, known = NearestNeighbourErrorPercent(1).anchor(found)

    assert got == known == 12.1


def test_no_anchor_without_the_files() -> None:
    assert NearestNeighbourErrorPercent(1).anchor({"other": Path("x")}) is None
