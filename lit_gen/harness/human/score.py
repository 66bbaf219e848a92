"""What a human test has found: a record, verdicts on the paper's claims, files for others."""

import csv
import io
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from lit_gen.harness import store
from lit_gen.harness.human.server import SIZE
from lit_gen.harness.human.trial import Trial, private
from lit_gen.harness.record import Record, dumps, write_atomically
from lit_gen.harness.spec import Spec, UserError
from lit_gen.harness.store import HUMAN
from lit_gen.harness.verdicts import human
from lit_gen.harness.verdicts.human import Measured, Votes
from lit_gen.harness.verdicts.verdict import Verdict
from lit_gen.harness.words import number, plural, with_interval

SHEET, COLUMNS, MOST_SHOWN = "shown.png", 10, 50  # of each kind
SCHEMA = 1
ID = "real_or_generated/1"  # of the metric: two numbers compare only where it is equal


def file_name(feedback: bool) -> str:
    return "feedback.json" if feedback else "plain.json"


def folder_of(run: Path, feedback: bool) -> Path:
    """Where the test of a run lies."""
    return run / HUMAN / ("feedback" if feedback else "plain")


def _metrics(measured: Measured) -> dict[str, float]:
    error = [100 - 100 * x for x in (measured.accuracy, measured.high, measured.low)]
    real, generated = measured.real, measured.generated
    metrics = {
        "human/error_percent": error[0],
        "human/error_percent_low": error[1],
        "human/error_percent_high": error[2],
        "human/accuracy_percent": 100 * measured.accuracy,
        "human/raters": len(measured.raters),
        "human/votes": measured.votes,
        "human/real_right_percent": _share(real),
        "human/generated_right_percent": _share(generated),
        "human/said_real_percent": 100 * measured.said_real,
        "human/d_prime": measured.d_prime,
    }
    return {name: value for name, value in metrics.items() if value is not None}


def as_record(spec: Spec, record: Record, trial: Trial, measured: Measured) -> dict[str, Any]:
    """Everything that was found; raters are numbered, their pseudonyms stay where the votes are."""
    about, votes = trial.about, trial.votes()
    columns = {name: getattr(votes, name) for name in human.COLUMNS}
    return {
        "reproduction": spec.name,
        "setting": record.setting,
        "protocol": record.protocol,
        "seed": record.seed,
        "run": {k: about[k] for k in ("run", "run_started", "spec_hash", "status", "epochs")}
        | {"max_epochs": about["max_epochs"], "deviations": record.deviations}
        | {"overrides": record.overrides},
        "test": {
            "metric_id": ID,
            "feedback": about["feedback"],
            "images_per_rater": trial.images,
            "half_of_them": "real",
            "pool": about["pool"],
            "shown": f"enlarged to about {SIZE} CSS pixels, pixelated, on grey",
            "images_sha256": about["sha256"],
            "dataset": about["dataset"],
        },
        "metrics": _metrics(measured),
        "interval": "95 %, over raters and images (lit_gen/harness/verdicts/human.py)"
        if measured.se is not None
        else "95 %, Wilson's, of this one rater",
        "standard_error_percent": None if measured.se is None else 100 * measured.se,
        "raters": [{"votes": votes, "right": right} for votes, right in measured.raters],
        "votes": {name: column.astype(int).tolist() for name, column in columns.items()},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "version": metadata.version("lit-gen"),
        "schema": SCHEMA,
    }


def complaint(content: dict[str, Any]) -> str:
    """In what a record contradicts the votes that it holds; '' if in nothing."""
    try:
        ours, theirs = _metrics(human.measure(_votes(content))), content["metrics"]
        wrong = [k for k in {**ours, **theirs} if abs(ours[k] - theirs[k]) > 1e-9]
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        return f"its votes give no number ({type(error).__name__}: {error})"
    if not wrong:
        return ""
    name = wrong[0]
    return f"it says {name} = {number(theirs[name])}, its votes give {number(ours[name])}"


def _votes(content: dict[str, Any]) -> Votes:
    columns = [np.asarray(content["votes"][name], np.int64) for name in human.COLUMNS]
    rater, image, generated, said = columns
    return Votes(rater, image, generated.astype(bool), said.astype(bool))


def _share(of: tuple[int, int]) -> float | None:
    return 100 * of[1] / of[0] if of[0] else None


