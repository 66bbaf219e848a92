# PYTHON_ARGCOMPLETE_OK
"""The command line: `reproduce NAME`, and what surrounds it."""

import argparse
import contextlib
import dataclasses
import math
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lit_gen.harness.record import Record
from lit_gen.harness.spec import (
    Spec,
    UserError,
    catalogue,
    find,
    merge,
    nearest,
    parse_seeds,
)

if TYPE_CHECKING:
    from lit_gen.harness.run import Run
    from lit_gen.harness.verdicts.curves import Progress
    from lit_gen.harness.verdicts.sequential import Plan
    from lit_gen.harness.verdicts.verdict import Verdict

COMMANDS = {
    "run": "train, measure and judge a reproduction; `reproduce NAME` is short for it",
    "list": "all reproductions",
    "show": "claims, settings, protocol and cost of a reproduction",
    "claims": "every number that the papers report about their own methods, and where it stands",
    "data": "fetch or verify data sets",
    "ui": "open MLflow on a reproduction's runs",
    "sync": "upload records to MLflow that are not there yet",
    "keep": "copy records of runs into results/ and write results/README.md anew",
    "report": "write everything the records say as one HTML page that opens anywhere",
    "check": "re-judge all stored records; fails if what is written does not follow from them",
    "rescore": "compute the metrics of finished runs again from what the runs kept",
    "pack": "write records, predictions, claims and versions of a reproduction into one file",
    "verify": "derive again what a record or a packed file claims; says what cannot be derived",
}
EXAMPLES = """\
examples:
  reproduce list                                      what there is
  reproduce claims dcgan                              what a paper claims, and where it stands
  reproduce improved_gan_mnist_semisup --budget 5m    start; stop after five minutes and judge
  reproduce improved_gan_mnist_semisup                go on from there, to the end
  reproduce improved_gan_mnist_semisup --seeds 1-3 --setting labels_20,labels_50
  reproduce improved_gan_mnist_semisup --model.lr 1e-3 --trainer.max_epochs 10
  reproduce path/to/your.yaml                         a paper of your own

shell completion:  eval "$(register-python-argcomplete reproduce)"
"""


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit status: 0 done, 1 a run or check failed, 2 user's mistake, 130 and 143 for
    Ctrl-C and SIGTERM."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0].startswith("--") and words[0] != "--help":
        words = ["run", *words]  # `reproduce --smoke NAME`
    try:
        sys.exit(_main(words))
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:  # `reproduce list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if getattr(error, "exit_status", None) != 2:  # such as the data layer's
            raise
        _fail(str(error))


def _fail(message: str) -> None:
    print(message, file=sys.stderr)
    sys.exit(2)


