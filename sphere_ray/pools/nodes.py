"""The nodes of the cluster: what they have, and what is in use on them."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import psutil
import pynvml
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sphere_ray.config.placement import NodeResources

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """Used and all MiB of each GPU of a node, and which processes of those asked about live."""

    node_id: str
    gpu_used_mib: tuple[int, ...]
    gpu_mib: tuple[int, ...]
    alive: tuple[int, ...]


def living_nodes() -> list[NodeResources]:
    """Return the nodes that are alive now by their ids, without the memory of their GPUs."""
    return [
        NodeResources(
            name=f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})",
            node_id=node["NodeID"],
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            gpu=next((n[17:] for n in node["Resources"] if n.startswith("accelerator_type:")), ""),
        )
        for node in sorted(cast(Any, ray).nodes(), key=lambda node: node["NodeID"])
        if node["Alive"]
    ]


def cluster_nodes() -> list[NodeResources]:
    """Return the living nodes, with the memory of the smallest GPU where its driver tells it."""
    living = living_nodes()
    states = states_of_nodes({}) if any(node.gpus for node in living) else []
    memory = {state.node_id: min(state.gpu_mib) * MIB for state in states if state.gpu_mib}
    return [replace(node, gpu_bytes=memory.get(node.node_id)) for node in living]


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
    found = gpu_memory_mib()
    return NodeState(
        node_id=node_id,
        gpu_used_mib=tuple(used for used, _ in found),
        gpu_mib=tuple(size for _, size in found),
        alive=tuple(pid for pid in pids if _lives(pid)),
    )


def gpu_memory_mib() -> tuple[tuple[int, int], ...]:
    """Return used and all MiB of each GPU of this machine; empty without GPUs or their driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
        infos = [pynvml.nvmlDeviceGetMemoryInfo(gpu) for gpu in handles]
        return tuple((int(info.used) // MIB, int(info.total) // MIB) for info in infos)
    finally:
        pynvml.nvmlShutdown()


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
