"""What leans on developer APIs of Ray Train: failure limits, causes of failures, its storage."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
from pyarrow.fs import LocalFileSystem
from ray.train import FailureConfig

from sphere_ray.compat.names import doubts

logger = logging.getLogger(__name__)

TESTED = "2.60.0"

# A leaked engine holds the GPUs, and by default Ray Train would wait for them for ever.
_PLACEMENT_ATTEMPTS = 10

TrainingFailedError: type[Exception] = ray.train.TrainingFailedError


def faults() -> list[str]:
    """What Ray Train lacks of what nothing can replace; its second version has it."""
    needed = ("CheckpointUploadMode", "WorkerGroupError")
    return [f"ray.train has no {name}" for name in needed if not hasattr(ray.train, name)]


def failure_config(max_failures: int) -> FailureConfig:
    """How often Ray Train starts failed workers anew, and how often it tries to place them.

    Where this Ray Train knows no limit of placement attempts, a warning says so.
    """
    # Ray's type annotations are those of Train v1, which has no such option.
    options: dict[str, Any] = {"max_failures": max_failures}
    try:
        return FailureConfig(**options, controller_failure_limit=_PLACEMENT_ATTEMPTS)  # type: ignore[call-arg]
    except TypeError:
        _warn("workers that cannot be placed may be waited for without end")
        return FailureConfig(**options)


def cause_of(error: Exception) -> Exception:
    """What a worker, or Ray Train's controller, failed with."""
    causes = getattr(error, "worker_failures", None) or {}
    cause: Exception = next(iter(causes.values()), getattr(error, "controller_failure", error))
    return cause


def reason(error: Exception) -> str:
    """The last line of `cause_of`."""
    cause = cause_of(error)
    return (str(cause).strip().splitlines() or [type(cause).__name__])[-1]


@contextmanager
def latest_checkpoint() -> Iterator[Path | None]:
    """The directory of what `new_checkpoint` last gave to Ray Train; None if nothing."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as directory:
        yield Path(directory)


@contextmanager
def new_checkpoint(name: str) -> Iterator[Path]:
    """A directory for all workers to write to; at the end it is the latest checkpoint."""
    storage = _local_storage()
    if storage is not None:
        yield storage / name
        _report(storage / name, uploaded=True)
        return
    with tempfile.TemporaryDirectory() as directory:  # the storage is remote
        yield Path(directory)
        _report(Path(directory), uploaded=False)


def _local_storage() -> Path | None:
    """Where a worker may write checkpoints directly; None if that is remote or not known."""
    try:
        storage = ray.train.get_context().get_storage()
        if isinstance(storage.storage_filesystem, LocalFileSystem):
            return Path(storage.experiment_fs_path)
    except (AttributeError, NotImplementedError):
        _warn("checkpoints go through a temporary directory")
    return None


def _report(directory: Path, *, uploaded: bool) -> None:
    """Let Ray Train know the checkpoint; what is `uploaded` lies in its storage already."""
    modes = ray.train.CheckpointUploadMode
    mode = modes.NO_UPLOAD if uploaded else modes.SYNC
    checkpoint = ray.train.Checkpoint.from_directory(str(directory))
    ray.train.report({}, checkpoint=checkpoint, checkpoint_upload_mode=mode)


def _warn(consequence: str) -> None:
    found = "; ".join(doubts(["ray"], TESTED, [])) or "Ray Train is not as expected"
    logger.warning("%s (%s)", consequence, found)