def _main(words: list[str]) -> int:
    parser = _parser()
    _complete(parser)
    first = next((w for w in words if not w.startswith("-")), None)
    bare = first is not None and words[0] == first and first not in COMMANDS
    if bare:
        if not (first in catalogue() or "/" in first or first.endswith((".yaml", ".yml"))):
            raise UserError(
                f"There is no reproduction or command {first!r}."
                f"{nearest(first, [*catalogue(), *COMMANDS])} `reproduce list` shows what there is."
            )
        words = ["run", *words]
    options, rest = parser.parse_known_args(words)
    if options.command is None:
        parser.print_help()
        return 0
    options.words = words[1:] if bare else words
    if options.command == "run":
        options.overrides = parse_overrides(rest, parser)
    elif rest:
        raise UserError(f"`reproduce {options.command}` does not know {rest[0]!r}; see --help.")
    return globals()[f"_{options.command}"](options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(f"{message}. See `{self.prog} --help`.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="reproduce",
        description="Trains a paper's model, measures what the paper measured, and says whether "
        "its number was reproduced.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="command or NAME")

    def command(name: str, **kwargs: Any) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=COMMANDS[name], description=COMMANDS[name], allow_abbrev=False, **kwargs
        )

    run = command(
        "run",
        epilog="Any argument of the model, the data or Lightning's Trainer can be changed: "
        "--model.lr 1e-3, --data.batch_size 50, --trainer.max_epochs 10. "
        "Such a run has its own directory and says what it changed beside its verdict.",
    )
    name = run.add_argument("name", metavar="NAME", help="a reproduction, or a YAML file's path")
    name.completer = lambda **_: list(catalogue())
    add = run.add_argument
    add("--seeds", help="such as 1, 1-10, 1,4,7, or 2:1-10 (default: the paper's number of them)")
    add("--setting", help="columns of the table, by commas, or all (default: the main one)")
    add("--protocol", help="of those that `reproduce show NAME` lists (default: the first)")
    add(
        "--budget",
        help="stop cleanly after this time, such as 90s, 5m, 2h; the same command goes on",
    )
    add(
        "--until",
        choices=["decided"],
        help="run seeds one by one, at most those of --seeds, and stop when the verdict is settled",
    )
    add("--smoke", action="store_true", help="the same run on little data, in seconds; no verdict")
    add(
        "--matmul-precision",
        choices=["highest", "high", "medium"],
        help="of float32 products, as torch names it: medium trades digits for speed",
    )
    _machine(run)
    add("--no-mlflow", action="store_true", help="keep records only; `reproduce sync` can follow")
    _runs_dir(run)

    command("list")
    show = command("show")
    show.add_argument("name", metavar="NAME").completer = lambda **_: list(catalogue())
    claims = command("claims")
    names = claims.add_argument("papers", metavar="PAPER", nargs="*", help="papers (default: all)")
    names.completer = lambda **_: _papers()
    claims.add_argument("--context", action="store_true", help="show the rows beside them, too")
    claims.add_argument("--json", action="store_true", help="everything, for other programs")
    data = command("data")
    data.add_argument("action", choices=["fetch", "verify"])
    data.add_argument("names", metavar="NAME", nargs="*", help="reproductions (default: all)")
    data.add_argument("--data-dir", help="where the files are or shall be (also: LIT_GEN_DATA)")
    ui = command("ui")
    name = ui.add_argument("name", metavar="NAME", nargs="?", help="a reproduction (default: any)")
    name.completer = lambda **_: list(catalogue())
    ui.add_argument("--port", type=int, help="of the server to start (default: a free one)")
    ui.add_argument("--no-open", action="store_true", help="print the address, open no browser")
    for name in ("sync", "keep"):
        sub = command(name)
        sub.add_argument("names", metavar="NAME", nargs="*", help="reproductions (default: all)")
        _runs_dir(sub)
    page = command("report")
    page.add_argument("names", metavar="NAME", nargs="*", help="reproductions (default: all)")
    page.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), help="default: report.html"
    )
    page.add_argument(
        "--runs-dir",
        type=Path,
        help="show the runs in this folder, too (default: those in results/ alone, with samples "
        "from LIT_GEN_RUNS or ./runs)",
    )
    check = command("check")
    add = check.add_argument
    add("names", metavar="NAME", nargs="*", help="reproductions (default: all)")
    add(
        "--train",
        metavar="TIME",
        help="train short runs on real data, too, for about this time, such as 60s; fails if their "
        "curves leave the band of the stored ones",
    )
    add(
        "--remake",
        action="store_true",
        help="train the short runs of all seeds and store their curves in place of the old ones: "
        "after a change that is meant to move numbers",
    )
    _machine(check)
    rescore = command("rescore")
    rescore.add_argument("names", metavar="NAME", nargs="*", help="reproductions (default: all)")
    rescore.add_argument("--dry-run", action="store_true", help="write nothing")
    _runs_dir(rescore)
    pack = command("pack")
    pack.add_argument("name", metavar="NAME").completer = lambda **_: list(catalogue())
    pack.add_argument("-o", "--output", type=Path, help="default: NAME.zip")
    _runs_dir(pack)
    verify = command("verify")
    verify.add_argument(
        "paths", metavar="RECORD", nargs="+", type=Path,
        help="a record's file, a run's directory, or a file that `reproduce pack` wrote",
    )  # fmt: skip
    return parser


def _machine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="default: auto")
    add("--threads", type=int, help="CPU threads; results repeat to the bit at equal numbers")
    add("--data-dir", help="where data files are looked for first (also: LIT_GEN_DATA)")


def _runs_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs-dir",
        type=Path,
        default=Path(os.environ.get("LIT_GEN_RUNS", "runs")),
        help="folder of the run directories (default: LIT_GEN_RUNS or ./runs)",
    )


