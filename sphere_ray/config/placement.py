"""What a configuration needs of a cluster, added up before anything starts."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    """The larger of what rollout and training need, for CPUs and GPUs each."""
    rollout, training = _rollout(settings), _training(settings)
    engines = ", ".join(
        f"{name} {p.min_replicas} x {p.gpus:g} GPUs x {p.tensor_parallel} ranks"
        for name, p in settings.engines.pools.items()
    )
    return Resources(
        cpus=max(rollout.cpus, training.cpus),
        gpus=max(rollout.gpus, training.gpus),
        sum=(
            f"rollout: {rollout.cpus:g} CPUs for stages, {engines}; "
            f"training: {settings.trainer.workers} workers x "
            f"{settings.trainer.cpus_per_worker:g} CPUs and "
            f"{1 if settings.trainer.use_gpu else 0} GPUs"
        ),
    )


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
    return sum(pool.gpus == 0 for pool in settings.engines.pools.values()) > 1


def _rollout(settings: RunSettings) -> NodeResources:
    actors = len(settings.method.taken_stages) * settings.rollout.stage_actors
    return NodeResources(
        cpus=round(actors * STAGE_CPUS + STREAM_CPUS, 3),
        gpus=sum(
            p.min_replicas * p.gpus * p.tensor_parallel for p in settings.engines.pools.values()
        ),
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
        )

    _place_engines(settings, nodes)


def _place_engines(settings: RunSettings, nodes: Sequence[NodeResources]) -> None:
    """Put each engine on the GPUs of one node, the largest first."""
    free = [[1.0] * int(node.gpus) for node in nodes]
    engines = [
        (pool.gpus, pool.tensor_parallel, name)
        for name, pool in settings.engines.pools.items()
        for _ in range(pool.min_replicas)
        if pool.gpus
    ]
    for share, ranks, name in sorted(engines, key=lambda e: (-e[0] * e[1], e[2])):
        if not any(_take(gpus, share, ranks) for gpus in free):
            raise PlacementError(
                f"an engine of the {name} pool needs {share:g} of a GPU for each of {ranks} "
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
