"""Tiny models and specs for the tests of real engines."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.config.scorers import ProcessRewardSettings
from sphere_ray.engines.engine import engine_environment
from sphere_ray.models.source import resolve_model

MAX_MODEL_LEN = 512


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    cache: Path = tmp_path_factory.mktemp("models")
    return lambda name: resolve_model(ModelSettings(path=f"tiny:{name}"), cache_dir=cache)


@pytest.fixture(scope="session")
def generator_spec(
    tiny_model: Callable[[str], str], cpu_environment: None
) -> Callable[..., EngineSpec]:
    def make(name: str = "llama", **pool: Any) -> EngineSpec:
        return EngineSpec(
            kind="vllm_generator",
            name=name,
            path=tiny_model(name),
            model=ModelSettings(path=f"tiny:{name}", dtype="float32", max_model_len=MAX_MODEL_LEN),
            pool=_pool(**pool),
        )

    return make


@pytest.fixture(scope="session")
def reward_spec(
    tiny_model: Callable[[str], str], cpu_environment: None
) -> Callable[..., EngineSpec]:
    def make(name: str = "qwen2-prm", **settings: Any) -> EngineSpec:
        model = ModelSettings(path=f"tiny:{name}", dtype="float32", max_model_len=MAX_MODEL_LEN)
        return EngineSpec(
            kind="process_reward",
            name=name,
            path=tiny_model(name),
            model=model,
            pool=_pool(),
            settings=ProcessRewardSettings(model=model, pool=_pool(), **settings),
        )

    return make


@pytest.fixture(scope="session")
def cpu_environment() -> Iterator[None]:
    model = ModelSettings(path="tiny:llama")
    spec = EngineSpec(kind="vllm_generator", name="", path="", model=model, pool=_pool())
    with pytest.MonkeyPatch.context() as patch:
        for key, value in engine_environment(spec).items():
            patch.setenv(key, value)
        # Two OpenMP threads that spin for a core they do not get are slower than one.
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def _pool(**pool: Any) -> PoolSettings:
    return PoolSettings(
        **({"kv_cache_gib": 0.25, "enforce_eager": True, "max_num_seqs": 128} | pool)
    )
