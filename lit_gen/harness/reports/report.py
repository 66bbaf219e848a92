"""Verdicts for people: a table on a terminal, plain lines elsewhere, results/README.md."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lit_gen.harness.record import Record
from lit_gen.harness.reports import beside
from lit_gen.harness.reports.standing import WORDS
from lit_gen.harness.spec import Claim, Order, Spec, Watched, flatten
from lit_gen.harness.verdicts.certificate import judge_all
from lit_gen.harness.verdicts.curves import Progress, progress
from lit_gen.harness.verdicts.ensembles import Predictions
from lit_gen.harness.verdicts.orders import Ranking, Side
from lit_gen.harness.verdicts.verdict import RULES, Verdict, group, percent, planned_power
from lit_gen.harness.words import STYLES, number, plural, unit, with_interval

LOST = ("crashed", "diverged")
ABOVE = {"lower": "<", "higher": ">"}  # of an order


# --- on a terminal


def table(verdicts: Sequence[Verdict | Ranking | Progress]) -> Group:
    """What a terminal shows: one row for each verdict, then reasons and deviations."""
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    rows.add_column("claim", overflow="fold")
    rows.add_column("paper", justify="right")
    rows.add_column("ours [95 %]", justify="right")
    rows.add_column("n", justify="right")
    rows.add_column("verdict")
    notes = []
    for verdict in verdicts:
        rows.add_row(
            Text(_title(verdict)),
            Text(paper(verdict.claim)),
            Text(ours(verdict)),
            Text(runs(verdict)),
            Text(_word(verdict), style=STYLES.get(verdict.status, "")),
        )
        said = Text.assemble((_title(verdict), "bold"), f" {sentence(verdict)}")
        notes.append(said.append("".join(f". {note}" for note in remarks(verdict)), style="dim"))
    notes += map(Text, _deviations(verdicts))
    return Group(rows, *notes)


def lines(verdicts: Sequence[Verdict | Ranking | Progress], name: str | None = None) -> list[str]:
    """The same without a table, for logs: nothing is wrapped or aligned; then how to go on."""
    said = [f"{_title(v)}: paper {paper(v.claim)}; {in_full(v)}" for v in verdicts]
    return said + _deviations(verdicts) + go_on(verdicts, name)


def paper(claim: Claim | Order | Watched) -> str:
    """'93 ± 6.5', or '93' if the paper gives no spread; of an order '> trpo'."""
    if isinstance(claim, Order):
        return f"{ABOVE[claim.better]} {claim.over}"
    if isinstance(claim, Watched):
        return "-"
    spread = "" if claim.spread is None else f" ± {number(claim.spread)}"
    return number(claim.value) + spread


def ours(verdict: Verdict | Ranking | Progress) -> str:
    """'93.7 [79.7, 107.6]'; of an order both sides' numbers, '0.42; 0.01'; of an unfinished run its
    last value; '-' if there is no number."""
    if isinstance(verdict, Ranking):
        return "; ".join(number(side.value) for side in verdict.sides) if any(verdict.n) else "-"
    if isinstance(verdict, Progress):
        return number(verdict.value)
    if verdict.mean is None:
        return "-"
    return with_interval(verdict.mean, verdict.low, verdict.high)


def runs(verdict: Verdict | Ranking | Progress) -> str:
    """How many independent numbers: '10'; of an order '10; 5'."""
    if isinstance(verdict, Ranking):
        return "; ".join(map(str, verdict.n))
    return str(verdict.n) if isinstance(verdict, Verdict) else "-"


def difference(verdict: Verdict | Ranking) -> str:
    """Ours minus the paper's, '+18.5 [-50.9, 87.9]', with the interval the verdict is read from;
    '-' if there is none. Of an order the one less the other, better is positive."""
    if verdict.difference is None:
        return "-"
    return "+" * (verdict.difference[0] > 0) + with_interval(*verdict.difference)


def remarks(verdict: Verdict | Ranking | Progress) -> list[str]:
    """The verdict's notes, each without its full stop."""
    return [note.rstrip(".") for note in getattr(verdict, "notes", ())]


