"""Training jobs on a local Ray of two CPUs: several requests, resuming after deaths, errors."""

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

from sphere_ray.config.training import TrainerPlacement, TrainingSettings
from sphere_ray.errors import ModelError
from sphere_ray.models.tiny import make_llama
from sphere_ray.training.job import TrainingJob
from sphere_ray.training.messages import (
    ReferenceProgress,
    ReferenceRequest,
    StepMetrics,
    TrainRequest,
)
from tests.training.local_workers import run_requests
from tests.training.pairs import write_pairs

pytestmark = [pytest.mark.ray, pytest.mark.engine]

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
def root(address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("trainer")
    (root / "model").mkdir()
    make_llama(root / "model")
    return root


@pytest.fixture(scope="module")
def request_(root: Path) -> TrainRequest:
    """A request whose reference table a job made, which then trained two policies on it."""
    write_pairs(root / "pairs", 22)
    request = TrainRequest(
        model_dir=str(root / "model"),
        reference_path=str(root / "reference"),
        output_dir=str(root / "policy"),
        seed=1,
        learning_rate=1e-4,
        settings=SETTINGS,
        placement=PLACEMENT,
    )
    seen: list[Any] = []
    with TrainingJob("several", str(root / "storage"), PLACEMENT) as job:
        assert job.waits
        done = job.run(reference_of(request, root / "reference"), seen.append)
        assert (done.pairs, done.dropped) == (22, {})
        assert seen[-1] == ReferenceProgress(done=22)
        seen.clear()
        first = job.run(to(request, "first"), seen.append)
        assert job.waits
        assert [step.step for step in seen] == list(range(1, first.steps + 1))
        # The checkpoint of another policy is not taken over, nor is it a reason to mention.
        second = job.run(replace(to(request, "second"), learning_rate=2e-4))
        assert (second.resumed_at, second.restarted_because) == (0, None)
        assert second.history[-1].loss < first.history[-1].loss
        # A user's mistake is one sentence, and the job goes on.
        seen.clear()
        with pytest.raises(ModelError, match=r"config\.json") as raised:
            job.run(replace(to(request, "no-model"), model_dir=str(root)), seen.append)
        assert "\n" not in str(raised.value)
        assert not seen
        assert job.waits
    assert not job.waits
    return request


@pytest.fixture(scope="module")
def uninterrupted(request_: TrainRequest, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    scratch = tmp_path_factory.mktemp("uninterrupted")
    quiet = replace(request_, output_dir=str(scratch / "policy"))
    (outcome,) = run_requests([quiet], scratch / "group")
    return [step.loss for step in outcome.history]


def to(request: TrainRequest, name: str) -> TrainRequest:
    return replace(request, output_dir=str(Path(request.output_dir).with_name(name)))


def reference_of(request: TrainRequest, output_dir: Path) -> ReferenceRequest:
    return ReferenceRequest(
        model_dir=request.model_dir,
        pairs_paths=(str(Path(request.model_dir).with_name("pairs")),),
        output_dir=str(output_dir),
        settings=SETTINGS,
        placement=PLACEMENT,
    )


def train_workers() -> list[psutil.Process]:
    """Ray Train's workers, the newest last: those of an earlier job may be on their way out."""
    workers = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                workers.append((process.create_time(), process.pid, process))
    return [process for *_, process in sorted(workers)]


def has_checkpoint(storage: Path, name: str) -> bool:
    """Whether Ray Train counts on a checkpoint: its directory is there some time before that."""
    known = storage.glob(f"{name}-*/checkpoint_manager_snapshot.json")
    return any(LATEST.search(file.read_text()) for file in known)


def test_a_killed_worker_continues_from_the_last_checkpoint(
    request_: TrainRequest, uninterrupted: list[float], tmp_path: Path
) -> None:
    request = to(request_, "worker-killed")
    killed_at: list[int] = []

    def kill_once(metrics: StepMetrics) -> None:
        if not killed_at and has_checkpoint(tmp_path, "killed"):
            train_workers()[-1].send_signal(signal.SIGKILL)
            killed_at.append(metrics.step)

    with TrainingJob("killed", str(tmp_path), PLACEMENT) as job:
        # A request that is finished is not repeated after a worker failed in a later one.
        reference = job.run(reference_of(request, tmp_path / "reference"))
        result = job.run(request, kill_once)

    assert killed_at
    assert reference.pairs == result.pairs
    assert [step.loss for step in result.history] == pytest.approx(uninterrupted, rel=1e-6)
    # How far the workers got before the signal varies; they do not go back to the start.
    assert 0 < result.resumed_at < STEPS
    assert (Path(result.model_dir) / "model.safetensors").is_file()
    assert result.loss_last < result.loss_first


@pytest.mark.slow  # tests/e2e/test_kills.py kills the whole driver too
def test_a_new_job_continues_after_the_driver_was_killed(
    address: str, request_: TrainRequest, uninterrupted: list[float], tmp_path: Path
) -> None:
    request = to(request_, "driver-killed")
    (tmp_path / "request").write_bytes(pickle.dumps(request))
    given = [address, "dpo", str(tmp_path), str(tmp_path / "request"), "10"]
    driver = subprocess.run(
        [sys.executable, "-m", "tests.training.killed_driver", *given],
        cwd=Path(__file__).parents[2],
        env=os.environ,
        timeout=300,
        check=False,
    )
    assert driver.returncode == -signal.SIGKILL
    assert not Path(request.output_dir).exists()

    with TrainingJob("dpo", str(tmp_path), PLACEMENT) as job:
        result = job.run(request)
        assert 0 < result.resumed_at < STEPS
        assert result.restarted_because is None
        assert [step.loss for step in result.history] == pytest.approx(uninterrupted, rel=1e-6)
        # For the same model, but made by another request, the checkpoint is of no use.
        other = job.run(replace(request, seed=2))
    assert other.resumed_at == 0
    assert "seed: 1 there, 2 here" in other.restarted_because


@pytest.mark.slow  # tests/e2e/test_simulated_run.py sees workers that wait go
def test_a_job_that_gets_no_work_leaves_no_process_and_no_reservation(
    address: str, tmp_path: Path
) -> None:
    earlier = train_workers()
    with TrainingJob("waiting", str(tmp_path), PLACEMENT) as job:
        while not (waiting := set(train_workers()) - set(earlier)):
            psutil.wait_procs(psutil.Process().children(), timeout=1)  # Ray stays: a second
        assert job.waits
    _, alive = psutil.wait_procs(waiting, timeout=60)
    assert not alive
    groups = ray.util.placement_group_table().values()
    assert {group["state"] for group in groups} == {"REMOVED"}
