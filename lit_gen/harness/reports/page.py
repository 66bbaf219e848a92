"""The report as one HTML page: every claim beside what the runs say, with curves, samples and cost.

The page needs nothing but itself: style, figures and images are inside, and no address is loaded.
The same records give the same bytes. Everything from a record or a YAML file is escaped.
"""

import base64
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from lit_gen.harness import pictures, store
from lit_gen.harness import record as records
from lit_gen.harness.claims import Entry, Paper
from lit_gen.harness.human import score
from lit_gen.harness.record import CLIP, NEAREST, PICTURES, RECORD, SAMPLES, Record
from lit_gen.harness.reports import beside, courses, figures, report, standing
from lit_gen.harness.reports.report import in_order, paper
from lit_gen.harness.reports.standing import Standing
from lit_gen.harness.spec import Claim, Deviation, Figure, Order, Spec, UserError, Watched, digest
from lit_gen.harness.verdicts import human, ledger
from lit_gen.harness.verdicts.certificate import judge_all
from lit_gen.harness.verdicts.orders import Ranking
from lit_gen.harness.verdicts.verdict import RULES, Verdict, group
from lit_gen.harness.words import number, plural, unit

TEMPLATE = Path(__file__).with_name("page.html")
GRIDS = 2  # sample grids of one cell
CLIPS = 4  # of a reproduction: of the first cells that have one
COMMANDS = 3  # that would decide something
LARGEST_IMAGE = 60_000  # bytes; a larger one becomes a JPEG
MOST_PICTURES = 300_000  # bytes of all pictures of a reproduction; they shrink until they fit
SMALLER = 1, 1.5, 2, 3, 4, 6, 8  # parts of its size that a picture may shrink to
WIDE = 900  # pixels; a picture of more takes a row of its own
BOUNDS = {"<": "below", ">": "above", "~": "about"}
MISSING, UNBUILT, UNMEASURABLE = standing.WORDS
ORDER = (
    "reproduced", "better", "worse", "inconclusive", "not comparable", "not judged",
    *standing.WORDS,
)  # fmt: skip
MEANINGS = {
    "reproduced": "the bar lies within the margin of the paper's value",
    "better": "it lies wholly beyond the margin, on the good side",
    "worse": "it lies wholly beyond the margin, on the bad side",
    "inconclusive": "the runs do not settle it; the sentence says what would",
    "not comparable": "our number is not the paper's kind of number",
    "not judged": "the records lack something; the sentence says what",
    MISSING: "a reproduction is there, and its runs gave no number yet",
    UNBUILT: "no reproduction is there yet",
    UNMEASURABLE: "nobody can measure it as things are; the sentence says why",
}


@dataclass(frozen=True)
class Study:
    """One reproduction and what is known about it.

    Attributes:
        runs: each record with its run directory, where that is at hand.
        problems: what could not be read, a sentence each.
    """

    spec: Spec
    runs: tuple[tuple[Record, Path | None], ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def records(self) -> list[Record]:
        shown = [record for record, _ in self.runs if not record.smoke]
        return sorted(shown, key=lambda record: report.order(self.spec, record))

    def folder(self, record: Record) -> Path | None:
        return next((folder for other, folder in self.runs if other is record), None)

    def predictions(self, record: Record) -> dict[str, np.ndarray] | None:
        return store.predictions(record, self.folder(record))


def gather(spec: Spec, runs_dir: Path, unkept: bool = False) -> Study:
    """The records that count, with the run directories they came from.

    Args:
        runs_dir: where run directories are looked for: their sample grids are shown.
        unkept: show the runs there that are not among the records that count, too.
    """
    problems: list[str] = []
    counted = _read(spec, store.results(spec), "*.json", problems)
    kept = {record.name: record for record, _ in counted}
    unread = problems if unkept else []
    found = _read(spec, runs_dir / spec.name, f"*/{RECORD}", unread)
    there = {record.name: (record, path.parent) for record, path in found}
    runs: list[tuple[Record, Path | None]] = []
    for name, record in kept.items():
        other, folder = there.pop(name, (None, None))
        same = other is not None and _metrics(other) == _metrics(record)
        runs.append((record, folder if same else None))
    return Study(spec, (*runs, *(there.values() if unkept else ())), tuple(problems))


def _read(
    spec: Spec, root: Path, pattern: str, problems: list[str]
) -> Iterator[tuple[Record, Path]]:
    for path in sorted(root.glob(pattern)):
        try:
            record = records.read(path)
            if sentence := store.gone(spec, record):
                raise UserError(f"{path}: {sentence}.".replace(f"{spec.path}", spec.path.name))
        except UserError as error:
            problems.append(str(error).replace(f"{root}/", ""))
            continue
        yield record, path


def _metrics(record: Record) -> Any:
    return record.status, record.spec_hash, record.result.get("metrics")


def html(studies: Iterable[Study], catalogue: Iterable[Paper] = (), whole: bool = True) -> str:
    """The page.

    Args:
        catalogue: papers with all their numbers.
        whole: show those of their numbers, too, that none of the studies is about.

    Raises:
        UserError: matplotlib or Jinja2 is not installed.
    """
    try:
        import matplotlib  # noqa: F401
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise UserError(
            f"The page needs {error.name}, which is not installed: pip install 'lit-gen[report]'."
        ) from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    known = {paper.name: paper for paper in catalogue}
    of: dict[str, list[Study]] = {name: [] for name in known if whole}
    for study in studies:
        of.setdefault(study.spec.path.parent.name, []).append(study)
    papers = [_paper(n, known.get(n), there, whole) for n, there in of.items()]
    papers.sort(key=lambda paper: (not paper["hours"], not paper["studies"], paper["key"]))
    counts = sum((paper["counts"] for paper in papers), Counter())
    views = [view for paper in papers for view in paper["studies"]]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        papers=papers,
        counts=_ordered(counts),
        total=counts.total(),
        lead=_lead(counts, papers),
        several=any(row["others"] for paper in papers for row in paper["measured"]),
        meanings=MEANINGS,
        newest=max((view["newest"] for view in views), default=""),
        example=figures.example(),
    )


