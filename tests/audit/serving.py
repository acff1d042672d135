"""`sphere audit` as a user starts it, and its address."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SPHERE = [sys.executable, "-m", "sphere_ray.cli"]


@contextmanager
def served(run_dir: str, *options: str) -> Iterator[str]:
    """Serve a run on a free port; ends as with Ctrl-C."""
    command = [*SPHERE, "audit", run_dir, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as at:
        assert at.stdout is not None
        try:
            address = re.match(r"(http://127\.0\.0\.1:\d+)/", at.stdout.readline())
            assert address is not None, at.communicate()[1]
            yield address[1]
        finally:
            at.terminate()
            at.communicate(timeout=60)


def refused(*arguments: str | Path) -> tuple[int, str]:
    """Run `sphere audit` where it must not start: its exit code and what it said."""
    command = [*SPHERE, "audit", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr
