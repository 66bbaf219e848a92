"""Reproductions as data: what a YAML file in `reproductions/` says, checked and merged.

Nothing here imports torch, so that `reproduce list` and `show` answer at once.
"""

import copy
import difflib
import hashlib
import json
import math
import re
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

PACKAGE = Path(__file__).resolve().parents[1]
KEYS = {
    "paper", "claims", "seeds", "settings", "default_setting", "protocols", "model", "data",
    "trainer", "matmul_precision", "deviations", "smoke", "metrics",
    "gate", "needs", "figures", "orders",
}  # fmt: skip
JUDGED = (
    "metric", "statistic", "select", "members", "runs", "spread_over", "raw", "better", "margin",
    "reason", "where", "row", "evidence",
)  # fmt: skip
CLAIM_KEYS = ("name", "reported", *JUDGED)
ORDER_KEYS = ("name", "reported", "setting", "over")
FIGURE_KEYS = ("title", "settings", "x", "y", "zero", "one")
CURVES_KEYS = ("title", "settings", "curve", "x", "epoch")
DEVIATION_KEYS = ("name", "what", "why", "ablation")

KINDS = {
    "paper": dict, "claims": list, "settings": dict, "protocols": dict, "model": dict,
    "data": dict, "trainer": dict, "deviations": list, "smoke": dict, "metrics": dict,
    "gate": dict, "needs": dict, "figures": list, "orders": list,
}  # fmt: skip
NAMES = {dict: "mapping", list: "list"}
LAYER = ("model", "data", "trainer", "matmul_precision")  # what `Spec.merged` puts together
LARGEST_SEED = 2**32 - 1  # NumPy's
MOST_SEEDS = 100_000
LARGEST = 1e60  # of a number: its fourth power is one, too
RAW_WITHIN = 0.05  # of a claim's value: how far the authors' own runs may lie from it
CHOICES = {
    "better": ("lower", "higher"),
    "statistic": ("mean", "median", "best", "ensemble"),
    "select": ("last", "best_on_val", "best_on_test"),
    "spread_over": ("seeds", "label subsets", "policies", "splits", "episodes", "not stated"),
    "evidence": ("text", "figure", "code", "secondary", "recalled"),
}


class UserError(Exception):
    """Something that the user can mend: shown as its message alone, exit status 2."""

    exit_status = 2


class Seed(NamedTuple):
    """`data` chooses the data (label subset), `model` everything else; written 3, or 3:7."""

    data: int
    model: int

    def __str__(self) -> str:
        return str(self.data) if self.data == self.model else f"{self.data}:{self.model}"


@dataclass(frozen=True)
class Claim:
    """One number of one table, and how it will be judged; fixed before the first run.

    Attributes:
        value, spread: as printed; no spread is None.
        spread_over: what the printed ± is a standard deviation over: "seeds", "label subsets" and
            "policies" are independent trainings; "splits" (of one sample set) and "episodes" (of
            one policy) are parts of one evaluation and say nothing about another training.
        runs: independent trainings behind the value; None if the paper does not say.
        raw: the value of each of those trainings, where the authors gave them.
        statistic: of the trainings: mean, median, best, or ensemble (of `members` models).
        select: which epoch of a training: last, best_on_val, best_on_test.
        margin: within this of the paper's value we call it equal; `reason` says why this much.
        id, where, row: its entry in the catalogue of claims, and its place in the paper.
        evidence: how the number was read: "text", "figure", "code", "secondary" or "recalled".
    """

    name: str
    metric: str
    setting: str
    value: float
    spread: float | None
    margin: float
    better: str = "lower"
    statistic: str = "mean"
    select: str = "last"
    members: int = 1
    runs: int | None = None
    spread_over: str = "not stated"
    raw: tuple[float, ...] = ()
    reason: str = ""
    id: str = ""
    where: str = ""
    row: str = ""
    evidence: str = "text"

    @property
    def band(self) -> tuple[float, float]:
        return self.value - self.margin, self.value + self.margin


