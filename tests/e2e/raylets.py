"""A Ray cluster of several raylets on this machine, of which some may be killed and added."""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import psutil
import yaml
from driving import BIN, PARTS, Driver
from job_cluster import free_ports

from sphere_ray.storage import count_rows
from tests.simulated_problems import simulated_problem

POOL = {"gpus": 1, "max_num_seqs": 32}
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "120"}


class Cluster:
    """A head node with two CPUs; others declare two CPUs and some GPUs. They end with `ends`.

    A node is the command `ray start --block`, which ends when its raylet does.
    """

    def __init__(self, folder: Path, ends: ExitStack) -> None:
        port, dashboard, client = free_ports(3)
        self.address = f"127.0.0.1:{port}"
        self._folder = folder
        self._ends = ends
        head = [f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}"]
        head += [f"--ray-client-server-port={client}", "--include-dashboard=false"]
        self._start("head", "--head", *head)

    def add_node(self, *, gpus: int = 4) -> Driver:
        """One more node; returns when it has joined."""
        return self._start(
            f"node-{free_ports(1)[0]}", f"--address={self.address}", f"--num-gpus={gpus}"
        )

    def kill_node(self, node: Driver) -> None:
        """Kill its raylet; the workers die of it, as when a machine is lost."""
        for process in node.descendants():
            if process.name() == "raylet":
                process.send_signal(signal.SIGKILL)

    def _start(self, name: str, *arguments: str) -> Driver:
        agent, grpc, metrics, environment = free_ports(4)
        command = [
            *(str(BIN / "ray"), "start", "--block", "--num-cpus=2", *arguments),
            *("--node-ip-address=127.0.0.1", f"--dashboard-agent-listen-port={agent}"),
            *(f"--metrics-export-port={metrics}", f"--runtime-env-agent-port={environment}"),
            # A raylet waits 15 s only for an agent that chooses its port itself.
            f"--dashboard-agent-grpc-port={grpc}",
            *("--min-worker-port=0", "--max-worker-port=0"),
            *("--object-store-memory=200000000", "--disable-usage-stats"),
        ]
        node = Driver(command, self._folder / f"{name}.log")
        self._ends.callback(self._end, node)
        node.until(lambda: "Ray runtime started" in node.log())
        return node

    def _end(self, node: Driver) -> None:
        processes = node.descendants() if node.process.poll() is None else []
        node.end()
        psutil.wait_procs(processes, timeout=30)


@contextmanager
def raylets(workers: int, *, gpus: int = 4) -> Iterator[tuple[Cluster, list[Driver]]]:
    """A cluster of a head node and so many others."""
    # Unix sockets live below it, and their paths have to be short.
    folder = Path(tempfile.mkdtemp(prefix="sphere-", dir="/tmp"))
    own = {**ENVIRONMENT, "RAY_TMPDIR": str(folder), "RAY_ADDRESS": None}
    before = {name: os.environ.get(name) for name in own}
    _set(own)
    try:
        with ExitStack() as ends:
            cluster = Cluster(folder, ends)
            yield cluster, [cluster.add_node(gpus=gpus) for _ in range(workers)]
    finally:
        _set(before)
        shutil.rmtree(folder, ignore_errors=True)


def _set(environment: dict[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def write_problems(folder: Path, train: int) -> dict[str, Any]:
    """Files of problems that the simulated engines solve, as `problems` of a configuration."""
    problems = map(simulated_problem, count())
    for split, number in {"train": train, "validation": 4, "test": 4}.items():
        rows = [{"question": p.question, "answer": p.answer} for p in islice(problems, number)]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return {
        split: {"source": f"file:{folder / split}.jsonl"}
        for split in ("train", "validation", "test")
    }


def committed_rows(folder: Path) -> int:
    """Rows that an unfinished step has committed, from the footers of its files alone."""
    return count_rows(f"{folder}/{PARTS}")


def simulated(folder: Path, name: str, problems: dict[str, Any], **groups: Any) -> list[str]:
    """The command of a run of one iteration on simulated engines that trains nothing."""
    config = {
        "name": name,
        "run_dir": str(folder / name),
        "problems": problems,
        "engines": {
            "backend": "simulated",
            "simulated": {"accuracy": 0.4, "latency_s": 0.05},
            "policy": {"path": "policy"},
            "policy_pool": POOL | {"replicas": 4},  # the reward model's, too
            "small": {"path": "small"},
            "small_pool": POOL | {"replicas": 2},
            "scorer": {"kind": "simulated"},
            **groups.pop("engines", {}),
        },
        "iterations": 1,
        "training": {"min_pairs": 10**6},
        "evaluation": {"num_samples": 1},
        "rollout": {"batch_size": 8, "batches_in_flight": 4, "stage_actors": 2},
        "trainer": {"use_gpu": False},
        **groups,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return [str(BIN / "sphere"), "run", str(path)]
