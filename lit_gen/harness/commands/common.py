"""What several commands need: times, signals, consoles."""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_gen.harness.spec import Spec, UserError

if TYPE_CHECKING:
    from lit_gen.harness.verdicts.curves import Progress
    from lit_gen.harness.verdicts.orders import Ranking
    from lit_gen.harness.verdicts.verdict import Verdict


def parse_budget(text: str, flag: str = "--budget") -> float:
    """'90', '90s', '5m', '1.5h' -> seconds.

    Raises:
        UserError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?", text.strip())
    if not match or not float(match[1]):
        raise UserError(f"{flag} {text!r} is not a time. Write 90s, 5m or 2h.")
    unit = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}[match[2] or "s"]
    return float(match[1]) * unit


def new_console() -> Any:
    from rich.console import Console

    class Patient(Console):
        def on_broken_pipe(self) -> None:
            hush()

    return Patient(highlight=False, markup=False)


def say(text: str) -> None:
    """A line on stdout. Whoever stops reading, as `head` does, ends neither the work nor changes
    its exit status."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        hush()


def hush() -> None:
    """Nobody reads stdout any more: what is still printed goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def count_runs(n: int) -> str:
    return f"{n} run" if n == 1 else f"{n} runs"


def warn(message: str) -> None:
    print(message, file=sys.stderr)


def verdicts_of(
    spec: Spec, runs_dir: Path, cells: list[str]
) -> "list[Verdict | Ranking | Progress]":
    """On the claims and orders of these cells, and on their unfinished runs."""
    from lit_gen.harness import store

    return store.judge(spec, list(store.runs(spec, runs_dir)), cells)


def first_process() -> bool:
    """Whether this is the process that speaks, of those that torchrun or SLURM started."""
    if int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_STEP_NUM_TASKS", 1))) < 2:
        return True
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def leave(status: int) -> None:
    """Ends the command, as a signal asks."""
    warn("Interrupted.")
    sys.exit(status)


class Received(list[str]):
    """Signals that came. Once `patient`, they are only noted, for `stop` to be asked about."""

    patient = False
    leaving: int | None = None  # the exit status, once one of them ends the command


@contextlib.contextmanager
def signals() -> Iterator[Received]:
    """Notes Ctrl-C and SIGTERM while training; before that, and a second time, they end at once."""
    received = Received()

    def note(number: int, _: Any) -> None:
        if received or not received.patient:
            received.leaving = 130 if number == signal.SIGINT else 143
            leave(received.leaving)  # Lightning would keep a KeyboardInterrupt
        received.append("Ctrl-C" if number == signal.SIGINT else "SIGTERM")

    previous = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    except SystemExit:
        if received.leaving is None:
            raise
        raise SystemExit(received.leaving) from None  # Ray turns an exit during its calls into 1
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
