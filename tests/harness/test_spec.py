"""Reproductions as data: what a YAML file may say, and what it is told when it may not."""

import datetime
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_gen.harness.spec import (
    Seed,
    UserError,
    catalogue,
    digest,
    find,
    load,
    merge,
    parse_seeds,
)

NAME = "improved_gan_mnist_semisup"


def test_table_1_is_transcribed() -> None:
    claims = {(c.setting, c.name): (c.value, c.spread) for c in find(NAME).claims}

    assert claims == {
        ("labels_20", "single"): (1677, 452),
        ("labels_50", "single"): (221, 136),
        ("labels_100", "single"): (93, 6.5),
        ("labels_200", "single"): (90, 4.2),
        ("labels_20", "ensemble"): (1134, 445),
        ("labels_50", "ensemble"): (142, 96),
        ("labels_100", "ensemble"): (86, 5.6),
        ("labels_200", "ensemble"): (81, 4.3),
    }


@pytest.mark.parametrize("name", catalogue())
def test_every_claim_of_every_reproduction_has_a_band(name: str) -> None:
    spec = find(name)

    assert spec.summary
    assert spec.judged or spec.curves
    for claim in spec.claims:
        low, high = claim.band
        assert low < claim.value < high


def test_later_layers_win() -> None:
    spec = find(NAME)

    release = spec.merged("labels_20", "release")
    june = spec.merged("labels_20", "paper_june8", overrides={"trainer": {"max_epochs": 3}})

    assert release["data"]["init_args"]["labels"] == 20
    assert release["trainer"]["max_epochs"] == 300
    assert june["model"]["init_args"]["lr"] == 0.001
    assert june["trainer"]["max_epochs"] == 3
    assert spec.merged("labels_100", "release")["data"]["init_args"]["labels"] == 100


def test_merging_changes_neither_side() -> None:
    base, extra = {"a": {"b": [1]}}, {"a": {"c": 2}}

    merged = merge(base, extra)
    merged["a"]["b"].append(3)

    assert base == {"a": {"b": [1]}}
    assert extra == {"a": {"c": 2}}


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("3", [(3, 3)]),
        ("1-3", [(1, 1), (2, 2), (3, 3)]),
        ("1,4, 7", [(1, 1), (4, 4), (7, 7)]),
        ("2:1-3", [(2, 1), (2, 2), (2, 3)]),
        ("1-2:5", [(1, 5), (2, 5)]),
        ("1,1-2", [(1, 1), (2, 2)]),
    ],
)
def test_seeds(text: str, seeds: list[tuple[int, int]]) -> None:
    assert parse_seeds(text) == [Seed(*s) for s in seeds]


