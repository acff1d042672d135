"""Is this answer right? `grade` answers at once; `GraderPool` does the same in an event loop."""

import os
from functools import cache

from sphere_ray.grading.extract import extract_answer, extract_gold
from sphere_ray.grading.normalise import normalise
from sphere_ray.grading.pool import GraderPool
from sphere_ray.grading.process import check_verifier
from sphere_ray.records import Verdict

__all__ = [
    "GraderPool",
    "check_verifier",
    "extract_answer",
    "extract_gold",
    "grade",
    "normalise",
]


def grade(response: str, gold: str) -> Verdict:
    """Grade the final answer stated in `response` against `gold`.

    Answers that need algebra are compared in worker processes. They start with the first such
    answer and end with this process. The call blocks; in an event loop use `GraderPool`.

    Raises:
        GraderError: a worker cannot be started.
    """
    return _pool_of(os.getpid()).grade_blocking(response, gold).verdict


@cache
def _pool_of(_pid: int) -> GraderPool:
    """One pool per process: a forked child must not share its parent's pipes."""
    return GraderPool()
