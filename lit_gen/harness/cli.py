# PYTHON_ARGCOMPLETE_OK
"""The command line: `reproduce NAME`, and what surrounds it."""

import argparse
import contextlib
import errno
import importlib
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import yaml

from lit_gen.harness.commands import common
from lit_gen.harness.spec import (
    UserError,
    catalogue,
    merge,
    nearest,
)

COMMANDS = {
    "run": "train, measure and judge a reproduction; `reproduce NAME` is short for it",
    "list": "all reproductions",
    "show": "claims, settings, protocol and cost of a reproduction",
    "claims": "every number that the papers report about their own methods, and where it stands",
    "data": "fetch or verify data sets",
    "measure": "draw samples of a run that is trained, or as far as it is, and measure them now",
    "human": "have people tell a run's samples from real images, on a page served on this machine",
    "ui": "open MLflow on a reproduction's runs",
    "sync": "upload records to MLflow that are not there yet",
    "keep": "copy records of runs into results/ and write results/README.md anew",
    "report": "write everything the records say as one HTML page that opens anywhere",
    "check": "re-judge all stored records; fails if what is written does not follow from them",
    "rescore": "compute the metrics of finished runs again from what the runs kept",
    "pack": "write records, predictions, claims and versions of a reproduction into one file",
    "verify": "derive again what a record or a packed file claims; says what cannot be derived",
}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # what a disk that is full says
MODULES = dict.fromkeys(COMMANDS, "records") | {"run": "train"}
MODULES |= {name: name for name in ("human", "measure")}
MODULES |= dict.fromkeys(("list", "show", "claims", "report", "ui"), "look")
EXAMPLES = """\
examples:
  reproduce list                                      what there is
  reproduce claims dcgan                              what a paper claims, and where it stands
  reproduce improved_gan_mnist_semisup --budget 5m    start; stop after five minutes and judge
  reproduce improved_gan_mnist_semisup                go on from there, to the end
  reproduce improved_gan_mnist_semisup --seeds 1-3 --setting labels_20,labels_50
  reproduce improved_gan_mnist_semisup --model.lr 1e-3 --trainer.max_epochs 10
  reproduce improved_gan_mnist_semisup --seeds 1-10 --workers 4     four runs at a time
  reproduce path/to/your.yaml                         a paper of your own

shell completion:  eval "$(register-python-argcomplete reproduce)"
"""


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit status: 0 done, 1 a run or check failed, 2 user's mistake, 130 and 143 for
    Ctrl-C and SIGTERM."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0].startswith("--") and words[0] not in ("--help", "--version"):
        words = ["run", *words]  # `reproduce --smoke NAME`
    before = None
    with contextlib.suppress(ValueError):  # not the main thread
        before = signal.signal(signal.SIGTERM, lambda *_: common.leave(143))
    try:
        status = _told(words)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    sys.exit(status)


def _told(words: list[str]) -> int:
    """The exit status; what went wrong is told in a sentence."""
    status = 0
    try:
        try:
            status = _main(words)
        except SystemExit as stop:  # --help, or a signal
            status = stop.code or 0
        if sys.stdout:
            sys.stdout.flush()
    except UserError as error:
        return _fail(str(error))
    except BrokenPipeError:  # `reproduce list | head`
        common.hush()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except OSError as error:
        if error.filename or error.errno not in FULL:
            raise
        common.hush()
        return _fail(f"The output cannot be written: {error.strerror}. Free some space there.")
    except Exception as error:
        if getattr(error, "exit_status", None) != 2:  # such as the data layer's
            raise
        return _fail(str(error))
    return status


def _fail(message: str) -> int:
    if common.first_process():
        print(message, file=sys.stderr)
    return 2


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
    module = importlib.import_module(f"lit_gen.harness.commands.{MODULES[options.command]}")
    return getattr(module, f"do_{options.command}")(options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(f"{message}. See `{self.prog} --help`.")


class _Version(argparse.Action):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(nargs=0, help="show the installed version and exit", **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"lit_gen {version('lit-gen')}")
        parser.exit()


def _papers() -> list[str]:
    from lit_gen.harness import claims

    return list(claims.papers())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="reproduce",
        description="Trains a paper's model, measures what the paper measured, and says whether "
        "its number was reproduced.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version)
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
    add(
        "--compile",
        action="store_true",
        help="have torch compile the model's losses, as CUDA graphs on a GPU; pays in long runs",
    )
    add(
        "--replicas",
        type=int,
        help="train so many runs at a time as one batched computation, in one process",
    )
    add(
        "--devices",
        type=int,
        help="processes that train one run together (DDP), a GPU each, or the CPU's cores shared",
    )
    _many(run)
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
    _human(
        command(
            "human",
            epilog="Every answer is stored at once: Ctrl-C ends the test and says what was found, "
            "and the same command goes on. Raters elsewhere: ssh -L PORT:127.0.0.1:PORT, with "
            "the same --port.",
        )
    )
    measure = command(
        "measure",
        epilog="A finished run gets the numbers that its record lacks, such as those of a network "
        "whose weights were not there. What an unfinished run or fewer samples say stands beside.",
    )
    _trained(measure)
    measure.add_argument("--samples", type=int, help="fewer than the reproduction asks for")
    _machine(measure)
    _runs_dir(measure)
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
    add(
        "--remake-probe",
        action="store_true",
        help="store the numbers of the probe anew, its few steps without randomness, and keep the "
        "curves",
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


def _trained(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", help="a reproduction").completer = lambda **_: list(catalogue())
    add("--setting", help="of the run whose samples are taken (default: the main one)")
    add("--protocol", help="of that run (default: the first that has a run)")
    add("--seed", help="of that run (default: the lowest)")


def _human(parser: argparse.ArgumentParser) -> None:
    _trained(parser)
    add = parser.add_argument
    add(
        "--feedback",
        action="store_true",
        help="say after each answer whether it was right; another test, kept apart",
    )
    add("--images", type=int, help="that each rater sees, half of them real (default: 100)")
    add("--port", type=int, help="of the page on 127.0.0.1 (default: a free one)")
    add("--no-open", action="store_true", help="print the address, open no browser")
    add("--score", action="store_true", help="serve nothing: say what was found so far")
    add("--export", metavar="FILE", type=Path, help="write all answers to a .csv or .json file")
    add("--no-mlflow", action="store_true", help="keep the record only")
    add("--data-dir", help="where data files are looked for first (also: LIT_GEN_DATA)")
    _runs_dir(parser)


def _machine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="default: auto")
    add("--threads", type=int, help="CPU threads; results repeat to the bit at equal numbers")
    add("--data-dir", help="where data files are looked for first (also: LIT_GEN_DATA)")


def _many(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--workers", type=int, help="runs at a time, over Ray; they share cores and GPUs")
    add(
        "--address",
        help="of a Ray cluster to run on, such as auto, ray://HOST:10001 or HOST:6379 "
        "(default: Ray on this machine)",
    )
    add("--gpus-per-run", type=float, help="such as 0.25 (default: GPUs shared by the workers)")


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
