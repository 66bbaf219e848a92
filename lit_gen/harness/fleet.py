"""Many runs at a time, on this machine or on a Ray cluster. Only this file and cluster.py know Ray.

The driver, which is the command itself, keeps some workers busy: processes that Ray starts, each
training one run after another by `execute`. Twice a second it asks every worker for news, and the
question brings along a reason to stop, if there is one. A worker that nobody asks any more has lost
its driver and stops at a checkpoint.

A worker that dies costs the steps since the last checkpoint: its run is given to another worker.
The lock of a run's directory goes with the dead process, and keeps two from training the same run.
"""

import contextlib
import copy
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lit_gen.harness.cluster import Crew, connected, first_line
from lit_gen.harness.record import RECORD, Record, read, write_atomically
from lit_gen.harness.run import InUse, Run, execute, new_record
from lit_gen.harness.spec import UserError, digest

ASK_EVERY = 0.5  # seconds between two questions for news
ORPHANED_AFTER = 60.0  # seconds without a question
LOOK_AFTER = 10.0  # seconds without any worker: is Ray still there?
GRACE = 120.0  # seconds for all runs to stop at a checkpoint; an epoch's end may be a long test
LOCK_WAIT = 30.0  # seconds until a dead process has surely left its lock
MOST_DEATHS = 3  # of a run's workers, without another checkpoint in between
MOST_FAILED_STARTS = 10  # of workers, in a row
TOKEN = ".fleet"  # in the runs directory: whoever reads it there shares our storage
# what the user set for the data layer, to hold on other machines too
ENVIRONMENT = ("LIT_GEN_DATA", "LIT_GEN_CACHE", "LIT_GEN_MANIFEST", "LIT_GEN_OFFLINE")


@dataclass
class Task:
    """A run on its way through the fleet.

    Attributes:
        record: the latest that is known of it.
        began: whether a worker of this command trains it, or did.
        ended: there is nothing left to do: finished, stopped, crashed, diverged or lost.
        deaths: of its workers since its last checkpoint.
        saved: steps at that checkpoint.
    """

    run: Run
    record: Record
    folder: Path
    began: bool = False
    ended: bool = False
    deaths: int = 0
    saved: int = 0


class Show(Protocol):
    """What the user sees, beside what the callbacks of `execute` tell."""

    def say(self, text: str) -> None: ...
    def again(self, record: Record, deaths: int) -> None: ...
    def lost(self, record: Record, folder: Path, why: str) -> None: ...
    def tick(self, workers: int) -> None: ...


def prepare(runs: list[Run], root: Path, data_dir: str | None) -> list[Task]:
    """Each different run as a task; their data is there afterwards.

    Raises:
        UserError: arguments, or data that cannot be found.
    """
    tasks: dict[Path, Task] = {}
    data_sets = set()
    for run in runs:
        parser, config = run.resolve()
        record = new_record(run, config.as_dict())
        folder = run.directory(root, record)
        task = tasks.setdefault(folder, Task(run, record, folder))
        if before := on_disk(task):
            task.ended = before.status in ("finished", "diverged")
            task.record, task.saved = before, before.steps
        if not task.ended and (name := digest(record.config["data"])) not in data_sets:
            data_sets.add(name)
            run.build(parser, config, "cpu", data_dir)[1].prepare_data()
    return list(tasks.values())


def on_disk(task: Task) -> Record | None:
    """The run's record as last written, if there is a readable one."""
    with contextlib.suppress(UserError):
        if (task.folder / RECORD).is_file():
            record = read(task.folder / RECORD)
            return record if record.spec_hash == task.record.spec_hash else None
    return None


# --- in a worker's process


class News(NamedTuple):
    """How a worker's run does: its record if that is new, and number `step` of an epoch's
    `steps`, in all `done`."""

    record: Record | None
    step: int
    steps: int
    done: int


