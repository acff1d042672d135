"""How many engines a pool has: a number, or a range."""

from typing import Any

import pytest
from pydantic import ValidationError

from sphere_ray.config.base import dump, identity
from sphere_ray.config.models import PoolSettings


def pool(**fields: Any) -> PoolSettings:
    return PoolSettings.model_validate({"gpus": 1, **fields})


@pytest.mark.parametrize(
    ("replicas", "fewest", "most"),
    [(3, 3, 3), ({"min": 2, "max": 5}, 2, 5), ({"max": 4}, 1, 4), ({"min": 3, "max": 3}, 3, 3)],
)
def test_a_pool_has_a_number_of_engines_or_a_range(replicas: Any, fewest: int, most: int) -> None:
    found = pool(replicas=replicas)
    assert (found.min_replicas, found.max_replicas) == (fewest, most)
    assert PoolSettings.model_validate(dump(found)) == found


def test_the_number_of_engines_is_placement() -> None:
    assert identity(p=pool(replicas={"min": 1, "max": 9})) == identity(p=pool(replicas=2))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"replicas": {"min": 4, "max": 2}}, "max: 2 is less than min: 4"),
        ({"replicas": 0}, "greater than"),
        ({"replicas": {"min": 1, "max": 2}, "gpus": 0.5, "kv_cache_gib": 1}, "whole GPUs"),
        ({"replicas": {"min": 1, "max": 2}, "gpus": 0, "kv_cache_gib": 1}, "whole GPUs"),
        ({"replicas": {"min": 1}}, "max"),
    ],
)
def test_impossible_ranges_are_refused_with_a_reason(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        pool(**fields)
