"""The lifecycle of a vLLM engine: arguments, start, health, counters, deadlines, errors.

The generator and the reward models add their requests. vLLM always runs here in processes of its
own: an EngineCore, which has workers or is its own worker. So a dead engine can be noticed.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypeVar

import psutil
from vllm import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.metrics.loggers import StatLoggerBase

from sphere_ray.compat import vllm as compat
from sphere_ray.config.engines import EngineSpec
from sphere_ray.engines.engine import EngineStats
from sphere_ray.errors import (
    ConfigError,
    DeadlineExceededError,
    EngineError,
    ModelError,
    RequestError,
)

GIB = 1 << 30
CPU_BLOCK_SIZE = 32
"""vLLM's own 128 on CPUs would let no short prompt hit the prefix cache."""
GPU_SHARE = 0.92
"""The part of a pool's GPU memory that vLLM plans with: its own default for a whole GPU."""

Output = TypeVar("Output")


def engine_args(spec: EngineSpec, **role: Any) -> AsyncEngineArgs:
    """Arguments of the vLLM engine of `spec`; `role` adds those of the kind of engine.

    Raises:
        ConfigError: `engine_args` has a name that vLLM does not know, or that is decided here.
    """
    pool, model = spec.pool, spec.model
    on_cpu = pool.gpus == 0
    args: dict[str, Any] = {
        "model": spec.path,
        "revision": model.revision,
        "seed": 0,  # until `start`
        "dtype": model.dtype,
        "max_model_len": model.max_model_len,
        "generation_config": "vllm",  # requests say how to sample, not the model's directory
        "max_num_seqs": pool.max_num_seqs,
        "max_num_batched_tokens": pool.max_num_batched_tokens,
        "block_size": CPU_BLOCK_SIZE if on_cpu else None,
        "enforce_eager": pool.enforce_eager,
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",
        "disable_log_stats": True,
        "tensor_parallel_size": pool.tensor_parallel,
        "worker_extension_cls": compat.worker_extension(),
    }
    if pool.tensor_parallel > 1:
        args["distributed_executor_backend"] = "mp"
    elif on_cpu:
        args["distributed_executor_backend"] = compat.executor_on_cpu()
    if pool.kv_cache_gib is not None:
        args["kv_cache_memory_bytes"] = int(pool.kv_cache_gib * GIB)
    if 0 < pool.gpus < 1:
        # Checked against the free memory at start even where the cache's size is given.
        args["gpu_memory_utilization"] = GPU_SHARE * pool.gpus
    if pool.deterministic and on_cpu:
        # A seeded request whose prefill is chunked kills the engine on CPUs; unchunked, a whole
        # prompt must fit into one batch.
        args["enable_chunked_prefill"] = False
        args["max_num_batched_tokens"] = max(pool.max_num_batched_tokens or 0, model.max_model_len)
    return AsyncEngineArgs(**args, **role, **_further(spec, {*args, *role}))


def _further(spec: EngineSpec, decided: Set[str]) -> Mapping[str, Any]:
    further = spec.model.engine_args
    known = {field.name for field in fields(AsyncEngineArgs)}
    for name in further:
        if name in decided:
            raise ConfigError(
                f"engine_args of {spec.name} has {name}, which is decided by the other settings of "
                "the model and its pool; remove it, and set those"
            )
        if name not in known:
            near = get_close_matches(name, known, n=3) or sorted(known)
            raise ConfigError(
                f"engine_args of {spec.name} has {name}, which is no argument of this vLLM; there "
                f"are {', '.join(near)}"
            )
    return further


class Counters(StatLoggerBase):
    """Adds up what vLLM reports after each iteration."""

    def __init__(self, *_: Any) -> None:
        """Start at zero."""
        self._reads = compat.is_safe(compat.Use.STATISTICS)
        self.running = self.waiting = self.finished = 0
        self.kv_cache_use = 0.0
        self.prefix_hits = self.prefix_queries = 0
        self.generated_tokens = self.prompt_tokens = 0

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        """Add one iteration; either part may be missing."""
        if not self._reads:
            return
        if scheduler_stats is not None:
            self.running = scheduler_stats.num_running_reqs
            self.kv_cache_use = scheduler_stats.kv_cache_usage
            self.waiting = (
                scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            )
            self.prefix_hits += scheduler_stats.prefix_cache_stats.hits
            self.prefix_queries += scheduler_stats.prefix_cache_stats.queries
        if iteration_stats is not None:
            self.generated_tokens += iteration_stats.num_generation_tokens
            self.prompt_tokens += iteration_stats.num_prompt_tokens
            self.finished += len(iteration_stats.finished_requests)
            if self.running or self.waiting:
                # vLLM counts between steps, when those that just ended have left and those that
                # wait have not come in. Each sequence of the step gave a token.
                self.running = max(self.running, iteration_stats.num_generation_tokens)

    def log_engine_initialized(self) -> None:
        """Nothing to say."""


