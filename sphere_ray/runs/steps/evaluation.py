"""The evaluation step: a model answers one split, and its answers are graded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sphere_ray.config.base import identity
from sphere_ray.config.identities import generation_identity, verifier_input
from sphere_ray.pools.roles import Roles, policy_spec
from sphere_ray.records import ModelRef
from sphere_ray.rollout import pipeline
from sphere_ray.runs.step import Made
from sphere_ray.runs.steps.streaming import StreamedStep


@dataclass(frozen=True, kw_only=True)
class EvaluationStep(StreamedStep):
    """One row per problem: the greedy answer and, where asked for, samples."""

    kind: ClassVar[str] = "evaluation"
    tokens_column: ClassVar[str] = "num_tokens"

    problems: Made
    split: str
    model: ModelRef

    def identity(self) -> dict[str, Any]:
        """What decides the answers and their verdicts."""
        return generation_identity(self.settings) | identity(evaluation=self.settings.evaluation)

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        """The problems, which of them, and the model."""
        return {
            "problems": self.problems,
            "split": self.split,
            "model": self.model,
            **verifier_input(self.settings),
        }

    @property
    def rows_of(self) -> str:
        """The problems of the split."""
        return f"{self.problems.path}/{self.split}"

    @property
    def graph(self) -> pipeline.Graph:
        """Answer and grade."""
        return pipeline.evaluate

    def roles(self) -> Roles:
        """The model alone."""
        return Roles(policy=policy_spec(self.settings.engines, self.model))


@dataclass(frozen=True, kw_only=True)
class HeldOutStep(EvaluationStep):
    """The same on the test problems, which decide nothing."""

    kind: ClassVar[str] = "test"


@dataclass(frozen=True, kw_only=True)
class BenchmarkStep(EvaluationStep):
    """The same on a named benchmark, which decides nothing either."""

    kind: ClassVar[str] = "benchmarks"
