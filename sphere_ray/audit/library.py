"""What the pages ask for: the run's iterations and their indexes, lists, single rows, queues."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from starlette.exceptions import HTTPException

from sphere_ray import storage
from sphere_ray.audit.index import STAGES, VERDICTS, Flags, Floats, Index, Integers, equals, has
from sphere_ray.records import Dropped, PreferencePair, Rollout
from sphere_ray.runs.directory import CURRENT, FinishedStep, Run, find_step
from sphere_ray.schema import from_table

PAGE = 50
ORDERS = {"random": "Random order", "margin": "Smallest margin first"}
_QUESTION = ["problem.question", "problem.answer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Numbers of the rows on one page of a list, and where the page stands."""

    numbers: Integers
    number: int
    pages: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """A pair with what it was made of; `pair` is None where the pair was dropped."""

    pair_id: str
    problem_id: str
    stage: str
    chosen_chain: str
    rejected_chain: str
    reason: str | None
    pair: PreferencePair | None
    rollout: Rollout

    @property
    def is_step(self) -> bool:
        """Whether its sides are steps of one chain."""
        return self.chosen_chain == self.rejected_chain


class Library:
    """A run that is open for reading; finished steps never change, so their indexes are kept."""

    def __init__(self, run: Run) -> None:
        """Read nothing yet."""
        self.run = run
        self._steps: tuple[str, list[FinishedStep]] = ("", [])
        self._indexes: dict[tuple[str, str | None], Index] = {}
        self._lock = threading.Lock()
        self.order: Callable[[Index, str, str], Integers] = lru_cache(32)(_ordered)

    @property
    def steps(self) -> list[FinishedStep]:
        """The finished steps of the run; more come while it goes on."""
        current = storage.read_text(self.run.file(CURRENT)) or ""
        if current != self._steps[0]:
            self._steps = (current, self.run.steps)
        return self._steps[1]

    @property
    def iterations(self) -> list[int]:
        """The iterations that have rollouts to look at."""
        return [
            number
            for step in self.steps
            if step.kind == "rollouts" and (number := step.iteration) is not None
        ]

    def index(self, iteration: int) -> Index | None:
        """The index of an iteration, None where its rollouts are not finished."""
        rollouts, pairs = (find_step(self.steps, kind, iteration) for kind in ("rollouts", "pairs"))
        if rollouts is None:
            return None
        key = (rollouts.path, pairs.path if pairs is not None else None)
        with self._lock:
            if key not in self._indexes:
                self._indexes[key] = Index(rollouts, pairs)
            return self._indexes[key]


def rollout_of(index: Index, problem: int) -> Rollout:
    """Read one rollout."""
    return from_table(index.problem_row(problem).table(), Rollout)[0]


def pair_of(index: Index, number: int) -> PairRow:
    """Read a pair, kept or dropped, and its rollout."""
    table = index.pair_row(number).table()
    reason = index.pairs.reasons[number].as_py()
    kept = from_table(table, PreferencePair)[0] if reason is None else None
    row = kept or from_table(table, Dropped)[0]
    return PairRow(
        pair_id=row.pair_id,
        problem_id=row.problem_id,
        stage=row.stage,
        chosen_chain=row.chosen_chain,
        rejected_chain=row.rejected_chain,
        reason=reason,
        pair=kept,
        rollout=rollout_of(index, int(index.pairs.problems[number])),
    )


