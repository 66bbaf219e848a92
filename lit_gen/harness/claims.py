"""The catalogue: every number that the papers report about their own methods, as a claim.

`claims/<paper>.yaml` holds tables. What the rows of a table share stands above them, and a row may
say otherwise; `claims` are the paper's own rows, `context` the ones beside them. A row's key is the
claim's id, by which a reproduction refers to it, so that each number stands once:

    tables:
      - where: Table 1
        metric: test/errors
        margin: spread                # or `raw`: the standard deviation of the authors' own runs
        ...
        claims:
          mnist_semisup.100.single: {row: "Our model, 100 labels", value: 93, spread: 6.5}

Nothing here imports torch, and no record is read: verdicts come as arguments.
"""

import functools
import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lit_gen.harness.spec import (
    CHOICES,
    LARGEST,
    Claim,
    Spec,
    UserError,
    agreeing,
    checked,
    flatten,
    nearest,
    shipped,
)

if TYPE_CHECKING:
    from rich.text import Text

    from lit_gen.harness.verdicts.verdict import Verdict

TABLE = (
    "where", "dataset", "metric", "unit", "better", "protocol", "statistic", "select", "members",
    "runs", "spread_over", "margin", "reason", "evidence", "source", "unmeasurable",
)  # fmt: skip
ROW = ("row", "value", "spread", "quartiles", "raw", "bound", "order", "note", *TABLE)
NEEDED = (
    "where", "row", "dataset", "metric", "unit", "better", "protocol", "statistic", "runs",
    "evidence",
)  # fmt: skip
BOUNDS = ("<", ">", "~")
UNVERIFIED = "unverified transcription"
FROM_MEMORY = "written down from memory, not checked against the paper"
TITLES = ("claim", "paper", "equal", "where it stands")
WORDS = ("not measured yet", "not built yet", "not measurable")


@dataclass(frozen=True)
class Entry:
    """One row of the catalogue; the fields it shares with `Claim` mean the same.

    Attributes:
        table: counts the tables of the file.
        value: None where the paper only plots a curve; then `order` says what it shows.
        quartiles: of the authors' runs, where they gave these instead of a standard deviation.
        bound: the paper says "<", ">" or "~" (about) of its value.
        source: how the number came here, where it was not read in the paper.
        unmeasurable: why nobody can measure it as things are; "" if one can.
        context: a row of somebody else's, which is no claim.
    """

    id: str
    paper: str
    table: int
    where: str
    row: str
    metric: str
    dataset: str = ""
    unit: str = ""
    better: str = "lower"
    protocol: str = ""
    value: float | None = None
    spread: float | None = None
    statistic: str = "mean"
    select: str = "last"
    members: int = 1
    runs: int | None = None
    spread_over: str = "not stated"
    margin: float | None = None
    reason: str = ""
    raw: tuple[float, ...] = ()
    quartiles: tuple[float, ...] = ()
    bound: str = ""
    order: str = ""
    evidence: str = "text"
    source: str = ""
    note: str = ""
    unmeasurable: str = ""
    context: bool = False

    def claim(self, setting: str, name: str | None = None) -> Claim:
        """As a claim of a reproduction's setting.

        Raises:
            UserError: it has no number to be held to.
        """
        if self.context or self.value is None or self.margin is None or self.bound in ("<", ">"):
            why = "is of another paper's method" if self.context else "has no number"
            if self.bound in ("<", ">"):
                why = f"is a bound ({self.bound} {self.value}), which equality cannot judge"
            raise UserError(
                f"{self.paper}: {self.id} {why}, so no verdict can be given. Choose another claim "
                f"of `reproduce claims {self.paper}`."
            )
        shared = {f.name for f in fields(Claim)} & {f.name for f in fields(self)}
        return Claim(
            name=name or self.metric, setting=setting, **{k: getattr(self, k) for k in shared}
        )


@dataclass(frozen=True)
class Paper:
    name: str
    title: str
    year: int
    arxiv: str
    entries: tuple[Entry, ...]

    @property
    def claims(self) -> tuple[Entry, ...]:
        return tuple(e for e in self.entries if not e.context)


# --- reading


