"""The part of summary.json about reward sources: who scored, how well, and the hand-over."""

from collections.abc import Iterable
from typing import TypedDict

import numpy as np
import pyarrow as pa

from sphere_ray.reporting.columns import judged_steps, scored_steps
from sphere_ray.reward.process import JudgedSteps, ProcessSummary, process_summary
from sphere_ray.reward.quality import Quality, rank_correlation


class TrainedRewardSummary(TypedDict):
    """The reward model trained from what this and earlier iterations recorded.

    It learned from `labels` steps of `problems` problems. `held_out` are its figures on problems
    it never saw, null where it was not trained. `refusal` says why it does not take over, and is
    null if it does.
    """

    problems: int
    labels: int
    steps: int
    loss_first: float | None
    loss_last: float | None
    held_out: Quality | None
    refusal: str | None


class RewardSummary(TypedDict):
    """Who scored a rollout: the kind of the configured source, or `trained`.

    `steps` were scored, and the original source scored `audited` of them too. `agreement` is
    Spearman's correlation of the two on the audited steps. `distinct_candidates` is the mean number
    of different next steps that the search had to choose from, the effective E (null: no search).
    `process` are the process metrics of each problem's stage-1 Sol_max, a step being valid from a
    reward of one half on.
    """

    source: str
    steps: int
    distinct_candidates: float | None
    audited: int
    agreement: float | None
    process: ProcessSummary
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

    quality: Quality
    inversions: float | None
    failed_rows: int
    cost_per_1000: CostSummary | None


class ScoreReport(TypedDict):
    """report.json: `completions` per fresh value; `agreement` is Spearman's of two sources."""

    problems: int
    completions: int
    sources: dict[str, SourceReport]
    agreement: dict[str, float | None]


def reward_summary(tables: Iterable[pa.Table], source: str) -> RewardSummary:
    """Count the columns `REWARD_COLUMNS` of rollouts; tables may be a stream, file by file.

    `source` is the kind of the reward source. A later step fills in `trained`.
    """
    steps, positions, siblings = 0, 0, 0
    rewards, audits = [np.empty(0)], [np.empty(0)]
    judged = list[JudgedSteps]()
    for table in tables:
        judged.append(judged_steps(table))
        found = scored_steps(table)
        steps += len(found.rewards)
        positions += found.positions
        siblings += found.siblings
        audited = found.audits.is_valid()
        rewards.append(found.rewards.filter(audited).to_numpy())
        audits.append(found.audits.filter(audited).to_numpy())
    one, other = np.concatenate(rewards), np.concatenate(audits)
    return {
        "source": source,
        "steps": steps,
        "distinct_candidates": round(siblings / positions, 3) if positions else None,
        "audited": len(other),
        "agreement": rank_correlation(one, other),
        "process": process_summary(JudgedSteps.joined(judged)),
        "trained": None,
    }
