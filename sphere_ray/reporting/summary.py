"""From the files of a run to summary.json: pure counting, in the public shape of `RunSummary`.

Every count can be recomputed from the parquet files of the run (tests/e2e/recompute.py does).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TypedDict

import pyarrow as pa

from sphere_ray.method.evaluate import answered_by_both
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
    EvaluationRow,
    Outcome,
    PoolUse,
    StageName,
    Verdict,
)
from sphere_ray.reporting.columns import count_rollouts
from sphere_ray.reporting.reward_summary import RewardSummary

FAILED_ROUTE = "failed"
PAIR_COLUMNS = ("stage",)
RESAMPLES = 2000
"""Resamples behind each bootstrap interval."""


class StageSummary(TypedDict):
    """What one stage did: problems that entered it, chains it made, chains that were right."""

    problems: int
    chains: int
    correct: int


class PoolSummary(TypedDict):
    """One engine pool in the session that finished the rollouts.

    `tokens_per_second` counts decoded tokens over all replicas. `prefix_hits` is the share of
    prompt tokens found in the prefix cache (null: no prompt was looked up). `idle` is the share of
    the time without a request.
    """

    replicas: int
    tokens_per_second: float
    prefilled_tokens: int
    prefix_hits: float | None
    idle: float


class RolloutSummary(TypedDict):
    """What happened to the problems of one iteration.

    `tokens` are all decoded tokens. `by_stage` has every stage and `correction_check`. `routes`
    counts each `stage:outcome`, and failed rows as `failed`. `prm_inversions` are problems whose
    Sol_max was wrong while Sol_min was right. `wrong_to_correct` are problems that self-correction
    repaired, `correct_to_wrong` checked ones that it spoiled.
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

    `tokens_per_second` counts the tokens of both sides of each pair. `padding` is the share of the
    computed tokens that belonged to no pair of the step. `update_survival` is the share of the
    update that the written weights kept: its projection on the update of the optimizer's weights.
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
    update_survival: float
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
    """A score over all problems and by family.

    `macro_average` is the mean of the families' pass@1, null if no problem has a family.
    """

    macro_average: float | None
    by_family: dict[str, FamilyScore]


class EvaluationSummary(ModelScore):
    """What `sphere evaluate` measures of one model on the `n` problems it answered.

    `failed` problems could not be answered (a question that is too long, a deadline). They count
    neither as right nor as wrong, in this and in the next two summaries.
    """

    n: int
    failed: int


class ValidationSummary(TypedDict):
    """The policy before and after an iteration's training, on the `n` problems both answered."""

    n: int
    failed: int
    before: Score
    after: Score


class HeldOutSummary(TypedDict):
    """The base and the final model on the `n` test problems that both answered.

    `difference` is final minus base pass@1, with its 95% bootstrap interval paired by problem.
    `p_value` is that of the paired test, two-sided.
    """

    n: int
    failed: int
    base: ModelScore
    final: ModelScore
    difference: float
    difference_ci95: list[float]
    p_value: float


