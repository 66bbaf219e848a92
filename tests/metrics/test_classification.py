"""Errors: counted exactly, and told from what is nearly the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_gen.datamodules import files
from lit_gen.harness.verdicts.certificate import certify
from lit_gen.metrics.classification import Errors, errors


def test_counts_what_a_loop_counts() -> None:
    rng = np.random.default_rng(0)
    scores, target = rng.normal(size=(200, 7)), rng.integers(0, 7, 200)

    by_hand = sum(max(range(7), key=lambda k: s[k]) != y for s, y in zip(scores, target))  # noqa: B905

    assert errors(scores, target) == by_hand
    assert errors(torch.tensor(scores), torch.tensor(target)) == by_hand


def test_classes_may_be_renamed() -> None:
    rng = np.random.default_rng(0)
    scores, target, names = rng.normal(size=(99, 5)), rng.integers(0, 5, 99), rng.permutation(5)

    assert errors(scores[:, names], np.argsort(names)[target]) == errors(scores, target)


@pytest.mark.parametrize("shape", [(4, 1), (5,), ()])
def test_shapes_that_would_broadcast_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="are not"):
        errors(np.zeros((4, 3)), np.zeros(shape))


def test_its_own_certificate_holds() -> None:
    assert certify(Errors()) == []
    assert certify(Errors(examples=10)) == []


@pytest.mark.parametrize("examples", ["x", 0, -1, 2.5, True, [10]])
def test_a_number_of_examples_that_is_none(examples: object) -> None:
    with pytest.raises(ValueError, match="it must be a whole number above 0, or null"):
        Errors(examples=examples)


def test_cases_that_raise_are_a_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Errors, "cases", lambda self: iter([5]))

    assert certify(Errors()) == [
        "its cases raised TypeError: cannot unpack non-iterable int object"
    ]


def test_another_number_of_examples_is_another_metric() -> None:
    arrays = {"logits": np.eye(3), "target": np.arange(3)}

    assert Errors(examples=3).id != Errors().id
    assert Errors(examples=3).of(arrays) == 0
    with pytest.raises(ValueError, match="3 examples were tested, not 4"):
        Errors(examples=4).of(arrays)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda s, y: float((s.argmin(1) != y).sum()),
        lambda s, y: float((s.argmax(1) == y).sum()),
        lambda s, y: float((s.argmax(1) != y).mean()),
        lambda s, y: float((s.astype(np.float32).argmax(1) != y).sum()),
        lambda s, y: float((s.shape[1] - 1 - s[:, ::-1].argmax(1) != y).sum()),  # last of equals
        lambda s, y: float((s.argmax(1) != y)[:-1].sum()),
        lambda s, y: float((s.argmax(1) != y).astype(np.uint8).sum(dtype=np.uint8)),
    ],
)
def test_a_wrong_metric_gets_no_certificate(monkeypatch: pytest.MonkeyPatch, wrong) -> None:
    monkeypatch.setattr("lit_gen.metrics.classification.errors", wrong)

    assert certify(Errors())


def test_real_data_gives_the_known_number() -> None:
    found = {f.name: f.path for f in files.verify("mnist") if f.status == "ok"}
    if "t10k-images-idx3-ubyte" not in found:
        pytest.skip("MNIST is not here")

    got, known = Errors().anchor(found)

    assert got == known


def test_no_anchor_without_the_files() -> None:
    assert Errors().anchor({"other": Path("x")}) is None
