"""The stages' side of a pool: routing, admission, coalescing, and repetition after a death.

A replica that dies is asked nothing until it serves again, and the others do its work meanwhile.
What was in flight there is asked again once it is known why: if the replica died alone, the request
may be the cause and is asked a bounded number of times; if its node left, nothing is to blame.
"""

import asyncio
import heapq
import itertools
import zlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from ray.exceptions import RayActorError, RayError, RayTaskError

from sphere_ray.engines.engine import Request, Response
from sphere_ray.errors import EngineError, RequestError, SphereError
from sphere_ray.method.ports import GenerateRequest, Score, ScoreRequest
from sphere_ray.pools.actor import Reply
from sphere_ray.pools.errors import cause_of
from sphere_ray.records import Candidate

COALESCE_S = 0.002
"""An actor call costs about 1.6 ms of CPU; requests that arrive meanwhile travel together."""
DEATHS_BEFORE_ALONE = 2
RESTART_TIMEOUT_S = 900.0
"""How long a pool may be without any replica that serves."""
FATE_S = 120.0
"""How long a request waits to learn why its replica was lost; Ray notices a lost node sooner."""
RETRY_S = 1.0


class ReplicaLostError(Exception):
    """A replica died before it answered; internal to this module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Where the replicas of a pool run, as the actor of the `Ledger` knows; by replica name."""

    ledger: Any
    names: Sequence[str]

    async def node_of(self, replica: int) -> str | None:
        """The node on which a replica started last, if it ever did."""
        return cast("str | None", await self.ledger.node_of.remote(self.names[replica]))

    async def has_left(self, node: str | None) -> bool:
        """Whether a node is no longer part of the cluster."""
        return node is not None and bool(await self.ledger.has_left.remote(node))


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

    def __init__(self, replicas: int, limit: int, absent: Collection[int] = ()) -> None:
        """Manage `replicas` engines, each with at most `limit` sequences from this client.

        Those that are `absent` get nothing before they are added.
        """
        self._loads = [0] * replicas
        self._limit = limit
        self._order = itertools.count()
        self._serving = set(range(replicas)) - set(absent)
        self._failure: Exception | None = None
        self._waiting: list[tuple[int, int, int, int, asyncio.Future[int]]] = []

    async def enter(self, home: int, size: int, priority: int) -> int:
        """Wait for room for `size` sequences, at `home` if possible; return the replica.

        Raises:
            EngineError, UserError: the pool is given up.
        """
        if self._failure is not None:
            raise self._failure
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

    @property
    def serving(self) -> int:
        """How many replicas take requests."""
        return len(self._serving)

    def remove(self, replica: int) -> None:
        """Give a replica nothing until it is added again."""
        self._serving.discard(replica)

    def add(self, replica: int) -> None:
        """Let requests in at a replica that serves."""
        self._serving.add(replica)
        self._admit()

    def give_up(self, failure: Exception) -> None:
        """End every request that waits, and each that comes, with a failure."""
        self._failure = failure
        while self._waiting:
            ready = heapq.heappop(self._waiting)[-1]
            if not ready.done():
                ready.set_exception(failure)

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
        if not self._serving:
            return None
        while home not in self._serving:
            home = (home + 1) % len(self._loads)
        for replica in (home, min(self._serving, key=self._loads.__getitem__)):
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
            ReplicaLostError: the actor died first.
        """
        self._unsent.add(answer)
        try:
            if not alone:
                self._pending.append((request, answer))
                if len(self._pending) == 1:
                    asyncio.get_running_loop().call_later(COALESCE_S, self._flush)
                return await asyncio.shield(answer)
            # Serialise suspect requests on this side: if several waited in the actor, one that
            # kills the engine would lose them all.
            async with self._alone:
                self._start([(request, answer)], alone=True)
                return await asyncio.shield(answer)
        except asyncio.CancelledError:
            if answer in self._unsent:
                self._unsent.discard(answer)
                answer.cancel()
            raise

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

    def __init__(
        self,
        actors: Sequence[Any],
        max_sequences: int,
        model: str,
        *,
        whereabouts: Whereabouts | None = None,
        absent: Collection[int] = (),
    ) -> None:
        """Talk to `actors`, with at most `max_sequences` in flight at each.

        Those that are `absent` have no node yet. Without `whereabouts` no node ever leaves.
        """
        self._replicas = [Replica(actor) for actor in actors]
        self._admission = Admission(len(actors), max_sequences, absent)
        self._model = model
        self._whereabouts = whereabouts
        self._absent = set(absent)
        self._fates: dict[int, asyncio.Future[bool]] = {}
        self._returns: set[asyncio.Task[None]] = set()

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
        while self._absent:
            self._fate_of(self._absent.pop())
        home = zlib.crc32(problem_of(request).encode()) % len(self._replicas)
        size, deaths = width(request), 0
        while deaths <= DEATHS_BEFORE_ALONE:
            replica = await self._admission.enter(home, size, request.priority)
            answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
            answer.add_done_callback(partial(self._leave, replica, size))
            try:
                alone = deaths >= DEATHS_BEFORE_ALONE
                return await self._replicas[replica].ask(request, answer, alone=alone)
            except ReplicaLostError:
                deaths += await asyncio.shield(self._fate_of(replica))
        raise RequestError(
            f"a request of problem {problem_of(request)} was in flight at "
            f"{DEATHS_BEFORE_ALONE + 1} engine deaths, the last time alone; it is given up"
        )

    def _fate_of(self, replica: int) -> "asyncio.Future[bool]":
        """Take a lost replica out until it serves again; tells whether it died by itself."""
        if replica not in self._fates:
            self._admission.remove(replica)
            fate = self._fates[replica] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(self._return(replica, fate))
            self._returns.add(task)
            task.add_done_callback(self._returns.discard)
        return self._fates[replica]

    async def _return(self, replica: int, fate: "asyncio.Future[bool]") -> None:
        try:
            await self._served_again(replica, fate)
        except (SphereError, RayError) as error:
            # Whoever is asked from now on fails with it, those that wait for the fate included.
            self._admission.give_up(cause_of(error) if isinstance(error, RayError) else error)
        else:
            self._admission.add(replica)
        finally:
            del self._fates[replica]
            if not fate.done():
                fate.set_result(True)

    async def _served_again(self, replica: int, fate: "asyncio.Future[bool]") -> None:
        """Wait until a replica serves; settle its `fate` as soon as that is known.

        Raises:
            EngineError: it does not come back, and no other one serves.
            RayTaskError: it cannot be started again.
        """
        clock, where = asyncio.get_running_loop().time, self._whereabouts
        node = await where.node_of(replica) if where else None
        lost_at = alone_since = clock()
        probe: asyncio.Future[None] | None = None
        while True:
            probe = probe or asyncio.ensure_future(self._replicas[replica].actor.ready.remote())
            await asyncio.wait([probe], timeout=RETRY_S)
            left = where is not None and await where.has_left(node)
            with suppress(RayActorError):
                if probe.done() and probe.result() is None:
                    break
            now = clock()
            if not fate.done() and (left or now > lost_at + FATE_S):
                fate.set_result(not left)
            if self._admission.serving:
                alone_since = now
            elif now > alone_since + RESTART_TIMEOUT_S:
                raise EngineError(
                    f"no engine of {self._model} serves since {RESTART_TIMEOUT_S:.0f} s; add nodes "
                    "for those that were lost, then run the same command again"
                )
            if probe.done():  # the actor is still away
                probe = None
                await asyncio.sleep(RETRY_S)
        if not fate.done():
            fate.set_result(not left)
