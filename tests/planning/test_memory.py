from typing import Any

import pytest

from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.config.training import TrainerPlacement, TrainingSettings
from sphere_ray.planning.architectures import KNOWN, Architecture
from sphere_ray.planning.memory import (
    ForwardTokens,
    TrainingMemory,
    engine_memory,
    training_memory,
)

GB = 1e9
QWEN = KNOWN["qwen2.5-7b"]


def trained(
    shape: Architecture, settings: dict[str, Any], computed: float = 0, **trainer: Any
) -> TrainingMemory:
    tokens = ForwardTokens(computed=computed, scored=0)
    chosen = TrainingSettings.model_validate(settings)
    return training_memory(shape, chosen, TrainerPlacement.model_validate(trainer), tokens)


def test_an_engine_of_a_7b_on_80_gb() -> None:
    """By hand: 15.2 GB of weights; 73.6 GB may be used; a sequence of 6144 tokens takes 0.35."""
    model = ModelSettings(path="m", dtype="bfloat16", max_model_len=6144)
    whole = engine_memory(QWEN, model, PoolSettings(gpus=1), 80 * GB)
    assert whole.weights == pytest.approx(15.23 * GB, rel=1e-3)
    assert whole.kv_sequence == 57_344 * 6144
    assert whole.total == pytest.approx(0.92 * 80 * GB)
    half = engine_memory(QWEN, model, PoolSettings(gpus=1, tensor_parallel=2), 80 * GB)
    assert half.weights == whole.weights / 2
    assert half.kv_token == whole.kv_token / 2
    assert half.sequences > 2 * whole.sequences


def test_a_given_cache_is_taken_and_a_small_gpu_needs_one_sequence() -> None:
    model = ModelSettings(path="m", dtype="float32", max_model_len=1024)
    pool = PoolSettings(gpus=0.5, kv_cache_gib=2)
    assert engine_memory(QWEN, model, pool, 80 * GB).kv_cache == 2 << 30
    small = engine_memory(QWEN, model, PoolSettings(gpus=1), 24 * GB)
    assert small.total == small.least > 24 * GB


@pytest.mark.parametrize(("stage", "paper"), [(1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_is_that_of_the_paper(stage: int, paper: float) -> None:
    """Figure 1 of arXiv 1910.02054: 7.5B parameters on 64 GPUs, gradients of 2 bytes."""
    shape = Architecture(
        layers=1, hidden=1, intermediate=1, heads=1, kv_heads=1, head_dim=1, vocab=1, tied=True,
        counted=7_500_000_000,
    )  # fmt: skip
    memory = trained(shape, {"precision": "bf16"}, workers=64, use_gpu=True, zero_stage=stage)
    # Ours are summed in float32, and stage 1 keeps both kinds.
    gradients = {1: 2 / 6, 2: 2 / 4, 3: 2 / 4}[stage] * memory.gradients
    assert (memory.weights + gradients + memory.optimizer) / GB == pytest.approx(paper, abs=0.06)


def test_one_worker_in_float32_has_16_bytes_a_parameter() -> None:
    memory = trained(KNOWN["smollm2-135m"], {"precision": "fp32"}, zero_stage=2)
    assert memory.stage == 0
    assert memory.least == 16 * 134_515_008


def test_adapters_and_offloading_take_the_optimizer_away() -> None:
    settings, trainer = {"precision": "bf16"}, {"workers": 2, "use_gpu": True, "zero_stage": 2}
    whole = trained(QWEN, settings, **trainer)
    moved = trained(QWEN, settings, **trainer, offload=True)
    assert (moved.optimizer, moved.host) == (0, whole.optimizer)
    adapters = trained(QWEN, {**settings, "lora": {"rank": 16}}, **trainer)
    # Of each layer q and o, k and v, and three of the MLP: what goes in and what comes out.
    learned = 28 * 16 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944))
    assert adapters.optimizer == 12 * learned / 2
    assert adapters.weights == 2 * (QWEN.parameters + learned)


def test_checkpointing_keeps_a_hidden_state_of_each_layer() -> None:
    settings = {"precision": "bf16", "gradient_checkpointing": True}
    kept = trained(QWEN, settings, computed=1000).activations
    every = trained(QWEN, {"precision": "bf16"}, computed=1000).activations
    assert kept == pytest.approx(1000 * 28 * 3584 * 2 + every / 28, rel=0.02)
