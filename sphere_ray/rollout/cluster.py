"""Joining or starting Ray, and refusing a cluster that is too small."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import ray
from ray.autoscaler.sdk import request_resources

from sphere_ray.addresses import require_cluster
from sphere_ray.compat import ray_log
from sphere_ray.compat.ray import STOP_STREAMS
from sphere_ray.config.cluster import RayPlacement
from sphere_ray.config.placement import NodeResources, has_room_beside
from sphere_ray.config.run import RunSettings
from sphere_ray.errors import AddressError, PlacementError
from sphere_ray.interruption import catch_signals
from sphere_ray.planning.placement import bundles, check_placement
from sphere_ray.pools.nodes import cluster_nodes, cluster_size

_GIB = 2**30
_LOOK_S = 2.0
"""How often a cluster that is to grow is looked at."""
_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


@contextmanager
def connected(settings: RunSettings, say: Callable[[str], object]) -> Iterator[str]:
    """Be connected to a cluster with room for all; yields the dashboard's address, or nothing.

    `say` is told what it waits for.

    Raises:
        AddressError: see `joined`.
        PlacementError: the configuration does not fit in it, also after `ray.wait_minutes`.
    """
    with joined(settings.ray) as address, _room_for(settings, say):
        yield address


@contextmanager
def joined(placement: RayPlacement) -> Iterator[str]:
    """Be connected to Ray inside the context, however large the cluster is.

    `ray.address: auto` joins the cluster this process belongs to and starts Ray here if there is
    none; `local` always starts it; anything else is joined.

    Raises:
        AddressError: no cluster answers at the address that is named.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # What fails is raised to us, and told in one sentence; Ray Data would log its traceback too.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray_log.silence()
    address = _join_or_start(placement)
    catch_signals()  # Ray has replaced the handlers
    try:
        yield address
    finally:
        ray.shutdown()


@contextmanager
def _room_for(settings: RunSettings, say: Callable[[str], object]) -> Iterator[None]:
    """Wait until everything has its place; what is asked of an autoscaler holds in the context."""
    deadline, asked, last = time.monotonic() + 60 * settings.ray.wait_minutes, False, ""
    try:
        while True:
            try:
                check_placement(settings, cluster_nodes())
                break
            except PlacementError as short:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise
                if not asked:
                    request_resources(bundles=bundles(settings))
                    asked = True
                if (size := cluster_size()) != last:
                    say(f"waiting up to {left / 60:.0f} minutes for more than {size}: {short}")
                    last = size
            if STOP_STREAMS.wait(_LOOK_S):
                raise PlacementError("the run was stopped while it waited for a larger cluster")
        yield
    finally:
        if asked:
            request_resources(bundles=[])


def can_train_beside_engines(settings: RunSettings) -> bool:
    """Whether training's workers fit in the cluster beside a rollout whose engines run."""
    free = cast(Any, ray).available_resources()
    return has_room_beside(
        settings, NodeResources(cpus=free.get("CPU", 0.0), gpus=free.get("GPU", 0.0))
    )


def _join_or_start(placement: RayPlacement) -> str:
    if placement.address == "local":
        return _start(placement)
    # Given as `auto`, an address in the environment also lets Ray find the cluster's token.
    address = placement.address
    named = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if named not in ("auto", "local"):
        require_cluster(named, "ray.address" if named == address else "RAY_ADDRESS")
    try:
        return _init(address=address)
    except ConnectionError as error:
        if named == "auto":
            return _start(placement)
        raise AddressError(
            f"the Ray cluster at {named} cannot be joined ({str(error).strip()}); join it "
            "from one of its nodes, with the same version of Ray"
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
