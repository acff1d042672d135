"""Start `sphere` as a user does, wait for what its run directory shows, and kill processes."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

REPOSITORY = Path(__file__).parents[2]
SMOKE = str(REPOSITORY / "jobs" / "configs" / "smoke.yaml")
BIN = Path(sys.executable).parent
POLL_S = 0.1
HANGS_S = 1200
"""Ends only what hangs, on a busy machine too."""
# Other clusters may run on this machine; a test starts its own.
OWN_RAY = ("ray.address=local", "ray.dashboard=false")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


def smoke(run_dir: Path, *overrides: str) -> list[str]:
    """The command that runs smoke.yaml in `run_dir`."""
    settings = (f"run_dir={run_dir}", *overrides)
    flags = [part for setting in settings for part in ("--set", setting)]
    return [str(BIN / "sphere"), "run", SMOKE, *flags]


def finish(command: list[str]) -> Done:
    """Run a command to its end."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S)
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)


class Driver:
    """A command that runs in the background; its output is in a file that outlives it."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def until(self, condition: Callable[[], T]) -> T:
        """Wait until `condition` holds while the command runs; returns what it found."""
        deadline = time.monotonic() + HANGS_S
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not within {HANGS_S} s:\n{self.log()}"
            try:
                self.process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"ended with {self.process.returncode} too early:\n{self.log()}")
        return found

    def descendants(self) -> list[psutil.Process]:
        """The processes it started, and theirs."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> list[str]:
        """End the driver as a crash would; returns what it left running a minute later."""
        started = self.descendants()
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(started, timeout=60)
        left = [str(process) for process in alive]
        for process in alive:
            process.kill()
        return left

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self.process.poll() is None:
            started = [psutil.Process(self.process.pid), *self.descendants()]
            self.process.terminate()
            _, alive = psutil.wait_procs(started, timeout=30)
            for process in alive:
                process.kill()
        self.process.wait()

    def log(self) -> str:
        """All it has written."""
        return self._log.read_text()


PARTS = "_parts"
"""Where an unfinished stream keeps what it has committed."""


def committed(folder: Path) -> dict[str, dict[str, Any]]:
    """Rows that an unfinished step has committed, by problem id.

    A file that is being written is left out.
    """
    found = {}
    for file in sorted((folder / PARTS).glob("[!._]*.parquet")):
        try:
            rows = pq.ParquetFile(file).read().to_pylist()
        except pa.ArrowInvalid:
            continue
        found |= {row["problem_id"]: row for row in rows}
    return found


def num_rows(folder: Path) -> int:
    """Rows that an unfinished step has committed."""
    return len(committed(folder))


def contents(folder: Path, pattern: str = "**/*.parquet") -> dict[str, tuple[int, int]]:
    """Time of change and inode of each file."""
    files = sorted(folder.glob(pattern))
    return {str(f.relative_to(folder)): (f.stat().st_mtime_ns, f.stat().st_ino) for f in files}
