"""Preference pairs as tensors: one forward over the prefix tree of all their rows.

Shape suffixes as in method/preference.py; s is nodes of the prefix tree, m those that are scored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from sphere_ray.config.training import Attention, shares_prefixes
from sphere_ray.trees.tree import PrefixTree


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPair:
    """Token ids of one pair; the two completions follow the same prompt."""

    pair_id: str
    prompt_ids: Sequence[int]
    chosen_ids: Sequence[int]
    rejected_ids: Sequence[int]

    @property
    def tokens(self) -> int:
        """Tokens of both rows; the prompt counts twice, though it is computed once."""
        return 2 * len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """One forward: the prefix tree of all rows, and where in it each row's completion lies.

    `inputs` are the model's (`PrefixTree.inputs`), and `computed` is the number of nodes. The rows
    are the chosen completions, then the rejected ones. Hidden states are needed only at the parents
    of the m nodes that lie in a completion: `parents_m` predict `scored_ids_m`. `nodes_nt` are
    indices into the m nodes, meaningless where `completion_mask_nt` is false.
    """

    inputs: Mapping[str, Any]
    computed: int
    parents_m: Tensor
    scored_ids_m: Tensor
    nodes_nt: Tensor
    completion_mask_nt: Tensor


def collate(
    pairs: Sequence[EncodedPair], device: torch.device, attention: Attention = "tree"
) -> Tensors:
    """Merge pairs into one forward for a model with that attention.

    What prompts and completions have in common is computed once. With variable-length flash
    attention the rows are packed end to end instead.
    """
    shared = shares_prefixes(attention)
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
        inputs=tree.inputs(device, attention),
        computed=len(tree.ids_s),
        parents_m=torch.tensor([tree.parents_s[node] for node in scored], device=device),
        scored_ids_m=torch.tensor([tree.ids_s[node] for node in scored], device=device),
        nodes_nt=nodes_nt.to(device),
        completion_mask_nt=mask_nt.to(device),
    )


def pad_logps(rows: Sequence[Sequence[float]], width: int) -> Tensor:
    """Per-token log-probs as a float32 tensor [n, t], zero where there is no token."""
    logps_nt = torch.zeros(len(rows), width)
    for row, values in enumerate(rows):
        logps_nt[row, : len(values)] = torch.tensor(values)
    return logps_nt
