"""The wheel works outside the checkout, with its reproductions, results and manifest inside."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "-q",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(folder.glob("*.whl"))


def test_what_is_inside(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    assert "lit_gen/reproductions/improved_gan/mnist_semisup.yaml" in names
    assert "lit_gen/data/manifest.yaml" in names
    assert "lit_gen/results/README.md" in names
    assert not [n for n in names if n.endswith((".ckpt", ".npz", ".gz", ".db")) or "tests/" in n]


def test_it_works_elsewhere(wheel: Path, tmp_path: Path, tiny_mnist: dict[str, str]) -> None:
    """Installed alone into an environment that borrows this one's dependencies."""
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False)
    site = next(environment.glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)  # what pip does with a pure wheel
    (site / "borrowed.pth").write_text(
        "\n".join(p for p in sys.path if p.endswith("site-packages")) + "\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def reproduce(*words: str) -> str:
        code = (
            "import lit_gen; from lit_gen.harness.cli import main; print(lit_gen.__file__); main()"
        )
        command = [str(environment / "bin" / "python"), "-c", code, *words]
        variables = os.environ | tiny_mnist
        variables.pop("PYTHONPATH", None)
        done = subprocess.run(
            command, cwd=elsewhere, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert str(environment) in done.stdout
        return done.stdout

    assert "improved_gan_mnist_semisup" in reproduce("list")
    assert "93 ± 6.5" in reproduce("show", "improved_gan_mnist_semisup")
    reproduce("improved_gan_mnist_semisup", "--smoke", "--seeds", "1")
    assert len(list(elsewhere.glob("runs/*/*/record.json"))) == 1
