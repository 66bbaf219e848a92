"""The catalogue of claims: complete, checked, and listed with where each claim stands."""

import json
import math
from pathlib import Path

import pytest

from lit_gen.harness import claims
from lit_gen.harness.cli import main
from lit_gen.harness.reports import standing
from lit_gen.harness.spec import UserError, catalogue, find
from lit_gen.harness.verdicts.verdict import Verdict

NAME = "improved_gan_mnist_semisup"
OWN = {
    "improved_gan": 30, "iaf": 57, "infogan": 13, "vime": 46, "gail": 156, "dcgan": 17, "vae": 89,
    "draw": 5, "pixel_rnn": 32,
}  # fmt: skip
README = Path(__file__).parents[2] / "README.md"
ENTRIES = [entry for paper in claims.papers() for entry in claims.read(paper).entries]


# --- what is in it


def test_every_own_number_of_the_nine_papers_is_a_claim() -> None:
    assert {paper: len(claims.read(paper).claims) for paper in claims.papers()} == OWN


def test_a_gan_whose_codes_can_be_found_contradicts_figure_1_of_infogan() -> None:
    """Of its controls less is better: they are there to show that information is lost."""
    better = {c.id: c.better for c in find("infogan_mnist_mi").claims}

    assert better == {
        "mnist_mi.max": "higher", "mnist_mi.gan_late": "lower", "mnist_mi.gan_peak": "lower",
    }  # fmt: skip


def test_every_claim_is_fixed_in_advance() -> None:
    for entry in ENTRIES:
        if entry.context:
            continue
        stated = (entry.where, entry.row, entry.dataset, entry.unit, entry.protocol)
        assert all(stated), entry.id
        assert (entry.members > 1) == (entry.statistic == "ensemble"), entry.id
        if entry.value is None:
            assert entry.order, entry.id
            continue
        if entry.bound in ("<", ">"):
            with pytest.raises(UserError, match="bound"):
                entry.claim("all")
            continue
        claim = entry.claim("all")
        assert claim.reason, entry.id
        assert 0 < claim.margin < math.inf, entry.id
        wide = ("a tenth of the way", "a hundredth of the range")  # of returns
        if not claim.reason.startswith(wide):
            assert claim.margin < max(abs(claim.value), 1) * 1.2, entry.id


@pytest.mark.parametrize(
    ("paper", "id", "value", "spread", "margin"),
    [
        ("improved_gan", "mnist_semisup.100.single", 93, 6.5, 6.5),
        ("improved_gan", "cifar10_samples.inception.our_methods", 8.09, 0.07, 0.275),
        ("iaf", "mnist.iaf_depth8_width1920.vlb", -80.8, 0.07, 0.5),
        ("iaf", "cifar10.resnet_vae_iaf.bits_per_dim", 3.11, None, 0.04),
        ("vime", "mountaincar_eta.trpo.eta0.3", -91.56, None, 13.7),
        ("gail", "acrobot.trajs1.gail", -77.26, 18.03, 12.5),
        ("gail", "acrobot.trajs1.fem", -133.14, 60.8, 12.5),
        ("gail", "cartpole.expert", 200, 0, 18.1),
        ("gail", "hopper.trajs4.gail", 3614.22, 7.17, 356),
        ("dcgan", "cifar10_features.full.dcgan", 82.8, None, 0.4),
        ("vae", "mnist.iwae_L2_k50.nll", 82.9, None, 0.56),
        ("draw", "mnist.draw.bound", 80.97, None, 0.81),
        ("pixel_rnn", "cifar10.diag_bilstm.bits_per_dim", 3.0, None, 0.035),
        ("infogan", "mnist_cluster.error", 5, None, 1),
    ],
)
def test_known_numbers(
    paper: str, id: str, value: float, spread: float | None, margin: float
) -> None:
    claim = claims.find(paper, id).claim("all")

    assert (claim.value, claim.spread) == (value, spread)
    assert claim.margin == pytest.approx(margin, rel=1e-4)


def test_the_authors_own_runs_give_the_printed_mean() -> None:
    with_raw = [e for e in claims.read("gail").claims if e.raw]

    assert len(with_raw) == 136
    for entry in with_raw:  # policies have 50 to 53 episodes each: nearly equal weights
        assert len(entry.raw) == entry.runs
        assert sum(entry.raw) / len(entry.raw) == pytest.approx(entry.value, rel=0.01)


