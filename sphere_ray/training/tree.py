"""Sequences that share prefixes as one row, so that each distinct prefix is computed once.

The nodes of their prefix tree become the positions of the row. Each attends to its ancestors alone
and has the position it has in its sequence, so it is computed as in a row of its own (prefix
sharing, arXiv 2410.20305, for more than two sequences). Shape suffix: s nodes, parents first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
        """The tree of these sequences; unless `shared` each has nodes of its own, one by one."""
        nodes: dict[tuple[int, int], int] = {}
        depths: list[int] = []
        paths: list[list[int]] = []
        for number, sequence in enumerate(sequences):
            node, path = ROOT if shared else ROOT - number, list[int]()
            for depth, token in enumerate(sequence):
                node = nodes.setdefault((node, token), len(nodes))
                if node == len(depths):
                    depths.append(depth)
                path.append(node)
            paths.append(path)
        return cls(
            ids_s=[token for _, token in nodes],
            depths_s=depths,
            parents_s=[max(parent, ROOT) for parent, _ in nodes],
            paths=paths,
        )

    def attention_mask_ss(self) -> Tensor:
        """True where the node of the row may see that of the column: itself and its ancestors."""
        mask_ss = np.eye(len(self.parents_s), dtype=bool)
        for node, parent in enumerate(self.parents_s):
            if parent != ROOT:
                mask_ss[node] |= mask_ss[parent]
        return torch.from_numpy(mask_ss)
