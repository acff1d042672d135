"""One driver at a time in a local run directory."""

import errno
import fcntl
import os
import socket
from pathlib import Path

from sphere_ray.errors import RunDirectoryError

LOCK_NAME = ".lock"

_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})


def acquire(directory: str) -> int:
    """Lock a directory until the returned descriptor is closed or this process ends.

    On network filesystems that know no locks nothing is held.

    Raises:
        RunDirectoryError: another driver holds it.
    """
    path = Path(directory) / LOCK_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = path.read_text(encoding="utf-8").strip() or "unknown"
        os.close(descriptor)
        raise RunDirectoryError(
            f"run_dir {directory} is in use by another driver ({holder}); "
            "wait until it ends, stop it, or choose another run_dir"
        ) from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            os.close(descriptor)
            raise
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return descriptor
