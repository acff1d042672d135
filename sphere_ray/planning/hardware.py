"""Nodes as `--on` names them, and what their GPUs can do."""

import re
from dataclasses import dataclass

from sphere_ray.config.placement import NodeResources
from sphere_ray.errors import ConfigError

GB = 1e9
CPUS_PER_GPU = 8
SYNTAX = (
    "[COUNT*]GPUSxGPU, for example 8x80GB (a node of 8 GPUs with 80 GB each), 8*8xH100 (eight "
    "nodes of 8 H100), 4*16cpu (four nodes without GPUs); several are joined by commas"
)
_GROUP = re.compile(
    r"(?:(?P<count>\d{1,5})\*)?"
    r"(?:(?P<gpus>\d{1,3})x(?P<gpu>[A-Za-z0-9.-]+?)(?:/(?P<beside>\d{1,4})cpus?)?"
    r"|(?P<cpus>\d{1,4})cpus?)",
    re.ASCII | re.IGNORECASE,
)
_MEMORY = re.compile(r"(?P<gb>\d+(?:\.\d+)?)GB", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU by its data sheet: GB, GB/s of memory, and TFLOP/s of dense bfloat16 matrices."""

    name: str
    gb: float
    gb_per_s: float
    tflops: float

    def __str__(self) -> str:
        """The GPU as the plan names it."""
        return f"{self.name} ({self.gb:g} GB, {self.gb_per_s:g} GB/s, {self.tflops:g} TFLOP/s)"


GPUS = (
    Gpu(name="L4", gb=24, gb_per_s=300, tflops=121),
    Gpu(name="A10", gb=24, gb_per_s=600, tflops=125),
    Gpu(name="A100-40GB", gb=40, gb_per_s=1555, tflops=312),
    Gpu(name="L40S", gb=48, gb_per_s=864, tflops=362),
    Gpu(name="A100", gb=80, gb_per_s=2039, tflops=312),
    Gpu(name="H100", gb=80, gb_per_s=3350, tflops=989),
    Gpu(name="H200", gb=141, gb_per_s=4800, tflops=989),
    Gpu(name="B200", gb=180, gb_per_s=7700, tflops=2250),
)
"""NVIDIA's data sheets, SXM where there are several forms; the slower of one size comes first."""


def gpu_of(name: str) -> Gpu:
    """The GPU of a name, or the slowest of a size such as 80GB.

    Raises:
        ConfigError: no such GPU is known.
    """
    for gpu in GPUS:
        if gpu.name.lower() == name.lower():
            return gpu
    if size := _MEMORY.fullmatch(name):
        gb = float(size["gb"])
        nearest = min(GPUS, key=lambda gpu: abs(gpu.gb - gb))
        return Gpu(name=nearest.name, gb=gb, gb_per_s=nearest.gb_per_s, tflops=nearest.tflops)
    known = ", ".join(gpu.name for gpu in GPUS)
    raise ConfigError(f"GPU {name} is unknown; name one of {known}, or its memory such as 80GB")


def gpu_of_node(node: NodeResources) -> Gpu:
    """The GPU of a node: by the name of its kind, else by its memory, else an A100."""
    try:
        return gpu_of(node.gpu)
    except ConfigError:
        return gpu_of(f"{node.gpu_bytes / GB:.0f}GB" if node.gpu_bytes else "A100")


def parse_nodes(text: str) -> list[NodeResources]:
    """The nodes that `--on` names (see `SYNTAX`), each of 8 CPUs a GPU unless it says `/64cpu`.

    Raises:
        ConfigError: this cannot be read.
    """
    nodes: list[NodeResources] = []
    for group in text.split(","):
        found = _GROUP.fullmatch(group.strip())
        if found is None:
            raise ConfigError(f"--on {text} cannot be read; write {SYNTAX}")
        gpus, gpu = int(found["gpus"] or 0), gpu_of(found["gpu"]) if found["gpu"] else None
        cpus = int(found["cpus"] or found["beside"] or CPUS_PER_GPU * gpus)
        for _ in range(int(found["count"] or 1)):
            nodes.append(
                NodeResources(
                    name=f"node-{len(nodes) + 1}",
                    cpus=cpus,
                    gpus=gpus,
                    gpu=found["gpu"] if gpu else "",
                    gpu_bytes=gpu.gb * GB if gpu else None,
                )
            )
    if not nodes:
        raise ConfigError(f"--on {text} names no node; write {SYNTAX}")
    return nodes
