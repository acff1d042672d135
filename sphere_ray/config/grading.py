"""Parameters of answer grading."""

from typing import Annotated

from pydantic import Field

from sphere_ray.config.base import Placement, Settings


class GradingSettings(Settings):
    """Worker processes that compare answers, each in at most `cpu_limit_s` seconds of CPU time.

    A worker that needs more is killed, and the verdict is timeout. Time that it waits for a busy
    machine does not count, nor do processes that a verifier starts.

    `verifier` names a function of yours, as `module:function`. It replaces the comparison of
    mathematical answers: `verify(response: str, gold: str)` gets the whole response and the gold,
    and returns True, False, None (ungradable) or the name of a verdict. It runs in the worker
    processes alone, within their limits. An exception makes one answer ungradable.
    """

    verifier: str | None = Field(None, pattern=r"^\w+(\.\w+)*:\w+$")
    workers: Annotated[int, Placement] = Field(2, ge=1)
    cpu_limit_s: Annotated[float, Placement] = Field(5.0, gt=0)
