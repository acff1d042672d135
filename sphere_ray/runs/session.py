"""What the phases of a run share while it is open: store, board, and engines when needed.

Ray is not touched before a phase asks for it, so a finished run is read back at once.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from sphere_ray.config import RunSettings
from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.placement import engines_share_cores
from sphere_ray.engines.engine import EngineStats
from sphere_ray.errors import ReleaseError
from sphere_ray.method.ports import Progress
from sphere_ray.records import PoolUse
from sphere_ray.reporting.events import EventLog
from sphere_ray.reporting.metrics import RunMetrics
from sphere_ray.reporting.progress import ProgressBoard, Snapshot
from sphere_ray.rollout.grader import GraderClient, start_graders
from sphere_ray.rollout.pools import Pools
from sphere_ray.rollout.roles import Roles
from sphere_ray.rollout.stages import Assignment
from sphere_ray.runs.cluster import connected
from sphere_ray.runs.store import RunStore


@dataclass(kw_only=True)
class Session:
    """An open run; a context manager that closes what it opened, engines first."""

    settings: RunSettings
    store: RunStore
    events: EventLog = field(init=False)
    board: ProgressBoard = field(init=False)
    _pools: Pools | None = None
    _grader: GraderClient | None = None
    _metrics: RunMetrics | None = None
    _open: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        """Start to record events."""
        self.events = EventLog(self.store.append_event)
        self.board = ProgressBoard(listeners=(self.events.on_progress, self._measure))

    def connect(self) -> None:
        """Be connected to Ray from now on.

        Raises:
            PlacementError: there is no cluster, or it is too small.
        """
        if self._metrics is not None:
            return
        dashboard = self._open.enter_context(connected(self.settings))
        self._metrics = RunMetrics(self.settings.name)
        if dashboard:
            self.board.log(f"Ray dashboard: {dashboard}")
            self.events.record("connected", dashboard=dashboard)

    def serve(self, specs: Sequence[EngineSpec]) -> None:
        """Have exactly these engines running.

        Raises:
            EngineError, UserError: see `Pools.ensure`.
        """
        self.connect()
        if self._pools is None:
            self._pools = Pools(
                self.settings.ray.release_timeout_s, share_cores=engines_share_cores(self.settings)
            )
        self._pools.ensure(specs)

    def stats(self, spec: EngineSpec) -> list[EngineStats]:
        """Counters of each replica of a running pool."""
        assert self._pools is not None
        return self._pools.stats(spec)

    @contextmanager
    def used(self, specs: Sequence[EngineSpec]) -> Iterator[list[PoolUse]]:
        """Meter running pools; the yielded list is filled when the block ends well."""
        found: list[PoolUse] = []
        before, began = {spec: self.stats(spec) for spec in specs}, time.monotonic()
        yield found
        seconds = time.monotonic() - began
        for spec, old in before.items():
            found.append(_use(spec.name, old, self.stats(spec), seconds))

    def make_room(self) -> None:
        """Stop the engines a training would meet on its devices, and check that they are gone.

        Raises:
            ReleaseError: see `Pools.release`.
        """
        self.connect()
        if self._pools is not None:
            self._pools.release(keep_on_cpu=self.settings.ray.keep_cpu_engines)

    def assignment(self, roles: Roles, iteration: int, progress: Progress) -> Assignment:
        """What the stages of a rollout or an evaluation are given; the engines are running."""
        if self._grader is None:
            self._grader = start_graders(self.settings.grading)
        assert self._pools is not None
        return Assignment(
            settings=self.settings,
            clients=self._pools.clients(roles),
            grader=self._grader,
            progress=progress,
            iteration=iteration,
        )

    def __enter__(self) -> Self:
        """Return the session itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release engines and leave Ray."""
        try:
            if self._pools is not None:
                self._pools.release()
        except ReleaseError as late:
            if error is None:
                raise
            self.board.log(str(late))  # what ended the run matters more
        finally:
            self._open.__exit__(kind, error, trace)

    def _measure(self, snapshot: Snapshot) -> None:
        if self._metrics is not None:
            self._metrics.on_progress(snapshot)


def _use(
    name: str, before: Sequence[EngineStats], after: Sequence[EngineStats], seconds: float
) -> PoolUse:
    def grown(counter: str) -> float:
        # A replica that was restarted meanwhile counts from zero.
        old, new = (sum(getattr(each, counter) for each in side) for side in (before, after))
        return float(max(new - old, 0))

    return PoolUse(
        name=name,
        replicas=len(after),
        seconds=round(seconds, 3),
        busy_s=round(grown("busy_s"), 3),
        generated_tokens=int(grown("generated_tokens")),
        prefix_queries=int(grown("prefix_queries")),
        prefix_hits=int(grown("prefix_hits")),
    )
