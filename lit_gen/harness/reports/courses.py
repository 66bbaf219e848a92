"""Figures of a metric in the course of training: a line for each setting, the median of its runs
between their quartiles."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_gen.harness.record import Record
from lit_gen.harness.reports import figures
from lit_gen.harness.spec import Curves, Spec
from lit_gen.harness.verdicts.verdict import judged
from lit_gen.harness.words import number, plural


@dataclass(frozen=True)
class Course:
    """Of a setting's runs, as far as all of them have got.

    Attributes:
        runs: how many.
        quartiles: of their values at each epoch, (3, epochs): 25 %, median, 75 %.
    """

    runs: int
    quartiles: np.ndarray

    @property
    def mean(self) -> float:
        """Of the median's curve: what some papers put beside a line's name."""
        return float(self.quartiles[1].mean())

    @property
    def words(self) -> str:
        low, median, high = self.quartiles[:, -1]
        over = plural(self.runs, "run")
        between = f" ({number(low)} to {number(high)})" if self.runs > 1 else ""
        return (
            f"median of {over}: mean over the training {number(self.mean)}, "
            f"at the end {number(median)}{between}"
        )


@dataclass(frozen=True)
class Plot:
    """A figure's lines by setting, of runs of one kind."""

    figure: Curves
    kind: str
    lines: Mapping[str, Course]


def plots(spec: Spec, runs: Iterable[Record]) -> list[Plot]:
    """The figures with our runs, once for each protocol and what users changed."""
    kinds: dict[str, dict[str, list[Record]]] = {}
    for record in runs:
        if not record.smoke:
            kinds.setdefault(figures.kind(record), {}).setdefault(record.setting, []).append(record)
    found = []
    for figure in spec.curves:
        for kind, settings in kinds.items():
            lines = {
                setting: line
                for setting in figure.settings
                if (line := course(settings.get(setting, ()), figure.curve))
            }
            if lines:
                found.append(Plot(figure, kind, lines))
    return found


def course(runs: Sequence[Record], metric: str) -> Course | None:
    """None if no run has logged the metric. A run that crashed or diverged has it as far as it got:
    it is not left out, and so it ends the line."""
    drawn = [y for r in judged(runs) if np.isfinite(y := figures.curve(r, metric)).any()]
    epochs = min(map(len, drawn), default=0)
    if not epochs:
        return None
    return Course(len(drawn), np.quantile([y[:epochs] for y in drawn], [0.25, 0.5, 0.75], axis=0))


def colours(plot: Plot) -> list[str]:
    """Of its lines."""
    return [figures.COLOURS[i % len(figures.COLOURS)] for i in range(len(plot.lines))]


def svg(plot: Plot, words: str, prefix: str) -> Any:
    """An element of the page; see `figures.curves`."""
    return figures.inline(file(plot), prefix, words)


def file(plot: Plot) -> str:
    """The same as a whole SVG file."""
    return figures.svg((6.2, 3.6), lambda axes: _draw(axes, plot))


def _draw(axes: Any, plot: Plot) -> None:
    each = plot.figure.epoch
    for colour, line in zip(colours(plot), plot.lines.values(), strict=True):
        low, median, high = line.quartiles
        x = each * (np.arange(len(median)) + 1)
        if line.runs > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(x, median, color=colour, linewidth=1.6)
        axes.plot(x[-1:], median[-1:], "o", color=colour, markersize=3)
    axes.set_xlim(left=0)
    axes.set_xlabel(plot.figure.x)
    axes.set_ylabel(plot.figure.curve)
    axes.yaxis.set_major_formatter(lambda y, _: number(y))
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