def _complete(parser: argparse.ArgumentParser) -> None:
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        # a bare name stands for `run NAME`: offer the names beside the commands
        line = os.environ.get("COMP_LINE", "").split()
        if len(line) > 1 and line[1] not in COMMANDS and line[1] in catalogue():
            head, tail = os.environ["COMP_LINE"].split(line[1], 1)
            os.environ["COMP_LINE"] = f"{head}run {line[1]}{tail}"
            os.environ["COMP_POINT"] = str(int(os.environ["COMP_POINT"]) + len("run "))
        parser._subparsers._group_actions[0].choices.update(
            {n: parser._subparsers._group_actions[0].choices["run"] for n in catalogue()}
        )
        argcomplete.autocomplete(parser)


def parse_overrides(words: list[str], parser: argparse.ArgumentParser) -> dict[str, Any]:
    """`--model.lr 1e-3 --trainer.max_epochs=5` -> what is merged over the configuration.

    Raises:
        UserError: a flag that is none of --model.*, --data.*, --trainer.*, or one without a value.
    """
    overrides: dict[str, Any] = {}
    words = list(words)
    while words:
        flag = words.pop(0)
        flag, equals, value = flag.partition("=")
        section, dot, key = flag.lstrip("-").partition(".")
        if not (flag.startswith("--") and dot and section in ("model", "data", "trainer")):
            run = parser._subparsers._group_actions[0].choices["run"]
            raise UserError(
                f"{flag!r} is no option of `reproduce run`."
                f"{nearest(flag, run._option_string_actions)} Arguments of the model, the data and "
                "the trainer are written --model.lr, --data.batch_size, --trainer.max_epochs."
            )
        if not equals:
            if not words or words[0].startswith("--"):
                raise UserError(f"{flag} needs a value, such as {flag} 1.")
            value = words.pop(0)
        path = key.split(".")
        if isinstance(number := _value(value), float) and not math.isfinite(number):
            raise UserError(f"{flag} {value} is no number to train with. Give a finite number.")
        if section != "trainer" and path[0] not in ("class_path", "init_args"):
            path = ["init_args", *path]
        tree: Any = number
        for part in reversed([section, *path]):
            tree = {part: tree}
        overrides = merge(overrides, tree)
    return overrides


def _value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)  # YAML 1.1 takes 1e-3 for a word
    return value


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


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, markup=False)


# --- run


def _run(options: argparse.Namespace) -> int:
    spec = find(options.name)
    settings = _choose(options.setting, spec.settings, "setting", spec.default_setting)
    protocols = _choose(options.protocol, spec.protocols, "protocol", spec.default_protocol)
    seeds = parse_seeds(options.seeds) if options.seeds else list(spec.seeds)
    budget = parse_budget(options.budget) if options.budget else None
    if options.matmul_precision:
        options.overrides["matmul_precision"] = options.matmul_precision
    chosen = options.overrides.get("data", {}).get("init_args", {})
    if {"seed", "seed_data"} & chosen.keys():
        raise UserError("--data.seed and --data.seed_data are the run's: use --seeds, as in 2:7.")
    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads {options.threads}: give 1 or more.")

    from lit_gen.harness import store
    from lit_gen.harness.reports.progress import Display
    from lit_gen.harness.run import Run, execute
    from lit_gen.harness.verdicts import curves

    console = _console()
    runs = [
        Run(spec, setting, protocol, seed, options.overrides, options.smoke)
        for setting in settings
        for protocol in protocols
        for seed in seeds
    ]
    for run in {(r.setting, r.protocol): r for r in runs}.values():
        run.resolve()  # the user's mistakes come before anything is prepared
    plan = _plan(options, spec, runs, console) if options.until else None
    planned = len(runs)
    display = Display(console, len(runs), budget)
    tracker = _tracker(options, console)
    deadline = time.monotonic() + budget if budget else None
    records: list[Record] = []
    with contextlib.ExitStack() as leave:
        received = leave.enter_context(_signals())

        def stop() -> str | None:
            if received:
                return received[0]
            spent = deadline is not None and time.monotonic() > deadline
            return f"the budget of {options.budget} is spent" if spent else None

        stored: list[Record] = []  # as they were when the run began

        def progress(record: Record) -> "list[Progress]":
            """How a run under way does, for MLflow; a failure here ends no training."""
            claims = {c.metric: c for c in reversed(spec.claims) if c.setting == record.setting}
            with contextlib.suppress(Exception):
                return [curves.progress(c, record, stored) for c in reversed(claims.values())]
            return []

        def on_start(record: Record, folder: Path) -> None:
            display.start(record, folder)
            if tracker.wanted:
                said: list[Verdict | Progress] = []
                with contextlib.suppress(Exception):  # it is only for show
                    ours = [one for one, _ in store.runs(spec, options.runs_dir)]
                    stored[:] = [*store.kept(spec), *ours]
                    said = _said(spec, options.runs_dir, [record.cell])
                tracker.push(record, folder, said)

        def on_step(record: Record, step: int, steps: int) -> None:
            received.patient = True
            display.step(record, step, steps)

        def on_epoch(record: Record) -> None:
            display.epoch(record)
            if tracker.wanted:
                tracker.push(record, display.folder, progress(record))

        def on_end(record: Record, folder: Path) -> None:
            display.end(record, folder)
            if tracker.wanted:
                tracker.push(record, folder, _said(spec, options.runs_dir, [record.cell]))

        leave.callback(display.close)
        for run in runs:
            if plan and _decided(options, spec, runs, run, plan, console):
                planned = len(records)
                break
            callbacks = (on_start, on_step, on_epoch, on_end)
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
                )
            )
            if stop():
                break
        _conclude(console, spec, options, planned, records)
        tracker.close(timeout=10 if received else 60)
    if received:
        return {"Ctrl-C": 130, "SIGTERM": 143}[received[0]]
    return int(any(r.status in ("crashed", "diverged") for r in records))


