"""Jobs of a cluster, on a job server that lives in memory."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from ray.job_submission import JobDetails, JobStatus, JobType

from sphere_ray.config.loading import settings_of
from sphere_ray.errors import JobError
from sphere_ray.operations import jobs
from sphere_ray.operations.job_status import described, listed
from sphere_ray.operations.jobs import exit_code, find, follow, stop, submit
from tests.operations.test_package import DOCUMENT


class MemoryServer:
    """Jobs go through the states they are given, one each time somebody asks."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobDetails] = {}
        self.coming: dict[str, list[JobStatus]] = {}
        self.logs: dict[str, list[str]] = {}
        self.sent: list[dict[str, Any]] = []
        self.drops: list[bool] = []

    def add(self, job_id: str, *states: JobStatus, **fields: Any) -> None:
        first, *self.coming[job_id] = states
        number = len(self.jobs)
        self.jobs[job_id] = JobDetails(
            type=JobType.SUBMISSION,
            submission_id=job_id,
            status=first,
            entrypoint="python",
            start_time=1_000_000 * (number + 1),
            **fields,
        )

    def submit_job(self, **request: Any) -> str:
        self._answer()
        if request["submission_id"] in self.jobs:
            raise RuntimeError("Traceback\nValueError: Job with submission_id already exists")
        self.sent.append(request)
        kept = {name: request[name] for name in ("metadata", "runtime_env")}
        self.add(request["submission_id"], JobStatus.RUNNING, **kept)
        self._answer()
        return request["submission_id"]

    def stop_job(self, job_id: str) -> bool:
        self.coming[job_id] = [JobStatus.RUNNING, JobStatus.STOPPED]
        return True

    def list_jobs(self) -> list[JobDetails]:
        return list(self.jobs.values())

    def _answer(self) -> None:
        """Lose the connection where `drops` says so."""
        if self.drops and self.drops.pop(0):
            raise requests.ConnectionError("Connection aborted.")

    def get_job_info(self, job_id: str) -> JobDetails:
        self._answer()
        if self.coming[job_id]:
            state = self.coming[job_id].pop(0)
            self.jobs[job_id] = self.jobs[job_id].model_copy(update={"status": state})
        return self.jobs[job_id]

    def get_job_logs(self, job_id: str) -> str:
        return "".join(self.logs.get(job_id, []))

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for text in self.logs[job_id]:
            if text == LOST:
                self.logs[job_id].remove(LOST)
                raise RuntimeError("WebSocket connection closed unexpectedly")
            yield text


LOST = "the connection is lost here"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jobs, "POLL_S", 0.0)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


@pytest.fixture
def said() -> list[str]:
    return []


def send(server: MemoryServer, said: list[str], *overrides: str) -> str:
    document = yaml.safe_load(yaml.safe_dump(DOCUMENT))
    return submit(document, settings_of(document, "test.yaml", overrides), server, said.append)


