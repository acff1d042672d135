"""The driver's side of training: one call a request, and what it came to.

It imports neither torch nor DeepSpeed; the workers do.
"""

import time
from collections.abc import Callable
from typing import Any

from sphere_ray.training.job import TrainingJob
from sphere_ray.training.messages import (
    ReferenceDone,
    ReferenceProgress,
    ReferenceRequest,
    RewardStepMetrics,
    RewardTrainRequest,
    RewardTrainResult,
    StepMetrics,
    TrainRequest,
    TrainResult,
)
from sphere_ray.training.storage import note_identity, open_run

Request = RewardTrainRequest | TrainRequest


def train(
    request: TrainRequest,
    on_message: Callable[[ReferenceProgress | ReferenceDone | StepMetrics], None] | None = None,
    *,
    reference: ReferenceRequest | None = None,
    job: TrainingJob | None = None,
) -> TrainResult:
    """Train the policy and write it to `output_dir`; called again, it continues.

    With `reference` the same workers first tokenise the pairs and write their log-probs: one start
    of workers is for both. `job` is the request's, started ahead where its storage path held
    nothing. `on_message` is called again for what is repeated after a failure.

    Raises:
        ConfigError: the batch size does not divide by micro-batch size x workers.
        ModelError: a model cannot be loaded.
        TooFewPairsError: fewer usable pairs than `min_pairs`.
        CollapseError: the guard stopped it.
        TrainingError: the workers kept failing.
    """
    started = time.monotonic()
    restarted_because = None
    if job is None:
        restarted_because = open_run(request)
    else:
        note_identity(request)
    outcome = _run(request, on_message, reference=reference, job=job)
    last = outcome.history[-1]
    return TrainResult(
        model_dir=request.output_dir,
        pairs=outcome.pairs,
        steps=last.step,
        loss_first=outcome.history[0].loss,
        loss_last=last.loss,
        reward_accuracy=last.reward_accuracy,
        seconds=time.monotonic() - started,
        history=outcome.history,
        resumed_at=outcome.resumed_at,
        restarted_because=restarted_because,
    )


def train_reward_model(
    request: RewardTrainRequest, on_step: Callable[[RewardStepMetrics], None] | None = None
) -> RewardTrainResult:
    """Train a process reward model and score the held-out steps; called again, it continues.

    `on_step` is called again for steps repeated after a failure.

    Raises:
        ConfigError: the batch size does not divide by micro-batch size x workers.
        ModelError: the model cannot be loaded.
        TooFewLabelsError: fewer problems than `min_problems`.
        CollapseError: it diverged.
        TrainingError: the workers kept failing.
    """
    started = time.monotonic()
    restarted_because = open_run(request)
    outcome = _run(request, on_step)
    return RewardTrainResult(
        model_dir=request.output_dir,
        problems=outcome.problems,
        labels=outcome.labels,
        dropped=dict(outcome.dropped),
        steps=len(outcome.history),
        loss_first=outcome.history[0].loss,
        loss_last=outcome.history[-1].loss,
        seconds=time.monotonic() - started,
        resumed_at=outcome.resumed_at,
        restarted_because=restarted_because,
    )


def _run(
    request: Request,
    on_message: Callable[[Any], None] | None,
    *,
    reference: ReferenceRequest | None = None,
    job: TrainingJob | None = None,
) -> Any:
    with job or TrainingJob(request.name, request.storage_path, request.placement) as running:
        return running.run((reference, request), on_message)
