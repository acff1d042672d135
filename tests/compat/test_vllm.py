"""With another vLLM than the tested one we do without its private names, and say so."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.executor import uniproc_executor
from vllm.v1.metrics import ray_wrappers
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import IterationStats, SchedulerStats

from sphere_ray.compat import names, vllm, vllm_ray
from sphere_ray.compat.vllm import Use
from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.engines.vllm_engine import Counters, VllmEngine, engine_args
from sphere_ray.errors import EngineError


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    vllm.is_safe.cache_clear()
    yield
    vllm.is_safe.cache_clear()


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "version", lambda _: "0.33.1")


@pytest.mark.parametrize("use", list(Use))
def test_the_installed_vllm_is_the_tested_one(use: Use) -> None:
    assert vllm.is_safe(use)


@pytest.mark.parametrize("use", list(Use))
def test_another_version_is_told_in_one_sentence(
    newer: None, use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert not vllm.is_safe(use)
        assert not vllm.is_safe(use)
    (record,) = caplog.records
    said = record.getMessage()
    assert "0.33.1" in said
    assert use.value in said
    assert said.endswith("install vllm==0.32.0")


@pytest.mark.parametrize(
    "name",
    [
        "_handle_blocked_waiting_request",
        "_get_local_prefix_cache_hit",
        "_update_after_schedule",
    ],
)
def test_without_one_of_its_methods_the_scheduler_is_vllms_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    assert vllm.sharing_scheduler(on_cpu=True) is not None
    vllm.is_safe.cache_clear()
    for owner in Scheduler.__mro__:
        if name in vars(owner):
            monkeypatch.delattr(owner, name)
    assert vllm.sharing_scheduler(on_cpu=True) is None
    assert f"Scheduler has no {name}" in caplog.text


def test_a_module_that_has_moved_is_a_doubt_and_no_crash(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(uniproc_executor, "UniProcExecutor")
    assert vllm.executor_on_cpu() == "uni"
    assert "has no UniProcExecutor" in caplog.text


def spec() -> EngineSpec:
    return EngineSpec(
        kind="vllm_generator",
        name="m",
        path="/nowhere",
        model=ModelSettings(path="m", dtype="float32"),
        pool=PoolSettings(kv_cache_gib=1),
    )


async def test_weights_are_not_exchanged_in_another_version(newer: None) -> None:
    class Llm:
        async def collective_rpc(self, *_: Any, **__: Any) -> None:
            raise AssertionError

    args = engine_args(spec())
    assert args.worker_extension_cls == ""
    engine = VllmEngine(spec(), args)
    engine._llm = Llm()
    with pytest.raises(EngineError, match="not exchanged"):
        await engine.reload(spec())


def test_counters_stay_at_zero_in_another_version(newer: None) -> None:
    counters = Counters()
    counters.record(SchedulerStats(num_running_reqs=3), IterationStats())
    assert counters.running == 0


def test_vllms_own_metrics_go_through_rays_without_ray_serve() -> None:
    (made,) = vllm_ray.stat_loggers()
    assert issubclass(made, PrometheusStatLogger)
    gauge = ray_wrappers.RayGaugeWrapper("vllm:num_requests_running", "Running.", ["engine"])
    assert gauge.metric.info["name"] == "vllm_num_requests_running"
    assert gauge.metric.info["tag_keys"] == ("engine", "ReplicaId")


def test_another_vllm_exports_nothing_of_its_own(newer: None) -> None:
    assert vllm_ray.stat_loggers() == []
