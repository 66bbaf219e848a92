"""The page and its figures hold what the records say, in any browser, without a network."""

import base64
import html.parser
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_gen.harness import pictures
from lit_gen.harness import record as records
from lit_gen.harness.claims import Entry, Paper
from lit_gen.harness.cli import main
from lit_gen.harness.record import Record
from lit_gen.harness.reports import figures, page
from lit_gen.harness.spec import Claim, Deviation, Figure, Order, Spec, UserError
from lit_gen.harness.verdicts.curves import progress
from lit_gen.harness.verdicts.verdict import Verdict, judge

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

TEN = {"runs": 10, "spread_over": "seeds"}
CLAIMS = tuple(
    Claim("single", "test/errors", setting, value=value, spread=spread, margin=margin, **TEN)
    for setting, value, spread, margin in (
        ("as_paper", 93.0, 2.0, 6.5),
        ("lower", 200.0, 4.0, 10.0),
        ("higher", 50.0, 1.0, 5.0),
        ("wide", 90.0, 4.0, 4.0),
        ("odd", 90.0, 4.0, 4.0),
        ("never", 90.0, 4.0, 4.0),
    )
)
SPEC = Spec(
    name="toy_table",
    path=Path("reproductions/toy/table.yaml"),
    summary="Table 1: errors",
    paper={"title": "Toy & Co", "authors": "Ada & Bo", "year": 2015, "arxiv": "0000.00000v2"},
    claims=CLAIMS,
    seeds=(),
    settings={claim.setting: {} for claim in CLAIMS},
    default_setting="as_paper",
    protocols={"paper": {}},
    config={},
    deviations=("pixels by 255",),
)
HOSTILE = "<script>alert(1)</script><img src=http://evil.example/x.png> &amp; 'quoted'"
VALUES = {
    "as_paper": (91, 93, 95, 92, 94, 93, 92, 94),
    "lower": (100, 102, 98, 101),
    "higher": (90, 91, 92),
    "wide": (80, 120),
    "odd": (90, float("nan")),
}


def run(setting: str, seed: int, value: float, status="finished", epochs=30, **changes) -> Record:
    curve = [round(value * (1 + 20 * np.exp(-i / 3)), 3) for i in range(epochs)]
    finite = [x if np.isfinite(x) else None for x in curve]
    metrics = {"metrics": {"test/errors": value if np.isfinite(value) else None}}
    segment = {
        "started": f"2026-01-0{seed}T00:00:00Z", "commit": "0123456789abcdef", "device": "cpu",
        "threads": 1, "wall_s": 5400.0, "peak_memory_mb": 512, "energy_j": 3.6e6,
    }  # fmt: skip
    fields = {
        "reproduction": "toy_table",
        "setting": setting,
        "protocol": "paper",
        "seed": {"data": seed, "model": seed},
        "config": {"setting": setting},
        "spec_hash": "0" * 64,
        "deviations": ["pixels by 255"],
        "status": status,
        "epochs": epochs,
        "max_epochs": 30,
        "result": {"curve": {"test/errors": finite, "val/errors": finite}}
        | (metrics if status == "finished" else {}),
        "provenance": {"segments": [segment]},
    }
    return Record(**fields | changes)


FINISHED = [run(s, i, float(v)) for s, vs in VALUES.items() for i, v in enumerate(vs, 1)]
RUNS = [
    *FINISHED,
    run("wide", 3, 100.0, "crashed", 12, error={"type": "Oops", "message": HOSTILE, "step": 7}),
    run("wide", 4, 100.0, "diverged", 3, error={"type": "Diverged", "message": "loss is nan"}),
    run("higher", 5, 100.0, "stopped", 9),
    run("as_paper", 1, 97.0, overrides={"model": {"init_args": {"lr": 0.1}}}, config={"lr": 0.1}),
]


def study(runs=RUNS, folder: Path | None = None, spec: Spec = SPEC) -> page.Study:
    return page.Study(spec, tuple((r, folder) for r in runs))