@dataclass(frozen=True)
class Order:
    """That one setting does better than another: what a paper's curves show without a number.

    Attributes:
        setting: what does better.
        over: than which setting, by the same protocol.
        better: whether "lower" or "higher" numbers of the metric are.
        statistic: of each setting's trainings: mean or median.
        select, runs, id, where, row, evidence: as a claim's; of the row that states the order.
    """

    name: str
    metric: str
    setting: str
    over: str
    better: str
    statistic: str
    select: str
    runs: int | None
    id: str
    where: str
    row: str
    evidence: str


@dataclass(frozen=True)
class Watched:
    """A metric of a setting that no claim is about, but an order; the fields are a claim's."""

    name: str
    metric: str
    setting: str
    better: str


@dataclass(frozen=True)
class Deviation:
    """A departure from the paper.

    Attributes:
        name: of the departure; "" if the file gives only a sentence.
        what: the sentence that stands beside verdicts.
        ablation: the setting or protocol that undoes it, so that its effect can be measured.
    """

    name: str
    what: str
    why: str = ""
    ablation: str = ""


@dataclass(frozen=True)
class Figure:
    """A metric over a number that the settings' names have, one line for each of another part.

    Attributes:
        settings: their names, with {x} for the number and, if there are several lines, {line}.
        x: what the number is.
        y: the metric.
        metric: of the claims whose values are the paper's points.
        zero, one: values of that metric where the scale of y has 0 and 1; None: they are alike.
    """

    title: str
    settings: str
    x: str
    y: str
    metric: str
    zero: float | None = None
    one: float | None = None

    def place(self, setting: str) -> tuple[float, str] | None:
        """The number and the line of a setting; None if the figure is not about it."""
        parts = re.split(r"(\{x\}|\{line\})", self.settings)
        groups = {"{x}": r"(?P<x>-?\d+(?:\.\d+)?)", "{line}": "(?P<line>.+)"}
        pattern = "".join(groups.get(part) or re.escape(part) for part in parts)
        found = re.fullmatch(pattern, setting)
        return found and (float(found["x"]), found.groupdict().get("line", ""))

    def scaled(self, value: float) -> float:
        """A value of the claims' metric on the scale of y."""
        return value if self.zero is None else (value - self.zero) / (self.one - self.zero)


@dataclass(frozen=True)
class Curves:
    """A metric in the course of training, a line for each setting: the median of its runs, between
    their quartiles.

    Attributes:
        curve: the metric, of each epoch.
        x: what the axis counts; an epoch has `epoch` of these.
    """

    title: str
    curve: str
    settings: tuple[str, ...]
    x: str = "epoch"
    epoch: int = 1


@dataclass(frozen=True)
class Spec:
    """One reproduction: a model, its data and trainer, and the claims they are measured against."""

    name: str
    path: Path
    summary: str
    paper: dict[str, Any]
    claims: tuple[Claim, ...]
    seeds: tuple[Seed, ...]
    settings: dict[str, dict]
    default_setting: str
    protocols: dict[str, dict]
    config: dict[str, Any]
    deviations: tuple[str, ...] = ()  # what the ledger says, in its words
    ledger: tuple[Deviation, ...] = ()
    smoke: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)  # the class behind each, by class_path
    gate: dict[str, Any] = field(default_factory=dict)  # seeds, and the changes of each protocol
    needs: dict[str, str] = field(default_factory=dict)  # data's argument -> a reproduction
    figures: tuple[Figure, ...] = ()
    curves: tuple[Curves, ...] = ()
    orders: tuple[Order, ...] = ()

    @property
    def default_protocol(self) -> str:
        return next(iter(self.protocols))

    @property
    def judged(self) -> tuple[Claim | Order, ...]:
        """What there are verdicts on."""
        return *self.claims, *self.orders

    @property
    def judged_metrics(self) -> list[str]:
        """Each once, as they come."""
        return list(dict.fromkeys(one.metric for one in self.judged))

    def watched(self, setting: str) -> list[Claim | Watched]:
        """What is told of such a run while it trains: each metric once, by its first claim."""
        there = [claim for claim in self.claims if claim.setting == setting]
        there += [
            Watched(order.metric, order.metric, setting, order.better)
            for order in self.orders
            if setting in (order.setting, order.over)
        ]
        return list(reversed({one.metric: one for one in reversed(there)}.values()))

    def departures(self, setting: str, protocol: str) -> tuple[str, ...]:
        """The deviations of such a run: all but those that it undoes."""
        return tuple(d.what for d in self.ledger if d.ablation not in (setting, protocol))

    def merged(
        self, setting: str, protocol: str, smoke: bool = False, overrides: dict | None = None
    ) -> dict[str, Any]:
        """A run's configuration; later layers win: file, setting, protocol, smoke, user's."""
        layers = [self.settings[setting], self.protocols[protocol], self.smoke if smoke else {}]
        config = self.config
        for layer in [*layers, overrides or {}]:
            config = merge(config, layer)
        return config


