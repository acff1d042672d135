"""Which models play which role, and what each engine is built from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sphere_ray.config.base import Placement, Settings
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.config.scorers import RolloutValueSettings, ScorerSettings


class SimulationSettings(Settings):
    """Knobs of the simulated engines (no model; seeded; for tests and scale runs).

    `accuracy` is the share of right chains, `steps` their length; a request takes `latency_s`.
    """

    accuracy: float = Field(0.6, ge=0, le=1)
    steps: int = Field(3, ge=1)
    latency_s: Annotated[float, Placement] = Field(0.0, ge=0)


class EngineSettings(Settings):
    """Which models play which role, and their pools.

    `small` is `policy` (the shared pool follows the promoted policy) or a model of its own.
    `backend: simulated` replaces every generator by `simulated`.
    """

    backend: Literal["vllm", "simulated"] = "vllm"
    policy: ModelSettings
    policy_pool: PoolSettings
    small: Literal["policy"] | ModelSettings = "policy"
    small_pool: PoolSettings | None = None
    scorer: ScorerSettings = RolloutValueSettings()
    simulated: SimulationSettings = SimulationSettings()

    @property
    def pools(self) -> Mapping[str, PoolSettings]:
        """Every pool that a rollout may need, by the name that placement errors give it."""
        small = {} if self.small_pool is None else {"small": self.small_pool}
        return {"policy": self.policy_pool, **small, **self.scorer.pools}

    @model_validator(mode="after")
    def _small_has_a_pool(self) -> "EngineSettings":
        if self.small != "policy" and self.small_pool is None:
            raise ValueError("small names a model of its own, so small_pool must be given too")
        if self.small == "policy" and self.small_pool is not None:
            raise ValueError("small: policy shares the policy's pool; remove small_pool")
        return self

    @model_validator(mode="after")
    def _arguments_reach_an_engine(self) -> "EngineSettings":
        small = None if self.small == "policy" else self.small
        if self.backend == "simulated" and (
            self.policy.engine_args or (small and small.engine_args)
        ):
            raise ValueError(
                "engine_args are for vLLM, and backend: simulated starts none; remove them, or set "
                "backend: vllm"
            )
        return self

    @model_validator(mode="after")
    def _precisions_are_settled(self) -> "EngineSettings":
        small = self.small if self.small == "policy" else self.small.served_by(self.small_pool)
        policy = self.policy.served_by(self.policy_pool)
        if policy is self.policy and small is self.small:
            return self
        return self.model_copy(update={"policy": policy, "small": small})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """Everything an engine is built from; picklable, and equal specs share one pool.

    `kind` is a key of `sphere_ray.engines.sources.ENGINES`; `name` is recorded with each chain;
    `path` is the model's directory (empty when simulated); `settings` are those of the kind, if it
    has any.
    """

    kind: str
    name: str
    path: str
    model: ModelSettings
    pool: PoolSettings
    settings: Settings | None = None
