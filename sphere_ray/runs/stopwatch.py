"""The wall time of a phase over all sessions that worked on it, killed ones included."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sphere_ray.runs.store import PhaseDir

NOTE_S = 10.0
"""How often the time is noted in the phase's directory; a kill loses at most that."""


@contextmanager
def stopwatch(phase: PhaseDir) -> Iterator[Callable[[], float]]:
    """Time the block, on top of what earlier sessions noted; yields a function for the seconds.

    The phase has begun and is committed behind the block.
    """
    earlier, started = phase.spent(), time.monotonic()
    ended = threading.Event()

    def seconds() -> float:
        return earlier + time.monotonic() - started

    def keep_notes() -> None:
        while not ended.wait(NOTE_S):
            phase.note_spent(seconds())

    notes = threading.Thread(target=keep_notes, name=f"stopwatch-{phase.name}", daemon=True)
    notes.start()
    try:
        yield seconds
    finally:
        ended.set()
        notes.join()
        phase.note_spent(seconds())
