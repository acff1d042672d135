"""From records to summary.json: pure counting, in the public shape of `RunSummary`.

Every count can be recomputed from the parquet files of the run (tests/e2e/recompute.py does).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TypedDict

from sphere_ray.method.metrics import (
    bootstrap_interval,
    macro_average,
    maj_at_k,
    mean_at_k,
    paired_test,
    pass_at_k,
)
from sphere_ray.records import (
    CORRECTION_CHECK,
    Chain,
    EvaluationRow,
    Outcome,
    PoolUse,
    PreferencePair,
    Rollout,
    StageName,
    Verdict,
)
from sphere_ray.reporting.reward_summary import RewardSummary

FAILED_ROUTE = "failed"


class StageSummary(TypedDict):
    """What one stage did: problems that entered it, chains it made, chains that were right."""

    problems: int
    chains: int
    correct: int


class PoolSummary(TypedDict):
    """One engine pool in the session that finished the rollouts.

    Tokens a second are decoded ones over all replicas; `prefix_hits` is the share of prompt tokens
    found in the cache (null: none were looked for), `idle` the share of the time without work.
    """

    replicas: int
    tokens_per_second: float
    prefilled_tokens: int
    prefix_hits: float | None
    idle: float


class RolloutSummary(TypedDict):
    """What happened to the problems of one iteration.

    `tokens` are all decoded tokens. `by_stage` has the three stages and `correction_check`;
    `routes` counts each `stage:outcome`, and failed rows as `failed`. `prm_inversions` are
    problems whose Sol_max was wrong while Sol_min was right; `wrong_to_correct` those that
    self-correction repaired, `correct_to_wrong` checked ones that it spoiled.
    """

    problems: int
    chains: int
    tokens: int
    seconds: float
    chains_per_second: float
    pools: dict[str, PoolSummary]
    by_stage: dict[str, StageSummary]
    routes: dict[str, int]
    prm_inversions: int
    wrong_to_correct: int
    correct_to_wrong: int


class PairsSummary(TypedDict):
    """The preference pairs of one iteration, and what the gates dropped, by reason.

    `per_hour` is by stage, over the time of the rollouts.
    """

    total: int
    by_stage: dict[str, int]
    per_hour: dict[str, float]
    dropped: dict[str, int]


class TrainingSummary(TypedDict):
    """How training went: mean loss of the first and last step, accuracy of the last.

    Tokens are those of both rows of each pair; `padding` is the share of the computed ones that
    belonged to no pair of the step.
    """

    pairs: int
    steps: int
    zero_stage: int
    workers: int
    tokens_per_second: float
    padding: float
    loss_first: float
    loss_last: float
    reward_accuracy: float
    seconds: float


Score = TypedDict(
    "Score",
    {
        "pass@1": float,
        "ci95": list[float],
        "mean@k": float | None,
        "maj@k": float | None,
        "pass@k": float | None,
    },
)
"""Greedy accuracy with its 95% bootstrap interval; of k samples a problem, null without samples."""


class FamilyScore(Score):
    """A score over the `n` problems of one family."""

    n: int


class ModelScore(Score):
    """A score over all problems, the mean of the families' pass@1 (null without), each family."""

    macro_average: float | None
    by_family: dict[str, FamilyScore]


class EvaluationSummary(ModelScore):
    """What `sphere evaluate` measures of one model on `n` problems."""

    n: int


class ValidationSummary(TypedDict):
    """The `n` validation problems under the policy before and after an iteration's training."""

    n: int
    before: Score
    after: Score


class HeldOutSummary(TypedDict):
    """The `n` test problems under the base and the final model.

    `difference` is final minus base pass@1, with its 95% bootstrap interval paired by problem;
    `p_value` that of the paired test, two-sided.
    """

    n: int
    base: ModelScore
    final: ModelScore
    difference: float
    difference_ci95: list[float]
    p_value: float


class IterationSummary(TypedDict):
    """One iteration.

    `reward` is about who scored. `training` and `evaluation` are null where no model came of it:
    too few pairs, or a collapse.
    `refusal` says why the policy stays, and is null where the new one was promoted.
    """

    iteration: int
    rollout: RolloutSummary
    reward: RewardSummary
    pairs: PairsSummary
    training: TrainingSummary | None
    evaluation: ValidationSummary | None
    promoted: bool
    refusal: str | None


class BaseSummary(TypedDict):
    """The model the run began with."""

    path: str
    fingerprint: str


class RunSummary(TypedDict):
    """The whole of summary.json."""

    run: str
    base: BaseSummary
    iterations: list[IterationSummary]
    test: HeldOutSummary
    seconds_by_phase: dict[str, float]


def rollout_summary(
    rollouts: Iterable[Rollout], seconds: float, pools: Sequence[PoolUse] = ()
) -> RolloutSummary:
    """Count what rollouts record; they are read once, so a stream is fine."""
    problems = tokens = 0
    routes: Counter[str] = Counter()
    chains: Counter[str] = Counter()
    correct: Counter[str] = Counter()
    for rollout in rollouts:
        problems += 1
        tokens += rollout.tokens
        routes.update(rollout.route)
        if rollout.error is not None:
            routes[FAILED_ROUTE] += 1
        for chain in rollout.chains:
            stage = _stage_of(chain, rollout)
            chains[stage] += 1
            correct[stage] += chain.correct
    entered: Counter[str] = Counter()
    inversions = 0
    for entry, count in routes.items():
        stage, _, outcome = entry.partition(":")
        entered[stage] += count
        inversions += count if outcome == Outcome.INVERSION else 0
    repaired = (Outcome.PAIR, Outcome.BOTH_RIGHT)
    return {
        "problems": problems,
        "chains": chains.total(),
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "chains_per_second": round(chains.total() / seconds, 3) if seconds else 0.0,
        "pools": {use.name: _pool_summary(use) for use in pools},
        "by_stage": {
            stage: {"problems": entered[stage], "chains": chains[stage], "correct": correct[stage]}
            for stage in (*StageName, CORRECTION_CHECK)
        },
        "routes": dict(sorted(routes.items())),
        "prm_inversions": inversions,
        "wrong_to_correct": sum(
            routes[f"{StageName.SELF_CORRECTION}:{outcome}"] for outcome in repaired
        ),
        "correct_to_wrong": routes[f"{CORRECTION_CHECK}:{Outcome.LOST}"],
    }


