"""How much memory an engine and a training worker take, as sums that a reader can check by hand.

All figures are bytes of one GPU, or of one process where there is no GPU.
"""

from dataclasses import dataclass, fields

from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.config.training import (
    DENSE_ATTENTION,
    OptimizationSettings,
    TrainerPlacement,
    TrainingSettings,
)
from sphere_ray.planning.architectures import BYTES, Architecture

GIB = 1 << 30
GPU_SHARE = 0.92
"""What vLLM takes of a GPU by default."""
BATCHED_TOKENS = 2048
"""What vLLM computes in one step unless told (`SchedulerConfig.max_num_batched_tokens`)."""
_BUCKET = 500_000_000
"""Numbers in DeepSpeed's reduce and gather buckets by default."""
_LIVE = 1_000_000_000
"""Parameters that ZeRO-3 keeps gathered at most (`stage3_max_live_parameters`)."""
_FLOAT = 4
_CHUNK = 128
"""Positions whose log-probabilities are computed at once (`method/preference.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMemory:
    """One rank of an engine.

    `kv_sequence` is the KV cache of one sequence of max_model_len tokens, `kv_cache` all that is
    kept for it: `kv_cache_gib` where that is given, else what the GPU has left, and at least one
    sequence.
    """

    weights: float
    kv_cache: float
    activations: float
    overhead: float
    kv_token: float
    kv_sequence: float

    @property
    def total(self) -> float:
        """The sum."""
        return self.weights + self.kv_cache + self.activations + self.overhead

    @property
    def least(self) -> float:
        """With a KV cache of one whole sequence; below it the engine does not start."""
        return self.total - self.kv_cache + self.kv_sequence

    @property
    def sequences(self) -> float:
        """Sequences of max_model_len that the KV cache holds at once."""
        return self.kv_cache / self.kv_sequence


def usable(gpu_bytes: float, share: float) -> float:
    """What an engine may take of a GPU of which it has that share."""
    return GPU_SHARE * share * gpu_bytes


def engine_memory(
    shape: Architecture, model: ModelSettings, pool: PoolSettings, gpu_bytes: float | None = None
) -> EngineMemory:
    """The memory of one rank of an engine of this pool.

    Activations are those of one step of `max_num_batched_tokens`: both halves of the MLP and six
    hidden states a token, and of a generator the logits of every sequence in float32, three times
    (as they are, scaled, sorted). Overhead: 1 GB for CUDA and NCCL and 1 GB for CUDA graphs; on a
    CPU what its process and its actor's hold besides, 2.3 GB.
    """
    number, ranks = BYTES[model.dtype], pool.tensor_parallel
    weights = shape.parameters * number / ranks
    tokens = pool.max_num_batched_tokens or BATCHED_TOKENS
    if pool.deterministic and not pool.gpus:
        tokens = max(tokens, model.max_model_len)
    activations = tokens * number * (2 * shape.intermediate / ranks + 6 * shape.hidden)
    if not shape.reward:
        activations += 3 * _FLOAT * pool.max_num_seqs * shape.vocab
    overhead = 2.3e9
    if pool.gpus:
        overhead = 1e9 + (0 if pool.enforce_eager else 1e9)
    kv_token = shape.kv_bytes(number, ranks)
    kv_sequence = kv_token * model.max_model_len
    if pool.kv_cache_gib is not None:
        kv_cache = pool.kv_cache_gib * GIB
    else:
        rest = weights + activations + overhead
        kv_cache = max(usable(gpu_bytes, pool.gpus) - rest if gpu_bytes else 0.0, kv_sequence)
    return EngineMemory(
        weights=weights,
        kv_cache=kv_cache,
        activations=activations,
        overhead=overhead,
        kv_token=kv_token,
        kv_sequence=kv_sequence,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardTokens:
    """Tokens of one forward of a training worker: all, and those whose logits are needed."""

    computed: float
    scored: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """One training worker; `host` is what offloading moves to the memory of the machine."""

    weights: float
    gradients: float
    optimizer: float
    buffers: float
    activations: float
    logits: float
    overhead: float
    host: float = 0.0
    stage: int = 0

    @property
    def parts(self) -> dict[str, float]:
        """The summands by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if name not in ("host", "stage")}

    @property
    def total(self) -> float:
        """The sum."""
        return sum(self.parts.values())

    @property
    def least(self) -> float:
        """Weights, gradients and optimizer alone: what a worker needs whatever the pairs are."""
        return self.weights + self.gradients + self.optimizer


def training_memory(
    shape: Architecture,
    settings: OptimizationSettings,
    trainer: TrainerPlacement,
    tokens: ForwardTokens,
) -> TrainingMemory:
    """The memory of one worker by its ZeRO stage (arXiv 1910.02054, section 3, in bytes).

    Adam keeps 8 bytes a trained parameter; mixed precision and every ZeRO stage also keep float32
    masters (4). Gradients are summed in float32. Stage 1 shards the optimizer, 2 gradients too, 3
    weights too. Under adapters only these have gradients and an optimizer. Activations: of each
    layer eight hidden states, four of the MLP's width and the attention's keys and values; with
    gradient checkpointing one hidden state of each layer and one layer whole. The attention's mask
    is a byte, and a number, for each two tokens. Logits are kept once, and their gradient too.
    """
    lora = settings.lora if isinstance(settings, TrainingSettings) else None
    trained = shape.parameters if lora is None else shape.lora_parameters(lora.rank)
    frozen = 0 if lora is None else shape.parameters
    stage, workers = settings.zero_stage_on(trainer), trainer.workers
    number = 2 if settings.precision == "bf16" else _FLOAT
    weights = number * (trained + frozen) / (workers if stage == 3 else 1)
    gradients = _FLOAT * trained / (workers if stage >= 2 else 1)
    if stage == 1 and number < _FLOAT:
        gradients += number * trained
    optimizer = 12.0 * trained / workers if stage else 8.0 * trained
    buffers = 0.0
    if stage:
        buckets = 2 if trainer.use_gpu and stage < 3 else 1
        buffers = buckets * number * min(_BUCKET, trained)
    if stage == 3:
        buffers += number * min(_LIVE, trained + frozen)
    return TrainingMemory(
        weights=weights,
        gradients=gradients,
        optimizer=0.0 if trainer.offload else optimizer,
        buffers=buffers,
        activations=_activations(shape, settings, tokens.computed, number),
        logits=(2 * number * tokens.scored + 2 * _FLOAT * _CHUNK) * shape.vocab,
        overhead=1.5e9 if trainer.use_gpu else 0.9e9,
        host=optimizer if trainer.offload else 0.0,
        stage=stage,
    )


def _activations(
    shape: Architecture, settings: OptimizationSettings, tokens: float, number: int
) -> float:
    keys = 2 * shape.kv_heads * shape.head_dim
    layer = number * (8 * shape.hidden + 4 * shape.intermediate + keys)
    if number < _FLOAT:
        layer += 2 * _FLOAT * shape.hidden  # the norms compute in float32
    mask = 0.0
    if isinstance(settings, TrainingSettings) and settings.attention == DENSE_ATTENTION:
        mask = (1 + number) * tokens**2
    if settings.gradient_checkpointing:
        return tokens * (shape.layers * shape.hidden * number + layer) + mask
    return tokens * shape.layers * layer + mask