def _lead(counts: Counter[str], papers: Sequence[Mapping[str, Any]]) -> str:
    """How many numbers, how many of them were measured, and what that took."""
    total = counts.total()
    measured = total - sum(counts[word] for word in standing.WORDS)
    runs = sum(len(view["runs"]) for paper in papers for view in paper["studies"])
    hours = sum(paper["hours"] for paper in papers)
    spent = f"{plural(runs, 'training run')} that took {hours:,.1f} hours"
    asked = f"{plural(total, 'number')} of {plural(len(papers), 'paper')}"
    if not measured:
        return f"None of {asked} has been measured yet" + (f", in {spent}." if runs else ".")
    were = "has" if measured == 1 else "have"
    said = f"Of {asked}, {measured:,} {were} been measured, by {spent}"
    if total == 1:
        said = f"The number of this page has been measured, by {spent}"
    return (
        f"{said}. An interval over independent runs says whether a paper's number holds; "
        "it is said to be inconclusive where the runs do not settle it."
    )


def _paper(
    name: str, listed: Paper | None, studies: Sequence[Study], whole: bool
) -> dict[str, Any]:
    """All that is known about a paper: its reproductions, and its other numbers."""
    views = [_study(study, listed) for study in studies]
    rows = [row for view in views for row in (*view["claims"], *view["orders"]) if row["first"]]
    entries = listed.claims if listed and whole else ()
    catalogued = {entry.id for entry in entries}
    counts = Counter(row["status"] for row in rows if row["id"] not in catalogued)
    specs = [study.spec for study in studies]
    ranks = [ranking for view in views for ranking in view["rankings"]]
    words: dict[str, str] = {}
    for row in (row for view in views for row in view["claims"] if row["first"]):
        words.setdefault(row["id"], row["status"])
    standings = {e.id: standing.standing(e, specs, ranks) for e in entries if e.id not in words}
    counts.update(words.get(i) or standings[i].word for i in catalogued)
    for row in rows:  # shown above
        standings.pop(row["id"], None)
    cited = dict(vars(listed)) if listed else {}
    cited |= studies[0].spec.paper if studies else {}
    return {
        "key": name,
        "about": {key: cited.get(key, "") for key in ("title", "authors", "year", "arxiv")},
        "studies": views,
        "counts": counts,
        "said": _ordered(counts),
        "measured": [row for row in rows if row["n"]],
        "hours": sum(view["hours"] for view in views),
        "others": _others(listed, standings) if listed else [],
        "unmeasured": len(standings),
    }


def _ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    return [(status, counts[status]) for status in ORDER if counts[status]]


