"""What a pool actor hosts: an engine's lifecycle, the spec it is built from, its counters.

Knows no engine library: `build_engine` imports the one module a kind needs.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias, cast

from sphere_ray.config.engines import SimulationSettings
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.config.scorers import (
    ProcessRewardSettings,
    SimulatedRewardSettings,
    StepClassifierSettings,
)
from sphere_ray.method.ports import GenerateRequest, Score, ScoreRequest
from sphere_ray.records import Candidate

Request: TypeAlias = GenerateRequest | ScoreRequest
Response: TypeAlias = tuple[Candidate, ...] | tuple[Score, ...]

EngineKind: TypeAlias = Literal[
    "vllm_generator", "process_reward", "step_classifier", "simulated_generator", "simulated_scorer"
]

FACTORIES: Mapping[EngineKind, tuple[str, str]] = {
    "vllm_generator": ("sphere_ray.engines.vllm_generator", "VllmGenerator"),
    "process_reward": ("sphere_ray.engines.process_reward", "ProcessRewardScorer"),
    "step_classifier": ("sphere_ray.engines.step_classifier", "StepClassifier"),
    "simulated_generator": ("sphere_ray.engines.simulated", "SimulatedGenerator"),
    "simulated_scorer": ("sphere_ray.engines.simulated", "SimulatedScorer"),
}


EngineKindSettings: TypeAlias = (
    ProcessRewardSettings | StepClassifierSettings | SimulatedRewardSettings | SimulationSettings
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """Everything an engine is built from; picklable, and equal specs share one pool.

    `name` is recorded with each chain; `path` is the model's directory (empty when simulated);
    `settings` are those of the kind: none for vllm_generator.
    """

    kind: EngineKind
    name: str
    path: str
    model: ModelSettings
    pool: PoolSettings
    settings: EngineKindSettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Counters of one engine: sequences now; seconds with any, and tokens, since start; processes.

    `running` are those of its last step, 0 once none is left; `finished` counts sequences; `pids`
    are those of its child processes.
    """

    running: int = 0
    waiting: int = 0
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
        """Load the model and begin to serve; to be awaited once.

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

        To be called while nothing is in flight.

        Raises:
            EngineError: the weights could not be exchanged; what the engine serves is undefined.
        """
        ...

    async def check(self) -> None:
        """Do nothing while the engine lives.

        Raises:
            EngineError: it is dead, or was never started.
        """
        ...

    def stats(self) -> EngineStats:
        """Read the counters; safe from any thread, at any time."""
        ...

    async def close(self) -> None:
        """End the engine and its processes; may be called twice, or before `start`."""
        ...


def differ_in_weights_alone(one: EngineSpec, other: EngineSpec) -> bool:
    """Whether an engine of the first can reload to be one of the second."""
    return one.path != "" and replace(one, name=other.name, path=other.path) == other


def build_engine(spec: EngineSpec) -> Engine:
    """Construct the engine of `spec`, not yet started."""
    module, factory = FACTORIES[spec.kind]
    return cast(Engine, getattr(importlib.import_module(module), factory)(spec))


def engine_environment(spec: EngineSpec) -> dict[str, str]:
    """Environment variables that the process hosting this engine must be born with."""
    environment = {
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if spec.pool.gpus == 0:
        # Left to itself vLLM pins every engine of a machine to the same cores.
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return environment