def judge(spec: Spec, content: dict[str, Any]) -> list[Verdict]:
    """What a record's votes say about the reproduction's claims on people's judgement in that
    setting."""
    run, test = content["run"], content["test"]
    measured = human.measure(_votes(content))
    reasons = ("with feedback it is another test than the paper's",) * test["feedback"]
    if run["status"] != "finished":  # else one could stop where samples look best
        done = f"{run['epochs']} of {plural(run['max_epochs'], 'epoch')}"
        reasons += (f"the samples are of a run that had not finished, {done}",)
    return [
        replace(
            said,
            deviations=tuple(run["deviations"]),
            overrides=run["overrides"],
        )
        for claim in spec.claims
        if claim.metric in human.METRICS and claim.setting == content["setting"]
        for said in [human.judge(claim, measured, spec.name, content["protocol"], reasons)]
    ]


def kept(spec: Spec, say: Callable[[str], None] = store.warn) -> list[Verdict]:
    """Verdicts of the human tests in results/, from the votes that their records hold; those with
    feedback come last. A record that contradicts its votes is only said."""
    found = []
    for path in sorted((store.results(spec) / HUMAN).glob("*.json")):
        try:
            content = json.loads(path.read_text())
            if wrong := complaint(content):
                raise ValueError(wrong)
            found.append((bool(content["test"]["feedback"]), judge(spec, content)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"{path} gives no verdict: {error}. Move it away.")
    return [one for _, said in sorted(found, key=lambda pair: pair[0]) for one in said]


def with_people(spec: Spec, verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Verdicts of runs, where people have judged with theirs in the place of none.

    Runs that were lost count here, too: people saw the samples of one that was not.
    """
    ours, left = kept(spec), []
    for verdict in verdicts:
        same = [
            i
            for i, ours_too in enumerate(ours)
            if _cell(ours_too) == _cell(verdict) and ours_too.status != "not comparable"
        ]
        if verdict.mean is not None or not same:
            left.append(verdict)
            continue
        if any(verdict.counts.get(state) for state in ("diverged", "crashed")):
            for i in same:
                ours[i] = _with_losses(ours[i], verdict.counts)
    return left + ours


def _with_losses(verdict: Verdict, counts: dict[str, int]) -> Verdict:
    """Samples of a run that was luckier than others show no match, as its numbers would not."""
    states = [state for state in ("diverged", "crashed") if counts[state]]
    lost = ", ".join(f"{plural(counts[state], 'run')} {state}" for state in states)
    status = "inconclusive" if verdict.status in ("reproduced", "better") else verdict.status
    rest = verdict.sentence.removeprefix(verdict.status)
    return replace(verdict, status=status, sentence=f"{status}{rest}; {lost}", counts=counts)


def _cell(verdict: Verdict) -> tuple:
    return verdict.claim, verdict.protocol, repr(verdict.overrides)


def lines(spec: Spec, trial: Trial, measured: Measured, said: list[Verdict]) -> Iterable[str]:
    """What was found, for people."""
    shares = [100 * x for x in (1 - measured.accuracy, 1 - measured.high, 1 - measured.low)]
    with_feedback = ", with feedback" * trial.about["feedback"]
    over = "over raters and images" if measured.se is not None else "of one rater, for him alone"
    yield (
        f"{plural(measured.votes, 'vote')} of {plural(len(measured.raters), 'rater')}"
        f"{with_feedback}: {with_interval(*shares)} % error (95 % interval, {over})"
    )
    kinds = [
        f"{number(_share(of), 1)} % of {kind} images right"
        for kind, of in (("real", measured.real), ("generated", measured.generated))
        if of[0]
    ]
    leaning = f"{100 * measured.said_real:.1f} % of answers were 'real'"
    yield f"  {'; '.join(kinds)}; {leaning}; d' = {number(measured.d_prime, 2)}"
    some = sum(votes < trial.images for votes, _ in measured.raters)
    if some:
        has = "has" if some == 1 else "have"
        yield f"  {plural(some, 'rater')} {has} not answered all {trial.images} images yet."
    for verdict in said:
        yield f"{verdict.claim.name} ({number(verdict.claim.value)}): {verdict.sentence}."
    for note in dict.fromkeys(note for verdict in said for note in verdict.notes):
        yield f"  {note}"
    if not said:
        yield f"  {spec.name} claims nothing about people's judgement here."


def found(spec: Spec, record: Record, trial: Trial) -> tuple[dict[str, Any], list[str]] | None:
    """What is to be recorded, and the same for people; None without votes."""
    votes = trial.votes()
    if not len(votes):
        return None
    measured = human.measure(votes)
    content = as_record(spec, record, trial, measured)
    said = judge(spec, content)
    content["verdicts"] = [
        {"claim": v.claim.name, "paper": v.claim.value, "status": v.status}
        | {"sentence": v.sentence, "notes": list(v.notes)}
        for v in said
    ]
    return content, list(lines(spec, trial, measured, said))


def write(content: dict[str, Any], run: Path, trial: Trial) -> Path:
    """Leaves the record beside the run, and the sheet of what was shown beside the answers.

    Raises:
        UserError: they cannot be written.
    """
    path = run / HUMAN / file_name(trial.about["feedback"])
    write_atomically(path, (dumps(content) + "\n").encode())
    private(trial.folder / SHEET, sheet(trial, trial.votes().image))
    return path


def sheet(trial: Trial, shown: np.ndarray) -> bytes:
    """What was shown, at most MOST_SHOWN of each kind: real ones above, a white row, generated ones
    below."""
    seen = np.unique(shown)
    of = [seen[trial.generated[seen] == kind][:MOST_SHOWN] for kind in (False, True)]
    h, w = trial.pixels.shape[1:3]
    colour = trial.pixels.reshape(len(trial.pixels), h, w, -1).transpose(0, 3, 1, 2)
    rows = []
    for chosen in of:
        count = -(-len(chosen) // COLUMNS) * COLUMNS
        block = np.ones((count, *colour.shape[1:]))
        block[: len(chosen)] = colour[chosen] / 255
        rows.append(block)
    blank = np.ones((COLUMNS, *colour.shape[1:]))
    whole = np.concatenate([rows[0], blank, rows[1]])
    from lit_gen.harness import pictures  # which imports torch; `reproduce claims` needs none

    return pictures.grid(whole.reshape(-1, COLUMNS, *colour.shape[1:]), gap=2, side=SIZE // 8)


def export(trial: Trial, path: Path) -> int:
    """Writes every answer, as CSV or JSON by the file's name; returns how many.

    Raises:
        UserError: it is another kind of file, or cannot be written.
    """
    if path.suffix not in (".csv", ".json"):
        raise UserError(f"--export {path}: give a file that ends in .csv or .json.")
    rows = [
        {"rater": rater, **one, "kind": "generated" if trial.generated[one["image"]] else "real"}
        for rater in sorted(trial.done)
        for one in trial.done[rater]
    ]
    for row in rows:
        row["right"] = row["answer"] == row["kind"]
    if path.suffix == ".json":
        about = {k: trial.about[k] for k in ("run", "feedback", "images", "sha256")}
        text = json.dumps({"test": about, "votes": rows}, indent=1) + "\n"
    else:
        names = ["rater", "position", "image", "kind", "answer", "right", "seconds", "time"]
        buffer = io.StringIO()
        table = csv.DictWriter(buffer, names, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        text = buffer.getvalue()
    write_atomically(path, text.encode(), "Choose another place with --export.")
    return len(rows)


def log(record: Record, run: Path, trial: Trial, path: Path) -> str:
    """Puts the record, its numbers and the sheet into the run's place in MLflow.

    Numbers with feedback have names of their own, so that no chart mixes them.

    Returns:
        What to say.
    """
    from lit_gen.harness.reports import tracking
    from lit_gen.harness.reports.mirror import Mirror

    kind = path.stem
    again = "`reproduce human ... --score` logs it later"
    try:
        client = tracking.connect(tracking.resolve(None))
        id = tracking.upload(client, record, run, checkpoints=False).run_id
        mirror = Mirror(client, client.get_run(id))
        found = json.loads(path.read_text())
        prefix = "human_feedback/" if trial.about["feedback"] else "human/"
        values = {k.replace("human/", prefix): v for k, v in found["metrics"].items()}
        began = int(client.get_run(id).info.start_time)
        mirror.metrics({(k, record.epochs): v for k, v in values.items()}, began)
        copy = trial.folder / f"human_{kind}.png"
        private(copy, (trial.folder / SHEET).read_bytes())
        try:
            files = {f"human_{kind}.json": path.read_bytes(), copy.name: copy}
            mirror.attach(files, {}, began)
        finally:
            copy.unlink()
    except UserError as error:
        return f"{str(error).splitlines()[0].rstrip('.')}; {again}."
    except Exception as error:  # whatever MLflow raises
        return f"{tracking.why(error, tracking.resolve(None))}; {again}."
    return f"logged to MLflow, run {id}"
