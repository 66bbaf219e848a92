"""The command line end to end: a tiny real run, its mistakes, its tables."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_gen.harness.cli import main, parse_overrides
from lit_gen.harness.commands.common import parse_budget
from lit_gen.harness.spec import UserError, shipped

NAME = "improved_gan_mnist_semisup"
TINY = ["--data.validation", "100", "--data.limit", "200", "--data.batch_size", "20"]


def call(words: list[str], capsys: pytest.CaptureFixture) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command, in this process."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capsys.readouterr()
    return stop.value.code or 0, said.out, said.err


# --- what a user gets


def test_a_run_ends_with_a_record_a_table_and_how_to_go_on(reproduce, tmp_path: Path) -> None:
    done = reproduce(NAME, "--seeds", "1-2", *TINY, "--trainer.max_epochs", "2", "--no-mlflow")
    records = [json.loads(p.read_text()) for p in tmp_path.glob(f"runs/{NAME}/*/record.json")]

    assert done.returncode == 0, done.stderr
    assert sorted(r["seed"]["data"] for r in records) == [1, 2]
    assert all(r["status"] == "finished" and len(r["result"]["curve"]["test/errors"]) == 2
               for r in records)  # fmt: skip
    assert "93 ± 6.5" in done.stdout
    assert "deviation: trainer.max_epochs = 2" in done.stdout
    assert re.search(r"labels_100 single.*not comparable", done.stdout)  # 300 test images
    assert "\x1b[" not in done.stdout  # no terminal, no escape codes


def test_a_budget_stops_cleanly_judges_and_says_how_to_go_on(reproduce, tmp_path: Path) -> None:
    done = reproduce(NAME, "--seeds", "1", "--budget", "4s", "--no-mlflow", "--device", "cpu")
    (record,) = (json.loads(p.read_text()) for p in tmp_path.glob("runs/*/*/record.json"))

    assert done.returncode == 0, done.stderr
    assert record["status"] == "stopped"
    assert "the budget of 4s is spent" in done.stdout
    assert "labels_100 single seed 1" in done.stdout
    assert f"To go on: reproduce {NAME} --seeds 1 --no-mlflow --device cpu\n" in done.stdout
    assert "1 run not finished" in done.stdout


def test_a_smoke_run_takes_all_steps_and_claims_nothing(reproduce, tmp_path: Path) -> None:
    done = reproduce(NAME, "--smoke", "--protocol", "paper_june8")
    (path,) = tmp_path.glob("runs/*/*/record.json")

    assert done.returncode == 0, done.stderr
    assert {p.name for p in path.parent.iterdir()} >= {"samples.png", "predictions.npz"}
    assert "nothing about the claim" in done.stdout
    assert "reproduced" not in done.stdout


def test_a_terminal_shows_a_live_panel(tiny_mnist: dict[str, str], tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    command = [sys.executable, "-c", "from lit_gen.harness.cli import main; main()", NAME]
    command += ["--seeds", "1", *TINY, "--trainer.max_epochs", "2", "--no-mlflow"]
    environment = os.environ | tiny_mnist | {"TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            chunk = os.read(controller, 65536)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        shown += chunk
    text = shown.decode()

    assert process.wait() == 0, text
    for part in ("run 1 of 1", "epoch", "record:", "Ctrl-C stops at a checkpoint", "verdict"):
        assert part in text


def test_list_and_show_name_the_claims(capsys: pytest.CaptureFixture) -> None:
    status, listed, _ = call(["list"], capsys)
    assert status == 0
    assert NAME in listed

    status, shown, _ = call(["show", NAME], capsys)
    assert status == 0
    for part in ("93 ± 6.5", "labels_20", "paper_june8", "--model.lr 0.001", "cost:"):
        assert part in shown


def test_help_shows_the_main_job(capsys: pytest.CaptureFixture) -> None:
    status, said, _ = call(["--help"], capsys)

    assert status == 0
    assert f"reproduce {NAME} --budget 5m" in said


def test_data_verify_tells_good_from_bad_and_missing(
    tiny: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(["data", "verify", NAME], capsys)[0] == 0

    source = Path(os.environ["LIT_GEN_DATA"]) / "mnist"
    mine = tiny / "data" / "mnist"
    mine.mkdir(parents=True)
    for path in source.iterdir():
        if "t10k-labels" not in path.name:
            mine.joinpath(path.name).write_bytes(path.read_bytes())
    bad = mine / "train-labels-idx1-ubyte.gz"
    bad.write_bytes(bad.read_bytes()[:40])
    monkeypatch.setenv("LIT_GEN_CACHE", str(tiny / "cache"))
    status, said, _ = call(["data", "verify", NAME, "--data-dir", str(tiny / "data")], capsys)

    assert status == 1
    assert re.search(r"corrupt.*train-labels", said)
    assert re.search(r"missing.*t10k-labels", said)


def test_data_verify_lists_every_set_of_a_class_and_each_file_once(
    tiny: Path, capsys: pytest.CaptureFixture
) -> None:
    small = Path(__file__).parents[1] / "small"
    (tiny / "network.py").write_bytes((small / "network.py").read_bytes())
    text = (small / "network.yaml").read_text()
    paths = []
    for kind in ("gray", "dynamic", "static"):
        path = "lit_gen.datamodules.unlabeled.MNIST"
        data = {"class_path": path, "init_args": {"binarization": kind}}
        spec = yaml.safe_load(text) | {"data": data}
        paths.append(tiny / f"{kind}.yaml")
        paths[-1].write_text(yaml.safe_dump(spec))

    status, said, _ = call(["data", "verify", *map(str, paths)], capsys)

    assert status == 1  # the static set is not there
    assert said.count("train-images-idx3-ubyte  ") == 1
    assert re.search(r"missing +binarized_mnist_train.amat", said)


def test_completion_knows_names_and_flags(tmp_path: Path) -> None:
    def complete(line: str) -> list[str]:
        environment = os.environ | {
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_SHELL": "bash",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "out"),
            "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        }
        command = [sys.executable, "-c", "from lit_gen.harness.cli import main; main()"]
        subprocess.run(command, env=environment, check=True)
        return (tmp_path / "out").read_text().split("\n")

    assert NAME in complete("reproduce impr")
    assert "sync" in complete("reproduce sy")
    assert "--budget" in complete(f"reproduce {NAME} --bu")
    assert NAME in complete("reproduce show i")


MINE = """
import torch
import pytorch_lightning as pl


