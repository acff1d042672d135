"""A Ray cluster with a job server on loopback, and smoke.yaml as a job in it."""

import json
import os
import shutil
import socket
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from driving import BIN, Driver, smoke
from ray.job_submission import JobSubmissionClient

SECRET = "0123456789abcdef0123456789abcdef"


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextmanager
def job_cluster():
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
    address = f"http://127.0.0.1:{dashboard}"
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    head = None
    try:
        head = started(command, folder / "head.log", address)
        yield address
    finally:
        if head is not None:
            processes = head.descendants()
            head.end()
            psutil.wait_procs(processes, timeout=30)
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def started(command, log, address):
    """A head that stays: on a busy machine Ray gives its own node up after half a minute."""
    for _ in range(3):
        head = Driver(command, log)
        with suppress(AssertionError):
            head.until(lambda: "runtime started" in log.read_text() and answers(address))
            return head
        head.end()
    raise AssertionError(log.read_text())


def jobs_at(address):
    """A client that shows the token: this process read Ray's own settings when it started."""
    return JobSubmissionClient(address, headers={"Authorization": f"Bearer {SECRET}"})


def answers(address):
    with suppress(ConnectionError, RuntimeError):
        return jobs_at(address).list_jobs() is not None
    return False


def submit(run_dir, name, *overrides):
    """`ray job submit` of smoke.yaml; the command follows the job to its end."""
    environment = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}
    _, _, config, *flags = smoke(run_dir, *overrides)
    return [
        *(str(BIN / "ray"), "job", "submit", f"--submission-id={name}"),
        f"--runtime-env-json={json.dumps(environment)}",
        *("--", sys.executable, "-m", "jobs.run", "--config", config, *flags),
    ]