def _title(verdict: Verdict | Ranking | Progress) -> str:
    claim = verdict.claim
    seed = f" seed {verdict.seed}" if isinstance(verdict, Progress) else ""
    return f"{claim.setting} {claim.name}{seed}"


def word(verdict: Verdict | Ranking | Progress) -> str:
    """The status; 'not measured yet' where the runs gave no number."""
    return WORDS[0] if unmeasured(verdict) else verdict.status


def unmeasured(verdict: Verdict | Ranking | Progress) -> bool:
    """Whether the runs gave no number yet; of an order, those of one of the two settings."""
    if isinstance(verdict, Ranking):
        return verdict.status == "inconclusive" and not all(verdict.n)
    return verdict.status == "inconclusive" and getattr(verdict, "mean", 0) is None


def sentence(verdict: Verdict | Ranking | Progress) -> str:
    """The verdict's sentence, which begins with `word`."""
    return f"{word(verdict)}{verdict.sentence.removeprefix(verdict.status)}"


def outlook(verdict: Verdict | Ranking) -> str:
    """'1 more seed: worse, if it goes on like this'; '' if nothing is to be added."""
    if not verdict.more:
        return ""
    if isinstance(verdict, Ranking):
        return "next: " + ", ".join(
            f"{plural(side.more, 'more seed')} of {side.setting}"
            for side in verdict.sides
            if side.more
        )
    several = verdict.claim.statistic == "ensemble"
    said = plural(verdict.more, "more label subset" if several else "more seed")
    if several:
        said += f", {plural(runs_to_go(verdict), 'run')}"
    if verdict.mean is None:  # there is nothing to go on like
        return said
    leaning = getattr(verdict, "leaning", "")
    return f"{said}: {leaning}, if it goes on like this" if leaning else f"next: {said}"


def runs_to_go(verdict: Verdict | Ranking) -> int:
    """How many runs would decide it, or at least allow it to be decided."""
    return (verdict.more or 0) * getattr(verdict.claim, "members", 1)


def _word(verdict: Verdict | Ranking | Progress) -> str:
    more = getattr(verdict, "more", None)
    return word(verdict) + (f", {more} more" if more else "")


def _deviations(verdicts: Sequence[Verdict | Ranking | Progress]) -> list[str]:
    """One line each; those that not all verdicts share say whose they are."""
    said = []
    for deviation in dict.fromkeys(d for v in verdicts for d in v.deviations):
        whose = [_title(v) for v in verdicts if deviation in v.deviations]
        prefix = f"{', '.join(whose)}: " if len(whose) < len(verdicts) else ""
        said.append(f"deviation: {prefix}{deviation}")
    return said


def go_on(verdicts: Sequence[Verdict | Ranking | Progress], name: str | None) -> list[str]:
    """At most one line: the command that would settle the cheapest open question.

    Args:
        name: what the user calls the reproduction, if it is not its name: a file's path.
    """
    return [
        f"To decide {_title(verdict)}: {command(verdict, name)}"
        for verdict in open_ones(verdicts)[:1]
    ]


def open_ones(verdicts: Iterable[Verdict | Ranking | Progress]) -> list[Verdict | Ranking]:
    """Those that more runs would decide, the fewest runs first."""
    found = [v for v in verdicts if not isinstance(v, Progress) and v.more and v.reproduction]
    return sorted(found, key=runs_to_go)


def command(verdict: Verdict | Ranking, name: str | None = None) -> str:
    """What trains the seeds that would decide it; of an order, of the first setting that lacks any,
    and of the other if it lacks the same ones."""
    settings = verdict.claim.setting
    if isinstance(verdict, Ranking):
        lacking = {side.setting: _following(side) for side in verdict.sides if side.more}
        seeds = next(iter(lacking.values()))
        settings = ",".join(setting for setting, same in lacking.items() if same == seeds)
    else:
        seeds = next_seeds(verdict)
    return " ".join(
        [
            "reproduce",
            name or verdict.reproduction,
            f"--setting {settings} --protocol {verdict.protocol}",
            f"--seeds {seeds}",
            *_flags(verdict.overrides),
        ]
    )


