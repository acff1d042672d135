"""Jobs of a running Ray cluster, through its dashboard: submit, follow, find, stop."""

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from sphere_ray.addresses import auth_headers, locked, require_dashboard
from sphere_ray.config import RunSettings
from sphere_ray.config.base import dump
from sphere_ray.errors import AddressError, FatalError, JobError
from sphere_ray.operations.package import CONFIG, packed, require_sendable
from sphere_ray.provenance import fingerprint
from sphere_ray.redaction import redact

STOP_SIGNAL, GRACE_S = "SIGINT", 120
"""How a job is asked to end, and how long it may take to commit; Ray's own 3 s lose a batch."""
POLL_S, PATIENCE_S = 1.0, 20.0
RUN, RUN_DIR, SETTINGS, VERSION = "run", "run_dir", "settings", "sphere_ray"
"""What a job's metadata hold: Ray shows them in its dashboard."""
_LATE_S = 60
_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env",
)
"""Loggers of Ray that tell of uploads; we say ourselves what is sent."""
_GRACE = "RAY_JOB_STOP_WAIT_TIME_S"

Say = Callable[[str], None]
T = TypeVar("T")


@contextmanager
def job_server(address: str) -> Iterator[JobSubmissionClient]:
    """Ray's client of the dashboard at `http://HOST:PORT`.

    Raises:
        AddressError: no dashboard answers there, or does not let us in; also later in the context.
    """
    address = address.rstrip("/")
    headers = auth_headers()
    require_dashboard(address, headers)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # Ray lets the environment overrule the address that it is given.
    before = os.environ.get("RAY_API_SERVER_ADDRESS")
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        yield JobSubmissionClient(address, headers=headers)
    except BrokenPipeError:  # whoever read our output has left
        raise
    except AuthenticationError:
        raise locked(address, headers) from None
    except (ConnectionError, requests.ConnectionError, aiohttp.ClientConnectionError) as error:
        raise AddressError(
            f"{address} no longer answers ({error}); open the tunnel to the dashboard again, and "
            "look with `sphere status`: a job goes on without us"
        ) from error
    finally:
        if before is None:
            os.environ.pop("RAY_API_SERVER_ADDRESS")
        else:
            os.environ["RAY_API_SERVER_ADDRESS"] = before


def submit(
    document: Mapping[str, Any], settings: RunSettings, server: JobSubmissionClient, say: Say
) -> str:
    """Send a configuration to be run as a job; returns the job's id.

    `document` is the configuration as a mapping with the overrides in it, `settings` its checked
    form. The same configuration again continues what its run directory holds.

    Raises:
        ConfigError: the configuration means this machine, or its files cannot be sent.
        JobError: a job works in the same run directory.
    """
    base = Path.cwd()
    require_sendable(settings, base)
    place, jobs = _place(settings.run_dir), in_order(server.list_jobs())
    earlier = [job for job in jobs if (job.metadata or {}).get(RUN_DIR) == place]
    for job in earlier:
        if not job.status.is_terminal():
            raise JobError(
                f"job {job.submission_id} works in run_dir {place} already ({job.status}); wait "
                f"for it (sphere logs {job.submission_id} --follow), or end it first (sphere stop "
                f"{job.submission_id})"
            )
    with packed(document, settings, base) as package:
        named = ", ".join(("sphere_ray", "the configuration", *package.files))
        say(f"sending {package.size / (1 << 20):.1f} MiB: {named}")
        if package.elsewhere:
            say(f"not sent, so every node must have it: {', '.join(package.elsewhere)}")
        job_id = _send(
            server,
            entrypoint=shlex.join(["python", "-m", "sphere_ray.cli", "run", CONFIG]),
            submission_id=_free_id(settings.name, jobs),
            runtime_env={
                "working_dir": str(package.directory),
                "env_vars": {"RAY_JOB_STOP_SIGNAL": STOP_SIGNAL, _GRACE: str(GRACE_S)},
            },
            metadata={
                RUN: settings.name,
                RUN_DIR: place,
                SETTINGS: fingerprint(dump(settings))[:16],
                VERSION: version("sphere_ray"),
            },
        )
    going = f"continues what {earlier[-1].submission_id} left" if earlier else "works"
    say(f"job {job_id} {going} in {place}")
    return job_id


def _send(server: JobSubmissionClient, **request: Any) -> str:
    job_id, asked = str(request["submission_id"]), 0

    def send() -> str:
        nonlocal asked
        asked += 1
        return server.submit_job(**request)

    try:
        return _patiently(send)
    except AuthenticationError:
        raise
    except RuntimeError as error:  # it holds a traceback of the server's
        if asked > 1 and job_id in {job.submission_id for job in server.list_jobs()}:
            return job_id  # it was taken the first time, and only the answer was lost
        reason = last_line(str(error)).rstrip(".")
        raise JobError(
            f"the cluster refused the job: {reason}; correct that and submit again"
        ) from None


