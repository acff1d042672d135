"""What every benchmark prints: one JSON line with its ratio, and what it was made of."""

import json
import os
import platform
import time
from importlib.metadata import version
from typing import Any


def emit(key: str, value: Any, **details: Any) -> None:
    """Print the line of one key of results.json."""
    print(json.dumps({"key": key, "value": value, **details}), flush=True)  # noqa: T201


def machine() -> dict[str, Any]:
    """Where and with what the figures were made."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in ("ray", "torch", "transformers", "deepspeed", "trl")},
        "date": time.strftime("%Y-%m-%d"),
    }


def rounded(value: float, digits: int = 3) -> float:
    """`value` with so many significant digits, as a report shows it."""
    return float(f"{value:.{digits}g}")
