"""The wall time of a step over all sessions that worked on it, killed ones included."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sphere_ray import storage

NOTE_S = 10.0
"""How often the time is noted in the step's directory; a kill loses at most that."""
SPENT = "spent.json"


@contextmanager
def stopwatch(directory: str, name: str) -> Iterator[Callable[[], float]]:
    """Time the block, on top of the time that earlier sessions noted in `directory`.

    Yields a function that gives the seconds so far.
    """
    file = f"{directory}/{SPENT}"
    earlier = float((storage.read_json(file) or {}).get("seconds", 0.0))
    started, ended = time.monotonic(), threading.Event()

    def seconds() -> float:
        return earlier + time.monotonic() - started

    def keep_notes() -> None:
        while not ended.wait(NOTE_S):
            with suppress(OSError):  # what the step itself writes will tell
                storage.write_json({"seconds": round(seconds(), 3)}, file)

    notes = threading.Thread(target=keep_notes, name=f"stopwatch-{name}", daemon=True)
    notes.start()
    try:
        yield seconds
    finally:
        ended.set()
        notes.join()
        storage.write_json({"seconds": round(seconds(), 3)}, file)
