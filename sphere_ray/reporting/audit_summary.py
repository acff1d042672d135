"""The part of summary.json about people's decisions: how many, and who else agrees with them."""

from collections.abc import Iterable, Sequence
from typing import TypedDict

from sphere_ray.method.audit import UNDECIDED
from sphere_ray.method.metrics import wilson_interval
from sphere_ray.records import Verdict
from sphere_ray.reward.judgements import AuditLine, Standing


class Agreement(TypedDict):
    """Of `n` judgements that people and a machine both made, those that are the same.

    `ci95` is Wilson's interval of `share` (Wilson 1927); both are null without a judgement. It
    speaks for the run only as far as the audited pairs were drawn at random.
    """

    n: int
    agreed: int
    share: float | None
    ci95: list[float] | None


class AuditSummary(TypedDict):
    """What people decided in an audit; of decisions on one item the last one counts.

    `accepted` and `rejected` count pairs, and `verdicts` solutions that people called right or
    wrong. `comments` are lines with a comment.

    `grader`: solutions with a verdict of people, and whether the grader's is the same. Who accepts
    a pair calls its chosen side right and its rejected side wrong. `scorer`: pairs of a solution
    that is held to be right and one that is held to be wrong, and whether the first has the higher
    reward. For step-level pairs, which have no verdicts, whether they were accepted. `ties` are
    pairs with equal rewards; they are not among its `n`.
    """

    accepted: int
    rejected: int
    verdicts: int
    comments: int
    grader: Agreement
    scorer: Agreement
    ties: int


def audit_summary(lines: Sequence[AuditLine]) -> AuditSummary | None:
    """Count the lines of an audit; None if there are none."""
    if not lines:
        return None
    standing = Standing(lines)
    decisions = [line.decision for line in standing.lines.values()]
    preferred = [_preferred(line, standing) for line in standing.lines.values()]
    return {
        "accepted": decisions.count("accept"),
        "rejected": decisions.count("reject"),
        "verdicts": len(standing.verdicts),
        "comments": len(standing.comments),
        "grader": agreement(_graded_alike(standing)),
        "scorer": agreement(gain > 0 for gain in preferred if gain),
        "ties": preferred.count(0.0),
    }


def agreement(same: Iterable[bool]) -> Agreement:
    """The share of judgements that are the same, with its interval."""
    found = list(same)
    n, agreed = len(found), sum(found)
    if not n:
        return {"n": 0, "agreed": 0, "share": None, "ci95": None}
    interval = list(wilson_interval(agreed, n))
    return {"n": n, "agreed": agreed, "share": agreed / n, "ci95": interval}


def _graded_alike(standing: Standing) -> list[bool]:
    """Of each solution that people judged and the grader decided, whether both say the same."""
    same: dict[str, bool] = {}
    for line in standing.lines.values():
        for side, right in zip(line.sides, standing.held(line), strict=True):
            if right is not None and side.verdict is not None and side.verdict not in UNDECIDED:
                same[side.text_id] = right == (side.verdict is Verdict.CORRECT)
    return list(same.values())


def _preferred(line: AuditLine, standing: Standing) -> float | None:
    """By how much the scorer prefers the side that people hold to be better; None if unknown."""
    if line.chain_id is not None:
        return None
    chosen, rejected = line.sides
    if chosen.reward is None or rejected.reward is None:
        return None
    gain = chosen.reward - rejected.reward
    if chosen.chain_id == rejected.chain_id:  # a step-level pair
        return gain if line.decision == "accept" else -gain
    match standing.held(line):
        case [True, False]:
            return gain
        case [False, True]:
            return -gain
    return None
