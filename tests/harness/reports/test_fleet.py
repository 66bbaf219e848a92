"""The table of all runs, on a narrow screen, a wide one and none."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tracked import make

from lit_gen.harness.reports import fleet
from lit_gen.harness.reports.fleet import FleetDisplay

FOLDER = Path("runs/paper_table/one")


def display(width: int = 80, runs: int = 3, height: int = 24) -> FleetDisplay:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    waiting = [replace(make(0, "running", seed), max_epochs=4) for seed in range(1, runs + 1)]
    return FleetDisplay(console, waiting, ["test/errors"], budget=None)


def shown(table: FleetDisplay) -> str:
    plain = Console(file=io.StringIO(), width=table.console.width, height=table.console.height)
    plain.print(table.drawn())
    return plain.file.getvalue()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """Sets the time."""

    def at(seconds: float) -> None:
        monkeypatch.setattr(fleet.time, "monotonic", lambda: seconds)

    at(0.0)
    return at


def walk(table: FleetDisplay, clock, seed: int = 1) -> None:
    """A run two epochs long so far, of 10 steps each, a second a step."""
    record = make(0, "running", seed)
    table.start(record, FOLDER)
    table.tick(1)
    clock(5.0)
    table.step(replace(record, steps=1), 1, 10)
    clock(24.0)
    record = replace(make(2, "running", seed), steps=20)
    table.epoch(record)
    table.step(record, 0, 10)


@pytest.mark.parametrize("width", [80, 120])
def test_each_run_has_a_line_that_fits(width: int, clock) -> None:
    table = display(width)
    walk(table, clock)
    lines = shown(table).splitlines()
    (line,) = (line for line in lines if "seed 1 " in line)

    assert all(len(line) <= width for line in lines)
    for part in ("running", "2/4", "4.333", "1,000", "20 s"):
        assert part in line
    assert ("train/loss" in lines[1] or "val/errors" in lines[1]) == (width == 120)
    assert sum("waiting" in line and "0/4" in line for line in lines) == 2
    # 20 s for this one; the others, 40 s each, take their turn at the only worker
    assert "1 running, 2 waiting; time left: 2 min for all 3" in lines[-2]
    assert table.time_left() == 20 + 40 + 40


def test_more_workers_need_less_time(clock) -> None:
    table = display()
    walk(table, clock)
    table.workers = 3

    assert table.time_left() == 40


def test_a_long_table_shows_what_runs(clock) -> None:
    table = display(runs=50)
    walk(table, clock, seed=50)
    lines = shown(table).splitlines()

    assert len(lines) < 24
    assert any("seed 50" in line for line in lines)
    assert any("more" in line for line in lines)


def test_every_end_is_a_line_that_stays(clock) -> None:
    table = display()
    walk(table, clock)
    table.again(table.rows[make(seed=1).name].record, 1)
    assert "retried 1" in shown(table)
    table.end(make(4, seed=1), FOLDER)
    table.end(make(1, "stopped", 2, error={"type": "Stopped", "message": "Ctrl-C"}), FOLDER)
    table.lost(make(1, "running", 3), FOLDER, "3 workers died of it")
    table.close()
    said = table.console.file.getvalue()

    assert "seed 1: its worker died; another goes on from epoch 2" in said
    assert "seed 1 finished: test/errors 6.333" in said
    assert "seed 2 stopped (Ctrl-C) after 1 of 4 epochs" in said
    assert "seed 3 lost: 3 workers died of it" in said
    assert "1 finished, 1 stopped, 1 lost" in table.total().replace(
        "stopped, 1 lost", "stopped, 1 lost"
    )


def test_in_a_pipe_it_speaks_every_half_minute(clock) -> None:
    table = display()
    table.console = Console(file=io.StringIO(), width=80)
    walk(table, clock)
    table.tick(1)
    first = table.console.file.getvalue()
    clock(31.0)
    table.tick(1)
    table.tick(1)
    said = table.console.file.getvalue().removeprefix(first)

    assert first.splitlines() == [f"seed 1 begins: {FOLDER / 'record.json'}"]
    assert said.count("epoch 2 of 4: test/errors 4.333") == 1
    assert said.count("time left") == 1
    assert "\x1b" not in first + said
