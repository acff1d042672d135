"""The file that people's decisions are kept in: lines are only ever added, and none is lost.

Several servers may write one file at a time: each line is written under a lock and is on disk
before the page says so.
"""

import fcntl
import os
import threading

from sphere_ray.errors import RunDirectoryError
from sphere_ray.reward.judgements import AuditLine, Standing, audit_lines


class Journal:
    """An audit.jsonl that is read again whenever somebody has written to it."""

    def __init__(self, path: str) -> None:
        """Open a file, or make an empty one.

        Raises:
            RunDirectoryError: it cannot be written.
            ConfigError: a line is broken.
        """
        self.path = path
        self._lock = threading.Lock()
        self._known: tuple[int, int, int] | None = None
        try:
            with open(path, "ab"):
                pass
        except OSError as error:
            raise RunDirectoryError(
                f"{path} cannot be written ({error.strerror}); give the path of another file "
                "with --file"
            ) from None
        self.lines: list[AuditLine] = []
        self.standing = Standing()
        self.refresh()

    def refresh(self) -> None:
        """Take up what was written since.

        Raises:
            ConfigError: a line is broken.
            OSError: the file is gone.
        """
        with self._lock, open(self.path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # no half of a line; ends with the file
            status = os.fstat(file.fileno())
            known = (status.st_ino, status.st_size, status.st_mtime_ns)
            if known != self._known:
                self.lines = audit_lines(file.read().decode("utf-8", "replace"), self.path)
                self.standing = Standing(self.lines)
                self._known = known

    def append(self, line: AuditLine) -> None:
        """Add a line, and wait until it is on disk.

        Raises:
            OSError: it could not be written whole.
        """
        data = line.model_dump_json(exclude_none=True).encode("utf-8") + b"\n"
        with self._lock, open(self.path, "a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # ends with the file
            end = file.seek(0, os.SEEK_END)
            # A writer that was killed may have left half a line; this one must not join it.
            if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                data = b"\n" + data
            if (written := file.write(data)) != len(data):
                file.truncate(end)
                raise OSError(f"only {written} of {len(data)} bytes were written")
            os.fsync(file.fileno())
