"""The living nodes of the cluster; the one place that reads Ray's untyped listing."""

from dataclasses import dataclass
from typing import Any, cast

import ray


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node, its logical CPUs and its GPUs."""

    node_id: str
    cpus: float
    gpus: float


def living_nodes() -> list[Node]:
    """Nodes that are alive now."""
    return [
        Node(
            node_id=node["NodeID"],
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
        )
        for node in cast(Any, ray).nodes()
        if node["Alive"]
    ]
