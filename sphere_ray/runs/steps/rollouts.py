"""The rollouts step: SPHERE's three stages over the training problems."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sphere_ray.config import RunSettings
from sphere_ray.config.base import identity
from sphere_ray.config.engines import EngineSettings
from sphere_ray.engines.model_source import model_fingerprint
from sphere_ray.records import ModelRef
from sphere_ray.rollout import pipeline
from sphere_ray.rollout.roles import Roles, roles_of
from sphere_ray.runs.step import Made
from sphere_ray.runs.steps.streaming import StreamedStep


@dataclass(frozen=True, kw_only=True)
class RolloutsStep(StreamedStep):
    """One row per training problem, with all its chains and all their candidate steps.

    `trained` is the trained reward model that scores, if one took over.
    """

    kind: ClassVar[str] = "rollouts"

    problems: Made
    policy: ModelRef
    trained: ModelRef | None = None

    def identity(self) -> dict[str, Any]:
        """Seed, prompts, search, stages, models, grading; pair rules are the pairs step's."""
        method = self.settings.method
        return generation_identity(self.settings) | identity(
            search=method.search,
            stages=method.stages,
            scorer=_scorer_identity(self.settings.engines, self.trained),
            small=self.settings.engines.small,
            small_deterministic=getattr(self.settings.engines.small_pool, "deterministic", None),
        )

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        """Problems, policy, and every other model by its fingerprint."""
        models = self.roles().models
        inputs = {
            role: model_fingerprint(path) for role, path in models.items() if role != "trained"
        }
        found: dict[str, Made | ModelRef | str] = {"problems": self.problems, **inputs}
        if self.trained is not None:
            found["trained"] = self.trained
        return found | {"policy": self.policy}

    @property
    def rows_of(self) -> str:
        """The training problems."""
        return f"{self.problems.path}/train"

    @property
    def graph(self) -> pipeline.Graph:
        """SPHERE's stages."""
        return pipeline.rollout

    def roles(self) -> Roles:
        """The engines that take part."""
        return roles_of(self.settings.engines, self.policy, self.trained)


def generation_identity(settings: RunSettings) -> dict[str, Any]:
    """What decides any text that the policy writes, and how it is graded."""
    engines = settings.engines
    return identity(
        seed=settings.seed,
        prompts=settings.method.prompts,
        backend=engines.backend,
        simulated=engines.simulated if engines.backend == "simulated" else None,
        policy=engines.policy,
        policy_pool=engines.policy_pool,
        grading=settings.grading,
    )


def _scorer_identity(engines: EngineSettings, trained: ModelRef | None) -> Any:
    """The reward source; of its trained successor only where that scores."""
    scorer = engines.scorer
    return scorer if trained is not None else scorer.model_copy(update={"trained": None})
