"""A worker's rank, and the collectives by which all workers agree."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from sphere_ray.config.training import TrainerPlacement
from sphere_ray.errors import SphereError
from sphere_ray.training.deepspeed import join_process_group

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What runs a worker: Ray Train, or a test.

    `report` sends progress to the driver. `latest_checkpoint` gives the directory of the last
    checkpoint, or None. `new_checkpoint` gives a directory to write one to, under a new name that
    all workers know; once all of them have left the context, it is the latest.
    """

    device: torch.device
    report: Callable[[Any], None]
    latest_checkpoint: Callable[[], AbstractContextManager[Path | None]]
    new_checkpoint: Callable[[str], AbstractContextManager[Path]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One of `world` workers, and what runs it."""

    rank: int
    world: int
    host: Host

    @classmethod
    def join(cls, placement: TrainerPlacement, host: Host) -> "Worker":
        """Join the process group that the host made for this worker."""
        if not placement.use_gpu:
            # Ray counts CPUs; without this every worker would take all cores.
            torch.set_num_threads(max(1, int(placement.cpus_per_worker)))
        join_process_group(use_gpu=placement.use_gpu)
        return cls(rank=dist.get_rank(), world=dist.get_world_size(), host=host)

    def report(self, message: Any) -> None:
        """Send progress to the driver, if this is the first worker."""
        if self.rank == 0:
            self.host.report(message)

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
