"""Sequences that share prefixes as one row, so that each distinct prefix is computed once.

The nodes of their prefix tree become the positions of the row. Each attends to its ancestors alone
and has the position it has in its sequence, so it is computed as in a row of its own (prefix
sharing, arXiv 2410.20305, for more than two sequences). Shape suffix: s nodes, in preorder: a node
is followed by its first child, and the nodes below it are adjacent.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from sphere_ray.compat.torch import has_cpu_flash
from sphere_ray.config.training import DENSE_ATTENTION, Attention, shares_prefixes
from sphere_ray.trees.attention import Block, as_mask, block_mask

ROOT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixTree:
    """Token id, depth and parent (`ROOT` where a sequence begins) of each node.

    `paths` are the nodes of each sequence, in the order given.
    """

    ids_s: Sequence[int]
    depths_s: Sequence[int]
    parents_s: Sequence[int]
    paths: Sequence[Sequence[int]]

    @classmethod
    def of(cls, sequences: Iterable[Iterable[int]], *, shared: bool = True) -> "PrefixTree":
        """The tree of these sequences; unless `shared`, each has nodes of its own."""
        found: dict[tuple[int, int], int] = {}
        depths: list[int] = []
        paths: list[list[int]] = []
        for number, sequence in enumerate(sequences):
            node, path = ROOT if shared else ROOT - number, list[int]()
            for depth, token in enumerate(sequence):
                node = found.setdefault((node, token), len(found))
                if node == len(depths):
                    depths.append(depth)
                path.append(node)
            paths.append(path)
        parents = [max(parent, ROOT) for parent, _ in found]
        order = _preorder(parents)
        place = np.empty(len(order) + 1, np.int64)
        place[order] = np.arange(len(order))
        place[ROOT] = ROOT
        return cls(
            ids_s=np.array([token for _, token in found], np.int64)[order].tolist(),
            depths_s=np.array(depths, np.int64)[order].tolist(),
            parents_s=place[np.array(parents, np.int64)[order]].tolist(),
            paths=[place[path].tolist() if path else [] for path in paths],
        )

    def inputs(
        self, device: torch.device, attention: Attention = "tree"
    ) -> dict[str, Tensor | BlockMask | None]:
        """A transformers model's arguments for these nodes as one row.

        With `tree` and `sdpa` a node sees itself and its ancestors alone: `tree` says so by the
        blocks that are not empty (attention.py), `sdpa` by a mask of s x s. Otherwise there is no
        mask, and the model must find where sequences begin by the position ids, which restart at 0.
        """
        return {
            "input_ids": torch.tensor([self.ids_s], device=device),
            "position_ids": torch.tensor([self.depths_s], device=device),
            "attention_mask": self._mask(device, attention),
        }

    def ends(self) -> NDArray[np.int64]:
        """The node behind the last one below each node: node q sees k if k <= q < ends[k]."""
        ends_s = np.arange(1, len(self.parents_s) + 1)
        for node in range(len(self.parents_s) - 1, 0, -1):
            parent = self.parents_s[node]
            if parent != ROOT and ends_s[node] > ends_s[parent]:
                ends_s[parent] = ends_s[node]
        return ends_s

    def blocks(self) -> list[Block]:
        """Which nodes see which: every node that sees another is in exactly one block with it.

        A run is a chain of adjacent nodes, each the parent of the next. It sees itself causally.
        What leaves a run at a node, and all below it, sees the run up to that node. So there are
        about twice as many blocks as branches, however long those are.
        """
        parents, ends_s = self.parents_s, self.ends()
        starts = [node for node, parent in enumerate(parents) if parent != node - 1 or node == 0]
        stops = [*starts[1:], len(parents)] if starts else []
        own = [(*run, *run, True) for run in zip(starts, stops, strict=True)]
        leaving: dict[int, int] = {}
        for start in starts:
            if parents[start] != ROOT:
                leaving.setdefault(parents[start], start)
        run_of = np.searchsorted(starts, list(leaving), side="right") - 1
        below = [
            (first, int(ends_s[node]), starts[run], node + 1, False)
            for (node, first), run in zip(leaving.items(), run_of.tolist(), strict=True)
        ]
        return own + below

    def _mask(self, device: torch.device, attention: Attention) -> Tensor | BlockMask | None:
        if not shares_prefixes(attention):
            return None
        on_cpu = device.type == "cpu"
        if attention == DENSE_ATTENTION or (on_cpu and not has_cpu_flash()):
            return _dense_mask(torch.from_numpy(self.ends()).to(device))
        return as_mask(self.blocks()) if on_cpu else block_mask(self.ends(), device)


def _dense_mask(ends_s: Tensor) -> Tensor:
    node_s = torch.arange(len(ends_s), device=ends_s.device)
    return ((node_s <= node_s[:, None]) & (node_s[:, None] < ends_s))[None, None]


def _preorder(parents: Sequence[int]) -> list[int]:
    """The nodes, each followed by all below it; children in the order they are given."""
    children: list[list[int]] = [[] for _ in range(len(parents) + 1)]
    for node, parent in enumerate(parents):
        children[parent].append(node)  # those of ROOT (-1) are the last entry
    order, waiting = list[int](), children[ROOT][::-1]
    while waiting:
        node = waiting.pop()
        order.append(node)
        waiting.extend(reversed(children[node]))
    return order
