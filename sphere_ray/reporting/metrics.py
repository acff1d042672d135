"""Counts from many processes.

Only this module of the room imports ray. Stage actors count through a `CounterSink`. The driver
reads the sums from a `CounterHub` and shows them on the board.
"""

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from sphere_ray.pools.nodes import on_this_node
from sphere_ray.reporting.progress import PhaseTracker

SHIP_INTERVAL_S = 0.5
POLL_INTERVAL_S = 1.0

Ship = Callable[[dict[str, int]], None]


class _Totals:
    """An actor that sums the increments of all sinks."""

    def __init__(self) -> None:
        self._totals: Counter[str] = Counter()

    def add(self, counts: dict[str, int]) -> None:
        self._totals.update(counts)

    def totals(self) -> dict[str, int]:
        return dict(self._totals)


class CounterSink:
    """A `Progress` for stage actors: sums locally, and ships at most every half second.

    A pickled sink starts empty; counts that are not shipped yet stay in the old process.
    """

    def __init__(
        self,
        ship: Ship,
        *,
        start_timer: Callable[[float, Callable[[], None]], None] | None = None,
    ) -> None:
        """Ship increments through `ship`; `start_timer(seconds, call)` defaults to a thread."""
        self._ship = ship
        self._start_timer = start_timer or _start_timer
        self._lock = threading.Lock()
        self._pending: Counter[str] = Counter()

    def __reduce__(self) -> tuple[type["CounterSink"], tuple[Ship]]:
        """Leave the lock and the pending counts in this process."""
        return CounterSink, (self._ship,)

    def add(self, **counts: int) -> None:
        """Add to named counters."""
        with self._lock:
            first = not self._pending
            self._pending.update(counts)
        if first:
            self._start_timer(SHIP_INTERVAL_S, self.flush)

    def flush(self) -> None:
        """Ship what is pending now."""
        with self._lock:
            counts, self._pending = dict(self._pending), Counter()
        if counts:
            self._ship(counts)


def _start_timer(seconds: float, call: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


class _ToActor:
    """Sends increments to the hub's actor without waiting for it."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __call__(self, counts: dict[str, int]) -> None:
        # A timer may fire while its process leaves Ray; calling then would start a new cluster.
        if ray.is_initialized():
            self._actor.add.remote(counts)


class CounterHub:
    """The driver's access to the sums of one phase, which an actor without a CPU holds."""

    def __init__(self, phase: str) -> None:
        """Start the actor; the dashboard shows the phase that it counts."""
        name = f"counters-{phase}-{uuid.uuid4().hex[:6]}"
        options = {"name": name, "num_cpus": 0, "scheduling_strategy": on_this_node()}
        self._actor: Any = ray.remote(_Totals).options(**options).remote()

    def sink(self) -> CounterSink:
        """A sink to hand to stages."""
        return CounterSink(_ToActor(self._actor))

    def totals(self) -> dict[str, int]:
        """The sums so far."""
        totals: dict[str, int] = ray.get(self._actor.totals.remote())
        return totals

    def close(self) -> None:
        """Stop the actor; later increments are lost."""
        ray.kill(self._actor)


@contextmanager
def follow(
    tracker: PhaseTracker, *, done: str, interval_s: float = POLL_INTERVAL_S
) -> Iterator[CounterHub]:
    """Open a hub and keep `tracker` up to date from it while the context is open.

    The counter named `done` becomes the phase's `done`, on top of the units of an earlier session.
    These numbers are approximate: last increments may arrive too late, and a repeated task counts
    twice. Summaries count committed rows instead.
    """
    hub = CounterHub(tracker.snapshot.title.replace(" ", "-"))
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(interval_s):
            update_from(tracker, hub.totals(), done=done)

    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield hub
        stop.set()
        thread.join()
        update_from(tracker, hub.totals(), done=done)
    finally:
        stop.set()
        thread.join()
        hub.close()


def update_from(tracker: PhaseTracker, totals: dict[str, int], *, done: str) -> None:
    """Show hub totals on a tracker; those with a path for a name become details."""
    details = {name: count for name, count in totals.items() if "/" in name}
    counts = {name: count for name, count in totals.items() if name not in details}
    finished = counts.pop(done, 0)
    shown: dict[str, Any] = {**counts}
    tracker.update(tracker.snapshot.first + finished, details=details, **shown)
