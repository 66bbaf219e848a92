"""`--compile`: the same run, computed by compiled functions."""

from pathlib import Path

import pytest

from lit_gen.harness.run import Run, execute
from lit_gen.harness.spec import UserError, find

SMALL = Path(__file__).parents[1] / "small" / "network.yaml"


def run(compiled: bool) -> Run:
    spec = find(str(SMALL))
    overrides = {"data": {"init_args": {"validation": 100}}, "trainer": {"precision": "64-true"}}
    cell = spec.default_setting, spec.default_protocol
    return Run(spec, *cell, spec.seeds[0], overrides, compiled=compiled)


def test_a_compiled_run_is_the_same_run(tiny: Path) -> None:
    plain = execute(run(False), tiny / "plain", "cpu", threads=1)
    compiled = execute(run(True), tiny / "compiled", "cpu", threads=1)

    assert plain.status == compiled.status == "finished", compiled.error
    assert compiled.spec_hash == plain.spec_hash
    assert compiled.deviations == plain.deviations
    assert compiled.result["metrics"] == plain.result["metrics"]
    for name, column in plain.result["curve"].items():
        assert compiled.result["curve"][name] == pytest.approx(column, rel=2e-6)
    assert compiled.provenance["segments"][-1]["compiled"] is True
    assert "compiled" not in plain.provenance["segments"][-1]


def test_a_model_with_nothing_to_compile_is_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(True)
    made.resolve()  # which imports its class
    import network

    monkeypatch.delattr(network.Small, "compilable")
    with pytest.raises(UserError, match=r"Small names no functions to compile.*--compile"):
        execute(made, tiny / "runs", "cpu")
