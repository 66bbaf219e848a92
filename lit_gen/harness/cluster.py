"""Ray: who trains, and how this process joins a cluster, or starts one here and leaves nothing."""

import contextlib
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from lit_gen.harness.spec import UserError


def has_ray() -> bool:
    return find_spec("ray") is not None  # importing it would fix its settings


@dataclass(frozen=True)
class Crew:
    """Who trains.

    Attributes:
        workers: how many at a time; None on a cluster: one per GPU, or else per machine.
        threads: of each; None shares the cores.
        gpus: of each; None shares the GPUs.
        address: of a Ray cluster; None starts Ray on this machine.
    """

    workers: int | None = None
    threads: int | None = None
    gpus: float | None = None
    address: str | None = None
    device: str = "auto"

    def shared(self, machines: list[tuple[int, int]]) -> "Crew":
        """Fills in what is not given, for machines with that many cores and GPUs.

        It depends on nothing that changes when the same command goes on: at other numbers of
        threads a run would not give the same bits.
        """
        machines = [m for m in machines if m[0]] or [(1, 0)]  # a cluster's head may offer nothing
        gpus = [] if self.device in ("cpu", "mps") else [g for _, g in machines if g]
        workers = self.workers or sum(gpus) or len(machines)
        threads = min(c for c, _ in machines) // math.ceil(workers / len(machines))
        share = self.gpus or 0.0
        if self.device in ("cpu", "mps"):
            share = 0.0
        elif gpus and self.gpus is None:  # a run sits on one: three on two GPUs have half of one
            share = 1 / math.ceil(math.ceil(workers / len(gpus)) / min(gpus))
        return replace(
            self,
            workers=workers,
            threads=self.threads or max(1, threads),
            gpus=math.floor(share * 1e4) / 1e4,  # Ray's digits
        )

    def __str__(self) -> str:
        said = f"{self.workers} worker{'s' * (self.workers != 1)}, {self.threads} CPU thread"
        said += "s" * (self.threads != 1) + (f" and {self.gpus:g} GPU" if self.gpus else "")
        where = f"on the Ray cluster at {self.address}" if self.address else "on this machine"
        return f"{said} each, {where} (results repeat to the bit at equal numbers of threads)"


# --- Ray itself


@contextlib.contextmanager
def connected(crew: Crew) -> Iterator[tuple[Any, Crew]]:
    """Ray, connected and quiet, and the crew in full.

    Raises:
        UserError: there is no cluster at that address.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "1"}
    os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = "."  # a dead worker is told here, in a line
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a FutureWarning
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    with contextlib.ExitStack() as leave:
        if crew.address:
            _knock(crew.address)
            options["address"] = crew.address
        else:
            # without a token, whoever reaches this machine could give work to its Ray
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            sweeper = leave.enter_context(_Sweeper())
            options |= {
                "address": "local",
                "num_cpus": crew.workers * crew.shared([(cores, 0)]).threads,
                "include_dashboard": False,
                "object_store_memory": 80 * 2**20,  # records are small
                "_temp_dir": sweeper.folder,
            }
            if sys.platform == "linux":  # loopback: a laptop's network comes and goes
                options["_node_ip_address"] = "127.0.0.2"
        terminated = False
        handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            import ray

            ray.init(**options)
        except SystemExit as stop:
            if stop.code in (130, 143):
                raise
            terminated = True  # Ray puts handlers of its own in place of ours
        except Exception as error:  # Ray raises many unrelated ones
            where = f"at {crew.address}" if crew.address else "on this machine"
            raise UserError(f"There is no Ray {where}: {first_line(error)}") from error
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        leave.callback(ray.shutdown)
        if terminated:
            signal.raise_signal(signal.SIGTERM)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        machines = [(int(n.get("CPU", 0)), int(n.get("GPU", 0))) for n in nodes]
        if not crew.address:
            sweeper.note_processes()
            machines = [(cores, machines[0][1])]
        crew = crew.shared(machines)
        for kind, wanted, flag in (
            ("CPU", crew.threads, "--threads"),
            ("GPU", crew.gpus, "--gpus-per-run"),
        ):
            if wanted > (most := max(node.get(kind, 0) for node in nodes)):
                raise UserError(
                    f"A run would get {wanted:g} {kind}, but no machine has more than {most:g}. "
                    f"Give less with {flag}."
                )
        yield ray, crew


def _knock(address: str) -> None:
    """Ray itself would wait for minutes.

    Raises:
        UserError: nobody answers at that address.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return  # such as `auto`
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"There is no Ray at {address}: {error}. Give auto on a machine of the cluster, "
            "HOST:6379, or ray://HOST:10001."
        ) from error


class _Sweeper:
    """Keeps a folder for a local Ray, and leaves nothing behind, even after `kill -9`.

    Ray and its workers end with their driver, but two of its helpers only a minute later, and its
    files never. So a shell waits for the end of this process, by a pipe from it.
    """

    SCRIPT = """
        trap '' INT TERM HUP
        read -r processes
        read -r end
        case "$processes$end" in
            *done) ;;
            "") sleep 60 ;;  # it was starting Ray, whose processes end by themselves
            *) sleep 2; kill -9 $processes 2>/dev/null ;;
        esac
        rm -rf "$0"
    """

    def __enter__(self) -> "_Sweeper":
        parent = tempfile.gettempdir()
        if len(parent) > 30:  # the path of a socket holds a hundred characters
            parent = "/tmp"
        self.folder = tempfile.mkdtemp(prefix="lit_gen-", dir=parent)
        command = ["/bin/sh", "-c", self.SCRIPT, self.folder]
        self.shell = subprocess.Popen(
            command, stdin=subprocess.PIPE, start_new_session=True, text=True
        )
        return self

    def note_processes(self) -> None:
        import psutil  # Ray brings it along

        processes = psutil.Process().children(recursive=True)
        self._tell(" ".join(str(p.pid) for p in processes if p.pid != self.shell.pid))

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):
            print(line, file=self.shell.stdin, flush=True)

    def __exit__(self, *_: Any) -> None:
        self._tell("done")
        with contextlib.suppress(OSError):
            self.shell.stdin.close()
        self.shell.wait()


def first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
