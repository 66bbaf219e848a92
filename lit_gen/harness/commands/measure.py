"""`reproduce measure`: samples of a trained run, measured now."""

import argparse

from lit_gen.harness.commands.common import say
from lit_gen.harness.spec import UserError, find
from lit_gen.harness.words import number, plural


def do_measure(options: argparse.Namespace) -> int:
    from lit_gen.harness import measure, trained
    from lit_gen.harness import record as records
    from lit_gen.harness.run import locked

    spec = find(options.name)
    if options.samples is not None and options.samples < 2:
        raise UserError(f"--samples {options.samples}: give 2 or more.")
    asked = options.setting, options.protocol, options.seed
    _, folder = trained.choose(spec, options.runs_dir, *asked, say)
    with locked(folder):
        record = records.read(folder / records.RECORD)
        lacks = measure.lacking(spec, record)
        fills = measure.fills(record, options.samples)
        if fills and not lacks:
            say("Its record has all numbers of samples already; --samples takes others beside it.")
            return 0
        model, data = trained.restored(
            spec, record, folder, options.runs_dir, options.data_dir, options.device,
            options.threads,
        )  # fmt: skip
        found = measure.measure(spec, record, folder, model, data, options.samples)
    ids = found["metric_ids"]
    for name, value in found["metrics"].items():
        say(f"  {name} = {number(value)}" + (f"  ({ids[name]})" if name in ids else ""))
    for name, reason in found["not_measured"].items():
        say(f"  {name}: {reason}")
    if fills:
        new = [name for name in lacks if name in found["metrics"]]
        say(f"{plural(len(new), 'number')} added to {folder / records.RECORD}.")
        if new:
            say(f"`reproduce keep {spec.name}` copies it into results/.")
    else:
        say(
            f"Of the model after {found['epochs']:,} of {plural(record.max_epochs, 'epoch')}; no "
            f"claim is judged by it. It is in {folder / records.RECORD}, result.measured."
        )
    return 0
