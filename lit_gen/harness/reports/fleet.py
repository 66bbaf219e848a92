"""What a person sees while many runs train: one table of all, or plain lines now and then."""

import heapq
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lit_gen.harness.record import Record
from lit_gen.harness.reports.progress import PLAIN_EVERY, duration

ENDED = ("finished", "stopped", "diverged", "crashed", "lost")
ORDER = ("running", "retried", "waiting", *reversed(ENDED))  # if not all fit on the screen
AROUND = 8  # lines of the screen that are not the table's rows


@dataclass
class Row:
    """A run in the table.

    Attributes:
        first, latest: (steps, time) when its worker's first step was over, and now.
        steps: in an epoch; `step` of them are done in this one.
    """

    record: Record
    state: str = "waiting"
    deaths: int = 0
    first: tuple[int, float] | None = None
    latest: tuple[int, float] = (0, 0.0)
    step: int = 0
    steps: int = 0

    @property
    def pace(self) -> float | None:
        """Seconds a step takes."""
        done = self.latest[0] - self.first[0] if self.first else 0
        return (self.latest[1] - self.first[1]) / done if done > 0 else None

    def left(self, pace: float | None, steps: int) -> float | None:
        """Seconds until its last epoch is over."""
        if not pace or not steps:
            return None
        return max(0, self.record.max_epochs * steps - self.record.steps) * pace


