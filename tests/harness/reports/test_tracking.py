"""Tracking: MLflow ends up as the record is, whichever way and however often it gets there."""

import copy
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tracked import DATA, claim, judged, make

import lit_gen
from lit_gen.harness import record as records
from lit_gen.harness.record import Record
from lit_gen.harness.reports import tracking
from lit_gen.harness.reports.mirror import FILES, drawn
from lit_gen.harness.spec import Claim, Order, Seed, UserError
from lit_gen.harness.verdicts.curves import Progress
from lit_gen.harness.verdicts.orders import Ranking, Side

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(lit_gen.__file__).parents[1])}


def under_way(status: str = "on track", seed: int = 1) -> Progress:
    words = f"{status}: 120 errors after 3 of 4 epochs"
    return Progress(
        claim(), "paper_table", "release", Seed(seed, seed), status, words, epoch=3, max_epochs=4
    )


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "run"
    place.mkdir()
    for name in ("predictions.npz", "checkpoint.ckpt"):
        (place / name).write_bytes(name.encode())
    (place / "samples").mkdir()
    for epoch in (1, 2):
        Image.new("L", (280, 280), 50 * epoch).save(place / f"samples/epoch_{epoch:04d}.png")
    Image.new("L", (280, 280)).save(place / "samples.png")
    return place


