"""What a pool did between two looks at its replicas."""

from collections.abc import Sequence

from sphere_ray.engines.engine import EngineStats
from sphere_ray.records import PoolUse


def load(
    before: Sequence[EngineStats], after: Sequence[EngineStats], seconds: float
) -> dict[str, float]:
    """The load of a pool's replicas: now, and over the `seconds` between two looks at them.

    `running` and `waiting` are sequences, `kv_cache_use`, `prefix_hits` and `idle` shares; without
    replicas or without prompts the shares are left out.
    """
    found = {
        "running": float(sum(each.running for each in after)),
        "waiting": float(sum(each.waiting for each in after)),
        "tokens_per_second": _grown("generated_tokens", before, after) / seconds,
    }
    if after:
        found["kv_cache_use"] = sum(each.kv_cache_use for each in after) / len(after)
        busy = _grown("busy_s", before, after) / (len(after) * seconds)
        found["idle"] = 1 - min(busy, 1.0)
    if asked := _grown("prefix_queries", before, after):
        found["prefix_hits"] = _grown("prefix_hits", before, after) / asked
    return found


def use_of(
    name: str, before: Sequence[EngineStats], after: Sequence[EngineStats], seconds: float
) -> PoolUse:
    """What the replicas of a pool did in the `seconds` between two looks at them."""
    return PoolUse(
        name=name,
        replicas=len(after),
        seconds=round(seconds, 3),
        busy_s=round(_grown("busy_s", before, after), 3),
        generated_tokens=int(_grown("generated_tokens", before, after)),
        prefix_queries=int(_grown("prefix_queries", before, after)),
        prefix_hits=int(_grown("prefix_hits", before, after)),
    )


def _grown(counter: str, before: Sequence[EngineStats], after: Sequence[EngineStats]) -> float:
    # A replica that was restarted meanwhile counts from zero.
    old, new = (sum(getattr(each, counter) for each in side) for side in (before, after))
    return float(max(new - old, 0))
