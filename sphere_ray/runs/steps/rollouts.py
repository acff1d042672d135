"""The rollouts step: SPHERE's three stages over the training problems."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sphere_ray.config.base import identity
from sphere_ray.config.identities import generation_identity, verifier_input
from sphere_ray.config.scorers import PythonRewardSettings
from sphere_ray.models.source import model_fingerprint
from sphere_ray.pools.roles import Roles, roles_of
from sphere_ray.provenance import module_hash
from sphere_ray.records import ModelRef
from sphere_ray.rollout import pipeline
from sphere_ray.runs.step import Made
from sphere_ray.runs.steps.budget import BudgetStep
from sphere_ray.runs.steps.streaming import StreamedStep


@dataclass(frozen=True, kw_only=True)
class RolloutsStep(StreamedStep):
    """One row per training problem, with all its chains and all their candidate steps.

    `problems` are made by a problems step, or marked by a budget step.
    `trained` is the trained reward model that scores, if one took over.
    """

    kind: ClassVar[str] = "rollouts"

    problems: Made
    policy: ModelRef
    trained: ModelRef | None = None

    def identity(self) -> dict[str, Any]:
        """Seed, prompts, search, stages, models, grading; pair rules are the pairs step's."""
        method = self.settings.method
        decisive = generation_identity(self.settings) | identity(
            search=method.search,
            stages=method.stages,
            correction=method.prompts.correction,
            correction_examples=method.prompts.correction_examples,
            scorer=self.settings.engines.scorer.model_copy(update={"trained": None}),
            trained=self._trained_identity(),
            small=self.settings.engines.small,
            small_deterministic=getattr(self.settings.engines.small_pool, "deterministic", None),
        )
        if self.problems.name != BudgetStep.kind:  # no problem is marked as settled
            del decisive["search.settled_candidates"]
        return decisive

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        """Problems, policy, and every other model by its fingerprint."""
        models = self.roles().models
        inputs = {
            role: model_fingerprint(path) for role, path in models.items() if role != "trained"
        }
        found: dict[str, Made | ModelRef | str] = {"problems": self.problems, **inputs}
        found |= verifier_input(self.settings)
        scorer = self.settings.engines.scorer
        if isinstance(scorer, PythonRewardSettings):
            found["scorer"] = module_hash(scorer.object)
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

    def _trained_identity(self) -> Mapping[str, Any]:
        """How the trained reward model is asked, if it scores; how it was made is its model's."""
        trained = self.settings.engines.scorer.trained
        if self.trained is None or trained is None:
            return {}
        return {
            "shape": trained.shape,
            "system": trained.system,
            "step_tag": trained.step_tag,
            "max_model_len": trained.max_model_len,
            "audit_share": trained.schedule.audit_share,
            "deterministic": trained.pool.deterministic,
        }
