"""`reproduce NAME`: trains, measures, judges."""

import argparse
import contextlib
import dataclasses
import os
import shlex
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_gen.harness.commands.common import (
    count_runs,
    new_console,
    parse_budget,
    signals,
    verdicts_of,
    warn,
)
from lit_gen.harness.record import Record
from lit_gen.harness.spec import Spec, UserError, find, nearest, parse_seeds

if TYPE_CHECKING:
    from lit_gen.harness.cluster import Crew
    from lit_gen.harness.run import Run
    from lit_gen.harness.spec import Seed
    from lit_gen.harness.team import Team
    from lit_gen.harness.verdicts.curves import Progress
    from lit_gen.harness.verdicts.orders import Ranking
    from lit_gen.harness.verdicts.sequential import Plan
    from lit_gen.harness.verdicts.verdict import Verdict


def do_run(options: argparse.Namespace) -> int:
    spec = find(options.name)
    settings = _choose(options.setting, spec.settings, "setting", spec.default_setting)
    protocols = _choose(options.protocol, spec.protocols, "protocol", spec.default_protocol)
    every = list(spec.seeds)[: 1 if options.smoke else None]
    seeds = parse_seeds(options.seeds) if options.seeds else every
    budget = parse_budget(options.budget) if options.budget else None
    if options.matmul_precision:
        options.overrides["matmul_precision"] = options.matmul_precision
    chosen = options.overrides.get("data", {}).get("init_args", {})
    if {"seed", "seed_data"} & chosen.keys():
        raise UserError("--data.seed and --data.seed_data are the run's: use --seeds, as in 2:7.")
    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads {options.threads}: give 1 or more.")

    if options.devices is not None and options.devices < 1:
        raise UserError(f"--devices {options.devices}: give 1 or more.")

    # what torch's C++ half advises about processes and sockets is not for the users of a command
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from lit_gen.harness.team import joined, launched

    options.ddp = options.devices not in (None, 1) or launched() > 1
    if options.replicas is not None:
        _check_replicas(options)
    if options.compile and options.ddp:
        raise UserError("--compile is for a run on one device: leave it out, or --devices.")
    options.crew = _crew(options)

    with joined(options.devices, options.words, options.threads, options.device) as team:
        if team.leader:
            return _lead(options, spec, settings, protocols, seeds, budget, team)
        return _follow(options, spec, team)


def _follow(options: argparse.Namespace, spec: Spec, team: "Team") -> int:
    """One of the processes that train what the leader says."""
    from lit_gen.harness.run import follow

    with signals() as received:
        received.patient = True

        def stop() -> str | None:
            return received[0] if received else None

        follow(spec, team, stop, options.device, options.threads, options.data_dir)
    return 0


