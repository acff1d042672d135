"""Where the checks run, and what they measure with."""

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
TINY = "--tiny" in sys.argv


def median_s(run: Callable[[], Any], *, times: int = 5) -> float:
    """Seconds of a run, the median after one to warm up (and to compile)."""
    seconds = []
    for _ in range(times + 1):
        synchronize()
        began = time.perf_counter()
        run()
        synchronize()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[1:])[times // 2]


def synchronize() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def reset_peak() -> None:
    if ON_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_mib() -> int:
    """Peak memory since `reset_peak`: of the GPU, or, on a CPU, of the process in all its life."""
    if ON_GPU:
        return torch.cuda.max_memory_allocated() >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def significant(value: float) -> float:
    return float(f"{value:.3g}")


def finish(figures: dict[str, Any], faults: list[str]) -> None:
    """Print the figures; exit with what is wrong, if anything is."""
    sys.stdout.write(f"{json.dumps(figures)}\n")
    if faults:
        sys.exit("; ".join(faults))
