"""Models on named benchmarks, in figures: by set, with intervals, and paired by problem."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TypedDict

from sphere_ray.method.evaluate import answered_by_both
from sphere_ray.method.metrics import (
    bootstrap_interval,
    maj_at_k,
    mean_at_k,
    paired_test,
    pass_at_k,
    wilson_interval,
)
from sphere_ray.records import EvaluationRow, Verdict

DRAWS = (4, 8)
"""The k of pass@k beside k = 1, which is mean@k."""

BenchmarkScore = TypedDict(
    "BenchmarkScore",
    {
        "n": int,
        "failed": int,
        "samples": int,
        "pass@1": float,
        "ci95": list[float],
        "mean@k": float | None,
        "mean_ci95": list[float] | None,
        "maj@k": float | None,
        "pass@4": float | None,
        "pass@8": float | None,
    },
)
"""One model on the `n` problems of a set that it answered; `failed` count neither way.

`pass@1` is of greedy answers, with Wilson's 95% interval. The others are of k = `samples` samples a
problem, null where there are fewer. `mean@k` (which equals pass@1 of the samples) has a bootstrap
interval over problems; `pass@4` and `pass@8` are estimated without bias from the k samples.
"""


class BenchmarkChange(TypedDict):
    """A model against the first one, on the `n` problems that both answered.

    `of` is mean@k where both sampled, else pass@1. The interval is bootstrapped and the p-value
    two-sided; both are paired by problem.
    """

    of: str
    n: int
    difference: float
    ci95: list[float]
    p_value: float


class BenchmarkSummary(TypedDict):
    """A benchmark: where its rows came from, the problems in it, and each model's figures.

    `of` is the number of problems that the whole benchmark has, null where that is unknown.
    """

    source: str
    problems: int
    of: int | None
    models: dict[str, BenchmarkScore]
    changes: dict[str, BenchmarkChange]


def benchmark_summary(
    answers: Mapping[str, Sequence[EvaluationRow]], *, source: str, of: int | None, seed: int
) -> BenchmarkSummary:
    """Score models by name on the problems of one set, the first one beside each other.

    Raises:
        ValueError: there is no model, a model answered nothing, or they were asked different
            problems.
    """
    (_, base), *others = answers.items()
    return {
        "source": source,
        "problems": len(base),
        "of": of,
        "models": {name: _score(rows, seed) for name, rows in answers.items()},
        "changes": {name: _change(base, rows, seed) for name, rows in others},
    }


def _score(rows: Sequence[EvaluationRow], seed: int) -> BenchmarkScore:
    answered = sorted((row for row in rows if row.error is None), key=lambda row: row.problem_id)
    if not answered:
        raise ValueError("no problem was answered, so there is nothing to score")
    right = [row.verdict is Verdict.CORRECT for row in answered]
    samples = min(len(row.sample_verdicts) for row in answered)
    drawn = [_sampled(row) for row in answered]
    means = [_mean(row) for row in answered]
    majority = (
        maj_at_k(row.sample_answers, each) for row, each in zip(answered, drawn, strict=True)
    )
    four, eight = (
        fmean(pass_at_k(len(each), sum(each), k) for each in drawn) if samples >= k else None
        for k in DRAWS
    )
    return {
        "n": len(answered),
        "failed": len(rows) - len(answered),
        "samples": samples,
        "pass@1": fmean(right),
        "ci95": list(wilson_interval(sum(right), len(right))),
        "mean@k": fmean(means) if samples else None,
        "mean_ci95": list(bootstrap_interval(means, seed=seed)) if samples else None,
        "maj@k": fmean(majority) if samples else None,
        "pass@4": four,
        "pass@8": eight,
    }


def _change(
    base: Sequence[EvaluationRow], other: Sequence[EvaluationRow], seed: int
) -> BenchmarkChange:
    pairs = answered_by_both(base, other)
    if not pairs[0]:
        raise ValueError("no problem was answered by both models, so there is nothing to compare")
    sampled = all(row.sample_verdicts for rows in pairs for row in rows)
    value = _mean if sampled else _greedy
    before, after = ([value(row) for row in rows] for rows in pairs)
    gains = [new - old for old, new in zip(before, after, strict=True)]
    return {
        "of": "mean@k" if sampled else "pass@1",
        "n": len(gains),
        "difference": fmean(gains),
        "ci95": list(bootstrap_interval(gains, seed=seed)),
        "p_value": paired_test(before, after, seed=seed),
    }


def _sampled(row: EvaluationRow) -> list[bool]:
    return [verdict is Verdict.CORRECT for verdict in row.sample_verdicts]


def _mean(row: EvaluationRow) -> float:
    return mean_at_k(_sampled(row))


def _greedy(row: EvaluationRow) -> float:
    return float(row.verdict is Verdict.CORRECT)
