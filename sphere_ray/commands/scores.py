"""The scores step: a reward source scores the steps of recorded rollouts once more."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow.compute as pc

from sphere_ray import storage
from sphere_ray.engines.sources import source_of
from sphere_ray.pools.roles import Roles
from sphere_ray.records import ModelRef
from sphere_ray.rollout import pipeline
from sphere_ray.runs.step import Made, Work
from sphere_ray.runs.steps.rollouts import RolloutsStep
from sphere_ray.runs.steps.streaming import Streamed, StreamedStep

COST = "cost.json"


@dataclass(frozen=True, kw_only=True)
class ScoresStep(StreamedStep):
    """One row of scores per rollout, and in cost.json what scoring cost, unless it was resumed."""

    kind: ClassVar[str] = "scores"

    rollouts: Made
    policy: ModelRef
    trained: ModelRef | None

    def identity(self) -> dict[str, Any]:
        """What decides rewards: all that decides a rollout."""
        return self._as_rollouts().identity()

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        """The rollouts, and the models."""
        inputs = dict(self._as_rollouts().inputs())
        del inputs["problems"]
        return inputs | {"rollouts": self.rollouts}

    @property
    def rows_of(self) -> str:
        """The rollouts that get a row each."""
        return self.rollouts.path

    @property
    def graph(self) -> pipeline.Graph:
        """Ask the source about every step that has a reward."""
        return pipeline.rescore

    def roles(self) -> Roles:
        """The engines that a rollout would ask."""
        return self._as_rollouts().roles()

    def finish(self, work: Work, done: Streamed) -> None:
        """Write the cost per 1,000 steps, if all of them were scored in this session."""
        scores = (table["scores"] for table in storage.tables(work.path, ["scores"]))
        steps = sum(pc.sum(pc.list_value_length(each)).as_py() or 0 for each in scores)
        if not steps or not done.whole:
            return
        cost = source_of(self.settings.engines.scorer).cost(done.counts, done.pools)
        seconds = max((pool.seconds for pool in done.pools), default=0.0)
        per_1000 = {
            "decoded_tokens": 1000 * cost.decoded / steps,
            "prefilled_tokens": 1000 * cost.prefilled / steps,
            "seconds": 1000 * seconds / steps,
        }
        storage.write_json(per_1000, f"{work.path}/{COST}")

    def _as_rollouts(self) -> RolloutsStep:
        """The rollouts step that would ask the same engines."""
        return RolloutsStep(
            settings=self.settings,
            problems=self.rollouts,
            policy=self.policy,
            trained=self.trained,
        )
