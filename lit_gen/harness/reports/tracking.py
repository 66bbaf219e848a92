"""MLflow as a mirror of the records: curves, parameters, artifacts and verdicts to look at.

The JSON record is the evidence. `upload` compares it with what MLflow holds and sends what is
missing, so the same function serves every epoch of a training, `reproduce sync`, and the next try
after a failure; doing it twice changes nothing.

In MLflow a reproduction is an experiment, one cell of the paper's table (setting, protocol and the
user's overrides) a parent run, and each seed a child run. So is each claim on the cell: the paper's
value as a level line, which charts draw beside the curves. The tag `kind` tells them apart (cell,
run, reference). All are found by their tags.
"""

import contextlib
import copy
import fcntl
import logging
import math
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lit_gen.harness import record as records
from lit_gen.harness.record import Record, dumps
from lit_gen.harness.reports import beside
from lit_gen.harness.reports.mirror import GRIDS, NAMED, Mirror, text
from lit_gen.harness.spec import Claim, UserError, digest, flatten
from lit_gen.harness.verdicts.curves import Progress
from lit_gen.harness.verdicts.orders import Ranking
from lit_gen.harness.verdicts.verdict import Verdict
from lit_gen.harness.words import number

STATUS = {
    "running": "RUNNING",
    "stopped": "KILLED",  # by a signal or a spent budget; may go on later
    "finished": "FINISHED",
    "crashed": "FAILED",
    "diverged": "FAILED",
}
ENVIRONMENT = {  # what MLflow reads, where the user has not set it
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # with jitter they draw from training's random state
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
BLACK, GREY = "#000000", "#808080"  # of references
COLORS = (  # of seeds; MLflow's own choice gives two seeds the same one now and then
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22",
    "#17becf", "#08519c", "#a63603",
)  # fmt: skip
RECORD, CELL, REFERENCE = "lit_gen.record", "lit_gen.cell", "lit_gen.reference"
EXPERIMENT = {  # tags
    "mlflow.experimentKind": "custom_model_development",  # or MLflow takes it for a chatbot's
    "mlflow.note.content": "Unfold a row to see its seeds, and the paper's value as a level line "
    "whose end is as high as the band of values that count as equal. Search by tags: "
    "`tags.verdict = 'inconclusive'`, `tags.claim LIKE '%single%'`, `tags.kind = 'run'` (or cell, "
    "reference), `tags.setting`, `tags.protocol`, `tags.seed`, `tags.status`, `tags.paper`.",
}


class Outcome(NamedTuple):
    """What became of one record: its run in MLflow and how many requests brought it up to date."""

    record: Record
    run_id: str | None
    sent: int
    problem: str | None = None


def upload(
    client: Any,
    record: Record,
    folder: Path,
    said: Iterable[Verdict | Ranking | Progress] = (),
    checkpoints: bool = True,
    figures: Mapping[str, str] | None = None,
    known: dict[str, Mirror] | None = None,
) -> Outcome:
    """Brings MLflow up to date with a record, whatever it holds already.

    Args:
        client: an MlflowClient.
        record: one run, in any state.
        folder: its run directory; files that are not there are left out.
        said: verdicts on the record's cell and the progress of its run; what is about another
            setting, protocol or seed is left out.
        checkpoints: whether a finished run's checkpoint goes along.
        figures: SVG files by name, about the record's cell and others.
        known: what earlier uploads with this client have read; filled. Empty it after a failure.

    Raises:
        Exception: whatever MLflow raises; the same upload goes on from there later.
    """
    known = {} if known is None else known
    segments = _segments(record)
    began, last = _milliseconds(segments[0]["started"]), segments[-1]
    seconds = last.get("wall_s", 0) * last.get("replicas", 1)  # each replica's part, times all
    end = _milliseconds(last["started"]) + int(1000 * seconds)
    cell = _Cell(record)
    place = (record.setting, record.protocol)
    said = list(said)
    ranks = [r for r in said if isinstance(r, Ranking) and _ranks(r, record)]
    said = [one for one in said if (one.claim.setting, one.protocol) == place]
    verdicts = [one for one in said if isinstance(one, Verdict)]
    if verdicts or ranks:
        known.pop(cell.id, None)  # other processes write them too
    before = sum(mirror.sent for mirror in known.values())
    with _alone(client.tracking_uri):
        parent = _find(client, record, CELL, cell.id, cell.name(), began, known)
        name = cell.name(f"seed {record.key}")
        child = _find(client, record, RECORD, identity(record), name, began, known)
        common, own = _tags(record, segments)

        child.name(name)
        child.describe(common | own | {"mlflow.parentRunId": parent.id}, record.config)
        child.describe(_standing(record, said) | _color(child, cell.color(record)))
        child.metrics(_points(record, segments), began)
        if data := record.provenance.get("data"):
            child.dataset(data, record.config.get("data", {}).get("class_path", "data"))
        child.attach(_artifacts(record, folder, checkpoints), _images(record, folder), began)
        child.settle(STATUS[record.status], end)

        parent.describe(common | {"kind": "cell"})
        if figures:
            parent.attach({name: svg.encode() for name, svg in figures.items()}, {}, began)
        if verdicts:
            for i, verdict in enumerate(verdicts):
                _refer(client, record, cell, parent, verdict, GREY if i else BLACK, began, known)
            parent.metrics({k: x for v in verdicts for k, x in _judged(v).items()}, began)
            headline = _headline(verdicts)
            if any(parent.tags.get(key) != word for key, word in headline.items()):
                for sibling in _children(client, parent, "tags.kind = 'run'"):
                    Mirror(client, sibling).describe(headline)
            note = "\n\n".join(_sentence(v) for v in [*verdicts, *ranks])
            words = {f"verdict.{v.claim.name}": v.status for v in verdicts}
            parent.describe(headline | words | {"mlflow.note.content": note})
        elif ranks:
            parent.describe({"mlflow.note.content": "\n\n".join(map(_sentence, ranks))})
        parent.describe({f"order.{_order(r)}": r.status for r in ranks})
        parent.name(cell.name(parent.tags.get("verdict", "")))
        child.describe({key: parent.tags.get(key) for key in ("claim", "verdict")})
        if record.status == "running" or _children(client, parent, "status = 'RUNNING'", 1):
            parent.settle("RUNNING", 0)
        else:
            parent.settle("FINISHED", max(parent.end, end))
    return Outcome(record, child.id, sum(mirror.sent for mirror in known.values()) - before)


class _Cell:
    """What the seeds of one cell share, and how their names begin and end."""

    def __init__(self, record: Record) -> None:
        changes = [f"{key}={text(value)}" for key, value in flatten(record.overrides)]
        self.setting = record.setting
        self.rest = ", ".join([record.protocol, *changes, *["smoke"] * record.smoke])
        self.id = digest(
            [record.reproduction, record.setting, record.protocol, changes, record.smoke]
        )

    def color(self, record: Record) -> str:
        return COLORS[(int(self.id[:8], 16) + record.key.model) % len(COLORS)]

    def name(self, which: str = "") -> str:
        """What tells runs apart comes first: lists and legends cut names at 20 letters."""
        return f"{self.setting} {which}".strip() + f" ({self.rest})"


def _refer(
    client: Any,
    record: Record,
    cell: _Cell,
    parent: Mirror,
    verdict: Verdict,
    color: str,
    began: int,
    known: dict[str, Mirror],
) -> None:
    """The paper's value as a run of its own, below the cell's."""
    claim = verdict.claim
    identity = digest([cell.id, claim.name])
    name = cell.name(f"paper {_paper(claim)} {claim.name}")
    line = _find(client, record, REFERENCE, identity, name, began, known)
    low, high = claim.band
    drawn = f"{claim.value} in {low} to {high}, {claim.metric}, {record.max_epochs} epochs"
    if line.tags.get("lit_gen.drawn") != drawn:
        line.line(claim.metric, claim.value, (low, high), record.max_epochs, began)
    line.name(name)
    line.describe(
        _tags(record, _segments(record))[0]
        | {
            "kind": "reference",
            "claim": claim.name,
            "verdict": verdict.status,
            "not_worse": {True: "yes", False: "no"}.get(verdict.not_worse),
            "band": f"{number(low)} to {number(high)}",
            "mlflow.parentRunId": parent.id,
            "mlflow.note.content": _sentence(verdict),
            "lit_gen.drawn": drawn,
        }
        | _color(line, color)
    )
    line.settle("FINISHED", line.end or began)


def _color(mirror: Mirror, color: str) -> dict[str, str]:
    """A color, where nobody has chosen another."""
    return {"mlflow.runColor": mirror.tags.get("mlflow.runColor") or color}


def _paper(claim: Claim) -> str:
    return number(claim.value) + (f" ± {number(claim.spread)}" if claim.spread else "")


def _headline(verdicts: list[Verdict]) -> dict[str, str]:
    """A cell's claims, and the verdict on the first of them that there is a number for."""
    first = next((v for v in verdicts if v.n), verdicts[0])
    return {"claim": ", ".join(v.claim.name for v in verdicts), "verdict": first.status}


def _sentence(verdict: Verdict | Ranking) -> str:
    notes = "".join(f" {note}" for note in verdict.notes)
    name = _order(verdict) if isinstance(verdict, Ranking) else verdict.claim.name
    return f"**{name}**: {verdict.sentence}.{notes}"


def _order(ranking: Ranking) -> str:
    """Stands at the cells of both settings."""
    return f"{ranking.order.setting} {ranking.order.name}"


def _ranks(ranking: Ranking, record: Record) -> bool:
    """Whether it is about the record's cell."""
    both = (ranking.order.setting, ranking.order.over)
    place = (ranking.protocol, ranking.overrides)
    return record.setting in both and place == (record.protocol, record.overrides)


def _standing(record: Record, said: list[Verdict | Ranking | Progress]) -> dict[str, str]:
    """How an unfinished run does, nothing if that was not asked; of one that has ended, what was
    measured beside its claims."""
    if record.status not in ("running", "stopped"):
        return {"progress": "", "mlflow.note.content": "\n\n".join(beside.said(record))}
    ours = [one for one in said if isinstance(one, Progress) and one.seed == record.key]
    if not ours:
        return {}
    note = "\n\n".join(one.sentence for one in ours)
    return {"progress": ours[0].status, "mlflow.note.content": note}


def identity(record: Record) -> str:
    """The same for every state and copy of one run; another one if it began anew."""
    began = _segments(record)[0]["started"]
    return digest([record.reproduction, record.name, record.spec_hash, began])


def _whole(record: Record) -> str:
    """The cell of a record among those of all reproductions."""
    return f"{record.reproduction} {record.cell}"


def _segments(record: Record) -> list[dict[str, Any]]:
    return record.provenance.get("segments") or [{"started": "1970-01-01T00:00:01Z"}]


def _find(
    client: Any,
    record: Record,
    tag: str,
    value: str,
    name: str,
    began: int,
    known: dict[str, Mirror],
) -> Mirror:
    """The run with that tag, made if there is none; of several, made in a race, the earliest."""
    if value in known:
        return known[value]
    experiment = _experiment(client, record.reproduction)

    def search() -> list:
        runs = client.search_runs([experiment], f"tags.`{tag}` = '{value}'")
        return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

    runs, made = search(), 0
    if not runs:
        tags = {tag: value, NAMED: name[:250]}
        client.create_run(experiment, start_time=began, tags=tags, run_name=name[:250])
        runs, made = search(), 1
    for extra in runs[1:]:
        client.delete_run(extra.info.run_id)
    known[value] = Mirror(client, runs[0])
    known[value].sent = made
    return known[value]


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        path = database(client.tracking_uri)
        place = path and (path.parent / "mlartifacts" / name).as_uri()
        try:
            return client.create_experiment(name, artifact_location=place, tags=EXPERIMENT)
        except Exception:  # another process may have been faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"The experiment {name} was deleted in MLflow.\n"
            f"`mlflow experiments restore --experiment-id {found.experiment_id}` brings it back."
        )
    for key in EXPERIMENT.keys() - found.tags.keys():
        client.set_experiment_tag(found.experiment_id, key, EXPERIMENT[key])
    return found.experiment_id


