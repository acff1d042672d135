"""A worker process: it answers each JSON message `[left, right]` with `[verdict, error]`.

It ends when the parent's end of the pipe closes, so no worker outlives its parent. While it
compares, the kernel counts its CPU time and ends it even inside one long C operation. Started by
process.py.
"""

import importlib
import inspect
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

from sphere_ray.errors import ConfigError, GraderError
from sphere_ray.records import Verdict

_MAX_ERROR_CHARS = 300

Compare = Callable[[str, str], Verdict]
"""From two texts to a verdict."""


def main(pipe: Connection, memory_mib: int, cpu_s: float, wall_s: float, verifier: str) -> None:
    """Set this process its limits, say that it is ready, and serve.

    `memory_mib` is the address space in MiB; see `serve` for the seconds. The first message is
    empty, or says why `verifier` cannot be used.
    """
    memory = memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for ending in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(ending, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too; the parent decides
    logging.disable(logging.CRITICAL)
    try:
        compare = load_verifier(verifier) if verifier else load_math_verify()
    except ConfigError as error:
        pipe.send_bytes(json.dumps(str(error)).encode())
        return
    pipe.send_bytes(b'""')
    # Output after the start has no reader.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
    serve(pipe, compare, cpu_s, wall_s)


def serve(pipe: Connection, compare: Compare, cpu_s: float, wall_s: float) -> None:
    """Answer until the other end of the pipe closes.

    The kernel ends the process when one comparison has used `cpu_s` seconds of CPU, or has lasted
    `wall_s` seconds. The parent waits less long, so `wall_s` matters when the parent is gone.
    """
    while True:
        try:
            left, right = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        error = None
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        signal.setitimer(signal.ITIMER_REAL, wall_s)
        try:
            verdict = compare(left, right)
        except Exception as raised:  # noqa: BLE001  a user's verifier or sympy may raise anything
            verdict, error = Verdict.UNGRADABLE, f"{type(raised).__name__}: {raised}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send_bytes(json.dumps([verdict, error and error[:_MAX_ERROR_CHARS]]).encode())


def load_math_verify() -> Compare:
    """Load what math-verify loads late, so that no request pays for it, and check that it works."""
    from sphere_ray.grading.symbolic import compare_symbolically

    right = compare_symbolically("(x+1)^2", "x^2+2x+1")
    wrong = compare_symbolically(r"\sqrt{8}", r"2\sqrt{3}")
    if (right, wrong) != (Verdict.CORRECT, Verdict.WRONG):
        raise GraderError(f"math-verify grades known answers as {right} and {wrong}")
    return compare_symbolically


def load_verifier(name: str) -> Compare:
    """Import `module:function` and check that it can be called with a response and a gold.

    Raises:
        ConfigError: one sentence that says why it cannot be used.
    """
    module, _, function = name.partition(":")
    try:
        verify = getattr(importlib.import_module(module), function)
        inspect.signature(verify).bind("response", "gold")
    except Exception as error:  # noqa: BLE001  the module is the user's and may raise anything
        raise ConfigError(
            f"grading.verifier: {name} cannot be used ({type(error).__name__}: {error}); it must "
            "be a function verify(response, gold) of a module that every node can import"
        ) from None

    def compare(response: str, gold: str) -> Verdict:
        found = verify(response, gold)
        if isinstance(found, bool):
            return Verdict.CORRECT if found else Verdict.WRONG
        return Verdict.UNGRADABLE if found is None else Verdict(found)

    return compare


if __name__ == "__main__":
    _, descriptor, *limits, name = sys.argv
    memory_mib, cpu_s, wall_s = map(float, limits)
    main(Connection(int(descriptor)), int(memory_mib), cpu_s, wall_s, name)
