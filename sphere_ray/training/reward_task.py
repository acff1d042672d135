"""The task of learning labelled steps: a process reward model."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sphere_ray.engines.reward_prompt import RewardPrompt
from sphere_ray.engines.tokens import load_tokenizer
from sphere_ray.errors import TooFewLabelsError
from sphere_ray.models.directory import copy_others, new_directory
from sphere_ray.models.weights import StoredWeights, write_weights
from sphere_ray.training.batches import MicroBatch
from sphere_ray.training.deepspeed import ShardedPolicy
from sphere_ray.training.keeping import Update, keeping
from sphere_ray.training.loop import Task
from sphere_ray.training.messages import (
    RewardStepMetrics,
    RewardTrainRequest,
    RewardTrainResult,
)
from sphere_ray.training.policy import DTYPES
from sphere_ray.training.reward_batches import Example, LabelledSteps, TreeTensors, collate_trees
from sphere_ray.training.reward_model import BODY, CLASSIFIER, HEAD, StepScorer, load_step_scorer
from sphere_ray.training.workers import Worker
from sphere_ray.trees.scoring import require_parity

SHARING_TOLERANCE = 0.05
"""Of a logit; SmolLM2-135M with an untrained head: 1e-6 in float32, 0.012 in bfloat16."""

Prepared = tuple[list[Example], tuple[float, ...]]
"""The examples of a forward, and their shares: 0 for a filler, else 1."""


class RewardTask(Task[Prepared]):
    """An example is a tree of labelled steps, and weighs as much as they do."""

    step_metrics = RewardStepMetrics
    group = "trained.training"
    request: RewardTrainRequest

    def __init__(self, request: RewardTrainRequest) -> None:
        """Index the steps.

        Raises:
            ModelError: the tokenizer cannot be loaded, or does not know the step tag.
            TooFewLabelsError: fewer problems than `min_problems`.
        """
        self.request = request
        self.settings = request.settings
        self.rates = {HEAD: request.settings.head_rate}
        trained = request.trained
        tag = None if trained.shape == CLASSIFIER else trained.step_tag
        tokenizer = load_tokenizer(request.model_dir)
        prompt = RewardPrompt(tokenizer, system=trained.system, step_tag=tag)
        self._steps = LabelledSteps(request.train_path, prompt, self.settings)
        self._held_out = LabelledSteps(request.held_out_path, prompt, self.settings)
        self.lengths = self._steps.lengths
        self._body = BODY  # where the stored names of the body's weights begin
        if self._steps.problems < self.settings.min_problems:
            raise TooFewLabelsError(
                f"only {self._steps.problems} problems have steps to train a reward model on "
                f"({self.group}.min_problems: {self.settings.min_problems}); roll out more problems"
            )

    def load(self) -> StepScorer:
        """Load body and head."""
        model = load_step_scorer(self.request.model_dir, self.request.trained.shape, self.settings)
        if self.request.trained.shape == CLASSIFIER:
            self._body = f"{model.model.base_model_prefix}."
        return model

    @torch.no_grad()
    def check_model(self, policy: ShardedPolicy) -> None:
        """See `Task.check_model`; compares the first and the last path of the smallest tree."""
        example = self._steps.example(int(self.lengths.argmin()))
        shared_m2 = _logits(policy, collate_trees([example], [1.0], policy.device))
        differences = []
        for index in (0, -1):
            path = example.paths[index] if example.paths else (0,)
            ids_1s = torch.tensor([path], device=policy.device)
            last_1 = torch.tensor([len(path) - 1], device=policy.device)
            alone_12 = policy(input_ids=ids_1s, nodes_m=last_1)
            differences.append((shared_m2[index] - alone_12[0]).abs().max().item())
        require_parity(differences, SHARING_TOLERANCE, "logits", self.group)

    def prepare(self, batch: MicroBatch) -> tuple[Prepared, float]:
        """Read and encode the examples: only then is it known which steps are too long."""
        prepared = [self._steps.example(index) for index in batch.indices], batch.weights
        return prepared, _shared(prepared, lambda each: sum(t.weight for t in each.targets))

    def forward(self, policy: ShardedPolicy, batch: Prepared) -> dict[str, Tensor | float]:
        """See `Task.forward`; the loss is summed over steps."""
        tensors = collate_trees(*batch, policy.device)
        logits_m2 = _logits(policy, tensors)
        targets_m2 = torch.stack([1 - tensors.right_m, tensors.right_m], dim=-1)
        shifts_m2 = torch.stack([torch.zeros_like(tensors.shifts_m), tensors.shifts_m], dim=-1)
        loss_m = cross_entropy(logits_m2 + shifts_m2, targets_m2, reduction="none")
        counts = {
            "tokens": tensors.tokens,
            "computed": tensors.computed,
            "padding": tensors.computed - tensors.tokens,
            "dropped": _shared(batch, lambda example: example.dropped),
        }
        return counts | {"loss": (loss_m * tensors.weights_m).sum()}

    def metrics(self, totals: Mapping[str, float]) -> dict[str, Any]:
        """The fields of `RewardStepMetrics`."""
        return {"dropped": round(totals["dropped"])}

    @torch.no_grad()
    def finish(self, policy: ShardedPolicy, worker: Worker) -> None:
        """Score the held-out steps; every worker makes as many forwards (ZeRO-3)."""
        held_out = self._held_out
        scores = np.full(len(held_out.rows), np.nan)
        for start in range(0, len(held_out), worker.world):
            example = held_out.example(min(start + worker.rank, len(held_out) - 1))
            logits_m2 = _logits(policy, collate_trees([example], [1.0], policy.device))
            if example.rows:
                scores[list(example.rows)] = logits_m2.softmax(-1)[:, 1].cpu().numpy()
        total = np.fmax.reduce(worker.gather(scores))
        if worker.rank == 0:
            column = pa.array(total, pa.float64(), from_pandas=True)  # not a number: null
            pq.write_table(pa.table({"score": column}), self.request.scores_path)

    def export(self, weights: Iterator[tuple[str, Tensor]]) -> float:
        """Write weights under the names of the shape; the other files stay as they are."""
        source, update = self.request.model_dir, Update(keeping(self.request))
        precision = DTYPES[self.settings.precision]
        stored = (
            (self._body + name.removeprefix(BODY) if name.startswith(BODY) else name, weight)
            for name, weight in weights
        )
        with (
            closing(StoredWeights(source, self.load)) as base,
            new_directory(self.request.output_dir) as directory,
        ):
            write_weights(update.kept(stored, lambda name: base[name].to(precision)), directory)
            copy_others(source, directory)
            return update.survival()

    def result(self, **common: Any) -> RewardTrainResult:
        """See `Task.result`; the first epoch has counted once what was dropped."""
        dropped = sum(step.dropped for step in common["history"] if step.epoch == 0)
        return RewardTrainResult(
            problems=self._steps.problems,
            labels=len(self._steps.rows) - dropped,
            dropped={"too_long": dropped} if dropped else {},
            **common,
        )


def _shared(batch: Prepared, count: Callable[[Example], float]) -> float:
    return sum(share * count(example) for example, share in zip(*batch, strict=True))


def _logits(model: Callable[..., Any], tensors: TreeTensors) -> Tensor:
    logits_m2: Tensor = model(**tensors.inputs, nodes_m=tensors.nodes_m)
    return logits_m2
