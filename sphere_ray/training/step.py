"""One optimizer step: losses of the micro-batches, the update, metrics over all workers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from sphere_ray.config.training import TrainingSettings
from sphere_ray.method.preference import LossInputs, LossOutputs, preference_loss, sequence_logps
from sphere_ray.training.batches import MicroBatch, Tensors, collate, pad_logps
from sphere_ray.training.deepspeed import ShardedPolicy
from sphere_ray.training.messages import StepMetrics
from sphere_ray.training.policy import completion_logps
from sphere_ray.training.reference import ReferenceTable

_SUMS = (
    "loss",
    "right",
    "margin",
    "chosen_logp",
    "rejected_logp",
    "chosen_shift",
    "chosen_tokens",
    "rejected_tokens",
    "computed",
    "padding",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """A step: 0-based number, pairs and tokens of all workers, and this worker's forwards."""

    number: int
    epoch: int
    pairs: int
    tokens: int
    micro_batches: Sequence[MicroBatch]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainee:
    """What every step works with."""

    policy: ShardedPolicy
    table: ReferenceTable
    settings: TrainingSettings
    world: int


def take_step(trainee: Trainee, step: PlannedStep, *, steps: int, rate: float) -> StepMetrics:
    """Forward and backward of all micro-batches, then one update; all workers call it."""
    started = time.perf_counter()
    # DeepSpeed averages gradients over workers and forwards; the loss is the mean over all pairs.
    scale = trainee.world * len(step.micro_batches) / step.pairs
    sums = torch.zeros(len(_SUMS), dtype=torch.float64, device=trainee.policy.device)
    for micro_batch in step.micro_batches:
        tensors = _tensors(trainee, micro_batch)
        inputs, outputs, weight_b = _forward(trainee, micro_batch, tensors)
        trainee.policy.step((outputs.loss_b * weight_b).sum() * scale, rate)
        sums += _count(inputs, outputs, weight_b, tensors.input_ids_1s.numel())
    dist.all_reduce(sums)
    total = dict(zip(_SUMS, sums.tolist(), strict=True))
    return StepMetrics(
        step=step.number + 1,
        steps=steps,
        epoch=step.epoch,
        loss=total["loss"] / step.pairs,
        reward_accuracy=total["right"] / step.pairs,
        margin=total["margin"] / step.pairs,
        chosen_logp=total["chosen_logp"] / total["chosen_tokens"],
        rejected_logp=total["rejected_logp"] / total["rejected_tokens"],
        chosen_shift=total["chosen_shift"] / total["chosen_tokens"],
        chosen_length=total["chosen_tokens"] / step.pairs,
        rejected_length=total["rejected_tokens"] / step.pairs,
        grad_norm=trainee.policy.grad_norm(),
        learning_rate=rate,
        tokens=step.tokens,
        computed=round(total["computed"]),
        padding=round(total["padding"]),
        seconds=time.perf_counter() - started,
    )


def _tensors(trainee: Trainee, batch: MicroBatch) -> Tensors:
    pairs = [trainee.table.pair(index) for index in batch.indices]
    return collate(pairs, shared=trainee.settings.shares_prefixes).to(trainee.policy.device)


def _forward(
    trainee: Trainee, batch: MicroBatch, tensors: Tensors
) -> tuple[LossInputs, LossOutputs, Tensor]:
    device = trainee.policy.device
    logps_nt = completion_logps(trainee.policy, tensors)
    recorded = [trainee.table.logps(index) for index in batch.indices]
    reference_nt = pad_logps(
        [chosen for chosen, _ in recorded] + [rejected for _, rejected in recorded],
        logps_nt.shape[1],
    ).to(device)
    mask_nt = tensors.completion_mask_nt
    chosen_b, rejected_b = sequence_logps(logps_nt, mask_nt).chunk(2)
    reference_chosen_b, reference_rejected_b = sequence_logps(reference_nt, mask_nt).chunk(2)
    chosen_length_b, rejected_length_b = mask_nt.sum(dim=-1).chunk(2)
    inputs = LossInputs(
        chosen_b=chosen_b,
        rejected_b=rejected_b,
        reference_chosen_b=reference_chosen_b,
        reference_rejected_b=reference_rejected_b,
        chosen_length_b=chosen_length_b,
        rejected_length_b=rejected_length_b,
    )
    weight_b = torch.tensor(batch.weights, device=device)
    return inputs, preference_loss(inputs, trainee.settings.loss), weight_b


@torch.no_grad()
def _count(inputs: LossInputs, outputs: LossOutputs, weight_b: Tensor, positions: int) -> Tensor:
    margin_b = outputs.chosen_reward_b - outputs.rejected_reward_b
    values = (
        outputs.loss_b,
        margin_b > 0,
        margin_b,
        inputs.chosen_b,
        inputs.rejected_b,
        inputs.chosen_b - inputs.reference_chosen_b,
        inputs.chosen_length_b,
        inputs.rejected_length_b,
    )
    weighed = [(value.double() * weight_b).sum() for value in values]
    computed = weight_b.new_tensor(positions, dtype=torch.float64)
    return torch.stack([*weighed, computed, computed * (weight_b == 0).double().mean()])
