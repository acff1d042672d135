"""The Ray Data stages: each turns a table into records, calls the method, and turns them back.

One row is one problem, and one row in is one row out. A row leaves a stage as soon as it is done.
"""

import asyncio
import itertools
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias, TypeVar

import pyarrow as pa

from sphere_ray.config.run import RunSettings
from sphere_ray.engines.sources import source_of
from sphere_ray.errors import DeadlineExceededError, RowError
from sphere_ray.method.evaluate import EvaluationContext, evaluate_problem, failed_row
from sphere_ray.method.ports import Progress, Scorer
from sphere_ray.method.sphere import World, enter
from sphere_ray.pools.client import PoolClient
from sphere_ray.records import EvaluationRow, Problem, Rollout, StageName
from sphere_ray.reward.audited import AuditedScorer
from sphere_ray.reward.sources import Surroundings
from sphere_ray.reward.tallies import tally_answers, tally_chains
from sphere_ray.rollout.grader import GraderClient
from sphere_ray.schema import from_table, to_table

ID_COLUMN = "problem_id"
SETTLED = "settled"
"""A column of problems: all that was found for this one was right, or all was wrong."""
FIRST = next(iter(StageName))
LATER = 1 << 30
"""What a later stage subtracts from a priority; no stage sees so many rows."""
TICK_S = 0.1
"""Rows that are done within this time travel together: each block costs Ray Data milliseconds."""

T = TypeVar("T")
Row: TypeAlias = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Everything a stage actor is given: the settings, and clients of the pools by role.

    Roles are `policy`, and where an engine plays them `small`, `reward` and `trained`. A graph that
    lost an actor starts again: `start` counts these starts.
    """

    settings: RunSettings
    clients: Mapping[str, PoolClient]
    grader: GraderClient
    progress: Progress
    iteration: int
    start: int = 0

    def world(self) -> World:
        """Return what the method works with."""
        policy = self.clients["policy"]
        return World(
            settings=self.settings.method,
            policy=policy,
            small=self.clients.get("small", policy),
            scorer=self.scorer(),
            grader=self.grader,
            progress=self.progress,
            run_seed=self.settings.seed,
            iteration=self.iteration,
        )

    def scorer(self) -> Scorer:
        """Return what scores steps: the trained reward model, the configured source, or both."""
        settings, trained = self.settings.engines.scorer, self.clients.get("trained")
        if trained is None:
            return self._source()
        assert settings.trained is not None
        share = settings.trained.schedule.audit_share
        return AuditedScorer(trained, self._source(), share) if share else trained

    def _source(self) -> Scorer:
        settings = self.settings
        around = Surroundings(
            engine=self.clients.get("reward"),
            generator=self.clients["policy"],
            grader=self.grader,
            search=settings.method.search,
            progress=self.progress,
            stage_actors=len(settings.method.taken_stages) * settings.rollout.stage_actors,
        )
        return source_of(settings.engines.scorer).scorer(around)


class RowStage(ABC):
    """Runs a coroutine for every row of a block, and passes each row on as soon as it is done.

    Ray Data collects all that an async stage yields before it passes anything on. So a stage is an
    ordinary generator, called in a thread of its actor for each block, and all coroutines of the
    actor run in an event loop of its own.
    """

    def __init__(self, assignment: Assignment, *, last: bool = True) -> None:
        """Start the event loop; the `last` stage of a graph counts the problems that are done."""
        self._timeout_s = assignment.settings.rollout.problem_timeout_s
        self._progress = assignment.progress
        self._last = last
        self._held = f"held/{assignment.start}/{type(self).__name__}"
        # In Arrow's usual pool each thread that writes tables keeps about 10 MiB for itself.
        pa.set_memory_pool(pa.system_memory_pool())
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Run all rows at once; yield those that are done, in the order in which they end.

        Raises:
            SphereError: a row met an error that ends the run; the other rows are cancelled.
        """
        tasks = [
            asyncio.run_coroutine_threadsafe(self._within(row), self._loop)
            for row in self.read(table)
        ]
        done: queue.SimpleQueue[Future[Row]] = queue.SimpleQueue()
        for task in tasks:
            task.add_done_callback(done.put)
        left = len(tasks)
        self._progress.add(**{self._held: left})
        try:
            while left:
                ready = [done.get()]
                if left > 1:
                    time.sleep(TICK_S)
                while not done.empty():
                    ready.append(done.get())
                left -= len(ready)
                self._progress.add(**{self._held: -len(ready)})
                yield self.write([task.result() for task in ready])
                if self._last:
                    self._progress.add(problems=len(ready))
        finally:
            for task in tasks:
                task.cancel()

    async def _within(self, row: Row) -> Row:
        try:
            return await within(self.work(row), self._timeout_s)
        except RowError as error:
            self._progress.add(errors=1)
            return self.failed(row, error)

    @abstractmethod
    def read(self, table: pa.Table) -> Sequence[Row]:
        """Return the records of a block."""

    @abstractmethod
    async def work(self, row: Row) -> Row:
        """Return the row that comes out for a row."""

    @abstractmethod
    def failed(self, row: Row, error: RowError) -> Row:
        """Return the row that comes out if `work` failed for good."""

    @abstractmethod
    def write(self, rows: list[Row]) -> pa.Table:
        """Return rows that come out as a block."""


