"""Owns one worker process seen from its parent: start, ask with a deadline, kill.

Plain pipes and poll, so that it works in any thread, beside any event loop, without signals.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time

from sphere_ray.config.grading import GradingSettings
from sphere_ray.errors import GraderError
from sphere_ray.records import Verdict

_MODULE = "sphere_ray.grading.worker"
_READY = b"ready"
_START_S = 120.0
_ALARM_GRACE_S = 2.0


class WorkerProcess:
    """A started worker; not thread-safe, one caller at a time."""

    def __init__(self, settings: GradingSettings) -> None:
        """Start the process and wait until it is ready.

        Raises:
            GraderError: it cannot be started.
        """
        self._settings = settings
        self._buffer = b""
        self.answered = 0
        with tempfile.TemporaryFile() as log:
            self._process = self._spawn(log.fileno())
            if self._read_line(_START_S) != _READY:
                self.kill()
                log.seek(0)
                tail = log.read().decode(errors="replace").strip().splitlines()[-1:]
                raise GraderError(
                    "A grading worker did not start; check `grading.memory_mib` and that"
                    f" math-verify is installed ({''.join(tail) or 'no output'})."
                )

    def _spawn(self, log: int) -> "subprocess.Popen[bytes]":
        settings = self._settings
        limit_s = settings.timeout_s + _ALARM_GRACE_S
        command = [sys.executable, "-P", "-m", _MODULE, str(settings.memory_mib), str(limit_s)]
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                bufsize=0,
            )
        except OSError as error:
            raise GraderError(f"A grading worker cannot be started: {error}.") from error

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask(self, answer: str, gold: str) -> Verdict:
        """Compare two normalised answers.

        A worker that is too slow or dies on this input is dead afterwards (`alive` is False) and
        the verdict is timeout or ungradable.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([answer, gold]).encode() + b"\n")
        except BrokenPipeError:
            self.kill()
            return Verdict.UNGRADABLE
        reply = self._read_line(self._settings.timeout_s)
        if not reply:
            self.kill()
            return Verdict.TIMEOUT if reply is None else Verdict.UNGRADABLE
        self.answered += 1
        return Verdict(reply.decode())

    @property
    def alive(self) -> bool:
        """Whether it can be asked again."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the process at once; safe while another thread waits in `ask`."""
        self._process.kill()

    def kill(self) -> None:
        """End the process at once, reap it and close its pipes."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _read_line(self, limit_s: float) -> bytes | None:
        """One line without its end; empty when the process ended, None when time ran out."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._buffer:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not poll.poll(remaining * 1000):
                return None
            chunk = os.read(descriptor, 4096)
            if not chunk:
                return b""
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def _environment() -> dict[str, str]:
    """The parent's import path and nothing secret: workers read untrusted text."""
    kept = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONPATH": path}