def _pool_summary(use: PoolUse) -> PoolSummary:
    asked, at_work = use.prefix_queries, use.replicas * use.seconds
    return {
        "replicas": use.replicas,
        "tokens_per_second": round(use.generated_tokens / use.seconds, 3) if use.seconds else 0.0,
        "prefilled_tokens": asked - use.prefix_hits,
        "prefix_hits": round(use.prefix_hits / asked, 4) if asked else None,
        "idle": round(1 - min(use.busy_s / at_work, 1), 4) if at_work else 1.0,
    }


def pairs_summary(
    pairs: Iterable[PreferencePair], dropped: Mapping[str, int], seconds: float
) -> PairsSummary:
    """Count the pairs to train on.

    `dropped` is by reason, over all gates; `seconds` are those of the rollouts.
    """
    by_stage = Counter(str(pair.stage) for pair in pairs)
    return {
        "total": by_stage.total(),
        "by_stage": {str(stage): by_stage[stage] for stage in StageName},
        "per_hour": {
            str(stage): round(3600 * by_stage[stage] / seconds, 1) if seconds else 0.0
            for stage in StageName
        },
        "dropped": dict(sorted(dropped.items())),
    }


def evaluation_summary(
    rows: Iterable[EvaluationRow], *, seed: int, resamples: int
) -> EvaluationSummary:
    """Score one model; the order of rows does not matter.

    Raises:
        ValueError: there are no rows.
    """
    ordered = sorted(rows, key=lambda row: row.problem_id)
    families: dict[str, list[EvaluationRow]] = {}
    for row in ordered:
        if row.family is not None:
            families.setdefault(row.family, []).append(row)
    greedy = {family: _greedy(members) for family, members in families.items()}
    return {
        "n": len(ordered),
        **_score(ordered, seed, resamples),
        "macro_average": macro_average(greedy) if greedy else None,
        "by_family": {
            family: {"n": len(members), **_score(members, seed, resamples)}
            for family, members in sorted(families.items())
        },
    }


def validation_summary(
    before: Sequence[EvaluationRow], after: Sequence[EvaluationRow], *, seed: int, resamples: int
) -> ValidationSummary:
    """Compare the policy before and after an iteration on the same problems.

    Raises:
        ValueError: the problems differ, or there are none.
    """
    before, after = _aligned(before, after)
    return {
        "n": len(before),
        "before": _score(before, seed, resamples),
        "after": _score(after, seed, resamples),
    }


def held_out_summary(
    base: Sequence[EvaluationRow], final: Sequence[EvaluationRow], *, seed: int, resamples: int
) -> HeldOutSummary:
    """Compare the base and the final model on the test problems, paired by problem.

    Raises:
        ValueError: the problems differ, or there are none.
    """
    base, final = _aligned(base, final)
    first = evaluation_summary(base, seed=seed, resamples=resamples)
    last = evaluation_summary(final, seed=seed, resamples=resamples)
    gains = [after - before for before, after in zip(_greedy(base), _greedy(final), strict=True)]
    return {
        "n": len(base),
        "base": first,
        "final": last,
        "difference": last["pass@1"] - first["pass@1"],
        "difference_ci95": list(bootstrap_interval(gains, seed=seed, resamples=resamples)),
        "p_value": paired_test(_greedy(base), _greedy(final), seed=seed),
    }


def _score(rows: Sequence[EvaluationRow], seed: int, resamples: int) -> Score:
    greedy = _greedy(rows)
    answers = [row.sample_answers for row in rows if row.sample_verdicts]
    right = [
        [verdict is Verdict.CORRECT for verdict in row.sample_verdicts]
        for row in rows
        if row.sample_verdicts
    ]
    return {
        "pass@1": fmean(greedy),
        "ci95": list(bootstrap_interval(greedy, seed=seed, resamples=resamples)),
        "mean@k": fmean(map(mean_at_k, right)) if right else None,
        "maj@k": fmean(map(maj_at_k, answers, right)) if right else None,
        "pass@k": fmean(pass_at_k(len(r), sum(r), len(r)) for r in right) if right else None,
    }


def _greedy(rows: Sequence[EvaluationRow]) -> list[float]:
    return [float(row.verdict is Verdict.CORRECT) for row in rows]


def _aligned(
    first: Sequence[EvaluationRow], second: Sequence[EvaluationRow]
) -> tuple[list[EvaluationRow], list[EvaluationRow]]:
    """Both in the order of problem ids."""
    one, two = (sorted(rows, key=lambda row: row.problem_id) for rows in (first, second))
    if [row.problem_id for row in one] != [row.problem_id for row in two]:
        raise ValueError("two models are compared on different problems")
    return one, two


def _stage_of(chain: Chain, rollout: Rollout) -> str:
    """The stage a chain counts for: chains of the check look like those of self-correction."""
    checked = any(entry.startswith(f"{CORRECTION_CHECK}:") for entry in rollout.route)
    if checked and chain.stage is StageName.SELF_CORRECTION:
        return CORRECTION_CHECK
    return str(chain.stage)