class FleetDisplay:
    """Follows all runs of one invocation.

    Args:
        console: where to show; a terminal gets a table that renews itself.
        records: of all runs, as far as they are.
        metrics: whose values are shown first.
        budget: seconds that they may take together, or None.
    """

    def __init__(
        self, console: Console, records: list[Record], metrics: list[str], budget: float | None
    ) -> None:
        self.console, self.metrics, self.budget = console, metrics, budget
        self.rows = {record.name: Row(record) for record in records}
        self.began = self.printed = time.monotonic()
        self.workers = 0
        self.live: Live | None = None
        first = records[0]
        many = len({record.cell for record in records}) > 1
        self.cells = many  # if all runs are of one cell, it stands above the table
        self.title = first.reproduction + ("" if many else f"  {first.setting}  {first.protocol}")

    # --- what happens

    def start(self, record: Record, folder: Path) -> None:
        """A run begins, or goes on."""
        row = self.rows[record.name]
        row.record, row.state = record, "running"
        if not self.console.is_terminal:
            self.say(f"{self._name(record)} begins: {folder / 'record.json'}")

    def step(self, record: Record, step: int, steps: int) -> None:
        """Step number `step` of `steps` in this epoch is done."""
        row = self.rows[record.name]
        row.record, row.state, row.step, row.steps = record, "running", step, steps
        row.latest = record.steps, time.monotonic()
        row.first = row.first or row.latest

    def epoch(self, record: Record) -> None:
        """An epoch is done."""
        self.rows[record.name].record = record
        self.rows[record.name].step = 0

    def end(self, record: Record, folder: Path) -> None:
        """A run is over, one way or another, or was over before."""
        row = self.rows[record.name]
        before = " before" if row.state == "waiting" else ""
        row.record, row.state, row.step = record, record.status, 0
        why = (record.error or {}).get("message")
        said = {
            "finished": f"finished{before}: {self._numbers(record)}",
            "stopped": f"stopped ({why}) after {record.epochs} of {record.max_epochs} epochs",
        }.get(record.status, f"{record.status}: {why}\n  record: {folder / 'record.json'}")
        self.say(f"{self._name(record)} {said}")

    def again(self, record: Record, deaths: int) -> None:
        """A run's worker died; another will go on with it."""
        row = self.rows[record.name]
        row.record, row.state, row.deaths, row.step = record, "retried", row.deaths + 1, 0
        row.first = None
        where = f"epoch {record.epochs}" if record.epochs else "the start or a checkpoint near it"
        self.say(f"{self._name(record)}: its worker died; another goes on from {where}")

    def lost(self, record: Record, folder: Path, why: str) -> None:
        """A run is given up."""
        self.rows[record.name].state = "lost"
        self.say(f"{self._name(record)} lost: {why}\n  record: {folder / 'record.json'}")

    def say(self, text: str) -> None:
        """A line that stays, above the table."""
        self.console.print(text, soft_wrap=True, highlight=False)

    def tick(self, workers: int) -> None:
        """Time passes; that many workers are at work."""
        self.workers = workers
        if self.console.is_terminal:
            if self.live is None:
                self.live = Live(console=self.console, auto_refresh=False, transient=True)
                self.live.start()
            self.live.update(self.drawn(), refresh=True)
        elif time.monotonic() - self.printed > PLAIN_EVERY:
            self.printed = time.monotonic()
            for row in self.rows.values():
                if row.state == "running":
                    record, left = row.record, self._left(row)
                    said = f"epoch {record.epochs} of {record.max_epochs}"
                    if numbers := self._numbers(record):
                        said += f": {numbers}"
                    if left is not None:
                        said += f"; {duration(left)} left"
                    self.say(f"  {self._name(record)} {said}")
            self.say(f"  {self.total()}")

    def close(self) -> None:
        """Gives the terminal back."""
        if self.live:
            self.live.stop()
            self.live = None

    # --- how it looks

    def drawn(self) -> Group:
        """The table with what stands around it, no higher than the screen."""
        room = max(3, self.console.height - AROUND)
        rows = sorted(self.rows.values(), key=lambda row: ORDER.index(row.state))[:room]
        shown = [row for row in self.rows.values() if row in rows]  # in the order of the command
        names = self._columns()[: 1 if self.console.width < 100 else 2]
        table = Table(box=None, expand=True, padding=(0, 1), header_style="dim")
        table.add_column("run", no_wrap=True)
        table.add_column("state", no_wrap=True)
        for name in ("epoch", *names, "ms/step", "time left"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in shown:
            record, pace, left = row.record, row.pace, self._left(row)
            values = [self._last(record, name) for name in names]
            running = row.state == "running"
            table.add_row(
                self._name(record),
                row.state + (f" {row.deaths}" if row.state == "retried" else ""),
                f"{record.epochs}/{record.max_epochs}",
                *("" if v is None else f"{v:,.4g}" for v in values),
                f"{1e3 * pace:,.0f}" if pace and running else "",
                duration(left) if left is not None and running else "",
                style={"waiting": "dim", "running": "bold"}.get(row.state, ""),
            )
        hidden = len(self.rows) - len(shown)
        lines = [Text(self.title, style="bold"), table]
        if hidden:
            lines.append(Text(f" and {hidden} more", style="dim"))
        help_line = "Ctrl-C stops all at a checkpoint; the same command goes on."
        return Group(*lines, Text(self.total()), Text(help_line, style="dim"))

    def total(self) -> str:
        """How many runs are in which state, and when all will be over."""
        states = [row.state for row in self.rows.values()]
        counts = [f"{states.count(s)} {s}" for s in ("running", "retried", "waiting", *ENDED)
                  if s in states]  # fmt: skip
        left = self.time_left()
        if left is None:
            said = "measuring" if self.workers else "workers are starting"
        else:
            said = f"{duration(left)} for all {len(states)}"
        said = f"{', '.join(counts)}; time left: {said}"
        if self.budget is not None:
            rest = max(0.0, self.budget - (time.monotonic() - self.began))
            if left is None or rest < left:
                said += f"; the budget ends it in {duration(rest)}"
        return said

    def time_left(self) -> float | None:
        """Seconds until the last run ends, if each free worker takes the next waiting run."""
        known = [row for row in self.rows.values() if row.pace and row.steps]
        if not known:
            return None
        pace = sum(row.pace for row in known) / len(known)
        steps = max(row.steps for row in known)
        ends = [self._left(row) or row.left(pace, row.steps or steps) or 0.0
                for row in self.rows.values() if row.state == "running"]  # fmt: skip
        ends += [0.0] * (self.workers - len(ends))
        heapq.heapify(ends)
        for row in self.rows.values():
            if row.state in ("waiting", "retried"):
                mine = row.left(pace, row.steps or steps) or 0.0
                heapq.heappush(ends, (heapq.heappop(ends) if ends else 0.0) + mine)
        return max(ends, default=0.0)

    def _left(self, row: Row) -> float | None:
        return row.left(row.pace, row.steps)

    def _name(self, record: Record) -> str:
        cell = f"{record.setting} {record.protocol} " if self.cells else ""
        return f"{cell}seed {record.key}"

    def _columns(self) -> list[str]:
        """Metrics of all curves: the claimed ones first."""
        found = {name for row in self.rows.values() for name in row.record.result.get("curve", {})}
        first = [name for name in dict.fromkeys(self.metrics) if name in found]
        return first + sorted(found - set(first), reverse=True)

    def _last(self, record: Record, name: str) -> float | None:
        values = record.result.get("curve", {}).get(name, [])
        return next((v for v in reversed(values) if v is not None), None)

    def _numbers(self, record: Record) -> str:
        """The last value of each metric that this record has."""
        values = {name: self._last(record, name) for name in self._columns()}
        return "  ".join(f"{name} {v:,.4g}" for name, v in values.items() if v is not None)
