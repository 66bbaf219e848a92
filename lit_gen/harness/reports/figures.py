"""Figures of the page, as SVG: the strip of one row, and learning curves."""

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_gen.harness.record import Record
from lit_gen.harness.reports import report
from lit_gen.harness.spec import Claim
from lit_gen.harness.verdicts import curves as learning
from lit_gen.harness.verdicts.verdict import Verdict
from lit_gen.harness.words import number

COLOURS = (
    "#0072b2", "#d55e00", "#007a5a", "#b0558f", "#8a6d00", "#56b4e9", "#333333", "#7b4fb5",
    "#e69f00", "#7a3b1d",
)  # fmt: skip
MANY = "#6b7580"  # of each run, where there are more than colours
DOTS = 40  # at most so many runs are drawn in one strip


# --- the strip: band, interval, runs


WIDTH, HEIGHT, MIDDLE = 240, 46, 16  # of a strip, in its own units


def strip(verdict: Verdict) -> Any:
    """An SVG of one row: the paper's value with its margin as a band, each run as a dot, and the
    interval that the verdict is read from. '' if there is no number."""
    claim = verdict.claim
    runs = [v for v in list(verdict.values.values())[:DOTS] if math.isfinite(v)]
    if verdict.difference is not None:
        mean, low, high = (claim.value + d for d in verdict.difference)
    else:
        mean, low, high = verdict.mean, verdict.low, verdict.high
    if mean is None or not math.isfinite(mean):
        return ""
    words = (
        f"{claim.setting} {claim.name}: paper {report.paper(claim)}, ours {report.ours(verdict)}"
    )
    return _strip(claim, runs, mean, low, high, verdict.status, words)


def _strip(
    claim: Claim,
    runs: Sequence[float],
    mean: float,
    low: float | None,
    high: float | None,
    status: str,
    words: str,
) -> Any:
    from markupsafe import Markup, escape

    numbers = [x for x in (*runs, mean, low, high) if x is not None]
    furthest = max(abs(x - claim.value) for x in numbers)
    margin = claim.margin or furthest or 1.0
    reach = min(8.0, max(2.2, 1.15 * furthest / margin)) * margin

    def at(x: float) -> float:
        """The place of a number; one too far away sits at the edge."""
        place = WIDTH / 2 * (1 + (x - claim.value) / reach)
        return round(min(max(place, 5.0), WIDTH - 5.0), 1)

    def beyond(x: float) -> bool:
        return abs(x - claim.value) > reach

    left, right = at(claim.value - claim.margin), at(claim.value + claim.margin)
    parts = [
        f'<rect class="band" x="{left}" y="2" width="{right - left:.1f}" height="28"/>',
        f'<line class="paper" x1="{WIDTH / 2}" y1="2" x2="{WIDTH / 2}" y2="30"/>',
    ]
    if low is not None and high is not None:
        parts.append(
            f'<line class="interval" x1="{at(low)}" y1="{MIDDLE}" x2="{at(high)}" y2="{MIDDLE}"/>'
        )
        for end, sign in ((low, -1), (high, 1)):
            x = at(end)
            if beyond(end):
                tip = f"M{x} {MIDDLE - 5}L{x + 5 * sign} {MIDDLE}L{x} {MIDDLE + 5}Z"
                parts.append(f'<path class="tip" d="{tip}"/>')
            else:
                parts.append(
                    f'<line class="interval" x1="{x}" y1="{MIDDLE - 4}" '
                    f'x2="{x}" y2="{MIDDLE + 4}"/>'
                )
    parts += [f'<circle class="run" cx="{at(x)}" cy="{MIDDLE + 9}" r="2.6"/>' for x in runs]
    x, y = at(mean), MIDDLE
    parts.append(f'<path class="mean" d="M{x - 5} {y}L{x} {y - 5}L{x + 5} {y}L{x} {y + 5}Z"/>')
    low_edge, high_edge = map(number, claim.band)
    parts += [
        f'<text x="{left}" y="42" text-anchor="end">{escape(low_edge)}</text>',
        f'<text x="{right}" y="42" text-anchor="start">{escape(high_edge)}</text>',
    ]
    label = escape(f"Interval plot. {words}; equal from {low_edge} to {high_edge}.")
    return Markup(
        f'<svg class="strip {status.replace(" ", "-")}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def example() -> Any:
    """The strip that explains strips."""
    claim = Claim("", "", "", value=93.0, spread=None, margin=6.5)
    runs = [88.0, 95.0, 97.0, 93.0, 96.0]
    words = "An example: the interval of five runs lies inside the band."
    return _strip(claim, runs, 93.8, 89.4, 98.2, "reproduced", words)


# --- learning curves


def band(runs: Sequence[Record], metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Epochs, and between what a further run is expected there, at 95 %; nothing below two runs."""
    drawn = [curve(r, metric) for r in runs]
    epochs = min(map(len, drawn), default=0) if len(drawn) > 1 else 0
    if not epochs:
        return np.empty(0), np.empty(0), np.empty(0)
    values = np.stack([y[:epochs] for y in drawn])
    there = np.isfinite(values).all(axis=0)
    low, high = learning.band(values[:, there])
    return np.flatnonzero(there) + 1, low, high


def curve(record: Record, metric: str) -> np.ndarray:
    """The metric at each epoch, nan where there is none."""
    return np.array([row.get(metric, math.nan) for row in record.curve()], dtype=float)


def curves(
    claim: Claim,
    drawn: Sequence[tuple[Record, np.ndarray]],
    expected: tuple[np.ndarray, np.ndarray, np.ndarray],
    words: str,
    prefix: str,
) -> Any:
    """An SVG of a metric over epochs, with the paper's value.

    Args:
        drawn: runs and their curves; those that are not finished are dashed.
        expected: see `band`.
        words: what it shows, for those who cannot see it.
        prefix: of the ids inside, which share the page with other figures'.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "lit_gen",
        "text.parse_math": False,
        "font.size": 10,
        "path.simplify_threshold": 0.3,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.2, 3.0), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        _draw(axes, claim, drawn, expected)
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing, transparent=True)
    return _inline(file.getvalue(), prefix, words)