def papers(reproduction: Path | None = None) -> dict[str, Path]:
    """Names of the papers in the catalogue, and their files.

    Args:
        reproduction: a file claims/ may lie beside the folder of: X/reproductions/PAPER/NAME.yaml
            has X/claims/, and what is not there is the installed catalogue's.
    """
    folders = [shipped("claims")]
    if reproduction and reproduction.parent.parent.name == "reproductions":
        folders.append(reproduction.parents[2] / "claims")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def read(paper: str, reproduction: Path | None = None) -> Paper:
    """A paper of the catalogue.

    Raises:
        UserError: there is none of that name; its file is faulty.
    """
    known = papers(reproduction)
    if paper not in known:
        raise UserError(
            f"The catalogue has no paper {paper!r}.{nearest(paper, known)} "
            f"There are: {', '.join(known)}."
        )
    return load(known[paper])


def find(paper: str, id: str, reproduction: Path | None = None) -> Entry:
    """One row of the catalogue; `reproduction` as in `papers`.

    Raises:
        UserError: there is no such paper or row.
    """
    if paper not in papers(reproduction):
        raise UserError(
            f"The claim {id!r} was looked for in claims/{paper}.yaml, which is not there."
            f"{nearest(paper, papers())} Write PAPER/ID, or a number and its margin."
        )
    by_id = {entry.id: entry for entry in read(paper, reproduction).entries}
    if id not in by_id:
        raise UserError(
            f"claims/{paper}.yaml has no claim {id!r}.{nearest(id, by_id)} "
            f"`reproduce claims {paper}` shows all."
        )
    return by_id[id]


def load(path: Path) -> Paper:
    """The catalogue's file of one paper, checked.

    Raises:
        UserError: the file says something that no claim can mean.
    """
    return _load(path, path.stat().st_mtime_ns)


@functools.cache
def _load(path: Path, changed: int) -> Paper:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("tables"), list):
        raise UserError(f"{path} is not a mapping with a paper and a list of tables.")
    _known(f"{path}", raw, ("paper", "second_paper", "tables"))
    about = raw.get("paper")
    if not isinstance(about, dict) or not {"title", "year", "arxiv"} <= about.keys():
        raise UserError(f"{path}: paper is {about!r}; it needs title, year and arxiv.")
    for key in ("paper", "second_paper"):
        _cited(f"{path}: {key}", raw.get(key) or {})
    entries: dict[str, Entry] = {}
    for i, table in enumerate(raw["tables"]):
        for entry in _entries(path, i, table):
            if entry.id in entries:
                raise UserError(f"{path} has {entry.id} in two tables. Each id stands once.")
            entries[entry.id] = entry
    return Paper(
        path.stem, about["title"], about["year"], str(about["arxiv"]), tuple(entries.values())
    )


def _cited(said: str, about: Any) -> None:
    """What is said of a paper: title, authors, year and arxiv, as far as they are there."""
    if not isinstance(about, dict):
        raise UserError(f"{said} is {about!r}; it must be a mapping of title, year and arxiv.")
    for key in ("title", "arxiv"):
        if key in about and (not isinstance(about[key], str) or not about[key].strip()):
            raise UserError(
                f"{said} has {key}: {about[key]!r}, which is no text. Put it in quotes."
            )
    if "year" in about and type(about["year"]) is not int:
        raise UserError(f"{said} has year: {about['year']!r}; write a whole number, such as 2016.")
    authors = about.get("authors", "")
    texts = authors if isinstance(authors, list) else [authors]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{said} has authors: {authors!r}; write a text, or a list of texts.")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML's safe loader, that does not let the second of two equal keys win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def _known(said: str, mapping: dict, keys: Sequence[str]) -> None:
    for key in mapping:
        if key not in keys:
            raise UserError(f"{said} has the unknown key {key!r}.{nearest(str(key), keys)}")


def _entries(path: Path, number: int, table: Any) -> Iterator[Entry]:
    said = f"{path}, table {number + 1}"
    if not isinstance(table, dict):
        raise UserError(f"{said} is {table!r}; it must be a mapping.")
    _known(said, table, (*TABLE, "claims", "context"))
    common = {k: v for k, v in table.items() if k in TABLE}
    if not table.get("claims") and not table.get("context"):
        raise UserError(f"{said} has neither claims nor context. Give it rows.")
    for kind in ("claims", "context"):
        rows = table.get(kind) or {}
        if not isinstance(rows, dict):
            raise UserError(f"{said}: {kind} is {rows!r}; write one id and row a line.")
        for id, row in rows.items():
            if not isinstance(row, dict):
                raise UserError(f"{path}: {id} is {row!r}; it must be a mapping with a value.")
            said = f"{path}: {id}"
            _known(said, row, ROW)
            own = _checked(said, common | row, kind == "context")
            yield Entry(str(id), path.stem, number, context=kind == "context", **own)