def _study(study: Study, catalogued: Paper | None) -> dict[str, Any]:
    spec, runs = study.spec, study.records
    effects = _effects(spec, runs)
    departures = _ledger(spec, runs, effects)
    listed = [row["text"] for row in departures]
    cells, judged = _cells(runs), [_judged(study, claim) for claim in in_order(spec)]
    samples = [_samples(study, cell) for cell in cells]
    unshown = _fewer_clips(samples)
    _embed(picture for cell in samples for picture in cell["pictures"])
    apart = any(cell["pictures"] for cell in samples)
    judged.sort(key=lambda said: not said[2] and all(map(report.unmeasured, said[1])))
    ranked = [_judged(study, order) for order in spec.orders]
    return {
        "name": spec.name,
        "summary": spec.summary,
        "about": _about(spec),
        "claims": list(_claims(judged, listed)),
        "orders": list(_orders(ranked, listed)),
        "rankings": [ranking for _, rankings, _ in ranked for ranking in rankings],
        "context": _context(spec, catalogued),
        "tested": [minus(words) for words in beside.over_runs(spec, runs)],
        "plots": list(_plots(spec, [r for cell in cells for r in cell])),
        "figures": [figure for cell in cells for figure in _figures(study, cell)],
        "samples": [[cell] for cell in samples] if apart else [samples],
        "bare": [c["title"] for c in samples if not c["of"] and not c["whose"]],
        "unshown": unshown,
        "only_pictures": apart and not any(cell["of"] for cell in samples),
        "ledger": departures,
        "effects": {k: v for k, v in effects.items() if k not in {d.name for d in spec.ledger}},
        "runs": [_run(spec, record, listed) for record in runs],
        "metrics": spec.judged_metrics,
        "pairs": any(record.key.data != record.key.model for record in runs),
        "cost": _cost(runs),
        "hours": sum(record.hours for record in runs),
        "unfinished": [
            {"title": f"{p.claim.setting}, seed {p.seed}, {p.protocol}", "sentence": p.sentence}
            for p in report.unfinished(spec, runs)
        ],
        "commands": _commands(study, [v for _, said, _ in (*judged, *ranked) for v in said]),
        "problems": study.problems,
        "newest": max((_started(record) for record in runs), default=""),
    }


# --- the table


def _judged(study: Study, claim: Any) -> tuple[Any, list[Any], str]:
    """The verdicts on a claim or an order, what is as written in the reproduction first; or why
    there is none."""
    try:
        verdicts = judge_all(study.spec, claim, study.records, study.predictions)
        if claim.metric in human.METRICS and claim in study.spec.claims:
            verdicts = [v for v in score.with_people(study.spec, verdicts) if v.claim == claim]
    except UserError as error:
        return claim, [], str(error)
    default = study.spec.default_protocol
    verdicts.sort(key=lambda v: (report.unmeasured(v), v.protocol != default, bool(v.overrides)))
    return claim, verdicts, ""