def next_seeds(verdict: Verdict) -> str:
    """The seeds to add: those that follow the ones that count, '4-10', or '2-8:1-10'."""
    text = _following(verdict)
    return f"{text}:1-{verdict.claim.members}" if verdict.claim.statistic == "ensemble" else text


def _following(one: Verdict | Side) -> str:
    taken = [int(seed.partition(":")[0]) for seed in one.values]
    first = max(taken, default=0) + 1
    last = first + (one.more or 0) - 1
    return f"{first}-{last}" if last > first else f"{first}"


def _flags(overrides: dict[str, Any]) -> list[str]:
    """Overrides as they are given on the command line."""
    return [
        f"--matmul-precision {value}"
        if name == "matmul_precision"
        else f"--{name} {shlex.quote(value if isinstance(value, str) else json.dumps(value))}"
        for name, value in flatten(overrides)
    ]


def show(spec: Spec, records: Sequence[Record] = ()) -> Group:
    """A reproduction before any run: what it claims, what it would train, and what that costs."""
    claims = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    seeds = len({seed.data for seed in spec.seeds})
    for head in ("claim", "paper", "equal within", "statistic", "epoch", f"power of {seeds}"):
        claims.add_column(head)
    for claim in spec.claims:
        name = f"{claim.setting} {claim.name}"
        kind = claim.statistic + f" of {claim.members}" * (claim.members > 1)
        power = planned_power(claim, seeds)
        row = (name, paper(claim), f"± {number(claim.margin)}", kind, claim.select)
        claims.add_row(*map(Text, (*row, "-" if power is None else percent(power))))
    for order in spec.orders:
        name = f"{order.setting} {order.name}"
        claims.add_row(*map(Text, (name, paper(order), "-", order.statistic, order.select, "-")))
    others = [(n, c) for n, c in spec.protocols.items() if n != spec.default_protocol]
    metrics = dict.fromkeys(f"{c.metric}, {c.better} is better" for c in spec.judged)
    spreads = dict.fromkeys(
        f"{c.name} over {c.runs or '?'} {c.spread_over}" for c in spec.claims if c.spread
    )
    said = {
        "metric": "; ".join(metrics),
        "the paper's ±": "; ".join(spreads) or "none",
        f"power of {seeds}": f"how often {seeds} seeds of a true match would be called reproduced, "
        "if they scatter as the paper's",
        "setting": ", ".join(spec.settings) + f" (default: {spec.default_setting})",
        "protocol": f"{spec.default_protocol} (default)"
        + "".join(f"; {name}, with {' '.join(_flags(changes))}" for name, changes in others),
        "seeds": ", ".join(map(str, spec.seeds)),
        "model": spec.config.get("model", {}).get("class_path", "-"),
        "data": spec.config.get("data", {}).get("class_path", "-"),
        "epochs": spec.config.get("trainer", {}).get("max_epochs", "-"),
        "cost": cost(spec, records),
        "file": str(spec.path),
    }
    notes = [f"{key}: {value}" for key, value in said.items()]
    notes += [f"deviation: {deviation}" for deviation in spec.deviations]
    head = [Text(spec.name, "bold"), Text(_citation(spec))]
    return Group(*head, claims, *map(Text, notes))


def cost(spec: Spec, records: Sequence[Record]) -> str:
    """Hours that a run, the default setting and the whole table take, by the stored runs."""
    hours, machines = [], set()
    told = [record for record in records if record.whole_hours and not record.smoke]
    for record in [r for r in told if r.status == "finished"] or told:
        hours.append(record.whole_hours)
        machines |= {machine(segment) for segment in record.provenance.get("segments", [])}
    if not hours:
        return "not measured yet; `--budget 5m` shows the time left on this machine"
    run, seeds = sum(hours) / len(hours), len(spec.seeds)
    return (
        f"{run:.1f} h a run, {run * seeds:.0f} h for the {seeds} seeds of a setting, "
        f"{run * seeds * len(spec.settings):.0f} h for all settings "
        f"({plural(len(hours), 'stored run')} on {', '.join(sorted(machines))})"
    )


