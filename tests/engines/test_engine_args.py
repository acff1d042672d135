"""Every shipped configuration gives vLLM and DeepSpeed arguments they accept; nothing is loaded."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from deepspeed.runtime.config import DeepSpeedConfig
from transformers import Qwen2Config
from vllm import AsyncEngineArgs
from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from sphere_ray.compat.vllm_scheduler import PromptSharingScheduler
from sphere_ray.config import RunSettings, load_config
from sphere_ray.config.base import identity
from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.engines import sources
from sphere_ray.engines.process_reward import scorer_args
from sphere_ray.engines.vllm_generator import generator_args
from sphere_ray.errors import ConfigError
from sphere_ray.pools import roles
from sphere_ray.records import ModelRef
from sphere_ray.training.deepspeed import build_config

FILES = sorted(Path(__file__).parents[2].glob("jobs/configs/*.yaml"))
CONFIGS = [path for path in FILES if "engines" in yaml.safe_load(path.read_text("utf-8"))]
GIB = 1 << 30

# As on the hub (config.json): hidden, intermediate, layers, heads, key-value heads, positions.
QWEN = {
    "Qwen/Qwen2.5-7B-Instruct": (3584, 18944, 28, 28, 4, 32768),
    "Qwen/Qwen2.5-3B-Instruct": (2048, 11008, 36, 16, 2, 32768),
    "Qwen/Qwen2.5-1.5B-Instruct": (1536, 8960, 28, 12, 2, 32768),
    "Qwen/Qwen2.5-0.5B-Instruct": (896, 4864, 24, 14, 2, 32768),
    "Qwen/Qwen2.5-Math-PRM-7B": (3584, 18944, 28, 28, 4, 4096),
}


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def settings(request: pytest.FixtureRequest) -> RunSettings:
    return load_config(request.param)


@pytest.fixture
def specs(
    settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[EngineSpec, ...]:
    """The pools of a rollout; models are directories that hold a config.json and nothing else."""

    def directory(model: ModelSettings) -> str:
        path = tmp_path / model.path.replace("/", "--").replace(":", "-")
        _config(model.path).save_pretrained(path)
        return str(path)

    monkeypatch.setattr(roles, "resolve_model", directory)
    monkeypatch.setattr(sources, "resolve_model", directory)
    policy = ModelRef(path=directory(settings.engines.policy), iteration=0, fingerprint="f" * 16)
    plain = roles.roles_of(settings.engines, policy).specs
    trained = settings.engines.scorer.trained
    if trained is None:
        return plain
    path = tmp_path / "trained"
    _config("trained-PRM").save_pretrained(path)
    ref = ModelRef(path=str(path), iteration=1, fingerprint="e" * 16)
    return tuple(dict.fromkeys([*plain, *roles.roles_of(settings.engines, policy, ref).specs]))


def _config(name: str) -> Qwen2Config:
    shape = QWEN.get(name, (64, 128, 2, 2, 2, 4096))
    hidden, intermediate, layers, heads, kv_heads, positions = shape
    prm = "PRM" in name
    return Qwen2Config(
        architectures=["Qwen2ForProcessRewardModel" if prm else "Qwen2ForCausalLM"],
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=positions,
    )


def args_of(spec: EngineSpec) -> AsyncEngineArgs:
    return scorer_args(spec) if spec.kind == "process_reward" else generator_args(spec)


def test_vllm_accepts_the_arguments_of_every_pool(specs: tuple[EngineSpec, ...]) -> None:
    for spec in specs:
        config = args_of(spec).create_engine_config()
        model = config.model_config
        assert model.max_model_len == spec.model.max_model_len
        assert model.runner_type == ("pooling" if spec.kind == "process_reward" else "generate")
        if model.runner_type == "pooling":
            # Scores of all tokens: the kind of pooling that may read the prefix cache.
            assert model.pooler_config is not None
            assert model.pooler_config.tok_pooling_type == "ALL"
        assert config.parallel_config.tensor_parallel_size == spec.pool.tensor_parallel
        assert config.scheduler_config.max_num_seqs == spec.pool.max_num_seqs
        assert config.scheduler_config.policy == "priority"
        assert config.cache_config.enable_prefix_caching


@pytest.mark.parametrize("told", [None, True, False])
def test_generators_share_prompts_on_cpus_and_where_they_are_told(
    specs: tuple[EngineSpec, ...], told: bool | None
) -> None:
    for spec in specs:
        if spec.kind != "vllm_generator":
            continue
        pool = spec.pool.model_copy(update={"share_prompts": told})
        config = generator_args(replace(spec, pool=pool)).create_engine_config()
        scheduler = config.scheduler_config.get_scheduler_cls()
        shares = issubclass(scheduler, PromptSharingScheduler)
        assert shares == (pool.gpus == 0 if told is None else told)
        # The other class would turn vLLM's scheduling ahead off, which GPUs need.
        assert not shares or issubclass(scheduler, AsyncScheduler) == (pool.gpus > 0)


def test_engines_on_one_gpu_leave_it_room(
    settings: RunSettings, specs: tuple[EngineSpec, ...]
) -> None:
    """Fractions add up to at most one GPU, and name the size of their caches."""
    shared = [spec.pool for spec in specs if 0 < spec.pool.gpus < 1]
    assert sum(pool.gpus for pool in shared) <= 1
    for spec in specs:
        args = args_of(spec)
        if 0 < spec.pool.gpus < 1:
            assert args.gpu_memory_utilization < spec.pool.gpus
        if spec.pool.kv_cache_gib is not None:
            assert args.kv_cache_memory_bytes == spec.pool.kv_cache_gib * GIB


def test_deepspeed_accepts_the_training_configuration(
    settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, trainer = settings.training, settings.trainer
    config = _deepspeed(build_config(training, trainer), trainer.workers, monkeypatch)
    assert config.train_batch_size == training.batch_size
    assert config.zero_config.stage == training.zero_stage_on(trainer)
    assert config.bfloat16_config.enabled == (training.precision == "bf16")
    assert (config.zero_config.offload_optimizer is not None) == trainer.offload
    if (trained := settings.engines.scorer.trained) is not None:
        config = _deepspeed(build_config(trained.training, trainer), trainer.workers, monkeypatch)
        assert config.train_batch_size == trained.training.batch_size


def _deepspeed(
    document: Mapping[str, Any], workers: int, monkeypatch: pytest.MonkeyPatch
) -> DeepSpeedConfig:
    """What DeepSpeed reads from a configuration in a group of `workers`."""
    monkeypatch.setattr("deepspeed.comm.get_world_size", lambda *_: workers)
    monkeypatch.setattr("deepspeed.comm.get_rank", lambda *_: 0)
    return DeepSpeedConfig(dict(document))


FURTHER = {
    "quantization": "fp8",
    "kv_cache_dtype": "fp8",
    "speculative_config": {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3},
}


def spec_with(further: Mapping[str, Any]) -> EngineSpec:
    model = ModelSettings(path="tiny:llama", dtype="bfloat16", engine_args=further)
    pool = PoolSettings(kv_cache_gib=1)
    return EngineSpec(kind="vllm_generator", name="policy", path="model", model=model, pool=pool)


def test_further_arguments_reach_vllm_and_decide_what_comes_out() -> None:
    spec = spec_with(FURTHER)
    args = generator_args(spec)
    assert {name: getattr(args, name) for name in FURTHER} == FURTHER
    assert hash(spec) == hash(spec_with(FURTHER))
    assert spec != spec_with({})
    assert identity(model=spec.model)["model.engine_args.quantization"] == "fp8"
    assert "model.engine_args" not in identity(model=spec_with({}).model)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quantisation", "no argument of this vLLM; there are quantization"),
        ("max_model_len", "decided by the other settings"),
        ("runner", "decided by the other settings"),
    ],
)
def test_arguments_that_vllm_does_not_know_or_we_decide_are_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        generator_args(spec_with({name: 1}))
