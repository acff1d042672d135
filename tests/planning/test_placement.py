from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config import RunSettings
from sphere_ray.config.placement import (
    NodeResources,
    engines_share_cores,
    evaluated,
    has_room_beside,
    needed_resources,
)
from sphere_ray.errors import PlacementError
from sphere_ray.planning.placement import bundles, check_placement

BOX = NodeResources(cpus=64, gpus=8)
QUAD = NodeResources(cpus=8, gpus=4)
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


def named(*nodes: NodeResources) -> list[NodeResources]:
    return [replace(node, name=f"node-{n}") for n, node in enumerate(nodes, 1)]


def refused(
    pool: dict[str, Any], small: dict[str, Any] | None, nodes: list[NodeResources], **trainer: Any
) -> str:
    with pytest.raises(PlacementError) as refusal:
        check_placement(settings(pool, small, **trainer), nodes)
    return str(refusal.value)


def test_every_engine_gets_a_node_and_the_workers_room() -> None:
    shared = {"gpus": 0.5, "kv_cache_gib": 1, "replicas": 4}
    groups = {"gpus": 1, "tensor_parallel": 4, "replicas": 2}
    nodes = named(QUAD, QUAD, QUAD)
    found = check_placement(settings(groups, shared, workers=8, use_gpu=True), nodes)
    homes = {(each.pool, each.replica): each.node.name for each in found.engines}
    assert len({homes["policy", 0], homes["policy", 1]}) == 2
    # Halves go to the node that is left, two on a GPU.
    assert {homes["small", n] for n in range(4)} == {"node-3"}
    assert [(node.name, number) for node, number in found.workers] == [
        ("node-1", 4),
        ("node-2", 4),
        ("node-3", 4),
    ]
    assert not found.beside


def test_a_refusal_names_the_node_and_the_shortage() -> None:
    nodes = named(HEAD, QUAD, QUAD)
    told = refused({"gpus": 1, "tensor_parallel": 8}, None, nodes)
    assert "8 whole GPUs on one node" in told
    assert "node-2, has 4: 4 short" in told
    pool = {"gpus": 1, "tensor_parallel": 3, "replicas": 2}
    told = refused(pool, {"gpus": 1, "tensor_parallel": 2}, nodes)
    assert "an engine of the small pool needs 2 whole GPUs on one node" in told
    assert "node-2 1 of 4, node-3 1 of 4" in told
    assert "is 1 short" in told
    told = refused(
        {"gpus": 0.6, "kv_cache_gib": 1, "replicas": 3}, None, named(replace(BOX, gpus=2))
    )
    assert "in pieces of GPUs only" in told


def test_workers_need_a_whole_gpu_and_their_cpus_on_one_node() -> None:
    # Twelve GPUs and 24 CPUs, but a worker's four CPUs lie on a node of eight.
    trainer = {"workers": 8, "use_gpu": True, "cpus_per_worker": 3}
    told = refused({"gpus": 1}, None, named(QUAD, QUAD, QUAD), **trainer)
    assert "room for 6 (node-1 2, node-2 2, node-3 2): 2 short" in told


def test_a_gpu_that_is_too_small_is_refused_with_the_sum() -> None:
    model = {"path": "Qwen/Qwen2.5-7B-Instruct", "max_model_len": 6144}
    small, large = (replace(QUAD, gpu_bytes=size * 1e9) for size in (16, 24))
    base = settings({"gpus": 1})
    chosen = RunSettings.model_validate(
        {**base.model_dump(), "engines": {"policy": model, "policy_pool": {"gpus": 1}}}
    )
    check_placement(chosen, [large])
    with pytest.raises(PlacementError, match=r"needs at least 1\d\.\d GB .*node-1.*GB short"):
        check_placement(chosen, named(small))
    # The engine goes where it fits.
    (placed,) = check_placement(chosen, named(small, large)).engines
    assert placed.node.name == "node-2"
    trained = {"training": {"precision": "bf16"}, "trainer": {"use_gpu": True, "zero_stage": 3}}
    alone = RunSettings.model_validate({**chosen.model_dump(), **trained})
    with pytest.raises(PlacementError, match=r"weights, gradients and optimizer"):
        check_placement(alone, named(large))


def test_an_autoscaler_is_asked_for_what_must_be_there_at_once() -> None:
    asked = bundles(settings({"gpus": 1, "tensor_parallel": 2}, workers=4, use_gpu=True))
    assert [each["GPU"] for each in asked if "GPU" in each] == [2, 1, 1]
    assert sum(each.get("CPU", 0) for each in asked) >= 4


def overlapped(
    policy: dict[str, Any], small: dict[str, Any] | None = None, **trainer: Any
) -> RunSettings:
    known = settings(policy, small, **trainer).model_dump(exclude={"trackers"})
    return RunSettings.model_validate(known | {"schedule": "overlapped", "iterations": 2})


