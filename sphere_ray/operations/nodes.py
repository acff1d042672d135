"""What each node of a Ray cluster has and sees, and whether all nodes reach each other."""

import socket
import time
import uuid
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import ray
import torch
import torch.distributed as dist
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sphere_ray.config import RunSettings
from sphere_ray.config.cluster import RayPlacement
from sphere_ray.config.placement import NodeResources
from sphere_ray.errors import SphereError
from sphere_ray.operations.findings import Finding, State, disk, fitting_versions, shared_memory
from sphere_ray.operations.package import named_paths
from sphere_ray.pools.nodes import cluster_size, living_nodes
from sphere_ray.provenance import code_hash, versions
from sphere_ray.rollout.cluster import joined

_TASK_S = 120.0
_REDUCE_S = 60.0
_NUMBERS = 1 << 20
_RUN_DIR = "run_dir"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """One node: libraries and code by version, local findings, and the sizes of named paths.

    A path that is not there has no size; that of a directory is the sum of its files.
    """

    node: str
    versions: Mapping[str, str]
    findings: tuple[Finding, ...] = ()
    sizes: Mapping[str, int | None]


def examine_nodes(settings: RunSettings | None) -> Iterator[Finding]:
    """Join the cluster of this process, and check all of its nodes side by side."""
    try:
        with joined(settings.ray if settings is not None else RayPlacement()):
            yield Finding(check="cluster", text=cluster_size())
            nodes = living_nodes()
            reports = yield from _reports(settings, nodes)
            yield from compared(reports)
            if len(reports) == len(nodes):
                yield _all_reduce(nodes)
    except SphereError as error:
        yield Finding(check="cluster", state=State.FAILURE, text=str(error))


def compared(reports: Sequence[NodeReport]) -> Iterator[Finding]:
    """Whether nodes have the same libraries and code, and see the same files."""
    different = 0
    for library in sorted({name for each in reports for name in each.versions} - {"machine"}):
        found = {each.node: each.versions.get(library, "missing") for each in reports}
        if len(set(found.values())) > 1:
            different += 1
            text = f"{library} differs ({_by_value(found)}); install the same on every node"
            yield Finding(check="same versions", state=State.FAILURE, text=text)
    if reports and not different:
        yield Finding(check="same versions", text=f"on {len(reports)} nodes")
    for name in sorted({name for each in reports for name in each.sizes}):
        seen = {each.node: each.sizes.get(name) for each in reports}
        if len(set(seen.values())) == 1 and None not in seen.values():
            yield Finding(check="same files", text=f"{name} is the same on {len(reports)} nodes")
            continue
        shown = {
            node: "not there" if size is None else f"{size} bytes" for node, size in seen.items()
        }
        text = f"{name} differs ({_by_value(shown)}); put it on storage that all nodes mount alike"
        yield Finding(check="same files", state=State.FAILURE, text=text)


