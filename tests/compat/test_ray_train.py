"""What happens where Ray Train is another one than was tested."""

import logging
from typing import Any

import pytest
import ray.train

from sphere_ray.compat import names, ray_train
from sphere_ray.config.training import TrainerPlacement
from sphere_ray.errors import TrainingError
from sphere_ray.storage import disk_trouble
from sphere_ray.training.job import TrainingJob


def test_placement_attempts_are_limited() -> None:
    found: Any = ray_train.failure_config(3)
    assert (found.max_failures, found.controller_failure_limit) == (3, 10)


def test_a_ray_train_without_that_limit_is_used_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Newer:
        def __init__(self, max_failures: int) -> None:
            self.max_failures = max_failures

    monkeypatch.setattr(ray_train, "FailureConfig", Newer)
    monkeypatch.setattr(names, "version", lambda _: "9.9.9")
    with caplog.at_level(logging.WARNING):
        assert ray_train.failure_config(3).max_failures == 3
    assert "waited for without end" in caplog.text
    assert "9.9.9 is installed" in caplog.text


def test_without_its_storage_checkpoints_go_through_a_temporary_directory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(ray.train, "get_context", object)
    monkeypatch.setattr(ray.train, "report", lambda _, **options: reported.append(options))
    with caplog.at_level(logging.WARNING), ray_train.new_checkpoint("step-1") as directory:
        assert directory.is_dir()
        assert reported == []  # nothing is there yet
    (report,) = reported
    assert report["checkpoint"].path == str(directory)
    assert report["checkpoint_upload_mode"] == ray.train.CheckpointUploadMode.SYNC
    assert "temporary directory" in caplog.text


def test_the_reason_is_the_last_line_of_what_a_worker_failed_with() -> None:
    cause = RuntimeError("Traceback\n\nout of memory")
    error = ray.train.WorkerGroupError("two failed", {1: cause})
    assert ray_train.reason(error) == "out of memory"
    assert ray_train.reason(ray.train.ControllerError(ValueError("no room"))) == "no room"
    assert ray_train.reason(ValueError()) == "ValueError"
    assert ray_train.cause_of(error) is cause
    full = ray.train.WorkerGroupError("one failed", {0: RuntimeError("No space left on device")})
    assert "free some space" in str(disk_trouble(ray_train.cause_of(full)))


def test_a_ray_train_that_cannot_be_used_is_named_before_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ray_train.faults() == []
    monkeypatch.delattr(ray.train, "CheckpointUploadMode")
    with pytest.raises(TrainingError, match="no CheckpointUploadMode"):
        TrainingJob("name", "/storage", TrainerPlacement())
