"""A tracker behind a bounded queue and a thread: whatever it does, the run does not notice.

A call that fails is reported once. A tracker that keeps failing is given up, and one that does not
answer loses what no longer fits in the queue.
"""

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from sphere_ray.redaction import redact
from sphere_ray.trackers.port import Tracker

logger = logging.getLogger(__name__)

Call = Callable[[Tracker], object]

WAITING = 10_000
"""Calls that may wait for a tracker; some megabytes."""
FAILURES = 5
"""Failures in a row after which a tracker is given up."""
_SHOWN_CHARS = 300


class Channel:
    """Hands calls to a tracker in order, in a thread of its own; `put` takes microseconds."""

    def __init__(self, name: str, start: Callable[[], Tracker], *, waiting: int = WAITING) -> None:
        """Begin; `start` imports, makes and opens the tracker, in the thread.

        The thread does not keep the process alive.
        """
        self._name = name
        self._start = start
        self._queue: queue.Queue[Call | None] = queue.Queue(waiting)
        self._ended = threading.Event()
        self._tracker: Tracker
        self._lost = 0
        self._told = False
        threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True).start()

    def put(self, call: Call) -> None:
        """Let the tracker do this some time, or never."""
        if self._ended.is_set():
            return
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            self._lost += 1
            if self._lost == 1:
                self._say(f"does not keep up: {self._queue.maxsize} calls wait, and more are lost")

    def finish(self, last: Call) -> None:
        """Let the tracker end with `last`; in a full queue the oldest calls make room for it."""
        for call in (last, None):
            while not self._ended.is_set():
                try:
                    self._queue.put_nowait(call)
                    break
                except queue.Full:
                    with suppress(queue.Empty):
                        self._queue.get_nowait()

    def wait(self, seconds: float) -> None:
        """Wait for the end; a tracker that takes longer is left behind."""
        if not self._ended.wait(seconds):
            self._ended.set()
            self._say(f"does not answer, and about {self._queue.qsize()} calls are lost")

    def _work(self) -> None:
        try:
            failures = 0 if self._done(self._open) else FAILURES
            while failures < FAILURES:
                call = self._queue.get()
                if call is None or self._ended.is_set():
                    return
                failures = 0 if self._done(partial(call, self._tracker)) else failures + 1
            self._say("is given up")
        finally:
            self._ended.set()

    def _open(self) -> None:
        self._tracker = self._start()

    def _done(self, call: Callable[[], object]) -> bool:
        try:
            call()
        except (Exception, SystemExit) as error:
            logger.debug("tracker %s failed", self._name, exc_info=True)
            if not self._told:
                self._told = True
                self._say(f"failed, and the run goes on: {_one_line(error)}")
            return False
        return True

    def _say(self, what: str) -> None:
        logger.warning("tracker %s %s", self._name, what)


def _one_line(error: BaseException) -> str:
    text = redact(" ".join(f"{type(error).__name__}: {error}".split()))
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