def merge(base: dict, extra: dict) -> dict:
    """`extra` over `base`, mappings recursively; neither is changed."""
    merged = copy.deepcopy(base)
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves with their dotted names as on the command line, where init_args are left out."""
    for key, value in tree.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, dict):
            yield from flatten(value, name)
        else:
            yield name, value


def digest(value: Any) -> str:
    """SHA-256 of a JSON-like value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def nearest(word: str, known: Iterable[str]) -> str:
    """' Did you mean X?' or '', for an error message."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f" Did you mean {close[0]}?" if close else ""


def shipped(folder: str) -> Path:
    """A folder of the project: beside the package in a checkout, inside it in a wheel."""
    beside = PACKAGE.parent / folder
    return beside if (PACKAGE.parent / "pyproject.toml").is_file() else PACKAGE / folder


def catalogue() -> dict[str, Path]:
    """Names of all reproductions and their files."""
    root = shipped("reproductions")
    return {f"{p.parent.name}_{p.stem}": p for p in sorted(root.glob("*/*.yaml"))}


def find(name: str) -> Spec:
    """The reproduction of that name, or in that YAML file.

    Raises:
        UserError: no such name or file; the file is not a reproduction.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise UserError(
                f"There is no file {name}. Give the path of a reproduction's YAML file."
            )
        return load(path.resolve(), f"{path.resolve().parent.name}_{path.stem}")
    known = catalogue()
    if name not in known:
        raise UserError(
            f"There is no reproduction {name!r}.{nearest(name, known)} "
            "`reproduce list` shows all; a path to a YAML file of your own works too."
        )
    return load(known[name], name)


def load(path: Path, name: str) -> Spec:
    try:
        text = path.read_text(encoding="utf-8")
        raw = yaml.safe_load(text)
        if not isinstance(raw, dict):
            raise UserError(f"{path} is not a mapping of {', '.join(sorted(KEYS))}.")
        _plain(path, "", raw)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    for key in raw:
        if key not in KEYS:
            raise UserError(f"{path} has an unknown key {key!r}.{nearest(key, KEYS)}")
    for key in (
        "model",
        "data",
        "trainer",
        *(() if raw.get("orders") or raw.get("figures") else ("claims",)),
    ):
        if not raw.get(key):
            raise UserError(f"{path} lacks the key {key!r}. A reproduction needs it.")
    for key, kind in KINDS.items():
        if raw.get(key) is not None and not isinstance(raw[key], kind):
            raise UserError(f"{path}: {key} is {raw[key]!r}; it must be a {NAMES[kind]}.")
    for key in ("model", "data"):
        if "class_path" not in raw[key]:
            raise UserError(f"{path}: {key} lacks a class_path, the class to build.")
        if not isinstance(given := raw[key]["class_path"], str):
            raise UserError(f"{path}: {key}.class_path is {given!r}; it must be a text.")
    _layer(path, "", {key: raw[key] for key in ("model", "data", "trainer")})
    settings = _layers(path, "settings", raw.get("settings") or {"all": {}})
    protocols = _layers(path, "protocols", raw.get("protocols") or {"paper": {}})
    default = raw.get("default_setting", next(iter(settings)))
    if not isinstance(default, str) or default not in settings:
        raise UserError(f"{path}: default_setting {default!r} is none of {', '.join(settings)}.")
    ledger = _ledger(path, raw.get("deviations") or [], {*settings, *protocols})
    ablations = {deviation.ablation for deviation in ledger}
    columns = {k: v for k, v in settings.items() if k not in ablations}
    given = raw.get("claims") or []
    claims = [c for entry in given for c in _claims(path, entry, settings, columns)]
    orders = [_order(path, entry, settings) for entry in raw.get("orders") or []]
    figures = [_figure(path, entry, settings) for entry in raw.get("figures") or []]
    curves = [figure for figure in figures if isinstance(figure, Curves)]
    _covered(path, claims, orders, curves, columns)
    seeds = 1 if raw.get("seeds") is None else raw["seeds"]
    config = {key: raw[key] for key in ("model", "data", "trainer")}
    config["matmul_precision"] = raw.get("matmul_precision", "highest")
    return Spec(
        name=name,
        path=path,
        summary=text.splitlines()[0].lstrip("# ") if text.startswith("#") else "",
        paper=_paper(path, raw.get("paper") or {}),
        claims=tuple(claims),
        seeds=tuple(parse_seeds(str(seeds), f"{path}: seeds:")),
        settings=settings,
        default_setting=default,
        protocols=protocols,
        config=config,
        deviations=tuple(deviation.what for deviation in ledger),
        ledger=ledger,
        smoke=_layer(path, "smoke", raw.get("smoke") or {}),
        metrics=raw.get("metrics") or {},
        gate=_gate(path, raw.get("gate") or {}, protocols),
        needs=_needs(path, raw.get("needs") or {}),
        figures=tuple(figure for figure in figures if isinstance(figure, Figure)),
        curves=tuple(curves),
        orders=tuple(orders),
    )