def _children(client: Any, parent: Mirror, which: str, most: int = 1000) -> list:
    query = f"tags.mlflow.parentRunId = '{parent.id}' and {which}"
    return list(client.search_runs([parent.experiment], query, max_results=most))


def _tags(record: Record, segments: list[dict]) -> tuple[dict, dict]:
    """What a run shares with its cell, and what is its own."""
    class_path = record.config.get("model", {}).get("class_path", "")
    paper = class_path.rpartition(".")[0].rpartition(".")[2]
    commits = [f"{s.get('commit') or 'unknown'}{'+dirty' * bool(s.get('dirty'))}" for s in segments]
    devices = [segment["device"] for segment in segments if "device" in segment]
    return {"paper": paper, "setting": record.setting, "protocol": record.protocol}, {
        "kind": "run",
        "seed": record.key,
        "status": record.status,
        "error": record.error and f"{record.error['type']}: {record.error['message']}",
        "spec_hash": record.spec_hash,
        "data_sha256": record.provenance.get("data"),
        "git_commit": ", ".join(dict.fromkeys(commits)),
        "mlflow.source.git.commit": segments[-1].get("commit"),
        "device": ", ".join(dict.fromkeys(devices)),
        "deviations": "\n".join(record.deviations),
    }


def _points(record: Record, segments: list[dict]) -> dict[tuple[str, int], float]:
    rows = enumerate(record.curve(), start=1)
    points = {(name, epoch): value for epoch, row in rows for name, value in row.items()}
    for name, value in record.result.get("beside", {}).items():
        points[name, record.epochs] = value
    for name, value in record.result.get("metrics", {}).items():
        points[name, record.epochs] = float(f"{value:.7g}")  # as in the curve, whose end it is
    if record.status != "running":
        for name, total in (("wall_s", sum), ("cpu_s", sum), ("peak_memory_mb", max)):
            if measured := [segment[name] for segment in segments if name in segment]:
                points[f"system/{name}", record.epochs] = total(measured)
    return points


