"""The part of summary.json about reward sources: who scored, how well, and the hand-over."""

from collections.abc import Iterable
from typing import TypedDict

from sphere_ray.records import Candidate, Rollout
from sphere_ray.reward.quality import rank_correlation


class ReliabilitySummary(TypedDict):
    """A tenth of [0, 1] by score: number of steps, their mean score and mean value."""

    steps: int
    score: float
    value: float


class QualitySummary(TypedDict):
    """Figures of a source against rollout values; see `sphere_ray.reward.quality.Quality`."""

    steps: int
    problems: int
    auc: float | None
    baseline_auc: float | None
    ece: float
    siblings: float | None
    first_error: float | None
    spread: float
    bins: list[ReliabilitySummary]


class TrainedRewardSummary(TypedDict):
    """The reward model trained from what this and earlier iterations recorded.

    `labels` steps of `problems` problems; `held_out` are its figures on problems it never saw,
    null where it was not trained. `refusal` says why it does not take over, and is null if it does.
    """

    problems: int
    labels: int
    steps: int
    loss_first: float | None
    loss_last: float | None
    held_out: QualitySummary | None
    refusal: str | None


class RewardSummary(TypedDict):
    """Who scored a rollout: the kind of the configured source, or `trained`.

    `steps` were scored, `audited` of them by the original source too; `agreement` is Spearman's
    correlation of the two on these.
    """

    source: str
    steps: int
    audited: int
    agreement: float | None
    trained: TrainedRewardSummary | None


class CostSummary(TypedDict):
    """Per 1,000 scored steps: tokens decoded and prefilled (cached ones left out), and seconds."""

    decoded_tokens: float
    prefilled_tokens: float
    seconds: float


class SourceReport(TypedDict):
    """One source: its figures against fresh values, and its cost (null where work was resumed).

    `inversions`: of the pairs of a right and a wrong chain of one problem, the share in which the
    wrong one's last step has the higher score, ties half; null without such pairs.
    """

    quality: QualitySummary
    inversions: float | None
    failed_rows: int
    cost_per_1000: CostSummary | None


class ScoreReport(TypedDict):
    """report.json: `completions` per fresh value; `agreement` is Spearman's of two sources."""

    problems: int
    completions: int
    sources: dict[str, SourceReport]
    agreement: dict[str, float | None]


def reward_summary(rollouts: Iterable[Rollout], source: str) -> RewardSummary:
    """Count what the rollouts record about their rewards; `trained` is filled in by its phase."""
    rewards, audits, steps = list[float](), list[float](), 0
    for rollout in rollouts:
        for candidate in scored_candidates(rollout):
            steps += 1
            if candidate.audit is not None and candidate.reward is not None:
                rewards.append(candidate.reward)
                audits.append(candidate.audit)
    return {
        "source": source,
        "steps": steps,
        "audited": len(audits),
        "agreement": rank_correlation(rewards, audits),
        "trained": None,
    }


def scored_candidates(rollout: Rollout) -> list[Candidate]:
    """Every candidate with a reward, once: chains share the siblings of their first steps."""
    sets: dict[tuple[tuple[int, ...], tuple[Candidate, ...]], None] = {}
    for chain in rollout.chains:
        prefix: tuple[int, ...] = ()
        for step in chain.steps:
            sets[prefix, step.candidates] = None
            prefix += step.candidate.token_ids
    return [
        candidate for _, siblings in sets for candidate in siblings if candidate.reward is not None
    ]
