"""The parts of summary.json about rollouts and pairs: counts over the columns of their files."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from sphere_ray import storage
from sphere_ray.method.audit import AuditedPairs
from sphere_ray.records import CORRECTION_CHECK, Outcome, PoolUse, StageName
from sphere_ray.reporting.columns import ROLLOUT_COLUMNS, count_rollouts

FAILED_ROUTE = "failed"
_SIDES = ("chosen", "rejected")
PAIR_COLUMNS = ("stage", *(f"{side}_chain" for side in _SIDES))


class StageSummary(TypedDict):
    """What one stage did: problems that entered it, chains it made, chains that were right.

    `tokens` were decoded for it, those of the scorer included.
    """

    problems: int
    tokens: int
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

    `from_completions` are those of which a side is a completion behind a rollout value. `per_hour`
    is by stage, over the time of the rollouts. `tokens_per_pair` are the decoded tokens of the
    rollouts for each pair (null: no pair), `per_1000_tokens` the pairs for each 1,000 of them.
    `audit` is null where no audit was honoured, or it decided nothing.
    """

    total: int
    by_stage: dict[str, int]
    from_completions: int
    tokens_per_pair: float | None
    per_1000_tokens: float
    per_hour: dict[str, float]
    dropped: dict[str, int]
    audit: AuditedPairs | None


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
                "tokens": counts.stage_tokens[stage],
                "chains": chains[stage],
                "correct": counts.correct[stage],
            }
            for stage in stages
        },
        "routes": dict(sorted(routes.items())),
        "prm_inversions": sum(routes[f"{stage}:{Outcome.INVERSION}"] for stage in stages),
        "wrong_to_correct": _repaired(routes),
        "correct_to_wrong": routes[f"{CORRECTION_CHECK}:{Outcome.LOST}"],
    }


def corrections(rollouts: str) -> tuple[int, int]:
    """Return how many problems of a rollouts step self-correction tried, and how many repaired."""
    routes = count_rollouts(storage.tables(rollouts, ROLLOUT_COLUMNS)).routes
    second = f"{StageName.SELF_CORRECTION}:"
    tried = sum(count for entry, count in routes.items() if entry.startswith(second))
    return tried, _repaired(routes)


def _repaired(routes: Mapping[str, int]) -> int:
    ends = (Outcome.PAIR, Outcome.BOTH_RIGHT)
    return sum(routes.get(f"{StageName.SELF_CORRECTION}:{end}", 0) for end in ends)


def _pool_summary(use: PoolUse) -> PoolSummary:
    hits, idle = use.prefix_share, use.idle
    return {
        "replicas": use.replicas,
        "tokens_per_second": round(use.generated_tokens / use.seconds, 3) if use.seconds else 0.0,
        "prefilled_tokens": use.prefix_queries - use.prefix_hits,
        "prefix_hits": None if hits is None else round(hits, 4),
        "idle": 1.0 if idle is None else round(idle, 4),
    }


def pairs_summary(
    tables: Iterable[pa.Table],
    dropped: Mapping[str, int],
    seconds: float,
    tokens: int,
    audit: AuditedPairs | None = None,
) -> PairsSummary:
    """Count the pairs to train on, from their columns `PAIR_COLUMNS`.

    `dropped` is by reason, over all gates; `seconds` and `tokens` are those of the rollouts.
    """
    by_stage: Counter[str] = Counter()
    completed = 0
    for table in tables:
        by_stage.update(table["stage"].to_pylist())
        either = pc.or_(*(_is_completion(table[f"{side}_chain"]) for side in _SIDES))
        completed += pc.sum(either).as_py() or 0
    total = by_stage.total()
    return {
        "total": total,
        "by_stage": {str(stage): by_stage[stage] for stage in StageName},
        "from_completions": completed,
        "tokens_per_pair": round(tokens / total, 1) if total else None,
        "per_1000_tokens": round(1000 * total / tokens, 3) if tokens else 0.0,
        "per_hour": {
            str(stage): round(3600 * by_stage[stage] / seconds, 1) if seconds else 0.0
            for stage in StageName
        },
        "dropped": dict(sorted(dropped.items())),
        "audit": audit,
    }


def _is_completion(chains: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which ids name a completion below a chain (see `PreferencePair`)."""
    return pc.match_substring(chains, "/")
