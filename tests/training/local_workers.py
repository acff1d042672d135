"""Training workers without Ray: processes joined by gloo, for tests of what they compute."""

import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from sphere_ray.training.messages import Request
from sphere_ray.training.tasks import answer
from sphere_ray.training.workers import Host


def host_of(request: Request) -> Host:
    """Keeps the checkpoints of each model beside it; requests for the same one share them."""
    kept = Path(f"{request.output_dir}-checkpoints")
    latest = kept / "latest"

    @contextmanager
    def latest_checkpoint() -> Iterator[Path | None]:
        yield kept / latest.read_text() if latest.is_file() else None

    @contextmanager
    def new_checkpoint(name: str) -> Iterator[Path]:
        yield kept / name
        dist.barrier()
        latest.write_text(name)
        dist.barrier()

    return Host(
        device=torch.device("cuda" if request.placement.use_gpu else "cpu"),
        report=lambda message: None,
        latest_checkpoint=latest_checkpoint,
        new_checkpoint=new_checkpoint,
    )


def run_requests(requests: Sequence[Request], scratch: Path, *, seconds: float = 300) -> list[Any]:
    """Run requests one after another in one group of workers; the first worker's outcomes."""
    ((world, on_gpu),) = {(each.placement.workers, each.placement.use_gpu) for each in requests}
    scratch.mkdir(parents=True)
    (scratch / "requests").write_bytes(pickle.dumps(list(requests)))
    environment = os.environ | {
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
        "DS_ACCELERATOR": "cuda" if on_gpu else "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.local_workers", str(scratch)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
        )
        for rank in range(world)
    ]
    try:
        codes = [worker.wait(timeout=seconds) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert not any(codes), f"workers exited with {codes}"
    outcomes: list[Any] = pickle.loads((scratch / "outcomes").read_bytes())
    return outcomes


def _main(scratch: Path) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    requests = pickle.loads((scratch / "requests").read_bytes())
    backend = "nccl" if requests[0].placement.use_gpu else "gloo"
    dist.init_process_group(backend, f"file://{scratch}/rendezvous", rank=rank, world_size=world)
    outcomes = []
    for request in requests:
        outcomes.append(answer(request, host_of(request)))
        left = [type(each) for each in gc.get_objects() if isinstance(each, PreTrainedModel)]
        assert not left, f"{left} stay in memory after {request}"
    if rank == 0:
        (scratch / "outcomes").write_bytes(pickle.dumps(outcomes))
    # Left to the interpreter's end, gloo's threads abort the process now and then.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