@pytest.fixture
def store(tables, tmp_path):
    shutil.copy(tables, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(params=["sqlite", "server"])
def anywhere(request):
    return request.getfixturevalue("store" if request.param == "sqlite" else "server")


def found(uri: str, query: str = "", reproduction: str = "paper_table") -> list:
    """What a search finds in a reproduction, by name."""
    client = tracking.connect(uri)
    runs = client.search_runs([client.get_experiment_by_name(reproduction).experiment_id], query)
    return sorted(runs, key=lambda run: run.info.run_name)


def runs(uri: str, reproduction: str = "paper_table") -> tuple[list, list]:
    """The cells and runs of a reproduction."""
    cells, children = (found(uri, f"tags.kind = '{k}'", reproduction) for k in ("cell", "run"))
    assert not [run for run in cells if "mlflow.parentRunId" in run.data.tags]
    assert all("mlflow.parentRunId" in run.data.tags for run in children)
    return cells, children


def names(uri: str, query: str) -> list[str]:
    return [run.info.run_name.partition(" (")[0] for run in found(uri, query)]


def contents(uri: str, reproduction: str = "paper_table") -> dict:
    """All that MLflow shows of a reproduction, without what differs from one store to another."""
    client = tracking.connect(uri)
    shown = {}
    for run in found(uri, reproduction=reproduction):
        histories = {
            key: [(p.step, p.value, p.timestamp) for p in history]
            for key in run.data.metrics
            for history in [client.get_metric_history(run.info.run_id, key)]
        }
        shown[run.info.run_name] = (
            run.info.status,
            run.info.end_time,
            {k: v for k, v in run.data.tags.items() if k != "mlflow.parentRunId"},
            run.data.params,
            {key: sorted(points) for key, points in histories.items()},
            sorted((f.path, f.file_size) for f in client.list_artifacts(run.info.run_id)),
            len(client.list_artifacts(run.info.run_id, "images")),
            [(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs],
        )
    return shown


def once(uri: str, record: Record, folder: Path, *verdicts) -> tracking.Outcome:
    (outcome,) = tracking.sync([(record, folder)], uri, lambda record: verdicts)
    return outcome


class Breaking:
    """An MlflowClient whose server goes away after some calls."""

    def __init__(self, client, calls: int) -> None:
        self.client, self.left, self.tracking_uri = client, calls, client.tracking_uri

    def __getattr__(self, name):
        def call(*arguments, **named):
            self.left -= 1
            if self.left < 0:
                raise ConnectionResetError(104, "Connection reset by peer")
            return getattr(self.client, name)(*arguments, **named)

        return call


def test_a_finished_record_is_all_there(anywhere, folder) -> None:
    record = make(reproduction="paper_all")

    assert once(anywhere, record, folder, judged(94.5)).problem is None

    (parent,), (child,) = runs(anywhere, "paper_all")
    assert (parent.info.run_name, child.info.run_name) == (
        "labels_100 reproduced (release)",
        "labels_100 seed 1 (release)",
    )
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert child.info.end_time - child.info.start_time == 30_000
    assert child.data.params == {
        "model.class_path": "lit_gen.papers.paper.Model", "model.lr": "0.003",
        "data.class_path": "lit_gen.datamodules.images.MNIST", "data.n": "[1, 2]",
        "trainer.max_epochs": "4",
    }  # fmt: skip
    expected = {
        "paper": "paper", "setting": "labels_100", "protocol": "release", "seed": "1",
        "status": "finished", "spec_hash": record.spec_hash, "data_sha256": DATA,
        "git_commit": "abc+dirty", "device": "cpu",
        "deviations": "pixels are divided by 255.\n4 epochs instead of 300.",
    }  # fmt: skip
    assert expected.items() <= child.data.tags.items()
    assert child.inputs.dataset_inputs[0].dataset.digest == DATA[:36]

    client = tracking.connect(anywhere)
    loss = client.get_metric_history(child.info.run_id, "train/loss")
    assert [(p.step, p.value) for p in loss] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    steps = {k: len(client.get_metric_history(child.info.run_id, k)) for k in child.data.metrics}
    assert steps == {
        "train/loss": 3, "val/errors": 2, "test/errors": 3, "test/nll": 1,
        "system/wall_s": 1, "system/cpu_s": 1, "system/peak_memory_mb": 1,
    }  # fmt: skip
    assert child.data.metrics["system/wall_s"] == 30.0

    files = Path(client.download_artifacts(child.info.run_id, "", str(folder.parent)))
    assert (files / "checkpoint.ckpt").read_bytes() == b"checkpoint.ckpt"
    assert records.read(files / "record.json").name == record.name
    assert {f.path for f in client.list_artifacts(child.info.run_id)} == {
        "record.json", "config.yaml", "samples.png", "predictions.npz", "checkpoint.ckpt", "images",
    }  # fmt: skip

    assert parent.data.metrics == {
        f"verdict/single/{name}": value
        for name, value in [
            ("mean", 94.5), ("low", 93.5), ("high", 95.5), ("n", 2), ("paper", 93), ("gap", 1.5),
            ("margin", 6.5),
        ]
    }  # fmt: skip
    assert parent.data.tags["verdict.single"] == "reproduced"
    assert "over 2 seeds" in parent.data.tags["mlflow.note.content"]


def test_syncing_again_sends_nothing(anywhere, folder) -> None:
    states = [(1, "finished"), (2, "running")]
    made = [make(seed=k, status=status, reproduction="paper_again") for k, status in states]
    pairs = [(record, folder) for record in made]
    tracking.sync(pairs, anywhere, lambda record: [judged(94.5)])
    before = contents(anywhere, "paper_again")

    outcomes = tracking.sync(pairs, anywhere, lambda record: [judged(94.5)])

    assert [(o.sent, o.problem) for o in outcomes] == [(0, None)] * 2
    assert contents(anywhere, "paper_again") == before
    assert len(before) == 1 + 2 + 1
    assert before["labels_100 reproduced (release)"][0] == "RUNNING"  # as long as one seed is


def test_an_upload_that_breaks_anywhere_is_completed(tables, store, folder, tmp_path) -> None:
    record, verdicts = make(), [judged(94.5)]
    tracking.upload(tracking.connect(store), record, folder, verdicts)
    whole = contents(store)

    calls, broke = 0, True
    while broke:
        (tmp_path / str(calls)).mkdir()
        uri = f"sqlite:///{shutil.copy(tables, tmp_path / str(calls))}"
        client = tracking.connect(uri)
        try:
            tracking.upload(Breaking(client, calls), record, folder, verdicts)
            broke = False
        except ConnectionResetError:
            tracking.upload(client, record, folder, verdicts)
        assert contents(uri) == whole, f"broken off after {calls} calls"
        calls += 3

    assert calls > 12


def test_a_changed_verdict_and_file_replace_the_old_ones(store, folder) -> None:
    once(store, make(), folder, judged(94.5))
    (folder / "predictions.npz").write_bytes(b"mended")

    once(store, make(), folder, judged(80.0, "better", n=3))
    once(store, make(), folder)

    (parent,), (child,) = runs(store)
    assert parent.data.tags["verdict.single"] == "better"
    assert parent.data.metrics["verdict/single/mean"] == 80.0  # smaller, yet younger
    assert parent.data.metrics["verdict/single/gap"] == -13.0
    client = tracking.connect(store)
    place = client.download_artifacts(child.info.run_id, "predictions.npz")
    assert Path(place).read_bytes() == b"mended"


def test_mlflow_s_limits_are_kept(store, folder) -> None:
    config = {"model": {"class_path": "a.b.C", "init_args": {"text": "x" * 7000, "odd key(1)": ""}}}
    config["model"]["init_args"] |= {f"p{i}": i for i in range(120)}
    record = make(400, config=config, deviations=["y" * 9000])

    assert once(store, record, folder).problem is None

    child = runs(store)[1][0]
    assert len(child.data.params["model.text"]) == 6000
    assert len(child.data.params) == 123
    history = tracking.connect(store).get_metric_history(child.info.run_id, "train/loss")
    assert sorted(p.step for p in history) == list(range(1, 401))
    assert once(store, record, folder).sent == 0


def test_verdicts_on_another_cell_stay_out(store, folder) -> None:
    other = dataclasses.replace(judged(94.5), protocol="paper_june8")

    once(store, make(), folder, other)

    assert runs(store)[0][0].data.metrics == {}


def test_an_order_stands_at_the_cells_of_both_settings_and_at_no_other(store, folder) -> None:
    order = Order(
        "above_100", "test/errors", "labels_200", "labels_100", "lower", "median", "last", 3, "",
        "", "", "text",
    )  # fmt: skip
    sides = tuple(Side(s, 1, 9.0, {"1": 9.0}, {}, 4) for s in ("labels_200", "labels_100"))
    said = Ranking(order, "paper_table", "release", "inconclusive", "inconclusive: why", sides)

    for setting in ("labels_200", "labels_100", "labels_50"):
        assert once(store, make(setting=setting), folder, said).problem is None
    cells = {run.data.tags["setting"]: run.data.tags for run in runs(store)[0]}

    for setting in ("labels_200", "labels_100"):
        assert cells[setting]["order.labels_200 above_100"] == "inconclusive"
        assert (
            cells[setting]["mlflow.note.content"] == "**labels_200 above_100**: inconclusive: why."
        )
    assert not any(key.startswith("order.") for key in cells["labels_50"])
    once(store, make(), folder, judged(94.5), said)
    tags = next(run.data.tags for run in runs(store)[0] if run.data.tags["setting"] == "labels_100")
    assert "above_100" in tags["mlflow.note.content"]
    assert tags["verdict"] == "reproduced"


def test_overrides_and_smoke_runs_have_cells_of_their_own(store, folder) -> None:
    variants = [{}, {"overrides": {"model": {"lr": 0.1}}, "spec_hash": "f" * 64}, {"smoke": True}]

    tracking.sync([(make(**v), folder) for v in variants], store)

    assert [p.info.run_name for p in runs(store)[0]] == [
        "labels_100 (release)",
        "labels_100 (release, model.lr=0.1)",
        "labels_100 (release, smoke)",
    ]


def test_the_paper_s_value_is_a_level_line_as_long_as_the_curves(anywhere, folder) -> None:
    """It ends in an upright one from edge to edge of the band; times say what is drawn when."""
    verdicts = judged(94.5), judged(None, "inconclusive", 0, "ensemble")
    once(anywhere, make(reproduction="paper_line"), folder, *verdicts)
    (parent,), _ = runs(anywhere, "paper_line")
    lines = found(anywhere, "tags.kind = 'reference'", "paper_line")

    assert [line.info.run_name for line in lines] == [
        "labels_100 paper 93 ± 6.5 ensemble (release)",
        "labels_100 paper 93 ± 6.5 single (release)",
    ]
    for line, name, status in zip(
        lines, ("ensemble", "single"), ("inconclusive", "reproduced"), strict=True
    ):
        assert line.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert line.data.tags.items() >= {"claim": name, "verdict": status}.items()
        assert line.data.metrics == {"test/errors": 93.0}
        history = tracking.connect(anywhere).get_metric_history(line.info.run_id, "test/errors")
        history = sorted(history, key=lambda point: (point.step, point.timestamp))
        drawn = [(point.step, point.value) for point in history]
        assert drawn == [(0, 93.0), (4, 93.0), (4, 86.5), (4, 99.5), (4, 93.0)]


def test_a_corrected_claim_moves_its_line(store, folder) -> None:
    once(store, make(), folder, judged(94.5))
    mended = Claim("single", "test/errors", "labels_100", value=95.0, spread=None, margin=4.0)

    once(store, make(), folder, dataclasses.replace(judged(94.5), claim=mended))

    (line,) = found(store, "tags.kind = 'reference'")
    assert line.info.run_name == "labels_100 paper 95 single (release)"
    assert line.data.tags["band"] == "91 to 99"
    assert line.data.metrics == {"test/errors": 95.0}


def test_searches_find_cells_runs_and_references(store, folder) -> None:
    verdicts = judged(94.5, power=0.4), judged(None, "inconclusive", 0, "ensemble")
    once(store, make(seed=1), folder)  # before there is a verdict
    once(store, make(seed=2), folder, *verdicts)
    once(store, make(setting="labels_20"), folder)

    judged_runs = ["labels_100 seed 1", "labels_100 seed 2"]
    for query, expected in {
        "tags.verdict = 'reproduced'": [
            "labels_100 paper 93 ± 6.5 single", "labels_100 reproduced", *judged_runs
        ],
        "tags.verdict = 'inconclusive'": ["labels_100 paper 93 ± 6.5 ensemble"],
        "tags.claim LIKE '%single%' and tags.kind = 'cell'": ["labels_100 reproduced"],
        "tags.claim = 'single'": ["labels_100 paper 93 ± 6.5 single"],
        "tags.`verdict.ensemble` = 'inconclusive'": ["labels_100 reproduced"],
        "tags.paper = 'paper' and tags.setting = 'labels_20'": ["labels_20", "labels_20 seed 1"],
        "tags.protocol = 'release' and tags.kind = 'run'": [*judged_runs, "labels_20 seed 1"],
        "tags.seed = '2'": ["labels_100 seed 2"],
        "tags.status = 'finished' and tags.setting = 'labels_100'": judged_runs,
        "metrics.`verdict/single/power` < 0.5": ["labels_100 reproduced"],
    }.items():  # fmt: skip
        assert names(store, query) == expected, query


def test_seeds_have_colors_of_their_own_until_somebody_chooses(store, folder) -> None:
    made = [(make(seed=seed), folder) for seed in range(1, 11)]
    tracking.sync(made, store, lambda record: [judged(94.5)])
    colors = {run.data.tags["mlflow.runColor"] for run in found(store, "tags.kind != 'cell'")}
    assert len(colors) == 11

    client, chosen = tracking.connect(store), runs(store)[1][0].info.run_id
    client.set_tag(chosen, "mlflow.runColor", "#123456")
    client.set_tag(chosen, "mlflow.runName", "the odd one")
    tracking.sync(made, store)

    tags = client.get_run(chosen).data.tags
    assert (tags["mlflow.runColor"], tags["mlflow.runName"]) == ("#123456", "the odd one")


def test_sample_grids_are_images_with_a_step_each_uploaded_once(anywhere, folder) -> None:
    growing = make(2, "running", reproduction="paper_samples")
    once(anywhere, growing, folder)
    Image.new("L", (280, 280), 200).save(folder / "samples/epoch_0003.png")
    once(anywhere, make(3, reproduction="paper_samples"), folder)
    (_,), (child,) = runs(anywhere, "paper_samples")
    client = tracking.connect(anywhere)
    paths = [f.path for f in client.list_artifacts(child.info.run_id, "images")]

    assert child.data.tags["mlflow.loggedImages"].lower() == "true"
    for kind in (".png", "+compressed.webp"):  # MLflow's pages read the step from the name
        steps = [p.split("+")[2] for p in paths if p.endswith(kind)]
        assert sorted(steps) == ["1", "2", "3"]
    assert all(path.startswith("images/samples+step+") for path in paths)
    with Image.open(client.download_artifacts(child.info.run_id, sorted(paths)[1])) as image:
        assert (image.size, image.getpixel((0, 0))) == ((280, 280), 50)


def pictures(folder: Path) -> None:
    (folder / "pictures").mkdir()
    stripes = Image.fromarray(np.tile(np.uint8([0, 255]), (200, 512))).quantize(8)
    stripes.save(folder / "pictures/kl.png")
    Image.new("L", (56, 56), 7).save(folder / "pictures/latent_walk.png")


def test_a_finished_run_s_pictures_are_images_by_their_names(anywhere, folder) -> None:
    pictures(folder)
    once(anywhere, make(2, "running", reproduction="paper_pictures"), folder)
    (_,), (child,) = runs(anywhere, "paper_pictures")
    client = tracking.connect(anywhere)

    def paths() -> list[str]:
        found = client.list_artifacts(child.info.run_id, "images")
        return [f.path for f in found if "samples" not in f.path]

    assert paths() == []  # not yet
    once(anywhere, make(3, reproduction="paper_pictures"), folder)
    assert once(anywhere, make(3, reproduction="paper_pictures"), folder).sent == 0

    shown = [path.split("+")[:3] for path in paths() if path.endswith(".png")]
    assert sorted(shown) == [["images/kl", "step", "3"], ["images/latent_walk", "step", "3"]]
    assert len(paths()) == 4  # each with a preview
    (preview,) = (path for path in paths() if "kl" in path and path.endswith(".webp"))
    with Image.open(client.download_artifacts(child.info.run_id, preview)) as image:
        assert all(60 < level < 200 for level in image.convert("L").crop((9, 9, 99, 49)).tobytes())


def test_numbers_beside_the_claims_are_metrics_that_a_note_explains(anywhere, folder) -> None:
    record = make(3, reproduction="paper_beside")
    record.result["beside"] = {
        "memorisation/sample_distance": 4.9,
        "memorisation/test_distance": 4.7,
        "memorisation/ratio": 1.0426,
    }
    pictures(folder)
    Image.new("L", (56, 56), 7).save(folder / "pictures/nearest.png")

    once(anywhere, record, folder)

    (_,), (child,) = runs(anywhere, "paper_beside")
    for name, value in record.result["beside"].items():
        history = tracking.connect(anywhere).get_metric_history(child.info.run_id, name)
        assert [(p.step, p.value) for p in history] == [(3, value)]
    note = child.data.tags["mlflow.note.content"]
    assert note.startswith("Memorisation, no claim: half of the samples lie within 4.9 of a train")
    assert drawn(json.loads(child.data.tags[FILES]))["nearest"] == [3]
    assert once(anywhere, record, folder).sent == 0


def test_a_finished_run_s_clip_is_an_artifact_and_moves_among_the_images(anywhere, folder) -> None:
    (folder / "pictures").mkdir()
    clip = folder / "pictures/clip.webp"
    first, *rest = (Image.new("RGB", (60, 40), (9 * i, 0, 0)) for i in range(5))
    first.save(clip, save_all=True, append_images=rest, duration=50)

    once(anywhere, make(3, reproduction="paper_clip"), folder)
    again = once(anywhere, make(3, reproduction="paper_clip"), folder)

    (_,), (child,) = runs(anywhere, "paper_clip")
    client = tracking.connect(anywhere)
    assert again.sent == 0
    assert "clip.webp" in [file.path for file in client.list_artifacts(child.info.run_id)]
    found = [file.path for file in client.list_artifacts(child.info.run_id, "images")]
    (preview,) = (path for path in found if path.startswith("images/clip+") and "webp" in path)
    with Image.open(client.download_artifacts(child.info.run_id, preview)) as image:
        assert image.n_frames == 5
    assert drawn(json.loads(child.data.tags[FILES]))["clip"] == [3]


def test_a_paper_s_figure_is_an_artifact_of_its_cells_and_follows_them(anywhere, folder) -> None:
    record, client = make(3, reproduction="paper_figure"), tracking.connect(anywhere)

    for svg in ("<svg>one run</svg>", "<svg>two runs</svg>"):
        tracking.sync(
            [(record, folder)], anywhere, figures=lambda r, svg=svg: {"Figure 1.svg": svg}
        )
        (cell,), _ = runs(anywhere, "paper_figure")
        assert [f.path for f in client.list_artifacts(cell.info.run_id)] == ["Figure 1.svg"]
        path = client.download_artifacts(cell.info.run_id, "Figure 1.svg")
        assert Path(path).read_text() == svg


def test_an_upload_that_breaks_at_a_picture_is_completed(
    tables, store, folder, tmp_path, monkeypatch
) -> None:
    pictures(folder)
    once(store, make(), folder)
    (tmp_path / "broken").mkdir()
    uri = f"sqlite:///{shutil.copy(tables, tmp_path / 'broken')}"
    client = tracking.connect(uri)
    log = client.log_image

    def breaks(*arguments, key: str, **named) -> None:
        if key == "latent_walk":
            raise ConnectionResetError(104, "Connection reset by peer")
        log(*arguments, key=key, **named)

    with monkeypatch.context() as patch:
        patch.setattr(client, "log_image", breaks)
        with pytest.raises(ConnectionResetError):
            tracking.upload(client, make(), folder)
    half = contents(uri)
    tracking.upload(client, make(), folder)

    assert half != contents(uri) == contents(store)


def test_a_run_that_kept_no_grids_shows_its_last_samples(store, folder) -> None:
    shutil.rmtree(folder / "samples")

    once(store, make(), folder)

    (child,) = runs(store)[1]
    paths = [f.path for f in tracking.connect(store).list_artifacts(child.info.run_id, "images")]
    assert [path.split("+")[2] for path in paths] == ["3", "3"]


def test_an_unfinished_run_says_whether_it_is_on_track(store, folder) -> None:
    def tags() -> tuple[str, str]:
        (child,) = runs(store)[1]
        return child.data.tags.get("progress"), child.data.tags.get("mlflow.note.content")

    once(store, make(2, "running"), folder, under_way(), under_way("off track", seed=2))
    assert tags() == ("on track", "on track: 120 errors after 3 of 4 epochs")
    once(store, make(3, "running"), folder)  # nobody asked
    assert tags()[0] == "on track"
    once(store, make(3, "stopped"), folder, under_way("off track"))
    assert names(store, "tags.progress = 'off track'") == ["labels_100 seed 1"]
    once(store, make(), folder, judged(94.5))
    assert tags() == ("", "")


@pytest.mark.parametrize("status", records.STATUSES)
def test_status(store, folder, status) -> None:
    once(store, make(status=status), folder)

    (parent,), (child,) = runs(store)
    expected = {"running": "RUNNING", "stopped": "KILLED", "finished": "FINISHED"}
    assert child.info.status == expected.get(status, "FAILED")
    assert parent.info.status == ("RUNNING" if status == "running" else "FINISHED")
    names = {f.path for f in tracking.connect(store).list_artifacts(child.info.run_id)}
    assert ("checkpoint.ckpt" in names) == (status == "finished")


def test_a_growing_record_gives_one_point_per_epoch(store, folder) -> None:
    tracker = tracking.Tracker(store, say=pytest.fail)
    record = make(0, "running")
    took = []
    for epochs in range(5):
        record.epochs, record.result = epochs, make(epochs).result | {"metrics": {}}
        began = time.monotonic()
        tracker.push(record, folder)
        took.append(time.monotonic() - began)
        time.sleep(0.1 * (epochs % 2))  # some uploads see one new epoch, some several
    tracker.push(make(4), folder, [judged(94.5)])

    assert tracker.close(60)
    assert max(took) < 0.1
    live = contents(store)
    assert once(store, make(4), folder, judged(94.5)).sent == 0
    history = live["labels_100 seed 1 (release)"][4]
    assert [len(history[key]) for key in ("train/loss", "test/errors")] == [4, 4]


def test_push_keeps_the_record_as_it_was(monkeypatch, folder) -> None:
    seen, go = [], threading.Event()
    monkeypatch.setattr(tracking, "connect", lambda uri: go.wait(10))
    monkeypatch.setattr(
        tracking, "upload", lambda client, record, *rest, **known: seen.append(record)
    )
    tracker = tracking.Tracker("http://nowhere", say=pytest.fail)
    records = [make(2, "running", seed=s) for s in (1, 2)]
    for record in records:
        tracker.push(record, folder)
        record.result["curve"].clear()
        record.epochs = 99
    go.set()

    assert tracker.close(10)
    assert [(r.epochs, len(r.result["curve"])) for r in seen] == [(2, 3)] * 2


def test_a_resumed_run_goes_on_in_its_child(store, folder) -> None:
    first = make(2, "stopped", error={"type": "Stopped", "message": "SIGTERM"})
    once(store, first, folder)
    resumed = make(3, "running")
    resumed.provenance["segments"] = first.provenance["segments"] + [
        {"started": "2026-01-03T00:00:00Z", "commit": "def", "dirty": False, "device": "cpu"}
    ]
    once(store, resumed, folder)
    (parent,), (child,) = runs(store)
    assert (parent.info.status, child.info.status) == ("RUNNING", "RUNNING")

    ended = copy.deepcopy(resumed)
    ended.status, ended.epochs, ended.result = "finished", 4, make(4).result
    ended.provenance["segments"][1] |= {"wall_s": 5.0, "cpu_s": 6.0, "peak_memory_mb": 300}
    once(store, ended, folder)

    (_,), (child,) = runs(store)
    assert child.info.status == "FINISHED"
    assert child.data.metrics["system/wall_s"] == 35.0
    assert child.data.metrics["system/peak_memory_mb"] == 400
    assert child.data.tags["git_commit"] == "abc+dirty, def"
    assert child.data.tags["error"] == ""
    assert len(contents(store)["labels_100 seed 1 (release)"][4]["train/loss"]) == 4


def test_without_a_server_training_goes_on_and_sync_uploads_later(store, folder) -> None:
    pytest.importorskip("mlflow")
    said = []
    uri = "http://ada:secret@127.0.0.1:9"
    tracker = tracking.Tracker(uri, said.append, retry=0.05)
    began = time.monotonic()
    for epochs in range(4):
        tracker.push(make(epochs, "running"), folder)
    assert time.monotonic() - began < 1
    time.sleep(1.5)  # many tries

    assert not tracker.close(10)
    (sentence,) = said
    assert "Connection refused; the run goes on, and `reproduce sync` uploads it later." in sentence
    assert "127.0.0.1" in sentence
    assert "secret" not in sentence
    with pytest.raises(UserError, match="Connection refused") as caught:
        once(uri, make(), folder)
    assert "secret" not in str(caught.value)
    assert once(store, make(), folder).problem is None
    assert len(contents(store)["labels_100 seed 1 (release)"][4]["train/loss"]) == 3


def test_a_server_that_hangs_does_not_hold_up_training(tables, folder) -> None:
    said = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracker = tracking.Tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", said.append)
        began = time.monotonic()
        tracker.push(make(), folder)
        assert time.monotonic() - began < 1

        assert not tracker.close(0.5)
        assert time.monotonic() - began < 3
    assert len(said) == 1
    assert "`reproduce sync`" in said[0]


def test_a_server_that_comes_back_gets_the_rest(store, folder, monkeypatch) -> None:
    said, client = [], tracking.connect(store)
    flaky = Breaking(client, 9)
    monkeypatch.setattr(tracking, "connect", lambda uri: flaky)
    tracker = tracking.Tracker(store, said.append, retry=0.05)
    tracker.push(make(2, "running"), folder)
    deadline = time.monotonic() + 20
    while not said and time.monotonic() < deadline:
        time.sleep(0.05)
    tracker.push(make(), folder)
    flaky.left = 1000

    assert tracker.close(20)
    assert len(said) == 1
    monkeypatch.undo()
    assert once(store, make(), folder).sent == 0
    assert len(runs(store)[1]) == 1


def test_one_failing_record_does_not_stop_the_others(store, folder, monkeypatch) -> None:
    said, true_upload = [], tracking.upload

    def upload(client, record, *rest, **named):
        if record.seed["data"] == 2:
            raise OSError(28, "No space left on device")
        return true_upload(client, record, *rest, **named)

    monkeypatch.setattr(tracking, "upload", upload)
    outcomes = tracking.sync([(make(seed=s), folder) for s in (1, 2, 3)], store, say=said.append)

    assert [bool(o.problem) for o in outcomes] == [False, True, False]
    assert len(runs(store)[1]) == 2
    assert len(said) == 1
    assert "seed_2" in said[0]
    assert "No space left on device" in said[0]


def test_without_mlflow_training_goes_on(monkeypatch, folder) -> None:
    for name in ("mlflow", "mlflow.tracking"):
        monkeypatch.setitem(sys.modules, name, None)
    said = []
    tracker = tracking.Tracker("sqlite:///never.db", said.append, retry=0.01)
    for epochs in range(3):
        tracker.push(make(epochs, "running"), folder)
        time.sleep(0.05)

    assert not tracker.close(10)
    assert len(said) == 1
    assert said[0].startswith("MLflow is not installed")
    with pytest.raises(UserError, match="pip install 'lit-gen\\[mlflow\\]'"):
        once("sqlite:///never.db", make(), folder)
    assert not Path("never.db").exists()


@pytest.mark.parametrize("uri", ["file:///somewhere/mlruns", "./mlruns"])
def test_file_stores_are_refused(uri, folder) -> None:
    with pytest.raises(UserError, match="no longer writes to folders"):
        once(uri, make(), folder)


def test_the_default_is_a_database_here_and_stays_there(tables, folder, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(tables, tmp_path)
    tracker = tracking.Tracker(say=pytest.fail)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    tracker.push(make(), folder)

    assert tracker.close(60)
    assert list(Path().iterdir()) == []
    assert len(list(tmp_path.glob("mlartifacts/paper_table/*/artifacts/record.json"))) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere")
    assert tracking.resolve(None) == "http://somewhere"


def test_a_deleted_experiment_is_explained(store, folder) -> None:
    once(store, make(), folder)
    client = tracking.connect(store)
    client.delete_experiment(client.get_experiment_by_name("paper_table").experiment_id)

    assert "mlflow experiments restore" in once(store, make(), folder).problem


def test_duplicates_from_a_race_are_healed(store, folder) -> None:
    client = tracking.connect(store)
    once(store, make(), folder)
    before = contents(store)
    (parent,), (child,) = runs(store)
    for run in (parent, child):
        client.create_run(
            run.info.experiment_id,
            start_time=run.info.start_time + 1,
            tags={k: v for k, v in run.data.tags.items() if k.startswith("lit_gen.")},
        )

    once(store, make(), folder)

    assert contents(store) == before


SEED = """
import random, sys, time
from pathlib import Path
import numpy, torch
from lit_gen.harness import record
from lit_gen.harness.reports import tracking
from lit_gen.harness.reports.mirror import drawn

read = record.read(Path(sys.argv[1]))
state = [str(random.getstate()), str(numpy.random.get_state()), str(torch.get_rng_state())]
before = "mlflow" in sys.modules
tracker = tracking.Tracker(sys.argv[2])
tracker.push(read, Path(sys.argv[1]).parent)
arrived = tracker.close(100)
after = [str(random.getstate()), str(numpy.random.get_state()), str(torch.get_rng_state())]
print(arrived, before, state == after)
"""


def test_two_seeds_may_start_on_a_new_database_at_once(tmp_path) -> None:
    """And: nothing is printed, MLflow is imported late, and no random number is drawn."""
    pytest.importorskip("mlflow")
    uri, processes = f"sqlite:///{tmp_path}/new/mlflow.db", []
    for seed in (1, 2):
        path = tmp_path / str(seed) / "record.json"
        records.write(path, make(seed=seed))
        command = [sys.executable, "-c", SEED, str(path), uri]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=ENVIRONMENT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)

    for process in processes:
        assert process.communicate(timeout=120) == ("True False True\n", "")
    (_,), children = runs(uri)
    assert [c.data.tags["seed"] for c in children] == ["1", "2"]
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {runs(uri)[0][0].info.run_id}
