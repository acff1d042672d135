"""`sphere audit`: serves the pages of a run to the browsers of this machine."""

import getpass
import socket
from collections.abc import Callable

import uvicorn

from sphere_ray import storage
from sphere_ray.audit.app import create_app
from sphere_ray.audit.journal import Journal
from sphere_ray.audit.library import Library
from sphere_ray.errors import RunDirectoryError, UserError
from sphere_ray.runs.directory import Run

LOOPBACK = "127.0.0.1"
JOURNAL = "audit.jsonl"


def serve(
    run_dir: str,
    *,
    port: int,
    user: str | None,
    file: str | None,
    say: Callable[[str], object],
) -> None:
    """Serve a run until interrupted; decisions go to `file` (default: RUN/audit.jsonl).

    `port` 0 takes a free one. `user` is the name under which decisions are noted (default: that of
    the account). `say` is called with the address when the server is about to answer.

    Raises:
        RunDirectoryError: there is no run, or the file cannot be written.
        ConfigError: the file has a broken line.
        UserError: the port is taken.
    """
    run = Run.open(run_dir)
    if file is None and not storage.is_local(run.path):
        raise RunDirectoryError(f"{run.path} is no local directory; name a file with --file")
    library, journal = Library(run), Journal(file or run.file(JOURNAL))
    name = (user or getpass.getuser()).encode("utf-8", "replace").decode().strip()
    app = create_app(library, journal, name or "unknown")
    for iteration in library.iterations[-1:]:
        library.index(iteration)
    with _listening(port) as listener:
        config = uvicorn.Config(
            app, log_level="warning", server_header=False, lifespan="off", proxy_headers=False
        )
        say(f"http://{LOOPBACK}:{listener.getsockname()[1]}/ (decisions: {journal.path})")
        uvicorn.Server(config).run(sockets=[listener])


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((LOOPBACK, port))
    except (OSError, OverflowError) as error:
        trouble = getattr(error, "strerror", None) or error
        raise UserError(
            f"port {port} of {LOOPBACK} cannot be used ({trouble}); choose another with --port, "
            "or 0 for any free one"
        ) from None
