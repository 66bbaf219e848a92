"""What a person sees while a run trains: a live panel on a terminal, plain lines elsewhere."""

import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from lit_gen.harness.record import Record

PLAIN_EVERY = 30.0  # seconds between plain lines
DRAW_EVERY = 0.2  # seconds between updates of the panel


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 5 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


class Display:
    """Follows the runs of one invocation.

    Args:
        console: where to show; a terminal gets a panel that renews itself.
        runs: how many runs there are in all.
        budget: seconds that they may take together, or None.
    """

    def __init__(self, console: Console, runs: int, budget: float | None) -> None:
        self.console, self.runs, self.budget = console, runs, budget
        self.began = time.monotonic()
        self.number = 0
        self.started = False
        self.live: Live | None = None

    def start(self, record: Record, folder: Path) -> None:
        """A run begins, or goes on."""
        self.number += 1
        self.started = True
        self.first_step: int | None = None
        self.last_drawn = self.last_printed = 0.0
        self.title = (
            f"{record.reproduction}  {record.setting}  {record.protocol}  seed {record.key}"
            f"  (run {self.number} of {self.runs})"
        )
        self.folder = folder
        if not self.console.is_terminal:
            self.console.print(f"{self.title}\n  record: {folder / 'record.json'}", soft_wrap=True)
            return
        self.bar = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:5.1f} %"),
            console=self.console,
            expand=True,
        )
        self.task = self.bar.add_task("", total=record.max_epochs)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self.live.start()
        self._draw(record, 0, 1)

    def step(self, record: Record, step: int, steps: int) -> None:
        """A training step is done: number `step` of `steps` in this epoch."""
        now = time.monotonic()
        if self.first_step is None:  # the first step warms up; time counts from its end
            self.first_step, self.first_time = record.steps, now
        if self.live and now - self.last_drawn > DRAW_EVERY:
            self.last_drawn = now
            self._draw(record, step, steps)

    def epoch(self, record: Record) -> None:
        """An epoch is done."""
        now = time.monotonic()
        steps = record.steps // record.epochs
        if self.live:
            self._draw(record, 0, steps)
        elif now - self.last_printed > PLAIN_EVERY or record.epochs == record.max_epochs:
            self.last_printed = now
            self.console.print(
                f"  epoch {record.epochs} of {record.max_epochs}: {self._numbers(record)}; "
                f"{self._eta(record, steps)}",
                soft_wrap=True,
            )

    def end(self, record: Record, folder: Path) -> None:
        """The run is over, one way or another, or was over before."""
        self.close()
        before = "" if self.started else " before"
        self.number += not self.started
        self.started = False
        what = {
            "finished": f"finished{before}: {self._numbers(record)}",
            "stopped": f"stopped ({(record.error or {}).get('message')}) after "
            f"{record.epochs} of {record.max_epochs} epochs",
        }.get(record.status, f"{record.status}: {(record.error or {}).get('message')}")
        self.console.print(f"seed {record.key} {what}", soft_wrap=True, highlight=False)
        self.console.print(f"  record: {folder / 'record.json'}", soft_wrap=True)

    def close(self) -> None:
        """Gives the terminal back."""
        if self.live:
            self.live.stop()
            self.live = None

    def _draw(self, record: Record, step: int, steps: int) -> None:
        self.bar.update(self.task, completed=record.epochs + step / steps)
        rows = [
            Text(self.title, style="bold"),
            self.bar,
            Text(self._numbers(record) or f"step {step} of {steps} of the first epoch"),
            Text(self._eta(record, steps)),
            Text(f"record: {self.folder / 'record.json'}", style="dim", overflow="fold"),
            Text("Ctrl-C stops at a checkpoint; the same command goes on.", style="dim"),
        ]
        self.live.update(Group(*rows))

    def _numbers(self, record: Record) -> str:
        """Every number of the last epoch."""
        parts = []
        for name, column in sorted(record.result.get("curve", {}).items(), reverse=True):
            values = [v for v in column if v is not None]
            if values:
                parts.append(f"{name} {values[-1]:,.4g}")
        return "  ".join(parts)

    def _eta(self, record: Record, steps: int) -> str:
        now = time.monotonic()
        done = record.steps - (self.first_step or 0)
        if self.first_step is None or done < 1:
            return "time left: measuring"
        rate = done / (now - self.first_time)
        this = (record.max_epochs * steps - record.steps) / rate
        later = (self.runs - self.number) * record.max_epochs * steps / rate
        left = f"time left: {duration(this)} for this run ({1e3 / rate:.0f} ms a step)"
        if later:
            left += f", {duration(this + later)} for all {self.runs}"
        if self.budget is not None:
            rest = max(0.0, self.budget - (now - self.began))
            if rest < this + later:
                left += f"; the budget ends it in {duration(rest)}"
        return left
