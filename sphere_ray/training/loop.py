"""The training loop of one worker: steps, metrics, checkpoints, and the model at the end.

What is learned is a `Task`: preference pairs (dpo.py) or labelled steps (reward_task.py).
"""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sphere_ray.errors import TrainingError
from sphere_ray.training.batches import (
    Indices,
    MicroBatch,
    PlannedStep,
    accumulation,
    planned_steps,
    shard,
)
from sphere_ray.training.deepspeed import ShardedPolicy, load_for_training
from sphere_ray.training.history import keep, restore
from sphere_ray.training.messages import LearningRequest, LearningResult, OptimizerStep
from sphere_ray.training.steering import check_divergence, learning_rate
from sphere_ray.training.workers import Worker

Batch = TypeVar("Batch")


class Task(ABC, Generic[Batch]):
    """What a training learns. All workers call every method alike; only the first, `export`.

    `lengths` are about the tokens of each example. `rates` are factors of the learning rate, by
    the beginning of a parameter's name. `group` is where the settings stand in a configuration.
    """

    step_metrics: type[OptimizerStep]
    group: str
    rates: Mapping[str, float] = {}
    request: LearningRequest
    lengths: Indices

    @abstractmethod
    def load(self) -> nn.Module:
        """Load the model to begin with."""

    @abstractmethod
    def check_model(self, policy: ShardedPolicy) -> None:
        """Compare a forward over shared prefixes with plain forwards (`require_parity`)."""

    @abstractmethod
    def prepare(self, batch: MicroBatch) -> tuple[Batch, float]:
        """What `forward` needs of the examples, and their weight in the mean loss.

        Fillers weigh nothing. The whole step is prepared before its first forward.
        """

    @abstractmethod
    def forward(self, policy: ShardedPolicy, batch: Batch) -> dict[str, Any]:
        """The summed `loss` of a forward's examples, and numbers to sum for the metrics.

        Among them are `tokens`, `computed` and `padding` (see `OptimizerStep`).
        """

    @abstractmethod
    def metrics(self, totals: Mapping[str, float]) -> dict[str, Any]:
        """The fields that `step_metrics` adds, from the sums over all workers and `weight`."""

    def guard(self, history: Sequence[Any]) -> None:
        """Look at the metrics after each step; a CollapseError stops training."""
        check_divergence(history[-1], self.group)

    def finish(self, policy: ShardedPolicy, worker: Worker) -> None:
        """Do what needs the trained model in memory."""

    @abstractmethod
    def export(self, weights: Iterator[tuple[str, Tensor]]) -> float:
        """Write the model directory from the trained weights; the share of their update in it."""

    @abstractmethod
    def result(self, **common: Any) -> LearningResult:
        """What the training came to; `common` are the fields of every result."""


def train(task: Task[Any], worker: Worker) -> LearningResult:
    """Train, and write the model; the first worker reports the metrics of each step.

    Raises:
        ConfigError: the batch size does not divide by micro-batch size x workers.
        ModelError: the model cannot be loaded or trained.
        CollapseError: a guard stopped training, or little of the update would have been written.
        TrainingError: the workers see different files.
    """
    if len(set(worker.gather(len(task.lengths)))) > 1:
        raise TrainingError(
            "the workers see different files to train on; they must be on storage that all nodes "
            "share; run the same command again"
        )
    with closing(load_for_training(task.load, task.request, task.rates)) as policy:
        return _train(task, policy, worker)


def _train(task: Task[Any], policy: ShardedPolicy, worker: Worker) -> LearningResult:
    began, request, settings = time.monotonic(), task.request, task.request.settings
    worker.agree(lambda: task.check_model(policy))
    history, restarted_because = restore(request, policy, worker, task.step_metrics)
    resumed_at = len(history)
    for step in planned_steps(len(task.lengths), settings, seed=request.seed, first=resumed_at):
        rate = learning_rate(step.number, step.steps, request.learning_rate, settings)
        history.append(_take_step(task, policy, step, worker, rate))
        worker.report(history[-1])
        task.guard(history)
        if len(history) % settings.checkpoint_every == 0 and len(history) < step.steps:
            keep(request, policy, worker, history)
    task.finish(policy, worker)
    weights = policy.trained_weights()
    survival = 1.0
    if worker.rank == 0:
        survival = task.export(weights)
    deque(weights, maxlen=0)  # the other workers have parts of them
    return task.result(
        model_dir=request.output_dir,
        steps=len(history),
        loss_first=history[0].loss,
        loss_last=history[-1].loss,
        update_survival=survival,
        seconds=time.monotonic() - began,
        history=tuple(history),
        resumed_at=resumed_at,
        restarted_because=restarted_because,
    )


def _take_step(
    task: Task[Any], policy: ShardedPolicy, step: PlannedStep, worker: Worker, rate: float
) -> OptimizerStep:
    """Forward and backward of all micro-batches, then one update; all workers call it."""
    began, settings = time.perf_counter(), task.request.settings
    micro_batches = shard(
        step.examples, task.lengths, rank=worker.rank, world=worker.world, settings=settings
    )
    prepared = [task.prepare(batch) for batch in micro_batches]
    weight = _summed({"weight": sum(each for _, each in prepared)}, policy.device)["weight"] or 1.0
    # DeepSpeed divides gradients by workers and accumulation; the loss is the mean over `weight`.
    scale = worker.world * accumulation(settings, task.request.placement) / weight
    sums: dict[str, Any] = {}
    for number, (batch, _) in enumerate(prepared, start=1):
        counts = task.forward(policy, batch)
        policy.step(counts["loss"] * scale, rate, last=number == len(prepared))
        for name, value in counts.items():
            sums[name] = sums.get(name, 0.0) + torch.as_tensor(value, dtype=torch.float64).detach()
    totals = {**_summed(sums, policy.device), "weight": weight}
    return task.step_metrics(
        step=step.number + 1,
        steps=step.steps,
        epoch=step.epoch,
        loss=totals["loss"] / weight,
        grad_norm=policy.grad_norm(),
        learning_rate=rate,
        tokens=round(totals["tokens"]),
        computed=round(totals["computed"]),
        padding=round(totals["padding"]),
        seconds=time.perf_counter() - began,
        **task.metrics(totals),
    )


def _summed(values: Mapping[str, Any], device: torch.device) -> dict[str, float]:
    """The sums over all workers."""
    sums = torch.tensor([float(value) for value in values.values()], dtype=torch.float64).to(device)
    dist.all_reduce(sums)
    return dict(zip(values, sums.tolist(), strict=True))
