"""One worker's place among the others, and how they come to a common mind.

What the worker is run by (Ray Train, or a test) reaches it as a `Host`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from sphere_ray.config.training import TrainerPlacement
from sphere_ray.engines.model_source import check_directory
from sphere_ray.errors import SphereError
from sphere_ray.training.deepspeed import join_process_group

T = TypeVar("T")
R = TypeVar("R", bound="Request")


class Host(Protocol):
    """What runs a worker."""

    @property
    def device(self) -> torch.device:
        """Where this worker computes."""
        ...

    def report(self, message: Any) -> None:
        """Send progress to the driver."""
        ...

    def latest_checkpoint(self) -> AbstractContextManager[Path | None]:
        """The directory of the last checkpoint that all workers saved, if there is one."""
        ...

    def save_checkpoint(self, directory: Path, step: int) -> None:
        """Keep what all workers wrote to their `directory`, merged; all workers call it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """Rank, number of workers, and where this one computes."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def join(cls, placement: TrainerPlacement, device: torch.device) -> "Worker":
        """Join the process group that the host made for this worker."""
        if not placement.use_gpu:
            # Ray counts CPUs; without this every worker would take all cores.
            torch.set_num_threads(max(1, int(placement.cpus_per_worker)))
        join_process_group(use_gpu=placement.use_gpu)
        return cls(rank=dist.get_rank(), world=dist.get_world_size(), device=device)

    def gather(self, value: T) -> list[T]:
        """Every worker's value, by rank; all workers call it."""
        values: list[T] = [value] * self.world
        dist.all_gather_object(values, value)
        return values

    def agree(self, check: Callable[[], None]) -> None:
        """Run a check on every worker; if one fails, all raise its error instead of waiting.

        Raises:
            SphereError: the first failure by rank.
        """
        failure: SphereError | None = None
        try:
            check()
        except SphereError as error:
            failure = error
        for error_of_rank in self.gather(failure):
            if error_of_rank is not None:
                raise error_of_rank


class Request(Protocol):
    """What every request of a training phase names."""

    @property
    def model_dir(self) -> str:
        """The model to begin with."""
        ...

    @property
    def placement(self) -> TrainerPlacement:
        """Where it runs."""
        ...


def guarded(request: R, host: Host, work: Callable[[R, Worker, Host], T]) -> T | SphereError:
    """Join the group and do a worker's work.

    A deliberate error is returned, so that Ray Train does not retry it.
    """
    worker = Worker.join(request.placement, host.device)
    try:
        worker.agree(lambda: check_directory(Path(request.model_dir)))
        return work(request, worker, host)
    except SphereError as error:
        return error