def _judged(verdict: Verdict) -> dict[tuple[str, int], float]:
    claim, mean = verdict.claim, verdict.mean
    gap, gap_low, gap_high = verdict.difference or (None, None, None)
    if gap is None and mean is not None:
        gap = mean - claim.value
    numbers = {"mean": mean, "low": verdict.low, "high": verdict.high, "n": verdict.n}
    numbers |= {"paper": claim.value, "margin": claim.margin, "power": verdict.power}
    numbers |= {"gap": gap, "gap_low": gap_low, "gap_high": gap_high}
    return {
        (f"verdict/{claim.name}/{name}", 0): x
        for name, x in numbers.items()
        if x is not None and math.isfinite(x)
    }


def _artifacts(record: Record, folder: Path, checkpoints: bool) -> dict[str, bytes | Path]:
    files: dict[str, bytes | Path] = {
        # not the file: training may replace it
        records.RECORD: (dumps(asdict(record)) + "\n").encode(),
        "config.yaml": yaml.safe_dump(record.config, sort_keys=False).encode(),
    }
    if record.status == "finished":
        names = [records.SAMPLES, records.PREDICTIONS, *[records.CHECKPOINT] * checkpoints]
        files |= {name: folder / name for name in names if (folder / name).is_file()}
        clip = folder / records.PICTURES / records.CLIP
        files |= {clip.name: clip} if clip.is_file() else {}
    return files


