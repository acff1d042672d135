"""One worker process as its parent sees it: start it, ask it with a deadline, kill it.

Parent and worker send each other JSON messages through a pipe. That works in any thread, beside
any event loop, and without signals.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing.connection import Pipe
from typing import IO, Any, NamedTuple

from sphere_ray.config.grading import GradingSettings
from sphere_ray.errors import ConfigError, GraderError
from sphere_ray.records import Verdict

MEMORY_MIB = 2048
"""Address space of a worker. math-verify starts in 256 MiB; the rest is for large answers."""

_START_S = 120.0
_EXIT_S = 10.0
_ALARM_GRACE_S = 2.0
_KILLED_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)


class Reply(NamedTuple):
    """A verdict, and in `error` the exception of the user's verifier if it raised one."""

    verdict: Verdict
    error: str | None = None


class WorkerProcess:
    """A started worker; one thread at a time may ask it."""

    def __init__(self, settings: GradingSettings) -> None:
        """Start the process and wait until it is ready.

        Raises:
            ConfigError: `grading.verifier` cannot be used.
            GraderError: the process cannot be started.
        """
        self._timeout_s = settings.timeout_s
        self.answered = 0
        self._pipe, end = Pipe()
        with tempfile.TemporaryFile() as log, end:
            self._process = _spawn(settings, end.fileno(), log)
            end.close()  # so that the pipe ends when the process does
            try:
                complaint = self._receive(_START_S)
            except (EOFError, OSError):
                complaint = None
            if complaint != "":
                self.kill()
                raise ConfigError(complaint) if complaint else _not_started(log)

    @property
    def alive(self) -> bool:
        """Whether it can be asked again."""
        return self._process.poll() is None

    def ask(self, left: str, right: str) -> Reply | None:
        """Compare two texts. None if the process was killed from outside: that says nothing.

        If the process needs too long the verdict is timeout; if it crashes, ungradable. It is
        dead afterwards (`alive` is False).
        """
        try:
            self._pipe.send_bytes(json.dumps([left, right]).encode())
            reply = self._receive(self._timeout_s)
        except (EOFError, OSError):
            return self._ended()
        if reply is None:
            self.kill()
            return Reply(Verdict.TIMEOUT)
        self.answered += 1
        verdict, error = reply
        return Reply(Verdict(verdict), error)

    def stop(self) -> None:
        """End the process at once; safe while another thread waits in `ask`."""
        self._process.kill()

    def kill(self) -> None:
        """End the process at once, reap it and close the pipe."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()

    def _receive(self, limit_s: float) -> Any:
        """The next message, or None when time ran out; EOFError or OSError if there is no more."""
        return json.loads(self._pipe.recv_bytes()) if self._pipe.poll(limit_s) else None

    def _ended(self) -> Reply | None:
        """Judge by the exit code, so the process may end by itself before it is killed."""
        try:
            code = self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            code = None
        self.kill()
        if code in _KILLED_FROM_OUTSIDE:
            return None
        return Reply(Verdict.TIMEOUT if code == -signal.SIGALRM else Verdict.UNGRADABLE)


def check_verifier(settings: GradingSettings) -> None:
    """Check in less than a second that `grading.verifier`, if there is one, can be used here.

    Raises:
        ConfigError: it cannot be imported, or does not take a response and a gold.
    """
    if settings.verifier:
        WorkerProcess(settings).kill()


def _spawn(settings: GradingSettings, pipe: int, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    limits = [str(MEMORY_MIB), str(settings.timeout_s + _ALARM_GRACE_S)]
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
