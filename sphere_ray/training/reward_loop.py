"""The training loop of one worker for a process reward model: steps, checkpoints, scores, model."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from torch.nn.functional import cross_entropy

from sphere_ray.engines.reward_prompt import RewardPrompt
from sphere_ray.engines.tokens import load_tokenizer
from sphere_ray.errors import CollapseError, ModelError, SphereError, TooFewLabelsError
from sphere_ray.records import LabelledStep
from sphere_ray.schema import from_table
from sphere_ray.training.batches import MicroBatch, global_batches, shard
from sphere_ray.training.deepspeed import (
    ShardedPolicy,
    build_config,
    partitioned_loading,
    shard_for_training,
)
from sphere_ray.training.history import keep, restore
from sphere_ray.training.messages import RewardOutcome, RewardStepMetrics, RewardTrainRequest
from sphere_ray.training.policy import copy_others, put_in_place
from sphere_ray.training.reward_batches import Example, TreeTensors, collate_trees, examples_of
from sphere_ray.training.reward_model import CLASSIFIER, HEAD, StepScorer, load_step_scorer
from sphere_ray.training.schedule import learning_rate
from sphere_ray.training.workers import Host, Worker, guarded

SHARING_TOLERANCE = 0.05
"""Of a logit; SmolLM2-135M with an untrained head: 1e-6 in float32, 0.012 in bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One step: number, epoch, weight and tokens of all workers, this worker's forwards."""

    number: int
    epoch: int
    weight: float
    tokens: int
    micro_batches: Sequence[MicroBatch]


def run_worker(request: RewardTrainRequest, host: Host) -> RewardOutcome | SphereError:
    """Train; a deliberate error is returned, so that Ray Train does not retry it.

    The first worker reports the `RewardStepMetrics` of each step.
    """
    return guarded(request, host, _train)


def _train(request: RewardTrainRequest, worker: Worker, host: Host) -> RewardOutcome:
    settings = request.settings
    examples, dropped = _examples(request, request.steps_path)
    if len(examples) < settings.min_problems:
        raise TooFewLabelsError(
            f"only {len(examples)} problems have steps to train a reward model on "
            f"(trained.training.min_problems: {settings.min_problems}); roll out more problems"
        )
    plans = _plan(examples, request, worker)
    policy = _build(request)
    worker.agree(lambda: _check_sharing(policy, examples[0]))
    history = restore(policy, host, RewardStepMetrics)
    resumed_at = len(history)
    for plan in plans[resumed_at:]:
        rate = learning_rate(plan.number, len(plans), settings.learning_rate, settings)
        metrics = _take_step(policy, examples, plan, worker, steps=len(plans), rate=rate)
        if not np.isfinite([metrics.loss, metrics.grad_norm]).all():
            raise CollapseError(
                f"training of the reward model diverged at step {metrics.step}; lower "
                f"trained.training.learning_rate ({settings.learning_rate:g})"
            )
        history.append(metrics)
        if worker.rank == 0:
            host.report(metrics)
        if metrics.step % settings.checkpoint_every == 0 and metrics.step < len(plans):
            keep(policy, history, host)
    _score_held_out(request, policy, worker)
    weights = policy.weights()
    if worker.rank == 0 and weights is not None:
        _export(request, policy.model, weights)
    return RewardOutcome(
        history=tuple(history),
        problems=len(examples),
        labels=sum(len(example.places) for example in examples),
        dropped=dropped,
        resumed_at=resumed_at,
    )


def _examples(request: RewardTrainRequest, path: str) -> tuple[list[Example], dict[str, int]]:
    trained = request.trained
    prompt = RewardPrompt(
        load_tokenizer(request.model_dir),
        system=trained.system,
        step_tag=None if trained.shape == CLASSIFIER else trained.step_tag,
    )
    examples, dropped = examples_of(
        from_table(pq.read_table(path), LabelledStep),
        prompt,
        labels=trained.training.labels,
        balance=trained.training.balance,
        max_length=trained.training.max_length,
    )
    return examples, dict(dropped)


def _plan(examples: Sequence[Example], request: RewardTrainRequest, worker: Worker) -> list[_Plan]:
    settings = request.settings
    tokens = np.array([example.tokens for example in examples])
    weights = np.array([example.weight for example in examples])
    batches = [
        (epoch, batch)
        for epoch in range(settings.epochs)
        for batch in global_batches(
            len(examples), settings.batch_size, seed=request.seed, epoch=epoch
        )
    ]
    return [
        _Plan(
            number=number,
            epoch=epoch,
            weight=float(weights[batch].sum()),
            tokens=int(tokens[batch].sum()),
            micro_batches=shard(
                batch, tokens, rank=worker.rank, world=worker.world, settings=settings
            ),
        )
        for number, (epoch, batch) in enumerate(batches)
    ]


def _build(request: RewardTrainRequest) -> ShardedPolicy:
    config = build_config(request.settings, request.placement)
    with partitioned_loading(config):
        model = load_step_scorer(request.model_dir, request.trained.shape, request.settings)
    return shard_for_training(
        model,
        config,
        learning_rate=request.settings.learning_rate,
        weight_decay=request.settings.weight_decay,
        rates={HEAD: request.settings.head_rate},
    )


