"""Which examples make a step, which worker computes them, and how pairs become tensors.

The order depends on the seed and the epoch alone, so every world size sees the same global batches.
Shape suffixes as in method/preference.py; s is nodes of the prefix tree, m those that are scored.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

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
    """Examples of one forward; weight 0 marks a filler, so that all workers make as many."""

    indices: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """One forward: the prefix tree of all rows, and where in it each row's completion lies.

    `inputs` are the model's (`PrefixTree.inputs`), and `computed` is the number of nodes. The rows
    are the chosen completions, then the rejected ones. Logits are needed only at the parents of the
    m nodes that lie in a completion: `parents_m` predict `scored_ids_1m`. `nodes_nt` are indices
    into the m nodes, meaningless where `completion_mask_nt` is false.
    """

    inputs: Mapping[str, Tensor | None]
    computed: int
    parents_m: Tensor
    scored_ids_1m: Tensor
    nodes_nt: Tensor
    completion_mask_nt: Tensor


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """An optimizer step: 0-based number of all `steps`, epoch, and its examples [b]."""

    number: int
    steps: int
    epoch: int
    examples: Indices


def planned_steps(
    count: int, settings: OptimizationSettings, *, seed: int, first: int = 0
) -> Iterator[PlannedStep]:
    """The steps from the `first` on: each epoch is a seeded permutation of all examples.

    They are planned one by one, so that a million examples cost one permutation at a time. The
    batches of an epoch differ by one example at most, so that each example weighs about as much.
    """
    an_epoch = -(-count // settings.batch_size)
    for number in range(first, settings.epochs * an_epoch):
        epoch, batch = divmod(number, an_epoch)
        if number == first or batch == 0:
            order = np.random.default_rng([seed, epoch]).permutation(count)
        yield PlannedStep(
            number=number,
            steps=settings.epochs * an_epoch,
            epoch=epoch,
            examples=order[batch * count // an_epoch : (batch + 1) * count // an_epoch],
        )


def shard(
    batch: Indices, lengths: Indices, *, rank: int, world: int, settings: OptimizationSettings
) -> list[MicroBatch]:
    """This worker's micro-batches of a global batch; every rank gets the same number.

    Examples of similar length meet in the same forward across ranks (less waiting). A batch that
    is not full is filled with the shortest example of all, at weight 0.
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


def collate(pairs: Sequence[EncodedPair], device: torch.device, *, shared: bool = True) -> Tensors:
    """Merge pairs into one forward.

    With `shared`, what prompts and completions have in common is computed once. Otherwise the
    rows are packed end to end, for variable-length flash attention.
    """
    rows = [(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
    rows += [(pair.prompt_ids, pair.rejected_ids) for pair in pairs]
    tree = PrefixTree.of((chain(prompt, completion) for prompt, completion in rows), shared=shared)
    completions = [path[len(prompt) :] for path, (prompt, _) in zip(tree.paths, rows, strict=True)]
    scored = sorted(set(chain.from_iterable(completions)))
    positions = {node: position for position, node in enumerate(scored)}
    nodes_nt = torch.zeros(len(rows), max(map(len, completions)), dtype=torch.long)
    mask_nt = torch.zeros_like(nodes_nt, dtype=torch.bool)
    for row, nodes in enumerate(completions):
        nodes_nt[row, : len(nodes)] = torch.tensor([positions[node] for node in nodes])
        mask_nt[row, : len(nodes)] = True
    return Tensors(
        inputs=tree.inputs(device, masked=shared),
        computed=len(tree.ids_s),
        parents_m=torch.tensor([tree.parents_s[node] for node in scored], device=device),
        scored_ids_1m=torch.tensor([[tree.ids_s[node] for node in scored]], device=device),
        nodes_nt=nodes_nt.to(device),
        completion_mask_nt=mask_nt.to(device),
    )


def pad_logps(rows: Sequence[Sequence[float]], width: int) -> Tensor:
    """Per-token log-probs as a float32 tensor [n, t], zero where there is no token."""
    logps_nt = torch.zeros(len(rows), width)
    for row, values in enumerate(rows):
        logps_nt[row, : len(values)] = torch.tensor(values)
    return logps_nt