@pytest.fixture(autouse=True, scope="module")
def trusted() -> Iterator[None]:
    """Numbers that no certificate doubts: those have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lit_gen.harness.verdicts.certificate.doubts", lambda *_: {})
        yield


@pytest.fixture(scope="module")
def text(trusted) -> str:
    return page.html([study()])


class Elements(html.parser.HTMLParser):
    """Every element's attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] not in ("script", "style"):
            self.said.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.said).split())


def test_every_state_has_its_word(text) -> None:
    words = Elements(text).words

    for word in ("1 reproduced", "1 better", "1 worse", "1 inconclusive", "1 not comparable"):
        assert word in words
    assert "1 not measured yet" in words


def test_nothing_that_a_verdict_says_is_lost(text) -> None:
    words = Elements(text).words
    verdict = judge(CLAIMS[0], [r for r in FINISHED if r.setting == "as_paper"])

    for said in (verdict.sentence.partition(": ")[2], *(n.rstrip(".") for n in verdict.notes)):
        assert page.minus(" ".join(said.split())) in words
    assert "best on val" in words
    assert "protocol paper, model.lr = 0.1" in words


def test_it_begins_with_how_many_numbers_were_measured_and_what_that_took() -> None:
    one = replace(SPEC, claims=CLAIMS[:1])
    stopped = [run("as_paper", 1, 97.0, "stopped", 9)]
    leads = [
        re.search(r'class="lead">(.*?)</p>', page.html([study(runs, spec=spec)]))[1]
        for runs, spec in (([], SPEC), (stopped, one), (FINISHED[:1], SPEC), (RUNS, SPEC))
    ]

    assert leads[0] == "None of 6 numbers of 1 paper has been measured yet."
    assert leads[1].endswith(
        "1 paper has been measured yet, in 1 training run that took 1.5 hours."
    )
    assert leads[2].startswith(
        "Of 6 numbers of 1 paper, 1 has been measured, by 1 training run that"
    )
    assert leads[3].startswith("Of 6 numbers of 1 paper, 5 have been measured, by 23 training runs")


def test_a_number_measured_in_several_ways_says_by_which(text) -> None:
    said = Elements(text).words

    assert "n = 8; protocol paper; paper, model.lr = 0.1: inconclusive" in said
    assert "A number that was measured under several protocols is counted once" in said
    assert "several protocols" not in page.html([study(FINISHED)])


def test_a_row_says_what_more_runs_would_give_and_the_cheapest_comes_first() -> None:
    ensemble = replace(CLAIMS[0], name="ensemble", statistic="ensemble", members=10)
    spec = replace(SPEC, claims=(ensemble, *CLAIMS))
    said = Elements(page.html([study(FINISHED[:2] + FINISHED[-4:], spec=spec)])).words
    commands = re.findall(r"towards a verdict on (\S+ \S+), paper: (\d+) run", said)

    assert re.search(r"not measured yet \d+ more label subsets?, \d+0 runs", said)
    assert [int(n) for _, n in commands] == sorted(int(n) for _, n in commands)
    assert 1 < len(commands) <= page.COMMANDS
    assert "ours − paper [90 %]" in said
    assert not re.search(r"[ \[]-\d", said.partition("Check it")[0])


def test_runs_without_a_result_show_none(text) -> None:
    row = next(r for r in text.split("<tr>") if "loss is nan" in r)

    assert "last: test/errors 1,127 after epoch 3" in row
    assert "1,127</td>" not in row


def test_many_runs_are_grey_and_have_one_entry() -> None:
    many = [replace(FINISHED[0], seed={"data": seed, "model": seed})
            for seed in range(1, 13)]  # fmt: skip
    text = page.html([study(many)])

    assert text.count(f"background:{figures.MANY}") == 1
    assert "12 runs (12 finished)" in text
    assert f"background:{figures.COLOURS[0]}" not in text


def test_the_ledger_says_what_each_departure_did(text) -> None:
    named = replace(SPEC, ledger=(Deviation("pixel_scale", "pixels by 255", "the file is lost"),))
    words = Elements(page.html([study(spec=named)])).words

    assert "pixel_scale : pixels by 255 Why: the file is lost" in words
    assert "Effect on the claim: not measured" in words
    assert "model.lr = 0.1 : +6 errors on as_paper single (1 seed run both ways" in words