def _images(record: Record, folder: Path) -> dict[tuple[str, int], Path]:
    """Sample grids, and a finished run's pictures and clip, by name and epoch."""
    last = folder / records.SAMPLES
    found = {int(p.stem[6:]): p for p in (folder / last.stem).glob("epoch_*.png")}
    if not found and record.status == "finished" and last.is_file():
        found = {record.epochs: last}
    images = {(GRIDS, epoch): path for epoch, path in sorted(found.items())}
    if record.status == "finished":
        pictures = (folder / records.PICTURES).glob("*.*")
        shown = sorted(path for path in pictures if path.suffix in (".png", ".webp"))
        images |= {(path.stem, record.epochs): path for path in shown}
    return images


class Tracker:
    """Uploads records while they grow, in a thread of its own: training neither waits nor fails.

    Args:
        uri: of MLflow; None means MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db`.
        say: told, once and from that thread, why nothing is being uploaded.
        retry: seconds between two tries after a failure.
        checkpoints: whether finished runs' checkpoints go along.
    """

    wanted = True

    def __init__(
        self,
        uri: str | None = None,
        say: Callable[[str], None] = print,
        retry: float = 60.0,
        checkpoints: bool = True,
    ) -> None:
        self.uri, self.say, self.retry, self.checkpoints = resolve(uri), say, retry, checkpoints
        self.waiting: dict[str, tuple[Record, Path]] = {}  # the latest state of each record
        self.said: dict[str, tuple] = {}  # the latest on each cell, whoever brings it, and run
        self.changed = threading.Condition()
        self.thread: threading.Thread | None = None
        self.closing = self.complained = False

    def push(
        self, record: Record, folder: Path, said: Iterable[Verdict | Ranking | Progress] = ()
    ) -> None:
        """Has the record uploaded as it is now, unless a later state comes first."""
        job, said = (copy.deepcopy(record), folder), tuple(said)
        with self.changed:
            self.waiting[identity(record)] = job
            if verdicts := tuple(one for one in said if isinstance(one, Verdict | Ranking)):
                self.said[_whole(record)] = verdicts
            if progress := tuple(one for one in said if isinstance(one, Progress)):
                self.said[identity(record)] = progress
            if self.thread is None:
                self.thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
                self.thread.start()
            self.changed.notify()

    def close(self, timeout: float = 10.0) -> bool:
        """Gives uploads that long to arrive; says whether all did."""
        with self.changed:
            self.closing = True
            self.changed.notify()
        if self.thread is not None:
            self.thread.join(timeout)
            if self.thread.is_alive():
                what = f"MLflow at {public(self.uri)} has not taken everything yet"
                self._complain(what, "")
        return not self.waiting

    def _work(self) -> None:
        client, known = None, {}
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.closing)
                if not self.waiting:
                    return
                key, job = next(iter(self.waiting.items()))
                said = (*self.said.get(_whole(job[0]), ()), *self.said.get(key, ()))
            try:
                client = client or connect(self.uri)
                _patiently(client, *job, said, self.checkpoints, known=known)
            except Exception as error:  # whatever it is, training goes on
                self._complain(why(error, self.uri))
                with self.changed:
                    if self.closing:
                        return
                    self.waiting[key] = self.waiting.pop(key)  # if it is to blame, others go on
                    self.changed.wait_for(lambda: self.closing, self.retry)
            else:
                with self.changed:
                    latest = self.waiting.pop(key)
                    if latest is not job:
                        self.waiting[key] = latest  # behind the other records

    def _complain(self, reason: str, comfort: str = "the run goes on, and ") -> None:
        with self.changed:
            first, self.complained = not self.complained, True
        if first:
            what = reason.splitlines()[0].rstrip(".")
            self.say(f"{what}; {comfort}`reproduce sync` uploads it later.")


