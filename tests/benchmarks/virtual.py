"""An event loop whose time is counted, not waited for, and an engine that lives in it."""

import asyncio
import heapq
import itertools
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

TURN_S = 1e-6
"""Longer than the clock's resolution, far shorter than a step."""


class _Selector(selectors.SelectSelector):
    """Where a loop would sleep, its clock jumps."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everyone waits, and nothing will happen")
        self.skipped += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs coroutines in no time, while `time()` passes as they sleep."""

    def __init__(self) -> None:
        self._jumps = _Selector()
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.skipped


def run(work: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """The result of `work`, and the virtual seconds it took."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        result = runner.run(work)
        return result, runner.get_loop().time()


class Engine:
    """Decodes one token of each running sequence a step; a step takes `a + b * running` seconds.

    `waves`: what is asked for while a wave runs waits for its end (a lock-step search). Otherwise
    whoever is next in priority enters as soon as a slot is free (continuous batching).
    """

    def __init__(self, a: float, b: float, slots: int, *, waves: bool) -> None:
        self._a, self._b, self._slots, self._waves = a, b, slots, waves
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []
        self._wave: list[tuple[int, int, int, asyncio.Future[None]]] = []
        self._running: list[tuple[int, int, asyncio.Future[None]]] = []
        self._steps = 0
        self._task: asyncio.Task[None] | None = None
        self.tokens = 0

    async def decode(self, tokens: int, priority: int) -> None:
        """Return when a sequence of `tokens` tokens is done."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._order), tokens, done))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await done

    async def _run(self) -> None:
        await asyncio.sleep(0)
        while self._waiting or self._wave or self._running:
            self._admit()
            await self._step()
            # Who was answered asks again before the next step, and takes no time for it.
            await asyncio.sleep(TURN_S)
        self._task = None

    def _admit(self) -> None:
        if not self._waves:
            queue = self._waiting
        else:
            if not self._running and not self._wave:
                self._wave, self._waiting = self._waiting, []
            queue = self._wave
        while queue and len(self._running) < self._slots:
            _, order, tokens, done = heapq.heappop(queue)
            heapq.heappush(self._running, (self._steps + tokens, order, done))

    async def _step(self) -> None:
        """Decode until the first running sequence is done, or one more could enter."""
        running = len(self._running)
        number = max(1, self._running[0][0] - self._steps)
        if running < self._slots and not self._waves:
            number = 1
        seconds = number * (self._a + self._b * running)
        self._steps += number
        self.tokens += number * running
        await asyncio.sleep(seconds)
        while self._running and self._running[0][0] <= self._steps:
            _, _, done = heapq.heappop(self._running)
            done.set_result(None)
