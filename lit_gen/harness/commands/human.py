"""`reproduce human`: people tell a run's samples from real images."""

import argparse
import os
import sys
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from lit_gen.harness.commands.common import say, warn
from lit_gen.harness.spec import Spec, UserError, find
from lit_gen.harness.words import plural

if TYPE_CHECKING:
    from lit_gen.harness.human.trial import Trial
    from lit_gen.harness.record import Record

IMAGES = 100  # that each rater sees, unless told


def do_human(options: argparse.Namespace) -> int:
    from lit_gen.harness import trained
    from lit_gen.harness.human import score, trial

    spec = find(options.name)
    _check(options)
    asked = options.setting, options.protocol, options.seed
    record, run = trained.choose(spec, options.runs_dir, *asked, say)
    folder = score.folder_of(run, options.feedback)
    reads = options.score or options.export
    if reads:
        test = trial.load(folder)
        _fits(options, record, test)
    else:
        with trial.held(folder):  # no other process begins the test now, or adds answers
            if not (folder / trial.TRIAL).exists():
                _begin(options, spec, record, run, folder)
            test = trial.load(folder)
            _fits(options, record, test)
            _serve(options, test)
    if options.export:
        count = score.export(test, options.export)
        say(f"wrote {options.export}, {plural(count, 'answer')}")
    if options.score or not reads:
        _conclude(options, spec, record, run, test)
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.images is not None and (options.images < 2 or options.images % 2):
        raise UserError(
            f"--images {options.images}: give an even number of 2 or more, as half of them are "
            "real."
        )
    if options.port is not None and not 0 <= options.port < 65536:
        raise UserError(f"--port {options.port} is no port. Give 1024 to 65535, or none.")


def _begin(
    options: argparse.Namespace, spec: Spec, record: "Record", run: Path, folder: Path
) -> None:
    from lit_gen.harness.human import images, trial

    say("Drawing samples ...")
    each = options.images or IMAGES
    real, generated, about = images.pools(
        spec, record, run, options.runs_dir, options.data_dir, each // 2, options.feedback
    )
    about |= {"images": each, "feedback": options.feedback}
    trial.begin(folder, about, real, generated)


def _fits(options: argparse.Namespace, record: "Record", test: "Trial") -> None:
    """Whether the test that began is of this run, and of what was asked for."""
    from lit_gen.harness.verdicts.verdict import started

    about = test.about
    if (about["spec_hash"], about["run_started"]) != (record.spec_hash, started(record)):
        raise UserError(
            f"The human test in {test.folder} shows samples of another run than {record.name} is "
            "now. Move that folder away to begin another."
        )
    if options.images not in (None, test.images):
        raise UserError(
            f"The human test in {test.folder} began with {test.images} images for each rater. "
            "Leave --images out to go on, or move that folder away to begin another."
        )
    if about["epochs"] != record.epochs:
        say(
            f"The test shows samples of the run as it was after {about['epochs']} of "
            f"{plural(about['max_epochs'], 'epoch')}."
        )


def _serve(options: argparse.Namespace, test: "Trial") -> None:
    """Until Ctrl-C."""
    from lit_gen.harness.human.server import Server

    told: set[str] = set()

    def complain(message: str) -> None:
        if message not in told:
            told.add(message)
            warn(message)

    server = Server(test, options.port or 0, complain)
    worker = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    worker.start()
    try:
        say(f"The page is at {server.address}")
        if test.about["feedback"]:
            say("It says after each answer whether it was right: not how the paper measured.")
        say(
            f"Each rater has {test.images} images and a pseudonym of his own. Ctrl-C ends the test "
            "and says what was found; the same command goes on."
        )
        seen = sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
        if seen and sys.stdout.isatty() and not options.no_open:
            webbrowser.open(server.address)
        while worker.is_alive():
            worker.join(0.5)
    except KeyboardInterrupt:
        say("")
    finally:
        server.shutdown()
        server.server_close()


def _conclude(
    options: argparse.Namespace, spec: Spec, record: "Record", run: Path, test: "Trial"
) -> None:
    from lit_gen.harness.human import score

    found = score.found(spec, record, test)
    if found is None:
        say("There are no answers yet.")
        return
    content, lines = found
    for line in lines:
        say(line)
    path = score.write(content, run, test)
    say(f"wrote {path}")
    if not options.no_mlflow:
        say(score.log(record, run, test, path))
