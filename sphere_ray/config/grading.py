"""Parameters of answer grading."""

from pydantic import Field

from sphere_ray.config.base import Settings


class GradingSettings(Settings):
    """Worker processes that compare answers; each is killed when it exceeds a limit.

    `memory_mib` bounds a worker's address space; `recycle_after` answers it is replaced.
    """

    workers: int = Field(2, ge=1)
    timeout_s: float = Field(5.0, gt=0)
    memory_mib: int = Field(2048, ge=256)
    recycle_after: int = Field(2000, ge=1)
