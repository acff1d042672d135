"""Progress of the phases of a run: bars on a terminal, plain lines in a job log.

A phase has a total, a unit and named numbers. This module does not know what they mean.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from sphere_ray.untrusted import printable

Number = int | float

STEP = "step"
"""Details below this name are what training's last optimizer step measured."""
SHOWN_OF_STEP = {"loss": "loss", "reward_accuracy": "accuracy", "margin": "margin"}
"""Measurements of an optimizer step that people are shown, and under which names."""


class PhaseState(StrEnum):
    """The state of a phase; `stopped` means that an exception or a signal ended it."""

    STARTED = "started"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A phase at one moment.

    `done` and `total` (0: not known yet) count units. An earlier session did the `first` of them,
    so rates leave these out. `counts` holds running totals (int) and current values such as a loss
    (float). `details` are finer ones with a path for a name (`chains/diversity/wrong`), which
    listeners get and nobody is shown. `seconds` have passed since this session began the phase.
    """

    name: str
    unit: str
    total: int
    iteration: int | None = None
    first: int = 0
    done: int = 0
    counts: Mapping[str, Number] = field(default_factory=dict)
    details: Mapping[str, Number] = field(default_factory=dict)
    seconds: float = 0.0
    state: PhaseState = PhaseState.STARTED

    @property
    def title(self) -> str:
        """The phase with its iteration, as people read it."""
        return self.name if self.iteration is None else f"iteration {self.iteration} {self.name}"

    @property
    def tokens_per_second(self) -> float | None:
        """Decoded tokens a second, None where the phase counts no tokens or no time passed."""
        if "tokens" not in self.counts or self.seconds <= 0:
            return None
        return self.counts["tokens"] / self.seconds

    @property
    def eta(self) -> float | None:
        """Seconds left at this session's pace, None while nothing is done."""
        progressed = self.done - self.first
        if progressed <= 0 or self.seconds <= 0 or not self.total:
            return None
        return max(self.total - self.done, 0) * self.seconds / progressed


Listener = Callable[[Snapshot], None]


def details(snapshot: Snapshot, kind: str) -> dict[str, Number]:
    """The details whose names begin with `kind/`, without that."""
    found = ((name.partition("/"), value) for name, value in snapshot.details.items())
    return {rest: value for (first, _, rest), value in found if first == kind}


def clock_time(seconds: float) -> str:
    """Format seconds as M:SS, or H:MM:SS from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def describe_counts(snapshot: Snapshot) -> str:
    """Format the named numbers: totals as `96 chains`, values as `loss 0.6931`."""
    parts = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{value:,} {name}"
        for name, value in snapshot.counts.items()
    ]
    rate = snapshot.tokens_per_second
    if rate is not None:
        parts.append(f"{rate:,.0f} tokens/s")
    return ", ".join(parts)


def describe(snapshot: Snapshot) -> str:
    """Format a snapshot as one plain line."""
    of = f"/{snapshot.total:,}" if snapshot.total else ""
    parts = [f"{snapshot.title}: {snapshot.done:,}{of} {snapshot.unit}"]
    counts = describe_counts(snapshot)
    if counts:
        parts.append(counts)
    if snapshot.state in (PhaseState.FINISHED, PhaseState.STOPPED):
        parts.append(f"{snapshot.state} after {clock_time(snapshot.seconds)}")
    elif snapshot.eta is not None:
        parts.append(f"ETA {clock_time(snapshot.eta)}")
    return ", ".join(parts)


class _Lines:
    """One line at the start and end of a phase, and at most one per interval between them."""

    def __init__(self, console: Console, interval_s: float) -> None:
        self._console = console
        self._interval_s = interval_s
        self._shown_at = 0.0

    def show(self, snapshot: Snapshot) -> None:
        due = snapshot.seconds - self._shown_at >= self._interval_s
        if snapshot.state is PhaseState.RUNNING and not due:
            return
        self._shown_at = snapshot.seconds
        self._console.print(describe(snapshot), highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Lines need no closing."""


