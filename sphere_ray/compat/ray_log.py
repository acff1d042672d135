"""Lines of Ray on the driver's terminal that frighten for nothing, silenced one by one.

Each has a reason here, and all others pass. In another Ray than the tested one all pass.
"""

import re
import warnings
from typing import Any

from ray._private import worker

from sphere_ray.compat.names import doubts

TESTED = "2.60.0"

_HARMLESS = re.compile(r"\d+ PYTHON worker processes have been started on node")
"""Stages and graders take small fractions of a CPU each, so many start at once, as planned."""

_WRITERS = r"The maximum number of concurrent tasks for '.*Write' is set to \d+, but"
"""A stream of few batches needs fewer writers than it may have."""


def silence() -> None:
    """Silence them in this process; a second call changes nothing."""
    warnings.filterwarnings("ignore", message=_WRITERS, category=UserWarning)
    if doubts(["ray"], TESTED, [(worker, "print_worker_logs")]):
        return
    module: Any = worker
    shown = module.print_worker_logs
    if getattr(shown, "chooses", False):
        return

    def print_worker_logs(data: dict[str, Any], *rest: Any, **options: Any) -> None:
        lines = [line for line in data["lines"] if not _HARMLESS.search(line)]
        if lines or not data["lines"]:
            shown({**data, "lines": lines}, *rest, **options)

    vars(print_worker_logs)["chooses"] = True
    module.print_worker_logs = print_worker_logs
