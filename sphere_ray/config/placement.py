"""What a configuration needs of a cluster, added up before anything starts.

What of it fits on which node is said by `sphere_ray.planning.placement`.
"""

from dataclasses import dataclass

from sphere_ray.config.run import RunSettings

STAGE_CPUS = 0.1
STREAM_CPUS = 1.2
"""Ray Data's own tasks (reads, writes with the pairs), and the filter that skips committed rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResources:
    """CPUs and GPUs: what a node of the cluster has in all, or what something needs.

    `name` is how messages call the node, `node_id` is Ray's; `gpu` is the kind of its GPUs, and
    `gpu_bytes` the memory of one of them (None: unknown).
    """

    cpus: float
    gpus: float
    name: str = ""
    node_id: str = ""
    gpu: str = ""
    gpu_bytes: float | None = None

    def __str__(self) -> str:
        """The node as messages call it."""
        return self.name

    @property
    def room(self) -> str:
        """What it has: `64 CPUs and 8 GPUs`."""
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


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