def _plain(path: Path, name: str, value: Any) -> None:
    """Whatever a file says can go into a record: text, numbers, true, false, null; finite where
    it is no claim's, which has a sentence of its own."""
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                raise UserError(f"{path}: {name or 'it'} has the key {key}, no text. Quote it.")
            _plain(path, f"{name}.{key}".lstrip("."), each)
    elif isinstance(value, list):
        for i, each in enumerate(value):
            _plain(path, f"{name}[{i}]", each)
    elif not isinstance(value, str | int | float | None):
        kind = type(value).__name__
        raise UserError(
            f"{path}: {name}: {value} is a {kind}, neither text nor number. Put it in quotes."
        )
    elif isinstance(value, float) and not math.isfinite(value) and not name.startswith("claims"):
        raise UserError(f"{path}: {name} is {value}; it must be a finite number.")


def _paper(path: Path, paper: dict[str, Any]) -> dict[str, Any]:
    """What is said of the paper; a list of authors becomes one text."""
    for key, value in paper.items():
        fine = isinstance(value, str | int | float) and not isinstance(value, bool)
        if not fine and not (isinstance(value, list) and all(isinstance(x, str) for x in value)):
            raise UserError(
                f"{path}: paper.{key} is {value!r}; it must be a text, a number or a list of texts."
            )
    return {k: ", ".join(v) if isinstance(v, list) else v for k, v in paper.items()}


def _layers(path: Path, key: str, named: dict[str, Any]) -> dict[str, dict]:
    """The settings or protocols; their names become parts of files' names."""
    for name in named:
        if not name or {"/", "\0"} & set(name):
            raise UserError(f"{path}: {key} has the name {name!r}. Give one without /.")
    return {name: _layer(path, f"{key}.{name}", changes) for name, changes in named.items()}


def _layer(path: Path, name: str, changes: Any) -> dict[str, Any]:
    """What a setting, a protocol, the smoke run or a gate's protocol changes."""
    if changes is None:
        return {}
    if not isinstance(changes, dict):
        raise UserError(f"{path}: {name} is {changes!r}; write a mapping of what it changes.")
    for key, value in changes.items():
        if key not in LAYER:
            raise UserError(
                f"{path}: {name} has the unknown key {key!r}.{nearest(key, LAYER)} "
                f"It may change {', '.join(LAYER)}."
            )
        if key == "matmul_precision":
            continue
        whole = f"{name}.{key}".lstrip(".")
        if not isinstance(value, dict):
            raise UserError(f"{path}: {whole} is {value!r}; it must be a mapping.")
        if not isinstance(given := value.get("init_args"), dict | None):
            raise UserError(f"{path}: {whole}.init_args is {given!r}; it must be a mapping.")
    return changes


