"""Which pairs make a step, who computes which of them, and how they become tensors.

The order depends on the seed and the epoch alone, so every world size sees the same global batches.
Shape suffixes as in method/preference.py; s is nodes of the prefix tree, m those that are scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sphere_ray.config.training import OptimizationSettings, TrainerPlacement
from sphere_ray.errors import ConfigError
from sphere_ray.training.encoding import EncodedPair
from sphere_ray.training.tree import PrefixTree

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Pairs of one forward; a weight of 0 marks a filler that only keeps the workers in step."""

    indices: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """One forward: the prefix tree of all rows, and where in it each row's completion lies.

    Without a mask the rows lie one behind the other and share nothing; where the positions begin
    anew says so to the model, as flash attention for rows of various lengths takes it.
    The rows are the chosen completions, then the rejected ones. Logits are needed only at the
    parents of the m nodes that lie in a completion: `parents_m` predict `scored_ids_1m`.
    `nodes_nt` are places among the m, meaningless where `completion_mask_nt` is false.
    """

    input_ids_1s: Tensor
    position_ids_1s: Tensor
    attention_mask_11ss: Tensor | None
    parents_m: Tensor
    scored_ids_1m: Tensor
    nodes_nt: Tensor
    completion_mask_nt: Tensor

    def to(self, device: torch.device) -> "Tensors":
        """The same on another device."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v if v is None else v.to(device) for k, v in given.items()}
        return Tensors(**moved)


def accumulation(settings: OptimizationSettings, placement: TrainerPlacement) -> int:
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
    batch: Indices, lengths: Indices, *, rank: int, world: int, settings: OptimizationSettings
) -> list[MicroBatch]:
    """This worker's micro-batches of a global batch: as many for every rank.

    Pairs of similar length meet in the same forward across ranks (less waiting). What is missing
    to a full batch is filled with the shortest pair at weight 0.
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


def collate(pairs: Sequence[EncodedPair], *, shared: bool = True) -> Tensors:
    """Merge pairs into one forward; what prompts and completions share is computed once.

    Unless `shared`: then the rows are whole and need no mask.
    """
    rows = [(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
    rows += [(pair.prompt_ids, pair.rejected_ids) for pair in pairs]
    tree = PrefixTree.of((chain(prompt, completion) for prompt, completion in rows), shared=shared)
    completions = [path[len(prompt) :] for path, (prompt, _) in zip(tree.paths, rows, strict=True)]
    scored = sorted(set(chain.from_iterable(completions)))
    places = {node: place for place, node in enumerate(scored)}
    nodes_nt = torch.zeros(len(rows), max(map(len, completions)), dtype=torch.long)
    mask_nt = torch.zeros_like(nodes_nt, dtype=torch.bool)
    for row, nodes in enumerate(completions):
        nodes_nt[row, : len(nodes)] = torch.tensor([places[node] for node in nodes])
        mask_nt[row, : len(nodes)] = True
    return Tensors(
        input_ids_1s=torch.tensor([tree.ids_s]),
        position_ids_1s=torch.tensor([tree.depths_s]),
        attention_mask_11ss=tree.attention_mask_ss()[None, None] if shared else None,
        parents_m=torch.tensor([tree.parents_s[node] for node in scored]),
        scored_ids_1m=torch.tensor([[tree.ids_s[node] for node in scored]]),
        nodes_nt=nodes_nt,
        completion_mask_nt=mask_nt,
    )


def pad_logps(rows: Sequence[Sequence[float]], width: int) -> Tensor:
    """Per-token log-probs as a float32 tensor [n, t], zero where there is no token."""
    logps_nt = torch.zeros(len(rows), width)
    for row, values in enumerate(rows):
        logps_nt[row, : len(values)] = torch.tensor(values)
    return logps_nt
