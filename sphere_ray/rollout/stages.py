"""The Ray Data stages: each turns a table into records, calls the method, and turns them back.

One row is one problem, one row in is one row out; a batch is the unit of commit.
"""

import asyncio
import importlib
import itertools
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import pyarrow as pa

from sphere_ray.config.evaluation import EvaluationSettings
from sphere_ray.config.method import MethodSettings
from sphere_ray.config.scorers import JudgeSettings, RolloutValueSettings, ScorerSettings
from sphere_ray.engines.rollout_value import RolloutValueScorer
from sphere_ray.errors import DeadlineExceededError, RowError
from sphere_ray.method.concurrency import gather_or_cancel
from sphere_ray.method.evaluate import EvaluationContext, evaluate_problem, failed_row
from sphere_ray.method.ports import Progress, Scorer
from sphere_ray.method.sphere import World, enter
from sphere_ray.records import EvaluationRow, Problem, Rollout, StageName
from sphere_ray.reward.audited import AuditedScorer
from sphere_ray.rollout.client import PoolClient
from sphere_ray.rollout.grader import GraderClient
from sphere_ray.schema import from_table, to_table

ID_COLUMN = "problem_id"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Everything a stage actor is given: plain parameters and clients of the pools."""

    method: MethodSettings
    scorer: ScorerSettings
    evaluation: EvaluationSettings
    policy: PoolClient
    small: PoolClient
    reward: PoolClient | None
    trained: PoolClient | None
    grader: GraderClient
    progress: Progress
    seed: int
    iteration: int
    problem_timeout_s: float

    def context(self) -> World:
        """The method's view of this assignment."""
        return World(
            settings=self.method,
            policy=self.policy,
            small=self.small,
            scorer=self._scorer(),
            grader=self.grader,
            progress=self.progress,
            run_seed=self.seed,
            iteration=self.iteration,
        )

    def _scorer(self) -> Scorer:
        if self.trained is None or self.scorer.trained is None:
            return self._source()
        share = self.scorer.trained.schedule.audit_share
        return AuditedScorer(self.trained, self._source(), share) if share else self.trained

    def _source(self) -> Scorer:
        """The configured reward source."""
        if isinstance(self.scorer, RolloutValueSettings):
            return RolloutValueScorer(self.policy, self.grader, self.scorer, self.method.search)
        if isinstance(self.scorer, JudgeSettings):
            # Its client takes a second to import, in every stage actor.
            judge: Any = importlib.import_module("sphere_ray.engines.judge")
            return cast(Scorer, judge.JudgeScorer(self.scorer, self.progress))
        if self.reward is None:
            raise ValueError(f"scorer {self.scorer.kind} has no pool")
        return self.reward


class MethodStage:
    """Base of the stages that run a coroutine of the method on each row."""

    stage: StageName

    def __init__(self, assignment: Assignment) -> None:
        """Build the method's context once per stage actor."""
        self._context = assignment.context()
        self._timeout_s = assignment.problem_timeout_s
        self._arrivals = itertools.count()

    async def __call__(self, table: pa.Table) -> AsyncIterator[pa.Table]:
        """Run all rows of a batch at once."""
        rollouts = self.read(table)
        done = await asyncio.gather(*(self._run(rollout) for rollout in rollouts))
        yield rollout_table(list(done))

    def read(self, table: pa.Table) -> list[Rollout]:
        """Records of a batch."""
        return rollouts_of(table)

    async def _run(self, rollout: Rollout) -> Rollout:
        if rollout.error is not None:
            return rollout
        work = enter(self.stage, rollout, self._context, next(self._arrivals))
        try:
            return await within(work, self._timeout_s)
        except RowError as error:
            self._context.progress.add(errors=1)
            return replace(rollout, error=f"{type(error).__name__}: {error}")


class SelfGenerate(MethodStage):
    """Stage 1: problems in, rollouts with Sol_max and Sol_min out."""

    stage = StageName.SELF_GENERATION

    def read(self, table: pa.Table) -> list[Rollout]:
        """Problems become empty rollouts."""
        return [Rollout(problem=problem) for problem in from_table(table, Problem)]


class SelfCorrect(MethodStage):
    """Stage 2."""

    stage = StageName.SELF_CORRECTION


class Diversify(MethodStage):
    """Stage 3."""

    stage = StageName.DIVERSITY


class CountProblems:
    """The last operator of the rollouts: counts the rows that are about to be written."""

    def __init__(self, progress: Progress) -> None:
        """Count into `progress`."""
        self._progress = progress

    def __call__(self, table: pa.Table) -> pa.Table:
        """Count the rows of a batch."""
        self._progress.add(problems=table.num_rows)
        return table


class Evaluate:
    """Problems in, graded answers of the policy out."""

    def __init__(self, assignment: Assignment) -> None:
        """Build what the evaluation works with."""
        self._timeout_s = assignment.problem_timeout_s
        self._exam = EvaluationContext(
            settings=assignment.evaluation,
            prompts=assignment.method.prompts,
            policy=assignment.policy,
            grader=assignment.grader,
            progress=assignment.progress,
            run_seed=assignment.seed,
        )

    async def __call__(self, table: pa.Table) -> AsyncIterator[pa.Table]:
        """Answer and grade all problems of a batch at once; a failed one becomes a row too."""
        rows = await gather_or_cancel(self._row(problem) for problem in from_table(table, Problem))
        self._exam.progress.add(problems=len(rows))
        yield to_table(rows, EvaluationRow)

    async def _row(self, problem: Problem) -> EvaluationRow:
        try:
            return await within(evaluate_problem(problem, self._exam), self._timeout_s)
        except RowError as error:
            self._exam.progress.add(errors=1)
            return failed_row(problem, error)


async def within(work: Awaitable[T], seconds: float) -> T:
    """Await `work` for at most `seconds`.

    Raises:
        DeadlineExceededError: it took longer.
    """
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError as error:
        raise DeadlineExceededError(f"not finished within {seconds:g} s") from error


def rollout_table(rollouts: list[Rollout]) -> pa.Table:
    """Rollouts as a table, with the id as a column of its own for the checkpoint."""
    ids = pa.array([rollout.problem.problem_id for rollout in rollouts], pa.string())
    return to_table(rollouts, Rollout).append_column(ID_COLUMN, ids)


def rollouts_of(table: pa.Table) -> list[Rollout]:
    """The inverse of `rollout_table`."""
    return from_table(table.drop_columns([ID_COLUMN]), Rollout)