def sync(
    pairs: Iterable[tuple[Record, Path]],
    uri: str | None = None,
    said: Callable[[Record], Iterable[Verdict | Ranking | Progress]] = lambda record: (),
    say: Callable[[str], None] = print,
    checkpoints: bool = True,
    figures: Callable[[Record], Mapping[str, str]] = lambda record: {},
) -> list[Outcome]:
    """Uploads records that are not, or not wholly, in MLflow; one that fails stops no other.

    Args:
        pairs: records and their run directories.
        uri: as Tracker's.
        said: the verdicts on a record's cell, and the progress of its run.
        say: told about each record that failed.
        checkpoints: whether finished runs' checkpoints go along.
        figures: SVG files, by name, for the cell of a record.

    Raises:
        UserError: MLflow is not installed, or does not answer.
    """
    uri = resolve(uri)
    client, known, outcomes = connect(uri), {}, []
    for record, folder in pairs:
        try:
            job = (record, folder, said(record), checkpoints, figures(record))
            outcomes.append(_patiently(client, *job, known=known))
        except Exception as error:
            client = connect(uri)  # raises if nobody is there any more
            outcomes.append(Outcome(record, None, 0, why(error, uri)))
            say(f"{record.reproduction} {record.name}: {outcomes[-1].problem}")
    return outcomes


def _patiently(client: Any, *job: Any, known: dict[str, Mirror]) -> Outcome:
    """`upload`, once more if it fails: a connection was closed, or someone deleted a run."""
    for pause in (0.5, 0):
        try:
            return upload(client, *job, known=known)
        except Exception as error:
            known.clear()
            if not pause or isinstance(error, UserError):
                raise
            time.sleep(pause)
    raise AssertionError


def resolve(uri: str | None) -> str:
    """MLflow's address, as told or as usual; a database file by its absolute path."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = database(uri)
    return f"sqlite:///{path}" if path else uri


def connect(uri: str) -> Any:
    """An MlflowClient that has been answered.

    Raises:
        UserError: MLflow is not installed, or does not answer, or would need a file store.
    """
    if "://" not in uri or uri.startswith("file:"):
        raise UserError(
            f"MLflow no longer writes to folders such as {uri}.\n"
            "Set MLFLOW_TRACKING_URI to a database (sqlite:///mlflow.db) or to a server (http://...)."
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise UserError(
            f"MLflow is not installed ({error}).\n`pip install 'lit-gen[mlflow]'` installs it."
        ) from error
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with _alone(uri):  # the first to open a database creates its tables
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
    except Exception as error:
        raise UserError(
            f"{why(error, uri)}.\nStart it, or set MLFLOW_TRACKING_URI to one that is there."
        ) from error
    return client


def why(error: BaseException, uri: str) -> str:
    """A sentence for what MLflow raised: the operating system's word, where there is one."""
    if isinstance(error, UserError):
        return str(error)
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    system = [e for e in chain if isinstance(e, (OSError, sqlite3.Error))]
    text = " ".join(str(system[-1] if system else error).split()) or type(error).__name__
    return f"MLflow at {public(uri)} fails: {public(text)[:200]}"


def public(text: str) -> str:
    """Without the user names and passwords of its addresses."""
    return re.sub(r"://[^/\s]*@", "://", text)


def database(uri: str) -> Path | None:
    """The file of a SQLite address."""
    match = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", uri)
    return Path(match[1]).resolve() if match else None


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time at a SQLite file; servers look after themselves."""
    path = database(uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _milliseconds(moment: str) -> int:
    return int(1000 * datetime.fromisoformat(moment).timestamp())
