"""The scores step: a reward source scores the steps of recorded rollouts once more."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.engines.sources import source_of
from sphere_ray.records import ModelRef
from sphere_ray.rollout import pipeline
from sphere_ray.runs.step import Made, Result, Step, Work
from sphere_ray.runs.steps.rollouts import RolloutsStep
from sphere_ray.runs.steps.streaming import LEFTOVERS, stream

COST = "cost.json"


@dataclass(frozen=True, kw_only=True)
class ScoresStep(Step):
    """One row of scores per rollout, and in cost.json what scoring cost, unless it was resumed."""

    kind: ClassVar[str] = "scores"
    resumable: ClassVar[bool] = True
    leftovers: ClassVar[tuple[str, ...]] = LEFTOVERS

    settings: RunSettings
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

    def run(self, work: Work) -> Result:
        """Ask the source about every step that has a reward."""
        roles = self._as_rollouts().roles()
        resumed = storage.count_rows(pipeline.parts_dir(work.path)) > 0
        done = stream(work, pipeline.rescore, self.rows_of, settings=self.settings, roles=roles)
        steps = sum(
            len(scores)
            for table in storage.tables(work.path, ["scores"])
            for scores in table["scores"].to_pylist()
        )
        if steps and not resumed:
            cost = source_of(self.settings.engines.scorer).cost(done.counts, done.pools)
            seconds = max((pool.seconds for pool in done.pools), default=0.0)
            per_1000 = {
                "decoded_tokens": 1000 * cost.decoded / steps,
                "prefilled_tokens": 1000 * cost.prefilled / steps,
                "seconds": 1000 * seconds / steps,
            }
            storage.write_json(per_1000, f"{work.path}/{COST}")
        rows = storage.count_rows(work.path)
        return Result(rows_in=rows, rows_out=rows, pools=done.pools)

    def _as_rollouts(self) -> RolloutsStep:
        """The rollouts step that would ask the same engines."""
        return RolloutsStep(
            settings=self.settings,
            problems=self.rollouts,
            policy=self.policy,
            trained=self.trained,
        )
