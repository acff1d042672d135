"""The task of learning preference pairs: DPO and the losses like it (method/preference.py)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from sphere_ray.method.preference import LossInputs, preference_loss, sequence_logps
from sphere_ray.models.weights import StoredWeights
from sphere_ray.training.adapters import merged, with_adapters
from sphere_ray.training.batches import MicroBatch
from sphere_ray.training.deepspeed import ShardedPolicy
from sphere_ray.training.loop import Task
from sphere_ray.training.messages import StepMetrics, TrainRequest, TrainResult
from sphere_ray.training.policy import export, load_model
from sphere_ray.training.reference_table import ReferenceTable
from sphere_ray.training.steering import check_collapse
from sphere_ray.trees.pairs import collate, pad_logps
from sphere_ray.trees.scoring import PREFIX, TokenScorer, check_prefix_sharing, completion_logps


class PreferenceTask(Task[MicroBatch]):
    """An example is a pair of the reference table, and weighs 1."""

    step_metrics = StepMetrics
    group = "training"
    request: TrainRequest

    def __init__(self, request: TrainRequest) -> None:
        """Open the reference table."""
        self.request = request
        self.settings = request.settings
        self._table = ReferenceTable(request.reference_path)
        self.lengths = self._table.tokens()

    def load(self) -> nn.Module:
        """Load the policy, with adapters where they are asked for."""
        whole, lora = load_model(self.request.model_dir, self.settings), self.settings.lora
        return TokenScorer(whole if lora is None else with_adapters(whole, lora, self.request.seed))

    def check_model(self, policy: ShardedPolicy) -> None:
        """See `Task.check_model`."""
        shortest = self._table.pair(int(self.lengths.argmin()))
        attention = self.settings.attention
        check_prefix_sharing(policy, shortest, device=policy.device, attention=attention)

    def prepare(self, batch: MicroBatch) -> tuple[MicroBatch, float]:
        """Leave the reading to `forward`: the tensors of a whole step would be large."""
        return batch, sum(batch.weights)

    def forward(self, policy: ShardedPolicy, batch: MicroBatch) -> dict[str, Any]:
        """See `Task.forward`; the sums are over pairs."""
        pairs = [self._table.pair(index) for index in batch.indices]
        tensors = collate(pairs, policy.device, self.settings.attention)
        mask_nt = tensors.completion_mask_nt
        logps_nt = completion_logps(policy, tensors)
        recorded = [self._table.logps(index) for index in batch.indices]
        reference_nt = pad_logps(
            [chosen for chosen, _ in recorded] + [rejected for _, rejected in recorded],
            logps_nt.shape[1],
        ).to(policy.device)
        chosen_b, rejected_b = sequence_logps(logps_nt, mask_nt).chunk(2)
        reference_chosen_b, reference_rejected_b = sequence_logps(reference_nt, mask_nt).chunk(2)
        chosen_length_b, rejected_length_b = mask_nt.sum(dim=-1).chunk(2)
        outputs = preference_loss(
            LossInputs(
                chosen_b=chosen_b,
                rejected_b=rejected_b,
                reference_chosen_b=reference_chosen_b,
                reference_rejected_b=reference_rejected_b,
                chosen_length_b=chosen_length_b,
                rejected_length_b=rejected_length_b,
            ),
            self.settings.loss,
        )
        margin_b = outputs.chosen_reward_b - outputs.rejected_reward_b
        weight_b = torch.tensor(batch.weights, device=policy.device)
        of_pairs = {
            "loss": outputs.loss_b,
            "right": margin_b > 0,
            "margin": margin_b,
            "chosen_logp": chosen_b,
            "rejected_logp": rejected_b,
            "chosen_shift": chosen_b - reference_chosen_b,
            "chosen_tokens": chosen_length_b,
            "rejected_tokens": rejected_length_b,
            "tokens": torch.tensor(self.lengths[list(batch.indices)], device=policy.device),
        }
        return {
            **{name: (value * weight_b).sum() for name, value in of_pairs.items()},
            "computed": tensors.computed,
            "padding": tensors.computed * batch.weights.count(0) / len(batch.weights),
        }

    def metrics(self, totals: Mapping[str, float]) -> dict[str, Any]:
        """The fields of `StepMetrics`."""
        weight = totals["weight"]
        return {
            "reward_accuracy": totals["right"] / weight,
            "margin": totals["margin"] / weight,
            "chosen_logp": totals["chosen_logp"] / totals["chosen_tokens"],
            "rejected_logp": totals["rejected_logp"] / totals["rejected_tokens"],
            "chosen_shift": totals["chosen_shift"] / totals["chosen_tokens"],
            "chosen_length": totals["chosen_tokens"] / weight,
            "rejected_length": totals["rejected_tokens"] / weight,
        }

    def guard(self, history: Sequence[StepMetrics]) -> None:
        """Look at the chosen side too."""
        super().guard(history)
        check_collapse(history, self.settings.guard)

    def export(self, weights: Iterator[tuple[str, Tensor]]) -> float:
        """Write a Hugging Face directory; adapters are merged."""
        source, lora = self.request.model_dir, self.settings.lora
        named = ((name.removeprefix(PREFIX), weight) for name, weight in weights)
        with closing(StoredWeights(source, lambda: load_model(source, self.settings))) as base:
            whole = named if lora is None else merged(base, dict(named), self.settings)
            return export(whole, base, self.request)

    def result(self, **common: Any) -> TrainResult:
        """See `Task.result`."""
        last: StepMetrics = common["history"][-1]
        return TrainResult(pairs=len(self._table), reward_accuracy=last.reward_accuracy, **common)
