import os
import signal
import threading
from collections.abc import Iterator

import pytest

from sphere_ray.interruption import Interrupted, catch_signals, together


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    known = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in known.items():
        signal.signal(number, handler)


class Patient:
    """A work that lasts until it is stopped, and then fails."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.ended = False

    def __call__(self) -> None:
        self.over.wait()
        self.ended = True
        raise ValueError("stopped")


def test_works_are_done_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=60)
    together([meeting.wait, meeting.wait], stop=meeting.abort)


def test_the_first_error_stops_the_others_and_is_the_one_that_is_told() -> None:
    patient = Patient()

    def fails() -> None:
        raise KeyError("first")

    with pytest.raises(KeyError, match="first"):
        together([patient, fails], stop=patient.over.set)
    assert patient.ended


def test_a_signal_stops_all_of_them() -> None:
    patient = Patient()
    catch_signals()
    with pytest.raises(Interrupted, match="SIGTERM"):
        together([patient, lambda: os.kill(os.getpid(), signal.SIGTERM)], stop=patient.over.set)
    assert patient.ended


def test_a_work_alone_needs_no_thread() -> None:
    found: list[threading.Thread] = []
    together([lambda: found.append(threading.current_thread())], stop=lambda: None)
    assert found == [threading.main_thread()]
