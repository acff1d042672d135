"""Three raylets of four declared GPUs each: what is planned is where it runs, or is refused."""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sphere_ray.config import RunSettings
from sphere_ray.errors import PlacementError
from sphere_ray.planning.placement import check_placement
from sphere_ray.pools.nodes import cluster_nodes
from sphere_ray.pools.pools import Pools
from sphere_ray.pools.roles import base_model, roles_of
from sphere_ray.rollout.cluster import connected

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NODE: dict[str, Any] = {"num_cpus": 4, "num_gpus": 4, "object_store_memory": 100 << 20}
PAIRS = {"gpus": 1, "tensor_parallel": 2, "replicas": 2}
FOURS = {"gpus": 1, "tensor_parallel": 4, "replicas": 2}
HALVES = {"gpus": 0.5, "kv_cache_gib": 1, "replicas": 4}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes; the last test adds a fourth."""
    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        for _ in range(2):
            made.add_node(**NODE)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def settings(cluster: Cluster, policy: dict[str, Any], small: dict[str, Any], **more: Any) -> Any:
    engines = {
        "backend": "simulated",
        "policy": {"path": "m"},
        "policy_pool": policy,
        "small": {"path": "s"},
        "small_pool": small,
        "scorer": {"kind": "rollout_value"},
    }
    splits = ("train", "validation", "test")
    return RunSettings.model_validate(
        {
            "name": "placed",
            "run_dir": "unused",
            "problems": {split: {"source": f"file:{split}"} for split in splits},
            "engines": engines,
            "trainer": {"workers": 8, "use_gpu": True},
            "ray": {"address": cluster.address, **more},
        }
    )


def homes_of_workers(chosen: RunSettings, storage: str) -> Counter[str]:
    """The nodes on which Ray Train puts workers that ask for what ours do."""

    @ray.remote(num_cpus=0)
    class Seen:
        def __init__(self) -> None:
            self.nodes: list[str] = []

        def add(self, node: str) -> None:
            self.nodes.append(node)

        def all(self) -> list[str]:
            return self.nodes

    seen = Seen.remote()  # type: ignore[attr-defined]

    def work() -> None:
        ray.get(seen.add.remote(ray.get_runtime_context().get_node_id()))

    trainer = chosen.trainer
    scaling = ScalingConfig(
        num_workers=trainer.workers,
        use_gpu=True,
        resources_per_worker={"CPU": trainer.cpus_per_worker, "GPU": 1.0},
    )
    DataParallelTrainer(
        work, scaling_config=scaling, run_config=RunConfig(name="w", storage_path=storage)
    ).fit()
    return Counter(ray.get(seen.all.remote()))


@pytest.mark.parametrize(("policy", "small"), [(PAIRS, FOURS), (HALVES, FOURS)])
def test_engines_and_workers_are_where_the_plan_puts_them(
    cluster: Cluster, tmp_path: Any, policy: dict[str, Any], small: dict[str, Any]
) -> None:
    chosen = settings(cluster, policy, small)
    with connected(chosen, print):
        plan = check_placement(chosen, cluster_nodes())
        roles = roles_of(chosen.engines, base_model(chosen.engines))
        pools = Pools.of(chosen)
        # First the policy alone, as an evaluation does; what comes then must still fit.
        pools.ensure([roles.policy])
        pools.ensure(roles.specs)
        assert roles.small is not None
        for name, spec in (("policy", roles.policy), ("small", roles.small)):
            planned = [each.node.node_id for each in plan.engines if each.pool == name]
            found = [status.node_id for status in pools.statuses(spec)]
            assert Counter(found) == Counter(planned), name
        pools.release()
        workers = homes_of_workers(chosen, str(tmp_path))
        assert workers.total() == 8
        room = {node.node_id: number for node, number in plan.workers}
        assert all(number <= room[node] for node, number in workers.items())


def test_an_engine_goes_elsewhere_while_others_hold_its_node(cluster: Cluster) -> None:
    chosen = settings(cluster, {**FOURS, "replicas": 1}, {"gpus": 1})
    with connected(chosen, print):
        home = check_placement(chosen, cluster_nodes()).engines[0].node.node_id

        @ray.remote(num_cpus=0, num_gpus=1)
        class Other:
            def ready(self) -> bool:
                return True

        there = NodeAffinitySchedulingStrategy(home, soft=False)
        other = Other.options(scheduling_strategy=there).remote()  # type: ignore[attr-defined]
        assert ray.get(other.ready.remote())
        pools, policy = (
            Pools.of(chosen),
            roles_of(chosen.engines, base_model(chosen.engines)).policy,
        )
        pools.ensure([policy])
        assert [status.node_id for status in pools.statuses(policy)] != [home]
        pools.release()


def test_a_fragmented_request_is_refused_at_once_with_its_reason(cluster: Cluster) -> None:
    threes = {"gpus": 1, "tensor_parallel": 3, "replicas": 3}
    chosen = settings(cluster, threes, {"gpus": 1, "tensor_parallel": 2})
    began = time.monotonic()
    with pytest.raises(PlacementError) as refusal, connected(chosen, print):
        pass
    assert time.monotonic() - began < 10
    told = str(refusal.value)
    assert "an engine of the small pool needs 2 whole GPUs on one node" in told
    assert told.count("1 of 4") == 3
    assert "is 1 short" in told


def test_a_cluster_that_is_too_small_may_grow_first(cluster: Cluster) -> None:
    fours = {**FOURS, "replicas": 3}
    chosen = settings(cluster, fours, {"gpus": 1}, wait_minutes=5)
    told: list[str] = []

    def grow(line: str) -> None:
        told.append(line)
        cluster.add_node(**NODE)

    with connected(chosen, grow):
        check_placement(chosen, cluster_nodes())
    assert len(told) == 1
    assert "waiting up to 5 minutes for more than 3 nodes, 12 CPUs, 12 GPUs" in told[0]
    hurried = settings(cluster, {**fours, "replicas": 5}, {"gpus": 1})
    with pytest.raises(PlacementError), connected(hurried, told.append):
        pass
    assert len(told) == 1
