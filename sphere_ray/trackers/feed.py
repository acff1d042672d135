"""From what happens in a run to what its trackers keep.

Groups and their axes: `iter-000/policy` by optimizer step, other phases by seconds since the run
began, and what a committed step came to by iteration.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from sphere_ray import storage
from sphere_ray.config.base import dump
from sphere_ray.config.trackers import TrackerSettings
from sphere_ray.errors import ConfigError
from sphere_ray.reporting.events import Watcher
from sphere_ray.reporting.progress import STEP, PhaseState, Snapshot, details
from sphere_ray.reporting.standstill import HELD
from sphere_ray.reporting.summary import RunSummary
from sphere_ray.runs.directory import REPORT, SUMMARY, Run
from sphere_ray.trackers import registry
from sphere_ray.trackers.channel import Channel
from sphere_ray.trackers.port import Opening, Tracker
from sphere_ray.trackers.results import lineage, results_of, test_result

STATE = "trackers.json"
"""In the run directory: when the run began, and the id under which each tracker continues it."""
INTERVAL_S = 10.0
"""How often the numbers of a phase go out; those of training go out at every step."""
CLOSE_S, INTERRUPTED_S = 15.0, 2.0
"""How long the end of a run waits for all its trackers, and a run that is told to stop."""
RESULT = "result"


class Trackers(Watcher):
    """Listens to a session; every method returns at once, whatever the trackers do."""

    def __init__(
        self,
        run: Run,
        channels: Sequence[Channel],
        *,
        began: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Feed these channels. `began` is when the run did, by `clock`."""
        self._run = run
        self._channels = channels
        self._began = began
        self._clock = clock
        self._shown: dict[str, float] = {}
        # A later session decides again what an earlier one has logged.
        self._worked_on = set[int | None]()

    def on_progress(self, snapshot: Snapshot) -> None:
        """Listen to a ProgressBoard: the numbers of a phase over time, and training's steps."""
        iteration = "" if snapshot.iteration is None else f"iter-{snapshot.iteration:03}/"
        place = iteration + snapshot.name
        if step := details(snapshot, STEP):
            if snapshot.state is PhaseState.RUNNING:
                self._log(place, snapshot.done, step)
            return
        if not self._due(place, snapshot):
            return
        finer = {k: v for k, v in snapshot.details.items() if not k.startswith(f"{HELD}/")}
        found = {"done": snapshot.done, **snapshot.counts, **finer}
        if snapshot.tokens_per_second is not None:
            found["tokens_per_second"] = snapshot.tokens_per_second
        self._log(place, round(self._clock() - self._began), found)

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Listen to an EventLog: what steps came to, and what was decided."""
        match event["event"]:
            case "committed":
                self._worked_on.add(event.get("iteration"))
                self._put(partial(_keep_results, self._run, event["path"]))
                self._put(partial(_keep_lineage, self._run))
            case "decided":
                if event["iteration"] in self._worked_on:
                    self._log("decision", event["iteration"], {"promoted": event["promoted"]})
                what = event["candidate"] or f"no candidate: {event['reason']}"
                name = f"decision/iteration-{event['iteration']:03}"
                self._put(partial(_keep_text, name, f"promoted: {what}"))

    def finish(self, summary: RunSummary) -> None:
        """Note what the run came to."""
        if self._worked_on:
            self._log(RESULT, 0, test_result(summary))
        self._put(partial(_keep_text, RESULT, summary["test"]["conclusion"]))

    def close(self, *, ok: bool, seconds: float = CLOSE_S) -> None:
        """Send the report, where there is one, and end the trackers' sessions within `seconds`."""
        for name in (SUMMARY, REPORT):
            path = self._run.file(name)
            if self._channels and storage.is_local(path) and storage.exists(path):
                self._put(partial(_keep_file, path))
        for channel in self._channels:
            channel.finish(lambda tracker: tracker.close(ok=ok))
        deadline = time.monotonic() + seconds
        for channel in self._channels:
            channel.wait(max(deadline - time.monotonic(), 0.0))

    def _due(self, place: str, snapshot: Snapshot) -> bool:
        ends = snapshot.state in (PhaseState.FINISHED, PhaseState.STOPPED)
        if ends or snapshot.seconds - self._shown.get(place, 0.0) >= INTERVAL_S:
            self._shown[place] = 0.0 if ends else snapshot.seconds
            return True
        return False

    def _log(self, group: str, x: int, values: Mapping[str, float]) -> None:
        if values:
            kept = {name: float(value) for name, value in values.items()}
            self._put(lambda tracker: tracker.log(group, x, kept))

    def _put(self, call: Callable[[Tracker], object]) -> None:
        for channel in self._channels:
            channel.put(call)


