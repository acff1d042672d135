"""Which engine plays which role: policy, small sibling, reward model, as specs of pools."""

from dataclasses import dataclass

from sphere_ray.config.engines import EngineSettings, EngineSpec
from sphere_ray.config.models import Dtype, ModelSettings, PoolSettings
from sphere_ray.config.scorers import (
    ProcessRewardSettings,
    RolloutValueSettings,
    ServedRewardSettings,
    StepClassifierSettings,
    TrainedScorerSettings,
)
from sphere_ray.engines.sources import served_spec, source_of
from sphere_ray.models.source import model_fingerprint, require_dense, resolve_model
from sphere_ray.records import ModelRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The engine of each role in a rollout or an evaluation; equal specs are one pool.

    A role is None where nothing plays it; without a small sibling the policy does its work.
    """

    policy: EngineSpec
    small: EngineSpec | None = None
    reward: EngineSpec | None = None
    trained: EngineSpec | None = None

    @property
    def filled(self) -> dict[str, EngineSpec]:
        """The engines by role, without the roles that nothing plays."""
        roles = {
            "policy": self.policy,
            "small": self.small,
            "reward": self.reward,
            "trained": self.trained,
        }
        return {name: spec for name, spec in roles.items() if spec is not None}

    @property
    def specs(self) -> tuple[EngineSpec, ...]:
        """All engines, once each."""
        return tuple(dict.fromkeys(self.filled.values()))

    @property
    def models(self) -> dict[str, str]:
        """Role -> model directory (see `model_fingerprint`), of all roles but the policy's."""
        others = self.filled
        del others["policy"]
        return {name: spec.path for name, spec in others.items() if spec.path}


def base_model(engines: EngineSettings) -> ModelRef:
    """Return the model that the run begins with, made or checked.

    Raises:
        ModelError: it is not there, or lacks something.
    """
    if engines.backend == "simulated":
        return ModelRef(path="", iteration=0, fingerprint="simulated")
    path = resolve_model(engines.policy)
    return ModelRef(path=path, iteration=0, fingerprint=model_fingerprint(path))


def model_to_train(engines: EngineSettings) -> ModelRef:
    """Return `base_model`, if it can be trained.

    Raises:
        ModelError: it cannot.
    """
    model = base_model(engines)
    if model.path:
        require_dense(model.path)
    return model


def policy_alone(engines: EngineSettings) -> EngineSettings:
    """Return the settings without the other engines, for which the cluster then needs no room."""
    alone = {"small": "policy", "small_pool": None, "scorer": RolloutValueSettings()}
    return engines.model_copy(update=alone)


def roles_of(engines: EngineSettings, policy: ModelRef, trained: ModelRef | None = None) -> Roles:
    """Return the engines of a rollout by `policy`, scored by `trained` if it has taken over.

    The original reward source then keeps its engine only if it still scores a share of the steps.

    Raises:
        ModelError: the small or the reward model is not there, or lacks something.
        ConfigError: the reward source names an object that is no scorer.
    """
    small = None
    if isinstance(engines.small, ModelSettings) and engines.small_pool is not None:
        path = "" if engines.backend == "simulated" else resolve_model(engines.small)
        small = _generator(engines, "small", path, engines.small, engines.small_pool)
    main, source = policy_spec(engines, policy), source_of(engines.scorer)
    settings = engines.scorer.trained
    if trained is None:
        return Roles(policy=main, small=small, reward=source.engine(engines))
    assert settings is not None
    return Roles(
        policy=main,
        small=small,
        reward=source.engine(engines) if settings.schedule.audit_share else None,
        trained=trained_spec(settings, trained, engines.policy.dtype),
    )


def policy_spec(engines: EngineSettings, policy: ModelRef) -> EngineSpec:
    """Return the engine that serves `policy`."""
    name = f"policy-{policy.fingerprint[:8]}"
    return _generator(engines, name, policy.path, engines.policy, engines.policy_pool)


def trained_spec(settings: TrainedScorerSettings, model: ModelRef, dtype: Dtype) -> EngineSpec:
    """Return the engine that serves a reward model trained here."""
    served: ServedRewardSettings
    known = {
        "model": ModelSettings(path=model.path, dtype=dtype, max_model_len=settings.max_model_len),
        "pool": settings.pool,
        "system": settings.system,
    }
    if settings.shape == "classifier":
        served = StepClassifierSettings.model_validate(known)
    else:
        served = ProcessRewardSettings.model_validate(known | {"step_tag": settings.step_tag})
    return served_spec(f"trained-{model.fingerprint[:8]}", served, model.path)


def _generator(
    engines: EngineSettings, name: str, path: str, model: ModelSettings, pool: PoolSettings
) -> EngineSpec:
    simulated = engines.backend == "simulated"
    return EngineSpec(
        kind="simulated_generator" if simulated else "vllm_generator",
        name=name,
        path=path,
        model=model,
        pool=pool,
        settings=engines.simulated if simulated else None,
    )
