"""Numbers in words."""

import pytest

from lit_gen.harness.words import number, unit, with_interval


@pytest.mark.parametrize(
    ("x", "text"),
    [(93.0, "93"), (6.5, "6.5"), (1024, "1,024"), (1677.3, "1,677"), (0.012344, "0.01234"),
     (11.2371, "11.24"), (-86.4, "-86.4"), (0, "0"), (-0.0, "0"), (99.99999, "100"),
     (1e300, "1e+300"), (-1.5e308, "-1.5e+308"), (5e-324, "4.94e-324"), (1e15, "1e+15"),
     (1e-6, "1e-06"), (float("nan"), "nan"), (None, "-"), (100.0, "100")],
)  # fmt: skip
def test_numbers_are_written_for_people(x, text) -> None:
    assert number(x) == text


def test_an_interval_shows_the_digits_that_mean_something() -> None:
    assert with_interval(93.6667, 79.69, 107.64) == "94 [80, 108]"
    assert with_interval(3.14159, 3.12, 3.16) == "3.142 [3.120, 3.160]"
    assert with_interval(93.0, None, None) == "93"
    assert with_interval(1e308, -1.7e308, 1.7e308) == "1e+308 [-1.7e+308, 1.7e+308]"
    assert with_interval(1e308, float("-inf"), float("inf")) == "1e+308 [-inf, inf]"


def test_a_metric_is_said_in_its_unit() -> None:
    said = {"test/nll": "nats", "val/elbo": "nats", "test/elbo_bits_per_dim": "bits/dim"}
    for name, word in said.items():
        assert unit(name) == word
    assert unit("test/active_units") == "active units"
    assert unit("errors") == "errors"
