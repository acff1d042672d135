"""Whether a new policy replaces the one before."""

from collections.abc import Sequence

from sphere_ray.config.evaluation import PromotionSettings
from sphere_ray.records import EvaluationRow, Verdict


def refusal(
    before: Sequence[EvaluationRow], after: Sequence[EvaluationRow], settings: PromotionSettings
) -> str | None:
    """Why the new policy is not promoted; None if it is.

    `before` and `after` are the answers of the two policies to the validation problems; problems
    that one of them could not be asked (`error`) count for neither.
    """
    failed = {row.problem_id for row in (*before, *after) if row.error is not None}
    old, new = (_answered(rows, failed) for rows in (before, after))
    if not new:
        return "no validation problem was answered by both policies"
    accuracy, reached = pass_at_1(old), pass_at_1(new)
    if reached < accuracy - settings.tolerance:
        return f"validation pass@1 fell from {accuracy:.3f} to {reached:.3f}"
    truncated = sum(row.verdict is Verdict.TRUNCATED for row in new) / len(new)
    if truncated > settings.max_truncated_share:
        return f"{truncated:.0%} of its validation answers ran into the token limit"
    return None


def pass_at_1(rows: Sequence[EvaluationRow]) -> float:
    """Share of greedy answers that are correct."""
    return sum(row.verdict is Verdict.CORRECT for row in rows) / len(rows)


def _answered(rows: Sequence[EvaluationRow], failed: set[str]) -> list[EvaluationRow]:
    return [row for row in rows if row.problem_id not in failed]
