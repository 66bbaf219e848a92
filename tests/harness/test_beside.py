"""What a run measures beside its claims is in its record, and costs no run."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from short import short

from lit_gen.harness import beside, nearest
from lit_gen.harness.record import NEAREST, PICTURES, Record, read
from lit_gen.harness.run import RECORD, Run, execute
from lit_gen.harness.spec import UserError
from lit_gen.metrics import weights
from lit_gen.metrics.two_sample import TwoSample
from lit_gen.papers.improved_gan import SemiSupervisedGAN

NAMES = {"memorisation/sample_distance", "memorisation/test_distance", "memorisation/ratio"}
PROXY = "proxy/c2st_accuracy_percent"
METRIC = {"class_path": "lit_gen.metrics.two_sample.TwoSample",
          "init_args": {"images": 120, "steps": 3}}  # fmt: skip


def asking(smoke: bool = False, metric: object = METRIC) -> Run:
    """A short run of a reproduction that asks for a proxy."""
    run = short()
    spec = replace(run.spec, metrics=run.spec.metrics | {PROXY: metric})
    return replace(run, spec=spec, smoke=smoke)


def panels(root: Path) -> list[Path]:
    return list(root.glob(f"**/{PICTURES}/{NEAREST}"))


def test_a_run_says_how_near_its_samples_are_to_training_images(tiny: Path) -> None:
    record = execute(short(), tiny / "runs", "cpu")

    found = record.result["beside"]
    assert found.keys() == NAMES
    assert all(value > 0 for value in found.values())
    assert found["memorisation/ratio"] == pytest.approx(
        found["memorisation/sample_distance"] / found["memorisation/test_distance"], rel=1e-5
    )
    assert "not_beside" not in record.provenance
    assert len(panels(tiny)) == 1
    (path,) = tiny.glob(f"runs/*/*/{RECORD}")
    assert read(path).result["beside"] == found


def test_a_model_that_copies_is_found_out(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copies(self: SemiSupervisedGAN, n: int) -> torch.Tensor:
        if self._trainer is None:
            return torch.zeros(n, 1, 28, 28)
        x = self.trainer.datamodule.images("train")
        return x[torch.arange(n) % len(x)] / 255

    monkeypatch.setattr(SemiSupervisedGAN, "sample", copies)
    record = execute(short(), tiny / "runs", "cpu")

    assert record.result["beside"]["memorisation/ratio"] < 1e-6


def test_a_proxy_is_measured_where_the_reproduction_asks_for_it(tiny: Path) -> None:
    record = execute(asking(), tiny / "runs", "cpu")

    found = record.result["beside"]
    assert found["proxy/c2st_held_out"] == 120  # half of 120 of each kind
    assert 50 < found[PROXY] <= 100
    assert record.result["metric_ids"][PROXY] == "c2st/1 of 120, 3 steps, seed 0"
    assert PROXY not in record.result["metrics"]
    assert found.keys() > NAMES


def test_a_smoke_run_asks_a_proxy_about_fewer_images(tiny: Path) -> None:
    record = execute(asking(smoke=True), tiny / "runs", "cpu")

    assert record.result["beside"]["proxy/c2st_held_out"] == beside.SMOKE


class Judge:
    """A metric that draws samples itself: their mean, and a number that cannot be had here."""

    id, names = "judge/1", ("test/mean", "test/other")

    def judge(self, sample, data, most, progress) -> NamedTuple:
        x = sample(most or 150)
        progress("looking", 1, 2)
        return Found(
            {"test/mean": float(x.mean())},
            {"test/other": f"not measurable here: none in {weights.cache() / 'weights'}"},
            {"test/mean": f"mean of {len(x)}"},
            {"means": x.mean((1, 2, 3)).numpy()},
        )


class Found(NamedTuple):
    numbers: dict
    notes: dict
    ids: dict
    arrays: dict


def judging(smoke: bool = False) -> Run:
    run = short()
    metric = {"class_path": f"{__name__}.Judge"}
    spec = replace(run.spec, metrics=run.spec.metrics | {"samples": metric})
    return replace(run, spec=spec, smoke=smoke)


def test_quality_is_of_the_final_test_and_keeps_what_it_was_computed_from(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(beside, "EVERY", -1.0)
    monkeypatch.setenv("LIT_GEN_CACHE", str(tiny / "cache"))
    record = execute(judging(), tiny / "runs", "cpu")

    (path,) = tiny.glob("runs/*/*/predictions.npz")
    kept = np.load(path)
    assert record.result["metrics"]["test/mean"] == pytest.approx(kept["means"].mean())
    assert kept["means"].shape == (150,)
    assert {"logits", "target"} < set(kept)
    assert record.result["metric_ids"]["test/mean"] == "mean of 150"
    assert record.result["metric_ids"]["test/errors"].startswith("errors/")
    why = record.provenance["not_beside"]["test/other"]
    assert why == "not measurable here: none in $LIT_GEN_CACHE/weights"  # and not where that is
    assert "looking: 1 of 2" in capsys.readouterr().out


def test_a_misspelt_metric_is_said_before_training(tiny: Path) -> None:
    run = asking(metric={"class_path": "lit_gen.metrics.two_sample.TwoSampel"})

    with pytest.raises(UserError, match="TwoSampel cannot be built"):
        execute(run, tiny / "runs", "cpu")
    assert not list(tiny.glob(f"runs/*/*/{RECORD}"))


def test_a_judge_that_fails_leaves_the_run_and_says_so_of_each_number(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(Judge, "judge", fails)
    record = execute(judging(smoke=True), tiny / "runs", "cpu")

    assert record.status == "finished"
    assert record.provenance["not_beside"] == dict.fromkeys(Judge.names, "RuntimeError: no luck")
    assert "test/errors" in record.result["metrics"]


def test_samples_that_are_no_numbers_end_no_run(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(self: SemiSupervisedGAN, n: int) -> torch.Tensor:
        x = torch.rand(n, 1, 28, 28)
        x[1], x[2] = torch.nan, torch.inf
        return x

    monkeypatch.setattr(SemiSupervisedGAN, "sample", spoilt)
    record = execute(asking(), tiny / "runs", "cpu")

    assert (record.status, record.error) == ("finished", None)
    assert "beside" not in record.result
    assert record.provenance["not_beside"] == {
        "memorisation": "ValueError: 2 of 100 samples have pixels that are not finite",
        PROXY: "ValueError: 2 of 120 generated images have pixels that are not finite",
    }
    assert len(panels(tiny)) == 1
    (path,) = tiny.glob(f"runs/*/*/{RECORD}")
    assert read(path).provenance["not_beside"] == record.provenance["not_beside"]


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (lambda self, n: torch.rand(n, 1, 14, 14), r"ValueError: samples have the shape \(1, 14, "),
        (lambda self, n: torch.rand(n, 3, 28, 28), r"the data's images \(1, 28, 28\)"),
        (lambda self, n: 2 * torch.rand(n, 1, 28, 28) - 1, r"lie in \[-1, 1\], not in \[0, 1\]"),
    ],
)
def test_samples_of_another_shape_are_not_compared(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, sample: object, said: str
) -> None:
    monkeypatch.setattr(SemiSupervisedGAN, "sample", sample)
    record = execute(short(), tiny / "runs", "cpu")

    assert record.status == "finished"
    assert "beside" not in record.result
    assert re.search(said, record.provenance["not_beside"]["memorisation"])
    assert not panels(tiny)


def test_what_a_metric_raises_or_gives_is_said_and_the_next_try_forgets_it(tmp_path: Path) -> None:
    class Model(torch.nn.Linear):
        device = torch.device("cpu")

        def sample(self, n: int) -> torch.Tensor:
            return torch.rand(n, 1, 6, 6)

    class Data:
        def images(self, split: str) -> torch.Tensor:
            return (torch.rand(200, 1, 6, 6) * 255).to(torch.uint8)

    class Odd(TwoSample):
        answer = float("nan")

        def compare(self, *_: object) -> dict[str, float]:
            return {"proxy/odd": self.answer}

    metric, spec = Odd(), replace(short().spec, metrics={"proxy/odd": ""})
    record = Record("r", "s", "p", {"data": 1, "model": 1}, {}, "0", [])
    path = tmp_path / "pictures/nearest.png"

    def measure() -> None:
        beside.measure(record, spec, Model(1, 1), Data(), path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beside.certificate, "metric", lambda spec, name: metric)
        measure()
        assert record.provenance["not_beside"] == {"proxy/odd": "ValueError: proxy/odd is nan"}
        assert record.result["beside"].keys() == NAMES
        Odd.answer = 3.0
        measure()
        assert "not_beside" not in record.provenance
        assert record.result["beside"]["proxy/odd"] == 3
        assert path.is_file()
        del Data.images
        measure()
    assert record.result == {}
    assert not path.exists()
    json.dumps(record.provenance)


def test_neither_training_nor_the_random_state_notices(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []
    measure = beside.measure

    def watched(*arguments: object) -> None:
        states.append(torch.get_rng_state())
        measure(*arguments)
        states.append(torch.get_rng_state())

    monkeypatch.setattr(beside, "measure", watched)
    execute(asking(), tiny / "runs", "cpu")

    assert torch.equal(*states)


def test_the_search_takes_all_images_of_the_set(tiny: Path) -> None:
    seen = []
    search = nearest.search

    def counted(queries: torch.Tensor, images: torch.Tensor) -> nearest.Search:
        seen.append((len(queries), len(images)))
        return search(queries, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "search", counted)
        execute(short(), tiny / "runs", "cpu")

    assert seen == [(2 * nearest.MEASURED, 200)]