@pytest.mark.parametrize("text", ["", "a", "3-1", "1:", ":2", "1..3", "-1"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="Write 3, or 1-10"):
        parse_seeds(text)


@pytest.mark.parametrize(
    "text", ["1-99999999", "1:1-100001", "1-4294967295:1-4294967295", "1-50000,60000-120000"]
)
def test_too_many_seeds_are_refused_before_there_is_a_list(text: str) -> None:
    with pytest.raises(UserError, match=r"seeds\. Give at most 100,000"):
        parse_seeds(text)


def test_as_many_seeds_as_may_be() -> None:
    assert len(parse_seeds("1-100000")) == 100_000


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(UserError, match=f"Did you mean {NAME}"):
        find("improved_gan_mnist_semisub")


DEVIATION = {"name": "scale", "what": "Pixels reach 2.", "why": "They do."}


def claim(**changes: object) -> dict[str, object]:
    return {"metric": "m", "reported": 9, "margin": 1} | changes


def gate(**changes: object) -> dict[str, object]:
    return {"seeds": "1-3", "protocols": {"release": {}}} | changes


DAY = datetime.date(2015, 1, 2)  # as YAML reads 2015-01-02


def broken(tmp_path: Path, **changes: object) -> Path:
    raw = yaml.safe_load(find(NAME).path.read_text()) | changes
    path = tmp_path / "improved_gan" / "mine.yaml"  # the folder names the paper of its claims
    path.parent.mkdir()
    kept = {k: v for k, v in raw.items() if v is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"setings": {}}, "unknown key 'setings'. Did you mean settings"),
        ({"model": None}, "lacks the key 'model'"),
        ({"default_setting": "labels_30"}, "'labels_30' is none of labels_"),
        ({"claims": [{"metric": "test/errors", "reported": 93}]}, "lacks 'margin'"),
        ({"claims": [{"metric": "m", "reported": {"x": 1}, "margin": 1}]}, "no setting: 'x'"),
        ({"claims": [{"metrics": "m"}]}, "unknown key 'metrics'. Did you mean metric"),
        ({"claims": 5}, "claims is 5; it must be a list"),
        ({"claims": [5]}, "the claim 5 is no mapping"),
        ({"protocols": ["a"]}, "it must be a mapping"),
        ({"deviations": "one"}, "it must be a list"),
        ({"model": "mine"}, "it must be a mapping"),
        ({"model": {"init_args": {}}}, "model lacks a class_path"),
        ({"claims": [{"metric": "m", "reported": 93, "margin": "spread"}]}, "margin: 'spread'"),
        ({"claims": [{"metric": "m", "reported": "many", "margin": 1}]}, "'many'"),
        ({"claims": [{"metric": "m", "margin": 1}]}, "lacks 'reported'"),
        ({"claims": [claim(better="up")]}, "better: 'up'. It is one of lower, higher"),
        ({"claims": [claim(spread_over="seed")]}, "Did you mean seeds"),
        ({"claims": [claim(evidence="guessed")]}, "evidence: 'guessed'"),
        ({"claims": [claim(runs=0)]}, "runs: 0; it must be a whole number above 0"),
        ({"claims": [claim(runs=2.5)]}, "runs: 2.5"),
        ({"claims": [claim(members=None)]}, "members: None"),
        ({"claims": [claim(margin=0)]}, "margin: 0; it must be a finite number above 0"),
        ({"claims": [claim(margin=float("nan"))]}, "margin: nan"),
        ({"claims": [claim(margin="raw")]}, "margin: 'raw'"),
        ({"claims": [claim(reported=float("inf"))]}, "value: inf"),
        ({"claims": [claim(reported=[9, -1])]}, "spread: -1"),
        ({"claims": [claim(reported=[9, 1, 2])]}, "write .value, spread."),
        ({"claims": [claim(reported="1e-3")]}, "value: '1e-3'; it must be a finite number"),
        ({"claims": [claim(raw=[1, 2], runs=3)]}, "these are 2 numbers, not 3 runs"),
        ({"claims": [claim(raw=[1, "x"])]}, "raw: .1, 'x'."),
        ({"claims": [claim(), claim()]}, "called 'm'; rename one"),
        ({"claims": [claim(reported={"labels_20": 1})]}, "no claim is about labels_50, labels_100"),
        ({"settings": {"labels_20": 5}}, "settings.labels_20 is 5; write a mapping"),
        ({"deviations": [{"name": "a", "what": "b"}]}, "'a' lacks 'why'"),
        ({"deviations": [DEVIATION | {"wy": "b"}]}, "unknown key 'wy'. Did you mean why"),
        ({"deviations": [DEVIATION | {"name": "A b"}]}, "write its name in small letters"),
        ({"deviations": [DEVIATION, DEVIATION]}, "is there twice"),
        ({"deviations": [DEVIATION | {"ablation": "labels_1"}]}, "Did you mean labels_"),
        ({"deviations": [7]}, "neither a sentence nor a mapping"),
        ({"paper": [1]}, "paper is .1.; it must be a mapping"),
        ({"paper": {"title": {"a": "b"}}}, "paper.title is .*; it must be a text, a number or"),
        ({"paper": {"year": DAY}}, "paper.year: 2015-01-02 is a date.* Put it in quotes"),
        ({"paper": {"authors": ["A", 3]}}, "paper.authors is .'A', 3."),
        ({"paper": {5: "x"}}, "paper has the key 5, no text"),
        ({"default_setting": ["a"]}, "default_setting .'a'. is none of labels_"),
        ({"default_setting": {"a": 1}}, "default_setting {'a': 1} is none of labels_"),
        (
            {"protocols": {"release": {"model": {"x": DAY}}}},
            "protocols.release.model.x: 2015-01-02",
        ),
        ({"trainer": {"max_epochs": float("inf")}}, "trainer.max_epochs is inf"),
        (
            {"settings": {"labels_20": {"modle": {}}}},
            "labels_20 has .* 'modle'. Did you mean model",
        ),
        ({"protocols": {"release": {"dat": {}}}}, "release has .* key 'dat'. Did you mean data"),
        ({"protocols": {"a/b": {}}}, "protocols has the name 'a/b'"),
        ({"protocols": {"release": {"model": None}}}, "protocols.release.model is None; it must"),
        ({"smoke": {"data": 3}}, "smoke.data is 3; it must be a mapping"),
        ({"smoke": {"traner": {}}}, "smoke has .* key 'traner'. Did you mean trainer"),
        ({"gate": gate(protocols={"release": 5})}, "gate.protocols.release is 5; write a mapping"),
        ({"gate": gate(protocols={"release": {"modle": {}}})}, "Did you mean model"),
        ({"gate": gate(seeds="3-1")}, "mine.yaml: gate.seeds: '3-1' is not understood"),
        ({"gate": gate(seeds="1-999999")}, "mine.yaml: gate.seeds: .* at most 100,000"),
        ({"seeds": "many"}, "mine.yaml: seeds: 'many' is not understood"),
        ({"seeds": "1-99999999"}, "mine.yaml: seeds: '1-99999999' are 99,999,999 seeds"),
        ({"model": {"class_path": 5}}, "model.class_path is 5"),
        ({"data": {"class_path": "x", "init_args": [1]}}, "yaml: data.init_args is .1.; it must"),
        ({"smoke": {"model": {"init_args": 3}}}, "smoke.model.init_args is 3; it must be a mapp"),
        ({"claims": [claim(reported=1e300)]}, r"value: 1e\+300; it must be a finite number"),
        ({"claims": [claim(raw=[20, 21])]}, "value: 9, but the mean of its raw is 20.5"),
        ({"claims": [claim(raw=[9, 5], statistic="best")]}, "but the best of its raw is 5"),
    ],
)
def test_a_faulty_file_is_told_what_is_wrong(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(broken(tmp_path, **changes), "mine")


# --- claims by their id in the catalogue


def test_an_id_brings_all_that_the_catalogue_fixes(tmp_path: Path) -> None:
    claims = [{"name": "one", "reported": {"labels_20": "mnist_semisup.20.single"}}]
    claims += [{"metric": "m", "margin": "raw", "raw": [1, 3], "reported": 2}]
    one, *others = load(broken(tmp_path, claims=claims), "mine").claims

    assert (one.metric, one.value, one.spread, one.margin) == ("test/errors", 1677, 452, 452)
    assert (one.runs, one.spread_over, one.statistic) == (10, "label subsets", "mean")
    assert (one.id, one.where) == ("mnist_semisup.20.single", "Table 1")
    assert [c.setting for c in others] == list(find(NAME).settings)
    assert others[0].margin == pytest.approx(2**0.5)


def test_a_pattern_is_filled_from_what_the_setting_sets() -> None:
    ids = {(c.setting, c.name): c.id for c in find(NAME).claims}

    assert ids["labels_50", "single"] == "mnist_semisup.50.single"
    assert ids["labels_200", "ensemble"] == "mnist_semisup.200.ensemble10"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"reported": "mnist_semisup.{labels}.singel"}, "Did you mean mnist_semisup.20.single"),
        ({"reported": "mnist_semisup.{label}.single"}, "labels_20 sets no 'label'"),
        ({"reported": "mnist_semisup.100.dgn"}, "is of another paper's method"),
        ({"reported": "vime/walker2d_shaped.curve.vime_vs_trpo"}, "has no number"),
        ({"reported": "vyme/x"}, "claims/vyme.yaml, which is not there. Did you mean vime"),
        ({"reported": "mnist_semisup.20.single", "margin": 500}, "the catalogue has 452"),
        ({"reported": "mnist_semisup.20.single", "runs": None}, "runs: None, but the catalogue"),
    ],
)
def test_an_id_that_cannot_be_meant(tmp_path: Path, entry: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(broken(tmp_path, claims=[entry]), "mine")


# --- the ledger of deviations


def test_a_deviation_is_a_sentence_or_has_a_name_and_an_ablation(tmp_path: Path) -> None:
    undone = DEVIATION | {"ablation": "undone"}
    settings = {"labels_20": {}, "undone": {}}
    path = broken(
        tmp_path, claims=[claim()], settings=settings, default_setting="labels_20",
        deviations=["Fewer epochs.", undone],
    )  # fmt: skip
    spec = load(path, "mine")

    assert spec.deviations == ("Fewer epochs.", "Pixels reach 2.")
    assert [d.name for d in spec.ledger] == ["", "scale"]
    assert spec.ledger[1].ablation == "undone"
    assert [c.setting for c in spec.claims] == ["labels_20"]  # an ablation is no column
    assert spec.departures("labels_20", "paper") == spec.deviations
    assert spec.departures("undone", "paper") == ("Fewer epochs.",)


def test_what_says_nothing_is_as_good_as_absent(tmp_path: Path) -> None:
    path = broken(tmp_path, gate=gate(protocols={"release": None}))
    path.write_text(path.read_text() + "\npaper:\nseeds:\n")  # the last of equal keys counts
    spec = load(path, "mine")

    assert (spec.paper, spec.seeds) == ({}, (Seed(1, 1),))
    assert spec.gate["protocols"] == {"release": {}}


def test_authors_may_be_a_list(tmp_path: Path) -> None:
    spec = load(broken(tmp_path, paper={"authors": ["A. One", "B. Two"], "year": 2015}), "mine")

    assert spec.paper == {"authors": "A. One, B. Two", "year": 2015}


def test_raw_may_be_as_far_as_its_margin_lets_it(tmp_path: Path) -> None:
    claims = [claim(raw=[9.3, 9.5]), claim(name="low", reported=0.1, raw=[0.5]), claim(
        name="mid", raw=[1, 9, 99], statistic="median")]  # fmt: skip

    assert len(load(broken(tmp_path, claims=claims), "mine").claims) == 12


@pytest.mark.parametrize("text", ["a: [1", "a: 2015-13-45", "? [a]\n: b", "[" * 5000, "a: &a [*a]"])
def test_yaml_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)

    with pytest.raises(UserError, match="not valid YAML"):
        find(str(path))


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_nothing_heavy_is_imported_by_list_and_show() -> None:
    program = (
        "import sys\n"
        "from lit_gen.harness.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'mlflow', 'pytorch_lightning', 'jsonargparse'} & set(sys.modules)\n"
    )
    for words in (["list"], ["show", NAME], ["claims", "--json"]):
        subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True)


