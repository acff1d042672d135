"""Labelled steps as prefix trees: the question and each distinct step once.

Shape suffixes: s nodes of the tree, m steps.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from sphere_ray.config.training import RewardTrainingSettings
from sphere_ray.engines.reward_prompt import RewardPrompt
from sphere_ray.records import LabelledStep
from sphere_ray.reward.labels import Balance, Target, label_of
from sphere_ray.schema import from_table
from sphere_ray.shards import Shards
from sphere_ray.training.batches import Indices
from sphere_ray.trees.tree import PrefixTree

TREE_NODES = 8192
"""Nodes of one tree, about: what its forward keeps for the backward pass grows with them."""

# Before they are encoded, only the bytes of steps are known. Mathematics has about three bytes a
# token; with two, few trees become larger than they should.
_BYTES_A_TOKEN = 2
_ROWS_AT_A_TIME = 1 << 14
_COLUMNS = ("problem_id", "question", "prefix", "text", "value", "outcomes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Steps of one problem: token ids of each path, target, and row; too long ones are counted."""

    paths: tuple[tuple[int, ...], ...]
    targets: tuple[Target, ...]
    rows: tuple[int, ...]
    dropped: int


class LabelledSteps:
    """The labelled steps of a directory; an example is a problem's steps of one rollout.

    Only where the examples begin is held, with sizes and counts. A problem of too many steps is
    split into several examples.
    """

    def __init__(self, path: str, prompt: RewardPrompt, settings: RewardTrainingSettings) -> None:
        """Read the columns once."""
        self.rows = Shards(path)
        self.balance = Balance()
        self._prompt, self._settings = prompt, settings
        problems, starts, sizes = set[str](), list[int](), list[int]()
        last, room = None, 0
        for row, (problem, depth, label, texts, shared) in enumerate(self._columns()):
            if settings.balance:
                self.balance.count(depth, label)
            if problem != last or texts > room:
                problems.add(problem)
                starts.append(row)
                sizes.append(shared)
                last, room = problem, _BYTES_A_TOKEN * TREE_NODES - shared
            sizes[-1] += texts
            room -= texts
        self.problems = len(problems)
        self.lengths: Indices = np.array(sizes, dtype=np.int64) // _BYTES_A_TOKEN
        self._starts = [*starts, len(self.rows)]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.lengths)

    def example(self, index: int) -> Example:
        """Read and encode one example; a step whose path is too long is dropped, never cut."""
        rows = range(self._starts[index], self._starts[index + 1])
        steps = [
            step
            for table in self.rows.read(rows, chunk=len(rows))
            for step in from_table(table, LabelledStep)
        ]
        paths = [
            tuple(self._prompt.ids(step.question, [*step.prefix, step.text])) for step in steps
        ]
        fits = [n for n, path in enumerate(paths) if len(path) <= self._settings.max_length]
        return Example(
            paths=tuple(paths[n] for n in fits),
            targets=tuple(self._target(steps[n]) for n in fits),
            rows=tuple(rows[n] for n in fits),
            dropped=len(steps) - len(fits),
        )

    def _target(self, step: LabelledStep) -> Target:
        label = label_of(step.value, step.outcomes, self._settings.labels)
        return self.balance.target(step.depth, label)

    def _columns(self) -> Iterator[tuple[str, int, float, int, int]]:
        """Of each row: problem, depth, label, bytes of the step, bytes of all that it follows."""
        everything = range(len(self.rows))
        for table in self.rows.read(everything, chunk=_ROWS_AT_A_TIME, columns=_COLUMNS):
            for batch in table.to_batches():
                prefixes = batch["prefix"]
                depths = prefixes.value_lengths().to_numpy()
                ends = np.cumsum(depths)
                summed = np.cumsum([0, *pc.binary_length(prefixes.flatten()).to_numpy()])
                before = summed[ends] - summed[ends - depths]
                before += pc.binary_length(batch["question"]).to_numpy()
                values, outcomes = batch["value"].to_pylist(), batch["outcomes"].to_pylist()
                yield from zip(
                    batch["problem_id"].to_pylist(),
                    depths.tolist(),
                    map(label_of, values, outcomes, repeat(self._settings.labels)),
                    pc.binary_length(batch["text"]).to_pylist(),
                    before.tolist(),
                    strict=False,
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeTensors:
    """One forward: a tree as the model's `inputs`, and each step's last node and target.

    `computed` is the number of nodes, and `tokens` of those that belong to no filler.
    """

    inputs: Mapping[str, Any]
    nodes_m: Tensor
    right_m: Tensor
    weights_m: Tensor
    shifts_m: Tensor
    computed: int
    tokens: int


def collate_trees(
    examples: Sequence[Example], shares: Sequence[float], device: torch.device
) -> TreeTensors:
    """Merge examples into one forward; `shares` (0 for a filler) scale their steps' weights."""
    steps = [
        (path, target, share)
        for example, share in zip(examples, shares, strict=True)
        for path, target in zip(example.paths, example.targets, strict=True)
    ]
    # A forward needs a node and the loss a step; a step of weight 0 does.
    paths, targets, shares_m = zip(*(steps or [((0,), Target(right=0.0), 0.0)]), strict=True)
    tree = PrefixTree.of(paths)
    real = (path for path, share in zip(tree.paths, shares_m, strict=True) if share)
    return TreeTensors(
        inputs=tree.inputs(device),
        nodes_m=torch.tensor([path[-1] for path in tree.paths], device=device),
        right_m=torch.tensor([target.right for target in targets], device=device),
        weights_m=torch.tensor(
            [target.weight * share for target, share in zip(targets, shares_m, strict=True)],
            device=device,
        ),
        shifts_m=torch.tensor([target.shift for target in targets], device=device),
        computed=len(tree.ids_s),
        tokens=len(set(chain.from_iterable(real))),
    )
