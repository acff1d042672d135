"""A million pairs through the reference table and the batch plan of two workers, without a model.

Two processes joined by gloo read their rows, encode them, write the table (with made-up log-probs),
map it, and plan an epoch. Prints `pairs_memory_ratio`: the larger worker's peak memory at a million
pairs over that at a tenth of it. Pages of mapped files are not counted: the system may drop them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from sphere_ray.config.training import TrainerPlacement, TrainingSettings
from sphere_ray.engines.tiny_models import make_llama
from sphere_ray.records import PreferencePair, StageName
from sphere_ray.schema import SCHEMAS
from sphere_ray.training.batches import planned_steps, shard
from sphere_ray.training.encoding import EncodedPair
from sphere_ray.training.messages import ReferenceRequest
from sphere_ray.training.reference import write_table
from sphere_ray.training.reference_table import Logps, ReferenceTable
from sphere_ray.training.workers import Host, Worker
from tests.benchmarks.report import emit, rounded

SIZES = (100_000, 1_000_000)
WORLD = 2
ROWS_A_FILE = 20_000
SIDE = 8
SAMPLE_S = 0.02


def write_pairs(directory: Path, count: int) -> None:
    """So many short pairs, as the pairs step leaves them: several files, with token ids."""
    directory.mkdir()
    for first in range(0, count, ROWS_A_FILE):
        numbers = range(first, min(first + ROWS_A_FILE, count))
        ids = [blake2b(b"%d" % n, digest_size=16).hexdigest() for n in numbers]
        sides = np.random.default_rng(first).integers(3, 200, (2, len(ids), SIDE), dtype=np.int32)
        given: dict[str, Any] = {
            "pair_id": ids,
            "problem_id": ids,
            "stage": [str(StageName.SELF_GENERATION)] * len(ids),
            "prompt": [[{"role": "user", "content": f"{n} + 1?"}] for n in numbers],
            "chosen_ids": list(sides[0]),
            "rejected_ids": list(sides[1]),
        }
        columns = [
            pa.array(given.get(field.name, [_blank(field.type)] * len(ids)), field.type)
            for field in SCHEMAS[PreferencePair]
        ]
        table = pa.Table.from_arrays(columns, schema=SCHEMAS[PreferencePair])
        pq.write_table(table, directory / f"part-{first:08d}.parquet")


def _blank(kind: pa.DataType) -> Any:
    if pa.types.is_string(kind):
        return ""
    return [] if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None


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
    settings = TrainingSettings(batch_size=64, micro_batch_size=8, precision="fp32")
    request = ReferenceRequest(
        model_dir=str(folder / "model"),
        pairs_path=str(folder / "pairs"),
        output_dir=str(folder / "reference"),
        settings=settings,
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
            for step in planned_steps(len(table), settings, seed=1)
            for batch in shard(
                step.examples, table.tokens(), rank=rank, world=WORLD, settings=settings
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


def measure(count: int) -> list[dict[str, Any]]:
    """Both workers, in processes of their own."""
    with tempfile.TemporaryDirectory(prefix="pairs-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", __spec__.name, "--folder", name]
        subprocess.run([*command, "--write", str(count)], check=True)
        workers = [
            subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True)
            for rank in range(WORLD)
        ]
        outputs = [worker.communicate()[0] for worker in workers]
        if any(worker.returncode for worker in workers):
            raise SystemExit(f"workers exited with {[each.returncode for each in workers]}")
        bytes_written = sum(part.stat().st_size for part in (folder / "reference").iterdir())
    found: list[dict[str, Any]] = [json.loads(output.splitlines()[-1]) for output in outputs]
    return [each | {"table_mib": bytes_written >> 20} for each in found]


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--write", type=int, metavar="PAIRS")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--scale", type=float, default=1.0, help="of both sizes")
    chosen = parser.parse_args()
    if chosen.write is not None:
        (chosen.folder / "model").mkdir()
        make_llama(chosen.folder / "model")
        write_pairs(chosen.folder / "pairs", chosen.write)
    elif chosen.rank is not None:
        print(json.dumps(work(chosen.folder, chosen.rank)))  # noqa: T201
    else:
        runs = {count: measure(count) for count in (int(size * chosen.scale) for size in SIZES)}
        tenth, whole = (max(each["peak_mib"] for each in run) for run in runs.values())
        emit("pairs_memory_ratio", rounded(whole / tenth), runs=runs)


if __name__ == "__main__":
    main()
