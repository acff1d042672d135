"""What the steps of an open run share: progress, events, engines, graders and training workers.

Ray is not touched before a step asks for it, so a finished run is read back at once.
"""

import copy
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from sphere_ray import storage
from sphere_ray.compat.ray import STOP_STREAMS
from sphere_ray.config import RunSettings
from sphere_ray.config.engines import EngineSpec
from sphere_ray.errors import EngineError, ReleaseError
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
class _Shared:
    """What all partitions of a session share; `lock` guards it, and who starts or ends workers."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    open: ExitStack = field(default_factory=ExitStack)
    partitions: list["Session"] = field(default_factory=list)
    grader: GraderClient | None = None
    watch: Watch | None = None
    stopped: bool = False


@dataclass(kw_only=True)
class Session:
    """An open run at work; a context manager that closes what it opened, engines first.

    Engines and training's workers take turns in it. What works at once takes a partition each
    (`beside`).
    """

    run: WritableRun
    needs: RunSettings | None = None
    """Settings that say what the cluster must have room for, if that is less than the run's."""
    watcher: Watcher = field(default_factory=Watcher)
    events: EventLog = field(init=False)
    board: ProgressBoard = field(init=False)
    _pools: Pools | None = None
    _job: TrainingJob | None = None
    _rolls_out: bool = False
    _shared: _Shared = field(default_factory=_Shared)

    def __post_init__(self) -> None:
        """Start to record events."""
        self.events = EventLog(self.run.append_event, listener=self.watcher.on_event)
        self.board = ProgressBoard(listeners=(self.events.on_progress, self.watcher.on_progress))
        self._shared.partitions.append(self)

    def beside(self) -> "Session":
        """The same session in the partition that rolls out, with engines of its own."""
        other = copy.copy(self)
        other._pools, other._job, other._rolls_out = None, None, True
        with self._shared.lock:
            self._shared.partitions.append(other)
        return other

    def stop(self) -> None:
        """Let what other threads do in this session fail soon; it is of no use afterwards."""
        STOP_STREAMS.set()
        with self._shared.lock:
            self._shared.stopped = True
            for each in self._shared.partitions:
                if each._job is not None:
                    each._job.end(at_once=True)
                if each._pools is not None:
                    each._pools.kill()

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
            EngineError: the session was stopped.
            PlacementError: there is no cluster, or it is too small.
        """
        with self._shared.lock:
            if self._shared.stopped:
                raise EngineError("the run was stopped; run the same command again")
            if self._shared.watch is not None:
                return
            dashboard = self._shared.open.enter_context(connected(self.settings, self.log))
            self._shared.watch = self._shared.open.enter_context(attended(self.board, self.events))
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
        with self._shared.lock:
            if self._pools is None:
                known = (each._pools for each in self._shared.partitions)
                beside = next((pools for pools in known if pools is not None), None)
                overlapped = self.settings.schedule == "overlapped"
                self._pools = Pools.of(
                    self.settings,
                    self._shared.watch,
                    beside=beside,
                    evaluates=overlapped and not self._rolls_out,
                )
        self._pools.ensure(specs)

    def assignment(
        self, settings: RunSettings, roles: Roles, iteration: int, progress: Progress
    ) -> Assignment:
        """What stage actors are given; the engines of `roles` are running.

        `settings` are those of the step, which may differ from the run's in what is asked.
        """
        assert self._pools is not None
        with self._shared.lock:
            if self._shared.grader is None:
                self._shared.grader = start_graders(self.settings.grading)
        clients = {spec: self._pools.client(spec) for spec in roles.specs}
        return Assignment(
            settings=settings,
            clients={role: clients[spec] for role, spec in roles.filled.items()},
            grader=self._shared.grader,
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
        with self._shared.lock:
            self.connect()  # not if it was stopped meanwhile: nobody would end these workers
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
            for each in self._shared.partitions:
                if each._job is not None:
                    each._job.end(at_once=kind is not None and not issubclass(kind, Exception))
                if each._pools is not None:
                    each._pools.release()
        except ReleaseError as late:
            if error is None:
                raise
            self.log(str(late))  # what ended the run matters more
        finally:
            STOP_STREAMS.clear()
            self._shared.open.__exit__(kind, error, trace)
