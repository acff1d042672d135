"""What is shown of pools and steps, computed without Ray."""

import pytest

from sphere_ray.engines.engine import EngineStats
from sphere_ray.pools.usage import load
from sphere_ray.rollout.shards import title


def test_the_load_of_a_pool_is_that_between_two_looks() -> None:
    before = [EngineStats(busy_s=10, generated_tokens=100, prefix_queries=50, prefix_hits=20)] * 2
    after = [
        EngineStats(
            running=3,
            waiting=1,
            kv_cache_use=0.5,
            busy_s=14,
            generated_tokens=300,
            prefix_queries=90,
            prefix_hits=50,
        ),
        EngineStats(running=2, busy_s=10, generated_tokens=100, prefix_queries=50, prefix_hits=20),
    ]
    assert load(before, after, seconds=4.0) == {
        "running": 5,
        "waiting": 1,
        "tokens_per_second": 50,
        "kv_cache_use": 0.25,
        "idle": 0.5,
        "prefix_hits": 0.75,
    }


def test_a_restarted_replica_and_a_lost_one_give_no_nonsense() -> None:
    old, new = EngineStats(busy_s=90, generated_tokens=900), EngineStats(busy_s=1)
    found = load([old], [new], seconds=5.0)
    assert (found["tokens_per_second"], found["idle"]) == (0, 1)
    assert load([old], [], seconds=5.0) == {"running": 0, "waiting": 0, "tokens_per_second": 0}


@pytest.mark.parametrize(
    ("directory", "shown"),
    [
        ("/data/runs/laptop/iter-003/rollouts/_parts", "laptop-iter-003-rollouts"),
        ("/data/runs/laptop/iter-000/evaluation/trained-2", "laptop-iter-000-evaluation-trained-2"),
        ("/data/runs/laptop/evaluation/base/_parts", "laptop-evaluation-base"),
        ("s3://bucket/laptop/iter-000/pairs-1a2b3c4d", "laptop-iter-000-pairs-1a2b3c4d"),
        ("x", "x"),
    ],
)
def test_a_step_is_named_by_run_and_iteration(directory: str, shown: str) -> None:
    assert title(directory) == shown
