"""Where a number came from: code, packages, machine, and what it cost.

What a platform does not tell is left out, or null where the record has always had the field.
"""

import ctypes
import hashlib
import os
import platform
import re
import resource
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from lit_gen.harness.spec import PACKAGE

PACKAGES = ("lit-gen", "torch", "pytorch-lightning", "torchmetrics", "numpy", "jsonargparse")
EXTRAS = ("scikit-learn", "torch-fidelity", "torchvision")
RAPL = Path("/sys/class/powercap")


class Stretch:
    """A stretch of training between two interruptions: `facts` go into the record.

    Known at its start: code, packages, machine, and how far its results repeat. Measured as it goes
    on, so that a stretch that is killed has its cost too: steps; seconds of wall and CPU time; peak
    memory of the process and on the GPU in MB; energy in joules, of all that ran on the processor
    and the GPU meanwhile. Of several `processes`, time and memory are the first one's.
    """

    def __init__(self, device: str, threads: int, processes: int = 1) -> None:
        self.began, self.cpu, self.first_step = time.monotonic(), time.process_time(), 0
        self.on_gpu = device not in ("cpu", "mps")
        self.meters = [*_rapl(), *(_nvidia() if self.on_gpu else [])]
        if self.on_gpu:
            import torch

            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats()
        self.facts: dict[str, Any] = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **code(),
            "packages": packages(),
            "build": build(),
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_mb": _memory(),
            "device": device,
            "threads": threads,
            **({"processes": processes} if processes > 1 else {}),
            "determinism": determinism(device),
        }
        if self.on_gpu:
            self.facts["gpu"] = _gpu()

    def measure(self, steps: int) -> None:
        """Brings the cost up to date; `steps` are the run's so far."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.facts |= {
            "steps": steps - self.first_step,
            "wall_s": round(time.monotonic() - self.began, 1),
            "cpu_s": round(time.process_time() - self.cpu, 1),
            "peak_memory_mb": round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6),
        }
        if self.on_gpu:
            import torch

            self.facts["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
        if self.meters:
            self.facts["energy_j"] = round(sum(meter.read() for meter in self.meters))
            self.facts["energy_of"] = [meter.name for meter in self.meters]


# --- code and packages


def code(root: Path = PACKAGE.parent) -> dict[str, Any]:
    """The commit of the checkout that the code runs from, and what differs from it.

    `diff` is the SHA-256 of every file that does, by name and content: tracked ones, and Python and
    YAML files in lit_gen/ and reproductions/ that git does not know. Two checkouts of a commit run
    the same code if it is equal. It is null where nothing differs.
    """
    unknown = {"commit": None, "dirty": None, "diff": None}
    if not (root / ".git").exists():
        return unknown  # installed from a wheel: the version says it
    try:
        commit = git(root, "rev-parse", "HEAD").strip()
        changed = git(root, "diff", "--no-ext-diff", "--name-only", "-z", "HEAD")
        others = git(root, "ls-files", "--others", "--exclude-standard", "-z", "--",
                     "lit_gen/*.py", "reproductions/*.yaml")  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return unknown
    names = sorted({*changed.split("\0"), *others.split("\0")} - {""})
    return {"commit": commit, "dirty": bool(names), "diff": _digest(root, names)}


def git(root: Path, *arguments: str) -> str:
    """Raises: OSError, subprocess.SubprocessError."""
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout


def _digest(root: Path, names: list[str]) -> str | None:
    whole = hashlib.sha256()
    for name in names:
        try:
            content = hashlib.sha256((root / name).read_bytes()).hexdigest()
        except OSError:
            content = "removed"
        whole.update(f"{name}\0{content}\n".encode())
    return whole.hexdigest() if names else None


def packages() -> dict[str, str | None]:
    """Versions of lit_gen, of all that it requires, down to the last one, and of what numbers rest
    on that ask for an extra; of what is installed."""
    found: dict[str, str | None] = dict.fromkeys(PACKAGES)
    waiting = [*PACKAGES, *EXTRAS]
    while waiting:
        name = waiting.pop(0)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = distribution.version
        for requirement in distribution.requires or ():
            needed = re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")
            if needed not in found and not re.search(r"\bextra\s*==", requirement):
                found[needed] = None
                waiting.append(needed)
    return {name: v for name, v in found.items() if v or name in PACKAGES}


def build() -> dict[str, Any]:
    """The libraries inside the packages, which their versions do not tell."""
    import torch

    lines = torch.__config__.show()
    onednn = re.search(r"MKL-DNN (v\S+)", lines)
    blas = re.search(r"BLAS_INFO=(\w+)", lines)
    version = re.search(r"Math Kernel Library Version (\S+)", lines)
    facts = {
        "torch": torch.version.git_version,
        "torch_blas": " ".join(m[1] for m in (blas, version) if m),
        "torch_onednn": onednn and onednn[1],
        "torch_instructions": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
    }
    try:
        inside = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        facts["numpy_blas"] = f"{inside['name']} {inside['version']}"
    except (KeyError, TypeError):
        pass
    return {name: value for name, value in facts.items() if value}


def determinism(device: str) -> dict[str, Any]:
    """How far the results repeat, by torch's own switches at this moment.

    Args:
        device: cpu, mps, or a GPU's name.
    """
    import torch

    switches = {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }
    if device == "cpu":
        level = "bit for bit on the same processor, number of threads and packages"
        return {"level": level, **switches}
    if device == "mps":
        return {"level": "not known", **switches}
    switches |= {
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
    }
    sure = switches["deterministic_algorithms"] and not switches["cudnn_benchmark"]
    level = "bit for bit on the same kind of GPU and packages" if sure else "not to the bit"
    return {"level": level, **switches}


# --- the machine


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def _memory() -> int | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6)
    except (OSError, ValueError):
        return None


def _gpu() -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": properties.name,
        "memory_mb": round(properties.total_memory / 1e6),
        "capability": f"{properties.major}.{properties.minor}",
    }


class Meter:
    """Joules since it was made, from a counter that starts again at 0 after `most`."""

    def __init__(self, name: str, counter: Any, most: float = float("inf")) -> None:
        self.name, self.counter, self.most = name, counter, most
        self.last, self.sum = counter(), 0.0

    def read(self) -> float:
        try:
            now = self.counter()
        except (OSError, ValueError):
            return self.sum
        self.sum += now - self.last + (self.most if now < self.last else 0.0)
        self.last = now
        return self.sum


def _rapl() -> list[Meter]:
    """Intel's and AMD's counters, one for each processor; Linux shows them to few users."""
    meters = []
    for zone in sorted(RAPL.glob("intel-rapl:[0-9]*")):
        if zone.name.count(":") > 1:
            continue  # a part of a processor, which its whole includes
        try:
            most = int((zone / "max_energy_range_uj").read_text()) / 1e6

            def joules(file: Path = zone / "energy_uj") -> float:
                return int(file.read_text()) / 1e6

            meters.append(Meter(f"cpu{zone.name.partition(':')[2]}", joules, most))
        except (OSError, ValueError):
            continue
    return meters


def _nvidia() -> list[Meter]:
    """The counter of the GPU in use, by NVIDIA's management library."""
    import torch

    try:
        uuid = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
        library, handle = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
        if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(
            uuid.encode(), ctypes.byref(handle)
        ):
            return []

        def joules() -> float:
            millijoules = ctypes.c_ulonglong()
            if library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)):
                raise OSError("the GPU has no energy counter")
            return millijoules.value / 1000

        return [Meter("gpu", joules)]
    except (OSError, AttributeError, RuntimeError, AssertionError):
        return []
