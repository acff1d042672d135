"""The driver's side of training: starts Ray Train, relays progress, turns failures into sentences.

It imports neither torch nor DeepSpeed; the workers do.
"""

import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.queue import Queue

from sphere_ray.config.training import TrainerPlacement
from sphere_ray.errors import SphereError, TrainingError
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
from sphere_ray.training.storage import open_run

Request = RewardTrainRequest | TrainRequest

# A leaked engine holds the GPUs: Ray Train would wait for them for ever.
_PLACEMENT_ATTEMPTS = 10


def train(
    request: TrainRequest,
    on_message: Callable[[ReferenceProgress | ReferenceDone | StepMetrics], None] | None = None,
    *,
    reference: ReferenceRequest | None = None,
) -> TrainResult:
    """Train the policy and write it to `output_dir`; called again, it continues.

    With `reference` the same workers first tokenise the pairs and write their log-probs: one start
    of workers is for both. `on_message` is called from another thread, and again for what is
    repeated after a failure.

    Raises:
        ConfigError: the batch size does not divide by micro-batch size x workers.
        ModelError: a model cannot be loaded.
        TooFewPairsError: fewer usable pairs than `min_pairs`.
        CollapseError: the guard stopped it.
        TrainingError: the workers kept failing.
    """
    started = time.monotonic()
    restarted_because = open_run(request)
    outcome = _fit(request, on_message, reference)
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

    `on_step` is called from another thread, and again for steps repeated after a failure.

    Raises:
        ConfigError: the batch size does not divide by micro-batch size x workers.
        ModelError: the model cannot be loaded.
        TooFewLabelsError: fewer problems than `min_problems`.
        CollapseError: it diverged.
        TrainingError: the workers kept failing.
    """
    started = time.monotonic()
    restarted_because = open_run(request)
    outcome = _fit(request, on_step)
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


def _fit(
    request: Request,
    on_message: Callable[[Any], None] | None,
    reference: ReferenceRequest | None = None,
) -> Any:
    placement = request.placement
    with _relay(on_message) as queue, _own_interrupts():
        trainer = TorchTrainer(
            partial(_work, reference, request, queue),
            scaling_config=_scaling(placement),
            run_config=_run_config(request),
        )
        try:
            result: Any = trainer.fit()
        except TrainingFailedError as error:
            raise TrainingError(_sentence(request.name, error)) from error
    outcome = result.return_value
    if isinstance(outcome, SphereError):
        raise outcome
    if outcome is None:
        raise TrainingError(f"{request.name} was stopped before it finished; run it again")
    return outcome


def _work(reference: ReferenceRequest | None, request: Request, queue: Queue) -> Any:
    # Only here are torch and DeepSpeed imported, so the driver stays free of them, and this is
    # early enough for their environment variables.
    os.environ.update(_environment(request.placement))
    return importlib.import_module("sphere_ray.training.host").run(reference, request, queue)


def _run_config(request: Request) -> RunConfig:
    # Ray's type annotations are those of Train v1, which has no such options.
    failures: dict[str, Any] = {
        "max_failures": request.placement.max_failures,
        "controller_failure_limit": _PLACEMENT_ATTEMPTS,
    }
    return RunConfig(
        name=request.name,
        storage_path=request.storage_path,
        failure_config=FailureConfig(**failures),
        checkpoint_config=CheckpointConfig(num_to_keep=1),
    )


def _scaling(placement: TrainerPlacement) -> ScalingConfig:
    resources = {"CPU": placement.cpus_per_worker}
    if placement.use_gpu:
        resources["GPU"] = 1.0
    return ScalingConfig(
        num_workers=placement.workers, use_gpu=placement.use_gpu, resources_per_worker=resources
    )


def _environment(placement: TrainerPlacement) -> dict[str, str]:
    environment = {"TOKENIZERS_PARALLELISM": "false"}
    if not placement.use_gpu:
        environment["DS_ACCELERATOR"] = "cpu"
    return environment


@contextmanager
def _relay(on_message: Callable[[Any], None] | None) -> Iterator[Queue]:
    """A queue that workers write to and a thread reads until the end; its errors are raised."""
    queue = Queue(actor_options={"num_cpus": 0})

    def forward() -> None:
        while (message := queue.get()) is not None:
            if on_message:
                on_message(message)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="training-progress") as threads:
        forwarding = threads.submit(forward)
        try:
            yield queue
        finally:
            queue.put(None)
            wait([forwarding])
            queue.shutdown()
    forwarding.result()


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Undo Ray Train's SIGINT handler, which outlives the training and exits with 0."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        raise KeyboardInterrupt from stop
    finally:
        signal.signal(signal.SIGINT, previous)


def _sentence(name: str, error: TrainingFailedError) -> str:
    causes = getattr(error, "worker_failures", None) or {}
    cause = next(iter(causes.values()), getattr(error, "controller_failure", error))
    reason = str(cause).strip().splitlines() or [type(cause).__name__]
    return f"{name} failed for good: {reason[-1]}; Ray's log has the workers' tracebacks"
