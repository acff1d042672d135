"""The commands of this room, as `sphere` shows them; imports wait until one of them runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sphere_ray.terminal import Overrides, outcomes, tell

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DASHBOARD = "http://127.0.0.1:8265"

Address = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="URL",
        envvar="RAY_API_SERVER_ADDRESS",
        help="The dashboard of a Ray cluster.",
    ),
]
Job = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or the name of its run.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to a command line."""
    for command in (submit, status, logs, stop, doctor):
        app.command()(command)


def submit(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file.")],
    overrides: Overrides = None,
    address: Address = DASHBOARD,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job has ended.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Show its log, and wait.")] = False,
) -> None:
    """Run a configuration as a job of a Ray cluster; submitted again, it continues."""
    with outcomes(debug=context.obj, hint="a job that was submitted goes on: see sphere status"):
        from sphere_ray.config.documents import read_document
        from sphere_ray.config.loading import settings_of
        from sphere_ray.operations import jobs

        document = read_document(config)
        settings = settings_of(document, str(config), overrides or [])  # these enter the document
        with jobs.job_server(address) as server:
            job_id = jobs.submit(document, settings, server, tell)
            if follow:
                _follow(job_id, server)
            elif wait:
                _finish(job_id, server)
            else:
                at = "" if address == DASHBOARD else f" --address {address}"
                tell(f"see: sphere logs {job_id} --follow{at}; end it: sphere stop {job_id}{at}")


def status(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", help="A run directory; with --address, a job or run. Default: all jobs."
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="URL", help="The dashboard of a Ray cluster.")
    ] = None,
) -> None:
    """Say where a run stands, from its directory, or which jobs a cluster has."""
    with outcomes(debug=context.obj, hint="nothing was changed"):
        from sphere_ray.errors import ConfigError

        if address is None and name is None:
            raise ConfigError("name a run directory, or a cluster's dashboard: --address URL")
        if address is None:
            _tell_run(str(name))
            return
        from sphere_ray.operations import job_status, jobs

        with jobs.job_server(address) as server:
            if name is None:
                for line in job_status.listed(server.list_jobs()):
                    tell(line)
                return
            job = jobs.find(name, server)
            for line in job_status.described(job, server):
                tell(line)
        run_dir = (job.metadata or {}).get(jobs.RUN_DIR, "")
        if Path(run_dir, "config.json").is_file():
            _tell_run(run_dir)


def logs(
    context: typer.Context,
    job: Job,
    address: Address = DASHBOARD,
    follow: Annotated[bool, typer.Option("--follow", help="Show more until it ends.")] = False,
) -> None:
    """Show what a job has printed."""
    with outcomes(debug=context.obj, hint="the job goes on"):
        from sphere_ray.operations import jobs

        with jobs.job_server(address) as server:
            job_id = jobs.id_of(jobs.find(job, server))
            if follow:
                _follow(job_id, server)
            else:
                _write(server.get_job_logs(job_id))


def stop(context: typer.Context, job: Job, address: Address = DASHBOARD) -> None:
    """Let a job commit what it has and end; the same `sphere submit` continues it."""
    with outcomes(debug=context.obj, hint="the job was asked to stop, and will"):
        from sphere_ray.operations import jobs

        with jobs.job_server(address) as server:
            jobs.stop(jobs.id_of(jobs.find(job, server)), server, tell)


def doctor(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="Also look at what this YAML file names."),
    ] = None,
    overrides: Overrides = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Also look at each node of the Ray cluster here.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Start no engine.")] = False,
) -> None:
    """Check that this machine, or a whole cluster, can run what is asked; say what to do."""
    with outcomes(debug=context.obj, hint="nothing was changed"):
        from sphere_ray.config import load_config
        from sphere_ray.operations.doctor import examine
        from sphere_ray.operations.findings import State

        settings = load_config(config, overrides or []) if config else None
        worst = State.OK
        for finding in examine(settings, cluster=cluster, engine=not quick):
            tell(str(finding))
            worst = max(worst, finding.state)
        if worst is State.FAILURE:
            raise typer.Exit(1)


def _tell_run(run_dir: str) -> None:
    from datetime import UTC, datetime

    from sphere_ray.operations.run_status import describe
    from sphere_ray.runs.directory import Run

    for line in describe(Run.open(run_dir), datetime.now(UTC)):
        tell(line)


def _follow(job_id: str, server: "JobSubmissionClient") -> None:
    from sphere_ray.operations import jobs

    jobs.follow(job_id, server, _write)
    _finish(job_id, server)


def _finish(job_id: str, server: "JobSubmissionClient") -> None:
    """Wait for a job, say how it ended, and leave with its exit code."""
    from sphere_ray.operations import jobs

    job = jobs.wait(job_id, server)
    tell(f"job {job_id} {jobs.ending(job)}")
    if code := jobs.exit_code(job):
        raise typer.Exit(code)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
