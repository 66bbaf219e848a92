"""The probe: draws that nothing but their shape decides, and numbers that errors move."""

from dataclasses import replace

import pytest
import torch

from lit_gen.harness import gate, probe
from lit_gen.harness.spec import find

NAME = "improved_gan_mnist_semisup"


def test_draws_depend_on_their_shape_alone_and_have_their_distribution() -> None:
    with probe.FixedDraws(building=True):
        first = torch.rand(50, 40), torch.randn(50, 40), torch.empty(2000).normal_(3.0, 2.0)
        torch.rand(7)
        second = torch.rand(50, 40), torch.randn(50, 40), torch.empty(2000).normal_(3.0, 2.0)

    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(torch.rand(50, 40), first[0])
    uniform, normal, moved = first
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)
    assert normal.std() == pytest.approx(1.0, abs=0.02)
    assert (float(moved.mean()), float(moved.std())) == pytest.approx((3.0, 2.0), abs=0.05)


def test_noise_in_one_pass_is_that_of_three_and_latents_differ() -> None:
    with probe.FixedDraws(building=False):
        whole = torch.randn_like(torch.empty(300, 20))
        parts = torch.cat([torch.randn_like(torch.empty(100, 20)) for _ in range(3)])
        latents = torch.rand(100, 20)

    assert torch.equal(whole, parts)
    assert whole[0].std() > 0.5
    assert len(latents.unique(dim=0)) == 100


def test_differences_are_told_by_kind_and_step() -> None:
    old = {"data train": [5.0, 6.0], "lr 0": [0.1, 0.05], "step loss": [2.0, 3.0, 9.0],
           "final test/errors": [90.0]}  # fmt: skip
    rounded = old | {"step loss": [2.000001, 3.000002, 9.0], "final test/errors": [91.0]}

    assert probe.differences(old, old) == []
    assert probe.differences(old, rounded) == []
    assert probe.differences(old, old | {"lr 0": [0.1, 0.1]}) == ["lr 0 at 2 is 0.1, was 0.05"]
    (first,) = probe.differences(old, old | {"step loss": [2.001, 3.0, 9.0]})
    assert first.startswith("step loss at 1")
    late = {"step loss": [2.0] * 7}
    assert probe.differences(late, {"step loss": [*[2.0] * 6, 2.001]}) == []
    (late_one,) = probe.differences(late, {"step loss": [*[2.0] * 6, 2.01]})
    assert late_one.startswith("step loss at 7")
    played = old | {"step data train 0": [4.0, 4.0, 4.0]}
    moved = played | {"step loss": [2.0001, 3.1, 1.0]}
    assert probe.differences(played, moved) == []
    assert probe.differences(old, old | {"step loss": moved["step loss"]})
    assert probe.differences(old, old | {"final test/errors": [93.0]})
    tested = old | {"epoch test/errors": [95.0, 90.0]}
    (odd,) = probe.differences(tested, tested | {"final test/errors": [91.0]})
    assert odd == "final test/errors is 91.0, but its last epoch's 90.0"
    assert probe.differences(old, {k: v for k, v in old.items() if k != "lr 0"}) == [
        "lr 0 is missing"
    ]


def test_every_setting_and_protocol_is_probed_with_more_than_one_seed() -> None:
    spec = find(NAME)
    runs = list(probe.cells(spec))

    assert {run.setting for run in runs} == set(spec.settings)
    assert {run.protocol for run in runs} == set(spec.protocols)
    assert len({run.seed for run in runs}) > 1
    assert gate.stored_probe(spec).keys() == {probe.name(run) for run in runs}


def test_stored_numbers_that_are_damaged_or_outdated_are_complaints(tmp_path, monkeypatch) -> None:
    spec = find(NAME)
    assert gate.complaints(spec) == []

    (lost,) = gate.complaints(replace(spec, gate={}))
    assert "has no gate" in lost

    more = replace(spec, settings=spec.settings | {"labels_1000": {}})
    assert "not of today's settings" in gate.complaints(more)[0]

    monkeypatch.setattr(gate, "probe_path", lambda spec: tmp_path / "probe.json")
    (tmp_path / "probe.json").write_text('{"cells": {"a": {"lr": [NaN]}}}')
    (complaint,) = gate.complaints(spec)
    assert "not readable" in complaint