# --- figures

FIGURE = {
    "title": "Figure 1",
    "settings": "trajs{x}.{line}",
    "x": "trajectories",
    "y": "test/score",
    "zero": "cartpole.random",
    "one": "cartpole.expert",
}


def with_figure(tmp_path: Path, **changes: object) -> Path:
    """GAIL's CartPole, with another figure; what is None is left out."""
    raw = yaml.safe_load(find("gail_cartpole").path.read_text())
    raw["figures"] = [{k: v for k, v in (FIGURE | changes).items() if v is not None}]
    (tmp_path / "gail").mkdir(exist_ok=True)
    path = tmp_path / "gail/mine.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_a_figure_finds_the_number_and_the_line_in_a_setting_s_name(tmp_path: Path) -> None:
    (figure,) = load(with_figure(tmp_path), "gail_mine").figures

    assert figure.place("trajs10.gail") == (10, "gail")
    assert figure.place("trajs1.5.gail_lambda0") == (1.5, "gail_lambda0")
    assert figure.place("trajs.gail") is None
    assert figure.place("xtrajs10.gail") is None
    assert figure.place("trajs10xgail") is None  # a point is a point
    assert figure.metric == "test/return"
    assert (figure.scaled(18.64), figure.scaled(200)) == (0, 1)
    assert figure.scaled(109.32) == pytest.approx(0.5)


