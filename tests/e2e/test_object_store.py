"""A run whose directory is in an object store: it completes, resumes after a kill, and is read."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from driving import PARTS, Driver, finish
from raylets import simulated, write_problems

from sphere_ray import Run
from sphere_ray.records import Rollout
from sphere_ray.storage import count_rows

s3fs = pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

PROBLEMS = 120
LOCAL = {"address": "local", "num_cpus": 2, "object_store_gib": 0.5, "dashboard": False}
CPU = {"kv_cache_gib": 1, "max_num_seqs": 32}
ENGINES = {"policy_pool": CPU, "small_pool": CPU}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of a server on loopback, which every process finds by its environment."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem(endpoint_url=environment["AWS_ENDPOINT_URL"]).mkdir("runs")
    try:
        yield "s3://runs"
    finally:
        server.stop()


def moved(command: list[str], run_dir: str) -> list[str]:
    """The same run in another directory."""
    path = Path(command[-1])
    config = yaml.safe_load(path.read_text()) | {"run_dir": run_dir}
    path.write_text(yaml.safe_dump(config))
    return command


def rollouts(run_dir: str) -> dict[str, Rollout]:
    step = Run.open(run_dir).step("rollouts", 0)
    assert step is not None
    found = list(step.rows(Rollout))
    assert len({row.problem.problem_id for row in found}) == len(found) == PROBLEMS
    return {row.problem.problem_id: row for row in found}


def test_a_run_in_a_bucket_is_killed_and_completes(bucket: str, tmp_path: Path) -> None:
    problems = write_problems(tmp_path, PROBLEMS)
    here = simulated(tmp_path, "here", problems, ray=LOCAL, engines=ENGINES)
    done = finish(here)
    assert done.code == 0, done.out + done.err
    there = f"{bucket}/team/there"
    command = moved(simulated(tmp_path, "there", problems, ray=LOCAL, engines=ENGINES), there)
    driver = Driver(command, tmp_path / "there.log")
    try:
        driver.until(lambda: count_rows(f"{there}/iter-000/rollouts/{PARTS}") > PROBLEMS / 4)
        driver.kill()
    finally:
        driver.end()
    assert Run.open(there).summary is None
    done = finish(command)
    assert done.code == 0, done.out + done.err
    assert "continue" in done.out
    assert rollouts(there) == rollouts(str(tmp_path / "here"))
    summary = Run.open(there).summary
    assert summary is not None
    assert summary["iterations"][0]["rollout"]["problems"] == PROBLEMS
    assert not [name for name in os.listdir(tmp_path) if name.startswith("s3")]
