"""Commands about data and records: data, sync, keep, check, rescore, pack, verify."""

import argparse
from pathlib import Path

from lit_gen.harness.commands.common import parse_budget, say, signals, verdicts_of, warn
from lit_gen.harness.spec import Spec, UserError, find
from lit_gen.harness.words import plural


def do_data(options: argparse.Namespace) -> int:
    from lit_gen.harness import store
    from lit_gen.harness.run import Run

    if options.action == "verify" and options.data_dir and not Path(options.data_dir).is_dir():
        raise UserError(f"There is no folder {options.data_dir}. Correct --data-dir.")
    failed, done = False, set()
    for spec in store.specs(options.names):
        run = Run(spec, spec.default_setting, spec.default_protocol, spec.seeds[0], {})
        _, data, _ = run.build(*run.resolve(), "cpu", options.data_dir)
        if not hasattr(data, "verify"):
            continue
        if options.action == "fetch":
            data.prepare_data()
        for file in data.verify():
            if (file.name, file.path) in done:  # another reproduction has it, too
                continue
            done.add((file.name, file.path))
            failed |= file.status != "ok"
            print(f"{file.status:8} {file.name}  {file.path or ''}")
    return int(failed)


def do_sync(options: argparse.Namespace) -> int:
    from lit_gen.harness import store
    from lit_gen.harness.reports import courses, figures, tracking

    specs = {spec.name: spec for spec in store.specs(options.names)}
    pairs = [
        (record, folder)
        for spec in specs.values()
        for record, folder in store.runs(spec, options.runs_dir, warn)
        if not record.smoke
    ]
    if not pairs:
        print(f"There are no records in {options.runs_dir}.")
        return 0
    said = {
        (name, cell): verdicts_of(specs[name], options.runs_dir, [cell])
        for name, cell in {(record.reproduction, record.cell) for record, _ in pairs}
    }
    drawn: dict[tuple[str, str], dict[str, str]] = {}
    for name, spec in specs.items():
        theirs = [r for r, _ in pairs if r.reproduction == name]
        for by in (figures, courses):
            for plot in by.plots(spec, theirs):
                file = f"{plot.figure.title}.svg"
                drawn.setdefault((name, plot.kind), {})[file] = by.file(plot)
    outcomes = tracking.sync(
        pairs,
        None,
        lambda r: said[r.reproduction, r.cell],
        figures=lambda r: drawn.get((r.reproduction, figures.kind(r)), {}),
    )
    sent = sum(outcome.sent > 0 for outcome in outcomes)
    print(f"{plural(len(outcomes), 'record')} looked at, {sent} of them brought up to date")
    return int(any(outcome.problem for outcome in outcomes))


def do_keep(options: argparse.Namespace) -> int:
    from lit_gen.harness import store

    unread: list[str] = []
    for spec in store.specs(options.names):
        list(store.runs(spec, options.runs_dir, unread.append))
        for path in store.keep(spec, options.runs_dir, store.warn):
            print(f"kept {path}")
        store.kept(spec, unread.append)
    print(f"wrote {store.write_readme()}")
    return int(bool(unread))


def do_check(options: argparse.Namespace) -> int:
    from lit_gen.harness import gate, store, verify
    from lit_gen.harness.run import Run

    budget = parse_budget(options.train, "--train") if options.train else None
    complaints = []
    specs = store.specs(options.names)
    for spec in specs:
        for setting in spec.settings:
            for protocol in spec.protocols:
                Run(spec, setting, protocol, spec.seeds[0], {}).resolve()
        complaints += verify.complaints(spec)
        if lacking := verify.without_runs(spec):
            say(lacking)
    if not options.names:
        complaints += verify.orphans()
        page = store.readme_path()
        if not page.is_file() or page.read_text() != store.readme():
            complaints.append(
                f"{page} is not what the records give. `reproduce keep` writes it anew."
            )
    with signals() as received:
        if budget or options.remake or options.remake_probe:
            received.patient = True
            complaints += _train_gates(options, specs, budget, received)
    for spec in specs:
        complaints += gate.complaints(spec)
    if received:
        warn("Interrupted.")
        return {"Ctrl-C": 130, "SIGTERM": 143}[received[0]]
    for complaint in complaints:
        store.warn(complaint)  # unless it was said on the way
    say(f"{plural(len(specs), 'reproduction')} checked, {plural(len(complaints), 'complaint')}")
    return int(bool(complaints))


def _train_gates(
    options: argparse.Namespace, specs: list[Spec], budget: float | None, received: list[str]
) -> list[str]:
    """Trains the gates' short runs and says what is wrong with their curves."""
    from lit_gen.harness import gate

    gated = [spec for spec in specs if spec.gate]
    if not gated:
        raise UserError("None of these reproductions has a gate: short runs and their curves.")
    complaints = []

    def stop() -> str | None:
        return received[0] if received else None

    machine = gate.Machine(options.device, options.threads, options.data_dir, say, stop)
    for spec in gated:
        if options.remake:
            say(f"{spec.name}: making the gate's curves anew")
            gate.remake(spec, machine)
        elif options.remake_probe:
            say(f"{spec.name}: making the gate's probe anew")
            gate.remake_probe(spec, machine)
        if budget and not gate.folder(spec).is_dir():
            complaints.append(f"{spec.name} has no stored curves. `check --remake` makes them.")
            continue
        if not budget or gate.complaints(spec):  # these are said by `check`
            continue
        say(f"{spec.name}: short runs for about {budget / len(gated):.0f} s")
        for finding in gate.findings(spec, budget / len(gated), machine):
            if stop():
                return complaints
            say(f"  {finding.of} {finding.status}: {finding.sentence}")
            if finding.bad:
                complaints.append(
                    f"{spec.name}, {finding.of}, no longer trains as stored: {finding.sentence}. "
                    "If that is meant, `reproduce check --remake` stores new numbers."
                )
    return complaints


def do_rescore(options: argparse.Namespace) -> int:
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
    print(f"{plural(seen, 'finished record')} looked at, {changed} {would}rescored")
    return 0


def do_pack(options: argparse.Namespace) -> int:
    from lit_gen.harness import bundle
    from lit_gen.harness.record import write_atomically

    spec = find(options.name)
    output = options.output or Path(f"{spec.name}.zip")
    if output.is_dir():
        raise UserError(f"{output} is a folder. Give a file in it: -o NAME.zip.")
    content = bundle.pack(spec, options.runs_dir, warn)
    write_atomically(output, content, "Choose another place with -o.")
    print(f"wrote {output}, {len(content) / 1e6:.1f} MB; `reproduce verify {output}` judges it")
    return 0


def do_verify(options: argparse.Namespace) -> int:
    from lit_gen.harness.verify import examine

    def complain(message: str) -> None:
        for advice in ("Move it away.", "Give a record's file."):
            message = message.replace(
                advice, "Give a record.json, a run's folder or a file that `reproduce pack` wrote."
            )
        warn(message)

    return examine(options.paths, say, complain)