def machine(segment: Mapping[str, Any]) -> str:
    """'1 CPU thread', 'cuda with 4 CPU threads'."""
    device, threads = segment.get("device") or "an unknown device", segment.get("threads")
    if not threads:
        return device
    counted = plural(threads, "CPU thread")
    return counted if device == "cpu" else f"{device} with {counted}"


# --- results/README.md


def markdown(
    records: Mapping[str, Sequence[Record]],
    specs: Mapping[str, Spec],
    predictions: Predictions | None = None,
    command: str = "reproduce keep",
) -> str:
    """results/README.md: every claim with its verdict, and every run behind it.

    The same records give the same text, in whatever order they come.

    Args:
        records: the runs of each reproduction, by its name.
        specs: the reproductions, by name.
        predictions: see `verdict.judge`.
        command: what writes the file, for its first line.
    """
    parts = [
        f"<!-- Generated by `{command}` from the records in this folder. Do not edit. -->",
        "# Results",
        "Intervals of ours are 95 % intervals of the mean over seeds (Student's t); the difference "
        "has the interval that its verdict is read from; ± is what the paper gives. "
        "*Last*, *best on val* and *best on test* are our means after the last epoch, at the epoch "
        "that is best on validation data, and at the one that is best on test data.",
    ]
    for name in sorted(records):
        parts += _section(specs[name], records[name], predictions)
    return "\n\n".join(parts) + "\n"


def _section(spec: Spec, records: Sequence[Record], predictions: Predictions | None) -> list[str]:
    from lit_gen.harness.human import score  # which needs this module

    records = sorted(records, key=lambda r: order(spec, r))
    verdicts = [v for claim in in_order(spec) for v in judge_all(spec, claim, records, predictions)]
    verdicts = score.with_people(spec, verdicts)
    ranks = [r for order in spec.orders for r in judge_all(spec, order, records, predictions)]
    told = (*verdicts, *ranks, *records)
    listed = list(dict.fromkeys(d for each in told for d in each.deviations))
    parts = [f"## {spec.name}", _citation(spec)]
    if verdicts:
        head = ["setting", "claim", "protocol", "paper", "ours", "difference", "n"]
        head += [rule.replace("_", " ") for rule in RULES] + ["verdict", "deviations"]
        parts.append(_grid(head, [_verdict_row(v, listed) for v in verdicts]))
        parts.append("\n".join(f"- {_title(v)}, {v.protocol}: {in_full(v)}" for v in verdicts))
    if ranks:
        head = ["setting", "order", "protocol", "paper", "ours", "difference", "n", "verdict"]
        parts.append(_grid([*head, "deviations"], [_ranking_row(r, listed) for r in ranks]))
        parts.append("\n".join(f"- {_title(r)}, {r.protocol}: {in_full(r)}" for r in ranks))
    seen = {v.claim for v in (*verdicts, *ranks)}
    if missing := [f"{c.setting} {c.name}" for c in spec.judged if c not in seen]:
        parts.append(f"No runs yet: {', '.join(missing)}.")
    if listed:
        parts.append("Deviations from the paper:")
        known = {d.what: f"{d.name}: {d.what} Why: {d.why}" for d in spec.ledger if d.name}
        parts.append("\n".join(f"{i}. {known.get(d, d)}" for i, d in enumerate(listed, 1)))
    if records:
        metrics = spec.judged_metrics
        head = ["setting", "protocol", "seed", "status", "epochs", *metrics]
        head += ["hours", "device", "commit", "deviations"]
        parts += ["Runs:", _grid(head, [_run_row(r, metrics, listed) for r in records])]
    if also := [f"- {words}" for words in beside.over_runs(spec, records)]:
        parts += ["Tested, over all finished runs:", "\n".join(also)]
    if going := [f"- {_title(p)}, {p.protocol}: {p.sentence}" for p in unfinished(spec, records)]:
        parts.append("\n".join(going))
    return parts


def in_order(spec: Spec) -> list[Claim]:
    """Its claims as the columns of the table come."""
    return sorted(spec.claims, key=lambda claim: list(spec.settings).index(claim.setting))


