"""The stages' side of a pool: routing, admission, coalescing, and repetition after a death."""

import asyncio
import heapq
import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from ray.exceptions import RayActorError, RayError, RayTaskError

from sphere_ray.engines.engine import Request, Response
from sphere_ray.errors import EngineError, RequestError
from sphere_ray.method.ports import GenerateRequest, Score, ScoreRequest
from sphere_ray.pools.actor import Reply
from sphere_ray.pools.errors import cause_of
from sphere_ray.records import Candidate

COALESCE_S = 0.002
"""An actor call costs about 1.6 ms of CPU; requests that arrive meanwhile travel together."""
DEATHS_BEFORE_ALONE = 2
RESTART_TIMEOUT_S = 900.0
RETRY_S = 1.0


class ReplicaLostError(Exception):
    """A replica died before it answered; internal to this module."""


def width(request: Request) -> int:
    """Return the number of sequences that a request occupies in its engine."""
    return request.n if isinstance(request, GenerateRequest) else len(request.candidates)


def problem_of(request: Request) -> str:
    """Return the id of the problem that a request belongs to."""
    if isinstance(request, GenerateRequest):
        return request.problem_id
    return request.problem.problem_id


class Admission:
    """Decides which replica takes a request, and when: bounded by sequences, oldest first."""

    def __init__(self, replicas: int, limit: int) -> None:
        """Manage `replicas` engines, each with at most `limit` sequences from this client."""
        self._loads = [0] * replicas
        self._limit = limit
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, int, int, asyncio.Future[int]]] = []

    async def enter(self, home: int, size: int, priority: int) -> int:
        """Wait for room for `size` sequences, at `home` if possible; return the replica."""
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._order), home, size, ready))
        self._admit()
        try:
            return await ready
        except asyncio.CancelledError:
            if ready.cancelled():
                self._admit()  # this request may have been the one that the others waited for
            else:  # let in and cancelled in one turn
                self.leave(ready.result(), size)
            raise

    def leave(self, replica: int, size: int) -> None:
        """Give `size` sequences back and let the oldest waiting requests in."""
        self._loads[replica] -= size
        self._admit()

    def _admit(self) -> None:
        """Let requests in, the oldest first, until one finds no room."""
        while self._waiting:
            _, _, home, size, ready = self._waiting[0]
            if not ready.cancelled():
                replica = self._with_room(home, size)
                if replica is None:
                    return
                self._loads[replica] += size
                ready.set_result(replica)
            heapq.heappop(self._waiting)

    def _with_room(self, home: int, size: int) -> int | None:
        # The replica that holds the problem's prefix in its cache, else the least loaded one.
        for replica in (home, min(range(len(self._loads)), key=self._loads.__getitem__)):
            if self._loads[replica] == 0 or self._loads[replica] + size <= self._limit:
                return replica
        return None