class Line(pl.LightningModule):
    def __init__(self, lr: float = 0.1):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(()))
        self.lr = lr

    def training_step(self, batch, index):
        x, y = batch
        return {"loss": (self.slope * x - y).square().mean(), "slope": self.slope}

    def validation_step(self, batch, index):
        self.log("test/slope_error", (self.slope - 2).abs())

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


class Points(pl.LightningDataModule):
    def train_dataloader(self):
        x = torch.linspace(-1, 1, 32)
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, 2 * x), 8)

    val_dataloader = test_dataloader = train_dataloader
"""
MINE_YAML = """
# A slope of two
claims: [{metric: test/slope_error, reported: [0.0, 0.1], margin: 0.1}]
seeds: 1-3
model: {class_path: mine.Line}
data: {class_path: mine.Points}
trainer: {max_epochs: 30}
"""


def test_a_paper_of_the_users_own(tmp_path: Path, tiny_mnist: dict[str, str]) -> None:
    """By the installed script, which does not have the current folder among its modules."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.py").write_text(MINE)
    (own / "slope.yaml").write_text(MINE_YAML)
    script = Path(sys.executable).with_name("reproduce")
    command = [str(script), "own/slope.yaml", "--no-mlflow", "--device", "cpu"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/own_slope/*/record.json"))) == 3
    assert "all single" in done.stdout or "all test/slope_error" in done.stdout


# --- mistakes: a sentence, exit status 2, no traceback


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["improved_gan_mnist_semisub"], f"Did you mean {NAME}?"),
        (["lst"], "Did you mean list?"),
        (["show", "nothing_like_it"], "There is no reproduction 'nothing_like_it'"),
        (["mine.yaml"], "There is no file mine.yaml"),
        ([NAME, "--seed", "1"], "Did you mean --seeds?"),
        ([NAME, "--seeds", "one"], "Write 3, or 1-10"),
        ([NAME, "--seeds", "4294967296"], "the largest seed is 4,294,967,295"),
        ([NAME, "--data.seed", "7"], "use --seeds"),
        ([NAME, "--trainer.max_epochs", "0"], "give 1 or more"),
        ([NAME, "--trainer.gradient_clip_val", "1"], "cannot be trained like this"),
        ([NAME, "--data.batch_size", "0"], "batch_size=0: use 1 or more"),
        ([NAME, "--data.batch_size", "5000"], "there are 1200 training images"),
        ([NAME, "--data.labels", "2000"], "Ask for fewer labels"),
        ([NAME, "--model.lr", "nan"], "Give a finite number"),
        (["--smoke", NAME, "--seed", "1"], "Did you mean --seeds?"),
        ([NAME, "--setting", "labels_10"], "Did you mean labels_100?"),
        ([NAME, "--protocol", "june"], "There are: release, paper_june8"),
        ([NAME, "--budget", "soon"], "Write 90s, 5m or 2h"),
        ([NAME, "--threads", "0"], "give 1 or more"),
        ([NAME, "--device", "tpu"], "invalid choice: 'tpu'"),
        ([NAME, "--model.lrr", "1"], "no argument 'lrr'. Did you mean lr?"),
        ([NAME, "--model.lr", "fast"], "lr = 'fast' is not valid: expected float"),
        ([NAME, "--model.lr"], "--model.lr needs a value"),
        ([NAME, "--trainer.max_epoch", "3"], "Did you mean max_epochs?"),
        ([NAME, "--trainer.devices", "2"], "is set by the command itself"),
        ([NAME, "--data.labels", "15"], "the classes share them equally"),
        ([NAME, "--model.class_path", "lit_gen.papers.improved_gan.GAN"], "Correct the class_path"),
        (["list", "everything"], "does not know 'everything'"),
        (["data", "burn"], "invalid choice: 'burn'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    words: list[str], message: str, tiny: Path, capsys: pytest.CaptureFixture
) -> None:
    status, _, said = call(words, capsys)

    assert status == 2
    assert message in said
    assert "Traceback" not in said
    assert not list(tiny.glob("runs/*/*/record.json"))


def test_no_data_and_no_network_is_a_sentence(
    tiny: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIT_GEN_DATA", str(tiny / "none"))
    monkeypatch.setenv("LIT_GEN_CACHE", str(tiny / "cache"))

    status, _, said = call([NAME, "--seeds", "1", "--no-mlflow"], capsys)

    assert status == 2
    assert "--data-dir" in said
    assert "train-images-idx3-ubyte" in said


def test_a_corrupt_data_file_is_named(
    tiny: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(os.environ["LIT_GEN_DATA"]) / "mnist"
    mine = tiny / "data" / "mnist"
    mine.mkdir(parents=True)
    for path in source.iterdir():
        mine.joinpath(path.name).write_bytes(path.read_bytes())
    (mine / "t10k-images-idx3-ubyte.gz").write_bytes(b"<html>not found</html>")

    status, _, said = call([NAME, "--no-mlflow", "--data-dir", str(tiny / "data")], capsys)

    assert status == 2
    assert "t10k-images-idx3-ubyte.gz" in said


def test_what_cannot_be_written_is_a_sentence_with_its_cause(reproduce, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        process = reproduce("claims", background=True, stdout=full)
    said = process.communicate(timeout=60)[1]
    (tmp_path / "file").write_text("")
    report = reproduce("report", NAME, "-o", "file/page.html")
    pack = reproduce("pack", NAME, "-o", "/dev/null")

    assert process.returncode == report.returncode == pack.returncode == 2
    assert said == "The output cannot be written: No space left on device. Free some space there.\n"
    assert "Not a directory" in report.stderr
    assert pack.stderr == "/dev/null is no regular file. Give the name of a file.\n"
    assert Path("/dev/null").is_char_device()


def test_who_stops_reading_does_not_change_the_exit_status(reproduce, tmp_path: Path) -> None:
    (record,) = sorted(shipped("results").glob("*/*/labels_100*-seed_1.json"))[:1]
    changed = json.loads(record.read_text()) | {"spec_hash": "0" * 64}
    (tmp_path / "bad.json").write_text(json.dumps(changed))
    read, write = os.pipe()
    os.close(read)
    processes = [
        reproduce(*words, background=True, stdout=write)
        for words in (["verify", "bad.json"], ["list"], ["claims"])
    ]
    os.close(write)

    for process in processes:
        assert process.communicate(timeout=100)[1] == ""
    assert [process.returncode for process in processes] == [1, 0, 0]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--version"], 0, "lit_gen "),
        (["data", "verify", "--data-dir", "none"], 2, "There is no folder none."),
        (["verify", "README.md"], 2, "Give a record.json, a run's folder"),
    ],
)
def test_short_answers(
    words: list[str], status: int, message: str, tiny: Path, capsys: pytest.CaptureFixture
) -> None:
    (tiny / "README.md").write_text("# no record")
    ended, out, err = call(words, capsys)

    assert ended == status
    assert message in out + err


# --- the words of the command line


def test_overrides_become_a_tree() -> None:
    from lit_gen.harness.cli import _parser

    words = "--model.lr 1e-3 --trainer.max_epochs=5 --data.labels 20 --model.averaging null"
    words += " --model.decay_epochs [200,300] --model.init_args.latent_dim 7"

    assert parse_overrides(words.split(), _parser()) == {
        "model": {
            "init_args": {
                "lr": 0.001,
                "averaging": None,
                "decay_epochs": [200, 300],
                "latent_dim": 7,
            }
        },
        "trainer": {"max_epochs": 5},
        "data": {"init_args": {"labels": 20}},
    }


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("2 min", 120)]
)
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "0m", "-5m", "5 parsecs", "m"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(UserError):
        parse_budget(text)


