"""`--until decided`: seeds one by one, a look after each, and an error rate that survives them.

Whoever looks after every seed and stops at a verdict that pleases errs far more often than the 5 %
of a single look. A plan fixes in advance how many seeds there may be, and divides the 5 % over the
looks (`statistics.spent_level`). It stands in the provenance of the runs that were made for it, so
that every later verdict on them is given at the level that was left.
"""

import statistics as stdlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lit_gen.harness.record import Record
from lit_gen.harness.spec import Claim, Seed, UserError
from lit_gen.harness.verdicts.statistics import spent_level
from lit_gen.harness.verdicts.verdict import Verdict, judged
from lit_gen.harness.words import plural


@dataclass(frozen=True)
class Plan:
    """Attributes:
    first: data seeds that had finished when the plan was made; the first look is at them.
    most: data seeds at the plan's end.
    """

    first: int
    most: int

    @classmethod
    def of(cls, records: Iterable[Record], seeds: Sequence[Seed]) -> "Plan":
        """The plan that the runs of a cell follow already, or a new one.

        Args:
            records: the cell's so far.
            seeds: those to run, at most.

        Raises:
            UserError: seeds that a plan cannot be made of, or another plan than before.
        """
        records = list(records)
        done = {r.key.data for r in judged(records) if r.status == "finished"}
        most = len(done | {seed.data for seed in seeds})
        if most < 3:
            raise UserError(
                f"--until decided with {plural(most, 'seed')} leaves nothing to decide between. "
                "Give the most seeds that may be run, such as --seeds 1-10."
            )
        before = {(p["first"], p["most"]) for r in records if (p := r.provenance.get("plan"))}
        if not before:
            return cls(len(done), most)
        plan = cls(min(first for first, _ in before), max(most for _, most in before))
        if most > plan.most:
            raise UserError(
                f"These runs follow a plan of {plan.most} seeds, made before their results were "
                f"seen; {most} would break it. Leave --seeds as it was, or run further seeds "
                "without --until and read their verdict with that in mind."
            )
        return plan

    def stamp(self, record: Record) -> Record:
        return replace(record, provenance=record.provenance | {"plan": asdict(self)})

    def announce(
        self, claims: Sequence[Claim], runs: int, hours: float | None, budget_h: float | None
    ) -> list[str]:
        """What is about to happen and what it may cost, before it starts."""
        names = " and ".join(claim.name for claim in claims)
        said = [
            f"Plan: up to {plural(runs, 'more run')}, one by one, until {names} "
            f"{'is' if len(claims) == 1 else 'are'} decided; {plural(self.most, 'seed')} in all."
        ]
        looks = [n for n in range(max(2, self.first), self.most + 1)]
        levels = [spent_level(tuple(looks[: i + 1]), self.most) for i in range(len(looks))]
        said.append(
            f"Each side of each look is tested at {levels[0]:.2%} after {looks[0]} seeds to "
            f"{levels[-1]:.1%} after {self.most}: all looks together err in at most 5 % of cases."
        )
        if hours is None:
            said.append("What a run costs is not known yet: none is stored.")
        else:
            cost = f"A run takes about {_hours(hours)} by the stored ones: {_hours(hours * runs)} "
            cost += "at most"
            if budget_h is not None and hours * runs > budget_h:
                cost += f"; the budget holds about {plural(int(budget_h / hours), 'run')}"
            said.append(f"{cost}.")
        return said


def claims_of(claims: Iterable[Claim], setting: str, seeds: Sequence[Seed]) -> list[Claim]:
    """The setting's claims that these seeds can decide: an ensemble's need its members.

    Raises:
        UserError: there is none.
    """
    models = [sum(s.data == data for s in seeds) for data in {seed.data for seed in seeds}]
    fewest = min(models, default=0)
    here = [c for c in claims if c.setting == setting]
    if not here:
        raise UserError(
            f"--until decided looks at claims, and none is about {setting}: orders are judged "
            "once, when all seeds have run. Leave out --until."
        )
    chosen = [c for c in here if c.statistic != "ensemble" or fewest >= c.members]
    if not chosen:
        raise UserError(
            f"The claims of {setting} are ensembles of {here[0].members}; these "
            "seeds do not fill one. Write --seeds 1-10:1-10, label subsets and models."
        )
    return chosen


def of_claims(said: Iterable[Any], claims: Sequence[Claim]) -> list[Verdict]:
    """The verdicts on these claims, among whatever was said."""
    return [v for v in said if isinstance(v, Verdict) and v.claim in claims]


def hours_of(records: Iterable[Record]) -> float | None:
    """Median hours of a whole run, by stored ones; None without any."""
    whole = [r.whole_hours for r in records if r.whole_hours and not r.smoke]
    return stdlib.median(whole) if whole else None


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 1.5 else f"{hours:.1f} h"