def _claims(
    judged: Iterable[tuple[Claim, list[Verdict], str]], listed: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """One row for each verdict, or for each claim that has none."""
    for claim, verdicts, problem in judged:
        if problem:
            yield _row(claim) | {"status": "not judged", "why": [problem]}
            continue
        if not verdicts:
            yield _row(claim) | {"status": MISSING}
        there = [v for v in verdicts if not report.unmeasured(v)]
        for i, verdict in enumerate(verdicts):
            variant = f"protocol {standing.variant(verdict)}"
            yield _row(claim) | {
                "first": i == 0,
                "variant": variant,
                "by": variant if len(there) > 1 else "",
                "others": [(standing.variant(v), v.status) for v in there if v is not verdict],
                "ours": minus(report.ours(verdict)),
                "n": verdict.n,
                "difference": minus(report.difference(verdict)),
                "strip": figures.strip(verdict),
                "status": report.word(verdict),
                "more": report.outlook(verdict),
                "why": [
                    minus(said)
                    for said in (
                        verdict.sentence.removeprefix(f"{verdict.status}: ")
                        + "".join(f"; {k}: {number(v)}" for k, v in verdict.details.items()),
                        *report.remarks(verdict),
                    )
                ],
                "rules": [
                    (rule.replace("_", " "), number(value), rule == claim.select)
                    for rule in RULES
                    if (value := verdict.alternatives.get(rule)) is not None
                ],
                "deviations": _footnotes(verdict.deviations, listed),
            }


def _orders(
    judged: Iterable[tuple[Order, list[Ranking], str]], listed: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The same for orders."""
    for order, rankings, problem in judged:
        row = {
            "first": True,
            "id": order.id,
            "setting": order.setting,
            "name": order.name,
            "row": f"the paper's row “{order.row}”",
            "paper": paper(order),
            "unit": unit(order.metric),
            "sides": [],
            "others": [],
            "why": [problem] if problem else [],
            "status": "not judged" if problem else MISSING,
        } | dict.fromkeys(("variant", "by", "n", "difference", "strip", "more", "deviations"), "")
        if not rankings:
            yield row
        there = [r for r in rankings if not report.unmeasured(r)]
        for i, ranking in enumerate(rankings):
            variant = f"protocol {standing.variant(ranking)}"
            why = ranking.sentence.removeprefix(f"{ranking.status}: ")
            yield row | {
                "first": i == 0,
                "variant": variant,
                "by": variant if len(there) > 1 else "",
                "others": [(standing.variant(r), r.status) for r in there if r is not ranking],
                "ours": minus(report.ours(ranking)),
                "sides": [(s.setting, minus(number(s.value)), s.n) for s in ranking.sides],
                "n": "" if report.unmeasured(ranking) else report.runs(ranking),
                "difference": minus(report.difference(ranking)),
                "strip": figures.sides(ranking),
                "status": report.word(ranking),
                "more": report.outlook(ranking),
                "why": [minus(said) for said in (why, *report.remarks(ranking))],
                "deviations": _footnotes(ranking.deviations, listed),
            }


def minus(text: str) -> str:
    """The text with a minus sign, not a hyphen, before a negative number."""
    return re.sub(r"(?<![\w.)-])-(?=\d)", "−", text)


def _row(claim: Claim) -> dict[str, Any]:
    """A claim before any run."""
    return {
        "first": True,
        "id": claim.id,
        "setting": claim.setting,
        "name": claim.name,
        "row": f"the paper's row “{claim.row}”" if claim.row else "",
        "paper": paper(claim),
        "unit": unit(claim.metric),
        "margin": number(claim.margin),
        "variant": "",
        "by": "",
        "others": [],
        "ours": "-",
        "n": 0,
        "difference": "-",
        "strip": "",
        "more": "",
        "why": [],
        "rules": [],
        "deviations": "",
    }


def _about(spec: Spec) -> dict[str, list[str]]:
    """What the paper and we mean by each claim, and for which settings if not for all."""
    said: dict[str, dict[str, list[str]]] = {}
    for claim in (*in_order(spec), *spec.orders):
        said.setdefault(claim.name, {}).setdefault(_meaning(claim), []).append(claim.setting)
    return {
        name: [
            words + (f" ({', '.join(settings)})" if len(meanings) > 1 else "")
            for words, settings in meanings.items()
        ]
        for name, meanings in said.items()
    }


def _context(spec: Spec, listed: Paper | None) -> list[dict[str, str]]:
    """The rows that stand beside our claims in the paper's tables."""
    ids = {claim.id for claim in spec.judged} - {""}
    entries = listed.entries if listed else ()
    tables = {entry.table for entry in entries if entry.id in ids}
    return [_printed(e) for e in entries if e.context and e.table in tables]


def _others(paper: Paper, standings: Mapping[str, Standing]) -> list[dict[str, Any]]:
    """The tables of the claims that no reproduction is about, with the rows beside them."""
    blocks = []
    for _, table in groupby(paper.entries, lambda entry: entry.table):
        rows = list(table)
        ours = [entry for entry in rows if entry.id in standings]
        if not ours:
            continue
        reasons: dict[str, list[str]] = {}
        for entry in ours:
            if standings[entry.id].why:
                reasons.setdefault(standings[entry.id].why, []).append(entry.row)
        head = ours[0]
        blocks.append(
            {
                "where": ", ".join(dict.fromkeys(e.where for e in ours)),
                "what": f"{head.dataset}: {head.metric}, {head.better} is better",
                "rows": [_printed(e) | {"status": standings[e.id].word} for e in ours]
                + [_printed(e) for e in rows if e.context],
                "reasons": [
                    (why, "" if len(whose) == len(ours) else "; ".join(whose))
                    for why, whose in reasons.items()
                ],
            }
        )
    return blocks


def _printed(entry: Entry) -> dict[str, str]:
    """A row of the catalogue as the paper has it."""
    value = f"{BOUNDS[entry.bound]} " if entry.bound else ""
    value += number(entry.value)
    if entry.spread is not None:
        value += f" ± {number(entry.spread)}"
    elif entry.quartiles:
        value += " [{}, {}]".format(*map(number, entry.quartiles))
    notes = [entry.order, entry.note, standing.UNVERIFIED if entry.evidence == "recalled" else ""]
    return {
        "row": entry.row,
        "value": value,
        "unit": entry.unit,
        "margin": number(entry.margin) if entry.margin is not None else "",
        "note": "; ".join(note for note in notes if note),
        "status": "",
    }


def _meaning(claim: Claim | Order) -> str:
    if isinstance(claim, Order):
        runs = f"{claim.statistic} of {claim.runs or 'an unknown number of'} runs"
        parts = [claim.where, f"{claim.metric}, {claim.better} is better; {runs}"]
        parts += ["an order that curves show"]
        return "; ".join([*parts, *["unverified transcription"] * (claim.evidence == "recalled")])
    what = {"ensemble": f"ensembles of {claim.members}, mean"}
    parts = [
        claim.where,
        f"{claim.metric}, {claim.better} is better; {what.get(claim.statistic, claim.statistic)} "
        f"of {claim.runs or 'an unknown number of'} runs, {claim.select.replace('_', ' ')} epoch",
    ]
    if claim.spread is not None:
        over = claim.spread_over
        parts.append(
            "what the ± is, is not stated"
            if over == "not stated"
            else f"the ± is one standard deviation over {over}"
        )
    if claim.reason:
        parts.append(f"margin: {claim.reason}")
    if claim.evidence == "recalled":
        parts.append("unverified transcription")
    return "; ".join(part for part in parts if part)


def _footnotes(deviations: Iterable[str], listed: Sequence[str]) -> str:
    return ", ".join(str(listed.index(d) + 1) for d in deviations if d in listed)


# --- learning curves


def _cells(runs: Sequence[Record]) -> list[list[Record]]:
    """Runs that are equal in all but the seed."""
    cells: dict[tuple, list[Record]] = {}
    for record in runs:
        cells.setdefault(group(record), []).append(record)
    return list(cells.values())


def _title(cell: Sequence[Record]) -> str:
    record = cell[0]
    return ", ".join([record.setting, figures.kind(record)])


def _stored(cell: Sequence[Record], runs: Sequence[Record]) -> list[Record]:
    """The finished runs of the cell; if there are not two, those of another precision, too."""

    def kind(record: Record) -> tuple:
        config = digest(record.config | {"matmul_precision": None})
        return record.setting, record.protocol, config

    finished = [r for r in cell if r.status == "finished"]
    if len(finished) > 1:
        return finished
    return [r for r in runs if r.status == "finished" and kind(r) == kind(cell[0])]


def _figures(study: Study, cell: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """One figure for each metric that the claims and orders of the cell are about."""
    for claim in reversed(study.spec.watched(cell[0].setting)):
        drawn = [(r, y) for r in cell if np.isfinite(y := figures.curve(r, claim.metric)).any()]
        if not drawn:
            continue
        stored = _stored(cell, study.records)
        expected = figures.band(stored, claim.metric)
        others = sorted({_title([r]) for r in stored} - {_title(cell)})
        said = [
            f"seed {record.key}: {number(float(y[np.isfinite(y)][-1]))}"
            + (f", {_far(record)}" if record.status != "finished" else "")
            for record, y in drawn
        ]
        key = list(zip(figures.COLOURS, said, strict=False))
        if len(drawn) > len(figures.COLOURS):
            ended = Counter(record.status for record, _ in drawn)
            what = ", ".join(f"{n} {s}" for s in records.STATUSES if (n := ended[s]))
            key = [(figures.MANY, f"{plural(len(drawn), 'run')} ({what})")]
        title = f"{_title(cell)}: {unit(claim.metric)}"
        words = f"Learning curves, {title}; {'; '.join(words for _, words in key)}."
        prefix = f"f{digest([study.spec.name, claim.metric, *group(cell[0])])[:8]}-"
        yield {
            "title": title,
            "svg": figures.curves(claim, drawn, expected, words, prefix),
            "key": key,
            "band": f"where a further run is expected at 95 %, by {len(stored)} finished runs"
            + (f" (of {'; '.join(others)})" if others else "")
            if len(expected[0])
            else "",
            "paper": ""
            if isinstance(claim, Watched)
            else f"paper: {paper(claim)}, equal within ± {number(claim.margin)}",
        }


def _plots(spec: Spec, runs: Iterable[Record]) -> Iterator[dict[str, Any]]:
    for plot in figures.plots(spec, runs):
        figure = plot.figure
        said = {name: minus(_said(line)) for name, line in plot.lines.items()}
        title = f"{figure.title}: {unit(figure.y)}, {plot.kind}"
        words = f"{title}, over {figure.x}. " + ". ".join(
            f"{name or 'ours'}: {words}" for name, words in said.items()
        )
        prefix = f"p{digest([spec.name, figure.title, figure.y, plot.kind])[:8]}-"
        yield {
            "title": title,
            "svg": figures.over_settings(plot, words, prefix),
            "key": [
                (figures.COLOURS[i % len(figures.COLOURS)], name or "ours")
                for i, name in enumerate(plot.lines)
            ],
            "caption": _caption(figure, any(line.median for line in plot.lines.values())),
        }
    for plot in courses.plots(spec, runs):
        title = f"{plot.figure.title}: {unit(plot.figure.curve)}, {plot.kind}"
        said = [minus(f"{name}: {line.words}") for name, line in plot.lines.items()]
        words = f"{title}, over {plot.figure.x}. {'. '.join(said)}"
        prefix = f"c{digest([spec.name, plot.figure.title, plot.figure.curve, plot.kind])[:8]}-"
        yield {
            "title": title,
            "svg": courses.svg(plot, words, prefix),
            "key": list(zip(courses.colours(plot), said, strict=True)),
            "caption": "A line is the median of the runs, the band between their quartiles, as "
            "far as all of them have got.",
        }


def _caption(figure: Figure, medians: bool) -> str:
    ours = "medians, between the quartiles" if medians else "means, with their 95 % interval"
    scaled = ", put on this scale by the paper's own values for 0 and 1"
    return (
        f"Diamonds are our {ours}; each dot is one run. Rings on a dashed line are the paper's"
        f"{scaled if figure.zero is not None else ''}. Lines stand a little aside, so that equal "
        "points are all seen."
    )


def _said(line: figures.Line) -> str:
    """Our means and the paper's values, for those who cannot see them."""
    ours = [f"{number(x)}: {number(mean)}" for x, (mean, _, _) in line.ours.items()]
    theirs = [f"{number(x)}: {number(y)}" for x, y in sorted(line.paper.items())]
    return f"ours {', '.join(ours) or 'none'}; paper {', '.join(theirs) or 'none'}"


def _far(record: Record) -> str:
    return f"{record.status} at epoch {record.epochs} of {record.max_epochs}"


# --- samples


def _samples(study: Study, cell: Sequence[Record]) -> dict[str, Any]:
    """Grids of the first runs that have one, and the pictures of the first that has any; what was
    measured beside the claims of that one, or of the first that has such numbers."""
    there = [
        (record, folder / SAMPLES)
        for record in cell
        if (folder := study.folder(record)) and (folder / SAMPLES).is_file()
    ]
    shown = next(((r, p) for r in cell if (p := _pictures(study, r))), None)
    first = [shown[0]] if shown else []
    told = next(((r, s) for r in [*first, *cell] if (s := list(beside.said(r)))), None)
    return {
        "title": _title(cell),
        "whose": f"{_title(cell)}, {_seed(shown[0])}" if shown else "",
        "pictures": [
            {
                "path": path,
                "caption": beside.PANEL if path.name == NEAREST else name,
                "alt": f"Picture “{name}”, {_title(cell)}, seed {shown[0].key}",
            }
            for path in shown[1]
            for name in [path.stem.replace("_", " ")]
        ]
        if shown
        else [],
        "told_of": f"{_title(cell)}, {_seed(told[0])}" if told else "",
        "told": [minus(words) for words in told[1]] if told else [],
        "ratios": beside.ratios(cell),
        "of": len(there),
        "images": [
            {
                "src": _embedded(path),
                "caption": f"{_seed(record)}, after epoch {record.epochs}",
                "alt": f"Grid of generated samples, {_title(cell)}, seed {record.key}",
            }
            for record, path in there[:GRIDS]
        ],
    }


def _pictures(study: Study, record: Record) -> list[Path]:
    """Its clip, and then its pictures."""
    if (folder := study.folder(record)) is None:
        return []
    clip = folder / PICTURES / CLIP
    return [clip] * clip.is_file() + sorted((folder / PICTURES).glob("*.png"))


def _fewer_clips(samples: Iterable[dict[str, Any]]) -> int:
    """Leaves the first CLIPS clips, and says how many were taken out."""
    found = 0
    for cell in samples:
        clips = [p for p in cell["pictures"] if p["path"].name == CLIP]
        found += len(clips)
        if found > CLIPS:
            cell["pictures"] = [p for p in cell["pictures"] if p not in clips]
    return max(0, found - CLIPS)


def _embed(shown: Iterable[dict[str, Any]]) -> None:
    """Gives pictures their addresses and widths; what small ones leave of the room, others get."""
    from PIL import Image

    found = [((path := picture.pop("path")), path.read_bytes(), picture) for picture in shown]
    found.sort(key=lambda one: len(one[1]))
    room = MOST_PICTURES
    for i, (path, content, picture) in enumerate(found):
        with Image.open(io.BytesIO(content)) as image:
            picture["width"], picture["wide"] = image.width, image.width > WIDE
            turned = _turned(path, image)
            picture["turned"] = turned and _tiles(turned, image)
        picture["still"], most = "", room // (len(found) - i)
        if path.name == CLIP:
            still = _jpeg(pictures.still(content))
            moving = pictures.smaller(content, most - len(still))
            picture["src"], size = _address(moving, "webp"), len(moving) + len(still)
            picture["still"] = _address(still, "jpeg")
        else:
            picture["src"], size = _fitting(content, most, turned.times if turned else None)
        room -= size


def _turned(path: Path, image: Any) -> pictures.Layout | None:
    """The layout of a grid whose columns are steps."""
    layout = pictures.layout(image) if pictures.TURNED.match(path.stem) else None
    return layout if layout and layout.columns > 1 else None


def _tiles(grid: pictures.Layout, image: Any) -> dict[str, float]:
    """Where its tiles lie, in parts of its width and height."""
    x, y = grid.gap / image.width, grid.gap / image.height
    return {"rows": grid.rows, "columns": grid.columns, "x": x, "y": y}


def _fitting(content: bytes, most: int, times: int | None = None) -> tuple[str, int]:
    """A data: address of a PNG, and its bytes; a large one is a JPEG, as small as it must be.

    A grid that is looked at tile by tile keeps the pixels that its model draws, whatever they take.

    Args:
        times: how many times larger than these such a grid's are.
    """
    from PIL import Image

    kind, least = "png", content
    if len(content) > min(most, LARGEST_IMAGE):
        kind, image = "jpeg", Image.open(io.BytesIO(content)).convert("RGB")
        for parts in SMALLER if times is None else [*(p for p in SMALLER if p < times), times]:
            size = max(1, round(image.width / parts)), max(1, round(image.height / parts))
            least = _jpeg(image if parts == 1 else image.resize(size, Image.Resampling.LANCZOS))
            if len(least) <= min(most, LARGEST_IMAGE):
                break
    return _address(least, kind), len(least)


def _embedded(path: Path) -> str:
    """A data: address of a PNG; large ones as JPEG."""
    from PIL import Image

    content = path.read_bytes()
    if len(content) > LARGEST_IMAGE:
        return _address(_jpeg(Image.open(io.BytesIO(content)).convert("RGB")), "jpeg")
    return _address(content, "png")


def _jpeg(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def _address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


# --- deviations, runs, cost


def _effects(spec: Spec, runs: Sequence[Record]) -> dict[str, str]:
    """What each departure was measured to do to the claims, by its name."""
    try:
        found = ledger.effects(spec, runs)
    except UserError:  # a claim that the runs do not log; its row says so
        return {}
    said: dict[str, list[str]] = {}
    for effect in found:
        said.setdefault(effect.name, []).append(minus(effect.sentence))
    return {name: "; ".join(sentences) for name, sentences in said.items()}


def _ledger(spec: Spec, runs: Sequence[Record], effects: dict[str, str]) -> list[dict[str, str]]:
    """Every departure from the paper: those of the file, then those that runs add."""
    rows = [
        {"name": d.name, "text": d.what, "why": d.why, "effect": _effect(d, effects)}
        for d in spec.ledger
    ]
    known = {row["text"] for row in rows}
    for text in dict.fromkeys([*spec.deviations, *(d for r in runs for d in r.deviations)]):
        if text not in known:
            rows.append({"name": "", "text": text, "why": "", "effect": ""})
    for row in rows:
        whose = {_title([r]) for r in runs if row["text"] in r.deviations}
        everyone = {_title([r]) for r in runs}
        row["of"] = "" if whose == everyone else "; ".join(sorted(whose))
    return rows


def _effect(deviation: Deviation, effects: dict[str, str]) -> str:
    said = effects.get(deviation.name, "not measured") if deviation.name else "not measured"
    if said.startswith("not measured") and deviation.ablation:
        said += f"; runs of {deviation.ablation} would tell"
    return said


def _run(spec: Spec, record: Record, listed: Sequence[str]) -> dict[str, Any]:
    segments = record.provenance.get("segments", [])
    error = record.error or {}
    spent = record.hours
    metrics = spec.judged_metrics
    last = [
        f"{metric} {number(value)}"
        for metric in metrics
        if record.status in report.LOST and (value := report.last(record, metric)) is not None
    ]
    return {
        "setting": record.setting,
        "protocol": ", ".join([record.protocol, *figures.changes(record.overrides)]),
        "seed": str(record.key),
        "status": record.status,
        "epochs": f"{record.epochs} of {record.max_epochs}",
        "values": [report.result(record, metric) for metric in metrics],
        "last": f"last: {', '.join(last)} after epoch {record.epochs}" if last else "",
        "hours": f"{spent:.1f}" if spent else "-",
        "stretches": len(segments),
        "device": report.machine(segments[-1]) if segments else "-",
        "memory": _memory([record]),
        "energy": _energy([record]),
        "commit": report.commits(record),
        "deviations": _footnotes(record.deviations, listed),
        "error": ": ".join(str(error[k]) for k in ("type", "message") if error.get(k)),
        "step": error.get("step"),
    }


def _started(record: Record) -> str:
    segments = record.provenance.get("segments", [])
    return max((str(s.get("started", "")) for s in segments), default="")


def _seed(record: Record) -> str:
    """'seed 3', or 'seed 2:1 (label subset 2, model 1)'."""
    key = record.key
    apart = f" (label subset {key.data}, model {key.model})" if key.data != key.model else ""
    return f"seed {key}{apart}"


def _machine(segment: dict[str, Any]) -> str:
    threads, processor = segment.get("threads"), segment.get("processor")
    parts = [segment.get("device") or "unknown device"]
    parts += [plural(threads, "thread")] if threads else []
    names = [name for name in (processor, (segment.get("gpu") or {}).get("name")) if name]
    return ", ".join(parts) + (f" ({', '.join(names)})" if names else "")


def _memory(runs: Iterable[Record]) -> str:
    segments = [s for r in runs for s in r.provenance.get("segments", [])]
    peaks = {
        where: max((s.get(key) or 0 for s in segments), default=0)
        for where, key in (("", "peak_memory_mb"), (" on the GPU", "peak_gpu_memory_mb"))
    }
    return ", ".join(f"{peak:,.0f} MB{where}" for where, peak in peaks.items() if peak) or "-"


def _energy(runs: Iterable[Record]) -> str:
    joules = [s.get("energy_j") for r in runs for s in r.provenance.get("segments", [])]
    return f"{sum(j for j in joules if j) / 3.6e6:.3f} kWh" if any(joules) else "-"


def _cost(runs: Sequence[Record]) -> list[tuple[str, str]]:
    """What the runs took together."""
    if not runs:
        return []
    spent = [record.hours for record in runs]
    whole = [h for h, r in zip(spent, runs, strict=True) if r.status == "finished" and h]
    machines = {_machine(s) for r in runs for s in r.provenance.get("segments", [])}
    ended, energy = Counter(r.status for r in runs), _energy(runs)
    return [
        ("runs", ", ".join(f"{n} {s}" for s in records.STATUSES if (n := ended[s]))),
        ("time", f"{sum(spent):.1f} h together"),
        *([("a finished run", f"{sum(whole) / len(whole):.1f} h on average")] if whole else []),
        ("machine", "; ".join(sorted(machines)) or "unknown"),
        ("peak memory", _memory(runs)),
        ("energy", "not told by the platform" if energy == "-" else energy),
    ]


def _commands(study: Study, verdicts: Sequence[Verdict]) -> list[tuple[str, str]]:
    """How to check what stands here, and to go on."""
    spec = study.spec
    said = []
    if study.runs:
        folder = f"results/{spec.path.parent.name}/{spec.path.stem}"
        said += [
            ("reproduce check", "judges all stored records again"),
            (f"reproduce verify {folder}/*.json", "derives again what a record's data give"),
        ]
    for verdict in report.open_ones(verdicts)[:COMMANDS]:
        claim, runs = verdict.claim, plural(report.runs_to_go(verdict), "run")
        words = f"towards a verdict on {claim.setting} {claim.name}, {verdict.protocol}: {runs}"
        said.append((report.command(verdict), words))
    if not verdicts:
        said.append((f"reproduce {spec.name}", "trains and judges; --budget 5m to try it first"))
    return said
