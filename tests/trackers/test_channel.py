"""A tracker that raises, hangs or exits changes nothing for the run."""

import logging
import threading
import time
from collections.abc import Callable, Mapping

import pytest

from sphere_ray.trackers.channel import FAILURES, Channel
from sphere_ray.trackers.port import Opening, Tracker


class Fake(Tracker):
    """Keeps what it is given; `log` first does what a test wants."""

    def __init__(self, on_log: Callable[[], object] = lambda: None) -> None:
        self.on_log = on_log
        self.kept: list[object] = []

    def open(self, run: Opening) -> str:
        return "1"

    def log(self, group: str, x: int, values: Mapping[str, float]) -> None:
        self.on_log()
        self.kept.append((group, x, dict(values)))

    def text(self, name: str, text: str) -> None:
        self.kept.append((name, text))

    def file(self, path: str) -> None:
        self.kept.append(path)

    def close(self, *, ok: bool) -> None:
        self.kept.append(ok)


def log(x: int) -> Callable[[Tracker], None]:
    return lambda tracker: tracker.log("g", x, {"v": 1.0})


def end(tracker: Tracker) -> None:
    tracker.close(ok=True)


def raises(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_calls_arrive_in_order_and_the_end_comes_last() -> None:
    fake = Fake()
    channel = Channel("fake", lambda: fake)
    for x in range(50):
        channel.put(log(x))
    channel.finish(end)
    channel.wait(30)
    assert fake.kept == [*(("g", x, {"v": 1.0}) for x in range(50)), True]


def test_one_failure_is_said_once_and_nothing_else_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outcomes = iter([ValueError("no\nroom"), None, KeyError("x"), None])

    def sometimes() -> None:
        if (error := next(outcomes)) is not None:
            raise error

    fake = Fake(sometimes)
    channel = Channel("fake", lambda: fake)
    for x in range(4):
        channel.put(log(x))
    channel.finish(end)
    channel.wait(30)
    assert fake.kept == [("g", 1, {"v": 1.0}), ("g", 3, {"v": 1.0}), True]
    assert said(caplog) == ["tracker fake failed, and the run goes on: ValueError: no room"]


@pytest.mark.parametrize("error", [OSError("https://u:secret@h/x is gone"), SystemExit(3)])
def test_one_that_keeps_failing_is_given_up(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise error

    channel = Channel("fake", lambda: Fake(fail))
    for x in range(FAILURES + 20):
        channel.put(log(x))
    channel.wait(30)
    channel.put(log(0))
    channel.finish(end)
    assert len(tries) == FAILURES
    first, second = said(caplog)
    assert "secret" not in first
    assert second == "tracker fake is given up"


def test_one_that_does_not_start_is_given_up_at_once(caplog: pytest.LogCaptureFixture) -> None:
    channel = Channel("fake", raises(RuntimeError("no key")))
    channel.wait(30)
    channel.finish(end)
    assert said(caplog) == [
        "tracker fake failed, and the run goes on: RuntimeError: no key",
        "tracker fake is given up",
    ]


@pytest.mark.parametrize("hangs_at_start", [True, False])
def test_one_that_hangs_takes_no_time_and_no_memory(
    hangs_at_start: bool, caplog: pytest.LogCaptureFixture
) -> None:
    released, reached = threading.Event(), threading.Event()

    def hang() -> None:
        reached.set()
        released.wait()

    def start() -> Tracker:
        if hangs_at_start:
            hang()
        return Fake(hang)

    channel = Channel("fake", start, waiting=20)
    channel.put(log(0))
    assert reached.wait(30)
    began = time.monotonic()
    for x in range(100_000):
        channel.put(log(x))
    channel.finish(end)
    channel.wait(0.05)
    assert time.monotonic() - began < 5
    released.set()
    full, lost = said(caplog)
    assert full == "tracker fake does not keep up: 20 calls wait, and more are lost"
    assert lost.startswith("tracker fake does not answer, and about ")