def _gate(path: Path, gate: dict, protocols: dict) -> dict[str, Any]:
    if not gate:
        return {}
    if gate.keys() != {"seeds", "protocols"} or not isinstance(gate["protocols"], dict):
        raise UserError(f"{path}: gate is {gate!r}; it has seeds, and changes by protocol.")
    parse_seeds(str(gate["seeds"]), f"{path}: gate.seeds:")
    for protocol in gate["protocols"]:
        if protocol not in protocols:
            hint = nearest(protocol, protocols)
            raise UserError(f"{path}: gate names the unknown protocol {protocol!r}.{hint}")
    return gate | {"protocols": _layers(path, "gate.protocols", gate["protocols"])}


def _needs(path: Path, needs: dict) -> dict[str, str]:
    for argument, name in needs.items():
        if not isinstance(name, str) or not name:
            raise UserError(
                f"{path}: needs.{argument} is {name!r}; give the name of a reproduction, whose run "
                "hands on what data's argument of that name shall be."
            )
    return needs


def _curves(said: str, entry: dict, settings: Iterable[str]) -> Curves:
    for key in entry:
        if key not in CURVES_KEYS:
            raise UserError(f"{said} has the unknown key {key!r}.{nearest(key, CURVES_KEYS)}")
    names = entry.get("settings")
    if not isinstance(names, list) or not names:
        raise UserError(f"{said} has settings: {names!r}. Write a list of settings.")
    for key in ("title", "curve", "x"):
        value = entry.get(key, "epoch" if key == "x" else None)
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{said} has {key}: {value!r}, which is no text.")
    if not (_number(entry.get("epoch", 1), whole=True) > 0):
        raise UserError(f"{said} has epoch: {entry['epoch']!r}; write a whole number above 0.")
    for name in names:
        if name not in settings:
            raise UserError(f"{said} names no setting: {name!r}.{nearest(str(name), settings)}")
    return Curves(**entry | {"settings": tuple(names)})


def _figure(path: Path, entry: Any, settings: Iterable[str]) -> Figure | Curves:
    if not isinstance(entry, dict):
        raise UserError(f"{path}: the figure {entry!r} is no mapping of {', '.join(FIGURE_KEYS)}.")
    said = f"{path}: the figure {entry.get('title', '?')!r}"
    if "curve" in entry:
        return _curves(said, entry, settings)
    for key, value in entry.items():
        if key not in FIGURE_KEYS:
            raise UserError(f"{said} has the unknown key {key!r}.{nearest(key, FIGURE_KEYS)}")
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{said} has {key}: {value!r}, which is no text.")
    for key in ("title", "settings", "x", "y"):
        if key not in entry:
            raise UserError(f"{said} lacks {key!r}. A figure has a title, settings, x and y.")
    pattern = entry["settings"]
    if pattern.count("{x}") != 1 or pattern.count("{line}") > 1:
        raise UserError(
            f"{said} has settings: {pattern!r}. Write the settings' names with {{x}} in the place "
            "of a number, and {line} in that of a line's name if there are several."
        )
    if ("zero" in entry) != ("one" in entry):
        raise UserError(f"{said} has only one of zero and one. A scale needs both, or neither.")
    metric, ends = entry["y"], {}
    if "zero" in entry:
        from lit_gen.harness import claims  # which needs this module

        for key in ("zero", "one"):
            paper, _, id = entry[key].rpartition("/")
            found = claims.find(paper or path.parent.name, id, path)
            if found.value is None:
                raise UserError(f"{said} has {key}: {id}, which has no number in the catalogue.")
            ends[key], metric = found.value, found.metric
        if ends["zero"] == ends["one"]:
            raise UserError(f"{said} has a zero and a one that are both {ends['one']:g}.")
    figure = Figure(**entry | ends, metric=metric)
    if not any(figure.place(setting) for setting in settings):
        raise UserError(
            f"{said} has settings: {pattern!r}, but no setting is called like that "
            f"(there is {', '.join(settings)})."
        )
    return figure


