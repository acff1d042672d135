"""A phase that makes no progress says what it waits for: after a minute, and again and again."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sphere_ray.pools.watch import Watch, watching
from sphere_ray.reporting.events import EventLog
from sphere_ray.reporting.progress import (
    Number,
    PhaseState,
    ProgressBoard,
    Snapshot,
    clock_time,
    details,
)

PATIENCE_S = 60.0
"""How long a phase may stand still before it says so; then twice as long, and so on."""
LONGEST_S = 600.0
CHECK_S = 2.0
HELD = "held"
"""Details `held/START/STAGE` count the problems that a stage has in hand since a graph's start."""


@dataclass
class _Attended:
    """A phase: its latest numbers, since when they are the same, and when that is told next."""

    now: Snapshot
    since: float
    due: float = PATIENCE_S


class Standstill:
    """Listens to a board, and says what a phase waits for when it makes no progress.

    Progress is a change of what the phase counts, or an engine that decodes. `missing` gives
    clauses about engines and nodes, and `say` tells people one sentence.
    """

    def __init__(
        self,
        missing: Callable[[], Sequence[str]],
        say: Callable[[str], object],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wait for the first phase."""
        self._missing, self._say, self._clock = missing, say, clock
        self._phases: dict[str, _Attended] = {}

    def on_progress(self, snapshot: Snapshot) -> None:
        """Listen to the board; see `ProgressBoard`."""
        if snapshot.state in (PhaseState.FINISHED, PhaseState.STOPPED):
            self._phases.pop(snapshot.title, None)
            return
        known = self._phases.get(snapshot.title)
        if known is None or _counted(known.now) != _counted(snapshot) or _decodes(snapshot):
            self._phases[snapshot.title] = _Attended(snapshot, since=self._clock())
        else:
            known.now = snapshot

    def check(self) -> None:
        """Say what each phase waits for, if it is time to; two may run at once."""
        for phase in list(self._phases.values()):
            waited = self._clock() - phase.since
            if waited < phase.due:
                continue
            phase.due = waited + min(waited, LONGEST_S)
            missing = self._missing()
            # A step of training may take minutes; a minute without a word about a problem is odd.
            if missing or phase.now.unit == "problems":
                self._say(stands_still(phase.now, waited, missing))


def stands_still(snapshot: Snapshot, seconds: float, missing: Sequence[str]) -> str:
    """Say that a phase stands still, and for which reasons."""
    of = f" of {snapshot.total:,}" if snapshot.total else ""
    what = f"{snapshot.title}: {snapshot.done:,}{of} {snapshot.unit}"
    reasons = list(missing) or ["all engines and stages are there, so what they do takes long"]
    held = [f"{stage} {number}" for stage, number in held_by_stage(snapshot).items() if number]
    if held:
        reasons.append(f"in hand: {', '.join(held)}")
    return f"{what}, no progress for {clock_time(seconds)}: {'; '.join(reasons)}"


def held_by_stage(snapshot: Snapshot) -> Mapping[str, Number]:
    """The problems that each stage has in hand, as its latest start counts them."""
    counted = [
        (int(start), stage, number)
        for name, number in details(snapshot, HELD).items()
        for start, _, stage in [name.partition("/")]
    ]
    latest = max((start for start, _, _ in counted), default=0)
    return {stage: number for start, stage, number in counted if start == latest}


def _counted(snapshot: Snapshot) -> tuple[int, Mapping[str, Number]]:
    return snapshot.done, snapshot.counts


def _decodes(snapshot: Snapshot) -> bool:
    pools = details(snapshot, "pool")
    return any(rate > 0 for name, rate in pools.items() if name.endswith("/tokens_per_second"))


@contextmanager
def attended(board: ProgressBoard, events: EventLog) -> Iterator[Watch]:
    """Watch the nodes and the phases of a run; what there is to say goes to people and events."""

    def say(text: str) -> None:
        board.log(text)
        events.record("cluster", text=text)

    over = threading.Event()
    with watching(say) as watch:
        standstill = Standstill(watch.missing, say)
        board.listen(standstill.on_progress)

        def check() -> None:
            while not over.wait(CHECK_S):
                standstill.check()

        thread = threading.Thread(target=check, name="standstill", daemon=True)
        thread.start()
        try:
            yield watch
        finally:
            over.set()
            thread.join()
