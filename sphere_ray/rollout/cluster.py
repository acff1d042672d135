"""Joining or starting Ray, and refusing a cluster that is too small."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import ray

from sphere_ray.compat import ray_log
from sphere_ray.config.cluster import RayPlacement
from sphere_ray.config.placement import NodeResources, check_placement, has_room_beside
from sphere_ray.config.run import RunSettings
from sphere_ray.errors import PlacementError
from sphere_ray.interruption import catch_signals
from sphere_ray.pools.nodes import living_nodes

_GIB = 2**30
_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


@contextmanager
def connected(settings: RunSettings) -> Iterator[str]:
    """Be connected to Ray inside the context; yields the dashboard's address, or nothing.

    `ray.address: auto` joins the cluster this process belongs to and starts Ray here if there is
    none; `local` always starts it; anything else is joined.

    Raises:
        PlacementError: no cluster answers, or it is smaller than the configuration needs.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # What fails is raised to us, and told in one sentence; Ray Data would log its traceback too.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray_log.silence()
    address = _join_or_start(settings.ray)
    catch_signals()  # Ray has replaced the handlers
    try:
        nodes = [NodeResources(cpus=node.cpus, gpus=node.gpus) for node in living_nodes()]
        check_placement(settings, nodes)
        yield address
    finally:
        ray.shutdown()


def can_train_beside_engines(settings: RunSettings) -> bool:
    """Whether training's workers fit in the cluster beside a rollout whose engines run."""
    free = cast(Any, ray).available_resources()
    return has_room_beside(
        settings, NodeResources(cpus=free.get("CPU", 0.0), gpus=free.get("GPU", 0.0))
    )


def _join_or_start(placement: RayPlacement) -> str:
    if placement.address == "local":
        return _start(placement)
    try:
        return _init(address=placement.address)
    except ConnectionError as error:
        if placement.address == "auto" and "RAY_ADDRESS" not in os.environ:
            return _start(placement)
        raise PlacementError(
            f"no Ray cluster answers at {placement.address}; start one, or use ray.address: local"
        ) from error


def _start(placement: RayPlacement) -> str:
    memory = placement.object_store_gib
    return _init(
        address="local",
        num_cpus=placement.num_cpus,
        object_store_memory=int(memory * _GIB) if memory else None,
        include_dashboard=placement.dashboard,
    )


def _init(**options: Any) -> str:
    context = ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    url = context.dashboard_url
    return f"http://{url}" if url else ""
