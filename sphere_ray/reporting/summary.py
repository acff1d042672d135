"""From the files of a run to summary.json: pure counting, in the public shape of `RunSummary`.

Every count can be recomputed from the parquet files of the run (tests/e2e/recompute.py does).
"""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TypedDict

from sphere_ray.method.evaluate import answered_by_both
from sphere_ray.method.metrics import (
    bootstrap_interval,
    macro_average,
    maj_at_k,
    mean_at_k,
    paired_test,
    pass_at_k,
)
from sphere_ray.records import EvaluationRow, Verdict
from sphere_ray.reporting.audit_summary import AuditSummary
from sphere_ray.reporting.benchmark_summary import BenchmarkSummary
from sphere_ray.reporting.policy_summary import CandidateSummary, TrainingSummary, WriterSummary
from sphere_ray.reporting.reward_summary import RewardSummary
from sphere_ray.reporting.rollout_summary import PairsSummary, RolloutSummary
from sphere_ray.reward.process import (
    JudgedSteps,
    ProcessComparison,
    judged_by_equations,
    process_comparison,
)

RESAMPLES = 2000
"""Resamples behind each bootstrap interval."""
PROOF = 0.05


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
    `p_value` is that of the paired test, two-sided; `conclusion` says in a sentence what it proves.
    `process` are the process metrics of the greedy answers, by their equations.
    """

    n: int
    failed: int
    base: ModelScore
    final: ModelScore
    difference: float
    difference_ci95: list[float]
    p_value: float
    conclusion: str
    process: ProcessComparison


class IterationSummary(TypedDict):
    """One iteration.

    `reward` says who scored, `writers` which policies wrote the pairs: this iteration's, and those
    of earlier ones that had made nothing better. `training` and `evaluation` are null where the
    iteration made no model: it had too few pairs, or training collapsed. `evaluation` compares the
    policy with the last of the `candidates`. `refusal` says why the policy stays, and is null where
    a candidate was promoted.
    """

    iteration: int
    rollout: RolloutSummary
    reward: RewardSummary
    pairs: PairsSummary
    writers: list[WriterSummary]
    training: TrainingSummary | None
    evaluation: ValidationSummary | None
    candidates: list[CandidateSummary]
    promoted: bool
    refusal: str | None


class BaseSummary(TypedDict):
    """The model the run began with."""

    path: str
    fingerprint: str


class RunSummary(TypedDict):
    """The whole of summary.json; `steps` are the directories of the steps it is about.

    `benchmarks` compares the base and the final model on each that the run names.
    `audit` is null where `method.pairs.audit` names no file, or one without lines.
    """

    run: str
    steps: list[str]
    base: BaseSummary
    iterations: list[IterationSummary]
    test: HeldOutSummary
    benchmarks: dict[str, BenchmarkSummary]
    audit: AuditSummary | None
    seconds_by_phase: dict[str, float]


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
    boundary: str,
    resamples: int = RESAMPLES,
) -> HeldOutSummary:
    """Compare the base and the final model on the test problems, paired by problem.

    A step of an answer ends with `boundary`, as in the search.

    Raises:
        ValueError: the problems differ, or none was answered by both.
    """
    pairs = answered_by_both(base, final)
    first, last = (evaluation_summary(rows, seed=seed, resamples=resamples) for rows in pairs)
    before, after = map(_greedy, pairs)
    gains = [new - old for old, new in zip(before, after, strict=True)]
    p_value = paired_test(before, after, seed=seed)
    return {
        "n": first["n"],
        "failed": len(base) - first["n"],
        "base": first,
        "final": last,
        "difference": last["pass@1"] - first["pass@1"],
        "difference_ci95": list(bootstrap_interval(gains, seed=seed, resamples=resamples)),
        "p_value": p_value,
        "conclusion": conclusion(last["pass@1"] - first["pass@1"], p_value),
        "process": process_comparison(*(_judged(rows, boundary) for rows in pairs)),
    }


def _judged(rows: Sequence[EvaluationRow], boundary: str) -> JudgedSteps:
    answers = ((row.response, row.verdict is Verdict.CORRECT) for row in rows)
    return judged_by_equations(answers, boundary)


def conclusion(difference: float, p_value: float) -> str:
    """Whether one run proves a gain, by the paired test on its test problems at p < 0.05."""
    if not difference:
        return "this run shows no difference"
    change = "gain" if difference > 0 else "loss"
    proves = "alone proves" if p_value < PROOF else "alone does not prove"
    return f"this run {proves} a {change} (paired test: p = {p_value:.2g})"


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
