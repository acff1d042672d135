"""What an interrupted training run left behind, and whether it may be continued."""

import json
import logging
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from pyarrow.fs import FileSystem, FileType

from sphere_ray.training.messages import RewardTrainRequest, TrainRequest

logger = logging.getLogger(__name__)

_IDENTITY = "identity.json"
_NOT_IDENTITY = {
    "settings.checkpoint_every",
    "settings.guard",
    "settings.min_pairs",
    "placement.max_failures",
    "placement.cpus_per_worker",
}


def open_run(request: RewardTrainRequest | TrainRequest) -> str | None:
    """Prepare the request's directory under `storage_path`.

    Checkpoints are bound to the number of workers, the ZeRO stage and the versions of Ray and
    DeepSpeed; those of another identity are deleted. Returns why, or None.
    """
    files, base = FileSystem.from_uri(request.storage_path)
    root = f"{base}/{request.name}"
    reason = None
    if files.get_file_info(root).type is not FileType.NotFound:
        reason = _difference(_read(files, root), _identity(request))
        if reason:
            logger.warning("%s starts over: %s", request.name, reason)
            files.delete_dir_contents(root)
    note_identity(request)
    return reason


def note_identity(request: RewardTrainRequest | TrainRequest) -> None:
    """Bind what is in the request's directory under `storage_path`, or will be, to it."""
    files, base = FileSystem.from_uri(request.storage_path)
    root = f"{base}/{request.name}"
    files.create_dir(root)
    with files.open_output_stream(f"{root}/{_IDENTITY}") as stream:
        stream.write(json.dumps(_identity(request), indent=1).encode())


def _identity(request: RewardTrainRequest | TrainRequest) -> dict[str, Any]:
    identity = {
        key: value
        for key, value in asdict(request).items()
        if key not in {"trained", "settings", "placement", "output_dir", "storage_path", "name"}
    }
    identity |= {f"settings.{key}": value for key, value in request.settings.model_dump().items()}
    identity |= {f"placement.{key}": value for key, value in request.placement.model_dump().items()}
    identity["placement.zero_stage"] = request.settings.zero_stage_on(request.placement)
    identity |= {package: version(package) for package in ("ray", "deepspeed", "torch")}
    kept = {key: value for key, value in identity.items() if key not in _NOT_IDENTITY}
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain


def _read(files: FileSystem, root: str) -> dict[str, Any]:
    if files.get_file_info(f"{root}/{_IDENTITY}").type is FileType.NotFound:
        return {}
    with files.open_input_stream(f"{root}/{_IDENTITY}") as stream:
        read: dict[str, Any] = json.loads(stream.read())
    return read


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    if not old:
        return "its checkpoints do not say what made them"
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if not changed:
        return None
    parts = [f"{key} was {old.get(key)}, is {new.get(key)}" for key in changed]
    return "its checkpoints do not fit any more (" + "; ".join(parts) + ")"