def order(spec: Spec, record: Record) -> tuple:
    """Sorts runs as the table does."""
    settings, protocols = list(spec.settings), list(spec.protocols)
    return (
        settings.index(record.setting) if record.setting in settings else len(settings),
        protocols.index(record.protocol) if record.protocol in protocols else len(protocols),
        bool(record.overrides),
        group(record),
        record.key,
        str(record.provenance),
    )


def _citation(spec: Spec) -> str:
    cited = [str(spec.paper[k]) for k in ("authors", "title", "year") if k in spec.paper]
    if "arxiv" in spec.paper:
        cited.append(f"arXiv:{spec.paper['arxiv']}")
    return ". ".join(p for p in (spec.summary, ", ".join(cited)) if p) + "."


def in_full(verdict: Verdict | Ranking | Progress) -> str:
    """Sentence, further numbers and notes, on one line."""
    details = getattr(verdict, "details", {}).items()
    said = sentence(verdict) + "".join(f"; {name}: {number(value)}" for name, value in details)
    return ". ".join([said, *remarks(verdict)])


def _verdict_row(verdict: Verdict, listed: Sequence[str]) -> list[str]:
    other = [number(verdict.alternatives.get(rule)) for rule in RULES]
    return [
        verdict.claim.setting,
        verdict.claim.name,
        verdict.protocol,
        f"{paper(verdict.claim)} {unit(verdict.claim.metric)}",
        ours(verdict),
        difference(verdict),
        str(verdict.n),
        *other,
        _emphasised(verdict),
        _footnotes(verdict.deviations, listed),
    ]


def _ranking_row(ranking: Ranking, listed: Sequence[str]) -> list[str]:
    return [
        ranking.order.setting,
        ranking.order.name,
        ranking.protocol,
        paper(ranking.order),
        f"{ours(ranking)} {unit(ranking.order.metric)}",
        difference(ranking),
        runs(ranking),
        _emphasised(ranking),
        _footnotes(ranking.deviations, listed),
    ]


def _emphasised(verdict: Verdict | Ranking) -> str:
    return f"**{word(verdict)}**" + (f", {further}" if (further := outlook(verdict)) else "")


def _run_row(record: Record, metrics: Sequence[str], listed: Sequence[str]) -> list[str]:
    segments = record.provenance.get("segments", [])
    newest = segments[-1] if segments else {}
    spent = record.hours
    return [
        record.setting,
        record.protocol,
        str(record.key),
        record.status + (" (smoke)" if record.smoke else ""),
        f"{record.epochs} of {record.max_epochs}",
        *(result(record, metric) for metric in metrics),
        f"{spent:.1f}" if spent else "-",
        str(newest.get("device") or "-"),
        commits(record),
        _footnotes(record.deviations, listed),
    ]


def commits(record: Record) -> str:
    """Of the code that each stretch ran: '01234567 + changes', 'first stretch unknown, then
    01234567', or '-'."""
    said = [
        (s.get("commit") or "unknown")[:8] + (" + changes" if s.get("dirty") else "")
        for s in record.provenance.get("segments", [])
    ]
    first, *others = dict.fromkeys(said) or ["-"]
    if not others:
        return first
    return f"first stretch {first}, then {', then '.join(others)}"


def last(record: Record, metric: str) -> float | None:
    """The final test's value; before there is one, the curve's last."""
    tested = record.result.get("metrics", {}).get(metric)
    curve = [row[metric] for row in record.curve() if metric in row]
    return tested if tested is not None else curve[-1] if curve else None


def result(record: Record, metric: str) -> str:
    """The same for a table of runs; '-' of a run that has no result and will have none."""
    return "-" if record.status in LOST else number(last(record, metric))


def unfinished(spec: Spec, records: Sequence[Record]) -> Iterable[Progress]:
    """How each run that is not finished does, in each metric."""
    for record in records:
        if record.status in ("running", "stopped") and not record.smoke:
            for one in spec.watched(record.setting):
                yield progress(one, record, records)


def _footnotes(deviations: Iterable[str], listed: Sequence[str]) -> str:
    return ", ".join(str(listed.index(d) + 1) for d in deviations)


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown."""
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells)
