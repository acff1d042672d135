"""Finer counts than the board shows: chains by stage and verdict, rewards, answers by verdict.

A count is named by a path, `verdicts/diversity/wrong`; see `Snapshot.details`.
"""

from collections import Counter
from collections.abc import Sequence

from sphere_ray.records import Chain, EvaluationRow

VERDICTS, REWARD, ANSWERS = "verdicts", "reward", "answers"
REWARD_BUCKETS = 10
"""Rewards are counted in so many equal parts of [0, 1]."""


def tally_chains(chains: Sequence[Chain]) -> Counter[str]:
    """Count new chains, and the rewards of their candidate steps once each."""
    counts = Counter(f"{VERDICTS}/{chain.stage}/{chain.verdict}" for chain in chains)
    # Sol_max and Sol_min share their first siblings.
    steps = {id(step.candidates): step.candidates for chain in chains for step in chain.steps}
    for candidate in (candidate for siblings in steps.values() for candidate in siblings):
        if candidate.reward is not None:
            bucket = min(int(candidate.reward * REWARD_BUCKETS), REWARD_BUCKETS - 1)
            counts[f"{REWARD}/{bucket}"] += 1
    return counts


def tally_answers(row: EvaluationRow) -> Counter[str]:
    """Count the greedy answer and the samples by verdict."""
    greedy = () if row.verdict is None else (row.verdict,)
    return Counter(f"{ANSWERS}/{verdict}" for verdict in (*greedy, *row.sample_verdicts))