class Memory:
    """What a run keeps about its trackers, in `trackers.json`; several threads may note ids."""

    def __init__(self, directory: str, clock: Callable[[], float] = time.time) -> None:
        """Read it, or begin it."""
        self._file = f"{directory}/{STATE}"
        self._lock = threading.Lock()
        self._state = storage.read_json(self._file) or {"began": round(clock(), 3), "runs": {}}

    @property
    def began(self) -> float:
        """When the run began, in seconds since 1970."""
        return float(self._state["began"])

    def run_id(self, kind: str) -> str | None:
        """The id that this kind of tracker gave the run in an earlier session."""
        found: str | None = self._state["runs"].get(kind)
        return found

    def note(self, kind: str, run_id: str) -> None:
        """Keep an id for later sessions."""
        with self._lock:
            if self._state["runs"].get(kind) != run_id:
                self._state["runs"][kind] = run_id
                storage.write_json(self._state, self._file)


@contextmanager
def tracking(
    run: Run, make: Callable[[TrackerSettings], Tracker] = registry.make
) -> Iterator[Trackers]:
    """Open the trackers that the settings of a run name, and close them at the end.

    Raises:
        ConfigError: a library is not installed, or the run directory is no path.
    """
    settings, directory = run.settings, run.path
    registry.require_installed(settings.trackers)
    if settings.trackers and not storage.is_local(directory):
        raise ConfigError(
            f"trackers keep files in run_dir, and {directory} is no path; mount that storage and "
            "give the path of the mount, or remove trackers"
        )
    memory, basename = Memory(directory), directory.rpartition("/")[2]
    name = settings.name if basename == settings.name else f"{settings.name}-{basename}"
    channels = []
    for chosen in settings.trackers:
        kind = chosen.kind
        opening = Opening(
            name=name, directory=directory, settings=dump(settings), run_id=memory.run_id(kind)
        )
        start = partial(_started, chosen, make, opening, partial(memory.note, kind))
        channels.append(Channel(kind, start))
    trackers = Trackers(run, channels, began=memory.began)
    ok, seconds = False, INTERRUPTED_S
    try:
        yield trackers
        ok, seconds = True, CLOSE_S
    except Exception:
        seconds = CLOSE_S
        raise
    finally:
        trackers.close(ok=ok, seconds=seconds)


def _started(
    chosen: TrackerSettings,
    make: Callable[[TrackerSettings], Tracker],
    opening: Opening,
    note: Callable[[str], None],
) -> Tracker:
    tracker = make(chosen)
    note(tracker.open(opening))
    return tracker


def _keep_text(name: str, text: str, tracker: Tracker) -> None:
    tracker.text(name, text)


def _keep_file(path: str, tracker: Tracker) -> None:
    tracker.file(path)


def _keep_results(run: Run, place: str, tracker: Tracker) -> None:
    for step in run.finished([place]):
        tracker.log(*results_of(step))


def _keep_lineage(run: Run, tracker: Tracker) -> None:
    if text := lineage(run):
        tracker.text("lineage", text)
