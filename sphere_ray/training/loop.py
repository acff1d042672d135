"""The training loop of one worker: steps, metrics, checkpoints, and the model at the end."""

from typing import cast

from torch import nn

from sphere_ray.errors import SphereError, TrainingError
from sphere_ray.training.adapters import merged, plain, with_adapters
from sphere_ray.training.batches import global_batches, shard
from sphere_ray.training.deepspeed import (
    ShardedPolicy,
    build_config,
    partitioned_loading,
    shard_for_training,
)
from sphere_ray.training.guard import check_collapse
from sphere_ray.training.history import keep, restore
from sphere_ray.training.messages import LoopOutcome, StepMetrics, TrainRequest
from sphere_ray.training.policy import export, load_model
from sphere_ray.training.reference import ReferenceTable
from sphere_ray.training.schedule import learning_rate
from sphere_ray.training.step import PlannedStep, Trainee, take_step
from sphere_ray.training.workers import Host, Worker, guarded


def run_worker(request: TrainRequest, host: Host) -> LoopOutcome | SphereError:
    """Train; a deliberate error is returned, so that Ray Train does not retry it.

    The first worker reports the `StepMetrics` of each step.
    """
    return guarded(request, host, _train)


def _train(request: TrainRequest, worker: Worker, host: Host) -> LoopOutcome:
    settings = request.settings
    table = ReferenceTable(request.reference_path)
    if len(set(worker.gather(len(table)))) > 1:
        raise TrainingError(
            f"the workers see different files in {request.reference_path}; it must be storage that "
            "all nodes share; run the same command again"
        )
    steps = _plan(table, request, worker)
    policy = _build_policy(request)
    trainee = Trainee(policy=policy, table=table, settings=settings, world=worker.world)
    history = restore(policy, host, StepMetrics)
    resumed_at = len(history)
    for step in steps[resumed_at:]:
        rate = learning_rate(step.number, len(steps), request.learning_rate, settings)
        metrics = take_step(trainee, step, steps=len(steps), rate=rate)
        history.append(metrics)
        if worker.rank == 0:
            host.report(metrics)
        check_collapse(history, settings.guard)
        if metrics.step % settings.checkpoint_every == 0 and metrics.step < len(steps):
            keep(policy, history, host)
    weights = policy.weights()
    if worker.rank == 0 and weights is not None:
        whole = merged(weights, settings.lora)
        export(plain(policy.model), whole, request.model_dir, request.output_dir)
    return LoopOutcome(history=tuple(history), pairs=len(table), resumed_at=resumed_at)


def _plan(table: ReferenceTable, request: TrainRequest, worker: Worker) -> list[PlannedStep]:
    settings, tokens = request.settings, table.tokens()
    batches = [
        (epoch, batch)
        for epoch in range(settings.epochs)
        for batch in global_batches(len(table), settings.batch_size, seed=request.seed, epoch=epoch)
    ]
    return [
        PlannedStep(
            number=number,
            epoch=epoch,
            pairs=len(batch),
            tokens=int(tokens[batch].sum()),
            micro_batches=shard(
                batch, tokens, rank=worker.rank, world=worker.world, settings=settings
            ),
        )
        for number, (epoch, batch) in enumerate(batches)
    ]


def _build_policy(request: TrainRequest) -> ShardedPolicy:
    config = build_config(request.settings, request.placement)
    with partitioned_loading(config):
        whole = load_model(request.model_dir, request.settings)
    lora, model = request.settings.lora, cast(nn.Module, whole)
    if lora is not None:
        model = with_adapters(whole, lora, request.seed)
    return shard_for_training(
        model,
        config,
        learning_rate=request.learning_rate,
        weight_decay=request.settings.weight_decay,
    )