def size_of(path: Path) -> int | None:
    """Bytes in a file, or in the files directly in a directory; None if it is not there."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return path.stat().st_size if path.exists() else None


def _by_value(found: Mapping[str, str]) -> str:
    nodes = defaultdict(list)
    for node, value in found.items():
        nodes[value].append(node)
    return "; ".join(f"{value} on {', '.join(those)}" for value, those in nodes.items())


def _reports(
    settings: RunSettings | None, nodes: Sequence[NodeResources]
) -> Generator[Finding, None, list[NodeReport]]:
    """Ask every node; a generator of what they found, whose value is their reports."""
    reports = []
    with _marked(settings) as paths:
        asked = [(node, _look.options(**_on(node)).remote(paths)) for node in nodes]
        for node, task in asked:
            try:
                report: NodeReport = ray.get(task, timeout=_TASK_S)
            except (RayError, GetTimeoutError) as error:
                text = f"{node.node_id[:8]} did not answer ({_last_line(error)}); install the same "
                text += "sphere_ray there as here, or remove the node"
                yield Finding(check="node", state=State.FAILURE, text=text)
                continue
            reports.append(report)
            for each in report.findings:
                check = f"{each.check} of {report.node}"
                yield Finding(check=check, state=each.state, text=each.text)
    return reports


@contextmanager
def _marked(settings: RunSettings | None) -> Iterator[dict[str, str]]:
    """The absolute paths that settings name, and a file in the run directory, by setting."""
    if settings is None:
        yield {}
        return
    named = {name: Path(path).expanduser() for name, path in named_paths(settings).items()}
    paths = {name: str(path) for name, path in named.items() if path.is_absolute()}
    place = Path(settings.run_dir).expanduser()
    if "://" in settings.run_dir or not place.is_absolute():
        yield paths
        return
    new, file = not place.exists(), place / f".sphere-doctor-{uuid.uuid4().hex[:8]}"
    try:
        with suppress(OSError):  # the check of the disk says so
            place.mkdir(parents=True, exist_ok=True)
            file.write_text("seen", encoding="utf-8")
        yield {**paths, _RUN_DIR: str(file)}
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)
            if new:
                place.rmdir()


def _on(node: NodeResources) -> dict[str, Any]:
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node.node_id, soft=False)}


@ray.remote(num_cpus=0, max_retries=0)
def _look(paths: Mapping[str, str]) -> NodeReport:
    context = ray.get_runtime_context()
    return NodeReport(
        node=f"{socket.gethostname()}/{context.get_node_id()[:6]}",
        versions={**versions(), "code of sphere_ray": code_hash()[:8]},
        findings=(fitting_versions(), shared_memory(), disk(Path(context.get_temp_dir()))),
        sizes={name: size_of(Path(path)) for name, path in paths.items()},
    )


@ray.remote(num_cpus=0, max_restarts=0)
class _Member:
    """One worker of the all-reduce."""

    def place(self) -> tuple[str, int, bool]:
        """An address for all to meet at, and whether CUDA works here."""
        with socket.socket() as free:
            free.bind(("", 0))
            port = int(free.getsockname()[1])
        return str(cast(Any, ray.util).get_node_ip_address()), port, torch.cuda.is_available()

    def add(self, meeting: str, rank: int, world: int, backend: str) -> float:
        """Add up numbers of all members; returns the seconds of the second time."""
        limit = timedelta(seconds=_REDUCE_S)
        dist.init_process_group(
            backend, init_method=meeting, rank=rank, world_size=world, timeout=limit
        )
        try:
            device = "cuda" if backend == "nccl" else "cpu"
            for _ in range(2):
                numbers = torch.ones(_NUMBERS, device=device)
                began = time.perf_counter()
                dist.all_reduce(numbers)
                total = float(numbers.sum())
                seconds = time.perf_counter() - began
            if total != world * _NUMBERS:
                raise ArithmeticError(f"the sum over the nodes is {total}")
            return seconds
        finally:
            dist.destroy_process_group()


def _all_reduce(nodes: Sequence[NodeResources]) -> Finding:
    """Let one worker of each node add up numbers, by NCCL where every node has a GPU."""
    gpus = 1 if all(node.gpus >= 1 for node in nodes) else 0
    backend = "gloo"
    kind = cast(Any, _Member)
    members = [kind.options(**_on(node), num_gpus=gpus).remote() for node in nodes]
    try:
        places = ray.get([each.place.remote() for each in members], timeout=_REDUCE_S)
        if gpus and all(cuda for _, _, cuda in places):
            backend = "nccl"
        host, port, _ = places[0]
        meeting, world = f"tcp://{host}:{port}", len(members)
        sums = [m.add.remote(meeting, rank, world, backend) for rank, m in enumerate(members)]
        seconds = max(ray.get(sums, timeout=2 * _REDUCE_S))
    except (RayError, GetTimeoutError) as error:
        variable = "NCCL_SOCKET_IFNAME" if backend == "nccl" else "GLOO_SOCKET_IFNAME"
        text = (
            f"{backend} does not work between the nodes ({_last_line(error)}); open their ports to "
            f"each other, name the network interface in {variable}, and see that GPUs are free"
        )
        return Finding(check="between nodes", state=State.FAILURE, text=text)
    finally:
        for member in members:
            ray.kill(member)
    size = 4 * _NUMBERS / (1 << 20)
    text = f"{backend} adds {size:.0f} MiB over {len(nodes)} nodes in {1000 * seconds:.0f} ms"
    return Finding(check="between nodes", text=text)


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
