"""A million chains through the real graph on simulated engines: time and memory over chains.

Each size runs in a process of its own, Ray and all. Prints `million_minutes` (rollouts and pairs),
`million_summary_minutes` (counting them for summary.json) and `million_memory_ratio` (the driver's
and the stages' peak at the largest size over that at a tenth of it), and the same for a pruned
search.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pyarrow.parquet as pq

from sphere_ray import storage
from sphere_ray.config.loading import settings_of
from sphere_ray.records import ModelRef, Problem
from sphere_ray.reporting.columns import REWARD_COLUMNS, ROLLOUT_COLUMNS
from sphere_ray.reporting.reward_summary import reward_summary
from sphere_ray.reporting.rollout_summary import PAIR_COLUMNS, pairs_summary, rollout_summary
from sphere_ray.runs.directory import WritableRun
from sphere_ray.runs.session import Session
from sphere_ray.runs.step import Executor, Result, Step, Work
from sphere_ray.runs.steps.pairs import PairsStep
from sphere_ray.runs.steps.rollouts import RolloutsStep
from sphere_ray.schema import to_table
from tests.benchmarks.report import emit, rounded
from tests.simulated_problems import simulated_problem

SAMPLES, BRANCHES = 8, 2
SIZES = {"sampled": (10_000, 100_000, 1_000_000), "pruned_steps": (1_000, 10_000, 100_000)}
ROWS_A_FILE = 10_000
SAMPLE_S = 0.5
MIB = 1 << 20
FILES = ("rollouts", "pairs")


def settings(run_dir: Path, strategy: str) -> Any:
    """Three simulated pools on two cores."""
    pool = {"max_num_seqs": 4096, "kv_cache_gib": 1}
    document = {
        "name": "million",
        "run_dir": str(run_dir),
        "problems": {s: {"source": f"file:{s}"} for s in ("train", "validation", "test")},
        "method": {"search": {"strategy": strategy, "num_samples": SAMPLES}},
        "engines": {
            "backend": "simulated",
            "policy": {"path": "policy"},
            "policy_pool": pool,
            "small": "policy",
            "scorer": {"kind": "simulated"},
        },
        "rollout": {"batch_size": 100, "batches_in_flight": 8},
        "ray": {"address": "local", "num_cpus": 2, "object_store_gib": 1, "dashboard": False},
    }
    return settings_of(document, "million", [])


@contextmanager
def peaks() -> Iterator[dict[str, float]]:
    """Largest resident memory in MiB of the driver and of each kind of Ray process below it."""
    found: dict[str, float] = defaultdict(float)
    stop = threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not stop.wait(SAMPLE_S):
            found["driver"] = max(found["driver"], me.memory_info().rss / MIB)
            for process in me.children(recursive=True):
                try:
                    name = next(iter(process.cmdline()), "")  # a process that ends has none
                    if name.startswith("ray::"):
                        kind = name.removeprefix("ray::").split(".")[0]
                        size = process.memory_info()
                        # The object store is shared by all and counted in none.
                        found[kind] = max(found[kind], (size.rss - size.shared) / MIB)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


@dataclass(frozen=True, kw_only=True)
class SimulatedProblems(Step):
    """So many problems, as the problems step leaves them."""

    kind: ClassVar[str] = "problems"

    number: int

    def identity(self) -> dict[str, Any]:
        return {"number": self.number}

    def inputs(self) -> dict[str, Any]:
        return {}

    def run(self, work: Work) -> Result:
        folder = Path(work.path) / "train"
        folder.mkdir()
        for first in range(0, self.number, ROWS_A_FILE):
            numbers = range(first, min(first + ROWS_A_FILE, self.number))
            table = to_table([simulated_problem(n) for n in numbers], Problem)
            pq.write_table(table, folder / f"part-{first:08}.parquet")
        return Result(rows_in=self.number, rows_out=self.number)


def measure(strategy: str, chains: int) -> dict[str, Any]:
    """Roll out as many problems as make so many chains, pair and count them, in this process."""
    each = SAMPLES if strategy == "sampled" else BRANCHES
    with tempfile.TemporaryDirectory(prefix="million-") as folder:
        chosen = settings(Path(folder) / "run", strategy)
        run = WritableRun.create(chosen.run_dir, chosen)
        with run, Session(run=run) as session, peaks() as memory:
            executor = Executor(session)
            problems = executor.make(SimulatedProblems(number=-(-chains // each)))
            policy = ModelRef(path="policy", iteration=0, fingerprint="policy")
            session.connect()
            began = time.monotonic()
            common: Any = {"settings": chosen, "iteration": 0}
            rollouts = executor.make(RolloutsStep(problems=problems, policy=policy, **common))
            pairs = executor.make(PairsStep(rollouts=rollouts, **common))
            seconds = time.monotonic() - began
            counted = rollout_summary(storage.tables(rollouts.path, ROLLOUT_COLUMNS), seconds)
            reward_summary(storage.tables(rollouts.path, REWARD_COLUMNS), "simulated")
            pairs_summary(storage.tables(pairs.path, PAIR_COLUMNS), {}, seconds, counted["tokens"])
            counting = time.monotonic() - began - seconds
        files = {name: len(storage.data_files(f"{run.path}/iter-000/{name}")) for name in FILES}
    return {
        "strategy": strategy,
        "chains": counted["chains"],
        "rows": rollouts.report.rows_out,
        "pairs": pairs.report.rows_out,
        "seconds": rounded(seconds, 4),
        "rollouts_s": rounded(rollouts.report.seconds, 4),
        "pairs_s": rounded(pairs.report.seconds, 4),
        "summary_s": rounded(counting, 4),
        "files": files,
        "peak_mib": {kind: round(value) for kind, value in sorted(memory.items())},
    }


def in_process(strategy: str, chains: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--one", strategy, str(chains)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("STRATEGY", "CHAINS"))
    parser.add_argument("--scale", type=float, default=1.0, help="of all sizes")
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one[0], int(chosen.one[1]))))  # noqa: T201
        return
    found = {
        strategy: [in_process(strategy, int(size * chosen.scale)) for size in sizes]
        for strategy, sizes in SIZES.items()
    }
    largest, tenth = found["sampled"][-1], found["sampled"][-2]
    emit("million_minutes", rounded(largest["seconds"] / 60), runs=found)
    emit("million_summary_minutes", rounded(largest["summary_s"] / 60))
    watched = [kind for kind in largest["peak_mib"] if kind == "driver" or "MapWorker" in kind]
    emit(
        "million_memory_ratio",
        rounded(max(largest["peak_mib"][kind] / tenth["peak_mib"][kind] for kind in watched)),
        watched=watched,
    )


if __name__ == "__main__":
    main()
