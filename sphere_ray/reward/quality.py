"""How good is a reward source? Its scores against rollout values of the same steps.

A step counts as right if at least half of its completions reached the gold answer.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

from sphere_ray.config.scorers import HandoverSettings
from sphere_ray.records import LabelledStep

BINS = 10
MAJORITY = 0.5
_RIDGE = 1e-3

Floats = NDArray[np.float64]


class ReliabilityBin(TypedDict):
    """Steps whose score fell into one tenth of [0, 1]: how many, mean score, mean value."""

    steps: int
    score: float
    value: float


class Quality(TypedDict):
    """Figures of one source on one set of steps; None where they are undefined.

    `auc`: chance that a right step outscores a wrong one, ties half. `baseline_auc`: the AUC of
    `shape_scores`. `ece`: expected calibration error, the mean of |score - value| over the bins.
    `siblings`: share of sibling pairs with different values that the scores order as the values
    do, ties half. `first_error`: share of chains whose first step below one half is the first one
    that no completion saved (ProcessBench, arXiv 2412.06559). `spread`: standard deviation of the
    scores.
    """

    steps: int
    problems: int
    auc: float | None
    baseline_auc: float | None
    ece: float
    siblings: float | None
    first_error: float | None
    spread: float
    bins: list[ReliabilityBin]


def quality(
    steps: Sequence[LabelledStep],
    scores: Sequence[float],
    *,
    baseline: Sequence[float] | None = None,
) -> Quality:
    """Figures of `scores` for `steps`; `baseline` are scores of the baseline for the same steps.

    Raises:
        ValueError: there are no steps, or another number of scores.
    """
    if not steps or len(scores) != len(steps):
        raise ValueError(f"{len(scores)} scores for {len(steps)} steps have no quality")
    values = np.array([step.value for step in steps])
    given = np.asarray(scores, dtype=np.float64)
    right = values >= MAJORITY
    bins = reliability(given, values)
    return Quality(
        steps=len(steps),
        problems=len({step.problem_id for step in steps}),
        auc=auc(given, right),
        baseline_auc=None if baseline is None else auc(np.asarray(baseline), right),
        ece=sum(b["steps"] * abs(b["score"] - b["value"]) for b in bins) / len(steps),
        siblings=sibling_agreement(steps, given),
        first_error=first_error_accuracy(steps, given),
        spread=float(given.std()),
        bins=bins,
    )


def auc(scores: Floats, right: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve by ranks (Mann-Whitney), ties half; None with one class only."""
    positives, negatives = int(right.sum()), int((~right).sum())
    if not positives or not negatives:
        return None
    excess = float(rankdata(scores)[right].sum()) - positives * (positives + 1) / 2
    return excess / (positives * negatives)


def reliability(scores: Floats, values: Floats) -> list[ReliabilityBin]:
    """The reliability diagram: equal bins over [0, 1], empty ones left out."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    return [
        ReliabilityBin(
            steps=int(inside.sum()),
            score=float(scores[inside].mean()),
            value=float(values[inside].mean()),
        )
        for inside in (bins == index for index in range(BINS))
        if inside.any()
    ]


def sibling_agreement(
    steps: Sequence[LabelledStep], scores: Sequence[float] | Floats
) -> float | None:
    """Share of pairs of siblings with different values that are ordered right; None without any.

    The search compares siblings only, never steps of different problems.
    """
    families = defaultdict(list)
    for step, score in zip(steps, scores, strict=True):
        families[step.problem_id, step.prefix].append((step.value, float(score)))
    agreed = pairs = 0.0
    for siblings in families.values():
        for (value, score), (other_value, other_score) in combinations(siblings, 2):
            if value != other_value:
                pairs += 1
                better = (score - other_score) * (value - other_value)
                agreed += 1.0 if better > 0 else 0.5 * (better == 0)
    return agreed / pairs if pairs else None


def first_error_accuracy(
    steps: Sequence[LabelledStep], scores: Sequence[float] | Floats
) -> float | None:
    """Share of complete chains in which scores and values see the first error at the same step.

    Complete: it ends with a final step, and every step on the way was labelled and scored.
    """
    known = {
        (step.problem_id, step.prefix, step.text): (step.value > 0, float(score) >= MAJORITY)
        for step, score in zip(steps, scores, strict=True)
    }
    agreed = []
    for step in steps:
        path = [*step.prefix, step.text]
        keys = [(step.problem_id, tuple(path[:depth]), text) for depth, text in enumerate(path)]
        if step.final and all(key in known for key in keys):
            truth, seen = zip(*(known[key] for key in keys), strict=True)
            agreed.append(_first_false(truth) == _first_false(seen))
    return float(np.mean(agreed)) if agreed else None


def _first_false(flags: Sequence[bool]) -> int:
    return next((depth for depth, flag in enumerate(flags) if not flag), len(flags))


def inversion_rate(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Share of (score of a right chain, of a wrong one) in which the wrong is higher; ties half."""
    if not pairs:
        return None
    return sum((wrong > right) + 0.5 * (wrong == right) for right, wrong in pairs) / len(pairs)


