"""The rollouts step: SPHERE's three stages over the training problems."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.config.base import identity
from sphere_ray.config.engines import EngineSettings
from sphere_ray.engines.model_source import model_fingerprint
from sphere_ray.records import ModelRef
from sphere_ray.rollout import pipeline
from sphere_ray.rollout.roles import Roles, roles_of
from sphere_ray.runs.step import Made, Result, Step, Work
from sphere_ray.runs.steps.streaming import LEFTOVERS, check_failures, stream


@dataclass(frozen=True, kw_only=True)
class RolloutsStep(Step):
    """One row per training problem, with all its chains and all their candidate steps.

    `trained` is the trained reward model that scores, if one took over. With `then_trains` the
    workers of the training that follows may start while the engines still run.
    """

    kind: ClassVar[str] = "rollouts"
    resumable: ClassVar[bool] = True
    leftovers: ClassVar[tuple[str, ...]] = LEFTOVERS

    settings: RunSettings
    problems: Made
    policy: ModelRef
    trained: ModelRef | None = None
    then_trains: bool = False

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

    def run(self, work: Work) -> Result:
        """Stream the problems through the stages.

        Raises:
            EngineError: engines were lost, or more rows failed than `rollout.max_failed_share`.
        """
        done = stream(
            work,
            pipeline.rollout,
            self.rows_of,
            settings=self.settings,
            roles=self.roles(),
            call_workers=self.then_trains,
        )
        errors, rows, tokens = Counter[str](), 0, 0
        for table in storage.tables(work.path, ["error", "tokens"]):
            rows += table.num_rows
            tokens += sum(table["tokens"].to_pylist())
            errors.update(error for error in table["error"].to_pylist() if error is not None)
        check_failures(errors, rows, self.settings.rollout.max_failed_share, work.path)
        return Result(
            rows_in=storage.count_rows(self.rows_of),
            rows_out=rows,
            dropped={"failed": errors.total()} if errors else {},
            tokens=tokens,
            pools=done.pools,
        )

    @property
    def rows_of(self) -> str:
        """The problems that get a row each."""
        return f"{self.problems.path}/train"

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