# --- MLflow, end to end


@pytest.mark.parametrize("where", ["sqlite", "server"])
def test_a_run_is_in_mlflow_with_its_verdict(
    where: str, reproduce, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    mlflow = pytest.importorskip("mlflow")
    words = [NAME, "--seeds", "1-2", *TINY, "--trainer.max_epochs", "2"]
    uri, env = f"sqlite:///{tmp_path}/mlflow.db", {}
    if where == "server":
        uri = request.getfixturevalue("server")
        env = {"MLFLOW_TRACKING_URI": uri}

    done = reproduce(*words, env=env)
    reproduce("sync", env=env)  # a busy machine may not have taken everything when the run ended
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(NAME)
    runs = client.search_runs([experiment.experiment_id])
    children = [r for r in runs if r.data.tags["kind"] == "run"]
    lines = [r for r in runs if r.data.tags["kind"] == "reference"]
    (parent,) = (r for r in runs if r.data.tags["kind"] == "cell")

    assert done.returncode == 0, done.stderr
    assert len(children) == 2
    assert all(r.info.status == "FINISHED" for r in children)
    assert all(r.data.params["model.lr"] == "0.003" for r in children)
    assert {a.path for a in client.list_artifacts(children[0].info.run_id)} >= {
        "record.json", "samples.png", "checkpoint.ckpt", "predictions.npz", "images"}  # fmt: skip
    assert sorted(r.data.metrics["test/errors"] for r in lines) == [86, 93]
    assert "verdict/single/mean" not in parent.data.metrics
    assert parent.data.tags["verdict.single"] == "not comparable"  # 300 test images


def test_without_a_server_the_run_goes_on_and_sync_brings_it_there(
    reproduce, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow")
    words = [NAME, "--seeds", "1", *TINY, "--trainer.max_epochs", "2"]

    done = reproduce(*words, env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    failed = reproduce("sync", env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    first = reproduce("sync")
    second = reproduce("sync")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name(NAME)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("`reproduce sync` uploads it later") == 1
    assert failed.returncode == 2
    assert "127.0.0.1:9" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "1 record looked at, 1 of them brought up to date" in first.stdout
    assert "1 record looked at, 0 of them brought up to date" in second.stdout
    kinds = [r.data.tags["kind"] for r in client.search_runs([experiment.experiment_id])]
    assert sorted(kinds) == ["cell", "reference", "reference", "run"]