def questions(index: Index, problems: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Question and gold answer of some problems; only the row groups that hold them are read."""
    rows = {number: index.problem_row(number) for number in set(problems)}
    groups: dict[tuple[str, int], pa.Table] = {}
    for row in rows.values():
        if (row.file, row.group) not in groups:
            groups[row.file, row.group] = storage.row_group(row.file, row.group, _QUESTION)
    return {
        number: groups[row.file, row.group]["problem"][row.number].as_py()
        for number, row in rows.items()
    }


def find_problems(index: Index, query: Mapping[str, str]) -> Page:
    """The problems that a query asks for; what it does not name is not filtered."""
    known = index.problems
    wanted = np.ones(len(known.ids), dtype=np.bool_)
    if stage := query.get("stage"):
        wanted &= has(known.stages, STAGES, stage)
    if verdict := query.get("verdict"):
        wanted &= has(known.verdicts, VERDICTS, verdict)
    if reason := query.get("reason"):
        wanted &= has(known.reasons, index.reasons, reason)
    if family := query.get("family"):
        wanted &= equals(known.families, family)
    if query.get("inversions"):
        wanted &= known.inverted
    if text := query.get("q", "").strip():
        wanted &= index.search(text)
    return _page(wanted, known.margin, query)


def find_pairs(index: Index, query: Mapping[str, str], decided: frozenset[str]) -> Page:
    """The pairs that a query asks for; `decided` are ids of pairs."""
    known = index.pairs
    wanted = known.reasons.is_null().to_numpy()
    if query.get("kind") == "dropped" or query.get("reason"):
        wanted = ~wanted
    if stage := query.get("stage"):
        wanted &= equals(known.stages, stage)
    if reason := query.get("reason"):
        wanted &= equals(known.reasons, reason)
    if family := query.get("family"):
        wanted &= equals(index.problems.families, family)[known.problems]
    if (state := query.get("decided")) in ("yes", "no"):
        wanted &= is_decided(index, decided) == (state == "yes")
    return _page(wanted, known.margin, query)


def is_decided(index: Index, decided: frozenset[str]) -> Flags:
    """Which pairs have one of these ids."""
    ids = pa.array(sorted(decided), pa.string())
    found: Flags = pc.is_in(index.pairs.ids, ids).to_numpy()
    return found


def _ordered(index: Index, order: str, stage: str) -> Integers:
    """The kept pairs of a queue. Ids are hashes of the content, so their order is random."""
    found: Integers = np.arange(index.num_kept)
    if stage:
        found = found[equals(index.pairs.stages, stage)[found]]
    ids = index.pairs.ids.take(pa.array(found))
    by_id = pc.sort_indices(ids).to_numpy()
    found = found[by_id]
    return _by_margin(found, index.pairs.margin) if order == "margin" else found


def next_in(numbers: Integers, decided: Flags, after: int | None) -> int | None:
    """The next pair of a queue that is not decided, behind one of it; at the end it begins anew."""
    at = np.flatnonzero(numbers == after) if after is not None else np.zeros(0)
    start = int(at[0]) + 1 if len(at) else 0
    turned = np.concatenate([numbers[start:], numbers[:start]])
    left = turned[~decided[turned]]
    return int(left[0]) if len(left) else None


def _by_margin(numbers: Integers, margin: Floats) -> Integers:
    found: Integers = numbers[np.argsort(margin[numbers], kind="stable")]
    return found


def _page(wanted: Flags, margin: Floats, query: Mapping[str, str]) -> Page:
    found = np.flatnonzero(wanted)
    if query.get("sort") == "margin":
        found = _by_margin(found, margin)
    pages = max(1, -(-len(found) // PAGE))
    asked = query.get("page", "1")
    number = min(int(asked), pages) if asked.isascii() and asked.isdecimal() else 1
    number = max(number, 1)
    some = found[(number - 1) * PAGE : number * PAGE]
    return Page(numbers=some, number=number, pages=pages, total=len(found))


def index_of(library: Library, iteration: int) -> Index:
    """The index of an iteration.

    Raises:
        HTTPException: its rollouts are not finished.
    """
    index = library.index(iteration)
    if index is None:
        raise HTTPException(404, "This iteration has no finished rollouts yet.")
    return index


def pair_number(index: Index, pair_id: str) -> int:
    """The number of a pair.

    Raises:
        HTTPException: there is no such pair.
    """
    number = index.pair(pair_id)
    if number is None:
        raise HTTPException(404, "This iteration has no such pair.")
    return number


def queue_of(values: Mapping[str, str]) -> tuple[str, str]:
    """The order and the stage of a queue, empty where there is none."""
    order, stage = values.get("order", ""), values.get("stage", "")
    return order if order in ORDERS else "", stage if stage in STAGES else ""
