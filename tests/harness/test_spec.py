"""Reproductions as data: what a YAML file may say, and what it is told when it may not."""

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
    assert spec.claims
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


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(UserError, match=f"Did you mean {NAME}"):
        find("improved_gan_mnist_semisub")


def broken(tmp_path: Path, **changes: object) -> Path:
    raw = yaml.safe_load(find(NAME).path.read_text()) | changes
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in raw.items() if v is not None}))
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
        ({"claims": [{"metric": "m", "reported": 93, "margin": "spread"}]}, "margin"),
        ({"claims": [{"metric": "m", "reported": "many", "margin": 1}]}, "'many'"),
        ({"claims": [{"metric": "m", "reported": 9, "margin": 1, "better": "up"}]}, "better"),
    ],
)
def test_a_faulty_file_is_told_what_is_wrong(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(broken(tmp_path, **changes), "mine")


def test_yaml_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: [1")

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
    for words in (["list"], ["show", NAME]):
        subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True)