def _checked(said: str, row: dict[str, Any], context: bool) -> dict[str, Any]:
    row = {k: v for k, v in row.items() if v is not None or k == "runs"}
    for key in ("dataset", "unit", "protocol", "source", "note", "order", "unmeasurable"):
        if not isinstance(row.get(key, ""), str):
            raise UserError(f"{said} has {key}: {row[key]!r}, which is no text.")
    if row.get("bound", "<") not in BOUNDS:
        raise UserError(f"{said} has bound: {row['bound']!r}. It is one of {', '.join(BOUNDS)}.")
    if "quartiles" in row:
        given = row["quartiles"]
        if not (
            isinstance(given, list)
            and [type(x) in (int, float) and abs(x) <= LARGEST for x in given] == [True] * 2
        ):
            raise UserError(f"{said} has quartiles: {row['quartiles']!r}; write [25 %, 75 %].")
        row["quartiles"] = tuple(row["quartiles"])
    if context:
        row = {k: v for k, v in row.items() if k not in ("margin", "reason", "unmeasurable")}
    plotted = "value" not in row
    if plotted and not row.get("order"):
        raise UserError(f"{said} lacks a value. Give it, or say in `order` what the curve shows.")
    if plotted and not context and not row.get("unmeasurable"):
        raise UserError(f"{said} has no value. Say in `unmeasurable` why.")
    needed = () if context else NEEDED if plotted else (*NEEDED, "margin", "reason")
    for key in ("where", "row", "metric", *needed):
        if key not in row:
            hint = ", or null if the paper is silent" if key == "runs" else ""
            raise UserError(
                f"{said} lacks {key!r}. A claim fixes it before anything is measured: add it{hint}."
            )
    if row.get("spread") is not None and not context and "spread_over" not in row:
        kinds = ", ".join(CHOICES["spread_over"])
        raise UserError(f"{said} has a spread, but not of what: add spread_over, one of {kinds}.")
    # rows without a value or a margin are checked in all the rest
    absent = {key: 1 for key in ("value", "margin") if key not in row}
    fields = checked(said, row | absent)
    if not absent and row.get("bound") not in ("<", ">"):
        agreeing(said, fields)
    return {k: v for k, v in fields.items() if k not in absent}


# --- where each claim stands


@dataclass(frozen=True)
class Standing:
    """What became of a claim.

    Attributes:
        word: the verdict's status, or one of WORDS.
        why: a verdict's sentence, the reproduction that has no number yet, or why nobody can
            measure it.
        others: verdicts on the same claim that do not count.
    """

    word: str
    why: str = ""
    verdict: "Verdict | None" = None
    others: "tuple[Verdict, ...]" = ()

    @property
    def by(self) -> str:
        """'by release; by paper_june8: worse', where the claim was measured in several ways."""
        if not (self.verdict and self.others):
            return ""
        others = (f"by {variant(other)}: {other.status}" for other in self.others)
        return "; ".join([f"by {variant(self.verdict)}", *others])


def variant(verdict: "Verdict") -> str:
    """'release, model.lr = 0.1': which protocol, and what was changed in it."""
    changes = (f"{name} = {value}" for name, value in flatten(verdict.overrides))
    return ", ".join([verdict.protocol, *changes])


def standing(entry: Entry, specs: Iterable[Spec], verdicts: Iterable["Verdict"]) -> Standing:
    """Of several verdicts that by the default protocol and without changes counts.

    Args:
        specs: the reproductions of the paper.
        verdicts: on their claims.
    """
    ours = {s.name: s for s in specs if any(c.id == entry.id for c in s.claims)}
    said = [
        v
        for v in verdicts
        if v.claim.id == entry.id
        and v.reproduction in ours
        and (v.mean is not None or v.status != "inconclusive")
    ]

    def rank(verdict: "Verdict") -> tuple:
        return verdict.protocol != ours[verdict.reproduction].default_protocol, bool(
            verdict.overrides
        )

    if said:
        best, *others = sorted(said, key=rank)
        return Standing(best.status, best.sentence, best, tuple(others))
    if entry.unmeasurable:
        return Standing("not measurable", entry.unmeasurable)
    if ours:
        return Standing("not measured yet", next(iter(ours)))
    return Standing("not built yet")


