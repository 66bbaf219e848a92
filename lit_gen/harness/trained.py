"""Runs that have left a checkpoint: choosing one, and having its model and data again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lit_gen.harness import needs, store
from lit_gen.harness.record import CHECKPOINT, Record
from lit_gen.harness.run import Run, new_record, set_up
from lit_gen.harness.spec import Spec, UserError, nearest
from lit_gen.harness.words import plural

USABLE = ("finished", "stopped", "running")


def choose(
    spec: Spec,
    root: Path,
    setting: str | None,
    protocol: str | None,
    seed: str | None,
    say: Callable[[str], None],
) -> tuple[Record, Path]:
    """The run to take: one as written before one with overrides, a finished one before others, of
    the lowest seed.

    Args:
        setting: None is the default one; of protocol and seed, None is any.
        say: told which run it is, and which others there are.

    Raises:
        UserError: there is none, or no such setting or protocol.
    """
    for what, name, known in (
        ("setting", setting, spec.settings),
        ("protocol", protocol, spec.protocols),
    ):
        if name is not None and name not in known:
            raise UserError(
                f"There is no {what} {name!r}.{nearest(name, known)} There are: {', '.join(known)}."
            )
    setting = setting or spec.default_setting
    found = [
        (record, folder)
        for record, folder in store.runs(spec, root, say)
        if not record.smoke
        and record.status in USABLE
        and record.setting == setting
        and protocol in (None, record.protocol)
        and seed in (None, str(record.key))
        and (folder / CHECKPOINT).is_file()
    ]
    if not found:
        wanted = [f"setting {setting}", *[f"protocol {protocol}"] * bool(protocol)]
        wanted += [f"seed {seed}"] * bool(seed)
        raise UserError(
            f"There is no run of {spec.name} with a checkpoint in {root} ({', '.join(wanted)}). "
            f"`reproduce {spec.name} --setting {setting}` trains one; --runs-dir, --setting, "
            "--protocol and --seed choose another."
        )

    def rank(pair: tuple[Record, Path]) -> Any:
        record, _ = pair
        other = record.protocol != spec.default_protocol
        return bool(record.overrides), USABLE.index(record.status), other, record.key

    (record, folder), *others = sorted(found, key=rank)
    say(f"The run is {record.name}, {state(record)}.")
    if names := [other.name for other, _ in others if not other.overrides]:
        listed = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
        say(f"There are others, which --protocol and --seed choose: {listed}.")
    return record, folder


def state(record: Record) -> str:
    if record.status == "finished":
        return f"finished after {plural(record.epochs, 'epoch')}"
    return f"{record.status} after {record.epochs} of {plural(record.max_epochs, 'epoch')}"


def restored(
    spec: Spec,
    record: Record,
    folder: Path,
    root: Path,
    data_dir: str | None,
    device: str = "cpu",
    threads: int | None = None,
) -> tuple[pl.LightningModule, pl.LightningDataModule]:
    """The run's model as its checkpoint has it, and its data, which are not set up yet.

    Args:
        root: the folder of run directories, for runs that this one needs.
        device: the data's, as for training; the model is on the CPU.

    Raises:
        UserError: the reproduction or the checkpoint is not what it was.
    """
    if sentence := store.gone(spec, record):
        raise UserError(f"{folder}: {sentence}.")
    run = Run(spec, record.setting, record.protocol, record.key, record.overrides, record.smoke)
    run = needs.provided(run, root)
    parser, config = run.resolve()
    if new_record(run, config.as_dict()).spec_hash != record.spec_hash:
        raise UserError(
            f"{folder} holds a run of another specification than {spec.path} has now. Put that "
            "file back, or train anew."
        )
    set_up(config, threads)
    model, data, trainer = run.build(parser, config, device, data_dir)
    data.trainer = trainer  # which knows the device
    trainer.precision_plugin.convert_module(model)
    path = folder / CHECKPOINT
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        model.on_load_checkpoint(content)
        model.load_state_dict(content["state_dict"])
    except Exception as error:  # pickle's, zip's and torch's own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read: {reason}. Restore it, or train anew.") from error
    return model, data