def test_a_job_knows_its_run_and_has_time_to_commit(server: MemoryServer, said: list[str]) -> None:
    assert send(server, said) == "test-1"
    (sent,) = server.sent
    assert sent["metadata"]["run_dir"] == "/shared/run"
    assert sent["metadata"]["run"] == "test"
    assert sent["runtime_env"]["env_vars"]["RAY_JOB_STOP_SIGNAL"] == "SIGINT"
    assert int(sent["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
    assert "MiB: sphere_ray, the configuration" in said[0]
    assert said[-1] == "job test-1 works in /shared/run"


def test_settings_that_differ_have_another_mark(server: MemoryServer, said: list[str]) -> None:
    for number, seed in enumerate((1, 1, 2)):
        send(server, said, f"seed={seed}", f"run_dir=/shared/{number}")
    marks = [sent["metadata"]["settings"] for sent in server.sent]
    assert marks[1] != marks[2]


def test_a_run_directory_has_one_job_at_a_time(server: MemoryServer, said: list[str]) -> None:
    send(server, said)
    with pytest.raises(JobError, match="test-1 works in run_dir /shared/run already"):
        send(server, said, "run_dir=/shared/x/../run/")
    assert send(server, said, "run_dir=/shared/other") == "test-2"
    server.coming["test-1"] = [JobStatus.STOPPED]
    server.get_job_info("test-1")
    assert send(server, said) == "test-3"
    assert said[-1] == "job test-3 continues what test-1 left in /shared/run"


def test_what_the_server_refuses_is_one_sentence(
    server: MemoryServer, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "list_jobs", list)  # another submits in the same moment
    send(server, said)
    with pytest.raises(JobError, match="refused the job: ValueError: Job with submission_id"):
        send(server, said)


@pytest.mark.parametrize("drops", [[True], [True, True], [False, True]])
def test_a_lost_connection_starts_no_second_job(
    server: MemoryServer, said: list[str], drops: list[bool]
) -> None:
    server.drops = drops  # before the job is taken, or after that
    assert send(server, said) == "test-1"
    assert list(server.jobs) == ["test-1"]


def test_a_server_that_stays_away_is_given_up(
    server: MemoryServer, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PATIENCE_S", 0.0)
    server.drops = [True] * 100_000
    with pytest.raises(requests.ConnectionError):
        send(server, said)


def test_a_log_is_shown_once_across_lost_connections(server: MemoryServer) -> None:
    server.add("a", *[JobStatus.RUNNING] * 3, JobStatus.SUCCEEDED)
    server.drops = [True, False, True]
    server.logs["a"] = ["one\n", "tw", LOST, "o\n", LOST, "three\n"]
    written: list[str] = []
    assert follow("a", server, written.append).status is JobStatus.SUCCEEDED
    assert "".join(written) == "one\ntwo\nthree\n"


def test_stopping_waits_until_the_job_has_ended(server: MemoryServer, said: list[str]) -> None:
    env = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}}
    server.add("a", JobStatus.RUNNING, runtime_env=env)
    server.logs["a"] = ["stopped; the same command again continues\n", "\n"]
    stop("a", server, said.append)
    assert said[0] == "job a is asked to stop; it has 120 s to commit"
    assert said[1].startswith("job a: stopped after ")
    assert said[1].endswith("stopped; the same command again continues")
    stop("a", server, said.append)
    assert said[2] == "job a ended before: stopped"


def test_a_job_is_found_by_id_run_or_directory(server: MemoryServer, said: list[str]) -> None:
    send(server, said)
    server.add("other", JobStatus.SUCCEEDED)
    for name in ("test-1", "test", "/shared/run/"):
        assert find(name, server).submission_id == "test-1"
    with pytest.raises(JobError, match="no job or run nobody; it has test-1, other"):
        find("nobody", server)


def test_the_exit_code_is_the_jobs(server: MemoryServer) -> None:
    server.add("a", JobStatus.FAILED, driver_exit_code=2)
    server.add("b", JobStatus.STOPPED)
    server.add("c", JobStatus.SUCCEEDED, driver_exit_code=0)
    assert [exit_code(job) for job in server.list_jobs()] == [2, 1, 0]


def test_jobs_are_listed_the_latest_last(server: MemoryServer, said: list[str]) -> None:
    assert listed(server.list_jobs()) == ["the cluster has had no jobs yet"]
    send(server, said)
    server.add("other", JobStatus.SUCCEEDED, end_time=2_061_000)
    head, first, second = listed(server.list_jobs())
    assert head.startswith("job     state")
    assert first.split()[:3] == ["test-1", "running", "test"]
    assert second.split()[:2] == ["other", "succeeded"]
    assert "1:01" in second


def test_a_job_is_described(server: MemoryServer, said: list[str]) -> None:
    send(server, said)
    server.logs["test-1"] = ["rollouts: 4/8 problems\n"]
    lines = list(described(find("test", server), server))
    assert lines[0].startswith("job test-1: running, started 1970-01-01")
    assert lines[1].startswith("run test in /shared/run by sphere_ray ")
    assert lines[2] == "last line: rollouts: 4/8 problems"
