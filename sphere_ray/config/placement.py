"""What a configuration needs of a cluster, added up before anything starts."""

from collections.abc import Iterator
from dataclasses import dataclass

from sphere_ray.config.engines import PoolSettings, ProcessRewardSettings
from sphere_ray.config.run import RunSettings
from sphere_ray.errors import PlacementError

STAGES = 4
STAGE_CPUS = 0.1
STREAM_CPUS = 1.2
"""Ray Data's own tasks, and the filter that skips committed rows on a rerun."""


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
    pools = list(_pools(settings))
    rollout_cpus = round(STAGES * settings.rollout.stage_actors * STAGE_CPUS + STREAM_CPUS, 3)
    rollout_gpus = sum(p.replicas * p.gpus * p.tensor_parallel for _, p in pools)
    workers = settings.trainer.workers
    train_cpus = workers * settings.trainer.cpus_per_worker
    train_gpus = workers if settings.trainer.use_gpu else 0
    engines = ", ".join(
        f"{name} {p.replicas} x {p.gpus:g} GPUs x {p.tensor_parallel} ranks" for name, p in pools
    )
    return Resources(
        cpus=max(rollout_cpus, train_cpus),
        gpus=max(rollout_gpus, train_gpus),
        sum=(
            f"rollout: {rollout_cpus:g} CPUs for stages, {engines}; "
            f"training: {workers} workers x {settings.trainer.cpus_per_worker:g} CPUs and "
            f"{1 if settings.trainer.use_gpu else 0} GPUs"
        ),
    )


def check_placement(settings: RunSettings, cpus: float, gpus: float) -> None:
    """Refuse a cluster of `cpus` and `gpus` that the configuration does not fit in.

    Raises:
        PlacementError: says the sum and what to change.
    """
    needed = needed_resources(settings)
    if needed.cpus > cpus or needed.gpus > gpus:
        raise PlacementError(
            f"the configuration needs {needed}, but the cluster has {cpus:g} CPUs and {gpus:g} "
            "GPUs; use a larger cluster, or lower replicas, tensor_parallel or trainer.workers"
        )


def _pools(settings: RunSettings) -> Iterator[tuple[str, PoolSettings]]:
    engines = settings.engines
    yield "policy", engines.policy_pool
    if engines.small_pool is not None:
        yield "small", engines.small_pool
    if isinstance(engines.scorer, ProcessRewardSettings):
        yield "reward", engines.scorer.pool
