"""Numbers, quantities and what was found, in words."""

import math

STYLES = {  # of the words for a status, on a terminal
    "reproduced": "green",
    "on track": "green",
    "better": "cyan",
    "worse": "red",
    "off track": "red",
    "inconclusive": "yellow",
    "not comparable": "magenta",
}

LARGEST = 1e15  # that is written out


def number(x: float | None, decimals: int | None = None) -> str:
    """A number for people: 1,024 or 93.67 or 0.01234; four digits, unless decimals are given."""
    if x is None:
        return "-"
    if not math.isfinite(x):
        return str(x)
    if abs(x) >= LARGEST:
        return f"{x:.4g}"
    if decimals is not None:
        text = f"{x:,.{decimals}f}"
    elif x == 0:
        return "0"
    elif abs(x) < 1e-4:
        return f"{x:.3g}"
    else:
        text = f"{x:,.{max(0, 3 - math.floor(math.log10(abs(x))))}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.lstrip("-") if not text.strip("-0.") else text


def with_interval(mean: float, low: float | None, high: float | None) -> str:
    """'93.7 [79.7, 107.6]': as many decimals as two digits of the half width need."""
    if low is None or high is None:
        return number(mean)
    half = high / 2 - low / 2
    known = 0 < half < math.inf
    decimals = min(9, max(0, 1 - math.floor(math.log10(half)))) if known else None
    return f"{number(mean, decimals)} [{number(low, decimals)}, {number(high, decimals)}]"


UNITS = {"nll": "nats", "elbo": "nats", "log_px": "nats", "bits_per_dim": "bits/dim"}


def unit(metric: str) -> str:
    """'test/bits_per_dim' -> 'bits/dim', 'test/active_units' -> 'active units'."""
    name = metric.rpartition("/")[2].removeprefix("elbo_")
    return UNITS.get(name, name.replace("_", " "))


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
