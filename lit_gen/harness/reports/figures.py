"""Figures of the page, as SVG: the strip of one row, learning curves, and a paper's own figures."""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lit_gen.harness.record import Record
from lit_gen.harness.reports import report
from lit_gen.harness.spec import Claim, Figure, Spec, Watched, flatten
from lit_gen.harness.verdicts import curves as learning
from lit_gen.harness.verdicts.orders import Ranking
from lit_gen.harness.verdicts.statistics import interval
from lit_gen.harness.verdicts.verdict import Verdict
from lit_gen.harness.words import number

COLOURS = (
    "#0072b2", "#d55e00", "#007a5a", "#b0558f", "#8a6d00", "#56b4e9", "#333333", "#7b4fb5",
    "#e69f00", "#7a3b1d",
)  # fmt: skip
MANY = "#6b7580"  # of each run, where there are more than colours
WIDE = 1000.0  # times the first number of an axis is the last, where it is logarithmic
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


def sides(ranking: Ranking) -> Any:
    """An SVG of an order: each run as a dot, and the median or mean; the setting that should do
    better is above. '' if there is no number."""
    from markupsafe import Markup, escape

    rows = [[v for v in s.values.values() if math.isfinite(v)][:DOTS] for s in ranking.sides]
    numbers = [v for row in rows for v in row]
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)

    def at(x: float) -> float:
        share = (x - low) / (high - low) if high > low else 0.5
        return round(8 + (WIDTH - 16) * share, 1)

    parts = []
    for y, row, side in zip((8, 24), rows, ranking.sides, strict=True):
        parts.append(f'<line class="paper" x1="2" y1="{y}" x2="{WIDTH - 2}" y2="{y}"/>')
        parts += [f'<circle class="run" cx="{at(v)}" cy="{y}" r="2.6"/>' for v in row]
        if side.value is not None:
            x = at(side.value)
            parts.append(
                f'<path class="mean" d="M{x - 5} {y}L{x} {y - 5}L{x + 5} {y}L{x} {y + 5}Z"/>'
            )
    ends = [(2, "start", low), (WIDTH - 2, "end", high)]
    parts += [
        f'<text x="{x}" y="42" text-anchor="{anchor}">{escape(number(value))}</text>'
        for x, anchor, value in ends[: 1 + (high > low)]
    ]
    both = " and ".join(side.setting for side in ranking.sides)
    label = escape(f"Runs of {both}: {report.ours(ranking)}, from {number(low)} to {number(high)}.")
    return Markup(
        f'<svg class="strip {ranking.status.replace(" ", "-")}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


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
    claim: Claim | Watched,
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
    text = svg((5.2, 3.0), lambda axes: _draw(axes, claim, drawn, expected))
    return inline(text, prefix, words)


def svg(size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """What is drawn into axes, as a file's text, the same each time."""
    import matplotlib
    from matplotlib import figure
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "lit_gen",
        "text.parse_math": False,
        "font.size": 10,
        "path.simplify_threshold": 0.3,
    }
    with matplotlib.rc_context(style):
        sheet = figure.Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(sheet)
        draw(sheet.add_subplot())
        text = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        sheet.savefig(text, format="svg", metadata=nothing, transparent=True)
    return text.getvalue()


def _draw(
    axes: Any,
    claim: Claim | Watched,
    drawn: Sequence[tuple[Record, np.ndarray]],
    expected: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    values = np.concatenate([y[np.isfinite(y)] for _, y in drawn])
    if isinstance(claim, Claim):
        values = np.append(values, claim.value)
    if (values > 0).all() and values.max() > 10 * values.min():
        axes.set_yscale("log")
    low, high = float(values.min()), float(values.max())  # the band may be far wider
    if isinstance(claim, Claim):
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
        ends = claim.band if isinstance(claim, Claim) else (low, high)
        axes.set_ylim(min(low, ends[0]) - room, max(high, ends[1]) + room)
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


# --- a metric over a number that the settings have


@dataclass(frozen=True)
class Line:
    """One line of a figure: our runs' values, and the paper's one, by x.

    Attributes:
        median: the paper's values are medians.
    """

    runs: Mapping[float, Sequence[float]]
    paper: Mapping[float, float]
    median: bool = False

    @property
    def ours(self) -> dict[float, tuple[float, float | None, float | None]]:
        """Mean and 95 % interval over the runs, or the median and both quartiles."""

        def quartiles(values: Sequence[float]) -> tuple[float, float | None, float | None]:
            low, median, high = map(float, np.quantile(values, [0.25, 0.5, 0.75]))
            return (median, low, high) if len(values) > 1 else (median, None, None)

        of = quartiles if self.median else lambda values: interval(values)[:3]
        return {x: of(values) for x, values in sorted(self.runs.items()) if values}


def lines(
    figure: Figure, claims: Sequence[Claim], values: Mapping[str, Sequence[float]]
) -> dict[str, Line]:
    """The lines by name, in the order of the settings; nothing if there is no run of any.

    Args:
        claims: of the reproduction.
        values: of the figure's metric, by setting: one for each run.
    """
    found: dict[str, Line] = {}
    for claim in claims:
        if (place := figure.place(claim.setting)) is None:
            continue
        x, name = place
        line = found.setdefault(name, Line({}, {}, claim.statistic == "median"))
        if claim.metric == figure.metric and claim.statistic != "ensemble":
            line.paper.setdefault(x, figure.scaled(claim.value))
        if theirs := [v for v in values.get(claim.setting, ()) if math.isfinite(v)]:
            line.runs[x] = theirs
    return found if any(line.runs for line in found.values()) else {}


class Plot(NamedTuple):
    """A figure's lines, by runs of one kind."""

    figure: Figure
    kind: str
    lines: dict[str, Line]


def changes(overrides: Mapping[str, Any]) -> list[str]:
    """What users changed, a clause each."""
    return [f"{name} = {value}" for name, value in flatten(overrides)]


def kind(record: Record) -> str:
    """What runs that share a figure have in common."""
    return ", ".join([f"protocol {record.protocol}", *changes(record.overrides)])


def plots(spec: Spec, runs: Iterable[Record]) -> list[Plot]:
    """The paper's figures with our runs, once for each protocol and what users changed."""
    kinds: dict[str, dict[str, list[Record]]] = {}
    for record in runs:
        kinds.setdefault(kind(record), {}).setdefault(record.setting, []).append(record)
    found = []
    for figure in spec.figures:
        for name, settings in kinds.items():
            values = {
                setting: [
                    float(value)
                    for record in records
                    if (value := record.result.get("metrics", {}).get(figure.y)) is not None
                ]
                for setting, records in settings.items()
            }
            if drawn := lines(figure, spec.claims, values):
                found.append(Plot(figure, name, drawn))
    return found


def over_settings(plot: Plot, words: str, prefix: str) -> Any:
    """An SVG of a plot: our means with their intervals and each run as a dot, and the paper's
    values as rings on a dashed line. See `curves` for the rest."""
    return inline(file(plot), prefix, words)


def file(plot: Plot) -> str:
    """The same as a whole SVG file."""
    return svg((6.2, 3.6), lambda axes: _draw_lines(axes, plot.figure, plot.lines))


def _draw_lines(axes: Any, figure: Figure, drawn: Mapping[str, Line]) -> None:
    numbers = sorted({x for line in drawn.values() for x in (*line.runs, *line.paper)})
    wide = numbers[0] > 0 and numbers[-1] >= WIDE * numbers[0]
    at = {x: math.log10(x) if wide else x for x in numbers}
    places = [at[x] for x in numbers]
    width = places[-1] - places[0] or 1.0
    apart = 0.022 * width  # of two lines' points, which may be equal
    if figure.zero is not None:
        for level in (0, 1):
            axes.axhline(level, color="#333333", linewidth=0.8, zorder=1)
    ends: list[tuple[float, str, str]] = []
    for i, (name, line) in enumerate(drawn.items()):
        colour = COLOURS[i % len(COLOURS)]
        aside = (i - (len(drawn) - 1) / 2) * apart
        theirs = sorted(line.paper.items())
        x = [at[value] + aside for value, _ in theirs]
        axes.plot(
            x, [y for _, y in theirs], "--o", color=colour, linewidth=1, markersize=6,
            markerfacecolor="white", markeredgewidth=1.2, zorder=2,
        )  # fmt: skip
        for value, values in line.runs.items():
            spots = [at[value] + aside + 0.35 * apart] * len(values)
            axes.plot(spots, values, ".", color=colour, markersize=6, alpha=0.7, zorder=3)
        ours = line.ours
        x = [at[value] + aside for value in ours]
        axes.plot(x, [y for y, _, _ in ours.values()], "-", color=colour, linewidth=1.6, zorder=4)
        axes.plot(x, [y for y, _, _ in ours.values()], "D", color=colour, markersize=4.5, zorder=5)
        for place, (_, low, high) in zip(x, ours.values(), strict=True):
            if low is not None:
                axes.plot([place] * 2, [low, high], "-", color=colour, linewidth=1, zorder=4)
        last = ours[max(ours)][0] if ours else theirs[-1][1] if theirs else 0.0
        ends.append((last, name, colour))
    axes.set_xticks(places, [number(x) for x in numbers])
    reach = 0.5 * (len(drawn) + 1) * apart
    axes.set_xlim(places[0] - reach - 0.02 * width, places[-1] + reach + 0.02 * width)
    low, high = _limits(drawn)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_formatter(lambda y, _: number(y))
    axes.set_xlabel(figure.x)
    axes.set_ylabel(figure.y)
    axes.grid(axis="y", color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    least = 0.065 * (high - low)
    for y, (_, name, colour) in zip(
        _spread([end for end, _, _ in ends], least, high), ends, strict=True
    ):
        beside = axes.get_yaxis_transform()
        axes.text(1.01, y, name, color=colour, va="center", transform=beside)


def _limits(drawn: Mapping[str, Line]) -> tuple[float, float]:
    """Of all means, runs and paper's values, with some room; intervals may go beyond."""
    values = [y for line in drawn.values() for ys in line.runs.values() for y in ys]
    values += [y for line in drawn.values() for y in line.paper.values()]
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def _spread(heights: Sequence[float], least: float, top: float) -> list[float]:
    """Heights of labels: as given, but that far apart; the first of equal ones is above."""
    order = sorted(range(len(heights)), key=lambda i: (-heights[i], i))
    placed, above = list(heights), top + least
    for i in order:
        above = placed[i] = min(heights[i], above - least)
    return placed


def inline(text: str, prefix: str, words: str) -> Any:
    """A whole SVG file as an element of the page."""
    from markupsafe import Markup, escape

    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<= id=")|(?<=url\(#)|(?<=href="#)', prefix, text)
    text = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 system-ui, sans-serif", text)
    head = re.search(r'viewBox="[^"]*"', text)
    opening = f'<svg class="curves" {head[0]} role="img" aria-label="{escape(words)}">'
    opening = opening.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ')
    return Markup(re.sub(r"<svg [^>]*>", lambda _: opening, text, count=1).strip())