def _draw(
    axes: Any,
    claim: Claim,
    drawn: Sequence[tuple[Record, np.ndarray]],
    expected: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    values = np.concatenate([y[np.isfinite(y)] for _, y in drawn])
    values = np.append(values, claim.value)
    if (values > 0).all() and values.max() > 10 * values.min():
        axes.set_yscale("log")
    low, high = float(values.min()), float(values.max())  # the band may be far wider
    axes.axhspan(*claim.band, color="#767676", alpha=0.25, linewidth=0)
    axes.axhline(claim.value, color="#333333", linewidth=1)
    if len(expected[0]):
        axes.fill_between(*expected, color="#56b4e9", alpha=0.3, linewidth=0)
    for i, (record, y) in enumerate(drawn):
        dashed = record.status != "finished"
        x = np.arange(1, len(y) + 1)
        colour = COLOURS[i] if len(drawn) <= len(COLOURS) else MANY
        shown = np.isfinite(y)
        axes.plot(
            x[shown], y[shown], color=colour, linewidth=1.2, linestyle="--" if dashed else "-"
        )
        if record.status in ("crashed", "diverged") or shown.sum() == 1:
            axes.plot(x[shown][-1:], y[shown][-1:], "x" if dashed else "o", color=colour)
    if axes.get_yscale() == "log":
        axes.set_ylim(low / 1.25, high * 1.25)
        _plain_ticks(axes, low, high)
    else:
        room = 0.06 * (high - low) or 1.0
        axes.set_ylim(min(low, claim.band[0]) - room, max(high, claim.band[1]) + room)
        axes.yaxis.set_major_formatter(lambda x, _: number(x))
    axes.set_xlim(0, max(len(y) for _, y in drawn) + 1)
    axes.set_xlabel("epoch")
    axes.set_ylabel(claim.metric)
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _plain_ticks(axes: Any, low: float, high: float) -> None:
    """Logarithmic ticks with plain numbers: 100, 200, 500."""
    from matplotlib.ticker import FixedLocator, NullLocator

    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    wide = last - first > 4
    ticks = [k * 10.0**e for e in range(first, last + 1) for k in ((1,) if wide else (1, 2, 5))]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda x, _: number(x))


def _inline(svg: str, prefix: str, words: str) -> Any:
    """A whole SVG file as an element of the page."""
    from markupsafe import Markup, escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(?<= id=")|(?<=url\(#)|(?<=href="#)', prefix, svg)
    svg = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 system-ui, sans-serif", svg)
    head = re.search(r'viewBox="[^"]*"', svg)
    opening = f'<svg class="curves" {head[0]} role="img" aria-label="{escape(words)}">'
    opening = opening.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ')
    return Markup(re.sub(r"<svg [^>]*>", lambda _: opening, svg, count=1).strip())
