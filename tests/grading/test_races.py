"""Threads that share a pool, interleaved line by line, without waiting for a rare moment."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from sphere_ray.config.grading import GradingSettings
from sphere_ray.grading import GraderPool, pool
from sphere_ray.records import Verdict

QUESTION = (r"\boxed{(x+1)^2}", "$x^2+2x+1$")
DEADLY = (r"\boxed{(y+1)^2}", "$y^2+2y+1$")


class FakeWorker:
    """Answers at once; one question ends it. Its thread is traced once it has answered."""

    tracer: Callable[[FrameType, str, Any], Any] | None = None

    def __init__(self, *_: object) -> None:
        self.fit = True

    def wait_until_ready(self) -> None:
        assert self.fit

    def ask(self, answer: str, gold: str) -> tuple[Verdict, None]:
        sys.settrace(self.tracer)
        self.fit = "y" not in gold
        return Verdict.CORRECT if self.fit else Verdict.TIMEOUT, None

    def stop(self) -> None:
        self.fit = False

    kill = stop


class Interrupted:
    """A pool of which one thread, at its n-th line of pool.py, waits for a grade by another."""

    def __init__(self, at: int) -> None:
        self.lines, self.at = 0, at
        self.pool = GraderPool(GradingSettings(workers=2))
        FakeWorker.tracer = self.trace

    def trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != pool.__file__:
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                assert self.pool.grade_blocking(*DEADLY).verdict is Verdict.TIMEOUT
        return self.trace


def test_a_worker_lost_to_another_thread_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "WorkerProcess", FakeWorker)
    at, lines = 0, 1
    while at < lines:
        at += 1
        interrupted = Interrupted(at)
        for _ in range(2):  # the second time there is an idle worker to fight over
            assert interrupted.pool.grade_blocking(*QUESTION).verdict is Verdict.CORRECT
        interrupted.pool.close()
        lines = interrupted.lines
    assert at > 5
