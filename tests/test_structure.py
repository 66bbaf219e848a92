"""The arrows between the folders, as DESIGN draws them."""

import ast
from pathlib import Path

import pytest

import lit_gen

ROOT = Path(lit_gen.__file__).parent
MAY_IMPORT = {
    "harness": {"harness"},
    "papers": {"nn", "metrics", "papers"},  # one paper may build on another: GAIL on TRPO
    # nn: what players and learners of a task must agree on; fetching: what data and weights share
    "datamodules": {"datamodules", "nn", "fetching"},
    "nn": {"nn"},
    "environments": {"environments"},
    "metrics": {"metrics", "fetching"},
}


def imports(path: Path) -> set[str]:
    """Folders of lit_gen that a file imports, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
    return {n.split(".")[1] for n in names if n.startswith("lit_gen.")}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_follow_the_arrows(folder: str) -> None:
    files = list((ROOT / folder).glob("*.py"))

    assert files
    for path in files:
        assert imports(path) <= MAY_IMPORT[folder], path


def test_every_folder_has_its_arrows() -> None:
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and any(p.glob("*.py"))}

    assert folders == set(MAY_IMPORT)
