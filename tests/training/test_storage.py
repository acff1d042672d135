from dataclasses import replace
from pathlib import Path

import pytest
from sphere_ray.training.storage import open_run

from sphere_ray.config.training import TrainerPlacement, TrainingSettings
from sphere_ray.training.messages import TrainRequest


@pytest.fixture
def request_(tmp_path: Path) -> TrainRequest:
    return TrainRequest(
        model_dir="/models/base",
        reference_path="/run/reference",
        output_dir="/run/policy",
        storage_path=str(tmp_path),
        name="run-iter0-dpo",
        seed=0,
        learning_rate=1e-6,
        settings=TrainingSettings(),
        placement=TrainerPlacement(workers=2),
    )


def leave_checkpoint(request: TrainRequest) -> Path:
    open_run(request)
    kept = Path(request.storage_path) / request.name / "checkpoint_1"
    kept.mkdir()
    return kept


def test_the_same_request_keeps_its_checkpoints(request_: TrainRequest) -> None:
    kept = leave_checkpoint(request_)
    often = request_.settings.model_copy(update={"checkpoint_every": 3})
    assert open_run(replace(request_, settings=often)) is None
    assert kept.is_dir()


def test_another_number_of_workers_starts_over_and_says_so(request_: TrainRequest) -> None:
    kept = leave_checkpoint(request_)
    reason = open_run(replace(request_, placement=TrainerPlacement(workers=4)))
    assert reason is not None
    assert "placement.workers was 2, is 4" in reason
    assert not kept.exists()


def test_another_ray_starts_over(request_: TrainRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = leave_checkpoint(request_)
    monkeypatch.setattr("sphere_ray.training.storage.version", lambda _: "9.9")
    reason = open_run(request_)
    assert reason is not None
    assert "ray was" in reason
    assert not kept.exists()


def test_checkpoints_of_unknown_origin_are_not_trusted(request_: TrainRequest) -> None:
    kept = Path(request_.storage_path) / request_.name / "checkpoint_1"
    kept.mkdir(parents=True)
    assert open_run(request_) is not None
    assert not kept.exists()


def test_checkpoints_hold_the_stage_that_runs(request_: TrainRequest) -> None:
    """One fp32 worker runs stage 0 whether 1 or 2 is asked for; with bf16 they differ."""
    alone = [TrainerPlacement(workers=1, zero_stage=stage) for stage in (2, 1)]
    for precision, starts_over in (("fp32", False), ("bf16", True)):
        settings = request_.settings.model_copy(update={"precision": precision})
        leave_checkpoint(replace(request_, name=precision, settings=settings, placement=alone[0]))
        reason = open_run(replace(request_, name=precision, settings=settings, placement=alone[1]))
        assert (reason is not None) == starts_over