def _ledger(path: Path, entries: list, known: set[str]) -> tuple[Deviation, ...]:
    """Each a sentence, or a mapping of DEVIATION_KEYS."""
    ledger: list[Deviation] = []
    for entry in entries:
        if isinstance(entry, str):
            ledger.append(Deviation("", entry))
            continue
        if not isinstance(entry, dict):
            raise UserError(f"{path}: the deviation {entry!r} is neither a sentence nor a mapping.")
        said = f"{path}: the deviation {entry.get('name', '?')!r}"
        for key, value in entry.items():
            if key not in DEVIATION_KEYS:
                hint = nearest(str(key), DEVIATION_KEYS)
                raise UserError(f"{said} has the unknown key {key!r}.{hint}")
            if not isinstance(value, str) or not value.strip():
                raise UserError(f"{said} has {key}: {value!r}, which is no text.")
        for key in ("name", "what", "why"):
            if key not in entry:
                raise UserError(f"{said} lacks {key!r}. A departure has a name, what and why.")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", entry["name"]):
            raise UserError(f"{said}: write its name in small letters and _, as in pixel_scale.")
        if entry["name"] in {deviation.name for deviation in ledger}:
            raise UserError(f"{said} is there twice. Give each departure a name of its own.")
        if (ablation := entry.get("ablation")) and ablation not in known:
            hint = nearest(ablation, known)
            raise UserError(f"{said} has no setting or protocol {ablation!r} to undo it.{hint}")
        ledger.append(Deviation(**entry))
    return tuple(ledger)


def _order(path: Path, entry: Any, settings: Iterable[str]) -> Order:
    from lit_gen.harness import claims  # which needs this module

    if not isinstance(entry, dict):
        raise UserError(f"{path}: the order {entry!r} is no mapping of {', '.join(ORDER_KEYS)}.")
    said = f"{path}: the order {entry.get('name') or entry.get('reported', '?')!r}"
    for key, value in entry.items():
        if key not in ORDER_KEYS:
            raise UserError(f"{said} has the unknown key {key!r}.{nearest(str(key), ORDER_KEYS)}")
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{said} has {key}: {value!r}, which is no text.")
    for key in ORDER_KEYS[1:]:
        if key not in entry:
            raise UserError(f"{said} lacks {key!r}. It says which setting is better than which.")
    for key in ("setting", "over"):
        if entry[key] not in settings:
            hint = nearest(entry[key], settings)
            raise UserError(f"{said} names no setting: {entry[key]!r}.{hint}")
    if entry["setting"] == entry["over"]:
        raise UserError(f"{said} holds {entry['over']} against itself. Name two settings.")
    paper, _, id = entry["reported"].rpartition("/")
    row = claims.find(paper or path.parent.name, id, path)
    if not row.order:
        raise UserError(f"{said} has reported: {id}, which states no order in the catalogue.")
    if row.statistic not in ("mean", "median"):
        raise UserError(f"{said} has reported: {id}, whose statistic {row.statistic} has no order.")
    return Order(
        name=entry.get("name", f"above_{entry['over']}"), setting=entry["setting"],
        over=entry["over"], metric=row.metric, better=row.better, statistic=row.statistic,
        select=row.select, runs=row.runs, id=row.id, where=row.where, row=row.row,
        evidence=row.evidence,
    )  # fmt: skip


def _covered(
    path: Path,
    claims: list[Claim],
    orders: list[Order],
    curves: list[Curves],
    columns: Iterable[str],
) -> None:
    """Each column of the table has claims, or a place in an order or among a figure's curves; and
    each claim and order has a name of its own."""
    judged = {c.setting for c in claims} | {s for o in orders for s in (o.setting, o.over)}
    judged |= {s for figure in curves for s in figure.settings}
    if missing := [name for name in columns if name not in judged]:
        raise UserError(
            f"{path}: no claim is about {', '.join(missing)}, so nothing can be said of its runs. "
            "Add a claim, or name the setting as the ablation of a deviation."
        )
    named = [(c.setting, c.name) for c in claims] + [(o.setting, o.name) for o in orders]
    for setting, name in named:
        if named.count((setting, name)) > 1:
            raise UserError(f"{path}: two claims about {setting} are called {name!r}; rename one.")


