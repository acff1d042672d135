from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config import RunSettings
from sphere_ray.config.placement import (
    NodeResources,
    engines_share_cores,
    has_room_beside,
    needed_resources,
)
from sphere_ray.errors import PlacementError
from sphere_ray.planning.placement import check_placement

BOX = NodeResources(cpus=64, gpus=8)
HEAD = NodeResources(cpus=0, gpus=0)


def settings(
    policy: dict[str, Any], small: dict[str, Any] | None = None, **trainer: Any
) -> RunSettings:
    engines: dict[str, Any] = {"policy": {"path": "m"}, "policy_pool": policy}
    if small is not None:
        engines |= {"small": {"path": "s"}, "small_pool": small}
    splits = ("train", "validation", "test")
    return RunSettings.model_validate(
        {
            "name": "t",
            "run_dir": "r",
            "problems": {split: {"source": f"file:{split}"} for split in splits},
            "engines": engines,
            "trainer": trainer,
        }
    )


def test_engines_fit_on_the_nodes_there_are() -> None:
    check_placement(settings({"gpus": 1, "tensor_parallel": 4, "replicas": 4}), [HEAD, BOX, BOX])
    shared = {"gpus": 0.5, "kv_cache_gib": 1, "replicas": 8}
    check_placement(settings({"gpus": 1, "replicas": 4}, shared), [BOX])


@pytest.mark.parametrize(
    ("pool", "gpus"),
    [
        # Enough in sum, but three times 0.6 do not fit on two GPUs, nor 8 ranks on 4 GPUs.
        ({"gpus": 0.6, "kv_cache_gib": 1, "replicas": 3}, 2),
        ({"gpus": 1, "tensor_parallel": 8}, 4),
    ],
)
def test_what_fits_in_sum_only_is_refused(pool: dict[str, Any], gpus: int) -> None:
    nodes = [NodeResources(cpus=8, gpus=gpus) for _ in range(2 if gpus == 4 else 1)]
    assert needed_resources(settings(pool)).gpus <= sum(node.gpus for node in nodes)
    with pytest.raises(PlacementError, match="an engine of the policy pool"):
        check_placement(settings(pool), nodes)


@given(replicas=st.integers(1, 6), ranks=st.sampled_from([1, 2, 4]), nodes=st.integers(1, 4))
def test_whole_engines_on_equal_nodes(replicas: int, ranks: int, nodes: int) -> None:
    pool = {"gpus": 1, "tensor_parallel": ranks, "replicas": replicas}
    cluster = [NodeResources(cpus=8, gpus=4)] * nodes
    if replicas <= nodes * (4 // ranks):
        check_placement(settings(pool), cluster)
    else:
        with pytest.raises(PlacementError):
            check_placement(settings(pool), cluster)


@pytest.mark.parametrize(
    ("trainer", "room"),
    [
        ({"workers": 4, "use_gpu": True}, True),
        ({"workers": 8, "use_gpu": True}, False),
        ({"workers": 8}, True),
        ({"workers": 2, "cpus_per_worker": 31}, True),
        ({"workers": 2, "cpus_per_worker": 32}, False),
        ({"workers": 2, "cpus_per_worker": 1.5}, False),
    ],
)
def test_training_starts_beside_a_rollout_where_it_fits(
    trainer: dict[str, Any], room: bool
) -> None:
    chosen = settings({"gpus": 1, "replicas": 4}, **trainer)
    check_placement(chosen, [BOX])
    # Four engines have taken a GPU each, and no CPU.
    assert has_room_beside(chosen, NodeResources(cpus=64, gpus=4)) is room


@pytest.mark.parametrize(
    ("policy", "small", "shared"),
    [
        ({"kv_cache_gib": 1}, None, False),
        ({"kv_cache_gib": 1}, {"kv_cache_gib": 1}, True),
        ({"gpus": 1}, {"kv_cache_gib": 1}, False),
    ],
)
def test_several_pools_without_gpus_share_cores(
    policy: dict[str, Any], small: dict[str, Any] | None, shared: bool
) -> None:
    assert engines_share_cores(settings(policy, small)) is shared
