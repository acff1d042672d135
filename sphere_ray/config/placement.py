"""What a configuration needs of a cluster, added up before anything starts.

What of it fits on which node is said by `sphere_ray.planning.placement`.
"""

import math
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
    """The larger of what rollout and training need, for CPUs and GPUs each; overlapped, both.

    Ray Data shares the whole CPUs of a node out evenly, so that two streams need the larger twice.
    """
    rollout, training = _rollout(settings), _training(settings)
    engines = ", ".join(
        f"{name} {p.min_replicas} x {p.gpus:g} GPUs x {p.tensor_parallel} ranks"
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
            f"{pool.min_replicas} x {pool.gpus:g} GPUs x {pool.tensor_parallel} ranks"
        )
    return Resources(cpus=cpus, gpus=gpus, sum=parts)


def evaluated(settings: RunSettings) -> RunSettings:
    """The settings of evaluations: beside rollouts they take the GPUs of training's workers.

    As many of the policy's engines run there as these hold, but one at least.
    """
    pool, trainer = settings.engines.policy_pool, settings.trainer
    if settings.schedule == "sequential" or not pool.gpus:
        return settings
    held = trainer.workers * trainer.use_gpu
    # A share of a GPU lies on one GPU.
    fit = held * int(1 / pool.gpus + 1e-9) if pool.gpus < 1 else held // pool.tensor_parallel
    fewer = pool.model_copy(update={"replicas": max(1, min(fit, pool.min_replicas))})
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
        gpus=sum(
            p.min_replicas * p.gpus * p.tensor_parallel for p in settings.engines.pools.values()
        ),
    )


def _evaluation(settings: RunSettings) -> NodeResources:
    pool = evaluated(settings).engines.policy_pool
    return NodeResources(
        cpus=round(settings.rollout.stage_actors * STAGE_CPUS + STREAM_CPUS, 3),
        gpus=pool.min_replicas * pool.gpus * pool.tensor_parallel,
    )


def _training(settings: RunSettings) -> NodeResources:
    trainer = settings.trainer
    return NodeResources(
        cpus=trainer.workers * trainer.cpus_per_worker,
        gpus=trainer.workers if trainer.use_gpu else 0,
    )
