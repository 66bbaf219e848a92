"""The processes that train one run together (DDP): how they find each other, and agree.

They come from `reproduce NAME --devices 2`, which starts the others itself, from torchrun, or from
SLURM's srun. All run the same command. The first one, the leader, does what the command does alone;
the others train each run that it names, and write nothing.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import IO, Any

import torch
import torch.distributed as dist

from lit_gen.harness.spec import UserError

RUN = "import sys; sys.path[:] = {path!r}; from lit_gen.harness.cli import main; main()"
NAMES = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
PATIENCE = timedelta(days=1)  # in one exchange: who is dead is noticed otherwise
TO_MEET = timedelta(minutes=10)  # until all have started
GRACE = 20.0  # seconds in which a process leaves by itself once another is gone
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal when the parent ends
LOOK = 0.05  # seconds between looks for a word; signals are heard in between


class Team:
    """One process alone, which has nobody to ask."""

    rank, size, local_rank, local_size = 0, 1, 0, 1

    @property
    def leader(self) -> bool:
        return self.rank == 0

    def largest(self, *numbers: float) -> list[float]:
        """Of each number, the largest that any process gives."""
        return list(numbers)

    def average(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Of each tensor, the mean over the processes."""
        return dict(values)

    def tell(self, what: Any) -> None:
        """The leader's word, as JSON has it, to the others, who `hear` it."""

    def hear(self) -> Any:
        """What the leader tells; None when there is nothing left to do."""

    def answer(self, error: Exception | None = None) -> None:
        """To the leader, who has told what to train: ready, or why not."""

    def wait_for_answers(self) -> None:
        """Until all are ready for what was told.

        Raises:
            UserError: one of them cannot train it.
            ConnectionError: one of them is gone.
        """

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """While they train together. Before and after, each is a process of its own to torch."""
        yield

    def blame(self) -> str | None:
        """What ended the training of another process before this one's."""


ALONE = Team()