def _claims(path: Path, entry: dict, settings: dict, columns: dict[str, dict]) -> list[Claim]:
    """One claim for each setting that `reported` names; if it names none, for each column."""
    if not isinstance(entry, dict):
        raise UserError(f"{path}: the claim {entry!r} is no mapping of {', '.join(CLAIM_KEYS)}.")
    for key in entry:
        if key not in CLAIM_KEYS:
            hint = nearest(str(key), CLAIM_KEYS)
            raise UserError(f"{path}: a claim has the unknown key {key!r}.{hint}")
    reported = entry.get("reported")
    said = f"{path}: the claim {entry.get('name') or entry.get('metric') or reported!r}"
    if reported is None:
        raise UserError(f"{said} lacks 'reported', the paper's number or its id in claims/.")
    if isinstance(reported, str):
        reported = {name: _filled(said, reported, name, columns[name]) for name in columns}
    elif not isinstance(reported, dict):
        reported = dict.fromkeys(columns, reported)
    claims = []
    for setting, number in reported.items():
        if setting not in settings:
            raise UserError(f"{said} names no setting: {setting!r}.{nearest(setting, settings)}")
        if isinstance(number, str) and not _is_number(number):
            claims.append(_catalogued(path, said, entry, setting, number))
        else:
            claims.append(_inline(said, entry, setting, number))
    return claims


def _is_number(text: str) -> bool:
    """Words such as 1e-3, which YAML takes for text, are faulty numbers and no ids."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _filled(said: str, pattern: str, setting: str, changes: dict) -> str:
    """'mnist.{labels}.single' -> 'mnist.20.single', where the setting has labels: 20."""
    known = {"setting": setting} | {k.rpartition(".")[2]: v for k, v in flatten(changes)}

    def value(match: re.Match) -> str:
        if match[1] not in known:
            raise UserError(
                f"{said} has reported: {pattern!r}, but {setting} sets no {match[1]!r} "
                f"(it has {', '.join(known)}). Write an id for each setting instead."
            )
        return str(known[match[1]])

    return re.sub(r"\{(\w+)\}", value, pattern)


def _catalogued(path: Path, said: str, entry: dict, setting: str, id: str) -> Claim:
    from lit_gen.harness import claims  # which needs this module

    paper, _, id = id.rpartition("/")
    claim = claims.find(paper or path.parent.name, id, path).claim(setting, entry.get("name"))
    for key in JUDGED:
        ours, theirs = entry.get(key), getattr(claim, key)
        if key in entry and (tuple(ours) if isinstance(ours, list) else ours) != theirs:
            raise UserError(
                f"{said} has {key}: {ours!r}, but the catalogue has {theirs!r} for {id}. "
                "Take it out here, or give numbers of your own instead of the id."
            )
    return claim


def _inline(said: str, entry: dict, setting: str, number: Any) -> Claim:
    for key in ("metric", "margin"):
        if key not in entry:
            raise UserError(
                f"{said} lacks {key!r}; without it no verdict can be given. Add it before the "
                "first run."
            )
    if isinstance(number, list) and len(number) not in (1, 2):
        raise UserError(f"{said} has reported: {number!r} for {setting}; write [value, spread].")
    value, spread = (*number, None)[:2] if isinstance(number, list) else (number, None)
    fields = {k: v for k, v in entry.items() if k != "reported"}
    fields = checked(f"{said} ({setting})", fields | {"value": value, "spread": spread})
    agreeing(f"{said} ({setting})", fields)
    return Claim(**{"name": entry["metric"]} | fields, setting=setting)


def checked(said: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a claim, with `margin` a number and `raw` a tuple.

    Raises:
        UserError: one of them is not what it must be; the message starts with `said`.
    """

    def wrong(what: str, must: str) -> UserError:
        return UserError(
            f"{said} has {what}: {fields[what]!r}; {must}. Without it no verdict can be given."
        )

    fields = dict(fields)
    for key, allowed in CHOICES.items():
        if key in fields and fields[key] not in allowed:
            hint = nearest(str(fields[key]), allowed)
            raise UserError(
                f"{said} has {key}: {fields[key]!r}. It is one of {', '.join(allowed)}.{hint}"
            )
    for key in ("name", "metric", "reason", "where", "row"):
        if key in fields and (not isinstance(fields[key], str) or not fields[key].strip()):
            raise wrong(key, "it must be a text")
    for key in ("runs", "members"):
        if fields.get(key) is not None and not (_number(fields[key], whole=True) > 0):
            raise wrong(key, "it must be a whole number above 0, or null if the paper is silent")
    if fields.get("members", 1) is None:
        raise wrong("members", "it must be a whole number above 0")
    if not math.isfinite(_number(fields.get("value"))):
        raise wrong("value", f"it must be a finite number, at most {LARGEST:g}")
    if fields.get("spread") is not None and not (0 <= _number(fields["spread"]) < math.inf):
        raise wrong("spread", "it must be a finite number, 0 or more")
    if "raw" in fields:
        raw = fields["raw"]
        if not isinstance(raw, list) or not all(math.isfinite(_number(x)) for x in raw):
            raise wrong("raw", "it must be a list of finite numbers, one for each run")
        if fields.get("runs") not in (None, len(raw)):
            raise wrong("raw", f"these are {len(raw)} numbers, not {fields['runs']} runs")
        fields["raw"] = tuple(raw)
    if fields.get("margin") == "spread" and fields.get("spread"):
        fields["margin"] = fields["spread"]
    if fields.get("margin") == "raw" and len(fields.get("raw", ())) > 1:
        mean = sum(fields["raw"]) / len(fields["raw"])
        squares = sum((x - mean) ** 2 for x in fields["raw"])
        fields["margin"] = math.sqrt(squares / (len(fields["raw"]) - 1))
    if not (0 < _number(fields.get("margin")) < math.inf):
        raise wrong(
            "margin",
            "it must be a finite number above 0, or `spread` or `raw` where the paper has one",
        )
    return fields