class _Bars:
    """The bars of the phases that run at the same time; a terminal has one live display.

    They stay on the screen with the last numbers once the last of them has ended.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._running = 0
        self._progress = Progress(console=console)

    def begin(self, first: Snapshot) -> "_Bar":
        with self._lock:
            if not self._running:
                self._progress = Progress(
                    TextColumn("{task.description}", markup=False),
                    BarColumn(bar_width=24),
                    TextColumn("{task.fields[text]}", markup=False),
                    console=self._console,
                    refresh_per_second=4,
                )
                self._progress.start()
            self._running += 1
            task = self._progress.add_task(first.title, total=None, text="")
            return _Bar(self._progress, task, self._end)

    def _end(self) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                self._progress.stop()


class _Bar:
    """One of them."""

    def __init__(self, progress: Progress, task: TaskID, end: Callable[[], None]) -> None:
        self._progress, self._task, self.close = progress, task, end

    def show(self, snapshot: Snapshot) -> None:
        text = describe(snapshot).removeprefix(f"{snapshot.title}: ")
        total = snapshot.total or None
        self._progress.update(self._task, completed=snapshot.done, total=total, text=text)


class PhaseTracker:
    """The numbers of one phase; may be updated from any thread."""

    def __init__(
        self, first: Snapshot, clock: Callable[[], float], listeners: Sequence[Listener]
    ) -> None:
        """Start the clock and tell the listeners."""
        self._clock = clock
        self._began = clock()
        self._listeners = listeners
        self._lock = threading.Lock()
        self._snapshot = first
        self._tell()

    @property
    def snapshot(self) -> Snapshot:
        """The latest numbers."""
        return self._snapshot

    def update(
        self,
        done: int | None = None,
        *,
        total: int | None = None,
        details: Mapping[str, Number] | None = None,
        **counts: Number,
    ) -> None:
        """Replace `done`, `total` and the given numbers: totals so far, not increments."""
        with self._lock:
            now = self._snapshot
            if now.state in (PhaseState.FINISHED, PhaseState.STOPPED):
                return  # The thread that polls the counters was late.
            self._change(
                replace(
                    now,
                    state=PhaseState.RUNNING,
                    done=now.done if done is None else done,
                    total=now.total if total is None else total,
                    counts={**now.counts, **counts},
                    details={**now.details, **(details or {})},
                )
            )

    def on_step(self, step: Any) -> None:
        """Listen to training: `step` is a dataclass of what an optimizer step measured.

        All its numbers become details, and those that it has of `SHOWN_OF_STEP` are shown.
        """
        measured = asdict(step)
        shown = {SHOWN_OF_STEP[name]: measured[name] for name in measured if name in SHOWN_OF_STEP}
        everything = {f"{STEP}/{name}": value for name, value in measured.items()}
        self.update(step.step, total=step.steps, details=everything, **shown)

    def end(self, state: PhaseState) -> None:
        """Make the numbers final; a finished phase has done its total, counted or not."""
        with self._lock:
            now = self._snapshot
            done = max(now.done, now.total) if state is PhaseState.FINISHED else now.done
            self._change(replace(now, state=state, done=done))

    def _change(self, snapshot: Snapshot) -> None:
        self._snapshot = replace(snapshot, seconds=self._clock() - self._began)
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener(self._snapshot)


class ProgressBoard:
    """Shows the running phases on `console`, and hands every change to `listeners`.

    A terminal gets bars, anything else at most one line of each every `interval_s` seconds.
    Listeners (metrics, events) run in the thread that makes the change, so they must be quick.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        listeners: Sequence[Listener] = (),
        interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show on `console`, by default standard output."""
        self.console = console or Console(emoji=False)
        self._bars = _Bars(self.console)
        self._listeners = tuple(listeners)
        self._interval_s = interval_s
        self._clock = clock

    def listen(self, listener: Listener) -> None:
        """Hand the changes of later phases to one more listener."""
        self._listeners = (*self._listeners, listener)

    def log(self, text: str) -> None:
        """Print one line above the bars."""
        self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def phase(
        self, name: str, total: int, unit: str, *, iteration: int | None = None, first: int = 0
    ) -> Iterator[PhaseTracker]:
        """Show a phase while the context is open; `first` of `total` were done earlier."""
        start = Snapshot(
            name=name, unit=unit, total=total, iteration=iteration, first=first, done=first
        )
        display: _Lines | _Bar = _Lines(self.console, self._interval_s)
        if self.console.is_terminal:
            display = self._bars.begin(start)
        tracker = PhaseTracker(start, self._clock, (display.show, *self._listeners))
        ending = PhaseState.STOPPED
        try:
            yield tracker
            ending = PhaseState.FINISHED
        finally:
            tracker.end(ending)
            display.close()
