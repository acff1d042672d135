"""smoke.yaml as a Ray job on a cluster of its own: to the end, stopped, and continued."""

import json
import os
import shutil
import socket
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from driving import BIN, SMOKE, Driver, committed, contents, finish, num_rows
from ray.job_submission import JobStatus, JobSubmissionClient
from recompute import check_run, rows

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

SECRET = "0123456789abcdef0123456789abcdef"
PROBLEMS = 32
LITTLE = (
    f"problems.train.source=generated:arithmetic?split=train&count={PROBLEMS}&levels=1&max_answer=4",
    "problems.validation.limit=1",
    "problems.test.limit=1",
    "evaluation.num_samples=0",
    "rollout.batches_in_flight=1",
)
"""A rollout of eight batches, one after the other, and little else."""


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """What a stopped job left."""

    status: JobStatus
    log: str
    rows: int
    files: dict
    manifests: list


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def cluster():
    """The address of a head node's job server; everything of it is gone afterwards."""
    # Unix sockets live below it, and their paths have to be short.
    folder = Path(tempfile.mkdtemp(prefix="sphere-", dir="/tmp"))
    gcs, dashboard, agent, client = free_ports(4)
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": SECRET, "RAY_TMPDIR": str(folder)}
    before = {
        name: os.environ.get(name) for name in (*own, "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    }
    os.environ.update(own)
    os.environ.pop("RAY_ADDRESS", None)
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2"),
        *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={folder}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
        *("--include-dashboard=true", "--object-store-memory=500000000"),
        "--disable-usage-stats",
    ]
    head = Driver(command, folder / "head.log")
    address = f"http://127.0.0.1:{dashboard}"
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        head.until(lambda: answers(address), seconds=120)
        yield address
    finally:
        processes = head.descendants()
        head.end()
        psutil.wait_procs(processes, timeout=30)
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def jobs_at(address):
    """A client that shows the token: this process read Ray's own settings when it started."""
    return JobSubmissionClient(address, headers={"Authorization": f"Bearer {SECRET}"})


def answers(address):
    with suppress(ConnectionError, RuntimeError):
        return jobs_at(address).list_jobs() is not None
    return False


def submit(run_dir, name):
    """`ray job submit` of smoke.yaml; the command follows the job to its end."""
    settings = (f"run_dir={run_dir}", *LITTLE)
    flags = [part for setting in settings for part in ("--set", setting)]
    environment = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}
    return [
        *(str(BIN / "ray"), "job", "submit", f"--submission-id={name}"),
        f"--runtime-env-json={json.dumps(environment)}",
        *("--", sys.executable, "-m", "jobs.run", "--config", SMOKE, *flags),
    ]


@pytest.fixture(scope="module")
def story(cluster, tmp_path_factory):
    """A job stopped in the middle of its rollout, and the same one submitted again."""
    folder = tmp_path_factory.mktemp("job")
    run_dir = folder / "run"
    rollouts = run_dir / "iter-000" / "rollouts"
    client = jobs_at(cluster)
    first = Driver(submit(run_dir, "first"), folder / "first.log")
    first.until(lambda: num_rows(rollouts) >= 4)
    stopping = finish([str(BIN / "ray"), "job", "stop", "first"], seconds=120)
    assert stopping.code == 0, stopping.out + stopping.err
    first.process.wait(60)
    stopped = Stopped(
        status=client.get_job_status("first"),
        log=client.get_job_logs("first"),
        rows=num_rows(rollouts),
        files={name: contents(rollouts, "*.parquet")[name] for name in committed(rollouts)},
        manifests=list(rollouts.glob("manifest.json")),
    )
    second = Driver(submit(run_dir, "second"), folder / "second.log")
    second.process.wait(400)
    return run_dir, stopped, client.get_job_status("second"), second.log()


def test_stopping_a_job_is_clean(story):
    _, stopped, _, _ = story
    assert stopped.status is JobStatus.STOPPED
    assert "stopped; run the same command again" in stopped.log
    assert "Traceback" not in stopped.log
    assert 4 <= stopped.rows < PROBLEMS
    assert not stopped.manifests


def test_the_same_job_again_continues_to_success(story):
    run_dir, stopped, status, log = story
    assert status is JobStatus.SUCCEEDED, log
    check_run(run_dir)
    rollouts = run_dir / "iter-000" / "rollouts"
    assert len(rows(rollouts)) == PROBLEMS
    assert stopped.files.items() <= contents(rollouts, "*.parquet").items()
