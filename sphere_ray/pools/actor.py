"""The Ray actor that hosts one engine, and turns the death of its engine into its own.

A killed EngineCore leaves the actor alive and makes every later call an application error, which
Ray neither restarts nor retries; so the actor exits, Ray restarts it, and the client repeats what
was lost.
"""

import asyncio
import logging
import os
import time
import uuid
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import ray

from sphere_ray.compat import vllm_ray
from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.placement import NodeResources
from sphere_ray.engines.engine import Engine, EngineStats, LibraryEngine, Request, Response
from sphere_ray.engines.sources import build_engine
from sphere_ray.errors import EngineError, RowError
from sphere_ray.method.seeds import derive_seed
from sphere_ray.pools.nodes import cores_here, living_nodes
from sphere_ray.pools.staging import model_here

logger = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
LOOK_S = 1.0
RESTARTS_PER_HOUR = 4
"""Deaths of one engine that Ray mends; more have a cause that it cannot mend."""


def replica_name(run: str, pool: str, replica: int) -> str:
    """A name for an engine's actor, as the dashboard shows it: `laptop/policy-01234567/0-1a2b3c`.

    Planned starts are no deaths, so each launch has a name, and with it an account, of its own.
    """
    return f"{run}/{pool}/{replica}-{uuid.uuid4().hex[:6]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosting:
    """What an engine is told besides its spec.

    `seed` begins its random numbers, so that runs with other seeds, and the replicas of a pool,
    draw other samples. With `share_cores` several pools work on the CPUs at once, and with
    `vllm_metrics` Ray exports what vLLM measures.
    """

    seed: int = 0
    share_cores: bool = False
    vllm_metrics: bool = False


def engine_seed(seed: int, replica: str) -> int:
    """Return the seed of a replica, by its name, from that of its run."""
    place, _, _ = replica.rpartition("-")
    return derive_seed(seed, *place.split("/")[-2:]) & (2**31 - 1)  # NumPy takes 32 bits


