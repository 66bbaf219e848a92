"""Curves of several settings over the training: medians and quartiles, as far as all runs got."""

import re
from pathlib import Path

import numpy as np
import pytest

from lit_gen.harness.record import Record
from lit_gen.harness.reports import courses, figures, page
from lit_gen.harness.spec import Curves, UserError, load

YAML = """\
figures:
  - {title: Figure 1, curve: train/return, x: iteration, epoch: 5, settings: [ours, theirs]}
settings: {ours: {}, theirs: {}, beside: {}}
claims: [{metric: test/loss, reported: {beside: 1}, margin: 1}]
model: {class_path: torch.nn.Identity}
data: {class_path: torch.nn.Identity}
trainer: {max_epochs: 3}
"""


def run(setting: str, seed: int, values: list[float], **others: object) -> Record:
    said = {"status": "finished", "protocol": "paper"} | others
    return Record(
        reproduction="a", setting=setting, seed={"data": seed, "model": seed}, config={},
        spec_hash="", deviations=[], epochs=len(values), max_epochs=len(values),
        result={"metrics": {}, "curve": {"train/return": [float(x) for x in values]}}, **said,
    )  # fmt: skip


@pytest.fixture
def spec(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_text(YAML)
    return load(path, "a")


def test_medians_and_quartiles_by_hand(spec) -> None:
    runs = [run("ours", seed, [seed, 10 * seed, 7]) for seed in range(1, 6)]
    runs += [run("beside", 1, [5, 5, 5]), run("ours", 9, [99, 99, 99], smoke=True)]

    (plot,) = courses.plots(spec, runs)

    assert list(plot.lines) == ["ours"]
    line = plot.lines["ours"]
    assert line.runs == 5
    np.testing.assert_allclose(line.quartiles, [[2, 20, 7], [3, 30, 7], [4, 40, 7]])
    assert line.mean == pytest.approx(40 / 3)
    assert line.words == "median of 5 runs: mean over the training 13.33, at the end 7 (7 to 7)"


def test_a_line_ends_where_the_first_run_did(spec) -> None:
    """A diverged run may not be left out of a median, and says nothing of what came after it."""
    runs = [
        run("ours", 1, [1, 2, 3]),
        run("ours", 2, [3, 4], status="diverged"),
        run("theirs", 1, []),
    ]

    (plot,) = courses.plots(spec, runs)

    assert list(plot.lines) == ["ours"]
    np.testing.assert_allclose(plot.lines["ours"].quartiles[1], [2, 3])


def test_protocols_have_figures_of_their_own(spec) -> None:
    runs = [run("ours", 1, [1.0]), run("ours", 1, [2.0], protocol="short")]

    assert [(p.kind, p.lines["ours"].mean) for p in courses.plots(spec, runs)] == [
        ("protocol paper", 1), ("protocol short", 2),
    ]  # fmt: skip
    assert courses.plots(spec, []) == []


def test_it_is_drawn_over_what_an_epoch_has(spec) -> None:
    values = list(np.linspace(0, 1, 40))
    (plot,) = courses.plots(spec, [run("ours", s, values) for s in (1, 2)])
    text = courses.file(plot)

    assert "iteration" in text
    assert "train/return" in text
    assert re.findall(r">(200|100)<", text)  # 40 epochs of 5
    assert figures.COLOURS[0] in text
    assert courses.file(plot) == text


def test_the_page_shows_it_with_its_numbers(spec) -> None:
    runs = [run("ours", seed, [0, seed]) for seed in (1, 2, 3)]

    text = page.html([page.Study(spec, tuple((one, None) for one in runs))])

    assert "Figure 1: return, protocol paper" in text
    assert "ours: median of 3 runs: mean over the training 1, at the end 2 (1.5 to 2.5)" in text
    assert "the band between their quartiles" in text
    assert "Diamonds" not in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("theirs]", "hers]"), "names no setting: 'hers'. Did you mean theirs?"),
        (("epoch: 5", "epoch: 0"), "has epoch: 0; write a whole number above 0"),
        (("epoch: 5", "epochs: 5"), "unknown key 'epochs'. Did you mean epoch?"),
        (("curve: train/return", "curve: 3"), "has curve: 3, which is no text"),
        (("title: Figure 1, ", ""), "has title: None, which is no text"),
        (("settings: [ours, theirs]", "settings: ours"), "Write a list of settings"),
    ],
)
def test_mistakes(change: tuple[str, str], said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(YAML.replace(*change))

    with pytest.raises(UserError, match=re.escape(said)):
        load(path, "a")


def test_curves_have_names(spec) -> None:
    assert spec.curves == (Curves("Figure 1", "train/return", ("ours", "theirs"), "iteration", 5),)
    assert spec.figures == ()
