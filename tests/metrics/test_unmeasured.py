"""A claim without a number says why, in every run's record and verdict."""

from dataclasses import replace

import pytest

from lit_gen.harness import beside
from lit_gen.harness.record import Record
from lit_gen.harness.spec import find
from lit_gen.harness.verdicts.certificate import judge_all
from lit_gen.metrics.unmeasured import Unmeasured


def test_it_says_why_and_nothing_else() -> None:
    metric = Unmeasured("test/accuracy_percent", "it is another experiment")

    found = metric.judge(sample=None, data=None)

    assert metric.names == ("test/accuracy_percent",)
    assert found.notes == {"test/accuracy_percent": "it is another experiment"}
    assert (found.numbers, found.ids, found.arrays) == ({}, {}, {})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dcgan_cifar10", "learned from CIFAR-10 itself"),
        ("dcgan_bedrooms", "drew by hand"),
        ("infogan_sprites", "judges by eye"),
        *((f"infogan_{name}", "counted by eye") for name in ("svhn", "celeba", "faces", "chairs")),
    ],
)
def test_reproductions_of_such_claims_give_no_verdict_but_the_reason(name: str, said: str) -> None:
    spec = find(name)
    (claim,) = [c for c in spec.claims if c.setting == spec.default_setting]
    record = Record(
        name, claim.setting, spec.default_protocol, {"data": 1, "model": 1}, {}, "0", []
    )
    record = replace(record, status="finished", epochs=1, result={"metrics": {"train/loss": 1.0}})
    (metric,) = [m for m in beside.asked(spec).values() if isinstance(m, Unmeasured)]
    record.provenance["not_beside"] = metric.judge(None, None).notes

    (verdict,) = judge_all(spec, claim, [record], lambda _: None)

    assert verdict.status == "inconclusive"
    assert said in verdict.sentence
