"""The grader of a process: the fast path inline, the slow path in killable worker processes."""

import asyncio
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from sphere_ray.config.grading import GradingSettings
from sphere_ray.errors import GraderError
from sphere_ray.grading.exact import compare_exactly
from sphere_ray.grading.extract import extract_answer, extract_gold
from sphere_ray.grading.normalise import normalise
from sphere_ray.grading.process import WorkerProcess
from sphere_ray.grading.sampled import certainly_differ
from sphere_ray.method.ports import Grade
from sphere_ray.records import Verdict

MAX_SYMBOLIC_CHARS = 1000
"""Longer answers are ungradable without asking a worker."""

_KNOWN: tuple[tuple[str, str, Verdict], ...] = (
    ("The answer is 1,234 apples.", "1234", Verdict.CORRECT),
    ("#### 20001", "20000", Verdict.WRONG),
    ("I do not know, perhaps 5", "5", Verdict.NO_ANSWER),
    (r"so \boxed{(x+1)^2}", "$x^2+2x+1$", Verdict.CORRECT),
    (r"so \boxed{(x+1)^2}", "$x^2+2x+2$", Verdict.WRONG),
    (r"\boxed{\sqrt{8}}", r"2\sqrt{2}", Verdict.CORRECT),
    (r"\boxed{\sqrt{8}}", r"2\sqrt{3}", Verdict.WRONG),
    (r"The answer is $\frac{\sqrt{3}}{3}$.", r"\frac{1}{\sqrt{3}}", Verdict.CORRECT),
)


class GraderPool:
    """Implements the Grader port; workers start when first needed. Usable from any thread."""

    def __init__(self, settings: GradingSettings | None = None) -> None:
        """Start nothing yet."""
        self._settings = settings or GradingSettings()
        self._threads = ThreadPoolExecutor(self._settings.workers, "sphere-grader")
        self._idle: deque[WorkerProcess] = deque()
        self._workers: set[WorkerProcess] = set()
        self._lock = threading.Lock()
        self._closed = False

    async def grade(self, response: str, gold: str) -> Grade:
        """Grade the answer stated in `response`; many calls may be under way at once.

        Raises:
            GraderError: the pool is closed, or a worker cannot be started.
        """
        answer, target, verdict = decide(response, gold)
        if verdict is None:
            assert answer is not None
            verdict = await asyncio.wrap_future(self._submit(answer, target))
        return Grade(verdict=verdict, answer=answer)

    def grade_blocking(self, response: str, gold: str) -> Grade:
        """The same for callers without an event loop."""
        answer, target, verdict = decide(response, gold)
        if verdict is None:
            assert answer is not None
            verdict = self._submit(answer, target).result()
        return Grade(verdict=verdict, answer=answer)

    async def self_test(self) -> None:
        """Grade known right and wrong answers with the real workers.

        Raises:
            GraderError: one of them came out otherwise.
        """
        grades = await asyncio.gather(*(self.grade(response, gold) for response, gold, _ in _KNOWN))
        for (response, gold, expected), grade in zip(_KNOWN, grades, strict=True):
            if grade.verdict is not expected:
                raise GraderError(
                    f"The grader failed its self-test: {response!r} against {gold!r} is"
                    f" {expected}, but was graded {grade.verdict}."
                )

    def close(self) -> None:
        """End all workers; requests under way fail with GraderError."""
        with self._lock:
            self._closed = True
            workers = tuple(self._workers)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.stop()
        self._threads.shutdown(wait=True)
        for worker in workers:
            worker.kill()

    def _submit(self, answer: str, gold: str) -> "Future[Verdict]":
        if self._closed:
            raise GraderError("The grader is closed.")
        return self._threads.submit(self._compare, answer, gold)

    def _compare(self, answer: str, gold: str) -> Verdict:
        worker = self._take()
        verdict = worker.ask(answer, gold)
        if self._closed:
            self._drop(worker)
            raise GraderError("The grader was closed while an answer was compared.")
        if not worker.alive or worker.answered >= self._settings.recycle_after:
            self._drop(worker)
        else:
            self._idle.append(worker)
        return verdict

    def _take(self) -> WorkerProcess:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
            self._drop(worker)  # killed from outside while idle: no verdict on any answer
        worker = WorkerProcess(self._settings)
        with self._lock:
            self._workers.add(worker)
        return worker

    def _drop(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._workers.discard(worker)
        worker.kill()


def decide(response: str, gold: str) -> tuple[str | None, str, Verdict | None]:
    """Everything that needs no worker: (normalised answer, normalised gold, verdict if known)."""
    answer = normalise(extract_answer(response) or "") or None
    target = normalise(extract_gold(gold))
    if answer is None:
        return None, target, Verdict.NO_ANSWER
    equal = compare_exactly(answer, target)
    if equal is not None:
        return answer, target, Verdict.CORRECT if equal else Verdict.WRONG
    if certainly_differ(answer, target):
        return answer, target, Verdict.WRONG
    if not target or max(len(answer), len(target)) > MAX_SYMBOLIC_CHARS:
        return answer, target, Verdict.UNGRADABLE
    return answer, target, None
