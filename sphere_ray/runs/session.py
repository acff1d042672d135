"""What the steps of an open run share: progress, events, engines, graders and training workers.

Ray is not touched before a step asks for it, so a finished run is read back at once.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.config.engines import EngineSpec
from sphere_ray.errors import ReleaseError
from sphere_ray.method.ports import Progress
from sphere_ray.pools.nodes import cluster_size
from sphere_ray.pools.pools import Pools
from sphere_ray.pools.roles import Roles
from sphere_ray.pools.watch import Watch
from sphere_ray.records import PoolUse
from sphere_ray.reporting.events import EventLog, Field, Watcher
from sphere_ray.reporting.progress import PhaseTracker, ProgressBoard
from sphere_ray.reporting.ray_metrics import RunMetrics
from sphere_ray.reporting.standstill import attended
from sphere_ray.rollout.cluster import can_train_beside_engines, connected
from sphere_ray.rollout.grader import GraderClient, start_graders
from sphere_ray.rollout.stages import Assignment
from sphere_ray.runs.directory import WritableRun
from sphere_ray.training.job import TrainingJob


@dataclass(kw_only=True)
class Session:
    """An open run at work; a context manager that closes what it opened, engines first."""

    run: WritableRun
    needs: RunSettings | None = None
    """Settings that say what the cluster must have room for, if that is less than the run's."""
    watcher: Watcher = field(default_factory=Watcher)
    events: EventLog = field(init=False)
    board: ProgressBoard = field(init=False)
    _pools: Pools | None = None
    _grader: GraderClient | None = None
    _watch: Watch | None = None
    _job: TrainingJob | None = None
    _open: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        """Start to record events."""
        self.events = EventLog(self.run.append_event, listener=self.watcher.on_event)
        self.board = ProgressBoard(listeners=(self.events.on_progress, self.watcher.on_progress))

    @property
    def settings(self) -> RunSettings:
        """The settings that decide where work is placed."""
        return self.needs or self.run.settings

    def log(self, text: str) -> None:
        """Print one line above the progress bars."""
        self.board.log(text)

    def record(self, event: str, *, iteration: int | None = None, **fields: Field) -> None:
        """Note an event in events.jsonl."""
        self.events.record(event, phase=None, iteration=iteration, **fields)

    def connect(self) -> None:
        """Be connected to Ray from now on.

        Raises:
            PlacementError: there is no cluster, or it is too small.
        """
        if self._watch is not None:
            return
        dashboard = self._open.enter_context(connected(self.settings, self.log))
        self._watch = self._open.enter_context(attended(self.board, self.events))
        self.board.listen(RunMetrics(self.settings.name).on_progress)
        self.record("connected", dashboard=dashboard or None, cluster=cluster_size())
        if dashboard:
            self.log(f"Ray dashboard: {dashboard}")

    def serve(self, specs: Sequence[EngineSpec]) -> None:
        """Have exactly these engines running, in the place of training's workers.

        Raises:
            EngineError, UserError: see `Pools.ensure`.
        """
        self.connect()
        self.dismiss_workers()
        if self._pools is None:
            self._pools = Pools.of(self.settings, self._watch)
        self._pools.ensure(specs)

    def assignment(
        self, settings: RunSettings, roles: Roles, iteration: int, progress: Progress
    ) -> Assignment:
        """What stage actors are given; the engines of `roles` are running.

        `settings` are those of the step, which may differ from the run's in what is asked.
        """
        assert self._pools is not None
        if self._grader is None:
            self._grader = start_graders(self.settings.grading)
        clients = {spec: self._pools.client(spec) for spec in roles.specs}
        return Assignment(
            settings=settings,
            clients={role: clients[spec] for role, spec in roles.filled.items()},
            grader=self._grader,
            progress=progress,
            iteration=iteration,
        )

    def metered(
        self, specs: Sequence[EngineSpec], tracker: PhaseTracker
    ) -> AbstractContextManager[list[PoolUse]]:
        """Meter running pools; see `Pools.metered`."""
        assert self._pools is not None
        return self._pools.metered(specs, lambda loads: tracker.update(details=loads))

    def call_workers_early(self, iteration: int) -> None:
        """Start training's workers beside the running engines, if the cluster has room for both."""
        if self._job is None and can_train_beside_engines(self.settings):
            self._start_workers(iteration)
            self.record("workers_called", iteration=iteration)

    def workers(self, iteration: int) -> TrainingJob:
        """Training's workers; engines that would meet them on a GPU are stopped.

        Raises:
            ReleaseError: engines did not give their memory back.
        """
        self.connect()
        if self._pools is not None:
            self._pools.release(keep_on_cpu=True)
        if self._job is None or not self._job.waits:
            self.dismiss_workers()
            self._start_workers(iteration)
        assert self._job is not None
        return self._job

    def dismiss_workers(self) -> None:
        """End training's workers."""
        if self._job is not None:
            self._job.end()
            self._job = None

    def finish_training(self, iteration: int) -> None:
        """End training's workers and remove their checkpoints: no step of the iteration is open."""
        self.dismiss_workers()
        storage.remove(self._training_state(iteration))

    def _start_workers(self, iteration: int) -> None:
        state = self._training_state(iteration)
        name = f"{self.settings.name}-iter-{iteration:03}-training"
        self._job = TrainingJob(name, state, self.settings.trainer)

    def _training_state(self, iteration: int) -> str:
        return self.settings.trainer.checkpoints(self.run.path, iteration)

    def __enter__(self) -> Self:
        """Return the session itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End workers, release engines and leave Ray."""
        try:
            if self._job is not None:
                self._job.end(at_once=kind is not None and not issubclass(kind, Exception))
            if self._pools is not None:
                self._pools.release()
        except ReleaseError as late:
            if error is None:
                raise
            self.log(str(late))  # what ended the run matters more
        finally:
            self._open.__exit__(kind, error, trace)
