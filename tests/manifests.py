"""The list of files that ships, changed to describe a test's own."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

SHIPPED = Path(__file__).parents[1] / "data/manifest.yaml"


def shipped() -> dict[str, Any]:
    return yaml.safe_load(SHIPPED.read_text())


def described(path: Path) -> dict[str, Any]:
    """A file's entry."""
    content = path.read_bytes()
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def use(manifest: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the files of a folder, as the manifest has them, this process's data."""
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    monkeypatch.setenv("LIT_GEN_MANIFEST", str(folder / "manifest.yaml"))
    monkeypatch.setenv("LIT_GEN_DATA", str(folder))
