"""Where a run stands, read from its directory alone: without Ray, and while it goes on."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil

from sphere_ray import storage
from sphere_ray.reporting.progress import clock_time
from sphere_ray.runs.directory import BEGUN, DRIVER, MANIFEST, PARTS, Run

_DRIVER_WORDS = re.compile(r"process (\d+) on (\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStep:
    """A step that was begun and is not finished; `done` and `total` rows, 0 where not counted."""

    name: str
    since: datetime
    done: int
    total: int
    unit: str


def describe(run: Run, now: datetime) -> Iterator[str]:
    """Say line by line what is finished, what is under way, and what happened last.

    Raises:
        RunDirectoryError: the directory is damaged.
    """
    events = list(run.events())
    steps, driver = _open_steps(run, events), _driver(run)
    yield f"{run.document.get('name')} in {run.path}: {_state(run, driver, ended=not steps)}"
    yield f"finished: {', '.join(each.name for each in run.steps) or 'nothing yet'}"
    for step in steps:
        of = f" {step.done:,} of {step.total:,} {step.unit}," if step.total else ""
        yield f"under way: {step.name},{of} begun {_ago(step.since, now)}"
    if steps:
        since = min(step.since for step in steps)
        said = [e for e in events if "text" in e and _time(e) >= since]
        yield from (f"it says: {e['text']}, {_ago(_time(e), now)}" for e in said[-1:])
    for event in events[-1:]:
        told = {k: v for k, v in event.items() if k not in ("time", "event") and v is not None}
        fields = ", ".join(f"{name} {value}" for name, value in told.items())
        yield f"last event: {event['event']} ({fields}), {_ago(_time(event), now)}"


def _state(run: Run, driver: str | None, *, ended: bool) -> str:
    if driver is not None:
        return f"{driver} is at work"
    if ended and run.summary is not None:
        return "ended; see report.html"
    return "no driver is at work; the same command again continues"


def _driver(run: Run) -> str | None:
    """The process that holds the run; None if it is known to be gone."""
    text = (storage.read_text(run.file(DRIVER)) or "").strip()
    match = _DRIVER_WORDS.fullmatch(text)
    if match is None:
        return None
    if match[2] != socket.gethostname():
        return f"{text} (another machine: as far as can be seen from here)"
    # The number may be another process's by now, if that began after the note was written.
    with suppress(psutil.Error, OSError):
        written = os.stat(run.file(DRIVER)).st_mtime
        if psutil.Process(int(match[1])).create_time() <= written:
            return text
    return None


def _open_steps(run: Run, events: list[dict[str, Any]]) -> list[OpenStep]:
    """The step that was begun last, if nothing was committed since; overlapped, the last two."""
    overlapped, committed = run.document.get("schedule") == "overlapped", set[str]()
    found: dict[str, OpenStep] = {}
    for event in reversed(events):
        if event["event"] == "committed":
            if not overlapped:
                break
            committed.add(event["path"])
        elif event["event"] == "step":
            step = _begun(run, events, event)
            names = (step.name, f"{step.name}-")  # a variant has a suffix
            if not any(path == names[0] or path.startswith(names[1]) for path in committed):
                found.setdefault(step.name, step)
            if len(found) == (2 if overlapped else 1):
                break
    return list(found.values())[::-1]


def _begun(run: Run, events: list[dict[str, Any]], begun: dict[str, Any]) -> OpenStep:
    iteration, name = begun.get("iteration"), begun["name"]
    phases = [
        event
        for event in events[events.index(begun) :]
        if event.get("phase") == name and event.get("iteration") == iteration
    ]
    phase = phases[-1] if phases else {}
    if iteration is not None:
        name = f"iter-{iteration:03}/{name}"
    return OpenStep(
        name=name,
        since=_time(begun),
        done=_rows(run.file(name)) or phase.get("done", 0),
        total=phase.get("total", 0),
        unit=phase.get("unit", ""),
    )


def _rows(place: str) -> int:
    """Rows that a step has committed so far, in its directory or that of a variant."""
    parent, _, name = place.rpartition("/")
    unfinished = [
        f"{parent}/{child}"
        for child in storage.children(parent)
        if (child == name or child.startswith(f"{name}-"))
        and storage.exists(f"{parent}/{child}/{BEGUN}")
        and not storage.exists(f"{parent}/{child}/{MANIFEST}")
    ]
    return max((storage.count_rows(f"{each}/{PARTS}") for each in unfinished), default=0)


def _time(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["time"])


def _ago(moment: datetime, now: datetime) -> str:
    seconds = max(0.0, (now - moment).total_seconds())
    return f"{clock_time(seconds)} ago ({moment.astimezone(UTC):%H:%M:%S} UTC)"
