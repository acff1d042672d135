"""Pools of simulated engines on a real Ray: what is kept, exchanged, restarted and released."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from sphere_ray.config.engines import EngineSpec, SimulationSettings
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.method.ports import GenerateRequest
from sphere_ray.models.source import model_fingerprint
from sphere_ray.pools import nodes, starting
from sphere_ray.pools.actor import Hosting
from sphere_ray.pools.nodes import usable_cores
from sphere_ray.pools.pools import Pools
from sphere_ray.pools.staging import fetched
from sphere_ray.pools.watch import Watch
from sphere_ray.records import Message

pytestmark = [pytest.mark.ray]

FIRST = EngineSpec(
    kind="simulated_generator",
    name="first",
    path="/models/first",
    model=ModelSettings(path="base"),
    pool=PoolSettings(kv_cache_gib=1, replicas=2),
    settings=SimulationSettings(),
)
SECOND = replace(FIRST, name="second", path="/models/second")
OTHER = replace(FIRST, name="other", pool=PoolSettings(kv_cache_gib=1))


@pytest.fixture(scope="module")
def pools() -> Iterator[Pools]:
    ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    pools = Pools(release_timeout_s=60)
    try:
        yield pools
        pools.release()
    finally:
        ray.shutdown()


def request(problem: str) -> GenerateRequest:
    return GenerateRequest(
        problem_id=problem,
        messages=(Message(role="user", content="What is 3 + 4?"),),
        n=1,
        temperature=1.0,
        max_tokens=64,
        seed=0,
    )


def replicas(pools: Pools, spec: EngineSpec) -> dict[int, str]:
    return {status.pid: status.model for status in pools.statuses(spec)}


def test_a_pool_whose_weights_alone_change_reloads_in_its_processes(pools: Pools) -> None:
    pools.ensure([FIRST])
    before = replicas(pools, FIRST)
    pools.ensure([SECOND])
    assert replicas(pools, SECOND) == dict.fromkeys(before, "second")
    assert len(before) == 2


def test_a_replica_that_dies_after_a_reload_comes_back_with_the_new_weights(pools: Pools) -> None:
    pools.ensure([FIRST])
    pools.ensure([SECOND])
    before = replicas(pools, SECOND)
    client = pools.client(SECOND)
    for pid in before:
        os.kill(pid, signal.SIGKILL)

    async def ask() -> None:
        # A request for each replica makes each come back.
        await asyncio.gather(*(client.generate(request(f"problem {n}")) for n in range(8)))

    asyncio.run(ask())
    after = replicas(pools, SECOND)
    assert set(after.values()) == {"second"}
    assert after.keys().isdisjoint(before)


def test_a_pool_of_another_kind_starts_anew(pools: Pools) -> None:
    pools.ensure([SECOND])
    before = replicas(pools, SECOND)
    pools.ensure([OTHER])
    assert list(replicas(pools, OTHER).values()) == ["other"]
    assert replicas(pools, OTHER).keys().isdisjoint(before)


def test_engines_on_cpus_may_stay_while_devices_are_needed(pools: Pools) -> None:
    pools.ensure([OTHER])
    before = replicas(pools, OTHER)
    pools.release(keep_on_cpu=True)
    assert replicas(pools, OTHER) == before
    pools.release()
    pools.ensure([OTHER])
    assert replicas(pools, OTHER).keys().isdisjoint(before)


@pytest.mark.parametrize("share_cores", [False, True])
def test_engines_are_started_with_their_share_of_the_cores(pools: Pools, share_cores: bool) -> None:
    pools.release()
    shared = Pools(release_timeout_s=60, hosting=Hosting(share_cores=share_cores))
    shared.ensure([FIRST])
    found = ray.get(
        [
            member.actor.__ray_call__.remote(
                lambda _: (os.environ.get("OMP_NUM_THREADS"), os.environ.get("OMP_WAIT_POLICY"))
            )
            for member in shared._members[FIRST]
        ]
    )
    shared.release()
    cores = usable_cores(len(os.sched_getaffinity(0)), [2.0])
    assert found == [(str(max(1, cores // 2)), "PASSIVE" if share_cores else None)] * 2


def on_gpus(name: str, replicas: object) -> EngineSpec:
    pool = PoolSettings.model_validate({"gpus": 1, "replicas": replicas})
    return replace(FIRST, name=name, pool=pool)


def test_a_pool_grows_where_there_is_room_and_gives_way_to_others(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two GPUs are declared; engines beyond the least leave when another pool needs one."""
    monkeypatch.setattr(starting, "GIVE_WAY_S", 0.5)
    growing, other = on_gpus("growing", {"min": 1, "max": 3}), on_gpus("other", 1)
    pools.ensure([growing])
    until(lambda: len(pools.statuses(growing)) == 2)
    assert Watch(print).missing() == pools.missing() == []
    pools.ensure([growing, other])
    assert [len(pools.statuses(spec)) for spec in (growing, other)] == [1, 1]
    pools.ensure([growing])
    until(lambda: len(pools.statuses(growing)) == 2)


def test_a_pool_begins_with_the_engines_that_find_room_and_says_so(
    pools: Pools, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(starting, "GIVE_WAY_S", 0.5)
    monkeypatch.setattr(starting, "ROOM_S", 1.0)
    three = on_gpus("three", 3)
    pools.ensure([three])
    assert "1 x engine of three not placed; the others begin" in caplog.text
    assert pools.missing() == [
        "2 of 3 engines of three serve, 1 not placed (1 GPUs each, 0 are free)"
    ]
    client = pools.client(three)

    async def ask() -> None:
        await asyncio.gather(*(client.generate(request(f"problem {n}")) for n in range(8)))

    asyncio.run(ask())


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline


def test_a_model_is_fetched_once_by_its_fingerprint(pools: Pools, tmp_path: Path) -> None:
    there, cache = tmp_path / "there", tmp_path / "cache"
    there.mkdir()
    (there / "config.json").write_text("{}")
    (there / "model.safetensors").write_bytes(bytes(range(256)) * 300)
    (there / "notes.rst").write_text("no part of the model")
    here = ray.get_runtime_context().get_node_id()
    found = fetched(str(there), here, cache)
    assert found is not None
    assert model_fingerprint(str(found)) == model_fingerprint(str(there)) == found.name
    assert sorted(file.name for file in found.iterdir()) == ["config.json", "model.safetensors"]
    first = found.stat().st_ino
    again = fetched(str(there), here, cache)
    assert again is not None
    assert again.stat().st_ino == first
    assert [file.name for file in cache.iterdir() if file.is_dir()] == [found.name]
    assert fetched(str(tmp_path / "nowhere"), here, cache) is None


class Nvml:
    """NVIDIA's library with two GPUs, or without a driver."""

    NVMLError = RuntimeError

    def __init__(self, used: list[int] | None) -> None:
        self._used = used

    def nvmlInit(self) -> None:  # noqa: N802
        if self._used is None:
            raise RuntimeError("no driver")

    def nvmlShutdown(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        assert self._used is not None
        return len(self._used)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        assert self._used is not None
        return SimpleNamespace(used=self._used[handle], total=80 << 20)


@pytest.mark.parametrize(("used", "found"), [([3 << 20, 0], ((3, 80), (0, 80))), (None, ())])
def test_the_memory_of_gpus_is_read_where_there_are_any(
    monkeypatch: pytest.MonkeyPatch, used: list[int] | None, found: tuple[tuple[int, int], ...]
) -> None:
    monkeypatch.setattr(nodes, "pynvml", Nvml(used))
    assert nodes.gpu_memory_mib() == found
