"""Which precision an engine's `auto` means: bfloat16 where its hardware computes in it, or float32.

It is settled when a configuration is read, so that the resolved copy names one and a run never
mixes two. A CPU without such instructions emulates bfloat16 at about an eighth of the speed.
"""

from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""As Linux names the instructions: the first two on x86, the last on ARM."""


def native_bfloat16(*, gpu: bool) -> bool:
    """Whether matrices are multiplied in bfloat16 by the GPUs, or else by this machine's CPU."""
    return gpu or _on_this_cpu()


@cache
def _on_this_cpu() -> bool:
    return CPUINFO.is_file() and flags_have_bfloat16(CPUINFO.read_text(encoding="utf-8"))


def flags_have_bfloat16(cpuinfo: str) -> bool:
    """Whether the first processor of a /proc/cpuinfo lists such instructions."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return not _FLAGS.isdisjoint(value.split())
    return False