class IterationSummary(TypedDict):
    """One iteration.

    `reward` says who scored. `training` and `evaluation` are null where the iteration made no
    model: it had too few pairs, or training collapsed. `refusal` says why the policy stays, and is
    null where the new one was promoted.
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
    """The whole of summary.json; `steps` are the directories of the steps it is about."""

    run: str
    steps: list[str]
    base: BaseSummary
    iterations: list[IterationSummary]
    test: HeldOutSummary
    seconds_by_phase: dict[str, float]


def rollout_summary(
    tables: Iterable[pa.Table], seconds: float, pools: Sequence[PoolUse] = ()
) -> RolloutSummary:
    """Count the columns `ROLLOUT_COLUMNS` of rollouts; tables may be a stream, file by file."""
    counts = count_rollouts(tables)
    routes, chains = counts.routes, counts.chains
    if counts.failed:
        routes[FAILED_ROUTE] = counts.failed
    entered: Counter[str] = Counter()
    for entry, count in routes.items():
        entered[entry.partition(":")[0]] += count
    stages = (*map(str, StageName), CORRECTION_CHECK)
    repaired = (Outcome.PAIR, Outcome.BOTH_RIGHT)
    return {
        "problems": counts.problems,
        "chains": chains.total(),
        "tokens": counts.tokens,
        "seconds": round(seconds, 3),
        "chains_per_second": round(chains.total() / seconds, 3) if seconds else 0.0,
        "pools": {use.name: _pool_summary(use) for use in pools},
        "by_stage": {
            stage: {
                "problems": entered[stage],
                "chains": chains[stage],
                "correct": counts.correct[stage],
            }
            for stage in stages
        },
        "routes": dict(sorted(routes.items())),
        "prm_inversions": sum(routes[f"{stage}:{Outcome.INVERSION}"] for stage in stages),
        "wrong_to_correct": sum(routes[f"{StageName.SELF_CORRECTION}:{end}"] for end in repaired),
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
    tables: Iterable[pa.Table], dropped: Mapping[str, int], seconds: float
) -> PairsSummary:
    """Count the pairs to train on, from their column `PAIR_COLUMNS`.

    `dropped` is by reason, over all gates; `seconds` are those of the rollouts.
    """
    by_stage: Counter[str] = Counter()
    for table in tables:
        by_stage.update(table["stage"].to_pylist())
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
    rows: Iterable[EvaluationRow], *, seed: int, resamples: int = RESAMPLES
) -> EvaluationSummary:
    """Score one model; the order of rows does not matter.

    Raises:
        ValueError: no problem was answered.
    """
    ordered = sorted(rows, key=lambda row: row.problem_id)
    answered = [row for row in ordered if row.error is None]
    families: dict[str, list[EvaluationRow]] = {}
    for row in answered:
        if row.family is not None:
            families.setdefault(row.family, []).append(row)
    greedy = {family: _greedy(members) for family, members in families.items()}
    return {
        "n": len(answered),
        "failed": len(ordered) - len(answered),
        **_score(answered, seed, resamples),
        "macro_average": macro_average(greedy) if greedy else None,
        "by_family": {
            family: {"n": len(members), **_score(members, seed, resamples)}
            for family, members in sorted(families.items())
        },
    }


def validation_summary(
    before: Sequence[EvaluationRow],
    after: Sequence[EvaluationRow],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> ValidationSummary:
    """Compare the policy before and after an iteration on the same problems.

    Raises:
        ValueError: the problems differ, or none was answered by both.
    """
    first, last = answered_by_both(before, after)
    return {
        "n": len(first),
        "failed": len(before) - len(first),
        "before": _score(first, seed, resamples),
        "after": _score(last, seed, resamples),
    }


def held_out_summary(
    base: Sequence[EvaluationRow],
    final: Sequence[EvaluationRow],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> HeldOutSummary:
    """Compare the base and the final model on the test problems, paired by problem.

    Raises:
        ValueError: the problems differ, or none was answered by both.
    """
    pairs = answered_by_both(base, final)
    first, last = (evaluation_summary(rows, seed=seed, resamples=resamples) for rows in pairs)
    before, after = map(_greedy, pairs)
    gains = [new - old for old, new in zip(before, after, strict=True)]
    return {
        "n": first["n"],
        "failed": len(base) - first["n"],
        "base": first,
        "final": last,
        "difference": last["pass@1"] - first["pass@1"],
        "difference_ci95": list(bootstrap_interval(gains, seed=seed, resamples=resamples)),
        "p_value": paired_test(before, after, seed=seed),
    }


def _score(rows: Sequence[EvaluationRow], seed: int, resamples: int = RESAMPLES) -> Score:
    if not rows:
        raise ValueError("no problem was answered, so there is nothing to score")
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
