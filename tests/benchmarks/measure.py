"""What the measuring scripts share: contenders take turns, medians and ratios are kept as JSON.

Each turn is a process of its own, so no contender inherits another's warm caches or peak memory. A
round is one turn of each; the one that begins changes from round to round. Ratios are taken within
a round and then summarised, so a machine that slows down for a while slows both sides.

Needs neither lit_gen nor Lightning: the peers' environment has other versions of both.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
Turn = dict[str, Any]  # what a contender's process says: ms, peak_memory_mb, ...


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments that all scripts have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--threads", type=int, help="of torch; its own choice by default")
    made.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    made.add_argument("--workers", type=int, default=0, help="processes of each DataLoader")
    made.add_argument("--write", action="store_true", help=f"keep the result in {RESULTS.name}/")
    made.add_argument("--turn", help=argparse.SUPPRESS)  # a contender: this process is its turn
    made.add_argument("--round", type=int, default=1, help=argparse.SUPPRESS)  # from 1
    return made


def take_turns(script: str, names: Sequence[str], rounds: int) -> dict[str, list[Turn]]:
    """Calls `script` once for each contender and round, with this call's own arguments.

    Raises:
        SystemExit: a turn failed; its message is on stderr.
    """
    said: dict[str, list[Turn]] = {name: [] for name in names}
    for i in range(rounds):
        for name in (*names[i % len(names) :], *names[: i % len(names)]):
            which = ["--turn", name, "--round", str(i + 1)]
            command = [sys.executable, script, *sys.argv[1:], *which]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name} failed in round {i + 1}, exit status {done.returncode}.")
            said[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {i + 1}: {name} {said[name][-1]}", file=sys.stderr, flush=True)
    return said


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median and range, and each round's value, to four digits."""
    rounded = [float(f"{v:.4g}") for v in values]
    middle = float(f"{statistics.median(values):.4g}")
    return {"median": middle, "min": min(rounded), "max": max(rounded), "rounds": rounded}


def compare(said: dict[str, list[Turn]], images: int, reference: str) -> dict[str, dict[str, Any]]:
    """Each contender's time, its ratio to `reference`, images a second and peak memory.

    Args:
        said: the turns of each contender, in the order of the rounds.
        images: in a step.
        reference: the contender that ratios are taken to.
    """
    found = {}
    for name, turns in said.items():
        found[name] = {}
        for clock, ratio in (("ms", "ratio"), ("cpu_ms", "cpu_ratio")):
            pairs = zip(turns, said[reference], strict=True)
            found[name][clock] = summary([turn[clock] for turn in turns])
            found[name][ratio] = summary([ours[clock] / theirs[clock] for ours, theirs in pairs])
        found[name]["images_per_s"] = round(images / found[name]["ms"]["median"] * 1e3)
        for peak in ("peak_memory_mb", "peak_gpu_memory_mb"):
            if peak in turns[0]:
                found[name][peak] = round(statistics.median(turn[peak] for turn in turns))
    return found


def lines(found: dict[str, dict[str, Any]]) -> str:
    """`compare`'s answer for a terminal."""
    rows = []
    for name, of in found.items():
        ms, ratio, cpu = of["ms"], of["ratio"], of["cpu_ratio"]
        rows.append(
            f"{name:>12}: {ms['median']:.4g} ms a step [{ms['min']:.4g}, {ms['max']:.4g}], "
            f"{ratio['median']:.3f} [{ratio['min']:.3f}, {ratio['max']:.3f}] times bare "
            f"(CPU time {cpu['median']:.3f} [{cpu['min']:.3f}, {cpu['max']:.3f}]), "
            f"{of['images_per_s']} images/s, peak memory {of['peak_memory_mb']} MB"
        )
    return "\n".join(rows)


def peak_memory() -> Turn:
    """Of this process without a DataLoader's workers, and on the GPU if it used one, in MB."""
    import torch

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = {"peak_memory_mb": round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6)}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        said["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
    return said


def now(device: str) -> tuple[float, float]:
    """Seconds on the wall's clock and of CPU time, once the device has done what it was told."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def per_step(began: tuple[float, float], ended: tuple[float, float], steps: int) -> Turn:
    """Milliseconds a step, of both. CPU time hardly depends on what else the machine does."""
    wall, cpu = (1e3 * (b - a) / steps for a, b in zip(began, ended, strict=True))
    return {"ms": wall, "cpu_ms": cpu}


def ceiling(device: str, seconds: float = 2.0) -> dict[str, float]:
    """GFLOP/s of the fastest of many large square matrix products, for each way to compute one.

    `highest`, `high` and `medium` are torch's float32 precisions: on CUDA, `high` is TF32; on a
    CPU, `medium` may multiply bfloat16 inputs. `bfloat16` has such inputs and outputs.
    """
    import torch

    n = 8192 if device == "cuda" else 2048
    before = torch.get_float32_matmul_precision()
    rates = {}
    for name in ("highest", "high", "medium", "bfloat16"):
        torch.set_float32_matmul_precision(before if name == "bfloat16" else name)
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        out = torch.empty(n, n, device=device, dtype=dtype)
        torch.mm(a, b, out=out)
        best, until = float("inf"), now(device)[0] + seconds
        while (began := now(device)[0]) < until:
            torch.mm(a, b, out=out)
            best = min(best, now(device)[0] - began)
        rates[name] = 2 * n**3 / best / 1e9
    torch.set_float32_matmul_precision(before)
    return rates


def machine(device: str, threads: int | None, packages: Sequence[str]) -> dict[str, Any]:
    """What the numbers were measured on, without anything that names whose machine it is."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as facts:
            return next(line.split(":")[1].strip() for line in facts if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def read(name: str) -> dict[str, Any]:
    """The measurement that was kept, or nothing."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write(name: str, facts: dict[str, Any]) -> None:
    """Keeps a measurement; table.py shows it in the README."""
    RESULTS.mkdir(exist_ok=True)
    dated = {"date": time.strftime("%Y-%m-%d", time.gmtime())} | facts
    (RESULTS / f"{name}.json").write_text(json.dumps(dated, indent=1) + "\n")


def say(turn: Callable[[], Turn], options: argparse.Namespace) -> None:
    """Takes this process's turn and prints what it found, for `take_turns` to read."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    print(json.dumps(turn() | peak_memory()), flush=True)
