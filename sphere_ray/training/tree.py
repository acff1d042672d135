"""Sequences that share prefixes as one row, so that each distinct prefix is computed once.

The nodes of their prefix tree become the positions of the row. Each attends to its ancestors alone
and has the position it has in its sequence, so it is computed as in a row of its own (prefix
sharing, arXiv 2410.20305, for more than two sequences). Shape suffix: s nodes, parents first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
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
        """The tree of these sequences; unless `shared`, each has nodes of its own."""
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

    def inputs(self, device: torch.device, *, masked: bool = True) -> dict[str, Tensor | None]:
        """A transformers model's arguments for these nodes as one row.

        With `masked` a node sees itself and its ancestors alone. Otherwise there is no mask, and
        the model must find where sequences begin by the position ids, which restart at 0.
        """
        mask_11ss = None
        if masked:
            mask_11ss = torch.from_numpy(self._mask_ss()).to(device)[None, None]
        return {
            "input_ids": torch.tensor([self.ids_s], device=device),
            "position_ids": torch.tensor([self.depths_s], device=device),
            "attention_mask": mask_11ss,
        }

    def _mask_ss(self) -> NDArray[np.bool_]:
        mask_ss = np.eye(len(self.parents_s), dtype=bool)
        for node, parent in enumerate(self.parents_s):
            if parent != ROOT:
                mask_ss[node] |= mask_ss[parent]
        return mask_ss