def _lead(
    options: argparse.Namespace,
    spec: Spec,
    settings: list[str],
    protocols: list[str],
    seeds: "list[Seed]",
    budget: float | None,
    team: "Team",
) -> int:
    from lit_gen.harness import fleet, needs, store
    from lit_gen.harness.replicas import execute_together
    from lit_gen.harness.reports.fleet import FleetDisplay
    from lit_gen.harness.reports.progress import DRAW_EVERY, Display
    from lit_gen.harness.run import Run, execute
    from lit_gen.harness.verdicts import curves

    console = new_console()
    runs = [
        Run(spec, setting, protocol, seed, options.overrides, options.smoke, options.compile)
        for setting in settings
        for protocol in protocols
        for seed in seeds
    ]
    for run in {(r.setting, r.protocol): r for r in runs}.values():
        run.resolve()  # the user's mistakes come before anything is prepared
    began = time.monotonic()
    for run in needs.missing(runs, options.runs_dir):
        console.print(f"{spec.name} needs a run of {run.spec.name}: it is trained first.")
        chosen = ([run.setting], [run.protocol], [run.seed], budget)
        if status := _lead(_for_need(options, run.spec.name), run.spec, *chosen, team):
            console.print(f"{spec.name} waits for it.")
            return status
        if budget and time.monotonic() - began > budget:
            console.print(f"{spec.name} waits: the budget of {options.budget} is spent.")
            return 0
    runs = [needs.provided(run, options.runs_dir) for run in runs]
    budget = budget and max(budget - (time.monotonic() - began), 1e-3)
    plan = _plan(options, spec, runs, console) if options.until else None
    planned = len(runs)
    crew: Crew | None = options.crew
    if crew or options.replicas:
        tasks = fleet.prepare(runs, options.runs_dir, options.data_dir)
        planned = len(tasks)
        display = FleetDisplay(console, [t.record for t in tasks], spec.judged_metrics, budget)
    else:
        display = Display(console, len(runs), budget)
    tracker = _tracker(options, console)
    deadline = time.monotonic() + budget if budget else None
    records: list[Record] = []
    with contextlib.ExitStack() as leave:
        received = leave.enter_context(signals())

        def stop() -> str | None:
            if received:
                return received[0]
            spent = deadline is not None and time.monotonic() > deadline
            return f"the budget of {options.budget} is spent" if spent else None

        def ask() -> str | None:
            """As `stop`, of a fleet: it asks so often that signals can wait for it."""
            received.patient = True
            return stop()

        drawn = [0.0]  # when
        stored: list[Record] = []  # as they were when the run began

        def progress(record: Record) -> "list[Progress]":
            """How a run under way does, for MLflow; a failure here ends no training."""
            with contextlib.suppress(Exception):
                return [curves.progress(c, record, stored) for c in spec.watched(record.setting)]
            return []

        def on_start(record: Record, folder: Path) -> None:
            display.start(record, folder)
            if tracker.wanted:
                said: list[Verdict | Ranking | Progress] = []
                with contextlib.suppress(Exception):  # it is only for show
                    ours = [one for one, _ in store.runs(spec, options.runs_dir)]
                    stored[:] = [*store.kept(spec), *ours]
                    said = verdicts_of(spec, options.runs_dir, [record.cell])
                tracker.push(record, folder, said)

        def on_step(record: Record, step: int, steps: int) -> None:
            received.patient = True
            display.step(record, step, steps)
            if options.replicas and time.monotonic() - drawn[0] > DRAW_EVERY:
                drawn[0] = time.monotonic()
                display.tick(options.replicas)

        def on_epoch(record: Record) -> None:
            display.epoch(record)
            if tracker.wanted:
                folder = options.runs_dir / spec.name / record.name
                tracker.push(record, folder, progress(record))

        def on_end(record: Record, folder: Path) -> None:
            display.end(record, folder)
            if tracker.wanted:
                tracker.push(record, folder, verdicts_of(spec, options.runs_dir, [record.cell]))

        leave.callback(display.close)
        callbacks = (on_start, on_step, on_epoch, on_end)
        if crew:
            where = (options.runs_dir, crew, options.data_dir)
            records = fleet.train(tasks, *where, ask, *callbacks, show=display)
            display.close()
        elif options.replicas:
            where = (options.runs_dir, options.device, options.threads, options.data_dir)
            several = [task.run for task in tasks]
            records = execute_together(several, options.replicas, *where, stop, *callbacks)
            display.close()
        for run in [] if crew or options.replicas else runs:
            if plan and _decided(options, spec, runs, run, plan, console):
                planned = len(records)
                break
            records.append(
                execute(
                    run,
                    options.runs_dir,
                    options.device,
                    options.threads,
                    options.data_dir,
                    stop,
                    *callbacks,
                    plan=plan and dataclasses.asdict(plan),
                    team=team,
                )
            )
            if stop() or (team.size > 1 and records[-1].status == "crashed"):
                break  # after a crash, another process may be lost
        _conclude(console, spec, options, planned, records)
        tracker.close(timeout=10 if received else 60)
    if received:
        return {"Ctrl-C": 130, "SIGTERM": 143}[received[0]]
    return int(any(r.status in ("crashed", "diverged", "running") for r in records))  # or lost


def _for_need(options: argparse.Namespace, name: str) -> argparse.Namespace:
    """The options with which a run is trained that others need."""
    own = {"name": name, "overrides": {}, "compile": False}
    alone = dict.fromkeys(("until", "replicas", "crew"))
    return argparse.Namespace(**vars(options) | own | alone)


def _check_replicas(options: argparse.Namespace) -> None:
    if options.replicas < 1:
        raise UserError(f"--replicas {options.replicas}: give 1 or more.")
    others = {
        "--workers": options.workers or options.address,
        "--devices": options.ddp,
        "--until decided": options.until,
        "--compile": options.compile,
    }
    for flag in (flag for flag, given in others.items() if given):
        raise UserError(f"--replicas trains runs in one process: leave out {flag}, or --replicas.")


def _crew(options: argparse.Namespace) -> "Crew | None":
    """Who trains several runs at a time; None if they are trained one by one, here."""
    workers, address, gpus = options.workers, options.address, options.gpus_per_run
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: give 1 or more.")
    if gpus is not None and not 1e-4 <= gpus <= 1:
        raise UserError(f"--gpus-per-run {gpus:g}: a run has one GPU or a part of it, as in 0.25.")
    if workers in (None, 1) and not address:
        if gpus is not None:
            raise UserError("--gpus-per-run is about several runs at a time: add --workers 4.")
        return None
    if options.until:
        raise UserError(
            "--until decided takes seeds one by one: leave out --workers and --address, or --until."
        )
    if options.ddp:
        raise UserError(
            "One run on several devices, or several runs at a time: give --devices or --workers."
        )

    from lit_gen.harness.cluster import Crew, has_ray

    if has_ray():
        return Crew(workers, options.threads, gpus, address, options.device)
    missing = "Ray is not installed (pip install 'lit-gen[cluster]')"
    if address:
        raise UserError(f"{missing}; --address needs it.")
    warn(f"{missing}: the runs are trained one by one.")
    return None