class BusyClock:
    """The time in which at least one request was in flight.

    (vLLM's counter of running ones is read between its steps, where a pooling engine has none.)
    """

    def __init__(self) -> None:
        """Start idle."""
        self._in_flight, self._before, self._since = 0, 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Busy seconds so far."""
        running = time.monotonic() - self._since if self._in_flight else 0.0
        return self._before + running

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request as in flight inside the context."""
        if not self._in_flight:
            self._since = time.monotonic()
        self._in_flight += 1
        try:
            yield
        finally:
            if self._in_flight == 1:
                self._before = self.seconds
            self._in_flight -= 1


class VllmEngine:
    """A running AsyncLLM; subclasses turn requests into calls of `last_output`."""

    def __init__(self, spec: EngineSpec, args: AsyncEngineArgs) -> None:
        """Remember what to start."""
        self.spec = spec
        self._args = args
        self.seed = 0
        self._counters = Counters()
        self.listeners: list[Any] = [lambda *_: self._counters]
        self._busy = BusyClock()
        self._llm: Any = None
        self._pids: tuple[int, ...] = ()
        self._request_ids = itertools.count()

    @property
    def model(self) -> str:
        """Name of the model, recorded with each chain."""
        return self.spec.name

    async def start(self) -> None:
        """See `Engine.start`."""
        before = _descendants()
        self._args.seed = self.seed
        try:
            # In a thread: loading takes a minute, and the loop must go on answering.
            self._llm = await asyncio.to_thread(
                AsyncLLM.from_engine_args, self._args, stat_loggers=self.listeners
            )
        except (ValueError, OSError) as error:
            raise ModelError(f"model {self.spec.path} cannot be served: {error}") from error
        except RuntimeError as error:
            raise EngineError(
                f"the engine of {self.spec.path} did not start: {error}; the cause is in the log "
                "lines of VLLM::EngineCore above"
            ) from error
        self._pids = tuple(sorted(_descendants() - before))

    async def reload(self, spec: EngineSpec) -> None:
        """See `Engine.reload`; in place, so neither process nor cache is made anew."""
        llm = self.running()
        if not compat.is_safe(compat.Use.RELOAD):
            raise EngineError("this vLLM is not the tested one, so weights are not exchanged")
        try:
            await llm.collective_rpc("exchange_weights", args=(spec.path,))
            cleared = await llm.reset_prefix_cache()
        except Exception as error:
            raise EngineError(f"the weights in {spec.path} could not be loaded: {error}") from error
        if not cleared:
            raise EngineError("the prefix cache still holds what the weights before computed")
        self.spec = spec

    async def check(self) -> None:
        """See `Engine.check`."""
        if self._llm is None:
            raise EngineError(f"the engine of {self.spec.path} is not running")
        try:
            await self._llm.check_health()
        except EngineDeadError as error:
            raise EngineError(f"the engine of {self.spec.path} is dead") from error

    def stats(self) -> EngineStats:
        """See `Engine.stats`."""
        counters = self._counters
        return EngineStats(
            running=counters.running,
            waiting=counters.waiting,
            kv_cache_use=counters.kv_cache_use,
            finished=counters.finished,
            busy_s=self._busy.seconds,
            prefix_hits=counters.prefix_hits,
            prefix_queries=counters.prefix_queries,
            generated_tokens=counters.generated_tokens,
            prompt_tokens=counters.prompt_tokens,
            pids=self._pids,
        )

    async def close(self) -> None:
        """See `Engine.close`."""
        llm, self._llm, self._pids = self._llm, None, ()
        if llm is None:
            return
        compat.silence(llm)
        await asyncio.to_thread(llm.shutdown)

    async def last_output(self, outputs: "AsyncGenerator[Output, None]") -> Output:
        """Await the final output of a vLLM request, under the pool's deadline.

        Raises:
            DeadlineExceededError: it took too long, and was aborted in the engine.
            RequestError: vLLM refused it, or failed at it and lives on.
            EngineError: the engine died.
        """
        seconds = self.spec.pool.request_timeout_s
        result: Output | None = None
        try:
            with self._busy.request():
                async with asyncio.timeout(seconds):
                    async for output in outputs:
                        result = output
        except TimeoutError as error:
            raise DeadlineExceededError(f"a request took longer than {seconds:g} s") from error
        except EngineDeadError as error:
            raise EngineError(f"the engine of {self.spec.path} died") from error
        except (VLLMClientError, EngineGenerateError, ValueError) as error:
            await self.check()
            raise RequestError(f"vLLM refused a request: {error}") from error
        if result is None:
            raise EngineError(f"the engine of {self.spec.path} ended a request without an output")
        return result

    def running(self) -> Any:
        """Return the running AsyncLLM.

        Raises:
            EngineError: the engine was not started, or is closed.
        """
        if self._llm is None:
            raise EngineError(f"the engine of {self.spec.path} is not running")
        return self._llm

    def next_id(self) -> str:
        """A request id unique within this engine."""
        return str(next(self._request_ids))


def _descendants() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}
