"""Whether a candidate replaces the policy: a paired, sequential test with guards.

Pure statistics over the two models' answers to the same validation problems. Arrays may have
leading axes (`...`), so that tests simulate thousands of decisions with the code that makes one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sphere_ray.config.evaluation import PromotionSettings
from sphere_ray.method.evaluate import answered_by_both
from sphere_ray.records import EvaluationRow, Verdict

LOOK_ON_BELOW = 1.65
"""While the gain is within so many standard errors of the one required, more problems are drawn.

Simulated with 400 problems, of which 35% change: with 1.3 one of three candidates that are 5 points
worse is promoted in 7% of cases, with 1.65 in 4%, and with 2.5 as often for a third more problems.
"""
RISK = 0.1
"""The chance that the lower bound of the gain lies above the truth."""
GROUP_RISK = 0.05

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
GroupsOf: TypeAlias = Callable[[EvaluationRow], Iterable[str]]


class Ruling(Enum):
    """What a look at the answers leads to."""

    PROMOTE = "promote"
    REFUSE = "refuse"
    LOOK_ON = "look on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Mean gain over problems, its standard error, and its one-sided bounds; each [...]."""

    mean: Floats
    error: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What `decide` found; shares, not points. `interval` is the two-sided 95% one of the gain."""

    ruling: Ruling
    reason: str
    n: int
    gain: float = 0.0
    error: float = 1.0
    interval: tuple[float, float] = (-1.0, 1.0)


def family_of(row: EvaluationRow) -> tuple[str, ...]:
    """The groups of a row by its family alone."""
    return () if row.family is None else (row.family,)


def score(row: EvaluationRow) -> float:
    """The share of a problem's answers, the greedy one and the samples, that is correct."""
    return fmean(verdict is Verdict.CORRECT for verdict in _verdicts(row))


def scores_of(rows: Iterable[EvaluationRow]) -> dict[str, float]:
    """The score of each problem that was answered, by problem id."""
    return {row.problem_id: score(row) for row in rows if row.error is None}


def score_changes(before: Sequence[EvaluationRow], after: Sequence[EvaluationRow]) -> Floats:
    """The change of each score [n]; the rows are of the same problems, in the same order."""
    return np.array([score(b) - score(a) for a, b in zip(before, after, strict=True)])


def looks(num_batches: int) -> list[int]:
    """How many batches each look has seen: 1, 2, 4, ..., all."""
    return [*(2**k for k in range((num_batches - 1).bit_length())), num_batches]


def gain_of(differences: Floats, *, risk: float = RISK) -> Gain:
    """The mean of [..., n] differences in [-1, 1], with error and bounds of the paired t-test.

    Each bound is on the wrong side of the truth with the chance `risk`. The mean of a single
    problem has no error to estimate: then that is infinite.
    """
    n = differences.shape[-1]
    mean: Floats = differences.mean(axis=-1)
    error = np.full_like(mean, np.inf)
    if n > 1:
        error = differences.std(axis=-1, ddof=1) / np.sqrt(n)
    reach = stats.t.ppf(1 - risk, max(n - 1, 1)) * error
    low, high = np.maximum(mean - reach, -1.0), np.minimum(mean + reach, 1.0)
    return Gain(mean=mean, error=error, low=low, high=high)


def fall_p_value(differences: Floats) -> Floats:
    """The one-sided p-value [...] that the sum of [..., n] differences is below zero.

    The normal approximation of the sign-flip test (Fisher's randomisation test for pairs), whose
    sum has the variance sum(d^2). Its continuity correction is the mean size of the differences
    that are not zero: exact where they have one size, and on the safe side elsewhere.
    """
    sizes = np.abs(differences)
    changed = np.maximum((sizes > 0).sum(axis=-1), 1)
    spread = np.sqrt((sizes**2).sum(axis=-1))
    above = differences.sum(axis=-1) + sizes.sum(axis=-1) / changed
    return np.where(spread > 0, stats.norm.cdf(above / np.where(spread > 0, spread, 1.0)), 1.0)


def holm(p_values: Floats) -> Floats:
    """Adjust [..., m] p-values for m tests (Holm 1979, Scand. J. Statist. 6:65-70)."""
    tests = p_values.shape[-1]
    order = np.argsort(p_values, axis=-1)
    steps = np.take_along_axis(p_values, order, axis=-1) * (tests - np.arange(tests))
    steps = np.minimum(np.maximum.accumulate(steps, axis=-1), 1.0)
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, steps, axis=-1)
    return adjusted


def group_falls(differences: Floats, groups: Mapping[str, Flags]) -> Floats:
    """Holm's p-values [..., m] that each of m groups (flags [n]) fell; differences are [..., n]."""
    if not groups:
        return np.ones((*differences.shape[:-1], 0))
    found = [fall_p_value(differences[..., members]) for members in groups.values()]
    return holm(np.stack(found, axis=-1))