def agreeing(said: str, fields: dict[str, Any]) -> None:
    """That the authors' own runs give their value, where a `checked` claim has both.

    Raises:
        UserError: they do not; the message starts with `said`.
    """
    raw, value, margin = fields.get("raw"), fields["value"], fields["margin"]
    if not raw:
        return
    best = max if fields.get("better") == "higher" else min
    kind = fields.get("statistic", "mean")
    kind = "mean" if kind == "ensemble" else kind
    typical = {"mean": statistics.fmean, "median": statistics.median, "best": best}[kind](raw)
    off = abs(typical - value)
    if off > RAW_WITHIN * abs(value) and off > margin / 2:
        raise UserError(
            f"{said} has value: {value}, but the {kind} of its raw is {typical:.6g}. Correct one."
        )


def _number(x: Any, whole: bool = False) -> float:
    """x, or nan if it is no number, or too large a one; True and False are none."""
    kind = int if whole else int | float
    fine = isinstance(x, kind) and not isinstance(x, bool) and abs(x) <= LARGEST
    return x if fine else math.nan


def parse_seeds(text: str, said: str = "--seeds") -> list[Seed]:
    """'1-3,7' -> seeds 1, 2, 3, 7; '2:1-10' -> data seed 2 with model seeds 1 to 10.

    Args:
        said: where the text stands, for messages.

    Raises:
        UserError: anything else, and more than MOST_SEEDS.
    """
    parts: list[tuple[range, range | None]] = []
    try:
        for part in text.replace(" ", "").split(","):
            data, colon, model = part.partition(":")
            parts.append((_range(data), _range(model) if colon else None))
    except ValueError:
        raise UserError(
            f"{said} {text!r} is not understood. Write 3, or 1-10, or 1,4,7, or 2:1-10 "
            "(label subset 2 with model seeds 1 to 10)."
        ) from None
    if any(each.stop > LARGEST_SEED + 1 for part in parts for each in part if each):
        raise UserError(f"{said} {text!r}: the largest seed is {LARGEST_SEED:,}.")
    count = sum(len(data) * (len(model) if model else 1) for data, model in parts)
    if count > MOST_SEEDS:
        raise UserError(f"{said} {text!r} are {count:,} seeds. Give at most {MOST_SEEDS:,}.")
    seeds = (Seed(d, m) for data, model in parts for d in data for m in (model or range(d, d + 1)))
    return list(dict.fromkeys(seeds))


def _range(text: str) -> range:
    first, dash, last = text.partition("-")
    numbers = range(int(first), int(last if dash else first) + 1)
    if not numbers:
        raise ValueError(text)
    return numbers
