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
    assert "lit_gen/claims/improved_gan.yaml" in names
    assert "lit_gen/data/manifest.yaml" in names
    assert "lit_gen/results/README.md" in names
    assert not [n for n in names if n.endswith((".ckpt", ".npz", ".gz", ".db")) or "tests/" in n]


def test_it_works_elsewhere(wheel: Path, tmp_path: Path, tiny_mnist: dict[str, str]) -> None:
    """Installed by pip into an environment that borrows this one's dependencies."""
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "-q"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, text=True)
    site = next(environment.glob("lib/python*/site-packages"))
    (site / "borrowed.pth").write_text(
        "\n".join(p for p in sys.path if p.endswith("site-packages")) + "\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*command: str) -> str:
        variables = os.environ | tiny_mnist
        variables.pop("PYTHONPATH", None)
        done = subprocess.run(
            command, cwd=elsewhere, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    script = str(environment / "bin" / "reproduce")
    assert str(site) in run(str(python), "-c", "import lit_gen; print(lit_gen.__file__)")
    assert "improved_gan_mnist_semisup" in run(script, "list")
    assert "93 ± 6.5" in run(script, "show", "improved_gan_mnist_semisup")
    assert "mnist_semisup.100.single" in run(script, "claims", "improved_gan")
    run(script, "improved_gan_mnist_semisup", "--smoke", "--seeds", "1")
    assert len(list(elsewhere.glob("runs/*/*/record.json"))) == 1
