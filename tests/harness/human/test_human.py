"""`reproduce human` from a run to a record: what is shown, said, written, kept and logged."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lit_gen.harness import record as records
from lit_gen.harness import store, trained, verify
from lit_gen.harness.human import images, score, trial
from lit_gen.harness.reports import page, report
from lit_gen.harness.spec import UserError, find

RUN = Path("runs/improved_gan_blur/all-paper-seed_1")
FOLDER = RUN / "human/plain"


def result(kind: str = "plain") -> dict:
    return json.loads((RUN / f"human/{kind}.json").read_text())


# --- what is shown


def test_samples_of_the_checkpoint_and_real_test_images_are_shown(begin) -> None:
    test = begin()

    state = torch.load(RUN / records.CHECKPOINT, weights_only=True)["state_dict"]
    mean = state["mean"].view(28, 28).numpy().clip(0, 1) * 255
    drawn = test.pixels[test.generated]
    assert mean.std() > 5  # it has learned something
    assert np.corrcoef(drawn.mean(axis=0).ravel(), mean.ravel())[0, 1] > 0.95
    assert (~test.generated).sum() == test.generated.sum() == 150
    assert len(np.unique(drawn.reshape(150, -1), axis=0)) == 150


def rows(pixels: np.ndarray) -> set[bytes]:
    return {one.tobytes() for one in pixels}


def test_samples_of_the_runs_page_are_left_out(begin, monkeypatch) -> None:
    """Models draw by a noise of their own: the first samples are the same ones each time."""
    drawn: list[torch.Tensor] = []
    quantized = images.quantized

    def seen(samples: torch.Tensor, *others: object) -> np.ndarray:
        drawn.append(samples)
        return quantized(samples, *others)

    monkeypatch.setattr(images, "quantized", seen)
    test = begin()

    (samples,) = drawn
    whole = (samples.numpy() * 255).round().astype(np.uint8)[:, 0]
    assert len(whole) == 100 + 2 * 150
    assert not rows(test.pixels) & rows(whole[:100])
    assert rows(test.pixels[test.generated]) == rows(whole[100:250])
    assert test.about["pool"]["left out"] == 100


def test_feedback_is_on_other_images(begin) -> None:
    plain, fed = begin(), begin("--feedback")

    assert len(rows(plain.pixels)) == len(rows(fed.pixels)) == 300
    assert not rows(plain.pixels) & rows(fed.pixels)


def test_going_on_shows_the_same_images(human, begin) -> None:
    test = begin()
    before = {p.name: p.read_bytes() for p in FOLDER.iterdir() if p.is_file()}

    status, _ = human("--no-mlflow")

    assert status == 0
    assert {p.name: p.read_bytes() for p in FOLDER.iterdir() if p.is_file()} == before
    assert test.about["sha256"].keys() == {"real", "generated"}


def test_the_same_samples_are_drawn_each_time(begin) -> None:
    first = begin().about["sha256"]
    shutil.rmtree(FOLDER)
    torch.manual_seed(99)

    assert begin().about["sha256"] == first


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (torch.zeros(7, 1, 28, 28), "gave 7 images; the test needs 8"),
        (torch.full((8, 1, 28, 28), torch.nan), "8 of 8 samples .* not finite"),
        (torch.full((8, 1, 28, 28), -1.0), r"lie in \[-1, -1\]; images are in \[0, 1\]"),
        (torch.full((8, 1, 28, 28), 255.0), r"lie in \[255, 255\]"),
        (torch.zeros(8, 784), r"\(8, 784\); it must give floats"),
        (torch.zeros(8, 2, 28, 28), "C = 1 or 3"),
        (torch.zeros(8, 1, 28, 28, dtype=torch.uint8), "must give floats"),
    ],
)
def test_samples_that_are_no_images(samples, said) -> None:
    with pytest.raises(UserError, match=said):
        images.quantized(samples, "Model", 8)


def test_pixels_are_rounded_as_in_files() -> None:
    x = torch.tensor([0.0, 1.0, 0.5, 127.4 / 255, -0.0005, 1.0005]).view(1, 1, 2, 3)

    assert images.quantized(x, "Model", 1).ravel().tolist() == [0, 255, 128, 127, 0, 255]


def change(**about: object) -> None:
    record = records.read(RUN / records.RECORD)
    for key, value in about.items():
        setattr(record, key, value)
    records.write(RUN / records.RECORD, record)


def test_a_stopped_runs_samples_are_said_to_be_that(human, begin, answer) -> None:
    change(status="stopped", max_epochs=5)
    test = begin()
    answer(test, "ada", 4)

    _, said = human("--score", "--no-mlflow")

    assert "stopped after 1 of 5 epochs" in said
    assert "samples are of a run that had not finished, 1 of 5 epochs" in said
    assert result()["verdicts"][0]["status"] == "not comparable"
    assert result()["run"]["status"] == "stopped"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "7"], "no run of .*seed 7.*--seed choose another"),
        (["--setting", "al"], "no setting 'al'. Did you mean all"),
        (["--protocol", "x"], "no protocol 'x'"),
        (["--images", "7"], "--images 7: give an even number"),
        (["--images", "0"], "--images 0"),
        (["--images", "302"], "150 real images of the 300 .* sees 151.*--images 300 or fewer"),
        (["--port", "70000"], "--port 70000"),
        (["--score"], "no human test"),
        (["--export", "votes.csv"], "no human test"),
        (["--frobnicate"], "does not know '--frobnicate'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(human, words, said) -> None:
    status, told = human(*words)

    assert status == 2
    assert re.search(said, told)
    assert "Traceback" not in told
    assert not (FOLDER / trial.TRIAL).exists()


def test_a_second_start_while_the_first_draws_is_refused(human, begin, monkeypatch) -> None:
    told: list[tuple[int, str]] = []
    pools = images.pools

    def drawing(*words: object) -> object:
        monkeypatch.setattr(images, "pools", pools)
        told.append(human("--images", "20", "--no-mlflow"))
        assert not (FOLDER / trial.SECRET).exists()
        assert FOLDER.stat().st_mode & 0o777 == 0o700
        return pools(*words)

    monkeypatch.setattr(images, "pools", drawing)
    begin()

    ((status, said),) = told
    assert status == 2
    assert "Another process serves the human test" in said


def test_a_test_that_began_meanwhile_is_not_overwritten(human, unserved, monkeypatch) -> None:
    held, found = trial.held, {}

    def slow(folder: Path) -> object:
        """As if another process had begun the test, and ended, just before the lock is taken."""
        monkeypatch.setattr(trial, "held", held)
        assert human("--images", "20", "--no-mlflow")[0] == 0
        found.update({p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()})
        return held(folder)

    monkeypatch.setattr(trial, "held", slow)
    status, _ = human("--images", "20", "--no-mlflow")

    assert status == 0
    assert {trial.SECRET, trial.IMAGES, trial.TRIAL} <= found.keys()
    assert {p.name: p.read_bytes() for p in FOLDER.iterdir() if p.is_file()} == found


def test_another_run_in_the_folder_is_not_mixed_with_the_first(human, begin) -> None:
    begin()
    assert "began with 20 images" in human("--images", "10")[1]
    record = records.read(RUN / records.RECORD)
    record.provenance["segments"][0]["started"] = "2020-01-01T00:00:00Z"
    records.write(RUN / records.RECORD, record)

    status, said = human()

    assert status == 2
    assert "another run" in said


def test_models_and_data_that_cannot_be_shown(home, monkeypatch) -> None:
    spec = find("reproductions/improved_gan/blur.yaml")
    record = records.read(RUN / records.RECORD)
    model, data = trained.restored(spec, record, RUN, Path("runs"), None)
    for lacks, said in ((data, "no method sample"), (model, "no method images")):
        pair = (lacks, data) if lacks is data else (model, model)
        with monkeypatch.context() as patch:
            patch.setattr(trained, "restored", lambda *_, pair=pair: pair)
            with pytest.raises(UserError, match=said):
                images.pools(spec, record, RUN, Path("runs"), None, 10, False)


# --- what is said and written


def test_the_record_follows_from_the_votes(human, begin, answer) -> None:
    test = begin()
    for rater, wrong in (("grace", 4), ("ada", 6), ("zoe", 5)):
        answer(test, rater, wrong)

    status, said = human("--score", "--no-mlflow")

    found = result()
    assert status == 0
    assert found["metrics"]["human/error_percent"] == pytest.approx(25)
    assert found["metrics"]["human/accuracy_percent"] == pytest.approx(75)
    assert found["metrics"]["human/votes"] == 60
    assert found["raters"] == [{"votes": 20, "right": r} for r in (14, 16, 15)]
    low, high = (found["metrics"][f"human/error_percent_{end}"] for end in ("low", "high"))
    assert low < 25 < high
    assert f"25 [{low:.0f}" in said.replace(".0", "")
    assert found["test"]["images_sha256"] == test.about["sha256"]
    assert found["test"]["feedback"] is False
    assert not any(name in json.dumps(found) for name in ("grace", "ada", "zoe"))
    assert score.complaint(found) == ""


def test_a_record_that_was_changed_is_noticed(human, begin, answer) -> None:
    answer(begin(), "ada", 6)
    human("--score", "--no-mlflow")
    found = result()

    found["metrics"]["human/error_percent"] = 21.3
    assert "21.3, its votes give 30" in score.complaint(found)
    found = result()
    found["votes"]["said"][0] ^= 1
    assert "its votes give" in score.complaint(found)
    assert "no number" in score.complaint({"metrics": {}})


def test_the_papers_claims_are_judged(human, begin, answer) -> None:
    """52.4 % right of MNIST's samples and 21.3 % wrong of CIFAR-10's, against raters who are never
    wrong."""
    test = begin()
    for rater in ("ada", "bo", "cy", "di", "eve"):
        answer(test, rater, 0)

    _, said = human("--score", "--no-mlflow")

    people, error = result()["verdicts"]
    assert (people["claim"], people["paper"], people["status"]) == ("people", 52.4, "worse")
    assert (error["claim"], error["paper"], error["status"]) == ("error", 21.3, "worse")
    assert "people (52.4): worse: 100.0 [" in said
    assert "error (21.3): worse: 0.0 [0" in said
    assert "a model that we trained" in said


def test_where_nothing_is_claimed_the_number_stands_alone(human, begin, answer) -> None:
    answer(begin(), "ada", 4)
    path = Path("reproductions/improved_gan/blur.yaml")
    kept = [line for line in path.read_text().splitlines() if "mturk" not in line]
    path.write_text("\n".join(kept))

    _, said = human("--score", "--no-mlflow")

    assert "20 [" in said
    assert "claims nothing about people's judgement" in said
    assert result()["verdicts"] == []


def test_feedback_is_another_test_and_not_comparable(human, begin, answer) -> None:
    answer(begin(), "ada", 4)
    test = begin("--feedback")
    for rater in ("ada", "bo"):
        answer(test, rater, 10)

    _, said = human("--score", "--feedback", "--no-mlflow")

    assert "with feedback" in said
    assert result("feedback")["metrics"]["human/error_percent"] == pytest.approx(50)
    assert result("feedback")["verdicts"][0]["status"] == "not comparable"
    assert "with feedback" in result("feedback")["verdicts"][0]["sentence"]
    human("--score", "--no-mlflow")
    assert result()["metrics"]["human/error_percent"] == pytest.approx(20)


def test_without_answers_nothing_is_written(human, begin) -> None:
    begin()

    status, said = human("--score", "--no-mlflow")

    assert status == 0
    assert "no answers yet" in said
    assert not (RUN / "human/plain.json").exists()


@pytest.mark.parametrize("file", ["votes.csv", "votes.json"])
def test_answers_are_exported(human, file, begin, answer) -> None:
    test = begin()
    answer(test, "ada", 3)
    answer(test, "bo", 1, count=5)

    _, said = human("--export", file)

    text = Path(file).read_text()
    rows = list(csv.DictReader(text.splitlines())) if "csv" in file else json.loads(text)["votes"]
    assert "25 answers" in said
    assert [row["rater"] for row in rows] == ["ada"] * 20 + ["bo"] * 5
    assert sum(str(row["right"]) == "False" for row in rows) == 4
    assert all((row["answer"] == row["kind"]) == (str(row["right"]) == "True") for row in rows)
    assert not (RUN / "human/plain.json").exists()
    assert human("--export", "votes.txt")[0] == 2


def test_the_sheet_shows_real_images_above_generated_ones(begun) -> None:
    test = begun(images=20, channels=3)
    sheet = score.sheet(test, np.concatenate([test.order("ada"), test.order("bo")]))

    pixels = np.asarray(Image.open(io.BytesIO(sheet))).astype(float)
    dark = pixels[: len(pixels) // 3].mean()
    assert dark < 130 < pixels[-len(pixels) // 3 :].mean()


def test_records_that_count_hold_what_people_said(human, results, begin, answer) -> None:
    answer(begin(), "ada", 4)
    human("--score", "--no-mlflow")
    spec = find("reproductions/improved_gan/blur.yaml")

    paths = store.keep(spec, Path("runs"))

    kept = results / "improved_gan/blur/human/all-paper-seed_1.plain.json"
    assert kept in paths
    assert json.loads(kept.read_text()) == result()
    assert [r.name for r in store.kept(spec)] == ["all-paper-seed_1"]  # it is no run's record


def keep() -> str:
    said: list[str] = []
    store.keep(find("reproductions/improved_gan/blur.yaml"), Path("runs"), said.append)
    return " ".join(said)


def test_a_kept_test_grows_with_its_answers(human, results, begin, answer) -> None:
    kept = results / "improved_gan/blur/human/all-paper-seed_1.plain.json"
    test = begin()
    answer(test, "bo", 4, count=7)
    answer(test, "di", 0, count=3)
    human("--score", "--no-mlflow")
    assert keep() == ""
    first = kept.read_text()
    for position in range(7, 20):
        test.vote("bo", position, True, 0.5)
    for rater in ("ada", "cy", "eve"):  # pseudonyms before, between and after
        answer(test, rater, 2)
    human("--score", "--no-mlflow")

    assert keep() == ""
    assert json.loads(kept.read_text()) == result()
    (RUN / "human/plain.json").write_text(first)  # as from an old copy of the folder
    assert "does not go on from" in keep()
    assert json.loads(kept.read_text())["metrics"]["human/votes"] == 20 + 3 + 60


def test_a_test_that_was_begun_anew_does_not_replace_the_kept_one(
    human, results, begin, answer
) -> None:
    kept = results / "improved_gan/blur/human/all-paper-seed_1.plain.json"
    answer(begin(), "ada", 0)
    human("--score", "--no-mlflow")
    keep()
    before = kept.read_bytes()
    FOLDER.rename("away")
    for rater in ("ada", "bo", "cy"):  # the same images, in other orders
        answer(begin() if rater == "ada" else trial.load(FOLDER), rater, 10)
    human("--score", "--no-mlflow")
    assert result()["test"]["images_sha256"] == json.loads(before)["test"]["images_sha256"]

    said = keep()

    assert "all-paper-seed_1.plain.json has answers that" in said
    assert "and stays" in said
    assert kept.read_bytes() == before
    kept.write_text("{}")
    assert "cannot be compared" in keep()
    assert kept.read_text() == "{}"


def test_kept_records_are_judged_by_their_votes(human, begin, answer, results) -> None:
    for words, wrong in (((), 0), (("--feedback",), 10)):
        test = begin(*words)
        for rater in ("ada", "bo", "cy"):
            answer(test, rater, wrong)
        human("--score", "--no-mlflow", *words)
    spec = find("reproductions/improved_gan/blur.yaml")
    store.keep(spec, Path("runs"))

    people, error, *fed = score.kept(spec)

    assert [v.status for v in (people, error, *fed)] == ["worse"] * 2 + ["not comparable"] * 2
    assert (people.mean, error.mean, people.n) == (100, 0, 3)
    shown = report.markdown({spec.name: store.kept(spec)}, {spec.name: spec}, None, "")
    assert "worse: 100" in shown
    assert "people judge it" not in shown
    seen = page.html([page.gather(spec, Path("runs"))])
    assert seen.count("in 60 votes of 3 raters") == 4
    assert "people judge it" not in seen
    path = results / "improved_gan/blur/human/all-paper-seed_1.plain.json"
    path.write_text(path.read_text().replace('"human/votes": 60', '"human/votes": 61'))
    said: list[str] = []
    assert len(score.kept(spec, said.append)) == 2
    assert "human/votes = 61, its votes give 60" in said[0]
    assert "human/votes = 61, its votes give 60" in "".join(verify.complaints(spec))


def test_what_people_said_of_an_earlier_run_is_not_kept(human, results, begin, answer) -> None:
    answer(begin(), "ada", 4)
    human("--score", "--no-mlflow")
    record = records.read(RUN / records.RECORD)
    record.provenance["segments"][0]["started"] = "2020-01-01T00:00:00Z"
    records.write(RUN / records.RECORD, record)
    said: list[str] = []

    store.keep(find("reproductions/improved_gan/blur.yaml"), Path("runs"), said.append)

    assert "earlier run" in said[0]
    assert not (results / "improved_gan/blur/human").exists()


def test_a_folder_that_cannot_be_written_is_said_before_anyone_votes(
    human, monkeypatch, begin
) -> None:
    begin()

    def refuse(path: object, *_: object) -> int:
        raise OSError(30, "Read-only file system", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(trial.os, "open", refuse)
        status, said = human()

    assert status == 2
    assert "Read-only file system" in said
    assert "no answer could be stored" in said
