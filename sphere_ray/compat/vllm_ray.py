"""vLLM's own metrics through Ray's exporter."""

from typing import Any

from ray.util import metrics

from sphere_ray.compat.vllm import Use, is_safe


def stat_loggers() -> list[Any]:
    """The stat logger of vLLM 0.32 that exports by Ray; none if that is in doubt.

    vLLM finds Ray's metrics only beside Ray Serve, which it asks for the name of a replica. Without
    Serve, which nothing here needs, we hand them over; the tag ReplicaId is then empty.
    """
    if not is_safe(Use.EXPORT):
        return []
    from vllm.v1.metrics import ray_wrappers

    module: Any = ray_wrappers
    if module.ray_metrics is None:
        module.ray_metrics = metrics
    return [module.RayPrometheusStatLogger]
