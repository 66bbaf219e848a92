"""Where each claim of the catalogue stands, for a terminal, a pipe or another program."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from lit_gen.harness.claims import Entry, Paper
from lit_gen.harness.spec import Order, Spec, flatten

if TYPE_CHECKING:
    from rich.text import Text

    from lit_gen.harness.verdicts.orders import Ranking
    from lit_gen.harness.verdicts.verdict import Verdict

TITLES = ("claim", "paper", "equal", "where it stands")
WORDS = ("not measured yet", "not built yet", "not measurable")
UNVERIFIED = "unverified transcription"
FROM_MEMORY = "written down from memory, not checked against the paper"


# --- where each claim stands


@dataclass(frozen=True)
class Standing:
    """What became of a claim.

    Attributes:
        word: the verdict's status, or one of WORDS.
        why: a verdict's sentence, the reproduction that has no number yet, or why nobody can
            measure it.
        others: verdicts on the same claim that do not count.
        rankings: where orders judge it, the one of each that counts.
    """

    word: str
    why: str = ""
    verdict: "Verdict | None" = None
    others: "tuple[Verdict, ...]" = ()
    rankings: "tuple[Ranking, ...]" = ()

    @property
    def by(self) -> str:
        """'by release; by paper_june8: worse', where the claim was measured in several ways, or in
        another one than written."""
        if not self.verdict or not (self.others or self.verdict.overrides):
            return ""
        others = (f"by {variant(other)}: {other.status}" for other in self.others)
        return "; ".join([f"by {variant(self.verdict)}", *others])


def variant(verdict: "Verdict | Ranking") -> str:
    """'release, model.lr = 0.1': which protocol, and what was changed in it."""
    changes = (f"{name} = {value}" for name, value in flatten(verdict.overrides))
    return ", ".join([verdict.protocol, *changes])


def standing(
    entry: Entry, specs: Iterable[Spec], verdicts: Iterable["Verdict | Ranking"]
) -> Standing:
    """Of several verdicts that by the default protocol and without changes counts. What has no
    number, but orders, is reproduced if all of these are, and worse if one of them is.

    Args:
        specs: the reproductions of the paper.
        verdicts: on their claims and orders.
    """
    ours = {s.name: s for s in specs if any(c.id == entry.id for c in s.judged)}
    every = [
        v
        for v in verdicts
        if v.claim.id == entry.id
        and v.reproduction in ours
        and (v.mean is not None or v.status != "inconclusive")
    ]

    def rank(verdict: "Verdict | Ranking") -> tuple:
        return verdict.protocol != ours[verdict.reproduction].default_protocol, bool(
            verdict.overrides
        )

    said = [v for v in every if not isinstance(v.claim, Order)]
    first: dict[tuple[str, Order], Ranking] = {}
    for ranking in sorted((v for v in every if isinstance(v.claim, Order)), key=rank):
        first.setdefault((ranking.reproduction, ranking.claim), ranking)
    if first and not said:
        words = {ranking.status for ranking in first.values()}
        whole = len(first) == sum(o.id == entry.id for s in ours.values() for o in s.orders)
        word = "worse" if "worse" in words else "inconclusive"
        if whole and len(words) == 1:
            (word,) = words
        why = "; ".join(f"{r.order.setting} {r.order.name}: {r.sentence}" for r in first.values())
        return Standing(word, why, rankings=tuple(first.values()))
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
                if rankings := standings[entry].rankings:
                    row["orders"] = [_ranked(ranking) for ranking in rankings]
            rows.append(row)
        tree[paper.name] = {
            "title": paper.title,
            "year": paper.year,
            "arxiv": paper.arxiv,
            "summary": dict(Counter(s.word for s in standings.values())),
            "claims": rows,
        }
    return json.dumps(tree, indent=1, ensure_ascii=False)


def _ranked(ranking: "Ranking") -> dict:
    kept = ("reproduction", "protocol", "overrides", "status", "sentence", "difference")
    about = {"setting": ranking.order.setting, "over": ranking.order.over}
    return (
        about | {k: getattr(ranking, k) for k in kept} | {"sides": list(map(asdict, ranking.sides))}
    )


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

    from lit_gen.harness.words import STYLES

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
