"""A million pairs from simulated rollouts to the batch plan of two workers, without a model.

The pairs are made as the pairs step makes them. Then two processes joined by gloo read their rows,
encode them, write the reference table (with made-up log-probs), map it, and plan an epoch. Prints
`pairs_memory_ratio`: the peak memory at a million pairs over that at a tenth of it, of the process
(driver, pairing task or worker) where this is largest. Pages of mapped files are not counted: the
system may drop them.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import torch
import torch.distributed as dist

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.config.method import MethodSettings
from sphere_ray.config.training import TrainerPlacement, TrainingSettings
from sphere_ray.models.tiny import make_llama
from sphere_ray.records import ModelRef
from sphere_ray.rollout.pairing import pair
from sphere_ray.runs.directory import WritableRun
from sphere_ray.runs.session import Session
from sphere_ray.runs.step import Executor
from sphere_ray.runs.steps.rollouts import RolloutsStep
from sphere_ray.training.batches import planned_steps, shard
from sphere_ray.training.messages import ReferenceRequest
from sphere_ray.training.reference import write_table
from sphere_ray.training.reference_table import Logps, ReferenceTable
from sphere_ray.training.workers import Host, Worker
from sphere_ray.trees.pairs import EncodedPair
from tests.benchmarks.million import SAMPLES, SimulatedProblems, peaks, settings
from tests.benchmarks.report import emit, rounded

SIZES = (100_000, 1_000_000)
WORLD = 2
SIMULATED = 2_000
PAIRING = ("driver", "_propose", "_split")
SAMPLE_S = 0.02


def repeat_rollouts(source: str, target: Path, rows: int) -> None:
    """So many rollouts: the given ones under other questions, thus other ids, again and again."""
    target.mkdir()
    rollouts = pq.read_table(storage.data_files(source))
    problem = rollouts["problem"].combine_chunks()
    where = rollouts.schema.get_field_index("problem")
    for copy, first in enumerate(range(0, rows, rollouts.num_rows)):
        columns = dict(zip(problem.type.names, problem.flatten(), strict=True))
        for name in ("problem_id", "question"):
            columns[name] = pc.binary_join_element_wise(columns[name], str(copy), "/")
        struct = pa.StructArray.from_arrays(list(columns.values()), fields=list(problem.type))
        table = rollouts.set_column(where, rollouts.schema.field(where), struct)
        some = table.slice(0, min(rows - first, table.num_rows))
        pq.write_table(some, target / f"part-{copy:05}.parquet", row_group_size=256)


def method(chosen: RunSettings) -> MethodSettings:
    """Those of the run, with all pairs that a problem can give."""
    pairs = chosen.method.pairs.model_copy(update={"max_per_problem": SAMPLES})
    return chosen.method.model_copy(update={"pairs": pairs})


def write_rollouts(folder: Path, count: int) -> None:
    """Enough simulated rollouts for so many pairs."""
    chosen = settings(folder / "run", "sampled")
    run = WritableRun.create(chosen.run_dir, chosen)
    with run, Session(run=run) as session:
        executor = Executor(session)
        problems = executor.make(SimulatedProblems(number=SIMULATED))
        policy = ModelRef(path="policy", iteration=0, fingerprint="policy")
        common: Any = {"settings": chosen, "iteration": 0}
        made = executor.make(RolloutsStep(problems=problems, policy=policy, **common))
        session.connect()
        some = pair(made.path, str(folder / "some"), method(chosen))
    rows = math.ceil(1.02 * count * made.report.rows_out / sum(some.kept.values()))
    repeat_rollouts(made.path, folder / "rollouts", rows)


def write_pairs(folder: Path) -> dict[str, Any]:
    """The pairs of these rollouts, as the pairs step writes them."""
    chosen = settings(folder / "run", "sampled")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    with peaks() as memory:
        began = time.monotonic()
        made = pair(str(folder / "rollouts"), str(folder / "pairs"), method(chosen))
        seconds = time.monotonic() - began
    return {
        "pairs": sum(made.kept.values()),
        "pairing_s": rounded(seconds),
        "peak_mib": {name: round(memory[name]) for name in PAIRING if name in memory},
    }


@contextmanager
def peak_mib() -> Iterator[dict[str, float]]:
    """The largest anonymous memory of this process."""
    found, stop = {"peak_mib": 0.0}, threading.Event()

    def watch() -> None:
        while not stop.wait(SAMPLE_S):
            lines = Path("/proc/self/status").read_text().splitlines()
            kib = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            found["peak_mib"] = max(found["peak_mib"], kib / 1024)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def score(pairs: Sequence[EncodedPair]) -> list[Logps]:
    """In place of a forward."""
    return [
        (np.full(len(pair.chosen_ids), -1.0), np.full(len(pair.rejected_ids), -2.0))
        for pair in pairs
    ]


def work(folder: Path, rank: int) -> dict[str, Any]:
    """One worker's part, in this process."""
    dist.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=WORLD)
    training = TrainingSettings(batch_size=64, micro_batch_size=8, precision="fp32")
    request = ReferenceRequest(
        model_dir=str(folder / "model"),
        pairs_paths=(str(folder / "pairs"),),
        output_dir=str(folder / "reference"),
        settings=training,
        placement=TrainerPlacement(workers=WORLD),
    )
    host = Host(
        device=torch.device("cpu"),
        report=lambda message: None,
        latest_checkpoint=lambda: nullcontext(None),
        new_checkpoint=lambda name: nullcontext(folder),
    )
    worker = Worker(rank=rank, world=WORLD, host=host)
    with peak_mib() as found:
        began = time.monotonic()
        done = write_table(request, worker, score, lambda pair: None)
        written = time.monotonic()
        dist.barrier()
        table = ReferenceTable(request.output_dir)
        mine = [
            index
            for step in planned_steps(len(table), training, seed=1)
            for batch in shard(
                step.examples, table.tokens(), rank=rank, world=WORLD, settings=training
            )
            for index in batch.indices[:1]
        ]
        table.pair(mine[-1])
        planned = time.monotonic()
    dist.destroy_process_group()
    return {
        "pairs": done.pairs,
        "forwards": len(mine),
        "write_s": rounded(written - began),
        "plan_s": rounded(planned - written),
        "peak_mib": round(found["peak_mib"]),
    }


