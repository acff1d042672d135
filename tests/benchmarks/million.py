"""A million chains through the real graph on simulated engines: time and memory over chains.

Each size runs in a process of its own, Ray and all. Prints `million_minutes` and
`million_memory_ratio` (the driver's and the stages' peak at the largest size over that at a tenth
of it), and the same for a pruned search.
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
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from sphere_ray.config.loading import settings_of
from sphere_ray.records import ModelRef, PhaseReport, Problem
from sphere_ray.runs.phases import roll_out
from sphere_ray.runs.session import Session
from sphere_ray.runs.store import PhaseDir, RunStore
from sphere_ray.schema import to_table
from tests.benchmarks.report import emit, rounded
from tests.simulated_problems import simulated_problem

SAMPLES, BRANCHES = 8, 2
SIZES = {"sampled": (10_000, 100_000, 1_000_000), "pruned_steps": (1_000, 10_000, 100_000)}
ROWS_A_FILE = 10_000
SAMPLE_S = 0.5
MIB = 1 << 20


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
                    name = process.cmdline()[0] if process.cmdline() else ""
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


def write_problems(store: RunStore, number: int) -> PhaseDir:
    """So many problems, as `ingest_problems` leaves them."""
    phase = store.phase(None, "problems")
    phase.begin()
    folder = Path(phase.path) / "train"
    folder.mkdir()
    for first in range(0, number, ROWS_A_FILE):
        some = [simulated_problem(n) for n in range(first, min(first + ROWS_A_FILE, number))]
        pq.write_table(to_table(some, Problem), folder / f"part-{first:08}.parquet")
    phase.commit(
        PhaseReport(
            phase=phase.name,
            fingerprint=phase.fingerprint,
            rows_in=number,
            rows_out=number,
            seconds=0.0,
        )
    )
    return phase


def measure(strategy: str, chains: int) -> dict[str, Any]:
    """Roll out as many problems as make so many chains, in this process."""
    each = SAMPLES if strategy == "sampled" else BRANCHES
    with tempfile.TemporaryDirectory(prefix="million-") as folder:
        chosen = settings(Path(folder) / "run", strategy)
        store = RunStore.open(chosen.run_dir, chosen)
        with store, Session(settings=chosen, store=store) as session, peaks() as memory:
            problems = write_problems(store, -(-chains // each))
            policy = ModelRef(path="policy", iteration=0, fingerprint="policy")
            session.connect()
            began = time.monotonic()
            phase, manifest = roll_out(session, problems, policy, 0)
            seconds = time.monotonic() - began
        names = Path(phase.path).glob("*.parquet")
        written = sum(
            sum(map(len, table.column("chains").to_pylist()))
            for name in names
            for table in pq.ParquetFile(name).iter_batches(columns=["chains.list.element.chain_id"])
        )
    return {
        "strategy": strategy,
        "chains": written,
        "rows": manifest.report.rows_out,
        "seconds": rounded(seconds, 4),
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
    watched = [kind for kind in largest["peak_mib"] if kind == "driver" or "MapWorker" in kind]
    emit(
        "million_memory_ratio",
        rounded(max(largest["peak_mib"][kind] / tenth["peak_mib"][kind] for kind in watched)),
        watched=watched,
    )


if __name__ == "__main__":
    main()
