"""`reproduce ui`: MLflow's pages on the right runs, and no server left behind."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
import zlib
from pathlib import Path

import pytest
from PIL import Image
from tracked import judged, make

from lit_gen.harness.reports import tracking, ui
from lit_gen.harness.spec import UserError

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def filled(tables: Path, tmp_path: Path) -> str:
    """A database of two settings with two seeds each; their paper claims 93 ± 6.5."""
    shutil.copy(tables, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    upload(uri, tmp_path)
    return uri


def upload(uri: str, tmp_path: Path, reproduction: str = "paper_table") -> None:
    (tmp_path / "run/samples").mkdir(parents=True)
    for epoch in (1, 2):
        Image.new("L", (28, 28), 99).save(tmp_path / f"run/samples/epoch_{epoch:04d}.png")
    (tmp_path / "run/pictures").mkdir()
    Image.new("L", (28, 28), 50).save(tmp_path / "run/pictures/between.png")
    cells = [(setting, seed) for setting in ("labels_20", "labels_100") for seed in (1, 2)]
    made = [make(seed=k, setting=s, reproduction=reproduction) for s, k in cells]
    tracking.sync([(r, tmp_path / "run") for r in made], uri, lambda record: [judged(94.5)])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def view(uri: str, what: str) -> dict:
    client = tracking.connect(uri)
    tags = client.get_experiment_by_name("paper_table").tags
    packed = tags[f"mlflow.sharedViewState.{ui.VIEWS[what]}"].removeprefix("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_a_server_that_runs_is_only_pointed_at(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.replace("://", "://ada:secret@"))
    upload(server, tmp_path, "paper_seen")

    assert ui.show("paper_seen") == 0

    charts, table = capsys.readouterr().out.splitlines()
    number = tracking.connect(server).get_experiment_by_name("paper_seen").experiment_id
    assert charts.startswith(f"charts: {server}/#/experiments/{number}/runs?")
    assert "compareRunsMode=CHART" in charts
    assert table.startswith(f"table: {server}/#/experiments/{number}/runs?")
    with pytest.raises(UserError, match="--port is of a server to start"):
        ui.show("paper_seen", 5000)


def test_claims_come_first_on_a_logarithmic_axis(filled: str) -> None:
    ui.places(tracking.connect(filled), "paper_table")

    charts = view(filled, "charts")
    shown = [(c["metricSectionId"], c.get("metricKey")) for c in charts["compareRunCharts"]]
    assert shown == [
        ("Claims", "test/errors"), ("Samples", None), ("Pictures", None), ("Curves", "test/nll"),
        ("Curves", "train/loss"), ("Curves", "val/errors"),
    ]  # fmt: skip
    assert charts["compareRunCharts"][0]["scaleType"] == "log"
    assert [(c["imageKeys"], c["step"]) for c in charts["compareRunCharts"][1:3]] == [
        (["samples"], 2), (["between"], 3),
    ]  # fmt: skip
    table = view(filled, "table")
    assert table["searchFilter"] == ""
    assert table["orderByKey"] == "attributes.start_time"  # MLflow folds runs in no other order


def test_looking_twice_changes_nothing(filled: str) -> None:
    client = tracking.connect(filled)
    first = ui.places(client, "paper_table")
    before = client.get_experiment_by_name("paper_table")

    assert ui.places(client, None) == first  # there is only one
    after = client.get_experiment_by_name("paper_table")
    assert (after.tags, after.last_update_time) == (before.tags, before.last_update_time)


def test_mistakes_are_sentences(filled: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no experiment 'paper_tabel'. Did you mean paper_table\?"):
        ui.show("paper_tabel")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {port} cannot be used: Address already in use"):
            ui.show("paper_table", port)
    with pytest.raises(UserError, match="Port 70000 cannot be used: ports go from 1 to 65535"):
        ui.show("paper_table", 70000)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="Connection refused"):
        ui.show("paper_table")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///none.db")
    with pytest.raises(UserError, match=r"no MLflow database .*none.db yet.\n`reproduce NAME`"):
        ui.show("paper_table")
    assert not (here / "none.db").exists()


def test_an_empty_database_is_a_sentence(here: Path, tables: Path) -> None:
    shutil.copy(tables, here)

    with pytest.raises(UserError, match="no runs of lit_gen yet"):
        ui.show(None)


def test_a_server_that_does_not_start_says_why(
    filled: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui.sys, "executable", shutil.which("false"))

    with pytest.raises(UserError, match="MLflow's server did not start: it said nothing"):
        ui.show("paper_table")


@pytest.fixture
def serving(reproduce, filled: str, here: Path):
    """The command at work in the background, and the addresses that it printed."""
    process = reproduce("ui", "paper_table", "--no-open", background=True, start_new_session=True)
    lines = [process.stdout.readline() for _ in range(3)]
    assert lines[2] == "Ctrl-C stops the server.\n", (lines, process.communicate(timeout=5))
    yield process, [line.partition(": ")[2].strip() for line in lines[:2]]
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_server_ends_with_the_command(serving, number: int, status: int) -> None:
    process, (address, _) = serving
    health = address.partition("/#")[0] + "/health"
    assert urllib.request.urlopen(health, timeout=5).status == 200
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) == 1

    process.send_signal(number)

    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == status
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(health, timeout=5)
    with pytest.raises(ProcessLookupError):
        os.killpg(int(children[0]), 0)  # the server's process group


def page(address: str, profile: Path) -> str:
    """A page as a real browser makes it."""
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,1800",
        f"--user-data-dir={profile}", "--virtual-time-budget=60000", "--dump-dom", address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return done.stdout


@pytest.mark.skipif(not CHROMIUM, reason="no chromium here")
def test_a_browser_shows_seeds_settings_and_the_paper_side_by_side(serving, tmp_path: Path) -> None:
    _, (charts, table) = serving
    deadline = time.monotonic() + 150
    expected = [
        f"{setting} {which} (release)"
        for setting in ("labels_20", "labels_100")
        for which in ("seed 1", "seed 2")
    ]
    while True:  # a busy machine may need more than a page's time
        shown = page(charts, tmp_path / "profile")
        legend = [name for name in expected if f"{name} (test/errors)" in shown]
        if legend == expected or time.monotonic() > deadline:
            break
    assert legend == expected
    assert "labels_100 paper 93 ± 6.5 single (release) (test/errors)" in shown
    assert "samples" in shown
    assert "Error loading shared view" not in shown

    folded = page(table, tmp_path / "profile")
    assert "labels_100 reproduced (release)" in folded
    assert "labels_100 seed 1 (release)" not in folded