def _take_step(
    policy: ShardedPolicy,
    examples: Sequence[Example],
    plan: _Plan,
    worker: Worker,
    *,
    steps: int,
    rate: float,
) -> RewardStepMetrics:
    """Forward and backward of all micro-batches, then one update; all workers call it."""
    started = time.perf_counter()
    # DeepSpeed averages over workers and forwards; the loss is the weighted mean over all steps.
    scale = worker.world * len(plan.micro_batches) / plan.weight
    total = torch.zeros(1, dtype=torch.float64, device=policy.device)
    for batch in plan.micro_batches:
        tensors = collate_trees([examples[index] for index in batch.indices], batch.weights)
        tensors = tensors.to(policy.device)
        loss = _loss(_logits(policy, tensors), tensors)
        policy.step(loss * scale, rate)
        total += loss.detach().double()
    dist.all_reduce(total)
    return RewardStepMetrics(
        step=plan.number + 1,
        steps=steps,
        epoch=plan.epoch,
        loss=float(total) / plan.weight,
        grad_norm=policy.grad_norm(),
        learning_rate=rate,
        tokens=plan.tokens,
        seconds=time.perf_counter() - started,
    )


def _loss(logits_m2: Tensor, tensors: TreeTensors) -> Tensor:
    targets_m2 = torch.stack([1 - tensors.right_m, tensors.right_m], dim=-1)
    shifts_m2 = torch.stack([torch.zeros_like(tensors.shifts_m), tensors.shifts_m], dim=-1)
    loss_m = cross_entropy(logits_m2 + shifts_m2, targets_m2, reduction="none")
    return (loss_m * tensors.weights_m).sum()


def _logits(model: Callable[..., Any], tensors: TreeTensors) -> Tensor:
    logits_m2: Tensor = model(
        input_ids=tensors.input_ids_1s,
        attention_mask=tensors.attention_mask_11ss,
        position_ids=tensors.position_ids_1s,
        nodes_m=tensors.nodes_m,
    )
    return logits_m2


@torch.no_grad()
def _rewards(policy: ShardedPolicy, example: Example) -> list[float]:
    tensors = collate_trees([example], [1.0]).to(policy.device)
    rewards: list[float] = _logits(policy, tensors).softmax(-1)[:, 1].tolist()
    return rewards


@torch.no_grad()
def _check_sharing(policy: ShardedPolicy, example: Example) -> None:
    """Compare logits in one tree with those of its first and last path in a plain forward.

    Raises:
        ModelError: the model's layers do not all follow the attention mask.
    """
    shared_m2 = _logits(policy, collate_trees([example], [1.0]).to(policy.device))
    differences = []
    for place in (0, len(example.paths) - 1):
        ids_1s = torch.tensor([example.paths[place]], device=policy.device)
        last_1 = torch.tensor([ids_1s.shape[1] - 1], device=policy.device)
        alone_12 = policy(input_ids=ids_1s, attention_mask=None, position_ids=None, nodes_m=last_1)
        differences.append((shared_m2[place] - alone_12[0]).abs().max().item())
    # Only now: under ZeRO-3 every worker has to make the same number of forwards.
    if max(differences) > SHARING_TOLERANCE:
        raise ModelError(
            "this model cannot be trained with shared prefixes: its logits come out "
            f"{max(differences):.2g} apart; models with recurrent layers, or with a sliding window "
            "shorter than trained.training.max_length, are not supported"
        )


def _score_held_out(request: RewardTrainRequest, policy: ShardedPolicy, worker: Worker) -> None:
    """Write the rewards of the held-out steps; every worker makes as many forwards (ZeRO-3)."""
    examples, _ = _examples(request, request.held_out_path)
    rows = pq.read_metadata(request.held_out_path).num_rows
    mine: dict[int, float] = {}
    for start in range(0, len(examples), worker.world):
        example = examples[min(start + worker.rank, len(examples) - 1)]
        mine.update(zip(example.places, _rewards(policy, example), strict=True))
    scores = {place: reward for share in worker.gather(mine) for place, reward in share.items()}
    if worker.rank == 0:
        column = pa.array([scores.get(place) for place in range(rows)], pa.float64())
        pq.write_table(pa.table({"score": column}), request.scores_path)


def _export(request: RewardTrainRequest, model: Any, weights: Any) -> None:
    """Write weights under the names of the shape, and the other files of the source as they are."""
    assert isinstance(model, StepScorer)
    target = Path(request.output_dir)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    prefix = (
        f"{model.model.base_model_prefix}." if request.trained.shape == CLASSIFIER else "model."
    )
    named = {
        f"{prefix}{name.removeprefix('model.')}" if name.startswith("model.") else name: _alone(
            tensor
        )
        for name, tensor in weights.items()
    }
    save_torch_state_dict(named, partial)
    copy_others(request.model_dir, partial)
    put_in_place(partial, target)


def _alone(tensor: Tensor) -> Tensor:
    """The tensor in memory of its own: DeepSpeed keeps all of them in one buffer."""
    whole = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor.detach() if whole else tensor.detach().clone()
