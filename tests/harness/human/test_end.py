"""How a human test ends: with its numbers said, written and logged, whatever MLflow does."""

import json
import re
import shutil
import signal
import urllib.request
from pathlib import Path

import pytest

RUN = Path("runs/improved_gan_blur/all-paper-seed_1")


def test_mlflow_gets_numbers_record_and_sheet(human, tables, monkeypatch, begin, answer) -> None:
    from lit_gen.harness.reports import tracking

    shutil.copy(tables, "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    answer(begin(), "ada", 4)
    answer(begin("--feedback"), "ada", 10)

    human("--score")
    _, said = human("--score", "--feedback")

    assert "logged to MLflow" in said
    client = tracking.connect(tracking.resolve(None))
    experiment = client.get_experiment_by_name("improved_gan_blur").experiment_id
    (run,) = client.search_runs([experiment], "tags.kind = 'run'")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["human/error_percent"] == pytest.approx(20)
    assert run.data.metrics["human_feedback/error_percent"] == pytest.approx(50)
    assert run.data.metrics["human/votes"] == 20
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"human_plain.json", "human_plain.png", "human_feedback.json", "record.json"} <= names


def test_without_mlflow_the_record_is_there(human, monkeypatch, begin, answer) -> None:
    answer(begin(), "ada", 4)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")

    status, said = human("--score")

    assert status == 0
    assert "--score` logs it later" in said
    assert json.loads((RUN / "human/plain.json").read_text())["metrics"]["human/votes"] == 20


def test_ctrl_c_ends_it_with_what_was_found(home, reproduce) -> None:
    path = "reproductions/improved_gan/blur.yaml"
    words = ("human", path, "--images", "4", "--no-mlflow", "--no-open")
    process = reproduce(*words, background=True)
    said = ""
    try:
        while "The page is at" not in said:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            said += line
        address = re.search(r"http://127.0.0.1:\d+/", said)[0]
        page = urllib.request.urlopen(address, timeout=10).read().decode()
        assert "<title>Real or generated?</title>" in page
        ask(address, "start", {"rater": "ada"})
        for _ in range(3):
            turn = ask(address, "start", {"rater": "ada"})
            see(address, turn)
            ask(address, "vote", {"image": turn["image"], "answer": "real"}, turn["token"])
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()

    assert process.returncode == 0, err
    assert "3 votes of 1 rater" in out
    assert "1 rater have not" not in out
    assert "Traceback" not in err
    assert json.loads((RUN / "human/plain.json").read_text())["metrics"]["human/votes"] == 3


def ask(address: str, what: str, body: dict, token: str = "") -> dict:
    headers = {"Content-Type": "application/json", "X-Token": token}
    request = urllib.request.Request(
        f"{address}api/{what}", json.dumps(body).encode(), headers, method="POST"
    )
    return json.loads(urllib.request.urlopen(request, timeout=10).read())


def see(address: str, turn: dict) -> None:
    headers = {"X-Token": turn["token"]}
    request = urllib.request.Request(f"{address}api/image/{turn['image']}", headers=headers)
    urllib.request.urlopen(request, timeout=10).read()
