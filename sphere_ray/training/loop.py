"""The training loop of one worker: steps, metrics, checkpoints, and the model at the end.

What is learned is a `Task`: preference pairs (dpo.py) or labelled steps (reward_task.py).
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sphere_ray.errors import TrainingError
from sphere_ray.training.batches import Indices, MicroBatch, planned_steps, shard
from sphere_ray.training.deepspeed import (
    ShardedPolicy,
    build_config,
    partitioned_loading,
    shard_for_training,
)
from sphere_ray.training.history import keep, restore
from sphere_ray.training.messages import LearningRequest, LearningResult, OptimizerStep
from sphere_ray.training.schedule import learning_rate
from sphere_ray.training.workers import Host, Worker

Batch = TypeVar("Batch")

# What every forward counts beside its loss; a task adds more.
_COUNTS = ("tokens", "computed", "padding")


class Task(Protocol[Batch]):
    """What a training learns. All workers call every method alike; only the first, `export`."""

    @property
    def request(self) -> LearningRequest:
        """What was asked for."""
        ...

    @property
    def lengths(self) -> Indices:
        """About how many tokens each example has, [number of examples]."""
        ...

    @property
    def rates(self) -> Mapping[str, float]:
        """Factors of the learning rate, by the beginning of a parameter's name."""
        ...

    @property
    def step_metrics(self) -> type[OptimizerStep]:
        """The class of a step's metrics."""
        ...

    def load(self) -> nn.Module:
        """Load the model to begin with.

        Raises:
            ModelError: it cannot be loaded.
        """
        ...

    def check_model(self, policy: ShardedPolicy) -> None:
        """Compare a forward over shared prefixes with plain forwards.

        Raises:
            ModelError: they differ by more than rounding.
        """
        ...

    def prepare(self, batch: MicroBatch) -> Batch:
        """Read the examples of one forward; a task may leave that to `forward`."""
        ...

    def weight(self, batch: Batch) -> float:
        """The weight of the forward's examples in the mean loss; fillers weigh nothing."""
        ...

    def forward(self, policy: ShardedPolicy, batch: Batch) -> dict[str, Tensor]:
        """The summed `loss` of the forward's examples, and scalars to sum for the metrics.

        Among them are `tokens`, `computed` and `padding` (see `OptimizerStep`).
        """
        ...

    def metrics(self, totals: Mapping[str, float]) -> dict[str, Any]:
        """The fields that `step_metrics` adds, from the sums over all workers and `weight`."""
        ...

    def guard(self, history: Sequence[Any]) -> None:
        """Look at the metrics after each step.

        Raises:
            CollapseError: training must stop.
        """
        ...

    def finish(self, policy: ShardedPolicy, worker: Worker) -> None:
        """Do what remains while the trained model is in memory."""
        ...

    def export(self, model: Any, weights: Mapping[str, Tensor]) -> None:
        """Write the model directory; only the first worker calls it."""
        ...

    def result(self, **common: Any) -> LearningResult:
        """What the training came to; `common` are the fields of every result."""
        ...


def train(task: Task[Any], worker: Worker, host: Host) -> LearningResult:
    """Train, and write the model; the first worker reports the metrics of each step.

    Raises:
        ConfigError: the batch size does not divide by micro-batch size x workers.
        ModelError: the model cannot be loaded or trained.
        CollapseError: a guard stopped training.
        TrainingError: the input cannot be trained on.
    """
    began = time.monotonic()
    request, settings = task.request, task.request.settings
    if len(set(worker.gather(len(task.lengths)))) > 1:
        raise TrainingError(
            "the workers see different files to train on; they must be on storage that all nodes "
            "share; run the same command again"
        )
    policy = _build(task)
    worker.agree(lambda: task.check_model(policy))
    history, restarted_because = restore(request, policy, host, task.step_metrics)
    resumed_at = len(history)
    for step in planned_steps(len(task.lengths), settings, seed=request.seed, first=resumed_at):
        rate = learning_rate(step.number, step.steps, request.learning_rate, settings)
        micro_batches = shard(
            step.examples, task.lengths, rank=worker.rank, world=worker.world, settings=settings
        )
        found = _take_step(task, policy, micro_batches, worker, rate)
        made = task.step_metrics(step=step.number + 1, steps=step.steps, epoch=step.epoch, **found)
        history.append(made)
        if worker.rank == 0:
            host.report(made)
        task.guard(history)
        if made.step % settings.checkpoint_every == 0 and made.step < step.steps:
            keep(request, policy, history, worker, host)
    task.finish(policy, worker)
    weights = policy.weights()
    if worker.rank == 0 and weights is not None:
        task.export(policy.model, weights)
    return task.result(
        model_dir=request.output_dir,
        steps=len(history),
        loss_first=history[0].loss,
        loss_last=history[-1].loss,
        seconds=time.monotonic() - began,
        history=tuple(history),
        resumed_at=resumed_at,
        restarted_because=restarted_because,
    )


def _build(task: Task[Any]) -> ShardedPolicy:
    request = task.request
    config = build_config(request.settings, request.placement)
    with partitioned_loading(config):
        model = task.load()
    return shard_for_training(
        model,
        config,
        learning_rate=request.learning_rate,
        weight_decay=request.settings.weight_decay,
        rates=task.rates,
    )


def _take_step(
    task: Task[Any],
    policy: ShardedPolicy,
    micro_batches: Sequence[MicroBatch],
    worker: Worker,
    rate: float,
) -> dict[str, Any]:
    """Forward and backward of all micro-batches, then one update; all workers call it."""
    began = time.perf_counter()
    prepared = [task.prepare(batch) for batch in micro_batches]
    weight = _summed({"weight": sum(map(task.weight, prepared))}, policy.device)["weight"] or 1.0
    # DeepSpeed averages gradients over workers and forwards; the loss is the mean over `weight`.
    scale = worker.world * len(micro_batches) / weight
    sums: dict[str, Any] = {}
    for batch in prepared:
        counts = task.forward(policy, batch)
        policy.step(counts["loss"] * scale, rate)
        for name, value in counts.items():
            sums[name] = sums.get(name, 0.0) + value.detach().double()
    totals = {**_summed(sums, policy.device), "weight": weight}
    return {
        "loss": totals["loss"] / weight,
        "grad_norm": policy.grad_norm(),
        "learning_rate": rate,
        "seconds": time.perf_counter() - began,
        **{name: round(totals[name]) for name in _COUNTS},
        **task.metrics(totals),
    }


def _summed(values: Mapping[str, Any], device: torch.device) -> dict[str, float]:
    """The sums over all workers."""
    sums = torch.stack(
        [torch.as_tensor(v, dtype=torch.float64).to(device) for v in values.values()]
    )
    dist.all_reduce(sums)
    return dict(zip(values, sums.tolist(), strict=True))