def rule(
    differences: Floats,
    groups: Mapping[str, Flags],
    settings: PromotionSettings,
    *,
    attempt: int,
    last: bool,
) -> tuple[Flags, Flags]:
    """Whether to promote, and whether to refuse, by [..., n] differences; guards are `decide`'s.

    Candidate number `attempt` (from 1) is held to 1/attempt of the risk, since each one is another
    chance to be promoted by luck. Neither flag is set where another look is to decide.
    """
    gain = gain_of(differences, risk=RISK / attempt)
    fell = (group_falls(differences, groups) < GROUP_RISK).any(axis=-1)
    excess = gain.mean - settings.min_gain
    holds = (excess >= 0) & (gain.low >= -settings.max_loss) & ~fell
    if last:
        return holds, ~holds
    margin = LOOK_ON_BELOW * gain.error
    return holds & (excess > margin), excess < -margin


def decide(
    before: Sequence[EvaluationRow],
    after: Sequence[EvaluationRow],
    settings: PromotionSettings,
    *,
    attempt: int = 1,
    last: bool = True,
    groups_of: GroupsOf = family_of,
) -> Decision:
    """Compare the policy's answers (`before`) with a candidate's to the same problems.

    Problems that one of them could not be asked count for neither. `groups_of` names the groups
    (families, operations) of a row. Unless it is the `last` look, an open case is looked on.

    Raises:
        ValueError: the two were asked different problems.
    """
    old, new = answered_by_both(before, after)
    if not new:
        reason = "no validation problem was answered by both policies"
        return Decision(ruling=Ruling.REFUSE, reason=reason, n=0)
    differences = score_changes(old, new)
    members = [frozenset(groups_of(row)) for row in old]
    names = sorted(frozenset().union(*members))
    groups = {name: np.array([name in each for each in members]) for name in names}
    promote, refuse = rule(differences, groups, settings, attempt=attempt, last=last)
    faults = [
        *_faults(differences, groups, settings, attempt),
        *_guard_faults(old, new, settings),
    ]
    ruling = Ruling.LOOK_ON
    if refuse or (last and faults):
        ruling = Ruling.REFUSE
    elif promote and not faults:
        ruling = Ruling.PROMOTE
    gain = gain_of(differences, risk=0.025)
    reason = "; ".join(faults) or _rise(gain_of(differences, risk=RISK / attempt), attempt)
    if len(new) < settings.first_look:
        seen = 100 * float(gain.high - gain.low) / 2
        reason += f" ({len(new)} problems alone show only differences above {seen:.1f} points)"
    return Decision(
        ruling=ruling,
        reason=reason,
        n=len(new),
        gain=float(gain.mean),
        error=min(float(gain.error), 1.0),
        interval=(float(gain.low), float(gain.high)),
    )


def _rise(gain: Gain, attempt: int) -> str:
    return (
        f"validation {100 * float(gain.mean):+.1f} points, with {1 - RISK / attempt:.0%} "
        f"confidence at least {100 * float(gain.low):+.1f}"
    )


def _faults(
    differences: Floats, groups: Mapping[str, Flags], settings: PromotionSettings, attempt: int
) -> list[str]:
    gain = gain_of(differences, risk=RISK / attempt)
    faults = []
    if gain.mean < settings.min_gain:
        least = f" (promotion.min_gain: {settings.min_gain:.1%})" if settings.min_gain else ""
        faults.append(f"validation changed by {100 * float(gain.mean):+.1f} points{least}")
    if gain.low < -settings.max_loss:
        faults.append(
            f"a loss of {-100 * float(gain.low):.1f} points on validation is not excluded with "
            f"{1 - RISK / attempt:.0%} confidence"
        )
    p_values = group_falls(differences, groups)
    for (name, flags), p in zip(groups.items(), p_values, strict=True):
        if p < GROUP_RISK:
            fall = 100 * float(differences[flags].mean())
            faults.append(f"{name} changed by {fall:+.1f} points (p = {p:.2g})")
    return faults


def _guard_faults(
    before: Sequence[EvaluationRow], after: Sequence[EvaluationRow], settings: PromotionSettings
) -> list[str]:
    faults = []
    cut, now_cut = (_truncated(rows) for rows in (before, after))
    if now_cut > cut + settings.max_truncated_rise:
        faults.append(f"{now_cut:.0%} of its answers ran into the token limit, {cut:.0%} before")
    length, now_long = (fmean(row.num_tokens for row in rows) for rows in (before, after))
    if now_long > settings.max_length_ratio * length:
        faults.append(f"its answers have {now_long:.0f} tokens, {length:.0f} before")
    return faults


def _truncated(rows: Sequence[EvaluationRow]) -> float:
    verdicts = [verdict for row in rows for verdict in _verdicts(row)]
    return fmean(verdict is Verdict.TRUNCATED for verdict in verdicts)


def _verdicts(row: EvaluationRow) -> tuple[Verdict | None, ...]:
    return (row.verdict, *row.sample_verdicts)
