"""Grades answers: clear cases at once, all others in worker processes that can be killed."""

import asyncio
import itertools
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from sphere_ray.config.grading import GradingSettings
from sphere_ray.errors import GraderError
from sphere_ray.grading.exact import compare_exactly
from sphere_ray.grading.extract import extract_answer, extract_gold
from sphere_ray.grading.normalise import normalise
from sphere_ray.grading.process import WorkerLostError, WorkerProcess
from sphere_ray.method.ports import Grade
from sphere_ray.records import Verdict

logger = logging.getLogger(__name__)

MAX_SYMBOLIC_CHARS = 1000
"""Longer answers are ungradable without asking a worker."""

MAX_VERIFIED_CHARS = 1_000_000
"""So are longer responses where a verifier gets them: every process holds copies of a text."""

_MAX_LOST = 3
_MAX_RAISED = 20
_CLOSED = "The grader is closed."

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


class _Mine(threading.local):
    """What one thread has."""

    worker: WorkerProcess | None = None
    spare: WorkerProcess | None = None


class GraderPool:
    """Implements the Grader port; usable from any thread. Workers start when first needed.

    Each thread of the pool has a worker of its own, so no two threads ever share one, and a warm
    spare, so that an answer behind a killed worker does not wait for a start.
    """

    def __init__(self, settings: GradingSettings | None = None) -> None:
        """Start nothing yet."""
        self._settings = settings or GradingSettings()
        self._threads = ThreadPoolExecutor(self._settings.workers, "sphere-grader")
        self._mine = _Mine()
        self._workers = set[WorkerProcess]()  # and spares; adding and discarding are atomic
        self._closed = False
        self._raised = itertools.count(1)
        self._verifier_works = False

    async def grade(self, response: str, gold: str) -> Grade:
        """Grade the answer stated in `response`; many calls may be under way at once.

        Raises:
            GraderError: the pool is closed, a worker cannot be started or is lost again and
                again, or `grading.verifier` fails on every answer.
        """
        answer, found = self._begin(response, gold)
        verdict = found if isinstance(found, Verdict) else await asyncio.wrap_future(found)
        return Grade(verdict=verdict, answer=answer)

    def grade_blocking(self, response: str, gold: str) -> Grade:
        """Do the same as `grade` for callers without an event loop."""
        answer, found = self._begin(response, gold)
        verdict = found if isinstance(found, Verdict) else found.result()
        return Grade(verdict=verdict, answer=answer)

    async def same(self, answer: str, other: str) -> bool:
        """See `Grader.same`."""
        equal = exactly_same(answer, other, self._settings.verifier)
        if equal is None:
            return await self.compare(answer, other) is Verdict.CORRECT
        return equal

    async def compare(self, answer: str, target: str) -> Verdict:
        """Let a worker compare an answer with a target that `decide` has left undecided.

        Raises:
            GraderError: as `grade`.
        """
        return await asyncio.wrap_future(self._submit(answer, target))

    async def self_test(self) -> None:
        """Grade known right and wrong answers with the real workers.

        A user's verifier has no known answers: it is imported, and its signature checked.

        Raises:
            ConfigError: `grading.verifier` cannot be used.
            GraderError: a known answer got another verdict than it should.
        """
        if self._settings.verifier:
            await asyncio.wrap_future(self._threads.submit(self._worker))
            return
        grades = await asyncio.gather(*(self.grade(response, gold) for response, gold, _ in _KNOWN))
        for (response, gold, expected), grade in zip(_KNOWN, grades, strict=True):
            if grade.verdict is not expected:
                raise GraderError(
                    f"The grader failed its self-test: {response!r} against {gold!r} is"
                    f" {expected}, but was graded {grade.verdict}."
                )

    def close(self) -> None:
        """End all workers; requests under way fail with GraderError."""
        self._closed = True
        for worker in tuple(self._workers):
            worker.stop()
        self._threads.shutdown(wait=True)
        for worker in tuple(self._workers):
            worker.kill()

    def _begin(self, response: str, gold: str) -> tuple[str | None, "Verdict | Future[Verdict]"]:
        """Return the stated answer, and its verdict or the promise of one."""
        if self._settings.verifier:
            return _stated(response), self._submit(response, gold)
        answer, target, verdict = decide(response, gold)
        return answer, verdict or self._submit(answer or "", target)

    def _submit(self, left: str, right: str) -> "Future[Verdict]":
        if self._closed:
            raise GraderError(_CLOSED)
        return self._threads.submit(self._compare, left, right)

    def _compare(self, left: str, right: str) -> Verdict:
        """Ask this thread's worker; if it is lost, a fresh one is asked the same."""
        if max(len(left), len(right)) > MAX_VERIFIED_CHARS:
            return Verdict.UNGRADABLE
        for _ in range(_MAX_LOST):
            try:
                return self._checked(*self._worker().ask(left, right))
            except WorkerLostError as error:
                how = str(error)
                if self._closed:
                    raise GraderError(_CLOSED) from None
                logger.warning("A grading worker %s; another one gets its answer.", how)
        raise GraderError(
            f"{_MAX_LOST} grading workers in a row were lost over one answer; the last one {how}."
            " Check the memory of the node, and what else ends processes there."
        )

    def _worker(self) -> WorkerProcess:
        """Return this thread's worker; a dead one, or one that is due, is replaced first."""
        mine = self._mine
        if mine.worker is not None and mine.worker.fit:
            return mine.worker
        if mine.worker is not None:
            self._workers.discard(mine.worker)
            mine.worker.kill()
        mine.worker, mine.spare = mine.spare or self._started(), None
        mine.worker.wait_until_ready()
        with suppress(GraderError):  # what keeps a spare from starting matters when it is needed
            mine.spare = self._started()
        return mine.worker

    def _started(self) -> WorkerProcess:
        if not self._closed:
            worker = WorkerProcess(self._settings)
            self._workers.add(worker)
        if self._closed:  # now, or while the new worker started: then `close` may not know it
            raise GraderError(_CLOSED)
        return worker

    def _checked(self, verdict: Verdict, error: str | None) -> Verdict:
        """Count the exceptions of a user's verifier; one that only ever raises is no verifier."""
        if error is None or not self._settings.verifier:
            self._verifier_works = True
            return verdict
        raised = next(self._raised)
        name = f"grading.verifier {self._settings.verifier}"
        if raised == 1:
            logger.warning("%s raised %s; such answers are ungradable", name, error)
        if raised >= _MAX_RAISED and not self._verifier_works:
            raise GraderError(f"{name} raised on each of {raised} answers ({error}).")
        return verdict


def decide(response: str, gold: str) -> tuple[str | None, str, Verdict | None]:
    """Everything that needs no worker: (stated answer, target, verdict or None if undecided).

    Answer and target are normalised; an undecided case has an answer.
    """
    answer = _stated(response)
    target = normalise(extract_gold(gold))
    if answer is None:
        return None, target, Verdict.NO_ANSWER
    equal = compare_exactly(answer, target)
    if equal is not None:
        return answer, target, Verdict.CORRECT if equal else Verdict.WRONG
    if not target or max(len(answer), len(target)) > MAX_SYMBOLIC_CHARS:
        return answer, target, Verdict.UNGRADABLE
    return answer, target, None


def exactly_same(answer: str, other: str, verifier: str | None) -> bool | None:
    """Whether two stated answers are the same, as far as no worker is needed; None: ask one."""
    if answer == other or verifier is not None or max(len(answer), len(other)) > MAX_SYMBOLIC_CHARS:
        return answer == other
    return compare_exactly(answer, other)


def _stated(response: str) -> str | None:
    return normalise(extract_answer(response) or "") or None