def _cell(options: argparse.Namespace, spec: Spec, run: "Run") -> list[tuple[Record, Path]]:
    """The records of a run's cell so far."""
    from lit_gen.harness import store
    from lit_gen.harness.run import new_record

    cell = new_record(run, run.resolve()[1].as_dict()).cell
    return [(r, f) for r, f in store.runs(spec, options.runs_dir, _warn) if r.cell == cell]


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
        ours = list(store.runs(spec, options.runs_dir, _warn))
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
        console.print(f"{_runs(diverged)} diverged, and will again unless something changes.")
    if unfinished := runs - ended.count("finished") - diverged:
        again = shlex.join(["reproduce", *_without_budget(options.words)])
        console.print(f"{_runs(unfinished)} not finished. To go on: {again}", soft_wrap=True)


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


def _runs(n: int) -> str:
    return f"{n} run" if n == 1 else f"{n} runs"


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


class _Received(list[str]):
    """Signals that came. Once `patient`, they are only noted, for `stop` to be asked about."""

    patient = False


@contextlib.contextmanager
def _signals() -> Iterator[_Received]:
    """Notes Ctrl-C and SIGTERM while training; before that, and a second time, they end at once."""
    received = _Received()

    def note(number: int, _: Any) -> None:
        if received or not received.patient:
            sys.exit(130 if number == signal.SIGINT else 143)  # Lightning keeps KeyboardInterrupt
        received.append("Ctrl-C" if number == signal.SIGINT else "SIGTERM")

    previous = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _NoTracker:
    wanted = False

    def push(self, *_: Any) -> None: ...
    def close(self, timeout: float) -> None: ...


def _tracker(options: argparse.Namespace, console: Any) -> Any:
    if options.no_mlflow or options.smoke:
        return _NoTracker()
    from lit_gen.harness.reports.tracking import Tracker

    return Tracker(say=lambda text: console.print(text, soft_wrap=True))


# --- the other commands


def _list(options: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "what it reproduces", "settings", box=None, pad_edge=False)
    for name in catalogue():
        spec = find(name)
        paper = f"{spec.paper.get('title', '')} ({spec.paper.get('year', '')})"
        what = Text.assemble(spec.summary, "\n", (paper, "dim"))
        table.add_row(name, what, ", ".join(spec.settings))
    _console().print(table)
    return 0


def _show(options: argparse.Namespace) -> int:
    from lit_gen.harness import store
    from lit_gen.harness.reports import report

    spec = find(options.name)
    _console().print(report.show(spec, store.kept(spec)))
    return 0