class _Joined(Team):
    def __init__(self, store: dist.Store | None, others: list[subprocess.Popen]) -> None:
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self.local_size = int(os.environ["LOCAL_WORLD_SIZE"])
        store = store or _meet(self.rank, self.size)
        # torchrun keeps its store when it starts all processes anew
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.store = dist.PrefixStore(f"start {again}", store)
        self.others = others  # those that this process started
        self.words = self.trainings = 0

    def largest(self, *numbers: float) -> list[float]:
        all_of_them = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(all_of_them, dist.ReduceOp.MAX)
        return all_of_them.tolist()

    def average(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if not values:
            return {}
        stacked = torch.stack([value.cpu() for value in values.values()])
        dist.all_reduce(stacked)
        return dict(zip(values, stacked / self.size, strict=True))

    def tell(self, what: Any) -> None:
        self.words += 1
        self.store.set(f"word {self.words}", json.dumps(what))

    def hear(self) -> Any:
        self.words += 1
        try:
            while not self.store.check([f"word {self.words}"]):
                time.sleep(LOOK)
            return json.loads(self.store.get(f"word {self.words}"))
        except RuntimeError:  # the leader is gone, and its store with it
            return None

    def answer(self, error: Exception | None = None) -> None:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}" if error else ""
        self.store.set(f"answer {self.words} of {self.rank}", text)

    def wait_for_answers(self) -> None:
        for rank in range(1, self.size):
            key = f"answer {self.words} of {rank}"
            while not self.store.check([key]):
                if lost := self.lost():
                    raise ConnectionError(lost)
                time.sleep(LOOK)
            if wrong := self.store.get(key).decode():
                raise UserError(f"Process {rank} cannot train this: {wrong}")

    def lost(self) -> str | None:
        """Which of the processes that this one started has failed, and how."""
        for rank, other in enumerate(self.others, 1):
            if status := other.poll():
                return f"process {rank} {_ended(status)}"
        return None

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        self.trainings += 1
        store = dist.PrefixStore(f"training {self.trainings}", self.store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(
            backend, store=store, rank=self.rank, world_size=self.size, timeout=PATIENCE
        )
        try:
            yield
        except Exception as error:
            self._complain(error)  # before the others fail, too, for want of this one
            raise
        finally:  # which ends the waiting of the others, if they still train
            dist.destroy_process_group()

    def _complain(self, error: Exception) -> None:
        text = f"process {self.rank}: {type(error).__name__}: {error}"
        with contextlib.suppress(Exception):  # the first one's word stays
            self.store.compare_set(f"blame {self.trainings}", "", text)

    def blame(self) -> str | None:
        deadline = time.monotonic() + 2
        while self.others and time.monotonic() < deadline:  # a dead process is seen a bit later
            if lost := self.lost():
                return lost
            time.sleep(LOOK)
        with contextlib.suppress(Exception):
            key = f"blame {self.trainings}"
            said = self.store.get(key).decode() if self.store.check([key]) else ""
            if said and not said.startswith(f"process {self.rank}:"):
                return said
        return None

    def part(self) -> None:
        """Nothing is left to do: the leader stays until the others know, as it holds the store."""
        with contextlib.suppress(Exception):
            if not self.leader:
                self.store.set(f"parted {self.rank}", "")
                return
            self.tell(None)
            keys = [f"parted {rank}" for rank in range(1, self.size)]
            deadline = time.monotonic() + 2
            while not (self.store.check(keys) or self.lost() or time.monotonic() > deadline):
                time.sleep(LOOK)


def _ended(status: int) -> str:
    if status < 0:
        return f"was killed by signal {-status} ({signal.Signals(-status).name})"
    return f"ended with exit status {status}"


def _meet(rank: int, size: int) -> dist.Store:
    try:
        return next(dist.rendezvous("env://", rank, size, timeout=TO_MEET))[0]
    except dist.DistNetworkError as error:
        at = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        what = "address already in use" if "EADDRINUSE" in str(error) else "no connection"
        raise UserError(
            f"The processes of this run cannot meet at {at}: {what}. Name another address with "
            "MASTER_ADDR, or a free port there with MASTER_PORT."
        ) from error


@contextlib.contextmanager
def joined(
    devices: int | None, words: list[str], threads: int | None, device: str = "auto"
) -> Iterator[Team]:
    """This process's team: with those that torchrun or SLURM started, or with `devices` - 1 copies
    of the command that are started here, or alone.

    Args:
        devices: processes on this machine; None takes what is there, else one.
        words: the command's.
        threads: of each process; None shares the cores.
        device: as for Lightning: auto, cpu, cuda, mps.

    Raises:
        UserError: more devices were asked for than there are, or than the launcher started.
    """
    started = launched() > 1
    local = int(os.environ["LOCAL_WORLD_SIZE"]) if started else devices or 1
    if started and devices not in (None, local):
        raise UserError(
            f"--devices {devices}, but {local} processes were started on this machine. "
            "Leave --devices out: the launcher decides."
        )
    if not started and local == 1:
        yield ALONE
        return
    _refuse_too_many(local, device, started)
    if threads is None:
        torch.set_num_threads(_threads(local))
    others = contextlib.nullcontext((None, [])) if started else _others(local, words)
    with others as (store, processes):
        if "LIT_GEN_LEADER" in os.environ:
            _follow_to_the_end()
        team = _Joined(store, processes)
        try:
            yield team
        finally:
            team.part()


def launched() -> int:
    """How many processes torchrun or SLURM has started together, with this one."""
    _from_slurm()
    return int(os.environ["WORLD_SIZE"]) if os.environ.keys() >= NAMES else 1


def _refuse_too_many(devices: int, device: str, started: bool) -> None:
    """Before anything is started."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "mps" or (device == "auto" and not gpus and torch.backends.mps.is_available()):
        raise UserError(f"--devices {devices}: Apple's GPU trains alone. Add --device cpu.")
    if device == "cuda" and not gpus:
        raise UserError("--device cuda, but torch finds no GPU here. Leave --device out.")
    if gpus < devices and (device == "cuda" or (device == "auto" and gpus)):
        there = f"{gpus} GPU" if gpus == 1 else f"{gpus} GPUs"
        mend = (
            "Start as many processes as it has GPUs, and let each see all of them (in SLURM "
            "--gpus-per-node, not --gpus-per-task)"
            if started
            else f"Use --devices {gpus}"
        )
        raise UserError(
            f"{devices} processes on this machine, but torch finds {there} here. {mend}, or "
            "--device cpu."
        )


def _threads(processes: int) -> int:
    """This process's part of the cores."""
    if "SLURM_CPUS_PER_TASK" in os.environ and "SLURM_STEP_NUM_TASKS" in os.environ:
        return int(os.environ["SLURM_CPUS_PER_TASK"])
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, cores // processes)


def _from_slurm() -> None:
    """Gives the names that torchrun uses to what srun says."""
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks < 2 or os.environ.keys() >= NAMES:
        return
    from pytorch_lightning.plugins.environments import SLURMEnvironment

    # an instance would refuse --ntasks
    first = SLURMEnvironment.resolve_root_node_address(
        os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_NODELIST", "127.0.0.1"))
    )
    step = int(os.environ.get("SLURM_JOB_ID", 0)) * 31 + int(os.environ.get("SLURM_STEP_ID", 0))
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", os.environ.get("SLURM_NNODES", 1)))
    if tasks % nodes:
        raise UserError(
            f"SLURM started {tasks} processes on {nodes} nodes. Give every node the same number, "
            "with --ntasks-per-node."
        )
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "GROUP_RANK": os.environ["SLURM_NODEID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_WORLD_SIZE": str(tasks // nodes),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", first),
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(15_000 + step % 10_000)),
    }


@contextlib.contextmanager
def _others(devices: int, words: list[str]) -> Iterator[tuple[dist.Store, list[subprocess.Popen]]]:
    """Starts the other processes of this machine; this one becomes the first.

    They meet on this machine's own network, at a port that is never free for anyone else.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=devices)
    port = listener.getsockname()[1]
    store = dist.TCPStore(
        "127.0.0.1",
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=TO_MEET,
        master_listen_fd=listener.detach(),
    )
    names = {"WORLD_SIZE": devices, "LOCAL_WORLD_SIZE": devices, "RANK": 0, "LOCAL_RANK": 0}
    names |= {"GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if "GLOO_SOCKET_IFNAME" not in os.environ:  # else it asks what this machine's name stands for
        names |= {"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"}
    before = dict(os.environ)
    os.environ |= {name: str(value) for name, value in names.items()}
    over = threading.Event()
    others: list[subprocess.Popen] = []
    said: list[IO[str]] = []
    grace = 0.0
    try:
        for rank in range(1, devices):
            said.append(tempfile.TemporaryFile("w+"))  # noqa: SIM115
            theirs = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "LIT_GEN_LEADER": str(os.getpid()),
            }
            others.append(
                subprocess.Popen(
                    [sys.executable, "-c", RUN.format(path=sys.path), *words],
                    env=os.environ | theirs,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said[-1],
                    start_new_session=True,  # Ctrl-C is the leader's to hear
                )
            )
        threading.Thread(target=_notice, args=(others, said, over), daemon=True).start()
        yield store, others
        grace = GRACE
    finally:
        over.set()
        deadline = time.monotonic() + grace
        for other in others:
            with contextlib.suppress(subprocess.TimeoutExpired):
                other.wait(max(0.0, deadline - time.monotonic()))
            other.kill()
            other.wait()
        for name in names:
            os.environ.pop(name)
        os.environ |= {name: before[name] for name in names if name in before}


def _notice(others: list[subprocess.Popen], said: list[IO[str]], over: threading.Event) -> None:
    """Ends this process if another is lost and this one hangs on it, as it may with NCCL."""
    while not over.wait(0.5):
        lost = [i for i, other in enumerate(others) if other.poll()]
        if not lost:
            continue
        if over.wait(GRACE):
            return
        said[lost[0]].seek(0)
        last = said[lost[0]].read().strip()[-2000:]
        how = _ended(others[lost[0]].returncode)
        print(f"Process {lost[0] + 1} of this run {how}. {last}", file=sys.stderr)
        print("Run the same command again to go on.", file=sys.stderr, flush=True)
        for other in others:
            other.kill()
        os._exit(1)


def _follow_to_the_end() -> None:
    """Ends this process when the one that started it is gone."""
    if sys.platform == "linux":  # Python's thread would wait for a call that hangs with its lock
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_look_for_the_leader, daemon=True).start()


def _look_for_the_leader() -> None:
    while os.getppid() == int(os.environ["LIT_GEN_LEADER"]):
        time.sleep(0.5)
    os._exit(1)