class Worker:
    """Trains runs in one thread of its process, and answers the driver in another."""

    def __init__(self) -> None:
        self.reason: str | None = None  # to stop
        self.asked = time.monotonic()
        self.state: tuple[Record | None, int, int, int] = (None, 0, 1, 0)
        self.told: Record | None = None

    def check(self, version: str, root: str, token: str, environment: dict[str, str]) -> str | None:
        """Why nothing can be trained here, or None."""
        here = f"the worker on {socket.gethostname()}"
        if _version() != version:
            return f"{here} has lit_gen {_version()}, this is {version}. Install the same there."
        path = Path(root) / TOKEN
        for _ in range(10):  # a network's file system may take its time
            with contextlib.suppress(OSError):
                if path.read_text() == token:
                    os.environ.update(environment)
                    return None
            time.sleep(0.5)
        return (
            f"{here} does not see what is in {root}. Checkpoints must lie where all machines of "
            "the cluster find them: give a folder on shared storage with --runs-dir."
        )

    def train(
        self, run: Run, spec_hash: str, root: str, device: str, threads: int, data_dir: str | None
    ) -> tuple[str, Any]:
        """('ended', record), ('refused', what the user can mend) or ('failed', a bug's message)."""
        self.asked = time.monotonic()
        self.state, self.told = (None, 0, 1, 0), None
        try:
            resolved = new_record(run, run.resolve()[1].as_dict())
            if resolved.spec_hash != spec_hash:
                raise UserError(
                    f"{run.spec.name} has other defaults on {socket.gethostname()} than here. "
                    "Install the same code there."
                )
            return "ended", self._execute(run, Path(root), device, threads, data_dir)
        except Exception as error:
            mendable = getattr(error, "exit_status", None) == 2
            return ("refused", str(error)) if mendable else ("failed", repr(error))

    def _execute(self, run: Run, *where: Any) -> Record:
        deadline = time.monotonic() + LOCK_WAIT
        while True:
            try:
                return execute(
                    run,
                    *where,
                    stop=self._stop,
                    on_start=lambda record, _: self._note(record),
                    on_step=self._step,
                    on_epoch=self._note,
                )
            except InUse:  # perhaps by a process that has just been killed
                if time.monotonic() > deadline or self._stop():
                    raise
                time.sleep(0.5)

    def _note(self, record: Record) -> None:
        self.state = (copy.deepcopy(record), 0, self.state[2], record.steps)

    def _step(self, record: Record, step: int, steps: int) -> None:
        if self.state[0].epochs != record.epochs:  # it came from a checkpoint
            self._note(record)
        self.state = (self.state[0], step, steps, record.steps)

    def _stop(self) -> str | None:
        if time.monotonic() - self.asked > ORPHANED_AFTER:
            return "the command that started it is gone"
        return self.reason

    def news(self, reason: str | None) -> News:
        """How it goes; the runs here shall stop if there is a reason."""
        self.asked, self.reason = time.monotonic(), reason
        record, *at = self.state
        new, self.told = (record if record is not self.told else None), record
        return News(new, *at)


def _version() -> str:
    try:
        return metadata.version("lit-gen")
    except metadata.PackageNotFoundError:  # a checkout on PYTHONPATH
        return "not installed"


# --- in the driver


@dataclass(eq=False)
class _Member:
    """A worker, the call that it is at, and its task once it is past `check`."""

    actor: Any
    call: Any
    task: Task | None = None
    question: tuple[Any, Task] | None = None  # the call for news that is under way


def train(
    tasks: list[Task],
    root: Path,
    crew: Crew,
    data_dir: str | None,
    stop: Callable[[], str | None],
    on_start: Callable[[Record, Path], None],
    on_step: Callable[[Record, int, int], None],
    on_epoch: Callable[[Record], None],
    on_end: Callable[[Record, Path], None],
    show: Show,
) -> list[Record]:
    """Trains all tasks, as many at a time as the crew has workers.

    The arguments are those of `execute`, whose callbacks are told of all runs in turn.

    Returns:
        The records of all runs that ended; a lost one's status is still "running".

    Raises:
        UserError: what the user can mend; all other runs stop at a checkpoint first.
    """
    for task in tasks:
        if task.ended:
            on_end(task.record, task.folder)
    if not all(task.ended for task in tasks):
        token = _leave_token(root)
        with connected(crew) as (ray, crew):
            show.say(str(crew))
            callbacks = (on_start, on_step, on_epoch, on_end)
            _Fleet(ray, crew, tasks, root, data_dir, token, stop, callbacks, show).work()
    return [task.record for task in tasks if task.ended]