def _papers() -> list[str]:
    from lit_gen.harness import claims

    return list(claims.papers())


def _claims(options: argparse.Namespace) -> int:
    from lit_gen.harness import claims, store
    from lit_gen.harness.verdicts.certificate import judge_all

    chosen = [claims.read(name) for name in dict.fromkeys(options.papers or _papers())]
    specs = [spec for spec in store.specs([]) if spec.path.parent.name in {p.name for p in chosen}]
    stand: dict[claims.Paper, dict[claims.Entry, claims.Standing]] = {}
    for paper in chosen:
        ours = [spec for spec in specs if spec.path.parent.name == paper.name]
        verdicts = [
            verdict
            for spec in ours
            for records in [store.kept(spec)]
            for claim in spec.claims
            for verdict in judge_all(spec, claim, records, lambda r: store.predictions(r, None))
        ]
        stand[paper] = {e: claims.standing(e, ours, verdicts) for e in paper.claims}
    if options.json:
        print(claims.as_json(stand, options.context))
        return 0
    console = _console()
    width = console.width if console.is_terminal or "COLUMNS" in os.environ else None
    for paper in chosen:
        for line in claims.listing(paper, stand[paper], width, options.context):
            if console.is_terminal:
                console.print(line, soft_wrap=True)
            else:
                print(line.plain)
        print()
    if len(chosen) > 1:
        every = [pair for standings in stand.values() for pair in standings.items()]
        total = claims.summary(*zip(*every, strict=True))
        console.print(f"{len(chosen)} papers, {total}", soft_wrap=not width)
    return 0


def _data(options: argparse.Namespace) -> int:
    from lit_gen.harness import store
    from lit_gen.harness.run import Run

    failed, done = False, set()
    for spec in store.specs(options.names):
        run = Run(spec, spec.default_setting, spec.default_protocol, spec.seeds[0], {})
        _, data, _ = run.build(*run.resolve(), "cpu", options.data_dir)
        if type(data) in done or not hasattr(data, "verify"):
            continue
        done.add(type(data))
        if options.action == "fetch":
            data.prepare_data()
        for file in data.verify():
            failed |= file.status != "ok"
            print(f"{file.status:8} {file.name}  {file.path or ''}")
    return int(failed)


def _sync(options: argparse.Namespace) -> int:
    from lit_gen.harness import store
    from lit_gen.harness.reports import tracking

    specs = {spec.name: spec for spec in store.specs(options.names)}
    pairs = [
        (record, folder)
        for spec in specs.values()
        for record, folder in store.runs(spec, options.runs_dir, _warn)
        if not record.smoke
    ]
    if not pairs:
        print(f"There are no records in {options.runs_dir}.")
        return 0
    said = {
        (name, cell): _said(specs[name], options.runs_dir, [cell])
        for name, cell in {(record.reproduction, record.cell) for record, _ in pairs}
    }
    outcomes = tracking.sync(pairs, None, lambda r: said[r.reproduction, r.cell])
    sent = sum(outcome.sent > 0 for outcome in outcomes)
    print(f"{len(outcomes)} records looked at, {sent} of them brought up to date")
    return int(any(outcome.problem for outcome in outcomes))


def _ui(options: argparse.Namespace) -> int:
    from lit_gen.harness.reports import ui

    return ui.show(options.name, options.port, not options.no_open)


def _warn(message: str) -> None:
    print(message, file=sys.stderr)


def _said(spec: Spec, runs_dir: Path, cells: list[str]) -> "list[Verdict | Progress]":
    """On the claims of these cells, and on their unfinished runs."""
    from lit_gen.harness import store

    return store.judge(spec, list(store.runs(spec, runs_dir)), cells)


