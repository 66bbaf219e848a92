"""Reproductions as data: what a YAML file in `reproductions/` says, checked and merged.

Nothing here imports torch, so that `reproduce list` and `show` answer at once.
"""

import copy
import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

PACKAGE = Path(__file__).resolve().parents[1]
KEYS = {
    "paper", "claims", "seeds", "settings", "default_setting", "protocols", "model", "data",
    "trainer", "matmul_precision", "deviations", "smoke",
}  # fmt: skip
CLAIM_KEYS = {
    "name", "metric", "statistic", "select", "members", "runs", "spread_over", "better",
    "reported", "margin",
}  # fmt: skip

KINDS = {
    "paper": dict, "claims": list, "settings": dict, "protocols": dict, "model": dict,
    "data": dict, "trainer": dict, "deviations": list, "smoke": dict,
}  # fmt: skip
NAMES = {dict: "mapping", list: "list"}
LARGEST_SEED = 2**32 - 1  # NumPy's
CHOICES = {
    "better": ("lower", "higher"),
    "statistic": ("mean", "ensemble"),
    "select": ("last", "best_on_val", "best_on_test"),
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
    """One number of one table; DESIGN's word list says what each field means."""

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

    @property
    def band(self) -> tuple[float, float]:
        return self.value - self.margin, self.value + self.margin


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
    deviations: tuple[str, ...] = ()
    smoke: dict[str, Any] = field(default_factory=dict)

    @property
    def default_protocol(self) -> str:
        return next(iter(self.protocols))

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
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} is not a mapping of {', '.join(sorted(KEYS))}.")
    for key in raw:
        if key not in KEYS:
            raise UserError(f"{path} has an unknown key {key!r}.{nearest(key, KEYS)}")
    for key in ("model", "data", "trainer", "claims"):
        if not raw.get(key):
            raise UserError(f"{path} lacks the key {key!r}. A reproduction needs it.")
    for key, kind in KINDS.items():
        if raw.get(key) is not None and not isinstance(raw[key], kind):
            raise UserError(f"{path}: {key} is {raw[key]!r}; it must be a {NAMES[kind]}.")
    for key in ("model", "data"):
        if "class_path" not in raw[key]:
            raise UserError(f"{path}: {key} lacks a class_path, the class to build.")
    settings = raw.get("settings") or {"all": {}}
    protocols = {k: v or {} for k, v in (raw.get("protocols") or {"paper": {}}).items()}
    default = raw.get("default_setting", next(iter(settings)))
    if default not in settings:
        raise UserError(f"{path}: default_setting {default!r} is none of {', '.join(settings)}.")
    claims = [c for entry in raw["claims"] for c in _claims(path, entry, settings)]
    config = {key: raw[key] for key in ("model", "data", "trainer")}
    config["matmul_precision"] = raw.get("matmul_precision", "highest")
    return Spec(
        name=name,
        path=path,
        summary=text.splitlines()[0].lstrip("# ") if text.startswith("#") else "",
        paper=raw.get("paper", {}),
        claims=tuple(claims),
        seeds=tuple(parse_seeds(str(raw.get("seeds", "1")))),
        settings={k: v or {} for k, v in settings.items()},
        default_setting=default,
        protocols=protocols,
        config=config,
        deviations=tuple(raw.get("deviations") or ()),
        smoke=raw.get("smoke") or {},
    )


def _claims(path: Path, entry: dict, settings: dict) -> list[Claim]:
    if not isinstance(entry, dict):
        raise UserError(f"{path}: the claim {entry!r} is no mapping of {', '.join(CLAIM_KEYS)}.")
    for key in entry:
        if key not in CLAIM_KEYS:
            hint = nearest(key, CLAIM_KEYS)
            raise UserError(f"{path}: a claim has the unknown key {key!r}.{hint}")
    for key in ("metric", "reported", "margin"):
        if key not in entry:
            raise UserError(
                f"{path}: the claim {entry.get('name', '?')!r} lacks {key!r}; without it no "
                "verdict can be given. Add it before the first run."
            )
    rest = {k: v for k, v in entry.items() if k not in ("reported", "margin")}
    rest.setdefault("name", entry["metric"])
    for key, allowed in CHOICES.items():
        if rest.get(key, allowed[0]) not in allowed:
            raise UserError(
                f"{path}: the claim {rest['name']!r} has {key}: {rest[key]!r}. "
                f"It is one of {', '.join(allowed)}."
            )
    reported = entry["reported"]
    if not isinstance(reported, dict):
        reported = dict.fromkeys(settings, reported)
    claims = []
    for setting, number in reported.items():
        if setting not in settings:
            raise UserError(f"{path}: the claim {rest['name']!r} names no setting: {setting!r}.")
        value, spread = (*number, None)[:2] if isinstance(number, list) else (number, None)
        margin = spread if entry["margin"] == "spread" else entry["margin"]
        for what, number in (("reported", value), ("spread", spread), ("margin", margin)):
            if what == "spread" and number is None:
                continue
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise UserError(
                    f"{path}: the claim {rest['name']!r} has {what}: {number!r} for {setting}, "
                    "which is no number; without it no verdict can be given."
                )
        claims.append(Claim(setting=setting, value=value, spread=spread, margin=margin, **rest))
    return claims


def parse_seeds(text: str) -> list[Seed]:
    """'1-3,7' -> seeds 1, 2, 3, 7; '2:1-10' -> data seed 2 with model seeds 1 to 10.

    Raises:
        UserError: anything else.
    """
    seeds = []
    try:
        for part in text.replace(" ", "").split(","):
            data, colon, model = part.partition(":")
            if colon:
                seeds += [Seed(d, m) for d in _range(data) for m in _range(model)]
            else:
                seeds += [Seed(s, s) for s in _range(data)]
    except ValueError:
        raise UserError(
            f"--seeds {text!r} is not understood. Write 3, or 1-10, or 1,4,7, or 2:1-10 "
            "(label subset 2 with model seeds 1 to 10)."
        ) from None
    if any(max(seed) > LARGEST_SEED for seed in seeds):
        raise UserError(f"--seeds {text!r}: the largest seed is {LARGEST_SEED:,}.")
    return list(dict.fromkeys(seeds))


def _range(text: str) -> range:
    first, dash, last = text.partition("-")
    numbers = range(int(first), int(last if dash else first) + 1)
    if not numbers:
        raise ValueError(text)
    return numbers
