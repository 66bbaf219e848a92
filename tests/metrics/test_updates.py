"""The last and the highest part of a curve, and whether it reaches a level."""

import numpy as np
import pytest

from lit_gen.harness.verdicts.certificate import certify
from lit_gen.metrics.updates import Early, Late, Peak, Reached, early, late, peak, reached

CURVE = np.array([0, 1, 5, 0, 3, 3, -1], np.float32)


def test_late_and_peak_by_hand() -> None:
    assert late(CURVE, 2) == 1
    assert late(CURVE, 7) == late(CURVE) == pytest.approx(11 / 7)
    assert early(CURVE, 3) == 2
    assert peak(CURVE, 1) == 5
    assert peak(CURVE, 2) == 3
    assert peak(CURVE, 3) == pytest.approx(8 / 3)
    assert peak(CURVE, 100) == pytest.approx(11 / 7)


@pytest.mark.parametrize(
    "metric",
    [
        Late("c", 55, 935), Peak("c", 10, 935), Late("c", 1), Late("c"), Late("c", None, 9),
        Early("c", 100, 100), Early("c", 3),
        Peak("c", 2),
        Reached("c", 50, 0.5, 100), Reached("c", 100, -3, 100), Reached("c", 1, 0),
    ],
)  # fmt: skip
def test_metrics_pass_their_certificates(metric: Early | Late | Peak | Reached) -> None:
    assert certify(metric) == []


def test_a_level_is_reached_in_time_or_not() -> None:
    assert reached(CURVE, 5, 3) == 1
    assert reached(CURVE, 5, 2) == 0
    assert reached(CURVE, 5.1, 7) == 0

    class Late(Reached):
        def of(self, arrays: dict) -> float:
            return reached(arrays[self.curve], self.level, self.updates + 1)

    assert certify(Late("c", 50, 0.5, 100))


def test_a_level_is_a_number() -> None:
    with pytest.raises(ValueError, match="level is 'high'"):
        Reached("c", 1, "high")


def test_one_is_not_the_other() -> None:
    class Wrong(Peak):
        def of(self, arrays: dict) -> float:
            return late(arrays[self.curve], self.updates)

    assert certify(Wrong("c", 10, 935))
    assert Late("c", 10).id != Peak("c", 10).id


@pytest.mark.parametrize(
    ("arrays", "said"),
    [({"d": CURVE}, "it needs c; kept are d"), ({"c": CURVE}, "at least 8 updates"),
     ({"c": np.ones((9, 2))}, "shape")],
)  # fmt: skip
def test_another_curve_is_refused(arrays: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Late("c", 8).of(arrays)


@pytest.mark.parametrize("options", [{"updates": 0}, {"updates": 2, "length": 0}])
def test_sizes_are_checked(options: dict) -> None:
    with pytest.raises(ValueError, match="whole number above 0"):
        Peak("c", **options)
