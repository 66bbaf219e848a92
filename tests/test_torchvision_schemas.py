"""A torchvision whose compiled part does not fit can be imported all the same."""

import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = """
import torch

def register(name):  # what torchvision's own import does with its operators
    @torch.library.register_fake(f"torchvision::{name}")
    def fake(dets, scores, iou_threshold):
        return scores

register("nms"), register("qnms")
"""
COUNTS = "from lit_gen import torchvision_schemas as t; import torchvision; print(len(t._kept))"


def python(code: str, beside: Path) -> subprocess.CompletedProcess:
    call = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(beside)!r}); {code}"]
    return subprocess.run(call, capture_output=True, text=True, timeout=120)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with a torchvision that has Python's part only."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text(BROKEN)
    return tmp_path


def test_a_torchvision_without_its_operators_fails_alone_and_works_with_ours(broken: Path) -> None:
    assert "torchvision::nms does not exist" in python("import torchvision", broken).stderr

    mended = python(COUNTS, broken)

    assert mended.stdout == "1\n", mended.stderr


def test_a_library_that_does_not_load_counts_as_none(broken: Path) -> None:
    (broken / "torchvision/_C.so").write_bytes(b"no library")

    mended = python(COUNTS, broken)

    assert mended.stdout == "1\n", mended.stderr


def test_operators_that_are_there_are_left_alone(broken: Path) -> None:
    own = (
        "import torch; lib = torch.library.Library('torchvision', 'DEF')\n"
        "for n in ('nms', 'qnms'):\n"
        "    lib.define(n + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
    )
    (broken / "own.py").write_text(own)

    fine = python(f"import own; {COUNTS}", broken)

    assert fine.stdout == "0\n", fine.stderr


def test_it_costs_nothing_until_torchvision_is_imported(broken: Path) -> None:
    code = (
        "import lit_gen, importlib.util as u; u.find_spec('torchvision'); "
        "print('torch' in sys.modules)"
    )

    assert python(code, broken).stdout == "False\n"


def test_the_installed_torchvision_can_be_imported(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    code = "import lit_gen, pytorch_lightning, torchvision.transforms as t; print(t.Resize(2).size)"

    done = python(code, tmp_path)

    assert done.stdout == "2\n", done.stderr
