"""The evaluation step: a model answers one split, and its answers are graded."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow.compute as pc

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.config.base import identity
from sphere_ray.records import ModelRef
from sphere_ray.rollout import pipeline
from sphere_ray.rollout.roles import Roles, policy_spec
from sphere_ray.runs.step import Made, Result, Step, Work
from sphere_ray.runs.steps.rollouts import generation_identity
from sphere_ray.runs.steps.streaming import LEFTOVERS, check_failures, stream


@dataclass(frozen=True, kw_only=True)
class EvaluationStep(Step):
    """One row per problem: the greedy answer and, where asked for, samples."""

    kind: ClassVar[str] = "evaluation"
    resumable: ClassVar[bool] = True
    leftovers: ClassVar[tuple[str, ...]] = LEFTOVERS

    settings: RunSettings
    problems: Made
    split: str
    model: ModelRef

    def identity(self) -> dict[str, Any]:
        """What decides the answers and their verdicts."""
        return generation_identity(self.settings) | identity(evaluation=self.settings.evaluation)

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        """The problems, which of them, and the model."""
        return {"problems": self.problems, "split": self.split, "model": self.model}

    def run(self, work: Work) -> Result:
        """Answer and grade.

        Raises:
            EngineError: engines were lost, or more rows failed than `rollout.max_failed_share`.
        """
        spec = policy_spec(self.settings.engines, self.model)
        roles = Roles(policy=spec)
        done = stream(work, pipeline.evaluate, self.rows_of, settings=self.settings, roles=roles)
        errors, rows, tokens = Counter[str](), 0, 0
        for table in storage.tables(work.path, ["error", "num_tokens"]):
            rows += table.num_rows
            tokens += pc.sum(table["num_tokens"]).as_py() or 0
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
        return f"{self.problems.path}/{self.split}"


@dataclass(frozen=True, kw_only=True)
class HeldOutStep(EvaluationStep):
    """The same on the test problems, which decide nothing."""

    kind: ClassVar[str] = "test"