def _patiently(ask: Callable[[], T]) -> T:
    """Ask again for `PATIENCE_S` where a connection is lost: a busy dashboard drops some."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except (ConnectionError, requests.ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def follow(job_id: str, server: JobSubmissionClient, write: Callable[[str], None]) -> JobDetails:
    """Write what a job prints until it ends, also across lost connections; returns how it ended."""
    shown = 0
    while True:
        job = _patiently(lambda: server.get_job_info(job_id))
        shown = asyncio.run(_tail(job_id, server, write, shown))
        if job.status.is_terminal():
            return job
        time.sleep(POLL_S)


async def _tail(
    job_id: str, server: JobSubmissionClient, write: Callable[[str], None], shown: int
) -> int:
    """Write a log from its character `shown` on, as far as the connection lasts."""
    seen = 0
    try:
        async for text in server.tail_job_logs(job_id):
            new = text[max(0, shown - seen) :]
            seen += len(text)
            if new:
                write(new)
    except (RuntimeError, aiohttp.ClientError):  # the job's state says whether to go on
        pass
    return max(shown, seen)


def wait(job_id: str, server: JobSubmissionClient, limit_s: float = float("inf")) -> JobDetails:
    """Wait until a job has ended.

    Raises:
        FatalError: it has not within `limit_s` seconds.
    """
    deadline = time.monotonic() + limit_s
    while not (job := _patiently(lambda: server.get_job_info(job_id))).status.is_terminal():
        if time.monotonic() > deadline:
            raise FatalError(
                f"job {job_id} has not ended within {limit_s:.0f} s ({job.status}); look at the "
                "head node, and at `sphere logs`"
            )
        time.sleep(POLL_S)
    return job


def stop(job_id: str, server: JobSubmissionClient, say: Say) -> None:
    """Ask a job to commit and end, and wait until it has.

    Raises:
        FatalError: it has not ended a minute after its grace.
    """
    job = server.get_job_info(job_id)
    if job.status.is_terminal():
        say(f"job {job_id} ended before: {ending(job)}")
        return
    grace = int(((job.runtime_env or {}).get("env_vars") or {}).get(_GRACE, 3))
    server.stop_job(job_id)
    say(f"job {job_id} is asked to stop; it has {grace} s to commit")
    began = time.monotonic()
    job = wait(job_id, server, grace + _LATE_S)
    seconds = time.monotonic() - began
    words = last_line(server.get_job_logs(job_id))
    if seconds >= grace:
        words = f"it was killed when its {grace} s were over; what was committed before is kept"
    say(f"job {job_id}: {ending(job)} after {seconds:.0f} s; {words}")


def find(name: str, server: JobSubmissionClient) -> JobDetails:
    """The job of this id; else the latest of this run, or in this run directory.

    Raises:
        JobError: there is none.
    """
    jobs = in_order(server.list_jobs())
    for job in reversed(jobs):
        if name in (job.submission_id, job.job_id):
            return job
    place = _place(name)
    for job in reversed(jobs):
        told = job.metadata or {}
        if name == told.get(RUN) or place == told.get(RUN_DIR):
            return job
    known = ", ".join(str(job.submission_id) for job in jobs[-8:] if job.submission_id)
    raise JobError(f"the cluster has no job or run {name}; it has {known or 'no jobs yet'}")


def in_order(jobs: Sequence[JobDetails]) -> list[JobDetails]:
    """Jobs by the time of their start, the latest last."""
    return sorted(jobs, key=lambda job: job.start_time or 0)


def id_of(job: JobDetails) -> str:
    """The id by which the job server knows a job.

    Raises:
        JobError: it came to the cluster in another way.
    """
    if job.submission_id is None:
        raise JobError(
            f"job {job.job_id} was not submitted to the job server, which so has neither its log "
            "nor a way to stop it; end the process that started it"
        )
    return job.submission_id


def ending(job: JobDetails) -> str:
    """How a job ended, in words: `succeeded`, `stopped`, `failed with exit code 2`."""
    code = "" if not job.driver_exit_code else f" with exit code {job.driver_exit_code}"
    return f"{job.status.value.lower()}{code}"


def exit_code(job: JobDetails) -> int:
    """The exit code of a command that waited for a job: the job's own."""
    if job.status is JobStatus.SUCCEEDED:
        return 0
    return job.driver_exit_code or 1


def last_line(log: str) -> str:
    """What a job said last."""
    return next((line for line in reversed(log.splitlines()) if line.strip()), "it said nothing")


def _place(run_dir: str) -> str:
    """A run directory under one name, without secrets: the metadata are shown to everyone."""
    if "://" in run_dir:
        return redact(run_dir.rstrip("/"))
    return os.path.normpath(run_dir)


def _free_id(name: str, jobs: list[JobDetails]) -> str:
    """`NAME-1`, `NAME-2` and so on. Of two that submit at once, Ray refuses the second."""
    taken = {job.submission_id for job in jobs}
    number = 1
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"
