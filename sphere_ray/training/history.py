"""Checkpoints of a training: the model's state, the metrics of every step, and what made them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from typing import Any, TypeVar
from uuid import uuid4

from sphere_ray.config.base import differences, identity
from sphere_ray.training.deepspeed import ShardedPolicy
from sphere_ray.training.messages import LearningRequest
from sphere_ray.training.workers import Worker

Metrics = TypeVar("Metrics")

_ORIGIN = "origin.json"
"""Lies in each checkpoint: the `origin` of the request that made it."""

_TARGET = "output_dir"
_NOT_DECISIVE = {"held_out_path", "scores_path", "trained", "placement"}


def origin(request: LearningRequest) -> dict[str, Any]:
    """What a checkpoint is bound to, as flat JSON data.

    That is what the weights depend on, and what DeepSpeed's files depend on besides: the number of
    workers, the ZeRO stage and the versions of the libraries.
    """
    given = {field.name: getattr(request, field.name) for field in fields(request)}
    named = {name: value for name, value in given.items() if name not in _NOT_DECISIVE}
    settings, placement = request.settings, request.placement
    sharding = {
        "micro_batch_size": settings.micro_batch_size,
        "zero_stage": settings.zero_stage_on(placement),
        **placement.model_dump(include={"workers", "use_gpu", "offload"}),
    }
    versions = {name: version(name) for name in ("ray", "deepspeed", "torch")}
    found: dict[str, Any] = json.loads(
        json.dumps(identity(**{**named, "settings": settings}, **sharding, **versions))
    )
    return found


def restore(
    request: LearningRequest, policy: ShardedPolicy, worker: Worker, kind: type[Metrics]
) -> tuple[list[Metrics], str | None]:
    """Take over the last checkpoint if the same request made it.

    Returns the steps made until then, and why a checkpoint of this model was not taken over. The
    checkpoint of another model (which this job trained before) is no reason.
    """
    with worker.host.latest_checkpoint() as directory:
        if directory is None:
            return [], None
        file, wanted = directory / _ORIGIN, origin(request)
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if found != wanted:
            if found.get(_TARGET) != wanted[_TARGET]:
                return [], None
            changes = "; ".join(differences(found, wanted))
            return [], f"its checkpoint was made by another request ({changes})"
        state = policy.load(directory)
    return [kind(**step) for step in state["history"]], None


def keep(
    request: LearningRequest,
    policy: ShardedPolicy,
    worker: Worker,
    history: Sequence[Any],
) -> None:
    """Save a checkpoint after the steps of `history` (dataclasses); all workers call it."""
    # Ray deletes an old checkpoint by its path, so no name may come twice.
    name = worker.gather(f"checkpoint_{len(history):06}_{uuid4().hex[:8]}")[0]
    with worker.host.new_checkpoint(name) as directory:
        policy.save(directory, {"history": [asdict(step) for step in history]})
        if worker.rank == 0:
            (directory / _ORIGIN).write_text(json.dumps(origin(request)), encoding="utf-8")
