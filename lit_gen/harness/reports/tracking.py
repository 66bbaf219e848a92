"""MLflow as a mirror of the records: curves, parameters, artifacts and verdicts to look at.

The JSON record is the evidence. `upload` compares it with what MLflow holds and sends what is
missing, so the same function serves every epoch of a training, `reproduce sync`, and the next try
after a failure; doing it twice changes nothing.

In MLflow a reproduction is an experiment, one cell of the paper's table (setting, protocol and the
user's overrides) a parent run, and each seed a child run. They are found by their tags.
"""

import contextlib
import copy
import fcntl
import hashlib
import io
import json
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lit_gen.harness import record as records
from lit_gen.harness.record import Record, dumps
from lit_gen.harness.spec import UserError, digest, flatten

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
LONGEST = {"key": 250, "parameter": 6000, "tag": 5000, "digest": 36}  # MLflow's limits
RECORD, CELL, FILES = "lit_gen.record", "lit_gen.cell", "lit_gen.files"


class Outcome(NamedTuple):
    """What became of one record: its run in MLflow and how many requests brought it up to date."""

    record: Record
    run_id: str | None
    sent: int
    problem: str | None = None


class Mirror:
    """One MLflow run and what it holds, read at most once, so that only news is sent."""

    def __init__(self, client: Any, run: Any) -> None:
        self.client, self.id, self.experiment = client, run.info.run_id, run.info.experiment_id
        self.status, self.end = run.info.status, run.info.end_time or 0
        self.tags, self.params = dict(run.data.tags), dict(run.data.params)
        self.datasets = {entry.dataset.digest for entry in run.inputs.dataset_inputs}
        self.points: dict[str, dict | None] = dict.fromkeys(run.data.metrics)  # None: not read yet
        self.files: dict[str, str] | None = None
        self.sent = 0

    def send(self, method: str, *arguments: Any, **named: Any) -> None:
        getattr(self.client, method)(self.id, *arguments, **named)
        self.sent += 1

    def describe(self, tags: dict[str, Any], parameters: dict[str, Any] | None = None) -> None:
        from mlflow.entities import Param, RunTag

        texts = {_key(k): str(v or "")[: LONGEST["tag"]] for k, v in tags.items()}
        news = {key: text for key, text in texts.items() if self.tags.get(key, "") != text}
        for part in _parts([RunTag(*item) for item in news.items()], 100):
            self.send("log_batch", tags=part)
        self.tags |= news
        texts = {_key(k): _text(v)[: LONGEST["parameter"]] for k, v in flatten(parameters or {})}
        news = {key: text for key, text in texts.items() if key not in self.params}  # never change
        for part in _parts([Param(*item) for item in news.items()], 100):
            self.send("log_batch", params=part)
        self.params |= news

    def metrics(self, values: dict[tuple[str, int], float], began: int) -> None:
        """One point for each (name, step); a value that changed later gets a younger point.

        Epochs have no times of their own, and a point's time is part of its identity: made up, one
        second per step after `began` (milliseconds).
        """
        from mlflow.entities import Metric

        news = []
        for (name, step), value in values.items():
            key = _key(name)
            known = self._known(key).get(step)
            if known is None:
                news.append(Metric(key, value, began + 1000 * step, step))
            elif known.value != value:
                news.append(Metric(key, value, known.timestamp + 1, step))
        for part in _parts(news, 1000):
            self.send("log_batch", metrics=part)
        for point in news:
            self._known(point.key)[point.step] = point

    def _known(self, key: str) -> dict[int, Any]:
        """The youngest point of a metric at each step."""
        if key in self.points and self.points[key] is None:
            history = self.client.get_metric_history(self.id, key)
            self.points[key] = {p.step: p for p in sorted(history, key=lambda p: p.timestamp)}
        return self.points.setdefault(key, {})

    def dataset(self, sha256: str, class_path: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        short = sha256[: LONGEST["digest"]]
        if short not in self.datasets:
            source = json.dumps({"tags": {"mlflow.source.name": class_path, "sha256": sha256}})
            data = Dataset(class_path.rpartition(".")[2], short, "code", source)
            self.send("log_inputs", [DatasetInput(data, [InputTag("mlflow.data.context", "all")])])
            self.datasets.add(short)

    def attach(self, files: dict[str, bytes | Path]) -> None:
        """Artifacts by name: a text, or a file of that name; a tag keeps their hashes."""
        if self.files is None:
            there = {file.path for file in self.client.list_artifacts(self.id)}
            noted = json.loads(self.tags.get(FILES, "{}"))
            self.files = {name: sha for name, sha in noted.items() if name in there}
        for name, content in files.items():
            with open(content, "rb") if isinstance(content, Path) else io.BytesIO(content) as file:
                sha = hashlib.file_digest(file, "sha256").hexdigest()
            if self.files.get(name) == sha:
                continue
            if isinstance(content, Path):
                self.send("log_artifact", str(content))
            else:
                self.send("log_text", content.decode(), name)
            self.files[name] = sha
        self.describe({FILES: json.dumps(self.files, sort_keys=True)})

    def settle(self, status: str, end: int) -> None:
        if status == "RUNNING" and self.status != status:
            self.send("update_run", status)
        elif status != "RUNNING" and (self.status, self.end) != (status, end):
            self.send("set_terminated", status, end)
            self.end = end
        self.status = status


def upload(
    client: Any,
    record: Record,
    folder: Path,
    verdicts: Iterable[Any] = (),
    checkpoints: bool = True,
    known: dict[str, Mirror] | None = None,
) -> Outcome:
    """Brings MLflow up to date with a record, whatever it holds already.

    Args:
        client: an MlflowClient.
        record: one run, in any state.
        folder: its run directory; files that are not there are left out.
        verdicts: on the record's cell; those on other settings or protocols are left out.
        checkpoints: whether a finished run's checkpoint goes along.
        known: what earlier uploads with this client have read; filled. Empty it after a failure.

    Raises:
        Exception: whatever MLflow raises; the same upload goes on from there later.
    """
    known = {} if known is None else known
    segments = _segments(record)
    began, last = _milliseconds(segments[0]["started"]), segments[-1]
    end = _milliseconds(last["started"]) + int(1000 * last.get("wall_s", 0))
    changes = [f"{key}={_text(value)}" for key, value in flatten(record.overrides)]
    title = " ".join([record.setting, record.protocol, *changes, *["smoke"] * record.smoke])
    cell = digest([record.reproduction, record.setting, record.protocol, changes, record.smoke])
    place = (record.setting, record.protocol)
    verdicts = [v for v in verdicts if (v.claim.setting, v.protocol) == place]
    if verdicts:
        known.pop(cell, None)  # other processes write them too
    before = sum(mirror.sent for mirror in known.values())
    with _alone(client.tracking_uri):
        parent = _find(client, record, CELL, cell, title, int(1000 * time.time()), known)
        name = f"{title} seed {record.key}"
        child = _find(client, record, RECORD, identity(record), name, began, known)
        common, own = _tags(record, segments)

        child.describe(common | own | {"mlflow.parentRunId": parent.id}, record.config)
        child.metrics(_points(record, segments), began)
        if data := record.provenance.get("data"):
            child.dataset(data, record.config.get("data", {}).get("class_path", "data"))
        child.attach(_artifacts(record, folder, checkpoints))
        child.settle(STATUS[record.status], end)

        parent.describe(common)
        if verdicts:
            note = "\n\n".join(f"**{v.claim.name}**: {v.sentence}" for v in verdicts)
            words = {f"verdict.{v.claim.name}": v.status for v in verdicts}
            parent.describe(words | {"mlflow.note.content": note})
            parent.metrics({k: x for v in verdicts for k, x in _judged(v).items()}, began)
        if record.status == "running" or _running(client, parent):
            parent.settle("RUNNING", 0)
        else:
            parent.settle("FINISHED", max(parent.end, end))
    return Outcome(record, child.id, sum(mirror.sent for mirror in known.values()) - before)


def identity(record: Record) -> str:
    """The same for every state and copy of one run; another one if it began anew."""
    began = _segments(record)[0]["started"]
    return digest([record.reproduction, record.name, record.spec_hash, began])


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
        client.create_run(experiment, start_time=began, tags={tag: value}, run_name=name[:250])
        runs, made = search(), 1
    for extra in runs[1:]:
        client.delete_run(extra.info.run_id)
    known[value] = Mirror(client, runs[0])
    known[value].sent = made
    return known[value]


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        database = _database(client.tracking_uri)
        place = database and (database.parent / "mlartifacts" / name).as_uri()
        try:
            return client.create_experiment(name, artifact_location=place)
        except Exception:  # another process may have been faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"The experiment {name} was deleted in MLflow.\n"
            f"`mlflow experiments restore --experiment-id {found.experiment_id}` brings it back."
        )
    return found.experiment_id


