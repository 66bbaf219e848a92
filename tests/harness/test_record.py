"""Records: what is written comes back, whole, or is refused with a sentence."""

import json
import math
import os
from pathlib import Path

import pytest

from lit_gen.harness.record import (
    Record,
    dumps,
    pack,
    read,
    unpack,
    write,
    write_atomically,
)
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


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    os.mkfifo(tmp_path / "pipe")

    write_atomically(tmp_path / "link", b"content")
    with pytest.raises(UserError, match="pipe is no regular file"):
        write_atomically(tmp_path / "pipe", b"content")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_bytes() == b"content"
    assert (tmp_path / "pipe").is_fifo()


def test_nan_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"x": float("nan")})


def in_result(**parts: object):
    return lambda r: r["result"].update(parts)


def in_segment(**parts: object):
    started = {"started": "2026-11-22T09:17:02Z"}
    return lambda r: r["provenance"].update(segments=[started | parts])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(schema=99), "schema 99; this lit_gen reads up to 1. Install a newer"),
        (lambda r: r.update(schema=0), "schema 0; this lit_gen reads from 1 on"),
        (lambda r: r.update(schema="1"), "schema = '1'; it must be a whole number"),
        (lambda r: r.pop("schema"), "has no 'schema'"),
        (lambda r: r.pop("config"), "lacks config"),
        (lambda r: [r.pop(name) for name in ("seed", "result")], "lacks seed, result"),
        (lambda r: r.update(more=1), "unknown field 'more'"),
        (lambda r: r.update(status="fine"), "status = 'fine'; it must be one of running"),
        (lambda r: r.update(epochs="2"), "epochs = '2'; it must be a whole number"),
        (lambda r: r.update(epochs=-2), "epochs = -2; it must be a whole number"),
        (lambda r: r.update(epochs=10**9, result={}), "epochs = 1000000000"),
        (lambda r: r.update(steps=10**400), "has a steps larger than any number"),
        (lambda r: r.update(setting="../../x"), "a text without /"),
        (lambda r: r.update(epochs=True), "epochs = True"),
        (lambda r: r.update(epochs=2.0), "epochs = 2.0"),
        (lambda r: r.update(max_epochs=1), "epochs = 2 of max_epochs = 1"),
        (lambda r: r.update(seed=2), "seed = 2; it must be a mapping"),
        (lambda r: r["seed"].pop("model"), "seed = {'data': 2}"),
        (lambda r: r["seed"].update(model="7"), "it must be a mapping of data and model to whole"),
        (lambda r: r.update(config=[]), r"config = \[\]; it must be a mapping"),
        (lambda r: r.update(deviations="none"), "a list of texts"),
        (lambda r: r.update(error={"type": "X"}), "a mapping with type and message"),
        (lambda r: r.update(result=[1]), "result = .1.; it must be a mapping"),
        (lambda r: r.update(status="finished"), "is finished, but has no result.metrics"),
        (in_result(metrics={"test/errors": None}), "metrics.test/errors = None; it must be a num"),
        (in_result(metrics={"test/errors": "91"}), "metrics.test/errors = '91'"),
        (in_result(metrics={"test/errors": math.nan}), "metrics.test/errors = nan"),
        (in_result(metrics={"test/errors": 1e300}), r"test/errors = 1e\+300; it must be at most"),
        (in_result(curve={"a": [1.0, -1e308]}), r"curve.a\[1\] = -1e\+308; it must be at most"),
        (in_result(metrics=[91]), "result.metrics = .91.; it must be a mapping"),
        (in_result(metric_ids={"test/errors": 1}), "metric_ids.test/errors = 1"),
        (in_result(beside=[1.0]), "result.beside = .1.0.; it must be a mapping"),
        (in_result(beside={"memorisation/ratio": None}), "beside.memorisation/ratio = None"),
        (in_result(curve={"a": [1.0]}), "1 values in result.curve.a after 2 epochs"),
        (in_result(curve={"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]}), "3 values in result.curve.b"),
        (in_result(curve={"a": [1.0, math.inf]}), r"result.curve.a\[1\] = inf"),
        (in_result(curve={"a": [1.0, "x"]}), "result.curve.a that is not a list of numbers"),
        (in_result(predictions={"target": {"dtype": "u1"}}), "without dtype, shape and data"),
        (in_result(rescored={}), "result.rescored = {}; it must be a list"),
        (in_segment(wall_s="1 h"), r"segments\[0\].wall_s = '1 h'; it must be a number"),
        (in_segment(started="today"), r"segments\[0\].started = 'today'; it must be a time"),
        (lambda r: r["provenance"].update(segments=[{}]), "without 'started'"),
        (in_segment(commit=7), r"segments\[0\].commit = 7"),
        (in_segment(threads="four"), r"threads = 'four'; it must be a whole number from 1"),
        (in_segment(wall_s=-1), r"wall_s = -1; it must be a number from 0 to"),
        (in_segment(device=5), r"device = 5; it must be a text"),
        (in_segment(steps=1.5), r"steps = 1.5; it must be a whole number"),
        (in_segment(peak_memory_mb=[1]), r"peak_memory_mb = \[1\]; it must be a number"),
        (in_segment(peak_gpu_memory_mb="1"), r"peak_gpu_memory_mb = '1'; it must be a number"),
        (in_segment(energy_j="1"), r"energy_j = '1'; it must be a number"),
        (in_segment(processor=5), r"processor = 5; it must be a text or null"),
        (in_segment(gpu={"name": 5}), r"gpu = {'name': 5}; it must be a mapping"),
        (in_segment(cores="2"), r"cores = '2'; it must be a whole number"),
        (lambda r: r["provenance"].update(segments={}), "segments = {}; it must be a list"),
        (lambda r: r["provenance"].update(plan={"first": 2}), "provenance.plan = "),
        (
            lambda r: r["provenance"].update(plan={"first": -1, "most": 5}),
            "first .from 0. and most",
        ),
        (lambda r: r["provenance"].update(plan={"first": 0, "most": 1}), "provenance.plan = "),
        (lambda r: r["provenance"].update(plan={"first": 0, "most": 10**9}), "up to 100,000"),
        (lambda r: r["provenance"].update(plan=[1, 2]), "provenance.plan = .1, 2."),
        (lambda r: r["provenance"].update(data=5), "provenance.data = 5"),
        (
            lambda r: r["provenance"].update(not_beside={"x": 1}),
            "not_beside = {.x.: 1}; it",
        ),
    ],
)
def test_what_is_no_record_is_refused_in_a_sentence(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "a.json"
    write(path, record())
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))  # which writes nan and infinity as Python does

    with pytest.raises(UserError, match=message) as refused:
        read(path)

    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable record"),
        (b'{"reproduction": "r", "sett', "not a readable record"),
        (b'{"reproduction": "\xff"}', "byte 18 is not UTF-8"),
        (b"[1, 2]", "a list, not a mapping"),
        (b"null", "a null, not a mapping"),
        (b"[" * 100_000, "not a readable record"),
        (b'{"seed": 1, "seed": 2}', "the key 'seed' stands twice"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)

    with pytest.raises(UserError, match=message):
        read(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize("cut", [-1, 5])
def test_packed_content_that_breaks_off_or_is_too_long_is_refused(cut: int) -> None:
    text = pack(bytes(1000))

    with pytest.raises(ValueError, match=r"breaks off|more than|incorrect|corrupt|overflow"):
        unpack(text[: len(text) - 5] if cut == 5 else text, 2000 if cut == 5 else 999)


def test_packing_is_undone_by_unpacking() -> None:
    content = os.urandom(1000) + bytes(5000)

    assert unpack(pack(content)) == content
    assert len(pack(content)) < 1400
