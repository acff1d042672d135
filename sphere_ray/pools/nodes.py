"""The nodes of the cluster: what they have, and what is in use on them."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import psutil
import pynvml
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node, its logical CPUs and its GPUs."""

    node_id: str
    address: str
    cpus: float
    gpus: float

    def __str__(self) -> str:
        """The node as people find it: its address, and the beginning of Ray's id."""
        return f"node {self.address} ({self.node_id[:8]})"

    @property
    def room(self) -> str:
        """What it has: `64 CPUs and 8 GPUs`."""
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """Used MiB of each GPU of a node, and which of the processes asked about still live."""

    node_id: str
    gpu_used_mib: tuple[int, ...]
    alive: tuple[int, ...]


def living_nodes() -> list[Node]:
    """Return the nodes that are alive now."""
    return [
        Node(
            node_id=node["NodeID"],
            address=node["NodeManagerAddress"],
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
        )
        for node in cast(Any, ray).nodes()
        if node["Alive"]
    ]


def cluster_size() -> str:
    """Say how large the cluster is: `2 nodes, 64 CPUs, 8 GPUs`."""
    nodes = living_nodes()
    counted = {"nodes": len(nodes), "CPUs": sum(n.cpus for n in nodes)}
    counted["GPUs"] = sum(node.gpus for node in nodes)
    return ", ".join(f"{number:g} {what}" for what, number in counted.items())


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """The scheduling strategy of an actor that lives and dies with the node of this process.

    The driver's helpers use it: without the driver they are of no use, and no other node that
    leaves takes them along.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def states_of_nodes(pids_by_node: Mapping[str, Sequence[int]]) -> list[NodeState]:
    """Look at the GPUs of every node, and at the given processes of each.

    A node that leaves meanwhile is left out.
    """
    tasks = {
        node.node_id: _look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        ).remote(node.node_id, pids_by_node.get(node.node_id, []))
        for node in living_nodes()
    }
    states: list[NodeState] = []
    for node_id, task in tasks.items():
        try:
            states.append(ray.get(task))
        except RayError:
            if node_id in {node.node_id for node in living_nodes()}:
                raise
    return states


def cores_here() -> int:
    """Return the cores that an engine may use on this node: those it has, and Ray was told of.

    A node on which Ray schedules no CPUs (a head node, often) may use all of its cores.
    """
    here = ray.get_runtime_context().get_node_id()
    return usable_cores(_affinity(), [n.cpus for n in living_nodes() if n.node_id == here])


def usable_cores(cores: int, cpus: Iterable[float]) -> int:
    """Return `cores`, or the `cpus` that Ray was told of if they are fewer (and not zero)."""
    return min([cores, *(int(count) for count in cpus if count >= 1)])


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@ray.remote(num_cpus=0)
def _look(node_id: str, pids: Sequence[int]) -> NodeState:
    return NodeState(
        node_id=node_id,
        gpu_used_mib=gpu_memory_mib(),
        alive=tuple(pid for pid in pids if _lives(pid)),
    )


def gpu_memory_mib() -> tuple[int, ...]:
    """Return the used MiB of each GPU of this machine; empty without GPUs or their driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
        return tuple(int(pynvml.nvmlDeviceGetMemoryInfo(gpu).used) // MIB for gpu in handles)
    finally:
        pynvml.nvmlShutdown()


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
