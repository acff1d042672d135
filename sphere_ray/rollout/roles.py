"""Which engine plays which role: policy, small sibling, reward model, as specs of pools."""

from dataclasses import dataclass

from sphere_ray.config.engines import EngineSettings
from sphere_ray.config.models import Dtype, ModelSettings, PoolSettings
from sphere_ray.config.scorers import (
    ProcessRewardSettings,
    RolloutValueSettings,
    SimulatedRewardSettings,
    StepClassifierSettings,
    TrainedScorerSettings,
)
from sphere_ray.engines.engine import EngineSpec
from sphere_ray.engines.model_source import model_fingerprint, resolve_model
from sphere_ray.records import ModelRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The pools of one rollout; equal specs are one pool."""

    policy: EngineSpec
    small: EngineSpec
    reward: EngineSpec | None
    trained: EngineSpec | None = None

    @property
    def specs(self) -> tuple[EngineSpec, ...]:
        """All of them, once each."""
        return tuple(
            dict.fromkeys(s for s in (self.policy, self.small, self.reward, self.trained) if s)
        )

    @property
    def others(self) -> dict[str, EngineSpec]:
        """The roles that a model of their own plays, besides the policy."""
        roles = {"small": self.small, "reward": self.reward, "trained": self.trained}
        return {name: spec for name, spec in roles.items() if spec and spec != self.policy}


def base_model(engines: EngineSettings) -> ModelRef:
    """The model the run begins with, made or checked.

    Raises:
        ModelError: it is not there, or lacks something.
    """
    if engines.backend == "simulated":
        return ModelRef(path="", iteration=0, fingerprint="simulated")
    path = resolve_model(engines.policy)
    return ModelRef(path=path, iteration=0, fingerprint=model_fingerprint(path))


def policy_alone(engines: EngineSettings) -> EngineSettings:
    """Without the other engines: the cluster need not have room for them."""
    alone = {"small": "policy", "small_pool": None, "scorer": RolloutValueSettings()}
    return engines.model_copy(update=alone)


def roles_of(engines: EngineSettings, policy: ModelRef, trained: ModelRef | None = None) -> Roles:
    """The engine specs of a rollout by `policy`, scored by the trained reward model if any.

    The source before it keeps its engine only where it still scores a share.

    Raises:
        ModelError: the small or the reward model is not there, or lacks something.
    """
    main = policy_spec(engines, policy)
    small = main
    if isinstance(engines.small, ModelSettings) and engines.small_pool is not None:
        path = "" if engines.backend == "simulated" else resolve_model(engines.small)
        small = _generator(engines, "small", path, engines.small, engines.small_pool)
    settings = engines.scorer.trained
    if trained is None or settings is None:
        return Roles(policy=main, small=small, reward=_reward_spec(engines))
    audited = settings.schedule.audit_share > 0
    return Roles(
        policy=main,
        small=small,
        reward=_reward_spec(engines) if audited else None,
        trained=trained_spec(settings, trained, engines.policy.dtype),
    )


def policy_spec(engines: EngineSettings, policy: ModelRef) -> EngineSpec:
    """The engine spec that serves `policy`."""
    name = f"policy-{policy.fingerprint[:8]}"
    return _generator(engines, name, policy.path, engines.policy, engines.policy_pool)


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


def trained_spec(settings: TrainedScorerSettings, model: ModelRef, dtype: Dtype) -> EngineSpec:
    """The engine spec that serves a reward model of one's own."""
    served = ModelSettings(path=model.path, dtype=dtype, max_model_len=settings.max_model_len)
    name, pool = f"trained-{model.fingerprint[:8]}", settings.pool
    if settings.shape == "classifier":
        return EngineSpec(
            kind="step_classifier",
            name=name,
            path=model.path,
            model=served,
            pool=pool,
            settings=StepClassifierSettings(model=served, pool=pool, system=settings.system),
        )
    prompt = ProcessRewardSettings(
        model=served, pool=pool, system=settings.system, step_tag=settings.step_tag
    )
    return EngineSpec(
        kind="process_reward", name=name, path=model.path, model=served, pool=pool, settings=prompt
    )


def _reward_spec(engines: EngineSettings) -> EngineSpec | None:
    scorer = engines.scorer
    if isinstance(scorer, ProcessRewardSettings | StepClassifierSettings):
        return EngineSpec(
            kind=scorer.kind,
            name="reward",
            path=resolve_model(scorer.model),
            model=scorer.model,
            pool=scorer.pool,
            settings=scorer.model_copy(update={"trained": None}),
        )
    if isinstance(scorer, SimulatedRewardSettings):
        return EngineSpec(
            kind="simulated_scorer",
            name="reward",
            path="",
            model=engines.policy,
            pool=engines.policy_pool,
            settings=scorer,
        )
    return None
