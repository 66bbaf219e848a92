"""Commands that show: list, show, claims, report, ui."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from lit_gen.harness.commands.common import count_runs, new_console, warn
from lit_gen.harness.spec import UserError, catalogue, find

if TYPE_CHECKING:
    pass


def do_list(options: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "what it reproduces", "settings", box=None, pad_edge=False)
    for name in catalogue():
        spec = find(name)
        paper = f"{spec.paper.get('title', '')} ({spec.paper.get('year', '')})"
        what = Text.assemble(spec.summary, "\n", (paper, "dim"))
        table.add_row(name, what, ", ".join(spec.settings))
    new_console().print(table)
    return 0


def do_show(options: argparse.Namespace) -> int:
    from lit_gen.harness import store
    from lit_gen.harness.reports import report

    spec = find(options.name)
    new_console().print(report.show(spec, store.kept(spec)))
    return 0


def do_claims(options: argparse.Namespace) -> int:
    from lit_gen.harness import claims, store
    from lit_gen.harness.human import score
    from lit_gen.harness.reports import standing
    from lit_gen.harness.verdicts.certificate import judge_all

    chosen = [claims.read(name) for name in dict.fromkeys(options.papers or claims.papers())]
    specs = [spec for spec in store.specs([]) if spec.path.parent.name in {p.name for p in chosen}]
    stand: dict[claims.Paper, dict[claims.Entry, standing.Standing]] = {}
    for paper in chosen:
        ours = [spec for spec in specs if spec.path.parent.name == paper.name]
        verdicts = []
        for spec in ours:
            records = store.kept(spec)
            said = [
                verdict
                for claim in spec.claims
                for verdict in judge_all(spec, claim, records, lambda r: store.predictions(r, None))
            ]
            verdicts += score.with_people(spec, said)
            for order in spec.orders:
                verdicts += judge_all(spec, order, records, lambda r: store.predictions(r, None))
        stand[paper] = {e: standing.standing(e, ours, verdicts) for e in paper.claims}
    if options.json:
        print(standing.as_json(stand, options.context))
        return 0
    console = new_console()
    width = console.width if console.is_terminal or "COLUMNS" in os.environ else None
    for paper in chosen:
        if not width:
            for line in standing.plain(paper, stand[paper], options.context):
                print(line)
            continue
        for line in standing.listing(paper, stand[paper], width, options.context):
            if console.is_terminal:
                console.print(line, soft_wrap=True)
            else:
                print(line.plain)
        print()
    if width and len(chosen) > 1:
        every = [pair for standings in stand.values() for pair in standings.items()]
        total = standing.summary(*zip(*every, strict=True))
        console.print(f"{len(chosen)} papers, {total}")
    return 0


def do_report(options: argparse.Namespace) -> int:
    from lit_gen.harness import claims, store
    from lit_gen.harness.record import write_atomically
    from lit_gen.harness.reports import page

    folder = options.runs_dir or Path(os.environ.get("LIT_GEN_RUNS", "runs"))
    studies = [page.gather(s, folder, bool(options.runs_dir)) for s in store.specs(options.names)]
    text = page.html(studies, map(claims.read, claims.papers()), whole=not options.names)
    if options.output.is_dir():
        raise UserError(f"{options.output} is a folder. Give a file in it: -o NAME.html.")
    write_atomically(options.output, text.encode(), "Choose another place with -o.")
    problems = dict.fromkeys(problem for study in studies for problem in study.problems)
    for problem in problems:
        warn(problem)
    runs = sum(len(study.records) for study in studies)
    print(f"wrote {options.output}, with {count_runs(runs)}")
    return int(bool(problems))


def do_ui(options: argparse.Namespace) -> int:
    from lit_gen.harness.reports import ui

    return ui.show(options.name, options.port, not options.no_open)
