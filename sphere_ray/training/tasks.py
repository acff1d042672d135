"""One worker's part of answering a request, whatever the request is."""

from pathlib import Path
from typing import Any

from sphere_ray.compat.deepspeed import forget_models
from sphere_ray.errors import SphereError
from sphere_ray.models.source import check_directory
from sphere_ray.training.dpo import PreferenceTask
from sphere_ray.training.loop import train
from sphere_ray.training.messages import ReferenceRequest, Request, RewardTrainRequest
from sphere_ray.training.reference import compute_reference
from sphere_ray.training.reward_task import RewardTask
from sphere_ray.training.workers import Host, Worker


def answer(request: Request, host: Host) -> Any:
    """Join the process group and do the worker's part; no model stays in memory.

    The first worker reports progress. A deliberate error is returned, so that Ray Train does not
    retry it.
    """
    worker = Worker.join(request.placement, host)
    try:
        worker.agree(lambda: check_directory(Path(request.model_dir)))
        if isinstance(request, ReferenceRequest):
            return compute_reference(request, worker)
        if isinstance(request, RewardTrainRequest):
            return train(RewardTask(request), worker)
        return train(PreferenceTask(request), worker)
    except SphereError as error:
        return error.with_traceback(None)  # it would hold the model
    finally:
        forget_models()