def test_overlapped_needs_both_partitions_at_once_and_says_the_sum() -> None:
    chosen = overlapped({"gpus": 1, "replicas": 6}, workers=4, use_gpu=True)
    with pytest.raises(PlacementError) as refusal:
        check_placement(chosen, [BOX])
    message = str(refusal.value)
    assert "10 GPUs" in message
    assert "policy 6 x 1 GPUs x 1 ranks" in message
    assert "4 workers x 1 CPUs and 1 GPUs" in message
    assert "evaluation: 1.3 CPUs for stages, 4 x 1 GPUs x 1 ranks" in message
    assert "set schedule: sequential" in message
    assert "\n" not in message
    fits = overlapped({"gpus": 1, "replicas": 4}, workers=4, use_gpu=True)
    check_placement(fits, [BOX])
    check_placement(settings({"gpus": 1, "replicas": 6}, workers=4, use_gpu=True), [BOX])


def test_an_overlapped_part_that_fits_in_sum_only_is_refused() -> None:
    nodes = [NodeResources(cpus=32, gpus=3)] * 2
    chosen = overlapped({"gpus": 1, "tensor_parallel": 2}, workers=2, use_gpu=True)
    check_placement(chosen, nodes)
    larger = overlapped({"gpus": 1, "tensor_parallel": 2, "replicas": 2}, workers=2, use_gpu=True)
    assert needed_resources(larger).gpus == 6
    with pytest.raises(
        PlacementError, match=r"needs 2 whole GPUs on one node.*set schedule: sequential"
    ):
        check_placement(larger, nodes)


@given(
    replicas=st.integers(1, 8),
    ranks=st.sampled_from([1, 2, 4]),
    workers=st.sampled_from([1, 2, 4, 8]),
)
def test_evaluations_take_the_gpus_of_the_workers(replicas: int, ranks: int, workers: int) -> None:
    pool = {"gpus": 1, "tensor_parallel": ranks, "replicas": replicas}
    chosen = overlapped(pool, workers=workers, use_gpu=True)
    found = evaluated(chosen).engines.policy_pool
    assert 1 <= found.replicas <= replicas
    assert found.replicas * ranks <= max(workers, ranks)
    assert needed_resources(chosen).gpus == replicas * ranks + max(workers, found.replicas * ranks)
    assert (
        evaluated(settings(pool, workers=workers, use_gpu=True)).engines.policy_pool.replicas
        == replicas
    )


def test_two_streams_and_a_trainer_find_their_whole_cpus() -> None:
    """Of a node's whole CPUs Ray Data gives two streams an equal number each."""
    chosen = overlapped({"kv_cache_gib": 1}, workers=2)
    assert needed_resources(chosen).cpus == 4  # two streams, each of more than one CPU
    assert needed_resources(settings({"kv_cache_gib": 1}, workers=2)).cpus == 2
    many = overlapped({"kv_cache_gib": 1}, workers=8)
    assert needed_resources(many).cpus == pytest.approx(1.5 + 8)


def test_evaluation_and_training_get_places_beside_the_rollouts() -> None:
    chosen = overlapped({"gpus": 1, "replicas": 4}, workers=2, use_gpu=True)
    found = check_placement(chosen, named(QUAD, QUAD))
    assert [each.node.name for each in found.engines] == ["node-1"] * 4
    assert [each.node.name for each in found.evaluation] == ["node-2"] * 2
    assert [(node.name, number) for node, number in found.workers] == [("node-2", 4)]
    assert not check_placement(settings({"gpus": 1}), [BOX]).evaluation


def test_workers_find_no_room_on_the_gpus_that_rollouts_share() -> None:
    # Three of 4 GPUs hold 0.6 each: what is left is more than two GPUs, but one whole one.
    pool = {"gpus": 0.6, "kv_cache_gib": 1}
    chosen = [overlapped(pool, pool | {"replicas": 2}, workers=n, use_gpu=True) for n in (1, 2)]
    check_placement(chosen[0], named(QUAD))
    with pytest.raises(PlacementError, match=r"room for 1 beside the engines of rollouts .*1 sh"):
        check_placement(chosen[1], named(QUAD))


def test_an_autoscaler_is_asked_for_both_partitions() -> None:
    pool = {"gpus": 1, "tensor_parallel": 2}
    asked = bundles(overlapped(pool, {"gpus": 1}, workers=4, use_gpu=True))
    # Rollouts have 2 + 1, evaluation takes 2, and training 2 more in its turn.
    assert [each["GPU"] for each in asked if "GPU" in each] == [2, 1, 2, 1, 1]
