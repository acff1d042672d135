"""Parts of a summary that a made run has no files for: benchmarks and an audit."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime

from sphere_ray.records import EvaluationRow, Verdict
from sphere_ray.reporting.audit_summary import AuditSummary, audit_summary
from sphere_ray.reporting.benchmark_summary import BenchmarkSummary, benchmark_summary
from sphere_ray.reward.judgements import AuditLine, Judged

_PROBLEMS = 60


def benchmark(draw: random.Random, *shares: float, samples: int = 0) -> BenchmarkSummary:
    def verdict(share: float) -> Verdict:
        return Verdict.CORRECT if draw.random() < share else Verdict.WRONG

    answers = {
        name: [
            EvaluationRow(
                problem_id=str(number),
                family=None,
                level=None,
                verdict=verdict(share),
                sample_verdicts=tuple(verdict(share) for _ in range(samples)),
                sample_answers=tuple(str(each) for each in range(samples)),
                error="too long" if number < 2 else None,
            )
            for number in range(_PROBLEMS)
        ]
        for name, share in zip(("base", "final"), shares, strict=True)
    }
    return benchmark_summary(answers, source="benchmark", of=200, seed=0)


def audit(problem_ids: Sequence[str]) -> AuditSummary | None:
    """What people decided: three accepted pairs, one of them against the scorer."""
    sides = (("right", Verdict.CORRECT), ("wrong", Verdict.WRONG))
    return audit_summary(
        [
            AuditLine(
                when=datetime(2026, 1, 1, tzinfo=UTC),
                who="ann",
                iteration=0,
                problem_id=name,
                pair_id=f"pair of {name}",
                chain_id=None,
                stage="self_generation",
                decision="accept",
                comment="fine",
                sides=tuple(
                    Judged(
                        chain_id=f"{name} {side}",
                        text_id=f"{name} {side}",
                        verdict=verdict,
                        reward=abs((side == "right") - (0.2 if number else 0.7)),
                    )
                    for side, verdict in sides
                ),
            )
            for number, name in enumerate(problem_ids)
        ]
    )
