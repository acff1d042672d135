"""A worker process: reads one JSON request per line on stdin, answers one JSON line on stdout.

It leaves when stdin ends, so no worker outlives its parent; while it computes, the kernel's own
alarm ends it even inside one long C operation. Started by pool.py as `python -m`.
"""

import json
import logging
import os
import resource
import signal
import sys
from typing import BinaryIO

from sphere_ray.errors import GraderError
from sphere_ray.grading.symbolic import compare_symbolically
from sphere_ray.records import Verdict


def serve(requests: BinaryIO, replies: BinaryIO, limit_s: float) -> None:
    """Answer `[answer, gold]` lines with a verdict each, until the requests end."""
    warm_up()
    replies.write(b"ready\n")
    for line in iter(requests.readline, b""):
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        answer, gold = json.loads(line)
        verdict = compare_symbolically(answer, gold)
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(verdict.value.encode() + b"\n")


def warm_up() -> None:
    """Load what math-verify loads late, so that no request pays for it, and check that it works."""
    right = compare_symbolically("(x+1)^2", "x^2+2x+1")
    wrong = compare_symbolically(r"\sqrt{8}", r"2\sqrt{3}")
    if (right, wrong) != (Verdict.CORRECT, Verdict.WRONG):
        raise GraderError(f"math-verify grades known answers as {right} and {wrong}")


def main(memory_mib: int, limit_s: float) -> None:
    """Bound this process, keep stdout for replies alone, and serve.

    `memory_mib` is the address space in MiB, `limit_s` the seconds after which the kernel ends a
    request's process (longer than the parent's own limit: it matters when the parent is gone).
    """
    memory = memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    logging.disable(logging.CRITICAL)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, replies, limit_s)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