def _cell(options: argparse.Namespace, spec: Spec, run: "Run") -> list[tuple[Record, Path]]:
    """The records of a run's cell so far."""
    from lit_gen.harness import store
    from lit_gen.harness.run import new_record

    cell = new_record(run, run.resolve()[1].as_dict()).cell
    return [(r, f) for r, f in store.runs(spec, options.runs_dir, warn) if r.cell == cell]


def _plan(options: argparse.Namespace, spec: Spec, runs: "list[Run]", console: Any) -> "Plan":
    """Fixes how often the verdict may be looked at, and says what that may cost."""
    from lit_gen.harness import store
    from lit_gen.harness.verdicts import sequential

    if len({(run.setting, run.protocol) for run in runs}) > 1 or options.smoke:
        raise UserError(
            "--until decided settles one cell of the table: give one --setting, one --protocol and "
            "no --smoke."
        )
    records = [record for record, _ in _cell(options, spec, runs[0])]
    seeds = [run.seed for run in runs]
    claims = sequential.claims_of(spec.claims, runs[0].setting, seeds)
    plan = sequential.Plan.of(records, seeds)
    done = {r.key for r in records if r.status in ("finished", "diverged")}
    alike = [r for r in [*records, *store.kept(spec)] if r.protocol == runs[0].protocol]
    budget = parse_budget(options.budget) / 3600 if options.budget else None
    left = sum(seed not in done for seed in seeds)
    for line in plan.announce(claims, left, sequential.hours_of(alike), budget):
        console.print(line, soft_wrap=True)
    return plan


def _decided(
    options: argparse.Namespace,
    spec: Spec,
    runs: "list[Run]",
    following: "Run",
    plan: "Plan",
    console: Any,
) -> bool:
    """One look, before a further run: whether every claim of the cell is settled."""
    from lit_gen.harness import store
    from lit_gen.harness.verdicts import sequential

    pairs = [(plan.stamp(r), f) for r, f in _cell(options, spec, following)]
    ended = {record.key for record, _ in pairs if record.status in ("finished", "diverged")}
    if following.seed in ended or not pairs:
        return False
    claims = sequential.claims_of(spec.claims, following.setting, [run.seed for run in runs])
    verdicts = sequential.of_claims(store.judge(spec, pairs, [pairs[0][0].cell]), claims)
    for verdict in verdicts:
        if verdict.n > 1:
            console.print(f"look: {verdict.claim.name} {verdict.sentence}", soft_wrap=True)
    return bool(verdicts) and all(v.status != "inconclusive" for v in verdicts)


def _conclude(
    console: Any, spec: Spec, options: argparse.Namespace, runs: int, records: list[Record]
) -> None:
    """Says what the runs say about the claims, and how to go on."""
    from lit_gen.harness import store
    from lit_gen.harness.reports import report

    if options.smoke:
        console.print("A smoke run shows that all parts work; it says nothing about the claim.")
    else:
        ours = list(store.runs(spec, options.runs_dir, warn))
        verdicts = store.judge(spec, ours, [r.cell for r in records])
        if console.is_terminal:
            console.print(report.table(verdicts))
            said = report.go_on(verdicts, options.name)
        else:
            said = report.lines(verdicts, options.name)
        for line in said:
            console.print(line, soft_wrap=True)
    ended = [r.status for r in records]
    if diverged := ended.count("diverged"):
        console.print(f"{count_runs(diverged)} diverged, and will again unless something changes.")
    if unfinished := runs - ended.count("finished") - diverged:
        again = shlex.join(["reproduce", *_without_budget(options.words)])
        console.print(f"{count_runs(unfinished)} not finished. To go on: {again}", soft_wrap=True)


def _choose(text: str | None, known: Iterable[str], what: str, default: str) -> list[str]:
    known = list(known)
    if text == "all":
        return known
    chosen = text.split(",") if text else [default]
    for name in chosen:
        if name not in known:
            raise UserError(
                f"There is no {what} {name!r}.{nearest(name, known)} "
                f"There are: {', '.join(known)}, all."
            )
    return chosen


def _without_budget(words: list[str]) -> list[str]:
    """The user's words less those that end a run early."""
    kept, words = [], list(words)
    while words:
        word = words.pop(0)
        if word == "--budget":
            words.pop(0)
        elif not word.startswith("--budget="):
            kept.append(word)
    return kept


class _NoTracker:
    wanted = False

    def push(self, *_: Any) -> None: ...
    def close(self, timeout: float) -> None: ...


def _tracker(options: argparse.Namespace, console: Any) -> Any:
    if options.no_mlflow or options.smoke:
        return _NoTracker()
    from lit_gen.harness.reports.tracking import Tracker

    return Tracker(say=lambda text: console.print(text, soft_wrap=True))
