"""Where a number came from: code, packages, machine."""

import os
import platform
import resource
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

from lit_gen.harness.spec import PACKAGE

PACKAGES = ("lit-gen", "torch", "pytorch-lightning", "torchmetrics", "numpy", "jsonargparse")


class Stretch:
    """A stretch of training between two interruptions: `facts` go into the record.

    Known at its start: code, packages, machine. Measured as it goes on, so that a stretch that is
    killed has its cost too: steps, seconds of wall and CPU time, peak memory of the process in MB.
    """

    def __init__(self, device: str, threads: int) -> None:
        self.began, self.cpu, self.first_step = time.monotonic(), time.process_time(), 0
        self.facts: dict[str, Any] = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **code(),
            "packages": {name: _version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "device": device,
            "threads": threads,
        }

    def measure(self, steps: int) -> None:
        """Brings the cost up to date; `steps` are the run's so far."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.facts |= {
            "steps": steps - self.first_step,
            "wall_s": round(time.monotonic() - self.began, 1),
            "cpu_s": round(time.process_time() - self.cpu, 1),
            "peak_memory_mb": round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6),
        }


def code() -> dict[str, Any]:
    """The commit of the checkout that the code runs from, and whether tracked files differ."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}  # installed from a wheel: the version says it
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def _git(root: os.PathLike, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=10
    ).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()