def test_every_run_is_listed_with_what_became_of_it(text) -> None:
    found = Elements(text)
    rows = text[text.index('class="runs"') :].count("<tr>") - 1

    assert rows == len(RUNS)
    for said in ("loss is nan", "(step 7)", "12 of 30", "1.5", "512 MB", "1.000 kWh", "01234567"):
        assert said in found.words
    assert "1 stopped, 20 finished, 1 crashed, 1 diverged" in found.words


def test_texts_of_records_stay_texts(text) -> None:
    found = Elements(text)
    spec = replace(SPEC, summary=HOSTILE, paper=dict.fromkeys(SPEC.paper, HOSTILE))
    claims = [replace(CLAIMS[0], metric=HOSTILE, row=HOSTILE, reason=HOSTILE)]
    logged = {"curve": {HOSTILE: [2.0, 1.0]}, "metrics": {HOSTILE: 1.0}}
    odd = run("as_paper", 1, 1.0, epochs=2, result=logged, deviations=[HOSTILE], protocol=HOSTILE)
    more = Elements(page.html([study([odd], spec=replace(spec, claims=tuple(claims)))]))

    assert HOSTILE in found.words
    assert more.words.count(HOSTILE) >= 8
    for elements in (found, more):
        assert [tag for tag, _ in elements.found].count("script") == 1
        assert not [a for tag, a in elements.found if tag == "img"]


def test_nothing_is_loaded_from_anywhere(text) -> None:
    addresses = [
        (tag, value)
        for tag, attributes in Elements(text).found
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
    ]

    assert addresses
    for tag, value in addresses:
        assert value.startswith(("#", "data:")) or (tag == "a" and "https://arxiv.org/" in value)
    assert not re.search(r"@import|url\((?!#|\"?data:)", text)


def test_the_same_records_give_the_same_bytes(text) -> None:
    assert page.html([study(RUNS[::-1])]) == text


def test_ids_are_unique_and_every_figure_is_described(text) -> None:
    found = Elements(text).found
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]

    assert len(ids) == len(set(ids))
    pictures = [a for tag, a in found if tag in ("svg", "img")]
    assert len(pictures) > len(VALUES)
    assert all(a.get("aria-label") or a.get("alt") for a in pictures)
    assert all(a.get("scope") for tag, a in found if tag == "th")


def test_the_interval_sits_in_the_band_as_the_verdict_says() -> None:
    def ends(difference: tuple[float, float, float]) -> tuple[list[float], list[float], bool]:
        verdict = Verdict(
            CLAIMS[0], "toy", "paper", "reproduced", "", n=3, mean=95.0, difference=difference
        )
        drawn = str(figures.strip(verdict))
        x, width = map(float, re.search(r'band" x="(\S+)".*?width="(\S+)"', drawn).groups())
        bar = [float(n) for n in re.search(r'interval" x1="(\S+)".*?x2="(\S+)"', drawn).groups()]
        return [x, x + width], bar, "tip" in drawn

    band, bar, tip = ends((2.0, -6.4, 6.4))
    assert band[0] < bar[0] < bar[1] < band[1]
    assert not tip
    band, bar, tip = ends((2.0, -2.0, 7.0))
    assert band[0] < bar[0] < band[1] < bar[1]
    band, bar, tip = ends((200.0, -100.0, 500.0))
    assert tip
    assert 0 <= bar[0] < bar[1] <= figures.WIDTH


def test_the_band_of_a_figure_is_the_one_that_runs_are_judged_by() -> None:
    stored = [r for r in FINISHED if r.setting == "lower"]
    unfinished = run("lower", 9, 100.0, "stopped", 9)

    epochs, low, high = figures.band(stored, "test/errors")
    said = progress(CLAIMS[1], unfinished, stored)

    assert list(epochs) == list(range(1, 31))
    assert (low[8], high[8]) == pytest.approx((said.low, said.high))


def test_a_band_needs_two_runs() -> None:
    assert len(figures.band(FINISHED[:1], "test/errors")[0]) == 0
    assert len(figures.band([], "test/errors")[0]) == 0