def _keep(options: argparse.Namespace) -> int:
    from lit_gen.harness import store

    for spec in store.specs(options.names):
        for path in store.keep(spec, options.runs_dir):
            print(f"kept {path}")
    print(f"wrote {store.write_readme()}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from lit_gen.harness import claims, store
    from lit_gen.harness.record import write_atomically
    from lit_gen.harness.reports import page

    folder = options.runs_dir or Path(os.environ.get("LIT_GEN_RUNS", "runs"))
    studies = [page.gather(s, folder, bool(options.runs_dir)) for s in store.specs(options.names)]
    text = page.html(studies, map(claims.read, claims.papers()), whole=not options.names)
    if options.output.is_dir():
        raise UserError(f"{options.output} is a folder. Give a file in it: -o NAME.html.")
    try:
        write_atomically(options.output, text.encode())
    except UserError as error:
        raise UserError(
            f"{options.output} cannot be written. Choose another place with -o."
        ) from error
    for problem in dict.fromkeys(problem for study in studies for problem in study.problems):
        _warn(problem)
    runs = sum(len(study.records) for study in studies)
    print(f"wrote {options.output}, with {_runs(runs)}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from lit_gen.harness import store
    from lit_gen.harness.run import Run

    budget = parse_budget(options.train, "--train") if options.train else None
    complaints = []
    specs = store.specs(options.names)
    for spec in specs:
        for setting in spec.settings:
            for protocol in spec.protocols:
                Run(spec, setting, protocol, spec.seeds[0], {}).resolve()
        complaints += store.complaints(spec)
        if said := store.without_runs(spec):
            print(said)
    if not options.names:
        complaints += store.orphans()
        page = store.readme_path()
        if not page.is_file() or page.read_text() != store.readme():
            complaints.append(
                f"{page} is not what the records give. `reproduce keep` writes it anew."
            )
    with _signals() as received:
        if budget or options.remake:
            received.patient = True
            complaints += _train_gates(options, specs, budget, received)
    if received:
        return {"Ctrl-C": 130, "SIGTERM": 143}[received[0]]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    print(f"{len(specs)} reproductions checked, {len(complaints)} complaints")
    return int(bool(complaints))


def _train_gates(
    options: argparse.Namespace, specs: list[Spec], budget: float | None, received: list[str]
) -> list[str]:
    """Trains the gates' short runs and says what is wrong with their curves."""
    from lit_gen.harness import gate

    gated = [spec for spec in specs if spec.gate]
    if not gated:
        raise UserError("None of these reproductions has a gate: short runs and their curves.")
    machine = (options.device, options.threads, options.data_dir, print)
    complaints = []

    def stop() -> str | None:
        return received[0] if received else None

    for spec in gated:
        if options.remake:
            print(f"{spec.name}: making the gate's curves anew", flush=True)
            gate.remake(spec, *machine, stop)
        if not budget:
            continue
        references = gate.stored(spec)
        if old := list(gate.outdated(spec, references)):
            complaints += old
            continue
        print(f"{spec.name}: short runs for about {options.train}", flush=True)
        for protocol, fresh in gate.train(spec, budget / len(gated), *machine, stop).items():
            if stop():
                return complaints
            finding = gate.compare(protocol, references[protocol], fresh)
            print(f"  {protocol} {finding.status}: {finding.sentence}", flush=True)
            if finding.bad:
                complaints.append(
                    f"{spec.name} {protocol} no longer trains like the stored runs: "
                    f"{finding.sentence}. If that is meant, `reproduce check --remake` stores new "
                    "curves."
                )
    return complaints


def _rescore(options: argparse.Namespace) -> int:
    from lit_gen.harness import store
    from lit_gen.harness.rescore import rescore

    seen = changed = 0
    page = False
    for spec in store.specs(options.names):
        runs, moved, kept = rescore(spec, options.runs_dir, options.dry_run, print)
        seen, changed, page = seen + runs, changed + moved, page or kept
    if page and not options.dry_run:
        print(f"wrote {store.write_readme()}")
    would = "would be " if options.dry_run else ""
    print(f"{seen} finished records looked at, {changed} {would}rescored")
    return 0


def _pack(options: argparse.Namespace) -> int:
    from lit_gen.harness import bundle
    from lit_gen.harness.record import write_atomically

    spec = find(options.name)
    output = options.output or Path(f"{spec.name}.zip")
    if output.is_dir():
        raise UserError(f"{output} is a folder. Give a file in it: -o NAME.zip.")
    content = bundle.pack(spec, options.runs_dir, _warn)
    try:
        write_atomically(output, content)
    except UserError as error:
        raise UserError(f"{output} cannot be written. Choose another place with -o.") from error
    print(f"wrote {output}, {len(content) / 1e6:.1f} MB; `reproduce verify {output}` judges it")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from lit_gen.harness.verify import examine

    return examine(options.paths, print, _warn)
