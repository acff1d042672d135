"""A Ray Train worker: it takes requests from its job, and runs the loop on Ray's device."""

from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.actor import ActorHandle

from sphere_ray.compat import ray_train
from sphere_ray.training.tasks import answer
from sphere_ray.training.workers import Host


def serve(job: ActorHandle[Any]) -> None:
    """Answer the job's requests until there are no more."""

    def report(message: Any) -> None:
        ray.get(job.put.remote(message))  # it is there before the worker ends

    host = Host(
        device=ray.train.torch.get_device(),
        report=report,
        latest_checkpoint=ray_train.latest_checkpoint,
        new_checkpoint=ray_train.new_checkpoint,
    )
    last = 0
    while True:
        asked: Any = job.take.remote(last)  # Ray's annotations know no optional tuple
        last, request = ray.get(asked)
        if request is None:
            return
        value = answer(request, host)
        if ray.train.get_context().get_world_rank() == 0:
            ray.get(job.finish.remote(last, value))
