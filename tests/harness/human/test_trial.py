"""What lies on the disk: it survives crashes, and what is damaged is said."""

import json

import numpy as np
import pytest

from lit_gen.harness.human import trial
from lit_gen.harness.spec import UserError


def test_half_a_line_was_never_counted_and_is_written_over(begun) -> None:
    test = begun()
    test.vote("ada", 0, True, 1.0)
    path = test.folder / "votes/ada.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"position": 1, "ima')  # the power went

    again = trial.load(test.folder)
    assert len(again.done["ada"]) == 1
    again.vote("ada", 1, False, 1.0)

    lines = path.read_text().splitlines()
    assert [json.loads(line)["position"] for line in lines] == [0, 1]
    assert path.read_bytes().startswith(whole)


def test_only_the_next_image_takes_a_vote(begun) -> None:
    test = begun(images=4)
    for position in (1, -1, 4):
        with pytest.raises(trial.Refused):
            test.vote("ada", position, True, 1.0)
    for position in range(4):
        test.vote("ada", position, True, 1.0)
    for position in (3, 4):
        with pytest.raises(trial.Refused):
            test.vote("ada", position, True, 1.0)

    assert len(test.votes()) == 4


def test_votes_are_told_with_what_was_shown(begun) -> None:
    test = begun(images=4)
    for rater, answers in (("bo", [True, False]), ("ada", [True])):
        for position, said in enumerate(answers):
            test.vote(rater, position, said, 1.0)

    votes = trial.load(test.folder).votes()

    assert votes.rater.tolist() == [0, 1, 1]
    assert votes.said.tolist() == [True, True, False]
    shown = [test.order("ada")[0], *test.order("bo")[:2]]
    assert votes.image.tolist() == shown
    assert votes.generated.tolist() == test.generated[shown].tolist()


def _another_secret(test: trial.Trial) -> None:
    (test.folder / "secret").write_bytes(bytes(32))


def _other_pixels(test: trial.Trial) -> None:
    pixels = np.zeros_like(test.pixels)
    np.savez_compressed(test.folder / "images.npz", pixels=pixels, generated=test.generated)


def _half_a_file(test: trial.Trial) -> None:
    path = test.folder / "images.npz"
    path.write_bytes(path.read_bytes()[:500])


def _no_votes(test: trial.Trial) -> None:
    (test.folder / "votes/ada.jsonl").write_text("nothing\n")


def _another_answer(test: trial.Trial) -> None:
    path = test.folder / "votes/ada.jsonl"
    path.write_text(path.read_text().replace("generated", "perhaps"))


def _no_json(test: trial.Trial) -> None:
    (test.folder / "trial.json").write_text("{")


@pytest.mark.parametrize(
    "damage",
    [_another_secret, _other_pixels, _half_a_file, _no_votes, _another_answer, _no_json],
)
def test_what_is_damaged_is_said(begun, damage) -> None:
    test = begun(images=10, pool=200)
    test.vote("ada", 0, True, 1.0)
    damage(test)

    with pytest.raises(UserError, match=r"cannot be used.*Move that folder away"):
        trial.load(test.folder)


def test_where_there_is_none(tmp_path) -> None:
    with pytest.raises(UserError, match=r"no human test.*trial\.json is missing"):
        trial.load(tmp_path)


def test_there_is_one_server_at_a_time(begun) -> None:
    test = begun()

    with (
        trial.held(test.folder),
        pytest.raises(UserError, match="Another process"),
        trial.held(test.folder),
    ):
        pass
    with trial.held(test.folder):  # it was let go
        pass


def test_a_test_is_there_or_not(begun, monkeypatch, tmp_path) -> None:
    """Whatever fails while one is made, no half of it is served later."""

    def fail(*_: object) -> None:
        raise UserError("full")

    monkeypatch.setattr(trial, "write_atomically", fail)
    with pytest.raises(UserError, match="full"):
        begun()
    monkeypatch.undo()

    with pytest.raises(UserError, match="no human test"):
        trial.load(tmp_path / "test")
    assert begun().images == 10