def pool_of(name: str) -> str:
    """Return the pool of a replica with this name."""
    return name.split("/")[-2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer to request `index` of a call: a response, or why this row failed."""

    index: int
    response: Response | None = None
    error: RowError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """One replica: its model, the processes that hold its memory, and what its engine counts."""

    model: str
    pid: int
    node_id: str
    serves: bool
    stats: EngineStats


class Gate:
    """Lets ordinary requests through together and a suspect one only by itself."""

    def __init__(self) -> None:
        """Start open."""
        self._running = 0
        self._closed = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def enter(self, *, alone: bool) -> AsyncIterator[None]:
        """Run in the engine together with others; with `alone`, without any other request."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._closed)
            if alone:
                await self._empty()
            self._running += 1
        try:
            yield
        finally:
            async with self._changed:
                self._running -= 1
                if alone:
                    self._closed = False
                self._changed.notify_all()

    async def _empty(self) -> None:
        self._closed = True
        try:
            await self._changed.wait_for(lambda: self._running == 0)
        except asyncio.CancelledError:
            self._closed = False
            self._changed.notify_all()
            raise


class Ledger:
    """What must outlive a replica: its starts, which have a budget, its latest model, its node.

    Ray restarts an actor with the arguments of its launch, which a reload has overtaken.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        nodes: Callable[[], Iterable[NodeResources]] = living_nodes,
    ) -> None:
        """Start with no history."""
        self._clock = clock
        self._nodes = nodes
        self._starts: dict[str, deque[float]] = defaultdict(deque)
        self._specs: dict[str, EngineSpec] = {}
        self._places: dict[str, str] = {}
        self._living: frozenset[str] = frozenset()
        self._looked_at = -LOOK_S

    def assign(self, name: str, spec: EngineSpec) -> None:
        """Let `name` serve `spec` from its next start on."""
        self._specs[name] = spec

    def assigned(self, name: str) -> EngineSpec | None:
        """Return what `name` was assigned last, if anything."""
        return self._specs.get(name)

    def place(self, name: str, node: str) -> None:
        """Remember the node of `name`; a start after the loss of its earlier node is free."""
        if name in self._places and self.has_left(self._places[name]):
            self._starts[name].clear()
        self._places[name] = node

    def forget(self, name: str) -> None:
        """Remove what is known of a replica that was stopped."""
        for known in (self._starts, self._specs, self._places):
            known.pop(name, None)

    def node_of(self, name: str) -> str | None:
        """Return the node of `name`, None before it had any."""
        return self._places.get(name)

    def has_left(self, node: str) -> bool:
        """Whether a node is no longer part of the cluster."""
        now = self._clock()
        if now >= self._looked_at + LOOK_S:  # many clients ask about the same moment
            self._living = frozenset(each.node_id for each in self._nodes())
            self._looked_at = now
        return node not in self._living

    def beside(self, name: str) -> int:
        """Return how many engines of its pool the node of `name` has, itself included."""
        here = (pool_of(name), self._places.get(name))
        return max(1, sum((pool_of(n), node) == here for n, node in self._places.items()))

    def allows(self, name: str, restarts_per_hour: int) -> bool:
        """Count a start of `name`; False if it exceeds one start plus so many restarts an hour."""
        now, starts = self._clock(), self._starts[name]
        starts.append(now)
        while starts[0] < now - 3600:
            starts.popleft()
        return len(starts) <= restarts_per_hour + 1


def openmp(spec: EngineSpec, cores: int, engines: int, *, share_cores: bool) -> dict[str, str]:
    """OpenMP's environment of an engine on the CPU, one of so many `engines` on a node's `cores`.

    With tensor parallelism one core stays free for the EngineCore, which waits by spinning: with
    threads on every core it was ten times slower. Ray gives one thread to an actor without CPUs.

    Threads wait by spinning. That suits a pool that has the cores for itself (4% faster), but
    beside another pool it holds up the other's work: with a process reward model, rollouts were
    1.6 times as fast when the threads of both engines wait asleep.
    """
    if spec.pool.gpus:
        return {}
    if spec.pool.tensor_parallel > 1:
        cores -= 1
    threads = max(1, cores // (spec.pool.tensor_parallel * engines))
    waiting = {"OMP_WAIT_POLICY": "PASSIVE"} if share_cores else {}
    return {"OMP_NUM_THREADS": str(threads), **waiting}


class EngineActor:
    """One replica of a pool; `status` and `close` never queue behind generation."""

    def __init__(
        self,
        spec: EngineSpec,
        *,
        name: str,
        ledger: str,
        source: str,
        hosting: Hosting,
    ) -> None:
        """Remember what to build; `ready` builds it. `ledger` names the actor of the `Ledger`.

        `source` is the node that has the models. (A handle among the arguments would lie in the
        object store, where a restart may lose it.)
        """
        self._spec = spec
        self._name = name
        self._ledger = ledger
        self._source = source
        self._hosting = hosting
        self._engine: Engine | None = None
        self._gate = Gate()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[None] | None = None
        self._heart: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Start the engine if it is not running; it lives in the event loop that serves."""
        await self._started()

    async def reload(self, spec: EngineSpec) -> None:
        """Serve other weights; no request is in flight, and the ledger knows the new ones."""
        await self._started()
        if self._spec != spec:  # else a restart has already seen to it
            await self._running().reload(await self._with_model(spec))
            self._spec = spec

    @ray.method(concurrency_group="control")
    async def status(self) -> ReplicaStatus:
        """Return where the replica is, and its engine's counters."""
        node_id = ray.get_runtime_context().get_node_id()
        return ReplicaStatus(
            model=self._spec.name,
            pid=os.getpid(),
            node_id=node_id,
            serves=self._heart is not None,
            stats=self._engine.stats() if self._engine else EngineStats(),
        )

    @ray.method(concurrency_group="control")
    async def close(self) -> None:
        """Shut the engine down; the actor stays to be killed."""
        if self._loop is None:
            return
        # Each concurrency group has an event loop of its own; the engine belongs to the other one.
        closing = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        await asyncio.wrap_future(closing)

    async def serve(
        self, requests: Sequence[Request], *, alone: bool = False
    ) -> AsyncIterator[tuple[Reply, ...]]:
        """Answer each request as soon as it is ready, in any order.

        Requests that end in the same step of the engine travel together: each item costs Ray a
        millisecond.
        """
        await self._started()
        finished: asyncio.Queue[asyncio.Task[Reply]] = asyncio.Queue()
        tasks = [
            asyncio.create_task(self._answer(index, request, alone=alone))
            for index, request in enumerate(requests)
        ]
        for task in tasks:
            task.add_done_callback(finished.put_nowait)
        left = len(tasks)
        try:
            while left:
                done = [await finished.get()]
                await asyncio.sleep(0)
                while not finished.empty():
                    done.append(finished.get_nowait())
                left -= len(done)
                yield tuple(task.result() for task in done)
        finally:
            for task in tasks:
                task.cancel()

    async def _answer(self, index: int, request: Request, *, alone: bool) -> Reply:
        async with self._gate.enter(alone=alone):
            try:
                return Reply(index=index, response=await self._running().handle(request))
            except RowError as error:
                return Reply(index=index, error=error)
            except EngineError:
                # If the engine is dead, exit so that Ray restarts us; if it is alive, report the
                # broken contract to the caller.
                await self._check()
                raise

    def _running(self) -> Engine:
        assert self._engine is not None
        return self._engine

    async def _started(self) -> None:
        # A restarted actor is asked to serve before anyone asks it to start.
        if self._starting is None:
            self._loop = asyncio.get_running_loop()
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        ledger = ray.get_actor(self._ledger)
        if (spec := await ledger.assigned.remote(self._name)) is not None:
            self._spec = spec
        here = ray.get_runtime_context().get_node_id()
        await ledger.place.remote(self._name, here)
        if not await ledger.allows.remote(self._name, RESTARTS_PER_HOUR):
            raise EngineError(
                f"{self._name} died more than {RESTARTS_PER_HOUR} times within an hour; look "
                "for the cause in the Ray logs of this actor, then run the same command again"
            )
        # The process of the engine inherits these; a library reads them when it is loaded.
        engines = await ledger.beside.remote(self._name)
        share_cores = self._hosting.share_cores
        os.environ.update(openmp(self._spec, cores_here(), engines, share_cores=share_cores))
        self._engine = build_engine(await self._with_model(self._spec))
        if isinstance(self._engine, LibraryEngine):
            self._engine.seed = engine_seed(self._hosting.seed, self._name)
            if self._hosting.vllm_metrics:
                self._engine.listeners += vllm_ray.stat_loggers()
        await self._engine.start()
        self._heart = asyncio.create_task(self._beat())

    async def _with_model(self, spec: EngineSpec) -> EngineSpec:
        return replace(spec, path=await asyncio.to_thread(model_here, spec.path, self._source))

    async def _close(self) -> None:
        if self._heart:
            self._heart.cancel()
        if self._engine:
            await self._engine.close()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self._check()

    async def _check(self) -> None:
        try:
            await self._running().check()
        except EngineError as error:
            self._die(error)

    def _die(self, error: EngineError) -> None:
        logger.error("%s: engine died (%s); the actor exits to be restarted", self._name, error)
        os._exit(1)
