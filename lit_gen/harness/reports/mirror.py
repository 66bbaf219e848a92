"""One MLflow run, and what it holds already: only news is sent, in as few requests as may be."""

import hashlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lit_gen.harness.spec import flatten

LONGEST = {"key": 250, "parameter": 6000, "tag": 5000, "digest": 36}  # MLflow's limits
GRIDS = "samples"  # MLflow's key of these images
FILES, NAMED = "lit_gen.files", "lit_gen.name"


class Mirror:
    """An MLflow run, read at most once."""

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

    def describe(self, tags: Mapping[str, Any], parameters: dict[str, Any] | None = None) -> None:
        from mlflow.entities import Param, RunTag

        texts = {key(k): str(v or "")[: LONGEST["tag"]] for k, v in tags.items()}
        news = {name: text for name, text in texts.items() if self.tags.get(name, "") != text}
        for part in parts([RunTag(*item) for item in news.items()], 100):
            self.send("log_batch", tags=part)
        self.tags |= news
        texts = {key(k): text(v)[: LONGEST["parameter"]] for k, v in flatten(parameters or {})}
        news = {name: value for name, value in texts.items() if name not in self.params}
        for part in parts([Param(*item) for item in news.items()], 100):  # they never change
            self.send("log_batch", params=part)
        self.params |= news

    def name(self, name: str) -> None:
        """Renames the run, unless somebody else has."""
        ours, now = self.tags.get(NAMED), self.tags.get("mlflow.runName")
        if ours in (None, now):
            self.describe({"mlflow.runName": name[:250], NAMED: name[:250]})

    def metrics(self, values: Mapping[tuple[str, int], float], began: int) -> None:
        """One point for each (name, step); a value that changed later gets a younger point.

        Epochs have no times of their own, and a point's time is part of its identity: made up, one
        second per step after `began` (milliseconds).
        """
        from mlflow.entities import Metric

        news = []
        for (name, step), value in values.items():
            known = self._known(key(name)).get(step)
            if known is None:
                news.append(Metric(key(name), value, began + 1000 * step, step))
            elif known.value != value:
                news.append(Metric(key(name), value, known.timestamp + 1, step))
        self._log(news)

    def line(
        self, name: str, value: float, band: tuple[float, float], last: int, began: int
    ) -> None:
        """A horizontal line from step 0 to `last`, and there an upright one as long as the band.

        Points of one step are drawn in the order of their times. All go in one request.
        """
        from mlflow.entities import Metric

        known = self._known(key(name)).get(last)
        began = known.timestamp + 1 if known else began
        route = [(0, value), (last, value), *((last, edge) for edge in band), (last, value)]
        self._log([Metric(key(name), y, began + i, step) for i, (step, y) in enumerate(route)])

    def _log(self, news: list) -> None:
        for part in parts(news, 1000):
            self.send("log_batch", metrics=part)
        for point in news:
            self._known(point.key)[point.step] = point

    def _known(self, name: str) -> dict[int, Any]:
        """The youngest point of a metric at each step."""
        if name in self.points and self.points[name] is None:
            history = self.client.get_metric_history(self.id, name)
            self.points[name] = {p.step: p for p in sorted(history, key=lambda p: p.timestamp)}
        return self.points.setdefault(name, {})

    def dataset(self, sha256: str, class_path: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        short = sha256[: LONGEST["digest"]]
        if short not in self.datasets:
            source = json.dumps({"tags": {"mlflow.source.name": class_path, "sha256": sha256}})
            data = Dataset(class_path.rpartition(".")[2], short, "code", source)
            self.send("log_inputs", [DatasetInput(data, [InputTag("mlflow.data.context", "all")])])
            self.datasets.add(short)

    def attach(
        self,
        files: Mapping[str, bytes | Path],
        images: Mapping[tuple[str, int], Path],
        began: int,
    ) -> None:
        """Artifacts by name: a text, or a file of that name; a tag keeps their hashes.

        Args:
            files: the artifacts.
            images: by name and step, drawn by MLflow with a slider over a name's steps.
            began: as for `metrics`.
        """
        if self.files is None:
            there = {file.path for file in self.client.list_artifacts(self.id)}
            noted = json.loads(self.tags.get(FILES, "{}"))
            self.files = {name: sha for name, sha in noted.items() if {name, _top(name)} & there}
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
        self._draw(images, began)
        self.describe({FILES: json.dumps(self.files, sort_keys=True)})

    def _draw(self, images: Mapping[tuple[str, int], Path], began: int) -> None:
        """Their files have names of MLflow's own: one that broke off half-way is found by how that
        begins."""
        news = {one: path for one, path in images.items() if _image(*one) not in self.files}
        if not news:
            return
        from PIL import Image

        found = [file.path for file in self.client.list_artifacts(self.id, "images")]
        for (name, step), path in news.items():
            begin = f"{_image(name, step)}+"
            if not any(file.startswith(begin) and file.endswith(".webp") for file in found):
                with Image.open(path) as image:
                    moment = began + 1000 * step
                    if image.mode == "P":  # a palette's numbers have no means for MLflow's preview
                        image = image.convert("RGB")
                    self.send("log_image", image, key=name, step=step, timestamp=moment)
                    self.tags["mlflow.loggedImages"] = "True"  # log_image has said so
            if path.suffix == ".webp":
                self._move(begin, path)
            self.files[_image(name, step)] = ""
        self.describe({"mlflow.loggedImages": "True"})

    def _move(self, begin: str, path: Path) -> None:
        """Puts a clip in the place of its preview, which MLflow's pages show."""
        found = [file.path for file in self.client.list_artifacts(self.id, "images")]
        for file in found:
            if file.startswith(begin) and file.endswith(".webp"):
                with tempfile.TemporaryDirectory() as folder:
                    named = shutil.copyfile(path, Path(folder) / Path(file).name)
                    self.send("log_artifact", str(named), "images")

    def settle(self, status: str, end: int) -> None:
        if status == "RUNNING" and self.status != status:
            self.send("update_run", status)
        elif status != "RUNNING" and (self.status, self.end) != (status, end):
            self.send("set_terminated", status, end)
            self.end = end
        self.status = status


def _image(name: str, step: int) -> str:
    """How MLflow begins the name of an image's files."""
    return f"images/{name}+step+{step}"


def drawn(files: Iterable[str]) -> dict[str, list[int]]:
    """Steps of the images, by name."""
    steps: dict[str, list[int]] = {}
    for file in files:
        name, _, step = file.removeprefix("images/").partition("+step+")
        if step:
            steps.setdefault(name, []).append(int(step))
    return steps


def _top(name: str) -> str:
    return name.partition("/")[0]


def text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def key(name: str) -> str:
    return re.sub(r"[^\w/. :-]", "_", name)[: LONGEST["key"]]


def parts(things: Iterable[Any], size: int) -> Iterator[list]:
    things = list(things)
    return (things[i : i + size] for i in range(0, len(things), size))
