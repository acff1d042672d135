"""What a run cost: time, tokens and idle engines by step, engine-hours and GPU-hours."""

from collections.abc import Iterable, Sequence, Set
from typing import TypedDict

from sphere_ray.config import RunSettings
from sphere_ray.records import PoolUse, StageName
from sphere_ray.runs.directory import FinishedStep

_HOUR = 3600
_TRAINS = ("policy", "half_rate", "reference", "reward")


class EngineUse(TypedDict):
    """A pool of engines in the session that finished a step.

    `engine_hours` are replicas x hours, `gpu_hours` those x GPUs of a replica. `tokens_per_second`
    are decoded tokens of one engine, `idle` the share of its time without a request.
    """

    step: str
    pool: str
    replicas: int
    seconds: float
    tokens: int
    tokens_per_second: float | None
    prefix_hits: float | None
    idle: float | None
    engine_hours: float
    gpu_hours: float


class WorkerUse(TypedDict):
    """Training's workers in a step; `gpu_hours` are 0 where they have no GPU."""

    step: str
    workers: int
    seconds: float
    worker_hours: float
    gpu_hours: float


class PhaseUse(TypedDict):
    """All steps of one kind: their seconds, and the tokens that their engines decoded."""

    phase: str
    seconds: float
    tokens: int


class Cost(TypedDict):
    """The whole run; rates are null over nothing.

    Pairs are those to train on. `pairs_per_engine_hour` counts the engines of the rollouts alone.
    `continued` steps were interrupted: of their engines only the last session is known, so tokens,
    engine-hours and GPU-hours are too small, and the rates that need them are null.
    """

    seconds: float
    decoded_tokens: int
    engine_hours: float
    worker_hours: float
    gpu_hours: float
    pairs: int
    pairs_per_1000_tokens: float | None
    pairs_per_engine_hour: float | None
    pairs_per_gpu_hour: float | None
    continued: int
    phases: list[PhaseUse]
    engines: list[EngineUse]
    workers: list[WorkerUse]


def cost_of(
    steps: Sequence[FinishedStep],
    settings: RunSettings,
    continued: Set[tuple[str, int | None]] = frozenset(),
) -> Cost:
    """Add up what the manifests of a run's steps say.

    `continued` are name and iteration of the steps that a later session continued.
    """
    engines = [_engine(step, use, settings) for step in steps for use in step.manifest.report.pools]
    workers = [_workers(step, settings) for step in steps if step.kind in _TRAINS]
    rolled = [each for each in engines if each["step"].endswith("/rollouts")]
    pairs = sum(step.manifest.report.rows_out for step in steps if step.kind == "pairs")
    tokens = sum(step.manifest.report.tokens for step in steps if step.kind == "rollouts")
    hours = sum(each["engine_hours"] for each in rolled)
    gpu_hours = sum(each["gpu_hours"] for each in (*engines, *workers))
    parts = [
        step
        for step in steps
        if (step.manifest.report.phase, step.iteration) in continued and step.manifest.report.pools
    ]
    known = not any(step.kind == "rollouts" for step in parts)
    return {
        "seconds": sum(step.manifest.report.seconds for step in steps),
        "decoded_tokens": sum(each["tokens"] for each in engines),
        "engine_hours": sum(each["engine_hours"] for each in engines),
        "worker_hours": sum(each["worker_hours"] for each in workers),
        "gpu_hours": gpu_hours,
        "pairs": pairs,
        "pairs_per_1000_tokens": 1000 * pairs / tokens if tokens else None,
        "pairs_per_engine_hour": pairs / hours if hours and known else None,
        "pairs_per_gpu_hour": pairs / gpu_hours if gpu_hours and not parts else None,
        "continued": len(parts),
        "phases": _phases(steps),
        "engines": engines,
        "workers": workers,
    }


def outcome_rows(routes: dict[str, int]) -> list[dict[str, str | int]]:
    """The counts of `stage:outcome` in the order of the stages, the most frequent first."""
    order = [*map(str, StageName)]
    split = [(*entry.partition(":")[::2], count) for entry, count in routes.items()]
    place = {stage: order.index(stage) if stage in order else len(order) for stage, *_ in split}
    split.sort(key=lambda each: (place[each[0]], each[0], -each[2], each[1]))
    return [{"stage": stage, "outcome": end, "count": count} for stage, end, count in split]


def _engine(step: FinishedStep, use: PoolUse, settings: RunSettings) -> EngineUse:
    at_work = use.replica_seconds
    return {
        "step": step.name,
        "pool": use.name,
        "replicas": use.replicas,
        "seconds": use.seconds,
        "tokens": use.generated_tokens,
        "tokens_per_second": use.generated_tokens / at_work if at_work else None,
        "prefix_hits": use.prefix_share,
        "idle": use.idle,
        "engine_hours": at_work / _HOUR,
        "gpu_hours": at_work * _gpus_of(use.name, settings) / _HOUR,
    }


def _gpus_of(pool: str, settings: RunSettings) -> float:
    """GPUs of one replica. Pools are named by role: `policy-01234567`, `small`, `reward`."""
    role = pool.partition("-")[0]
    known = settings.engines.pools
    found = known.get(f"{role} reward" if role == "trained" else role)
    return found.gpus * found.tensor_parallel if found else 0.0


def _workers(step: FinishedStep, settings: RunSettings) -> WorkerUse:
    seconds, trainer = step.manifest.report.seconds, settings.trainer
    hours = trainer.workers * seconds / _HOUR
    return {
        "step": step.name,
        "workers": trainer.workers,
        "seconds": seconds,
        "worker_hours": hours,
        "gpu_hours": hours if trainer.use_gpu else 0.0,
    }


def _phases(steps: Iterable[FinishedStep]) -> list[PhaseUse]:
    found: dict[str, PhaseUse] = {}
    for step in steps:
        report = step.manifest.report
        name = report.phase.partition("/")[0]
        use = found.setdefault(name, {"phase": name, "seconds": 0.0, "tokens": 0})
        use["seconds"] += report.seconds
        use["tokens"] += sum(pool.generated_tokens for pool in report.pools)
    return list(found.values())