def summary(entries: Sequence[Entry], standings: Sequence[Standing]) -> str:
    """'30 claims: 1 measured (1 inconclusive), 7 not measured yet, ...'"""
    words = Counter(s.word for s in standings)
    measured = {word: n for word, n in words.items() if word not in WORDS}
    parts = [f"{sum(measured.values())} measured"]
    if measured:
        parts[0] += f" ({', '.join(f'{n} {word}' for word, n in sorted(measured.items()))})"
    parts += [f"{words[word]} {word}" for word in WORDS if words[word]]
    text = f"{len(entries):,} claim{'s' * (len(entries) != 1)}: {', '.join(parts)}"
    if recalled := sum(e.evidence == "recalled" for e in entries):
        text += f"; {recalled} {UNVERIFIED}{'s' * (recalled > 1)}"
    return text


def as_json(papers: dict[Paper, dict[Entry, Standing]], context: bool) -> str:
    """Everything the catalogue says, and each claim's standing."""
    tree = {}
    for paper, standings in papers.items():
        rows = []
        for entry in paper.entries:
            if entry.context and not context:
                continue
            row = asdict(entry)
            if entry in standings:
                verdict = standings[entry].verdict
                row |= {"status": standings[entry].word, "why": standings[entry].why}
                row["unverified"] = entry.evidence == "recalled"
                if verdict:
                    kept = ("reproduction", "protocol", "mean", "low", "high", "n")
                    row["measured"] = {k: getattr(verdict, k) for k in kept}
                    row["others"] = [
                        {k: getattr(other, k) for k in ("status", *kept)}
                        for other in standings[entry].others
                    ]
            rows.append(row)
        tree[paper.name] = {
            "title": paper.title,
            "year": paper.year,
            "arxiv": paper.arxiv,
            "summary": dict(Counter(s.word for s in standings.values())),
            "claims": rows,
        }
    return json.dumps(tree, indent=1, ensure_ascii=False)


# --- showing


def plain(paper: Paper, standings: dict[Entry, Standing], context: bool) -> Iterator[str]:
    """One line for each claim, for other programs: paper, id, value, spread, margin, standing and
    its reasons, with tabs between them; '-' where there is none."""
    for entry in paper.entries:
        if entry.context and not context:
            continue
        stands = standings.get(entry, Standing("context"))
        numbers = ("-" if x is None else f"{x}" for x in (entry.value, entry.spread, entry.margin))
        value, spread, margin = numbers
        said = [
            stands.by,
            stands.why.removeprefix(f"{stands.word}: "),
            UNVERIFIED if entry.evidence == "recalled" else "",
        ]
        why = "; ".join(part for part in said if part) or "-"
        cells = (paper.name, entry.id, entry.bound + value, spread, margin, stands.word, why)
        yield "\t".join(" ".join(cell.split()) for cell in cells)


def listing(
    paper: Paper, standings: dict[Entry, Standing], width: int, context: bool
) -> Iterator["Text"]:
    """The lines that show a paper's claims, table by table.

    Args:
        width: of the terminal.
        context: show the rows beside the claims, too.
    """
    from rich.text import Text

    from lit_gen.harness.reports.report import STYLES

    def folded(text: str, width: int, style: str = "", indent: str = "") -> Iterator[Text]:
        lines = textwrap.wrap(text, width, subsequent_indent=indent)
        return (Text(line, style) for line in lines)

    yield Text(paper.name, "bold")
    yield from folded(f"{paper.title} ({paper.year}), arXiv:{paper.arxiv}", width)
    yield from folded(summary(paper.claims, list(standings.values())), width)
    blocks = [(block, _cells(block, standings)) for block in _blocks(paper, context)]
    widths = [max((len(row[i]) for _, rows in blocks for row in rows), default=0) for i in range(4)]
    widths = [max(pair) for pair in zip(widths, map(len, TITLES), strict=True)]
    widths[0] = max(16, min(widths[0], width - sum(widths[1:]) - 8))
    template = f"  {{:{widths[0]}}}  {{:>{widths[1]}}}  {{:>{widths[2]}}}  "
    yield Text(template.format(*TITLES) + TITLES[3], "dim")
    for block, rows in blocks:
        what, how = _heading(block[0])
        yield Text()
        yield from folded(what, width, "bold")
        yield from folded(how, width, "dim")
        for entry, (row, number, within, status) in zip(block, rows, strict=True):
            first, *more = textwrap.wrap(row, widths[0])
            line = template.format(first, number, within)
            style = "dim" if entry.context else ""
            word = standings[entry].word if entry in standings else ""
            yield Text.assemble((line, style), (status, STYLES.get(word, "dim")))
            yield from (Text(f"    {text}", style) for text in more)
        for note in _notes(block, standings):
            yield from folded(f"  {note}", width, "dim", "    ")
    if any(e.evidence == "recalled" for block, _ in blocks for e in block):
        yield Text()
        yield from folded(f"† {UNVERIFIED}: {FROM_MEMORY}", width, "dim")