def shape_scores(train: Sequence[LabelledStep], steps: Sequence[LabelledStep]) -> list[float]:
    """Scores of a baseline that knows the shape of a step alone, not what it says.

    Logistic regression, fitted on `train` with a small ridge. Its inputs are the length in
    characters, its logarithm, depth, finality, and the length within each depth.
    """
    shapes = _shapes(train)
    mean, scale = shapes.mean(axis=0), shapes.std(axis=0) + 1e-9
    inputs = _with_constant((shapes - mean) / scale)
    targets = np.array([step.value for step in train])

    def loss(weights: Floats) -> tuple[float, Floats]:
        logits = inputs @ weights
        value = (np.logaddexp(0, logits) - targets * logits).sum() + _RIDGE / 2 * weights @ weights
        return float(value), inputs.T @ (expit(logits) - targets) + _RIDGE * weights

    weights = minimize(loss, np.zeros(inputs.shape[1]), jac=True, method="BFGS").x
    scores: list[float] = expit(_with_constant((_shapes(steps) - mean) / scale) @ weights).tolist()
    return scores


def _shapes(steps: Sequence[LabelledStep]) -> Floats:
    rows = [
        (length, np.log1p(length), step.depth, float(step.final), length * step.depth)
        for step in steps
        for length in (len(step.text),)
    ]
    return np.array(rows, dtype=np.float64)


def _with_constant(rows: Floats) -> Floats:
    return np.column_stack([np.ones(len(rows)), rows])


def handover_refusal(figures: Quality, settings: HandoverSettings) -> str:
    """Why the trained model must not take over; empty if it may."""
    steps, found, ece = figures["steps"], figures["auc"], figures["ece"]
    if steps < settings.min_steps:
        return f"{steps} held-out steps are fewer than min_steps ({settings.min_steps})"
    if found is None:
        return "the held-out steps are all right or all wrong, so they tell nothing"
    if (spread := figures["spread"]) < settings.min_spread:
        return f"its scores hardly differ: {spread:.3f} < min_spread {settings.min_spread}"
    if found < settings.min_auc:
        return f"AUC {found:.3f} < min_auc {settings.min_auc}"
    baseline = figures["baseline_auc"] or MAJORITY
    if found < baseline + settings.min_gain:
        return (
            f"AUC {found:.3f} is not min_gain {settings.min_gain} above the {baseline:.3f} "
            "that length and depth give"
        )
    if ece > settings.max_ece:
        return f"calibration error {ece:.3f} > max_ece {settings.max_ece}"
    return ""


def rank_correlation(
    one: Sequence[float] | Floats, other: Sequence[float] | Floats
) -> float | None:
    """Spearman's rank correlation of two sources on the same steps; None if either is constant."""
    if len(one) < 2 or min(map(np.ptp, (one, other))) == 0:
        return None
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
