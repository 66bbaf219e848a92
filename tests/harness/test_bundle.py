"""Bundles: judged again from one file alone, and refused in a sentence when they are not sound."""

import hashlib
import io
import json
import shutil
import warnings
import zipfile
from pathlib import Path

import pytest

from lit_gen.harness import bundle, store
from lit_gen.harness.cli import main
from lit_gen.harness.spec import UserError, find

NAME = "improved_gan_mnist_semisup"


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code or 0


def unzipped(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(path: Path, members: dict[str, bytes], honest: bool = True) -> Path:
    """A bundle of these members; `honest` with a manifest that fits them."""
    if honest:
        about = json.loads(members.pop(bundle.MANIFEST))
        about["members"] = {
            n: {"sha256": hashlib.sha256(c).hexdigest(), "size": len(c)} for n, c in members.items()
        }
        members = {bundle.MANIFEST: json.dumps(about).encode()} | members
    path.write_bytes(bundle.archive(members))
    return path


@pytest.fixture
def packed(run, tmp_path: Path, results: Path) -> Path:
    """A bundle of three runs that reproduce the claim; one is in results/ only."""
    for seed, errors in ((1, 92), (2, 93), (3, 94)):
        run(tmp_path / "runs", seed, errors)
    call("keep", NAME, "--runs-dir", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / NAME / "labels_100-release-seed_1")
    assert call("pack", NAME, "-o", tmp_path / "b.zip", "--runs-dir", tmp_path / "runs") == 0
    return tmp_path / "b.zip"


def test_a_bundle_is_judged_without_the_runs_and_results(
    packed: Path, tmp_path: Path, results: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.rmtree(results)
    shutil.rmtree(tmp_path / "runs")

    assert call("verify", packed) == 0

    said = capsys.readouterr().out
    assert "3 records of improved_gan_mnist_semisup" in said
    assert "ok: labels_100 single, release follows from the records: reproduced: 93" in said
    assert "FAILED" not in said


def test_the_same_content_is_the_same_file(packed: Path, tmp_path: Path) -> None:
    again = bundle.pack(find(NAME), tmp_path / "runs", print)

    assert again == packed.read_bytes()


def test_it_holds_what_is_needed_to_make_it_again(packed: Path) -> None:
    members = unzipped(packed)

    assert {"MANIFEST.json", "data.yaml", "requirements.txt", "verdicts.json"} <= members.keys()
    assert "reproductions/improved_gan/mnist_semisup.yaml" in members
    assert "claims/improved_gan.yaml" in members
    assert "numpy==" in members["requirements.txt"].decode()
    assert members["requirements.txt"].startswith(b"# Python 3.")


def test_nothing_to_pack_is_a_sentence(tmp_path: Path, results: Path, capsys) -> None:
    assert call("pack", NAME, "--runs-dir", tmp_path) == 2
    assert "There are no records of" in capsys.readouterr().err


def forge(packed: Path, member: str, change) -> Path:
    """The bundle with one JSON member changed, and a manifest to match."""
    members = unzipped(packed)
    content = json.loads(members[member])
    change(content)
    members[member] = json.dumps(content).encode()
    return zipped(packed.with_name("forged.zip"), members)


RECORD = "records/labels_100-release-seed_1.json"


@pytest.mark.parametrize(
    ("member", "change", "sentence"),
    [
        (RECORD, lambda r: r["result"]["metrics"].update({"test/errors": 60}), "predictions give"),
        (RECORD, lambda r: r["config"]["model"]["init_args"].update(lr=1), "configuration's hash"),
        (
            "verdicts.json",
            lambda v: v["verdicts"][0].update(status="better"),
            "was packed as better; the records: reproduced: 93",
        ),
    ],
)
def test_a_forged_bundle_fails(
    packed: Path, capsys: pytest.CaptureFixture, member: str, change, sentence: str
) -> None:
    assert call("verify", forge(packed, member, change)) == 1

    failed = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert any(sentence in line for line in failed)


def test_other_claims_than_the_installed_ones_fail(
    packed: Path, capsys: pytest.CaptureFixture
) -> None:
    members = unzipped(packed)
    name = "claims/improved_gan.yaml"
    assert b"value: 93" in members[name]
    members[name] = members[name].replace(b"value: 93", b"value: 120")

    assert call("verify", zipped(packed.with_name("forged.zip"), members)) == 1
    assert "FAILED: its claims: not as in the installed" in capsys.readouterr().out


def without(name: str):
    return lambda members: members.pop(name)


def put(name: str, content: bytes):
    return lambda members: members.update({name: content})


def foreign_metric(members: dict[str, bytes]) -> None:
    name = "reproductions/improved_gan/mnist_semisup.yaml"
    members[name] = members[name].replace(b"lit_gen.metrics.classification.Errors", b"os.system")


@pytest.mark.parametrize(
    ("change", "honest", "sentence"),
    [
        (put("../evil.yaml", b""), True, "no member called '../evil.yaml'"),
        (put("/etc/evil.yaml", b""), True, "no member called '/etc/evil.yaml'"),
        (put("records/../../x.json", b"{}"), True, "no member called"),
        (put("claims/...yaml", b""), True, "no member called"),
        (put("code.py", b"1/0"), True, "no member called 'code.py'"),
        (put("claims/more.yaml", b"x: 1"), False, "differ (claims/more.yaml)"),
        (put(RECORD, b"{}"), False, f"{RECORD} is not as MANIFEST.json says"),
        (put(RECORD, b"{}"), True, f"{RECORD} is not a readable record"),
        (without("verdicts.json"), True, "it lacks a reproduction, records, verdicts"),
        (without("MANIFEST.json"), False, "it lacks 'MANIFEST.json'"),
        (put("MANIFEST.json", b"[]"), False, "MANIFEST.json cannot be read"),
        (put("MANIFEST.json", b"{"), False, "MANIFEST.json cannot be read"),
        (put("verdicts.json", b"[]"), True, "verdicts.json cannot be read"),
        (put("reproductions/a/b.yaml", b"x: 1"), True, "it lacks a reproduction"),
        (foreign_metric, True, "is os.system, no class of the installed lit_gen.metrics"),
    ],
)
def test_what_is_no_bundle_is_refused_in_a_sentence(
    packed: Path, capsys: pytest.CaptureFixture, change, honest: bool, sentence: str
) -> None:
    members = unzipped(packed)
    change(members)

    assert call("verify", zipped(packed.with_name("bad.zip"), members, honest)) == 2

    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert "\n" not in said


def test_a_truncated_bundle_is_refused(packed: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    for end in (0, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.zip").write_bytes(content[:end])
        with (
            pytest.raises(UserError, match="damaged or incomplete"),
            bundle.opened(tmp_path / "cut.zip"),
        ):
            pass


def test_a_flipped_byte_is_noticed(packed: Path, tmp_path: Path) -> None:
    content = bytearray(packed.read_bytes())
    content[content.index(b'"test/errors"') + 2] ^= 1
    (tmp_path / "flipped.zip").write_bytes(content)

    with pytest.raises(UserError, match="damaged"), bundle.opened(tmp_path / "flipped.zip"):
        pass


def test_twice_the_same_member_and_compressed_ones_are_refused(tmp_path: Path) -> None:
    for kind, names, message in (
        (zipfile.ZIP_STORED, ["data.yaml", "data.yaml"], "is there twice"),
        (zipfile.ZIP_DEFLATED, ["data.yaml"], "is compressed"),  # so that nothing can unfold
    ):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in names:
                file.writestr(name, bytes(1000))
        (tmp_path / "x.zip").write_bytes(buffer.getvalue())
        with pytest.raises(UserError, match=message), bundle.opened(tmp_path / "x.zip"):
            pass


def test_sizes_that_cannot_be_are_refused(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MOST_BYTES", 1000)

    with pytest.raises(UserError, match="more than there can be"), bundle.opened(packed):
        pass


def test_a_model_that_is_not_ours_is_never_imported(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('it was run')")
    monkeypatch.syspath_prepend(tmp_path)
    members = unzipped(packed)
    name = "reproductions/improved_gan/mnist_semisup.yaml"
    members[name] = members[name].replace(b"lit_gen.papers.improved_gan.", b"trap.")

    assert call("verify", zipped(tmp_path / "trap.zip", members)) == 1
    assert "trap.SemiSupervisedGAN is not lit_gen's, and not run" in capsys.readouterr().out


def test_one_record_in_results_that_cannot_be_read_is_left_out(
    packed: Path, tmp_path: Path
) -> None:
    next(store.results(find(NAME)).glob("*seed_1.json")).write_text("{")
    said: list[str] = []

    content = bundle.pack(find(NAME), tmp_path / "runs", said.append)

    assert len(said) == 1
    assert zipfile.ZipFile(io.BytesIO(content)).namelist().count(RECORD) == 0
