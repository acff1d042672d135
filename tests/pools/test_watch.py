"""What people are told of nodes that leave, and of engines that are missing."""

from sphere_ray.compat.ray import ActorRow
from sphere_ray.config.models import PoolSettings
from sphere_ray.config.placement import NodeResources
from sphere_ray.pools.actor import pool_of, replica_name
from sphere_ray.pools.pools import shortage
from sphere_ray.pools.watch import farewell

NODE = NodeResources(name="node 10.0.0.5 (01234567)", node_id="0123456789abcdef", cpus=8, gpus=4)


def actor(name: str, kind: str) -> ActorRow:
    return ActorRow(name=name, kind=kind, node_id=NODE.node_id)


def test_a_node_that_leaves_is_named_with_what_was_on_it() -> None:
    lost = [
        *(actor(replica_name("a run", "policy-01", i), "EngineActor") for i in range(3)),
        actor("", "MapWorker(MapBatches(SelfGeneration))"),
        actor("", "_StatsActor"),
    ]
    assert farewell(NODE, lost) == (
        "node 10.0.0.5 (01234567) left with 3 x engine of policy-01, 1 x stage SelfGeneration; "
        "what they worked on is done again elsewhere"
    )
    assert farewell(NODE, []).endswith("left; nothing of this run was on it")


def test_a_replica_tells_its_pool_whatever_the_run_is_called() -> None:
    assert pool_of(replica_name("a/b", "policy-01", 3)) == "policy-01"


def test_a_shortage_says_how_many_engines_serve_and_what_the_others_need() -> None:
    pool = PoolSettings.model_validate(
        {"gpus": 1, "tensor_parallel": 2, "replicas": {"min": 4, "max": 9}}
    )
    assert shortage("policy", pool, serving=1, starting=1, free=1.0) == (
        "1 of 4 engines of policy serve, 1 start, 2 not placed (2 GPUs each, 1 are free)"
    )
