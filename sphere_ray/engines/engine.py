"""What a pool actor hosts: the lifecycle of an engine, and its counters.

Knows no engine library; `sphere_ray.engines.sources.build_engine` constructs engines.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

from sphere_ray.config.engines import EngineSpec
from sphere_ray.method.ports import GenerateRequest, Score, ScoreRequest
from sphere_ray.records import Candidate

Request: TypeAlias = GenerateRequest | ScoreRequest
Response: TypeAlias = tuple[Candidate, ...] | tuple[Score, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Counters of one engine.

    `running` and `waiting` count the sequences of its last step (0 once none is left), and
    `kv_cache_use` is the share of the cache that was in use. All others are sums since its start:
    `finished` sequences, `busy_s` seconds with at least one request, and tokens. `pids` are its
    child processes.
    """

    running: int = 0
    waiting: int = 0
    kv_cache_use: float = 0.0
    finished: int = 0
    busy_s: float = 0.0
    prefix_hits: int = 0
    prefix_queries: int = 0
    generated_tokens: int = 0
    prompt_tokens: int = 0
    pids: tuple[int, ...] = ()


class Engine(Protocol):
    """One engine. All its coroutines must run in the event loop that ran `start`.

    (Ray gives each concurrency group of an async actor an event loop of its own.)
    """

    async def start(self) -> None:
        """Load the model and begin to serve; await this once.

        Raises:
            ModelError: the model cannot be used for this role.
            EngineError: the engine did not come up.
        """
        ...

    async def handle(self, request: Request) -> Response:
        """Answer one request; many may be in flight.

        Raises:
            RowError: this request failed for good.
            EngineError: the engine is dead, or answered against its contract.
        """
        ...

    async def reload(self, spec: EngineSpec) -> None:
        """Serve the weights of `spec` from now on; it differs in name and path alone.

        Call this while no request is in flight.

        Raises:
            EngineError: the weights could not be exchanged; what the engine serves is undefined.
        """
        ...

    async def check(self) -> None:
        """Return if the engine is alive.

        Raises:
            EngineError: the engine is dead, or was never started.
        """
        ...

    def stats(self) -> EngineStats:
        """Read the counters; safe from any thread, at any time."""
        ...

    async def close(self) -> None:
        """End the engine and its processes; may be called twice, or before `start`."""
        ...


@runtime_checkable
class LibraryEngine(Protocol):
    """An engine of vLLM's: `seed` begins its random numbers, `listeners` make its stat loggers.

    Requests have a seed of their own in deterministic pools only. Both are set before `start`.
    """

    listeners: list[Any]
    seed: int


def differ_in_weights_alone(one: EngineSpec, other: EngineSpec) -> bool:
    """Whether an engine of `one` can become an engine of `other` by reloading weights."""
    return one.path != "" and replace(one, name=other.name, path=other.path) == other


def engine_environment(spec: EngineSpec) -> dict[str, str]:
    """Return environment variables that must be set when the engine's process starts."""
    environment = {
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if spec.pool.gpus == 0:
        # Left to itself vLLM pins every engine of a machine to the same cores.
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return environment