def test_what_was_never_verified_is_known() -> None:
    recalled = {p: sum(e.evidence == "recalled" for e in claims.read(p).claims) for p in OWN}

    assert {paper: n for paper, n in recalled.items() if n} == {
        "dcgan": 2,
        "draw": 2,
        "pixel_rnn": 14,
        "vae": 4,
        "vime": 13,
    }


def test_every_claim_of_a_reproduction_is_in_the_catalogue() -> None:
    for name, path in catalogue().items():
        for claim in find(name).claims:
            entry = claims.find(path.parent.name, claim.id)
            assert entry.claim(claim.setting, claim.name) == claim


# --- mistakes


TABLE = """\
paper: {title: A paper, year: 2015, arxiv: '0000.00000'}
tables:
  - where: Table 1
    dataset: MNIST
    metric: test/nll
    unit: nats
    better: lower
    protocol: as usual
    statistic: mean
    runs: 3
    spread_over: seeds
    margin: spread
    reason: the paper's own
    evidence: text
    claims:
      mnist.a: {row: A, value: 1.5, spread: 0.5}
    context:
      mnist.b: {row: B, value: 2}
"""


def test_a_small_catalogue(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TABLE)
    a, b = claims.load(tmp_path / "mine.yaml").entries

    assert (a.paper, a.margin, a.context) == ("mine", 0.5, False)
    assert (b.value, b.margin, b.context) == (2, None, True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metric: test", "metrik: test", "table 1 has the unknown key 'metrik'. Did you mean metr"),
        ("row: A,", "rwo: A,", "mnist.a has the unknown key 'rwo'. Did you mean row"),
        ("value: 1.5", "value: .nan", "mnist.a has value: nan"),
        ("value: 1.5", "value: many", "mnist.a has value: 'many'"),
        ("value: 1.5", "value: true", "mnist.a has value: True"),
        (", spread: 0.5", "", "mnist.a has margin: 'spread'"),
        ("    margin: spread\n", "", "mnist.a lacks 'margin'"),
        ("    runs: 3\n", "", "mnist.a lacks 'runs'.*null if the paper is silent"),
        ("    spread_over: seeds\n", "", "a spread, but not of what"),
        ("spread_over: seeds", "spread_over: sedes", "Did you mean seeds"),
        ("value: 1.5, ", "", "mnist.a lacks a value"),
        ("value: 1.5, ", "order: 5, ", "mnist.a has order: 5, which is no text"),
        ("value: 1.5, ", "order: '', ", "or say in `order` what the curve shows"),
        ("mnist.b", "mnist.a", "mnist.a in two tables"),
        ("mnist.a: {", "mnist.a: {value: 1, ", "'value' is there twice"),
        ("{row: B, value: 2}", "2", "mnist.b is 2; it must be a mapping"),
        ("spread: 0.5", "spread: 0.5, bound: at most", "bound: 'at most'"),
        ("spread: 0.5", "spread: 0.5, quartiles: [1, two]", "write .25 %, 75 %."),
        ("tables:", "tabels:", "a list of tables"),
        ("title: A paper, ", "", "it needs title, year and arxiv"),
        ("title: A paper", "title: {a: b}", "paper has title: {'a': 'b'}, which is no text"),
        ("year: 2015", "year: 2015-01-02", "paper has year: .*; write a whole number"),
        ("'0000.00000'", "1606.0", "paper has arxiv: 1606.0, which is no text. Put it in quotes"),
        ("year: 2015", "year: 2015, authors: [A, 5]", "paper has authors: .*; write a text, or"),
        ("tables:", "second_paper: 5\ntables:", "second_paper is 5; it must be a mapping"),
        ("unit: nats", "unit: 2015-01-02", "has unit: .* no text"),
        ("spread: 0.5", "spread: 0.5, raw: [9, 9, 9]", "value: 1.5, but the mean of its raw is 9"),
        ("spread: 0.5", "spread: 0.5, quartiles: [1, .inf]", "write .25 %, 75 %."),
        ("value: 1.5", "value: 2015-99-99", "not valid YAML"),
    ],
)
def test_a_faulty_catalogue_is_told_what_is_wrong(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in TABLE
    (tmp_path / "mine.yaml").write_text(TABLE.replace(old, new, 1))

    with pytest.raises(UserError, match=message) as error:
        claims.load(tmp_path / "mine.yaml")
    assert "mine.yaml" in str(error.value)


# --- where claims stand


def verdict(**changes: object) -> Verdict:
    claim = find(NAME).claims[0]
    given = {"reproduction": NAME, "protocol": "release", "status": "worse", "sentence": "it is"}
    return Verdict(claim=claim, mean=2000.0, **given | changes)


def test_standing() -> None:
    spec = find(NAME)
    entry = claims.find("improved_gan", spec.claims[0].id)
    other = claims.find("improved_gan", "cifar10_semisup.4000.single")
    filtered = claims.find("improved_gan", "cifar10_samples.mturk.top1pct_inception")
    june = verdict(protocol="paper_june8", status="better")
    changed = verdict(overrides={"model": {"lr": 1}}, status="reproduced")

    assert standing.standing(entry, [spec], []).word == "not measured yet"
    assert standing.standing(entry, [spec], []).why == NAME
    assert standing.standing(entry, [], []).word == "not built yet"
    assert standing.standing(other, [spec], [verdict()]).word == "not built yet"
    assert standing.standing(filtered, [spec], []).word == "not measurable"
    assert standing.standing(entry, [spec], [june, changed, verdict()]).word == "worse"
    assert standing.standing(entry, [spec], [june]).word == "better"
    assert standing.standing(entry, [spec], [june]).by == ""
    assert standing.standing(entry, [spec], [changed]).by == "by release, model.lr = 1"
    both = standing.standing(entry, [spec], [june, verdict()])
    assert (both.word, both.by) == ("worse", "by release; by paper_june8: better")
    empty = verdict(status="inconclusive")
    empty = Verdict(empty.claim, NAME, "release", "inconclusive", "no number yet")
    assert standing.standing(entry, [spec], [empty]).word == "not measured yet"


def call(capsys: pytest.CaptureFixture, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["claims", *words])
    assert not stop.value.code
    return capsys.readouterr().out


def test_the_command_lists_every_claim_once(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = call(capsys).splitlines()

    for entry in ENTRIES:
        rows = [line for line in lines if line.split("\t")[1] == entry.id]
        same = [e for e in ENTRIES if e.id == entry.id and not e.context]
        assert len(rows) == len(same), entry.id
    assert sum(OWN.values()) == 445
    assert len(lines) == 445
    assert {line.count("\t") for line in lines} == {6}
    draw = next(line for line in lines if "mnist.draw_no_attention.bound" in line).split("\t")
    assert draw[0] == "draw"
    assert draw[2].endswith("87.4")
    assert draw[3:] == ["-", "0.16", "not built yet", "unverified transcription"]
    assert any("\tnot measurable\tnobody said how" in line for line in lines)
    built = sum(line.split("\t")[5] not in ("not built yet", "not measurable") for line in lines)
    readme = " ".join(README.read_text().split())
    assert f"own methods: {len(lines)} claims, of which {built} have a reproduction" in readme


def test_the_command_fits_a_terminal(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = call(capsys, "--context")

    assert max(map(len, said.splitlines())) <= 80
    assert "Auxiliary Deep Generative" in said
    assert "† unverified transcription" in said


def test_the_command_speaks_json(capsys: pytest.CaptureFixture) -> None:
    tree = json.loads(call(capsys, "vime", "gail", "--json"))
    rows = {row["id"]: row for paper in tree.values() for row in paper["claims"]}

    assert list(tree) == ["vime", "gail"]
    assert len(rows) == 46 + 156
    assert len(rows["reacher.trajs4.gail_lambda0"]["raw"]) == 7
    assert rows["cartpole_shaped.curve.vime_vs_base"]["status"] == "not measurable"
    assert rows["mountaincar_sparse.final.vime"]["unverified"] is True


def test_an_unknown_paper(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["claims", "improved_gam"])

    assert stop.value.code == 2
    assert "Did you mean improved_gan?" in capsys.readouterr().err