class MethodStage(RowStage):
    """A stage of SPHERE: rollouts in, rollouts out. The first one takes problems."""

    name: ClassVar[StageName]

    def __init__(self, assignment: Assignment, *, last: bool = True) -> None:
        """Build what the method works with, once per stage actor."""
        super().__init__(assignment, last=last)
        self._world = assignment.world()
        self._frugal = replace(self._world, settings=self._world.settings.for_settled())
        self._settled = set[str]()
        self._arrivals = itertools.count()

    def read(self, table: pa.Table) -> list[Rollout]:
        """See `RowStage.read`. In the first stage problems become empty rollouts."""
        if self.name is FIRST:
            if SETTLED in table.column_names:
                self._settled.update(table.filter(table[SETTLED])[ID_COLUMN].to_pylist())
            return [Rollout(problem=problem) for problem in from_table(table, Problem)]
        return rollouts_of(table)

    async def work(self, row: Rollout) -> Rollout:
        """See `RowStage.work`.

        Of two problems the one in the later stage is served first, else the one that came first.
        """
        later = list(StageName).index(self.name)
        world = self._world
        if (name := row.problem.problem_id) in self._settled:
            self._settled.remove(name)
            world = self._frugal
        done = await enter(self.name, row, world, next(self._arrivals) - later * LATER)
        self._progress.add(**tally_chains(done.chains[len(row.chains) :]))
        return done

    def failed(self, row: Rollout, error: RowError) -> Rollout:
        """See `RowStage.failed`."""
        return replace(row, error=reason_of(error))

    def write(self, rows: list[Rollout]) -> pa.Table:
        """See `RowStage.write`."""
        return rollout_table(rows)


def _operator(stage: StageName) -> type[MethodStage]:
    """Make the class of a stage; Ray Data shows its name, for example SelfGeneration."""
    return type(stage.title().replace("_", ""), (MethodStage,), {"name": stage})


STAGES: Mapping[StageName, type[MethodStage]] = {stage: _operator(stage) for stage in StageName}
"""The operator of each stage of SPHERE."""


class Evaluate(RowStage):
    """Problems in, graded answers of the policy out."""

    def __init__(self, assignment: Assignment, *, last: bool = True) -> None:
        """Build what the evaluation works with."""
        super().__init__(assignment, last=last)
        self._exam = EvaluationContext(
            settings=assignment.settings.evaluation,
            prompts=assignment.settings.method.prompts,
            policy=assignment.clients["policy"],
            grader=assignment.grader,
            progress=assignment.progress,
            run_seed=assignment.settings.seed,
        )

    def read(self, table: pa.Table) -> list[Problem]:
        """See `RowStage.read`."""
        return from_table(table, Problem)

    async def work(self, row: Problem) -> EvaluationRow:
        """See `RowStage.work`."""
        answered = await evaluate_problem(row, self._exam)
        self._progress.add(**tally_answers(answered))
        return answered

    def failed(self, row: Problem, error: RowError) -> EvaluationRow:
        """See `RowStage.failed`."""
        return failed_row(row, error)

    def write(self, rows: list[EvaluationRow]) -> pa.Table:
        """See `RowStage.write`."""
        return to_table(rows, EvaluationRow)


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


def reason_of(error: RowError) -> str:
    """Return the text that a failed row records as its error."""
    return f"{type(error).__name__}: {error}"


def rollout_table(rollouts: list[Rollout]) -> pa.Table:
    """Return rollouts as a table, with the id as a column of its own for the checkpoint."""
    ids = pa.array([rollout.problem.problem_id for rollout in rollouts], pa.string())
    return to_table(rollouts, Rollout).append_column(ID_COLUMN, ids)


def rollouts_of(table: pa.Table) -> list[Rollout]:
    """Return the rollouts of a table of `rollout_table`."""
    return from_table(table.drop_columns([ID_COLUMN]), Rollout)