@dataclass
class Replica:
    """One engine actor, and the requests on their way to it."""

    actor: Any
    _alone: asyncio.Lock = field(default_factory=asyncio.Lock)
    _pending: list[tuple[Request, asyncio.Future[Response]]] = field(default_factory=list)
    _unsent: set[asyncio.Future[Response]] = field(default_factory=set)
    _calls: set[asyncio.Task[None]] = field(default_factory=set)

    async def ask(
        self, request: Request, answer: "asyncio.Future[Response]", *, alone: bool
    ) -> Response:
        """Send a request and wait for `answer`, which is done when the engine is done with it.

        With `alone` the engine runs nothing else meanwhile. The caller may be cancelled. Then a
        request that was sent is decoded all the same, and one that was not is withdrawn.

        Raises:
            ReplicaLostError: the actor died first, and serves again.
        """
        self._unsent.add(answer)
        try:
            if not alone:
                self._pending.append((request, answer))
                if len(self._pending) == 1:
                    asyncio.get_running_loop().call_later(COALESCE_S, self._flush)
                return await self._settled(answer)
            # Serialise suspect requests on this side: if several waited in the actor, one that
            # kills the engine would lose them all.
            async with self._alone:
                self._start([(request, answer)], alone=True)
                return await self._settled(answer)
        except asyncio.CancelledError:
            if answer in self._unsent:
                self._unsent.discard(answer)
                answer.cancel()
            raise

    async def _settled(self, answer: "asyncio.Future[Response]") -> Response:
        try:
            return await asyncio.shield(answer)
        except ReplicaLostError:
            await self._recovered()
            raise

    async def _recovered(self) -> None:
        """Wait until the restarted actor serves again.

        Raises:
            EngineError: it does not come back.
        """
        deadline = asyncio.get_running_loop().time() + RESTART_TIMEOUT_S
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    await self.actor.ready.remote()
                return
            except TimeoutError as error:
                raise EngineError(
                    f"an engine died and did not come back within {RESTART_TIMEOUT_S:.0f} s; "
                    "is its node gone?"
                ) from error
            except RayActorError:
                await asyncio.sleep(RETRY_S)
            except RayTaskError as error:
                raise cause_of(error) from error

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        batch = [(request, answer) for request, answer in pending if not answer.done()]
        if batch:
            self._start(batch, alone=False)

    def _start(self, batch: list[tuple[Request, asyncio.Future[Response]]], *, alone: bool) -> None:
        self._unsent.difference_update(answer for _, answer in batch)
        call = asyncio.create_task(self._call(batch, alone=alone))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(
        self, batch: list[tuple[Request, asyncio.Future[Response]]], *, alone: bool
    ) -> None:
        failure: Exception = EngineError("an engine answered fewer requests than it was given")
        try:
            requests = [request for request, _ in batch]
            replies = self.actor.serve.options(num_returns="streaming").remote(
                requests, alone=alone
            )
            async for reference in replies:
                for reply in await reference:
                    _settle(batch[reply.index][1], reply)
        except RayTaskError as error:
            failure = cause_of(error)
        except RayError as error:  # the actor, its node, or a reply on its way is lost
            failure = ReplicaLostError(str(error))
        for _, answer in batch:
            if not answer.done():
                answer.set_exception(failure)


def _settle(answer: "asyncio.Future[Response]", reply: Reply) -> None:
    if answer.done():
        return
    if reply.error is not None:
        answer.set_exception(reply.error)
    else:
        assert reply.response is not None
        answer.set_result(reply.response)


class PoolClient:
    """Asks the replicas of one pool; implements both Generator and Scorer."""

    def __init__(self, actors: Sequence[Any], max_sequences: int, model: str) -> None:
        """Talk to `actors`, with at most `max_sequences` in flight at each."""
        self._replicas = [Replica(actor) for actor in actors]
        self._admission = Admission(len(actors), max_sequences)
        self._model = model

    @property
    def model(self) -> str:
        """Name of the model behind the pool."""
        return self._model

    async def generate(self, request: GenerateRequest) -> tuple[Candidate, ...]:
        """See `Generator.generate`."""
        return cast(tuple[Candidate, ...], await self._ask(request))

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        """See `Scorer.score`."""
        return cast(tuple[Score, ...], await self._ask(request))

    def _leave(self, replica: int, size: int, answer: "asyncio.Future[Response]") -> None:
        self._admission.leave(replica, size)
        if not answer.cancelled():
            answer.exception()  # seen, even if nobody waits for it any more

    async def _ask(self, request: Request) -> Response:
        home = zlib.crc32(problem_of(request).encode()) % len(self._replicas)
        size = width(request)
        for deaths in range(DEATHS_BEFORE_ALONE + 1):
            replica = await self._admission.enter(home, size, request.priority)
            answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
            answer.add_done_callback(partial(self._leave, replica, size))
            try:
                alone = deaths >= DEATHS_BEFORE_ALONE
                return await self._replicas[replica].ask(request, answer, alone=alone)
            except ReplicaLostError:
                continue
        raise RequestError(
            f"a request of problem {problem_of(request)} was in flight at "
            f"{DEATHS_BEFORE_ALONE + 1} engine deaths, the last time alone; it is given up"
        )
