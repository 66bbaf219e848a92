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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lit_gen.harness.spec import (
    CHOICES,
    LARGEST,
    Claim,
    UserError,
    agreeing,
    checked,
    nearest,
    shipped,
)

if TYPE_CHECKING:
    pass

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
