"""A Ray Train worker: it takes requests from its job, and gives the loop device and checkpoints."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.actor import ActorHandle

from sphere_ray.compat import ray_train
from sphere_ray.training.tasks import answer


class RayHost:
    """Implements `workers.Host` inside a Ray Train worker."""

    def __init__(self, job: ActorHandle[Any]) -> None:
        """Report progress to the actor of this job."""
        self._job = job

    @property
    def device(self) -> torch.device:
        """The device that Ray gave this worker."""
        device: torch.device = ray.train.torch.get_device()
        return device

    def report(self, message: Any) -> None:
        """Send progress to the driver; it arrives before the worker goes on."""
        ray.get(self._job.put.remote(message))

    @contextmanager
    def latest_checkpoint(self) -> Iterator[Path | None]:
        """The last checkpoint, downloaded if it is remote."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as directory:
            yield Path(directory)

    @contextmanager
    def new_checkpoint(self, name: str) -> Iterator[Path]:
        """Write straight to Ray Train's storage; if that is remote, Ray uploads a local copy."""
        storage = ray_train.local_storage()
        if storage is not None:
            yield storage / name
            ray_train.report_checkpoint(storage / name, uploaded=True)
            return
        with tempfile.TemporaryDirectory() as directory:
            yield Path(directory)
            ray_train.report_checkpoint(Path(directory), uploaded=False)


def serve(job: ActorHandle[Any]) -> None:
    """Answer the job's requests until there are no more."""
    host, first, last = RayHost(job), ray.train.get_context().get_world_rank() == 0, 0
    while True:
        asked: Any = job.take.remote(last)  # Ray's annotations know no optional tuple
        last, request = ray.get(asked)
        if request is None:
            return
        value = answer(request, host)
        if first:
            ray.get(job.finish.remote(last, value))