class _Fleet:
    def __init__(
        self,
        ray: Any,
        crew: Crew,
        tasks: list[Task],
        root: Path,
        data_dir: str | None,
        token: str,
        stop: Callable[[], str | None],
        callbacks: tuple[Callable, ...],
        show: Show,
    ) -> None:
        self.ray, self.crew, self.show, self.stop = ray, crew, show, stop
        self.on_start, self.on_step, self.on_epoch, self.on_end = callbacks
        self.root = str(root.resolve())
        self.data_dir = str(Path(data_dir).resolve()) if data_dir else None
        environment = {k: os.environ[k] for k in ENVIRONMENT if k in os.environ}
        for name in ("LIT_GEN_DATA", "LIT_GEN_CACHE", "LIT_GEN_MANIFEST"):
            if environment.get(name):
                environment[name] = str(Path(environment[name]).resolve())
        self.checks = (_version(), self.root, token, environment)
        self.factory = _by_value(ray).options(
            num_cpus=crew.threads, num_gpus=crew.gpus, max_concurrency=2
        )
        self.waiting = deque(task for task in tasks if not task.ended)
        self.members: list[_Member] = []
        self.refused: str | None = None
        self.failed_starts = 0

    def work(self) -> None:
        deadline, last, quiet = None, 0.0, time.monotonic()
        try:
            while True:
                reason = self.stop() or (self.refused and "another run was refused")
                if reason:
                    deadline = deadline or time.monotonic() + GRACE
                    for member in [m for m in self.members if m.task is None]:
                        self._dismiss(member)
                    if self.members and time.monotonic() > deadline:
                        self.show.say(
                            f"{len(self.members)} runs did not stop within {GRACE:.0f} s; they go "
                            "on from their last checkpoint."
                        )
                        break
                else:
                    busy = sum(m.task is not None for m in self.members)
                    while len(self.members) < min(self.crew.workers, busy + len(self.waiting)):
                        actor = self.factory.remote()
                        self.members.append(_Member(actor, actor.check.remote(*self.checks)))
                if not self.members:
                    break
                calls = {member.call: member for member in self.members}
                for call in self.ray.wait(list(calls), num_returns=1, timeout=ASK_EVERY)[0]:
                    self._settle(calls[call], reason)
                busy = sum(m.task is not None for m in self.members)
                quiet = time.monotonic() if busy else quiet
                if time.monotonic() - quiet > LOOK_AFTER:
                    quiet = time.monotonic()
                    if not any(node["Alive"] for node in self.ray.nodes()):
                        raise UserError("Ray itself has ended. The same command goes on.")
                if time.monotonic() - last > ASK_EVERY:
                    last = time.monotonic()
                    self._ask(reason)
                    self.show.tick(busy)
        finally:
            for member in list(self.members):
                self._dismiss(member)
        if self.refused:
            raise UserError(self.refused)

    def _dismiss(self, member: _Member) -> None:
        self.members.remove(member)
        with contextlib.suppress(Exception):  # it may be gone
            self.ray.kill(member.actor)

    def _settle(self, member: _Member, reason: str | None) -> None:
        """A worker's call is over: what now?"""
        try:
            outcome = self.ray.get(member.call)
        except self.ray.exceptions.RayError as error:
            self._dismiss(member)
            self._died(member.task, error, reason)
            return
        self.failed_starts = 0
        task = member.task
        if task is None:
            if outcome:
                self.refused = f"{outcome[0].upper()}{outcome[1:]}"
        else:
            kind, value = outcome
            if kind == "refused":
                self.refused = self.refused or value
            elif kind == "failed":
                self._lost(task, f"it failed outside training: {value}")
            elif value.status == "stopped" and not reason:
                self.waiting.appendleft(task)  # we slept, and it took us for gone
            else:
                task.record, task.ended = value, True
                if not task.began:  # too short to be heard of
                    self.on_start(value, task.folder)
                self.on_end(value, task.folder)
        if self.refused or reason or not self.waiting:
            self._dismiss(member)
            return
        member.task = task = self.waiting.popleft()
        member.call = member.actor.train.remote(
            task.run, task.record.spec_hash, self.root, self.crew.device, self.crew.threads,
            self.data_dir,
        )  # fmt: skip

    def _died(self, task: Task | None, error: Exception, reason: str | None) -> None:
        """A worker died: its run is given to another, unless it kills one after the other."""
        if task is None:
            self.failed_starts += 1
            if self.failed_starts >= MOST_FAILED_STARTS:
                self.refused = f"No worker can be started: {first_line(error)}"
            return
        if before := on_disk(task):
            if before.steps > task.saved:
                task.deaths, task.saved = 0, before.steps
            task.record = before
        task.deaths += 1
        if reason:
            return  # as if it had stopped at its last checkpoint
        if task.deaths < MOST_DEATHS:
            self.waiting.appendleft(task)
            self.show.again(task.record, task.deaths)
            return
        self._lost(
            task,
            f"{MOST_DEATHS} workers died of it without reaching another checkpoint, the last one "
            f"because: {first_line(error)}",
        )

    def _lost(self, task: Task, why: str) -> None:
        task.ended = True
        self.show.lost(task.record, task.folder, why)

    def _ask(self, reason: str | None) -> None:
        """Tells whether to stop, and hears how the runs do."""
        busy = [member for member in self.members if member.task is not None]
        for member in busy:
            if member.question is None:
                member.question = member.actor.news.remote(reason), member.task
        asked = {member.question[0]: member for member in busy}
        if not asked:
            return
        for call in self.ray.wait(list(asked), num_returns=len(asked), timeout=ASK_EVERY / 5)[0]:
            member = asked[call]
            task, member.question = member.question[1], None
            with contextlib.suppress(self.ray.exceptions.RayError):  # its other call says it
                news = self.ray.get(call)
                if task is member.task:
                    self._hear(task, news)

    def _hear(self, task: Task, news: News) -> None:
        if news.record is not None:
            further = task.began and news.record.epochs > task.record.epochs
            task.record = news.record
            if not task.began:
                task.began = True
                self.on_start(task.record, task.folder)
            elif further:
                self.on_epoch(task.record)
        if task.began and news.done > task.record.steps:
            task.record.steps = news.done
            self.on_step(task.record, news.step, news.steps)


def _leave_token(root: Path) -> str:
    """What tells this runs directory from any other; the same for all who use it.

    Raises:
        UserError: it cannot be written.
    """
    path = root / TOKEN
    if not path.is_file():
        mine = path.with_name(f"{TOKEN}.{secrets.token_hex(4)}")
        write_atomically(mine, secrets.token_hex(16).encode())
        with contextlib.suppress(FileExistsError):  # another command was first: its token counts
            os.link(mine, path)
        mine.unlink()
    return path.read_text()


def _by_value(ray: Any) -> Any:
    """The worker as Ray sends it: as code, so that a machine without lit_gen can say so."""

    class Reproduce:
        def check(self, *given: Any) -> str | None:
            try:
                from lit_gen.harness.fleet import Worker
            except ImportError as error:
                import socket

                return (
                    f"lit_gen of this version is not on {socket.gethostname()} ({error}). Install "
                    "it on every machine of the cluster."
                )
            self.worker = Worker()
            return self.worker.check(*given)

        def train(self, *given: Any) -> tuple[str, Any]:
            return self.worker.train(*given)

        def news(self, reason: str | None) -> Any:
            return self.worker.news(reason)

    return ray.remote(max_restarts=0, max_task_retries=0)(Reproduce)