def last_line(output: str) -> dict[str, Any]:
    """What a process printed; Ray prints warnings of its own there."""
    found: dict[str, Any] = json.loads(
        [line for line in output.splitlines() if line[:1] == "{"][-1]
    )
    return found


def measure(count: int) -> dict[str, Any]:
    """The pairs, then both workers, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="pairs-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", __spec__.name, "--folder", name]
        subprocess.run([*command, "--write", str(count)], stdout=sys.stderr, check=True)
        made = subprocess.run([*command, "--pair"], stdout=subprocess.PIPE, text=True, check=True)
        workers = [
            subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True)
            for rank in range(WORLD)
        ]
        outputs = [worker.communicate()[0] for worker in workers]
        if any(worker.returncode for worker in workers):
            raise SystemExit(f"workers exited with {[each.returncode for each in workers]}")
        bytes_written = sum(part.stat().st_size for part in (folder / "reference").iterdir())
    pairing, *both = map(last_line, (made.stdout, *outputs))
    return {"pairing": pairing, "workers": both, "table_mib": bytes_written >> 20}


def peaks_of(measured: dict[str, Any]) -> dict[str, float]:
    """Peak memory in MiB by process; of the two workers the larger."""
    workers = max(each["peak_mib"] for each in measured["workers"])
    return {**measured["pairing"]["peak_mib"], "worker": workers}


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--write", type=int, metavar="PAIRS")
    parser.add_argument("--pair", action="store_true")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--scale", type=float, default=1.0, help="of both sizes")
    chosen = parser.parse_args()
    if chosen.write is not None:
        (chosen.folder / "model").mkdir()
        make_llama(chosen.folder / "model")
        write_rollouts(chosen.folder, chosen.write)
    elif chosen.pair:
        print(json.dumps(write_pairs(chosen.folder)))  # noqa: T201
    elif chosen.rank is not None:
        print(json.dumps(work(chosen.folder, chosen.rank)))  # noqa: T201
    else:
        runs = {count: measure(count) for count in (int(size * chosen.scale) for size in SIZES)}
        tenth, whole = map(peaks_of, runs.values())
        ratio = max(whole[process] / peak for process, peak in tenth.items())
        emit("pairs_memory_ratio", rounded(ratio), runs=runs)


if __name__ == "__main__":
    main()
