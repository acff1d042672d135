"""Which node takes which work: groups of whole GPUs stay on a node, fractions share a GPU.

A GPU is counted in ten-thousandths, as Ray counts it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WHOLE = 10_000
MAX_STATES = 5_000
"""Placements that are looked at before a search is given up; greedy ones nearly always fit."""

Free = tuple[tuple[int, ...], ...]
"""What is free of each GPU, by node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One piece of work: `share` of each of `ranks` GPUs of a node, in ten-thousandths.

    `least_bytes` is the memory that a GPU must have for it (the whole GPU, also for a share).
    """

    name: str
    share: int
    ranks: int
    least_bytes: float = 0.0

    @property
    def size(self) -> int:
        """What it takes in all."""
        return self.share * self.ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """The GPUs of a node, and the memory of each (None: unknown, which fits everything)."""

    gpus: int
    gpu_bytes: float | None = None

    def admits(self, demand: Demand) -> bool:
        """Whether the node could take it if it were empty."""
        large = self.gpu_bytes is None or self.gpu_bytes >= demand.least_bytes
        return large and self.gpus >= demand.ranks


def pack(demands: Sequence[Demand], bins: Sequence[Bin]) -> list[int] | None:
    """The node of each demand, in their order; None if no placement was found.

    The largest comes first, on the fullest node that takes it. Where that fails, every other
    placement is tried, up to `MAX_STATES` of them.
    """
    order = sorted(range(len(demands)), key=lambda i: (-demands[i].size, -demands[i].least_bytes))
    ordered = [demands[i] for i in order]
    if not demands:
        return []
    free: Free = tuple((WHOLE,) * each.gpus for each in bins)
    if sum(each.size for each in demands) > sum(each.gpus for each in bins) * WHOLE:
        return None
    found = _greedy(ordered, bins, free) or _searched(ordered, bins, free)
    if found is None:
        return None
    nodes = [0] * len(demands)
    for place, node in zip(order, found, strict=True):
        nodes[place] = node
    return nodes


def _greedy(demands: Sequence[Demand], bins: Sequence[Bin], free: Free) -> list[int] | None:
    found = []
    for demand in demands:
        choice = next(_choices(demand, bins, free), None)
        if choice is None:
            return None
        node, free = choice
        found.append(node)
    return found


def _searched(demands: Sequence[Demand], bins: Sequence[Bin], free: Free) -> list[int] | None:
    """Depth first over all placements; a state that failed once is not looked at again."""
    failed: set[tuple[int, Free]] = set()
    stack = [(_choices(demands[0], bins, free), 0)]
    states, nodes = [free], list[int]()
    while stack:
        choices, depth = stack[-1]
        choice = next(choices, None)
        if choice is None:
            stack.pop()
            failed.add((depth, states.pop()))
            if nodes:
                nodes.pop()
            continue
        node, left = choice
        if depth + 1 == len(demands):
            return [*nodes, node]
        if (depth + 1, left) in failed:
            continue
        if len(failed) + depth > MAX_STATES:
            return None
        stack.append((_choices(demands[depth + 1], bins, left), depth + 1))
        states.append(left)
        nodes.append(node)
    return None


def _choices(demand: Demand, bins: Sequence[Bin], free: Free) -> Iterator[tuple[int, Free]]:
    """Every node that takes it now, the fullest first, and what is left free then.

    On one node each GPU that a fraction could share is a choice of its own, the fullest first: so
    Ray takes it too.
    """
    admitting = [i for i, each in enumerate(bins) if each.admits(demand)]
    seen = set()
    for node in sorted(admitting, key=lambda i: (sum(free[i]), i)):
        # Nodes that are alike make the same placement.
        if (alike := (bins[node], tuple(sorted(free[node])))) in seen:
            continue
        seen.add(alike)
        for gpus in _shares(free[node], demand):
            yield node, (*free[:node], gpus, *free[node + 1 :])


def _shares(gpus: tuple[int, ...], demand: Demand) -> Iterator[tuple[int, ...]]:
    """The GPUs of a node after each way in which it could take the demand."""
    ordered = sorted(gpus)
    fitting = [i for i, left in enumerate(ordered) if left >= demand.share]
    firsts = fitting[: max(len(fitting) - demand.ranks + 1, 0)]
    tried = set()
    for at, first in enumerate(firsts):
        if ordered[first] in tried:
            continue
        tried.add(ordered[first])
        taken = set(fitting[at : at + demand.ranks])
        yield tuple(
            sorted(left - demand.share if i in taken else left for i, left in enumerate(ordered))
        )
