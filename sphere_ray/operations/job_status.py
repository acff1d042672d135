"""What a person is told about the jobs of a cluster."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from ray.job_submission import JobDetails, JobSubmissionClient

from sphere_ray.operations.jobs import (
    RUN,
    RUN_DIR,
    SETTINGS,
    VERSION,
    ending,
    in_order,
    last_line,
)
from sphere_ray.reporting.progress import clock_time

_COLUMNS = ("job", "state", "run", "started (UTC)", "for", "in")


def listed(jobs: Sequence[JobDetails]) -> list[str]:
    """A table of jobs, the latest last: one line each, and one above them."""
    rows = [_COLUMNS, *map(_row, in_order(jobs))]
    if len(rows) == 1:
        return ["the cluster has had no jobs yet"]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def described(job: JobDetails, server: JobSubmissionClient) -> Iterator[str]:
    """One job: how it goes or ended, what it runs, and what it said last."""
    told = job.metadata or {}
    state = ending(job) if job.status.is_terminal() else job.status.value.lower()
    yield f"job {_name(job)}: {state}, started {_started(job)}, for {_duration(job)}"
    if RUN_DIR in told:
        yield (
            f"run {told.get(RUN)} in {told[RUN_DIR]} by sphere_ray {told.get(VERSION)}, settings "
            f"{told.get(SETTINGS)}"
        )
    else:
        yield f"command: {job.entrypoint}"
    if job.submission_id is not None:
        yield f"last line: {last_line(server.get_job_logs(job.submission_id))}"


def _row(job: JobDetails) -> tuple[str, ...]:
    told = job.metadata or {}
    place = told.get(RUN_DIR) or job.entrypoint
    state = job.status.value.lower()
    return (_name(job), state, told.get(RUN, "-"), _started(job), _duration(job), place)


def _name(job: JobDetails) -> str:
    return str(job.submission_id or job.job_id)


def _started(job: JobDetails) -> str:
    if not job.start_time:
        return "-"
    return f"{datetime.fromtimestamp(job.start_time / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def _duration(job: JobDetails) -> str:
    if not job.start_time:
        return "-"
    end = job.end_time / 1000 if job.end_time else datetime.now(UTC).timestamp()
    return clock_time(max(0.0, end - job.start_time / 1000))
