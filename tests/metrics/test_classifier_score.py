"""The CIFAR-10 network of the classifier score: trained once, the same each time."""

from pathlib import Path

import pytest
import torch

from lit_gen.metrics import classifier_score
from lit_gen.metrics.classifier_score import classifier, train


def colours(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten kinds of images that differ in colour, (n, 3, 32, 32) uint8, and their kinds."""
    draws = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 10
    mean = torch.rand(10, 3, generator=torch.Generator().manual_seed(9))[y]
    noise = torch.randn(n, 3, 32, 32, generator=draws) * 0.1
    return ((mean.view(n, 3, 1, 1) + noise).clamp(0, 1) * 255).to(torch.uint8), y


DATA = (*colours(200, 0), *colours(50, 1))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LIT_GEN_CACHE", str(tmp_path))
    monkeypatch.setattr(classifier_score, "BATCH", 20)
    return tmp_path


def test_it_learns_and_says_how_well() -> None:
    trained = train(*DATA, steps=25)

    assert trained.accuracy > 0.8
    right = trained.logits(DATA[2]).argmax(1) == DATA[3]
    assert trained.accuracy == pytest.approx(float(right.double().mean()))


def test_training_is_the_same_each_time_and_touches_no_other_draws() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()

    first, second = (train(*DATA, steps=3) for _ in range(2))

    assert first.id == second.id
    assert len(first.id) == 8
    assert torch.equal(torch.get_rng_state(), state)
    assert train(*DATA, steps=4).id != first.id


def test_it_is_trained_once_for_each_data_and_again_if_its_file_is_damaged(cache: Path) -> None:
    asked = []

    def data():
        asked.append(1)
        return DATA

    first, second = classifier(data, "colours", 3), classifier(data, "colours", 3)
    assert len(asked) == 1
    assert (first.id, first.accuracy) == (second.id, second.accuracy)
    assert torch.equal(first.logits(DATA[2]), second.logits(DATA[2]))

    classifier(data, "others", 3)
    assert len(asked) == 2

    for path in cache.rglob("*.pt"):
        path.write_bytes(path.read_bytes()[:1000])
    assert classifier(data, "colours", 3).id == first.id
    assert len(asked) == 3
    assert not list(cache.rglob("*.part"))