def test_a_figure_without_a_scale_has_the_claims_own_numbers(tmp_path: Path) -> None:
    changes = {"zero": None, "one": None, "y": "test/return", "settings": "trajs{x}.gail"}
    (figure,) = load(with_figure(tmp_path, **changes), "gail_mine").figures

    assert figure.place("trajs4.gail") == (4, "")
    assert (figure.metric, figure.scaled(7.5)) == ("test/return", 7.5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"legend": "x"}, "unknown key 'legend'"),
        ({"titel": "x"}, "Did you mean title"),
        ({"x": 3}, "x: 3, which is no text"),
        ({"y": None}, "lacks 'y'"),
        ({"settings": "trajs.{line}"}, "with {x} in the place of a number"),
        ({"settings": "{x}{x}"}, "with {x} in the place"),
        ({"settings": "labels_{x}"}, "no setting is called like that"),
        ({"one": None}, "only one of zero and one"),
        ({"one": "cartpole.expret"}, "Did you mean cartpole.expert"),
        ({"one": "cartpole.random"}, "both 18.64"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_a_sentence(
    tmp_path: Path, changes: dict, said: str
) -> None:
    with pytest.raises(UserError) as error:
        load(with_figure(tmp_path, **changes), "gail_mine")

    assert said in str(error.value)


def test_figures_are_a_list_of_mappings(tmp_path: Path) -> None:
    path = with_figure(tmp_path)
    raw = yaml.safe_load(path.read_text())
    for figures, said in (({"title": "x"}, "must be a list"), (["Figure 1"], "is no mapping of")):
        path.write_text(yaml.safe_dump(raw | {"figures": figures}))
        with pytest.raises(UserError, match=said):
            load(path, "gail_mine")
