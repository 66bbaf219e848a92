"""Provenance: the code is told apart to the byte, and what the platform tells is measured."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lit_gen.harness import provenance
from lit_gen.harness.provenance import Meter, Stretch, code, packages
from lit_gen.harness.schema import SEGMENT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of one commit."""
    who = {f"GIT_{w}_{k}": "x" for w in ("AUTHOR", "COMMITTER") for k in ("NAME", "EMAIL")}
    environment = os.environ | who | {"GIT_CONFIG_GLOBAL": os.devnull}
    (tmp_path / "lit_gen").mkdir()
    (tmp_path / "lit_gen" / "a.py").write_text("x = 1\n")
    (tmp_path / "b.txt").write_text("b\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", *words], cwd=tmp_path, env=environment, check=True)
    return tmp_path


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    found = code(checkout)

    assert len(found["commit"]) == 40
    assert (found["dirty"], found["diff"]) == (False, None)


def test_changes_are_told_apart_and_come_back_to_nothing(checkout: Path) -> None:
    file, other = checkout / "lit_gen" / "a.py", checkout / "lit_gen" / "new.py"
    changes = []
    for content in ("x = 2\n", "x = 3\n"):
        file.write_text(content)
        changes.append(code(checkout)["diff"])
    file.unlink()
    changes.append(code(checkout)["diff"])
    file.write_text("x = 1\n")
    other.write_text("x = 2\n")  # unknown to git, yet Python imports it
    changes.append(code(checkout)["diff"])
    other.unlink()

    assert len({*changes, None}) == 5
    assert code(checkout)["diff"] is None


def test_notes_and_data_are_no_change_of_the_code(checkout: Path) -> None:
    (checkout / "notes.txt").write_text("-")
    (checkout / "lit_gen" / "data.bin").write_text("-")

    assert code(checkout)["dirty"] is False


def test_without_a_repository_nothing_is_claimed(tmp_path: Path) -> None:
    assert code(tmp_path) == {"commit": None, "dirty": None, "diff": None}


def test_packages_reach_what_is_required_indirectly() -> None:
    found = packages()

    assert {"torch", "numpy", "packaging", "sympy", "scipy"} <= found.keys()
    assert all(found.values())


def test_a_stretch_says_what_a_record_may_hold() -> None:
    stretch = Stretch("cpu", 3)
    stretch.first_step = 40
    sum(range(10**6))
    stretch.measure(100)
    facts = json.loads(json.dumps(stretch.facts, allow_nan=False))

    assert facts["steps"] == 60
    assert facts["threads"] == 3
    assert facts["wall_s"] >= 0
    assert facts["peak_memory_mb"] > 50
    assert facts["determinism"]["level"].startswith("bit for bit on the same processor")
    assert facts["build"]["torch"]
    assert facts["cores"] > 0
    assert facts.keys() <= SEGMENT.keys()
    assert all(SEGMENT[name][0](value) for name, value in facts.items())


def test_a_counter_that_starts_again_loses_nothing() -> None:
    shown = iter([90.0, 95.0, 5.0, 25.0])
    meter = Meter("cpu0", lambda: next(shown), most=100.0)

    assert [meter.read() for _ in range(3)] == [5.0, 15.0, 35.0]


def test_energy_of_all_processors_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for zone in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1"):  # the second is in the first
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text("0")
        (tmp_path / zone / "max_energy_range_uj").write_text("262143328850")
    monkeypatch.setattr(provenance, "RAPL", tmp_path)
    stretch = Stretch("cpu", 1)
    for zone in tmp_path.iterdir():
        (zone / "energy_uj").write_text("7000000")

    stretch.measure(1)

    assert stretch.facts["energy_j"] == 14
    assert stretch.facts["energy_of"] == ["cpu0", "cpu1"]


@pytest.mark.parametrize(("strict", "level"), [(False, "not to the bit"), (True, "bit for bit")])
def test_a_gpu_is_described_as_torch_describes_it(
    monkeypatch: pytest.MonkeyPatch, strict: bool, level: str
) -> None:
    about = SimpleNamespace(name="Some GPU", total_memory=80e9, major=9, minor=0, uuid="0-0")
    for name, value in {
        "init": None,
        "reset_peak_memory_stats": None,
        "current_device": 0,
        "get_device_properties": about,
        "max_memory_allocated": 3e9,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: strict)
    stretch = Stretch("Some GPU", 1)
    stretch.measure(1)

    assert stretch.facts["gpu"] == {"name": "Some GPU", "memory_mb": 80000, "capability": "9.0"}
    assert stretch.facts["peak_gpu_memory_mb"] == 3000
    assert stretch.facts["determinism"]["level"].startswith(level)


def test_energy_that_nobody_tells_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "RAPL", tmp_path)
    stretch = Stretch("cpu", 1)
    stretch.measure(1)

    assert not {"energy_j", "energy_of", "gpu", "peak_gpu_memory_mb"} & stretch.facts.keys()