def _running(client: Any, parent: Mirror) -> bool:
    query = f"tags.mlflow.parentRunId = '{parent.id}' and attributes.status = 'RUNNING'"
    return bool(client.search_runs([parent.experiment], query, max_results=1))


def _tags(record: Record, segments: list[dict]) -> tuple[dict, dict]:
    """What a run shares with its cell, and what is its own."""
    class_path = record.config.get("model", {}).get("class_path", "")
    paper = class_path.rpartition(".")[0].rpartition(".")[2]
    commits = [f"{s.get('commit') or 'unknown'}{'+dirty' * bool(s['dirty'])}" for s in segments]
    devices = [segment["device"] for segment in segments if "device" in segment]
    return {"paper": paper, "setting": record.setting, "protocol": record.protocol}, {
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
    for name, value in record.result.get("metrics", {}).items():
        points[name, record.epochs] = float(f"{value:.7g}")  # as in the curve, whose end it is
    if record.status != "running":
        for name, total in (("wall_s", sum), ("cpu_s", sum), ("peak_memory_mb", max)):
            if measured := [segment[name] for segment in segments if name in segment]:
                points[f"system/{name}", record.epochs] = total(measured)
    return points


def _judged(verdict: Any) -> dict[tuple[str, int], float]:
    claim, mean = verdict.claim, verdict.mean
    numbers = {"mean": mean, "low": verdict.low, "high": verdict.high, "n": verdict.n}
    numbers |= {"paper": claim.value, "gap": None if mean is None else mean - claim.value}
    return {(f"verdict/{claim.name}/{k}", 0): x for k, x in numbers.items() if x is not None}


def _artifacts(record: Record, folder: Path, checkpoints: bool) -> dict[str, bytes | Path]:
    files: dict[str, bytes | Path] = {
        # not the file: training may replace it
        records.RECORD: (dumps(asdict(record)) + "\n").encode(),
        "config.yaml": yaml.safe_dump(record.config, sort_keys=False).encode(),
    }
    if record.status == "finished":
        names = [records.SAMPLES, records.PREDICTIONS, *[records.CHECKPOINT] * checkpoints]
        files |= {name: folder / name for name in names if (folder / name).is_file()}
    return files


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
        self.verdicts: dict[str, tuple] = {}  # the latest on each cell, whichever record brings it
        self.changed = threading.Condition()
        self.thread: threading.Thread | None = None
        self.closing = self.said = False

    def push(self, record: Record, folder: Path, verdicts: Iterable[Any] = ()) -> None:
        """Has the record uploaded as it is now, unless a later state comes first."""
        job = (copy.deepcopy(record), folder)
        with self.changed:
            self.waiting[identity(record)] = job
            if verdicts := tuple(verdicts):
                self.verdicts[f"{record.reproduction} {record.cell}"] = verdicts
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
                record = job[0]
                verdicts = self.verdicts.get(f"{record.reproduction} {record.cell}", ())
            try:
                client = client or connect(self.uri)
                _patiently(client, *job, verdicts, self.checkpoints, known=known)
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
            first, self.said = not self.said, True
        if first:
            what = reason.splitlines()[0].rstrip(".")
            self.say(f"{what}; {comfort}`reproduce sync` uploads it later.")


def sync(
    pairs: Iterable[tuple[Record, Path]],
    uri: str | None = None,
    verdicts: Callable[[Record], Iterable[Any]] = lambda record: (),
    say: Callable[[str], None] = print,
    checkpoints: bool = True,
) -> list[Outcome]:
    """Uploads records that are not, or not wholly, in MLflow; one that fails stops no other.

    Args:
        pairs: records and their run directories.
        uri: as Tracker's.
        verdicts: on the cell of a record.
        say: told about each record that failed.
        checkpoints: whether finished runs' checkpoints go along.

    Raises:
        UserError: MLflow is not installed, or does not answer.
    """
    uri = resolve(uri)
    client, known, outcomes = connect(uri), {}, []
    for record, folder in pairs:
        try:
            job = (record, folder, verdicts(record), checkpoints)
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
    database = _database(uri)
    return f"sqlite:///{database}" if database else uri


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


def _database(uri: str) -> Path | None:
    match = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", uri)
    return Path(match[1]).resolve() if match else None


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time at a SQLite file; servers look after themselves."""
    database = _database(uri)
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{database}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _key(name: str) -> str:
    return re.sub(r"[^\w/. :-]", "_", name)[: LONGEST["key"]]


def _parts(things: Iterable[Any], size: int) -> Iterator[list]:
    things = list(things)
    return (things[i : i + size] for i in range(0, len(things), size))


def _milliseconds(moment: str) -> int:
    return int(1000 * datetime.fromisoformat(moment).timestamp())
