"""The driver's side on a local Ray of two CPUs: progress, resuming after deaths, errors."""

import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from sphere_ray.training.trainer import train

from sphere_ray.config.training import TrainerPlacement, TrainingSettings
from sphere_ray.engines.tiny_models import make_llama
from sphere_ray.errors import ModelError
from sphere_ray.training.job import TrainingJob
from sphere_ray.training.messages import (
    ReferenceDone,
    ReferenceProgress,
    ReferenceRequest,
    StepMetrics,
    TrainRequest,
)
from tests.training.local_workers import run_requests
from tests.training.pairs import write_pairs

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.timeout(600)]

SETTINGS = TrainingSettings(
    epochs=8,
    batch_size=8,
    micro_batch_size=4,
    learning_rate=1e-4,
    precision="fp32",
    max_length=256,
    checkpoint_every=3,
)
PLACEMENT = TrainerPlacement(workers=2, zero_stage=2)
STEPS = 24
LATEST = re.compile(r'"latest_checkpoint_result":\s*\{')


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    context = ray.init(num_cpus=2, include_dashboard=False)
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture(scope="module")
def request_(address: str, tmp_path_factory: pytest.TempPathFactory) -> TrainRequest:
    """A request whose reference table was made through Ray, in a job that was started ahead."""
    root: Path = tmp_path_factory.mktemp("trainer")
    (root / "model").mkdir()
    make_llama(root / "model")
    reference = ReferenceRequest(
        model_dir=str(root / "model"),
        pairs_path=write_pairs(root / "pairs.parquet", 22),
        output_dir=str(root / "reference"),
        settings=SETTINGS,
        placement=PLACEMENT,
    )
    request = TrainRequest(
        model_dir=str(root / "model"),
        reference_path=reference.output_dir,
        output_dir=str(root / "policy"),
        storage_path=str(root / "storage"),
        name="dpo",
        seed=1,
        learning_rate=1e-4,
        settings=SETTINGS,
        placement=PLACEMENT,
    )
    seen: list[Any] = []
    ahead = TrainingJob("first", request.storage_path, PLACEMENT)
    first = train(named(request, "first"), seen.append, reference=reference, job=ahead)
    # All log-probs are there before the first step.
    done = next(place for place, message in enumerate(seen) if isinstance(message, ReferenceDone))
    assert seen[done - 1] == ReferenceProgress(done=22)
    assert (seen[done].pairs, seen[done].dropped) == (22, {})
    assert [step.step for step in seen[done + 1 :]] == list(range(1, first.steps + 1))
    return request


@pytest.fixture(scope="module")
def uninterrupted(request_: TrainRequest, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    scratch = tmp_path_factory.mktemp("uninterrupted")
    quiet = replace(request_, storage_path=str(scratch), output_dir=str(scratch / "policy"))
    (outcome,) = run_requests([quiet], scratch / "group")
    return [step.loss for step in outcome.history]


def named(request: TrainRequest, name: str) -> TrainRequest:
    return replace(request, name=name, output_dir=str(Path(request.output_dir).with_name(name)))


def train_workers() -> list[psutil.Process]:
    """Ray Train's workers, the newest last: those of an earlier job may be on their way out."""
    workers = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                workers.append((process.create_time(), process.pid, process))
    return [process for *_, process in sorted(workers)]


def has_checkpoint(folder: Path) -> bool:
    """Whether Ray Train counts on a checkpoint: its directory is there some time before that."""
    known = folder / "checkpoint_manager_snapshot.json"
    return known.is_file() and bool(LATEST.search(known.read_text()))


def test_a_killed_worker_continues_from_the_last_checkpoint(
    request_: TrainRequest, uninterrupted: list[float]
) -> None:
    request = named(request_, "worker-killed")
    killed_at: list[int] = []

    def kill_once(metrics: StepMetrics) -> None:
        if not killed_at and has_checkpoint(Path(request.storage_path) / request.name):
            train_workers()[-1].send_signal(signal.SIGKILL)
            killed_at.append(metrics.step)

    result = train(request, kill_once)

    assert killed_at
    assert [step.loss for step in result.history] == pytest.approx(uninterrupted, rel=1e-6)
    # How far the workers got before the signal varies; they do not go back to the start.
    assert 0 < result.resumed_at < STEPS
    assert (Path(result.model_dir) / "model.safetensors").is_file()
    assert result.loss_last < result.loss_first


@pytest.mark.slow  # tests/e2e/test_kills.py kills the whole driver too
def test_the_same_call_continues_after_the_driver_was_killed(
    address: str, request_: TrainRequest, uninterrupted: list[float], tmp_path: Path
) -> None:
    request = named(request_, "driver-killed")
    (tmp_path / "request").write_bytes(pickle.dumps(request))
    driver = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.training.killed_driver",
            address,
            str(tmp_path / "request"),
            "10",
        ],
        cwd=Path(__file__).parents[2],
        env=os.environ,
        timeout=300,
        check=False,
    )
    assert driver.returncode == -signal.SIGKILL
    assert not Path(request.output_dir).exists()

    result = train(request)

    assert 0 < result.resumed_at < STEPS
    assert result.restarted_because is None
    assert [step.loss for step in result.history] == pytest.approx(uninterrupted, rel=1e-6)


def test_a_users_mistake_is_one_sentence_and_not_retried(
    request_: TrainRequest, tmp_path: Path
) -> None:
    seen: list[Any] = []
    with pytest.raises(ModelError, match=r"config\.json") as raised:
        train(replace(named(request_, "no-model"), model_dir=str(tmp_path)), seen.append)
    assert "\n" not in str(raised.value)
    assert not seen


@pytest.mark.slow  # tests/e2e/test_simulated_run.py sees workers that wait go
def test_a_job_that_gets_no_work_leaves_no_process_and_no_reservation(
    request_: TrainRequest,
) -> None:
    earlier = train_workers()
    with TrainingJob("waiting", request_.storage_path, PLACEMENT) as job:
        while not (waiting := set(train_workers()) - set(earlier)):
            psutil.wait_procs(psutil.Process().children(), timeout=1)  # Ray stays: a second
        assert job.waits
    _, alive = psutil.wait_procs(waiting, timeout=60)
    assert not alive
    groups = ray.util.placement_group_table().values()
    assert {group["state"] for group in groups} == {"REMOVED"}
