"""A Ray Train worker as the loops see it: device, progress, checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.actor import ActorHandle

from sphere_ray.errors import SphereError
from sphere_ray.training import loop, reference, reward_loop
from sphere_ray.training.deepspeed import forget_inference
from sphere_ray.training.messages import ReferenceRequest, RewardTrainRequest, TrainRequest


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
        """Send progress to the driver; it is there before the worker ends."""
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

    def save_checkpoint(self, directory: Path, step: int) -> None:
        """Hand a checkpoint to Ray Train, which merges the workers' directories in its storage."""
        checkpoint = ray.train.Checkpoint.from_directory(str(directory))
        ray.train.report({"step": step}, checkpoint=checkpoint)


def run(
    first: ReferenceRequest | None,
    request: RewardTrainRequest | TrainRequest,
    job: ActorHandle[Any],
) -> Any:
    """Run the worker's loop for this request, behind that of the `first` one."""
    host = RayHost(job)
    if first is not None:
        outcome = reference.run_worker(first, host)
        if isinstance(outcome, SphereError):
            return outcome
        forget_inference()  # the reference's weights go before the policy's come
    if isinstance(request, RewardTrainRequest):
        return reward_loop.run_worker(request, host)
    return loop.run_worker(request, host)
