"""What an engine actor is made of: the gate, the restart budget, its share of the cores."""

import asyncio

import pytest

from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.config.placement import NodeResources
from sphere_ray.pools.actor import Gate, Ledger, engine_seed, openmp, replica_name
from sphere_ray.pools.nodes import usable_cores


async def test_a_suspect_request_has_the_engine_to_itself() -> None:
    gate, inside, seen = Gate(), set[str](), list[set[str]]()

    async def run(name: str, *, alone: bool) -> None:
        async with gate.enter(alone=alone):
            inside.add(name)
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(set(inside))
            inside.remove(name)

    await asyncio.gather(
        run("a", alone=False), run("b", alone=False), run("s", alone=True), run("c", alone=False)
    )
    assert {"a", "b"} in seen
    assert all(names == {"s"} for names in seen if "s" in names)


async def test_two_suspects_run_one_after_the_other() -> None:
    gate, inside, most = Gate(), 0, 0

    async def run() -> None:
        nonlocal inside, most
        async with gate.enter(alone=True):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.wait_for(asyncio.gather(*(run() for _ in range(5))), timeout=5)
    assert most == 1


def test_restarts_have_a_budget_per_hour_and_replica() -> None:
    now = 0.0
    ledger = Ledger(clock=lambda: now, nodes=list)
    assert [ledger.allows("a", 2) for _ in range(4)] == [True, True, True, False]
    assert ledger.allows("b", 2)
    now = 3601.0
    assert ledger.allows("a", 2)


def nodes(*names: str) -> list[NodeResources]:
    return [NodeResources(name=name, node_id=name, cpus=2, gpus=0) for name in names]


def test_a_start_after_the_loss_of_a_node_is_free() -> None:
    living = nodes("one", "two")
    now = 0.0
    ledger = Ledger(clock=lambda: now, nodes=lambda: living)
    for _ in range(3):
        ledger.place("r/p/0", "one")
        assert ledger.allows("r/p/0", 2)
    living, now = nodes("two"), 9.0
    assert ledger.has_left("one")
    ledger.place("r/p/0", "two")
    assert [ledger.allows("r/p/0", 2) for _ in range(4)] == [True, True, True, False]


def test_engines_share_a_node_with_those_of_their_own_pool() -> None:
    ledger = Ledger(nodes=lambda: nodes("one", "two"))
    for name, node in {"r/p/0": "one", "r/p/1": "one", "r/q/0": "one", "r/p/2": "two"}.items():
        ledger.place(name, node)
    assert [ledger.beside(name) for name in ("r/p/0", "r/q/0", "r/p/2")] == [2, 1, 1]
    ledger.forget("r/p/1")
    assert ledger.beside("r/p/0") == 1


@pytest.mark.parametrize(
    ("cores", "cpus", "usable"),
    [
        (8, [8.0], 8),
        (8, [2.0], 2),  # Ray was told of fewer
        (4, [16.0], 4),  # or of more than there are
        (8, [0.0], 8),  # a head node on which Ray schedules nothing
        (8, [], 8),
    ],
)
def test_an_engine_uses_the_cores_of_its_own_node(
    cores: int, cpus: list[float], usable: int
) -> None:
    assert usable_cores(cores, cpus) == usable


@pytest.mark.parametrize(
    ("pool", "engines", "threads"),
    [
        ({"replicas": 4}, 1, 8),  # four nodes with one engine each
        ({"replicas": 4}, 4, 2),
        ({"replicas": 9}, 9, 1),
        ({"tensor_parallel": 2}, 1, 3),  # one core stays free for the EngineCore
    ],
)
def test_the_engines_of_one_node_share_its_cores(
    pool: dict[str, int], engines: int, threads: int
) -> None:
    spec = EngineSpec(
        kind="vllm_generator",
        name="m",
        path="p",
        model=ModelSettings(path="p"),
        pool=PoolSettings(kv_cache_gib=1, **pool),
    )
    alone = openmp(spec, 8, engines, share_cores=False)
    assert alone == {"OMP_NUM_THREADS": str(threads)}
    shared = openmp(spec, 8, engines, share_cores=True)
    assert shared == alone | {"OMP_WAIT_POLICY": "PASSIVE"}


def test_runs_pools_and_replicas_draw_different_samples_and_a_new_start_the_same() -> None:
    names = [replica_name("run", pool, index) for pool in ("policy", "small") for index in (0, 1)]
    seeds = [engine_seed(seed, name) for seed in (0, 1) for name in names]
    assert len(set(seeds)) == 8
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert engine_seed(0, replica_name("run", "policy", 0)) == seeds[0]
