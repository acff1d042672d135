"""events.jsonl: what happened in a run, and when; one JSON object per line."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from sphere_ray.reporting.progress import Number, PhaseState, Snapshot
from sphere_ray.reporting.summary import RunSummary

Field = str | Number | bool | None


class Watcher:
    """Is told what happens in a run; this one keeps nothing. Every method returns at once."""

    def on_progress(self, snapshot: Snapshot) -> None:
        """Take the numbers of a phase."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take a line of events.jsonl."""

    def finish(self, summary: RunSummary) -> None:
        """Take what the run came to."""


class EventLog:
    """Writes events through `append`, which adds one line durably.

    A line holds `time` (UTC, ISO 8601) and `event`; if known also `phase`, `iteration` and the
    fields of the event.
    """

    def __init__(
        self,
        append: Callable[[str], None],
        *,
        listener: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is written before the first event; `listener` gets each one, too."""
        self._append = append
        self._listener = listener
        self._clock = clock
        self._lock = threading.Lock()

    def record(
        self, event: str, *, phase: str | None = None, iteration: int | None = None, **fields: Field
    ) -> None:
        """Write one event; any thread may."""
        moment = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        line = {"time": moment, "event": event, "phase": phase, "iteration": iteration}
        known = {key: value for key, value in line.items() if value is not None}
        with self._lock:  # an object store cannot append, so the file is read and written there
            self._append(json.dumps({**known, **fields}, ensure_ascii=False))
        if self._listener is not None:
            self._listener({**known, **fields})

    def on_progress(self, snapshot: Snapshot) -> None:
        """Listen to a ProgressBoard: record the start and the end of a phase with its numbers."""
        if snapshot.state is PhaseState.RUNNING:
            return
        self.record(
            f"phase_{snapshot.state}",
            phase=snapshot.name,
            iteration=snapshot.iteration,
            done=snapshot.done,
            total=snapshot.total,
            unit=snapshot.unit,
            seconds=round(snapshot.seconds, 3),
            **snapshot.counts,
        )
