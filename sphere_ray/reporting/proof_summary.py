"""From the runs of a proof to proof.json: gains over seeds, paired by problem. Pure counting.

The score of a problem is the share of its answers, greedy and sampled, that is right. Intervals and
p-values are about problems, each averaged over the seeds at hand: they say nothing about other
seeds. How far seeds differ is the standard deviation beside them.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from statistics import fmean
from typing import TypedDict

import numpy as np

from sphere_ray.method.decision import Floats, gain_of, scores_of
from sphere_ray.method.metrics import paired_test
from sphere_ray.records import CORRECTION_CHECK, EvaluationRow, StageName
from sphere_ray.reporting.summary import IterationSummary

_RISK = 0.025
"""On each side of an interval."""
_ORDER = (
    StageName.SELF_GENERATION,
    StageName.SELF_CORRECTION,
    CORRECTION_CHECK,
    StageName.DIVERSITY,
)
_ROUNDING = 1e-9

Rows = Sequence[EvaluationRow]


class Paired(TypedDict):
    """The mean change of the score over seeds and over the `n` problems that all answered.

    `ci95` and `p_value` are those of the paired tests over problems, averaged over seeds. `sd` is
    the standard deviation over seeds (null: one seed), `minimum` the smallest change of a seed.
    """

    n: int
    mean: float
    ci95: list[float]
    p_value: float
    sd: float | None
    minimum: float
    by_seed: list[float]
    p_by_seed: list[float]


class Cost(TypedDict):
    """What the pairs of an iteration cost: tokens decoded, and seconds.

    `tokens` are those of the stages up to the last that gives pairs; `seconds` are those of the
    whole rollouts, which may have been made by another variant.
    """

    pairs: int
    tokens: int
    per_1000_tokens: float
    seconds: float


class VariantSummary(TypedDict):
    """What a variant came to; `overrides` and `costs` are by seed, `costs` then by iteration.

    `gains` over the base model are after each iteration. `seen` and `unseen` split the last one by
    the families of problems that were trained on (null: no such test problem). `no_worse` says
    whether no iteration lost test score in any seed (null: one iteration).
    """

    name: str
    overrides: list[list[str]]
    gains: list[Paired]
    seen: Paired | None
    unseen: Paired | None
    no_worse: bool | None
    costs: list[list[Cost]]


class ComparisonSummary(TypedDict):
    """A variant minus the first one, both after the same number of `iterations`."""

    variant: str
    iterations: int
    difference: Paired


class ProofSummary(TypedDict):
    """The whole of proof.json; `left_out` are sentences about guards that were not asked."""

    name: str
    seeds: list[int]
    unseen_families: list[str]
    variants: list[VariantSummary]
    comparisons: list[ComparisonSummary]
    guards: dict[str, Paired]
    left_out: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofRun:
    """A run of a variant with one seed: test answers of the base and after each iteration."""

    overrides: Sequence[str]
    base: Rows
    after: Sequence[Rows]
    costs: Sequence[Cost]


def variant_summary(name: str, runs: Sequence[ProofRun], unseen: Set[str]) -> VariantSummary:
    """Sum up the runs of a variant, one for each seed.

    Raises:
        ValueError: no test problem was answered by all models.
    """
    base, last = [run.base for run in runs], [run.after[-1] for run in runs]
    gains = [paired(base, [run.after[k] for run in runs]) for k in range(len(runs[0].after))]
    families = {row.problem_id: row.family for rows in base for row in rows}
    new = {problem_id for problem_id, family in families.items() if family in unseen}
    known = {
        problem_id for problem_id, family in families.items() if family and family not in unseen
    }
    return {
        "name": name,
        "overrides": [list(run.overrides) for run in runs],
        "gains": gains,
        "seen": paired(base, last, known) if known else None,
        "unseen": paired(base, last, new) if new else None,
        "no_worse": all(map(_no_fall, gains, gains[1:])) if gains[1:] else None,
        "costs": [list(run.costs) for run in runs],
    }


def comparison(
    first: Sequence[ProofRun], other: Sequence[ProofRun], name: str
) -> ComparisonSummary:
    """Compare a variant with the first one, seed by seed, after the iterations that both have.

    Raises:
        ValueError: no test problem was answered by all models.
    """
    iterations = min(len(run.after) for run in (*first, *other))
    one, two = ([run.after[iterations - 1] for run in runs] for runs in (first, other))
    return {"variant": name, "iterations": iterations, "difference": paired(one, two)}


def paired(
    before: Sequence[Rows], after: Sequence[Rows], problems: Set[str] | None = None
) -> Paired:
    """The change of the score from `before` to `after`, which have the rows of one seed each.

    Only `problems` count (None: all), and of them those that every model answered in every seed.

    Raises:
        ValueError: there is none.
    """
    scores = [scores_of(rows) for rows in (*before, *after)]
    common = set.intersection(*(set(each) for each in scores))
    ids = sorted(common if problems is None else common & problems)
    if not ids:
        raise ValueError("no problem was answered by all models that are compared")
    table = np.array([[each[problem_id] for problem_id in ids] for each in scores])
    return paired_over_seeds(table[: len(before)], table[len(before) :])


def paired_over_seeds(before: Floats, after: Floats) -> Paired:
    """The change of [seeds, problems] scores; see `Paired`.

    The interval is that of the paired t-test and the p-value that of the sign-flip test, both over
    problems. With the seeds as they are, a problem's mean over seeds is one observation.
    """
    changes = after - before
    gain = gain_of(changes.mean(axis=0), risk=_RISK)
    by_seed = changes.mean(axis=1)
    return {
        "n": changes.shape[1],
        "mean": float(gain.mean),
        "ci95": [float(gain.low), float(gain.high)],
        "p_value": paired_test(before.mean(axis=0).tolist(), after.mean(axis=0).tolist(), seed=0),
        "sd": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
        "minimum": float(by_seed.min()),
        "by_seed": by_seed.tolist(),
        "p_by_seed": [
            paired_test(one.tolist(), other.tolist(), seed=0)
            for one, other in zip(before, after, strict=True)
        ],
    }


def cost_of(item: IterationSummary, last: StageName) -> Cost:
    """What the pairs of an iteration cost, if `last` is the last stage that gives pairs."""
    rollout, pairs = item["rollout"], item["pairs"]["total"]
    later = _ORDER[_ORDER.index(last) + 1 :]
    unused = sum(rollout["by_stage"][stage]["tokens"] for stage in later)
    tokens = rollout["tokens"] - unused
    return {
        "pairs": pairs,
        "tokens": tokens,
        "per_1000_tokens": round(1000 * pairs / tokens, 3) if tokens else 0.0,
        "seconds": rollout["seconds"],
    }


def first_cost(variant: VariantSummary, figure: Callable[[Cost], float]) -> float:
    """The mean over seeds of a figure of the first iteration."""
    return fmean(figure(costs[0]) for costs in variant["costs"])


def _no_fall(one: Paired, other: Paired) -> bool:
    seeds = zip(one["by_seed"], other["by_seed"], strict=True)
    return all(later >= earlier - _ROUNDING for earlier, later in seeds)
