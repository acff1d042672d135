"""Stand-ins for engine actors, with the calling conventions of Ray's handles."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from ray.exceptions import ActorDiedError

from sphere_ray.engines.engine import Request
from sphere_ray.method.ports import GenerateRequest
from sphere_ray.pools.actor import Reply
from sphere_ray.records import Candidate, StopReason


def request(problem: str = "p", *, n: int = 1, priority: int = 0) -> GenerateRequest:
    return GenerateRequest(
        problem_id=problem,
        messages=(),
        n=n,
        temperature=1.0,
        max_tokens=8,
        seed=0,
        priority=priority,
    )


def answer(text: str = "x") -> tuple[Candidate, ...]:
    return (Candidate(text=text, token_ids=(1,), logprob=-1.0, stop_reason=StopReason.END),)


class Method:
    """`actor.method.remote(...)` and `actor.method.options(...).remote(...)`."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def options(self, **_: Any) -> "Method":
        return self

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)


class FakeActor:
    """Answers each request by `reply(requests, alone)`; None from it is the death of the actor.

    Every call that is open at a death fails with it, as it does at a real actor, where calls of
    suspects wait for each other behind a gate.
    """

    def __init__(self, reply: Callable[[Sequence[Request], bool], list[Reply] | None]) -> None:
        self._reply = reply
        self._deaths = 0
        self.calls: list[tuple[list[str], bool]] = []
        self.restarts = 0
        self._here = asyncio.Event()
        self._here.set()
        self.serve = Method(self._serve)
        self.ready = Method(self._ready)

    def away(self) -> None:
        """Let the actor find no node when it starts again."""
        self._here.clear()

    def back(self) -> None:
        """Let it start."""
        self._here.set()

    async def _serve(self, requests: Sequence[Request], *, alone: bool) -> AsyncIterator[Any]:
        self.calls.append(([r.problem_id for r in requests], alone))  # type: ignore[union-attr]
        deaths = self._deaths
        await asyncio.sleep(0)  # other calls arrive meanwhile
        replies = self._reply(requests, alone) if deaths == self._deaths else None
        if replies is None:
            self._deaths += deaths == self._deaths
            raise ActorDiedError
        for first in range(0, len(replies), 2):
            yield _done(tuple(replies[first : first + 2]))

    async def _ready(self) -> None:
        await self._here.wait()
        self.restarts += 1


async def _done(replies: tuple[Reply, ...]) -> tuple[Reply, ...]:
    return replies


def answer_all(requests: Sequence[Request], alone: bool) -> list[Reply]:
    return [Reply(index=i, response=answer(str(i))) for i in range(len(requests))]
