"""Lets torchvision be imported beside a torch that its compiled part was not made for.

The package index has torchvision as a CUDA build. Beside a CPU torch its library does not load, and
its import ends with "operator torchvision::nms does not exist". torch-fidelity imports torchvision,
and so does torchmetrics where it is installed, hence Lightning. All of them work without the two
operators; it is enough that their schemas are declared. Calling one still says that it has no code.

`install` waits for the import of torchvision, and costs nothing where that never comes.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

SCHEMAS = tuple(
    f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms")
)
_kept: list[Any] = []  # a library's schemas live as long as it does


class _Finder:
    """Finds torchvision where Python would, and puts the declaration before its code."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec and spec.loader and spec.submodule_search_locations:
            folder = Path(next(iter(spec.submodule_search_locations)))
            spec.loader.exec_module = partial(_after_declaring, spec.loader.exec_module, folder)
        return spec


def install() -> None:
    """Has the schemas declared right before torchvision is first imported, if they are missing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _after_declaring(run: Callable[[ModuleType], None], folder: Path, module: ModuleType) -> None:
    declare(folder)
    run(module)


def declare(folder: Path) -> bool:
    """Declares the schemas, unless the library in torchvision's folder brings them.

    Returns:
        Whether they were missing.
    """
    import torch

    for library in sorted(folder.glob("_C*.so")) + sorted(folder.glob("_C*.pyd")):
        with suppress(OSError):  # what it links to is not here: that is the mismatch
            torch.ops.load_library(library)
    if hasattr(torch.ops.torchvision, "nms"):
        return False
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    _kept.append(library)
    return True
