"""One worker process as its parent sees it: start it, ask it, see how it ended, kill it.

Parent and worker send each other JSON messages through a pipe. That works in any thread, beside
any event loop, and without signals.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from multiprocessing.connection import Pipe
from typing import IO, Any

import psutil

from sphere_ray.config.grading import GradingSettings
from sphere_ray.errors import ConfigError, GraderError
from sphere_ray.records import Verdict

MEMORY_MIB = 2048
"""Address space of a worker. math-verify starts in 256 MiB; the rest is for large answers."""

RECYCLE_AFTER = 2000
"""A worker is replaced after so many answers, because the caches of sympy only grow."""

WALL_PER_CPU = 200.0
"""Wall-clock seconds that a call may take for each second of its CPU limit.

The wall clock finds workers that are stuck; a machine that is only busy must not reach it. Ray runs
its processes at nice 15. Beside six busy processes such a worker gets 1/170 of a core.
"""

_START_S = 600.0
_EXIT_S = 10.0
_CRASHES = (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL)


class WorkerLostError(GraderError):
    """A worker was killed or stood still; that says nothing about the texts it compared."""


class WorkerProcess:
    """A worker that starts up by itself; one thread at a time may use it."""

    def __init__(self, settings: GradingSettings) -> None:
        """Start the process; `wait_until_ready` is due before the first question.

        Raises:
            GraderError: the system starts no process.
        """
        self._wall_s = WALL_PER_CPU * settings.cpu_limit_s
        self._answered = 0
        self._fullest = 0.0
        with ExitStack() as files:
            self._log = files.enter_context(tempfile.TemporaryFile())
            self._pipe, end = Pipe()
            files.enter_context(self._pipe)
            with end:  # closed here, so that the pipe ends when the process does
                self._process = _spawn(settings, self._wall_s, end.fileno(), self._log)
            self._files = files.pop_all()

    def wait_until_ready(self) -> None:
        """Wait until the process has loaded what it compares with.

        Raises:
            ConfigError: `grading.verifier` cannot be used.
            GraderError: what the process needs is missing; WorkerLostError if it was lost.
        """
        try:
            complaint = self._receive(_START_S)
        except (EOFError, OSError):
            self._exit_code()
            raise _not_started(self._log) from None
        if complaint:
            self.kill()
            raise ConfigError(complaint)
        self._fullest = (self._mib() + MEMORY_MIB) / 2

    @property
    def fit(self) -> bool:
        """Whether it can be asked again: it lives, and has room for another large answer."""
        alive = self._process.poll() is None
        return alive and self._answered < RECYCLE_AFTER and self._mib() <= self._fullest

    def ask(self, left: str, right: str) -> tuple[Verdict, str | None]:
        """Compare two texts. If the CPU limit was used up: timeout; after a crash: ungradable.

        Returns the verdict, and the exception if one made the answer ungradable.

        Raises:
            WorkerLostError: the process was killed from outside, or stood still.
        """
        try:
            self._pipe.send_bytes(json.dumps([left, right]).encode())
            verdict, error = self._receive(self._wall_s)
        except (EOFError, OSError):
            timed_out = self._exit_code() == -signal.SIGPROF
            return Verdict.TIMEOUT if timed_out else Verdict.UNGRADABLE, None
        self._answered += 1
        return Verdict(verdict), error

    def stop(self) -> None:
        """End the process at once; safe while another thread waits for it."""
        self._process.kill()

    def kill(self) -> None:
        """End the process at once, reap it and close its files."""
        self._process.kill()
        self._process.wait()
        self._files.close()

    def _receive(self, limit_s: float) -> Any:
        """Return the next message; EOFError or OSError if there is none any more."""
        if self._pipe.poll(limit_s):
            return json.loads(self._pipe.recv_bytes())
        self.kill()
        raise WorkerLostError(f"did not answer for {limit_s:.0f} s")

    def _exit_code(self) -> int:
        """How the process ended; WorkerLostError unless its own work has ended it."""
        try:
            code = self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self.stop()
            code = self._process.wait()
        if code < 0 and code != -signal.SIGPROF and code not in _CRASHES:
            raise WorkerLostError(f"was ended by signal {-code}")
        return code

    def _mib(self) -> float:
        """Address space in use; 0 once the process has ended."""
        try:
            return float(psutil.Process(self._process.pid).memory_info().vms) / 2**20
        except psutil.Error:
            return 0.0


def check_verifier(settings: GradingSettings) -> None:
    """Check in less than a second that `grading.verifier`, if there is one, can be used here.

    Raises:
        ConfigError: it cannot be imported, or does not take a response and a gold.
    """
    if settings.verifier:
        worker = WorkerProcess(settings)
        worker.wait_until_ready()
        worker.kill()


def _spawn(
    settings: GradingSettings, wall_s: float, pipe: int, log: IO[bytes]
) -> "subprocess.Popen[bytes]":
    limits = [str(MEMORY_MIB), str(settings.cpu_limit_s), str(wall_s + _EXIT_S)]
    module = ["-P", "-m", "sphere_ray.grading.worker"]
    try:
        return subprocess.Popen(
            [sys.executable, *module, str(pipe), *limits, settings.verifier or ""],
            pass_fds=[pipe],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(),
        )
    except OSError as error:
        raise GraderError(f"A grading worker cannot be started: {error}.") from error


def _environment() -> dict[str, str]:
    """The parent's import path and nothing secret: workers read untrusted text."""
    kept = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONPATH": path}


def _not_started(log: IO[bytes]) -> GraderError:
    log.seek(0)
    last = log.read().decode(errors="replace").strip().rpartition("\n")[2]
    return GraderError(
        f"A grading worker did not start ({last or 'no output'}); check that math-verify is"
        f" installed and that the node lets a process have {MEMORY_MIB} MiB."
    )
