"""What kind of machine this is, in one line for manifests and reports."""

import os
import platform
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil
import pynvml

_GIB = 2**30
_CPU_NAMES = Path("/proc/cpuinfo")


@cache
def machine() -> str:
    """The machine of this process: `Linux x86_64, 2 cores (AMD EPYC), 24 GiB, 1 GPU (NVIDIA L4)`.

    It names no host and no user, for manifests travel with models and reports.
    """
    linux = sys.platform == "linux"
    cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count()
    memory, names = psutil.virtual_memory().total / _GIB, gpus()
    cards = f"{len(names)} GPU{'s' * (len(names) > 1)} ({names[0]})" if names else "no GPU"
    return (
        f"{platform.system()} {platform.machine()}, {cores} cores ({_cpu()}), "
        f"{memory:.0f} GiB, {cards}"
    )


def _cpu() -> str:
    with suppress(OSError):
        for line in _CPU_NAMES.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown CPU"


def gpus() -> list[str]:
    """The names of the GPUs of this machine; none without a driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    finally:
        pynvml.nvmlShutdown()
