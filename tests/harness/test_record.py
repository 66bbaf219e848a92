"""Records: what is written comes back, whole, or is refused with a sentence."""

import json
import os
from pathlib import Path

import pytest

from lit_gen.harness.record import Record, dumps, pack, read, unpack, write
from lit_gen.harness.spec import UserError


def record(**changes: object) -> Record:
    values = {
        "reproduction": "r",
        "setting": "s",
        "protocol": "p",
        "seed": {"data": 2, "model": 7},
        "config": {"model": {"lr": 0.1}},
        "spec_hash": "ab" * 32,
        "deviations": [],
        "epochs": 2,
        "result": {"curve": {"test/errors": [3.0, 1.0], "late": [None, 5.0]}},
    }
    return Record(**values | changes)


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "a.json", record())

    assert read(tmp_path / "a.json") == record()


def test_a_row_of_the_curve_per_epoch() -> None:
    assert record().curve() == [{"test/errors": 3.0}, {"test/errors": 1.0, "late": 5.0}]


def test_runs_that_differ_have_names_that_differ() -> None:
    names = {
        record().name,
        record(seed={"data": 7, "model": 7}).name,
        record(smoke=True).name,
        record(overrides={"model": {}}).name,
        record(overrides={"model": {}}, config={"model": {"lr": 0.2}}).name,
        record(protocol="q").name,
    }

    assert len(names) == 6


def test_a_crash_while_writing_leaves_the_old_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.json", record())

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.json", record(status="finished"))

    assert read(tmp_path / "a.json").status == "running"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_nan_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"x": float("nan")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(schema=99), "schema 99; this lit_gen reads up to 1"),
        (lambda r: r.pop("schema"), "not a readable record"),
        (lambda r: r.pop("config"), "not a complete record"),
        (lambda r: r.update(more=1), "not a complete record"),
        (lambda r: r.update(status="fine"), "unknown status 'fine'"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "a.json"
    write(path, record())
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))

    with pytest.raises(UserError, match=message):
        read(path)


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write(path, record())
    path.write_text(path.read_text()[:50])

    with pytest.raises(UserError, match="not a readable record"):
        read(path)


def test_packing_is_undone_by_unpacking() -> None:
    content = os.urandom(1000) + bytes(5000)

    assert unpack(pack(content)) == content
    assert len(pack(content)) < 1400