def test_samples_are_shown_where_a_run_left_them(tmp_path) -> None:
    from PIL import Image

    Image.effect_noise((300, 300), 90).save(tmp_path / "samples.png")  # incompressible
    images = [
        a for tag, a in Elements(page.html([study(RUNS[:5], tmp_path)])).found if tag == "img"
    ]

    assert len(images) == page.GRIDS
    assert images[0]["src"].startswith("data:image/jpeg;base64,")
    assert "seed 1" in images[0]["alt"]


def pictured(folder: Path, **sizes: int) -> Path:
    """A run directory with samples and incompressible pictures, so wide each."""
    from PIL import Image

    (folder / "pictures").mkdir(parents=True)
    Image.new("L", (28, 28)).save(folder / "samples.png")
    for name, size in sizes.items():
        Image.effect_noise((size, size // 2), 90).save(folder / f"pictures/{name}.png")
    return folder


def test_pictures_of_one_seed_stand_below_its_samples(tmp_path) -> None:
    folder = pictured(tmp_path / "a", kl_per_unit=80, reconstructions=1000)
    other = pictured(tmp_path / "b", of_another_seed=80)
    bare = pictured(tmp_path / "c")
    cells = [("as_paper", 1, bare), ("as_paper", 2, folder), ("as_paper", 3, other)]
    cells += [("lower", 1, other), ("higher", 1, bare)]
    runs = tuple((run(s, i, 90.0), place) for s, i, place in cells)

    content = page.html([page.Study(SPEC, runs)])

    elements = Elements(content)
    images = [a for tag, a in elements.found if tag == "img"]
    names = [re.split("[“”]", a["alt"])[1] if "“" in a["alt"] else "samples" for a in images]
    assert names == [
        *["samples"] * 2, "kl per unit", "reconstructions", "samples", "of another seed", "samples",
    ]  # fmt: skip
    assert images[3]["alt"] == "Picture “reconstructions”, as_paper, protocol paper, seed 2"
    assert "shows (as_paper, protocol paper, seed 2):" in elements.words
    assert [a["width"] for a in images[2:4]] == ["80", "1000"]
    assert content.count('<figure class="wide">') == 1
    assert all(a["src"].startswith("data:image/") for a in images)
    assert images[2]["src"].startswith("data:image/png;")
    assert content == page.html([page.Study(SPEC, runs)])


def test_pictures_without_samples_are_shown_too(tmp_path) -> None:
    folder = pictured(tmp_path / "a", kl=80)
    (folder / "samples.png").unlink()

    words = Elements(page.html([study(RUNS[:1], folder)])).words

    assert "seed 1): kl" in words
    assert "No grid at hand" not in words


BESIDE = {
    "memorisation/sample_distance": 4.9, "memorisation/test_distance": 4.7,
    "memorisation/ratio": 1.0426, "proxy/c2st_accuracy_percent": 97.5,
    "proxy/c2st_low_percent": 96.7, "proxy/c2st_high_percent": 98.1,
    "proxy/c2st_p_value": 0.0, "proxy/c2st_held_out": 2000.0, "proxy/own": 3.25,
}  # fmt: skip


def measured(seed: int, **changes) -> Record:
    """A run that looked at its samples."""
    record = run("as_paper", seed, 90.0)
    return replace(record, result=record.result | {"beside": BESIDE | changes})


def test_what_was_measured_beside_the_claims_stands_below_the_pictures(tmp_path) -> None:
    folder = pictured(tmp_path / "a", nearest=80)
    second = measured(2, **{"memorisation/ratio": 0.0123})

    content = page.html([page.Study(SPEC, ((measured(1), folder), (second, None)))])
    words = Elements(content).words

    assert "samples (left), each beside the training images nearest to it" in words
    assert "Picture “nearest”, as_paper" in content
    assert "beside the claims (as_paper, protocol paper, seed 1): Memorisation, no claim" in words
    assert (
        "within 4.9 of a training image, half of the test images within 4.7; ratio 1.043" in words
    )
    assert "Machine proxy, not a human test: of 2,000 images" in words
    assert "told 97.5 % [96.7, 98.1] right; 50 % is chance (p < 0.0001)." in words
    assert "proxy/own = 3.25" in words
    assert "Memorisation ratio of each run: seed 1: 1.043, seed 2: 0.0123" in words
    assert words.index("nearest first") < words.index("Memorisation, no claim")


def test_numbers_beside_the_claims_need_no_run_directory_and_give_no_verdict() -> None:
    bare = replace(measured(1), result=run("as_paper", 1, 90.0).result)
    content, before = (page.html([study([r])]) for r in (measured(1), bare))

    assert "Memorisation, no claim" in content
    assert "Memorisation" not in before
    assert "beside the claims" not in before
    table = re.compile(r'<table class="claims".*?</table>', re.DOTALL)
    assert table.findall(content) == table.findall(before)


def test_the_quality_of_samples_is_said_with_what_it_rests_on() -> None:
    record = run("as_paper", 1, 90.0)
    numbers = {"test/fid": 35.25, "test/inception_score": 6.5, "test/inception_score_std": 0.07}
    ids = {"test/fid": "fid/1 of 50000; w", "test/inception_score": "inception_score/1 of 50000; w"}
    record.result["metrics"] |= numbers
    record.result["metric_ids"] = ids

    words = Elements(page.html([study([record])])).words

    assert "Of samples: FID 35.25 (fid/1 of 50000; w)." in words
    assert "Of samples: Inception score 6.5 ± 0.07 (inception_score/1 of 50000; w)." in words


def test_why_nothing_was_measured_is_said_as_text() -> None:
    provenance = run("as_paper", 1, 90.0).provenance
    reasons = {"memorisation": "ValueError: 2 of 100 samples", "proxy/c2st_low": HOSTILE}
    record = run("as_paper", 1, 90.0, provenance=provenance | {"not_beside": reasons})

    words = Elements(page.html([study([record])])).words

    assert "Not measured, memorisation: ValueError: 2 of 100 samples" in words
    assert f"Not measured, c2st low: {HOSTILE}" in words


def filmed(folder: Path, moving: int = 6, size: int = 200) -> Path:
    """A run directory with an incompressible clip."""
    frames = np.random.default_rng(0).integers(0, 256, (moving, size, 2 * size, 3), np.uint8)
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures/clip.webp").write_bytes(pictures.webp(frames, 20))
    return folder


def test_clips_of_the_first_settings_move_on_the_page_within_its_room(tmp_path) -> None:
    settings = [claim.setting for claim in CLAIMS][: page.CLIPS + 1]
    runs = tuple((run(s, 1, 90.0), filmed(tmp_path / s)) for s in settings)

    content = page.html([page.Study(SPEC, runs)])

    elements = Elements(content)
    shown = [a["src"] for tag, a in elements.found if tag == "img"]
    assert len(shown) == page.CLIPS
    for address in shown:
        kind, _, code = address.partition(",")
        assert kind == "data:image/webp;base64"
        with Image.open(io.BytesIO(base64.b64decode(code))) as clip:
            assert clip.n_frames > 1
    stills = [a for tag, a in elements.found if tag == "source"]
    assert len(stills) == page.CLIPS
    assert all("prefers-reduced-motion: reduce" in a["media"] for a in stills)
    assert all(a["srcset"].startswith("data:image/jpeg;") for a in stills)
    assert "1 more clip, of other settings" in elements.words
    assert "No grid at hand" not in elements.words
    bare = page.html([page.Study(SPEC, tuple((record, None) for record, _ in runs))])
    assert len(content) - len(bare) < 1.5 * page.MOST_PICTURES
    assert content == page.html([page.Study(SPEC, runs)])


FIGURED = replace(
    SPEC,
    settings={f"n{x}.{line}": {} for line in ("gail", "bc") for x in (4, 25)},
    default_setting="n4.gail",
    claims=tuple(
        Claim("return", "test/return", f"n{x}.{line}", value=value, spread=None, margin=1.0)
        for line, values in (("gail", (100.0, 200.0)), ("bc", (50.0, 150.0)))
        for x, value in zip((4, 25), values, strict=True)
    ),
    figures=(
        Figure("Figure 9", "n{x}.{line}", "trajectories", "test/score", "test/return", 0, 200),
    ),
)


def scored(setting: str, seed: int, score: float, **changes) -> Record:
    return run(setting, seed, 1.0, result={"metrics": {"test/score": score}}, **changes)


def test_a_paper_s_figure_has_our_means_and_the_paper_s_points() -> None:
    (drawn,) = FIGURED.figures
    values = {"n4.gail": [0.5, 0.7], "n25.gail": [1.0], "n4.bc": [float("nan")]}

    found = figures.lines(drawn, FIGURED.claims, values)

    assert list(found) == ["gail", "bc"]
    assert found["gail"].paper == {4: 0.5, 25: 1.0}
    assert found["bc"].paper == {4: 0.25, 25: 0.75}
    mean, low, high = found["gail"].ours[4]
    assert mean == pytest.approx(0.6)
    assert (high - low) / 2 == pytest.approx(12.706 * 0.1, rel=1e-3)  # t(0.975; 1) s / sqrt(2)
    assert found["gail"].ours[25] == (1.0, None, None)
    assert found["bc"].ours == {}
    assert figures.lines(drawn, FIGURED.claims, {"n4.bc": [float("nan")]}) == {}


def test_a_paper_s_figure_is_drawn_for_each_protocol_that_has_runs() -> None:
    runs = [scored("n4.gail", i, x) for i, x in enumerate((0.5, 0.7), 1)]
    runs += [scored("n25.gail", 1, 1.0), scored("n4.bc", 1, -0.2, protocol="reduced")]
    runs += [scored("n4.bc", 2, 0.3, smoke=True)]

    content = page.html([study(runs, spec=FIGURED)])

    elements = Elements(content)
    assert "Figure 9: score, protocol paper" in elements.words
    assert "Figure 9: score, protocol reduced" in elements.words
    labels = [a["aria-label"] for tag, a in elements.found if tag == "svg" and "aria-label" in a]
    (ours,) = [label for label in labels if "protocol paper, over trajectories" in label]
    assert "gail: ours 4: 0.6, 25: 1; paper 4: 0.5, 25: 1" in ours
    assert "bc: ours none; paper 4: 0.25, 25: 0.75" in ours
    (other,) = [label for label in labels if "protocol reduced, over trajectories" in label]
    assert "bc: ours 4: −0.2; paper" in other
    ids = [a["id"] for _, a in elements.found if a.get("id")]
    assert len(ids) == len(set(ids))
    assert content == page.html([study(runs, spec=FIGURED)])
    assert "Figure 9" not in page.html([study([], spec=FIGURED)])


def test_labels_of_equal_lines_stand_apart_in_their_order() -> None:
    placed = figures._spread([1.0, 1.0, 0.2, 0.98], 0.1, 1.1)

    assert placed == pytest.approx([1.0, 0.9, 0.2, 0.8])
    assert placed[2] == 0.2


def test_many_pictures_make_no_large_page(tmp_path) -> None:
    names = {f"{name}_{size}": size for name in "abc" for size in (80, 700, 1200)}
    folders = [pictured(tmp_path / cell, **names) for cell in ("as_paper", "lower")]
    runs = [run(cell, 1, 90.0) for cell in ("as_paper", "lower")]

    def size(folders: list) -> int:
        return len(page.html([page.Study(SPEC, tuple(zip(runs, folders, strict=True)))]))

    assert 200_000 < size(folders) - size([None] * len(runs)) < 460_000
    found = [a for _, a in Elements(page.html([study(runs[:1], folders[0])])).found]
    small = next(a for a in found if a.get("alt", "").startswith("Picture “a 80”"))
    assert small["src"].startswith("data:image/png;")  # the large ones made room


def test_runs_are_gathered_once_and_strangers_named(tmp_path, monkeypatch) -> None:
    kept, runs = tmp_path / "results", tmp_path / "runs"
    monkeypatch.setattr(page.store, "results", lambda spec: kept)
    for folder, record in (("a", FINISHED[0]), ("b", FINISHED[1]), ("c", FINISHED[2])):
        records.write(runs / SPEC.name / folder / "record.json", record)
    records.write(kept / "1.json", FINISHED[0])
    records.write(kept / "2.json", replace(FINISHED[1], status="stopped"))
    (kept / "bad.json").write_text("{")

    counted, shown = page.gather(SPEC, runs), page.gather(SPEC, runs, unkept=True)

    assert [folder and folder.name for _, folder in counted.runs] == ["a", None]
    assert [r.key.data for r in shown.records] == [1, 2, 3]
    assert len(counted.problems) == 1
    assert counted.problems[0].startswith("bad.json is not a readable record")
    assert str(tmp_path) not in page.html([counted])


def test_a_claim_that_the_runs_do_not_log_is_said_not_hidden() -> None:
    claim = replace(CLAIMS[0], metric="test/nll")
    words = Elements(page.html([study(spec=replace(SPEC, claims=(claim,)))])).words

    assert "1 not judged" in words
    assert "logged no 'test/nll'" in words


def test_what_nobody_measured_is_counted_and_listed_with_its_reason() -> None:
    own = replace(CLAIMS[0], id="mnist.single")
    shared = {"paper": "toy", "where": "Table 1", "metric": "test/errors", "margin": 5.0}
    entries = (
        Entry("mnist.single", row="ours", table=0, value=93.0, **shared),
        Entry("mnist.rival", row="a rival's", table=0, value=333.0, context=True, **shared),
        Entry("cifar.single", row="ours again", table=1, value=18.6, spread=2.3, **shared),
        Entry("svhn.single", row="ours, too", table=1, value=8.1, unmeasurable=HOSTILE, **shared),
    )
    catalogue = [Paper("toy", "Toy", 2015, "0000.00000", entries)]
    studies = [study(spec=replace(SPEC, claims=(own,)))]

    words = Elements(page.html(studies, catalogue)).words
    part = Elements(page.html(studies, catalogue, whole=False)).words

    for said in (
        "1 reproduced",
        "1 not built yet",
        "1 not measurable",
        "Of 3 numbers of 1",
        HOSTILE,
    ):
        assert said in words
    assert "2 numbers of this paper that no reproduction is about" in words
    assert "18.6 ± 2.3" in words
    assert "The number of this page has been measured" in part
    assert "18.6" not in part
    for text in (words, part):
        assert "a rival's 333" in text


def test_a_missing_library_is_said_in_one_sentence(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(UserError, match=r"pip install 'lit-gen\[report\]'"):
        page.html([study()])


def test_the_command_writes_the_page(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIT_GEN_RUNS", raising=False)

    with pytest.raises(SystemExit) as ended:
        main(["report", "improved_gan_mnist_semisup", "-o", "deep/page.html"])

    assert ended.value.code == 0
    assert "wrote deep/page.html" in capsys.readouterr().out
    content = (tmp_path / "deep/page.html").read_bytes()
    assert b"1606.03498" in content
    assert len(content) < 1_500_000
    with pytest.raises(SystemExit) as ended:
        main(["report", "improved_gan_mnist_semisup", "-o", "deep"])
    assert ended.value.code == 2
    assert "is a folder" in capsys.readouterr().err


# --- in a browser

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
PROBE = """<!DOCTYPE html>
<iframe id="f" width="{width}" height="800" style="border:0" srcdoc="{page}"></iframe>
<script>f.onload = () => {{
  const d = f.contentDocument, w = f.contentWindow;
  d.querySelectorAll("details").forEach(e => e.open = true);
  const wide = [...d.querySelectorAll("body *")].filter(e => !e.closest(".scroll, thead")
    && e.getBoundingClientRect().right > {width} + 1).map(e => e.tagName + "." + e.className);
  const small = [...d.querySelectorAll("svg.strip")].filter(e => e.checkVisibility()
    && e.getBoundingClientRect().width < 60);
  const {{scrollWidth, clientWidth}} = d.documentElement;
  document.body.dataset.answer = [w.innerWidth, scrollWidth - clientWidth, wide.join(","),
    small.length, [...d.querySelectorAll(".runs")].filter(e => {width} >= 1280
      && e.offsetWidth > e.parentElement.clientWidth).length,
    w.performance.getEntriesByType("resource").map(e => e.name).join(","),
    d.querySelectorAll("svg.curves path").length].join("|");
}}</script>"""


def asked_in_a_browser(probe: str, folder: Path) -> str:
    """What a page leaves in its body's data-answer."""
    path = folder / "probe.html"
    path.write_text(probe)
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={folder}/profile", "--virtual-time-budget=10000",
        "--window-size=1400,900", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    answer = re.search(r'data-answer="([^"]*)"', dumped)
    assert answer, dumped[:500]
    return answer[1]


@pytest.mark.skipif(not BROWSER, reason="no Chromium on the PATH")
@pytest.mark.parametrize("width", [390, 1280])
def test_orders_fit_too(width, tmp_path) -> None:
    order = Order(
        "above_higher", "test/errors", "as_paper", "higher", "lower", "median", "last", 10, "x",
        "Figure 1", "a row", "recalled",
    )  # fmt: skip
    changed = [r for r in RUNS if r.overrides]
    spec = replace(SPEC, claims=(), orders=(order, replace(order, name="other", over="wide")))
    text = page.html([study([*FINISHED, *changed], spec=spec)])

    answer = asked_in_a_browser(PROBE.format(width=width, page=escape(text)), tmp_path)

    assert text.count("<table class=") == 2  # of orders, and of runs
    assert answer.split("|")[:5] == [f"{width}", "0", "", "0", "0"]


@pytest.mark.skipif(not BROWSER, reason="no Chromium on the PATH")
@pytest.mark.parametrize("width", [390, 800, 1280])
def test_in_a_browser_it_fits_and_asks_for_nothing(text, width, tmp_path) -> None:
    answer = asked_in_a_browser(PROBE.format(width=width, page=escape(text)), tmp_path)
    inner, beyond, wide, small, cut, asked, curves = answer.split("|")
    assert (int(inner), int(beyond), wide) == (width, 0, "")
    assert (small, cut) == ("0", "0")
    assert not [name for name in asked.split(",") if name and not name.startswith("data:")]
    assert int(curves) > 10


TURN = """<!DOCTYPE html>
<iframe id="f" width="{width}" height="800" style="border:0" srcdoc="{page}"></iframe>
<script>f.onload = async () => {{
  const d = f.contentDocument, box = d.querySelector(".turned"), answer = [];
  while (box.hidden) await new Promise(done => setTimeout(done, 20));
  const canvas = box.querySelector("canvas"), slider = box.querySelector("input");
  for (const column of [1, 3]) {{
    slider.value = column;
    slider.dispatchEvent(new Event("input"));
    const pen = canvas.getContext("2d"), y = canvas.height / 2;
    answer.push([.25, .75].map(x => pen.getImageData(x * canvas.width, y, 1, 1).data[0]));
  }}
  answer.push(box.querySelector("output").value, d.querySelectorAll(".turned").length,
    d.documentElement.scrollWidth - d.documentElement.clientWidth);
  document.body.dataset.answer = answer.join("|");
}}</script>"""


@pytest.mark.skipif(not BROWSER, reason="no Chromium on the PATH")
def test_a_slider_turns_a_code(tmp_path) -> None:
    """Grey levels of two rows and three columns are told apart by their places."""
    folder = pictured(tmp_path / "a", traversal_noise=80)  # no grid: it has no slider
    levels = np.array([[10, 20, 30], [110, 120, 130]]) / 255
    tiles = np.broadcast_to(levels[:, :, None, None, None], (2, 3, 1, 28, 28))
    for name in ("traversal_c1", "reconstructions"):
        (folder / f"pictures/{name}.png").write_bytes(pictures.png(tiles))
    text = page.html([page.Study(SPEC, ((RUNS[0], folder),))])

    answer = asked_in_a_browser(TURN.format(width=390, page=escape(text)), tmp_path)

    assert answer == "10,110|30,130|3 of 3|1|0"


def test_a_grid_that_is_turned_keeps_the_pixels_of_its_model() -> None:
    random = np.random.default_rng(0)
    png = pictures.png(random.random((10, 10, 1, 28, 28)))  # enlarged twice
    with Image.open(io.BytesIO(png)) as image:
        grid = pictures.layout(image)

    kept, shrunk = (page._fitting(png, 5_000, times)[0] for times in (grid.times, None))

    assert grid == (10, 10, pictures.GAP, 2)
    assert [width(kept), width(shrunk)] == [round(image.width / 2), round(image.width / 8)]


def width(address: str) -> int:
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        return image.width
