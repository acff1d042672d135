"""What a configuration needs of a cluster, added up before anything starts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sphere_ray.config.models import PoolSettings
from sphere_ray.config.run import RunSettings
from sphere_ray.errors import PlacementError

STAGE_CPUS = 0.1
STREAM_CPUS = 1.2
"""Ray Data's own tasks (reads, writes with the pairs), and the filter that skips committed rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResources:
    """CPUs and GPUs: what a node of the cluster has in all, or what something needs."""

    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """CPUs and GPUs that must be there at once, and the sum that led to them."""

    cpus: float
    gpus: float
    sum: str

    def __str__(self) -> str:
        """The resources as people read them."""
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs ({self.sum})"


def needed_resources(settings: RunSettings) -> Resources:
    """The larger of what rollout and training need, for CPUs and GPUs each; overlapped, both.

    Ray Data shares the whole CPUs of a node out evenly, so that two streams need the larger twice.
    """
    rollout, training = _rollout(settings), _training(settings)
    engines = ", ".join(
        f"{name} {p.replicas} x {p.gpus:g} GPUs x {p.tensor_parallel} ranks"
        for name, p in settings.engines.pools.items()
    )
    cpus, gpus = max(rollout.cpus, training.cpus), max(rollout.gpus, training.gpus)
    parts = (
        f"rollout: {rollout.cpus:g} CPUs for stages, {engines}; "
        f"training: {settings.trainer.workers} workers x "
        f"{settings.trainer.cpus_per_worker:g} CPUs and "
        f"{1 if settings.trainer.use_gpu else 0} GPUs"
    )
    if settings.schedule == "overlapped":
        evaluation, pool = _evaluation(settings), evaluated(settings).engines.policy_pool
        cpus = max(rollout.cpus + training.cpus, 2 * math.ceil(max(rollout.cpus, evaluation.cpus)))
        gpus = rollout.gpus + max(training.gpus, evaluation.gpus)
        parts = (
            f"schedule: overlapped, so rollout beside the larger of the others; {parts}; "
            f"evaluation: {evaluation.cpus:g} CPUs for stages, "
            f"{pool.replicas} x {pool.gpus:g} GPUs x {pool.tensor_parallel} ranks"
        )
    return Resources(cpus=cpus, gpus=gpus, sum=parts)


def evaluated(settings: RunSettings) -> RunSettings:
    """The settings of evaluations: beside rollouts they take the GPUs of training's workers.

    As many of the policy's engines run there as these hold, but one at least.
    """
    pool, trainer = settings.engines.policy_pool, settings.trainer
    if settings.schedule == "sequential" or not pool.gpus:
        return settings
    fit = int(trainer.workers * trainer.use_gpu / (pool.gpus * pool.tensor_parallel))
    fewer = pool.model_copy(update={"replicas": max(1, min(fit, pool.replicas))})
    engines = settings.engines.model_copy(update={"policy_pool": fewer})
    return settings.model_copy(update={"engines": engines})


def has_room_beside(settings: RunSettings, free: NodeResources) -> bool:
    """Whether training's workers fit in what is `free` while the engines run, before a rollout.

    Ray Data plans with the whole CPUs that workers leave on each node, so these take whole ones.
    """
    rollout, training = _rollout(settings), _training(settings)
    return (
        settings.trainer.cpus_per_worker.is_integer()
        and rollout.cpus + training.cpus <= free.cpus
        and training.gpus <= free.gpus
    )


def engines_share_cores(settings: RunSettings) -> bool:
    """Whether several pools have no GPU, and so work beside each other on the same cores."""
    pools = list(settings.engines.pools.values())
    if settings.schedule == "overlapped":  # the policy's engines roll out and answer at once
        pools.append(settings.engines.policy_pool)
    return sum(pool.gpus == 0 for pool in pools) > 1


def _rollout(settings: RunSettings) -> NodeResources:
    actors = len(settings.method.taken_stages) * settings.rollout.stage_actors
    return NodeResources(
        cpus=round(actors * STAGE_CPUS + STREAM_CPUS, 3),
        gpus=sum(p.replicas * p.gpus * p.tensor_parallel for p in settings.engines.pools.values()),
    )


def _evaluation(settings: RunSettings) -> NodeResources:
    pool = evaluated(settings).engines.policy_pool
    return NodeResources(
        cpus=round(settings.rollout.stage_actors * STAGE_CPUS + STREAM_CPUS, 3),
        gpus=pool.replicas * pool.gpus * pool.tensor_parallel,
    )


def _training(settings: RunSettings) -> NodeResources:
    trainer = settings.trainer
    return NodeResources(
        cpus=trainer.workers * trainer.cpus_per_worker,
        gpus=trainer.workers if trainer.use_gpu else 0,
    )


def check_placement(settings: RunSettings, nodes: Sequence[NodeResources]) -> None:
    """Refuse a cluster of these nodes that the configuration does not fit in.

    Raises:
        PlacementError: says the sum, or which engine finds no node, and what to change.
    """
    needed = needed_resources(settings)
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    if needed.cpus > cpus or needed.gpus > gpus:
        raise PlacementError(
            f"the configuration needs {needed}, but the cluster has {cpus:g} CPUs and {gpus:g} "
            "GPUs; use a larger cluster, or lower replicas, tensor_parallel or trainer.workers"
            + (", or set schedule: sequential" if settings.schedule == "overlapped" else "")
        )
    for parts in _at_once(settings):
        _place(parts, nodes)


Part = tuple[float, int, str]
"""What must lie on one node: the share of a GPU, of how many of them, and what it is."""


def _at_once(settings: RunSettings) -> Iterator[list[Part]]:
    """What runs at once: the engines of a rollout; overlapped, beside evaluation and training."""
    rollout = [
        part
        for name, pool in settings.engines.pools.items()
        for part in _engines(pool, f"an engine of the {name} pool")
    ]
    if settings.schedule == "sequential":
        yield rollout
        return
    yield [*rollout, *_engines(evaluated(settings).engines.policy_pool, "an evaluation's engine")]
    trainer = settings.trainer
    yield [*rollout, *[(1.0, 1, "a training worker")] * (trainer.workers * trainer.use_gpu)]


def _engines(pool: PoolSettings, name: str) -> list[Part]:
    return [(pool.gpus, pool.tensor_parallel, name)] * (pool.replicas if pool.gpus else 0)


def _place(parts: Sequence[Part], nodes: Sequence[NodeResources]) -> None:
    """Put each part on the GPUs of one node, the largest first."""
    free = [[1.0] * int(node.gpus) for node in nodes]
    for share, ranks, name in sorted(parts, key=lambda e: (-e[0] * e[1], e[2])):
        if not any(_take(gpus, share, ranks) for gpus in free):
            raise PlacementError(
                f"{name} needs {share:g} of a GPU for each of {ranks} "
                f"tensor-parallel ranks on one node, and no node has them left (GPUs by node: "
                f"{', '.join(f'{node.gpus:g}' for node in nodes)}); lower replicas, gpus or "
                "tensor_parallel, or use larger nodes"
            )


def _take(gpus: list[float], share: float, ranks: int) -> bool:
    """Take `share` of each of `ranks` GPUs of a node, the fullest that fit first; or nothing."""
    fitting = sorted((g for g in range(len(gpus)) if gpus[g] > share - 1e-9), key=gpus.__getitem__)
    if len(fitting) < ranks:
        return False
    for gpu in fitting[:ranks]:
        gpus[gpu] -= share
    return True