def _heading(entry: Entry) -> tuple[str, str]:
    """What was measured, and how: what the rows of a block share."""
    runs = {None: "runs, their number not stated", 1: "1 run"}.get(entry.runs, f"{entry.runs} runs")
    how = f"{entry.metric}, {entry.statistic} of {runs}"
    if entry.statistic == "ensemble":
        how = f"{entry.metric}, ensembles of {entry.members}, mean of {runs}"
    if entry.spread is not None:
        over = {"not stated": "not explained"}.get(entry.spread_over, f"over {entry.spread_over}")
        how += f"; ± {over}"
    what = f"{entry.where}. {entry.dataset}: {entry.unit}, {entry.better} is better"
    return what, how


def _blocks(paper: Paper, context: bool) -> list[list[Entry]]:
    """The rows that stand below one heading; context follows the last claims of its table."""
    blocks: list[list[Entry]] = []
    for _, table in groupby(paper.entries, lambda e: e.table):
        rows = list(table)
        claims = [e for e in rows if not e.context]
        new = [list(block) for _, block in groupby(claims, _heading)]
        if context and (others := [e for e in rows if e.context]):
            new = new or [[]]
            new[-1] += others
        blocks += new
    return blocks


def _cells(block: list[Entry], standings: dict[Entry, Standing]) -> list[tuple[str, str, str, str]]:
    """Row, the paper's number, its margin, and status; numbers with the same decimals."""
    decimals = max(_decimals(e.value) for e in block)
    cells = []
    for entry in block:
        row = entry.row
        if entry.context and entry.where != block[0].where:
            row += f" ({entry.where})"
        if entry.context and entry.metric != block[0].metric:
            row += f" ({entry.metric})"
        number = "-" if entry.value is None else f"{entry.value:,.{decimals}f}"
        if entry.order:
            row += f": {entry.order}"
        if entry.note:
            row += f" ({entry.note})"
        if entry.bound:
            number = f"{entry.bound} {number}"
        if entry.spread is not None:
            number += f" ± {entry.spread:,}"
        elif entry.quartiles:
            number += " [{:,}, {:,}]".format(*entry.quartiles)
        within = "" if entry.margin is None else f"± {float(f'{entry.margin:.3g}'):,g}"
        word = standings[entry].word if entry in standings else "context"
        status = word
        if entry.evidence == "recalled":
            status += " †"
        cells.append((row, number, within, status))
    return cells


def _decimals(x: float | None) -> int:
    return len(f"{x}".rpartition(".")[2]) if isinstance(x, float) else 0


def _notes(block: list[Entry], standings: dict[Entry, Standing]) -> Iterator[str]:
    """Below a block: what the status words leave out, each said once."""
    claims = [e for e in block if e in standings]
    reasons: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in claims:
        stands = standings[entry]
        reasons.setdefault((stands.word, stands.why, stands.by), []).append(entry)
    for (word, why, by), rows in reasons.items():
        names = "; ".join(e.row for e in rows)
        if word not in WORDS:
            yield f"{names}: {why}"
            if by:
                yield f"{names}: measured {by}"
        elif word == "not measured yet":
            yield f"to measure: reproduce {why}"
        elif why:
            yield f"{word}: {why}" if len(rows) == len(claims) else f"{names}: {word}: {why}"
