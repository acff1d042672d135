"""A worker's rank, and the collectives by which all workers agree.

Ray Train, or a test, runs a worker and reaches it as a `Host`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from sphere_ray.config.training import TrainerPlacement
from sphere_ray.errors import SphereError
from sphere_ray.training.deepspeed import join_process_group

T = TypeVar("T")


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

    def new_checkpoint(self, name: str) -> AbstractContextManager[Path]:
        """A directory to write a checkpoint to; all workers call it with the same new `name`.

        When all workers have left the context, this is the latest checkpoint.
        """
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
