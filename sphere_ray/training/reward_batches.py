"""Labelled steps of a problem as one prefix tree: the question and each distinct step once.

Shape suffixes: s nodes of the tree, m steps.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sphere_ray.engines.reward_prompt import RewardPrompt
from sphere_ray.records import LabelledStep
from sphere_ray.reward.labels import Target, balanced_targets, label_of
from sphere_ray.training.tree import PrefixTree


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A problem with its steps: token ids of each path, target, place in the table."""

    problem_id: str
    paths: tuple[tuple[int, ...], ...]
    targets: tuple[Target, ...]
    places: tuple[int, ...]

    @property
    def weight(self) -> float:
        """Of all its steps."""
        return sum(target.weight for target in self.targets)

    @property
    def tokens(self) -> int:
        """Distinct tokens, as the tree computes them."""
        return len(PrefixTree.of(self.paths).ids_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeTensors:
    """One forward: the tree of some problems, and each step's last node and target."""

    input_ids_1s: Tensor
    position_ids_1s: Tensor
    attention_mask_11ss: Tensor
    nodes_m: Tensor
    right_m: Tensor
    weights_m: Tensor
    shifts_m: Tensor

    def to(self, device: torch.device) -> "TreeTensors":
        """The same on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self)}
        return TreeTensors(**moved)


def examples_of(
    steps: Sequence[LabelledStep],
    prompt: RewardPrompt,
    *,
    labels: str,
    balance: bool,
    max_length: int,
) -> tuple[list[Example], Counter[str]]:
    """Group steps by problem; a step whose path is too long is dropped and counted, never cut."""
    paths = [tuple(prompt.ids(step.question, [*step.prefix, step.text])) for step in steps]
    fits = [place for place, path in enumerate(paths) if len(path) <= max_length]
    dropped = Counter({"too_long": len(paths) - len(fits)} if len(fits) < len(paths) else {})
    kept = [steps[place] for place in fits]
    right = [label_of(step, labels) for step in kept]
    aims = balanced_targets(kept, right) if balance else [Target(right=each) for each in right]
    targets = dict(zip(fits, aims, strict=True))
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for place in fits:
        groups[steps[place].problem_id].append(place)
    examples = [
        Example(
            problem_id=problem_id,
            paths=tuple(paths[place] for place in places),
            targets=tuple(targets[place] for place in places),
            places=tuple(places),
        )
        for problem_id, places in sorted(groups.items())
    ]
    return examples, dropped


def collate_trees(examples: Sequence[Example], shares: Sequence[float]) -> TreeTensors:
    """Merge problems into one forward; `shares` (0 for a filler) scale their steps' weights."""
    tree = PrefixTree.of(path for example in examples for path in example.paths)
    targets = [target for example in examples for target in example.targets]
    weights = [
        target.weight * share
        for example, share in zip(examples, shares, strict=True)
        for target in example.targets
    ]
    return TreeTensors(
        input_ids_1s=torch.tensor([tree.ids_s]),
        position_ids_1s=torch.tensor([tree.depths_s]),
        attention_mask_11ss=tree.attention_mask_ss()[None, None],
        nodes_m=torch.tensor([path[-1] for path in tree.paths]),
        right_m=torch.tensor([target.right for target in targets]),
        weights_m=torch.tensor(weights),
        shifts_m=torch.tensor([target.shift for target in targets]),
    )
