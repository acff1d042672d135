"""Watches the nodes of the cluster: says which leave and join, and what is missing.

Only the driver watches. What is lost is mended elsewhere: Ray starts engines again, their clients
ask again, and the stream of problems starts again without what was committed.
"""

import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import ray
from ray.exceptions import RayError
from ray.util import placement_group_table

from sphere_ray.compat import ray as compat
from sphere_ray.compat.ray import ActorRow
from sphere_ray.config.placement import NodeResources
from sphere_ray.pools.actor import EngineActor, pool_of
from sphere_ray.pools.nodes import living_nodes

logger = logging.getLogger(__name__)

LOOK_S = 3.0
"""How often nodes are looked at; Ray itself needs about 15 s to notice one that is gone."""
_STAGE = re.compile(r"Map(?:Batches)?\((\w+)\)")
_HOLDS = {"GraderActor": "grader", "RayTrainWorker": "training worker"}

Say = Callable[[str], object]


class Watch:
    """What the driver knows of the cluster's nodes; `causes` say what is missing."""

    def __init__(self, say: Say) -> None:
        """Take note of the nodes that are there; `say` tells people one sentence."""
        self._say = say
        self._nodes = {node.node_id: node for node in living_nodes()}
        self._holds: Mapping[str, Iterable[ActorRow]] = {}
        self._leaving: set[str] = set()
        self.causes: list[Callable[[], list[str]]] = [unplaced]

    def say(self, text: str) -> None:
        """Tell people one sentence about the cluster."""
        self._say(text)

    def missing(self) -> list[str]:
        """Clauses that say what work waits for; empty if all that was asked for is there."""
        try:
            return [text for cause in self.causes for text in cause()]
        except RayError as error:
            logger.warning("what is missing cannot be told: %s", error)
            return []

    def look(self) -> None:
        """Compare the nodes with those of the last look, and say what has changed."""
        now = {node.node_id: node for node in living_nodes()}
        for node_id in sorted(self._nodes.keys() - now.keys()):
            self._say(farewell(self._nodes[node_id], self._holds.get(node_id, ())))
        for node_id in sorted(now.keys() - self._nodes.keys()):
            self._say(f"{now[node_id]} joined with {now[node_id].room}")
        for node_id in compat.leaving_nodes().keys() - self._leaving:
            self._leaving.add(node_id)
            if node_id in now:
                self._say(f"{now[node_id]} was told to leave; its work moves when it is gone")
        self._nodes = now
        holds: dict[str, list[ActorRow]] = {}
        for actor in compat.actors("ALIVE") or ():
            holds.setdefault(actor.node_id, []).append(actor)
        self._holds = holds


def farewell(node: NodeResources, lost: Iterable[ActorRow]) -> str:
    """Say that a node left, and what was lost with it."""
    counted = Counter(filter(None, map(_role, lost)))
    what = ", ".join(f"{number} x {role}" for role, number in sorted(counted.items()))
    if not what:
        return f"{node} left; nothing of this run was on it"
    return f"{node} left with {what}; what they worked on is done again elsewhere"


def unplaced() -> list[str]:
    """What no node has room for now: actors other than engines, and groups of workers."""
    waiting = Counter(
        role
        for actor in compat.actors(*compat.WAITING) or ()
        if actor.kind != EngineActor.__name__ and (role := _role(actor))
    )
    found = [f"{number} x {role} not placed" for role, number in sorted(waiting.items())]
    groups: Iterable[Mapping[str, Any]] = placement_group_table().values()
    return found + [
        f"a group of workers not placed ({_asked(group['bundles'].values())})"
        for group in groups
        if group["state"] in ("PENDING", "RESCHEDULING")
    ]


def _asked(bundles: Iterable[Mapping[str, float]]) -> str:
    counted = Counter(
        " and ".join(f"{amount:g} {name}" for name, amount in sorted(bundle.items()))
        for bundle in bundles
    )
    return ", ".join(f"{number} x {what}" for what, number in counted.items())


def _role(actor: ActorRow) -> str:
    """What an actor is to people; nothing for those of Ray and the driver's helpers."""
    if actor.kind == EngineActor.__name__:
        return f"engine of {pool_of(actor.name)}"
    if stage := _STAGE.search(actor.kind):
        return f"stage {stage[1]}"
    return _HOLDS.get(actor.kind, "")


def free_gpus() -> float:
    """GPUs of the cluster that nothing holds."""
    return float(cast(Any, ray).available_resources().get("GPU", 0.0))


@contextmanager
def watching(say: Say) -> Iterator[Watch]:
    """Look at the nodes every few seconds while the context is open."""
    watch, over = Watch(say), threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            try:
                watch.look()
            except RayError as error:
                logger.warning("the nodes of the cluster cannot be looked at: %s", error)

    thread = threading.Thread(target=look, name="nodes", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
