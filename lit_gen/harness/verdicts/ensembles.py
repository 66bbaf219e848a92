"""Ensembles: several models of one data subset vote."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lit_gen.harness.record import Record
from lit_gen.harness.spec import Claim, UserError
from lit_gen.harness.verdicts.statistics import LEVEL

Predictions = Callable[[Record], dict[str, np.ndarray] | None]
PERCENT = "error_percent"  # how a metric is called that counts in percent
DRAWS = 200  # of members, for the interval that shows what their choice is worth


@dataclass(frozen=True)
class Ensembles:
    """One number for each label subset whose members have all finished.

    Attributes:
        values: errors by label subset, probabilities averaged, in the claim's unit.
        details: the mean with logits averaged instead, and the interval of the mean when each
            subset's members are drawn anew among themselves: the luck that is the members'.
        lacking: which subsets are not complete, a clause each.
    """

    values: dict[str, float] = field(default_factory=dict)
    details: dict[str, float] = field(default_factory=dict)
    lacking: str = ""


def ensembles(claim: Claim, finished: Sequence[Record], predictions: Predictions) -> Ensembles:
    """The members of a subset share seed.data and differ in seed.model; of more than
    `claim.members` the lowest model seeds count, so that nobody chooses.

    Raises:
        UserError: the claim is about something that predictions do not tell.
    """
    if claim.select != "last":
        raise UserError(
            f"The ensemble claim {claim.name!r} selects by {claim.select!r}, but predictions are "
            "kept of the last epoch only. Write select: last."
        )
    if not claim.metric.endswith(("errors", PERCENT)):
        raise UserError(
            f"The ensemble claim {claim.name!r} is about {claim.metric!r}; ensembles are counted "
            "in errors. Write metric: test/errors, or test/error_percent."
        )
    subsets: dict[int, list[Record]] = {}
    for record in sorted(finished, key=lambda r: r.key):
        subsets.setdefault(record.key.data, []).append(record)
    values, by_logits, lacking, drawn = {}, [], [], []
    for subset, members in subsets.items():
        enough = len(members) >= claim.members
        kept = [p for r in members if enough and (p := predictions(r)) is not None]
        if enough and len(kept) >= claim.members:
            one = 100 / len(kept[0]["target"]) if claim.metric.endswith(PERCENT) else 1
            wrong, other = ensemble_errors(kept[: claim.members])
            values[str(subset)] = one * wrong
            by_logits += [] if other is None else [one * other]
            drawn.append(one * _drawn(kept[: claim.members]))
            continue
        words = f"{len(members)} of {claim.members} members of label subset {subset} finished"
        if enough:
            words += f", {len(kept)} kept their predictions"
        lacking.append(words)
    if len(lacking) > 2:
        lacking[1:] = [f"{len(lacking) - 1} more label subsets are incomplete"]
    details = {"logits averaged": float(np.mean(by_logits))} if by_logits else {}
    if drawn and np.isfinite(drawn).all():
        ends = np.quantile(np.mean(drawn, axis=0), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        details |= {"members drawn anew, from": float(ends[0]), "to": float(ends[1])}
    return Ensembles(values, details, "".join(f"{words}; " for words in lacking))


def _drawn(members: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    """Errors of ensembles whose members are drawn with replacement, (DRAWS,)."""
    scores = np.stack([_probabilities(m) for m in members])  # (M, N, K)
    target, random = members[0]["target"], np.random.default_rng(0)
    counts = random.multinomial(len(members), [1 / len(members)] * len(members), DRAWS)
    sure = (scores.argmax(-1) == target).all(0)  # right whoever votes, if each member is
    scores, target = scores[:, ~sure], target[~sure]
    return np.array([(np.tensordot(c, scores, 1).argmax(-1) != target).sum() for c in counts])


def ensemble_errors(members: Sequence[dict[str, np.ndarray]]) -> tuple[float, float | None]:
    """Errors of argmax_k sum_m p_m(k | x), and of argmax_k sum_m logit_m(k | x).

    The first averages probabilities, p_m = softmax(logits_m); the second is their normalised
    geometric mean, None where a member kept no logits. They differ where a confident member is
    wrong. nan if a number is not finite.

    Args:
        members: each with "target" (N,) and "logits" or "probabilities" (N, K), the same examples
            in the same order.

    Raises:
        UserError: the members saw different examples.
    """
    target = members[0]["target"]
    if any(not np.array_equal(m["target"], target) for m in members):
        raise UserError(
            "The members of an ensemble kept predictions of different examples. Were they run with "
            "the same test set, in the same order? Move the odd ones away."
        )

    def errors(scores: Sequence[np.ndarray]) -> float:
        total = np.sum(scores, axis=0, dtype=np.float64)  # (N, K)
        return float((total.argmax(-1) != target).sum()) if np.isfinite(total).all() else math.nan

    by_probability = errors([_probabilities(m) for m in members])
    if any("logits" not in m for m in members):
        return by_probability, None
    return by_probability, errors([m["logits"] for m in members])


def _probabilities(member: dict[str, np.ndarray]) -> np.ndarray:
    return member["probabilities"] if "probabilities" in member else softmax(member["logits"])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities (N, K) in float64."""
    logits = np.asarray(logits, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        return odds / odds.sum(-1, keepdims=True)
