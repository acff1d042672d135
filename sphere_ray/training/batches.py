"""Which pairs make a step, who computes which of them, and how they become tensors.

The order depends on the seed and the epoch alone, so every world size sees the same global batches.
Shape suffixes as in method/preference.py; s is positions of prompt plus completion.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sphere_ray.config.training import TrainerPlacement, TrainingSettings
from sphere_ray.errors import ConfigError
from sphere_ray.training.encoding import EncodedPair

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Pairs of one forward; a weight of 0 marks a filler that only keeps the workers in step."""

    indices: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """One forward: the chosen rows first, then the rejected ones.

    Prompts are padded on the left, completions on the right, so that completions start in the same
    column and logits are needed for the last t columns only.
    """

    input_ids_ns: Tensor
    attention_mask_ns: Tensor
    position_ids_ns: Tensor
    completion_ids_nt: Tensor
    completion_mask_nt: Tensor

    def to(self, device: torch.device) -> "Tensors":
        """The same on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self)}
        return Tensors(**moved)


def accumulation(settings: TrainingSettings, placement: TrainerPlacement) -> int:
    """Forwards of one worker for one optimizer step.

    Raises:
        ConfigError: batch_size is not a multiple of micro_batch_size x workers.
    """
    forwards, rest = divmod(settings.batch_size, settings.micro_batch_size * placement.workers)
    if rest:
        raise ConfigError(
            f"training.batch_size ({settings.batch_size}) is not a multiple of micro_batch_size "
            f"({settings.micro_batch_size}) x workers ({placement.workers}); change one of them"
        )
    return forwards


def global_batches(count: int, batch_size: int, *, seed: int, epoch: int) -> list[Indices]:
    """A seeded permutation of all pairs, cut into batches; the last may be smaller."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def shard(
    batch: Indices, lengths: Indices, *, rank: int, world: int, settings: TrainingSettings
) -> list[MicroBatch]:
    """This worker's micro-batches of a global batch: as many for every rank.

    Pairs of similar length meet in a micro-batch (less padding) and, across ranks, in the same
    forward (less waiting). What is missing to a full batch is filled with the shortest pair at
    weight 0.
    """
    micro = settings.micro_batch_size
    ordered = batch[np.lexsort((batch, -lengths[batch]))]
    missing = settings.batch_size - len(ordered)
    filled = np.concatenate([ordered, np.full(missing, np.argmin(lengths))])
    weights = np.concatenate([np.ones(len(ordered)), np.zeros(missing)])
    rows = range(rank * micro, settings.batch_size, world * micro)
    return [
        MicroBatch(
            indices=tuple(filled[row : row + micro].tolist()),
            weights=tuple(weights[row : row + micro].tolist()),
        )
        for row in rows
    ]


def collate(pairs: Sequence[EncodedPair]) -> Tensors:
    """Pad pairs into one forward of twice as many rows."""
    prompts = [pair.prompt_ids for pair in pairs] * 2
    completions = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
    prompt_width = max(map(len, prompts))
    width = max(map(len, completions))
    ids_ns = torch.zeros(len(prompts), prompt_width + width, dtype=torch.long)
    mask_ns = torch.zeros_like(ids_ns)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        start, end = prompt_width - len(prompt), prompt_width + len(completion)
        ids_ns[row, start:prompt_width] = torch.tensor(prompt)
        ids_ns[row, prompt_width:end] = torch.tensor(completion)
        mask_ns[row, start:end] = 1
    return Tensors(
        input_ids_ns=ids_ns,
        attention_mask_ns=mask_ns,
        position_ids_ns=(mask_ns.cumsum(dim=1) - 1).clamp(min=0),
        completion_ids_nt=ids_ns[:, prompt_width:],
        completion_mask_nt=mask_ns[:, prompt_width:].bool(),
    )


def pad_logps(rows: Sequence[Sequence[float]], width: int) -> Tensor:
    """Per-token log-probs as a float32 tensor [n, t], zero where there is no token."""
    logps_nt = torch.zeros(len(rows), width)
    for row, values in enumerate(rows):
        logps_nt[row, : len(values)] = torch.tensor(values)
    return logps_nt
