"""Which models play which role, and their pools."""

from typing import Literal

from pydantic import Field, model_validator

from sphere_ray.config.base import Settings
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.config.scorers import RolloutValueSettings, ScorerSettings


class SimulationSettings(Settings):
    """Knobs of the simulated engines (no model; seeded; for tests and scale runs)."""

    accuracy: float = Field(0.6, ge=0, le=1)
    steps: int = Field(3, ge=1)
    latency_s: float = Field(0.0, ge=0)
    latency_per_sequence_s: float = Field(0.0, ge=0)


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

    @model_validator(mode="after")
    def _small_has_a_pool(self) -> "EngineSettings":
        if self.small != "policy" and self.small_pool is None:
            raise ValueError("small names a model of its own, so small_pool must be given too")
        if self.small == "policy" and self.small_pool is not None:
            raise ValueError("small: policy shares the policy's pool; remove small_pool")
        return self

    @model_validator(mode="after")
    def _precisions_are_settled(self) -> "EngineSettings":
        small = self.small if self.small == "policy" else self.small.served_by(self.small_pool)
        policy = self.policy.served_by(self.policy_pool)
        if policy is self.policy and small is self.small:
            return self
        return self.model_copy(update={"policy": policy, "small": small})
