"""An iteration's problems and pairs in arrays: what can be filtered and sorted, and where rows lie.

It is read once from the columns that filters need. Texts and token ids stay on disk: a page reads
the row groups of the rows it shows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sphere_ray import storage
from sphere_ray.records import Outcome, StageName, Verdict
from sphere_ray.runs.directory import FinishedStep

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

STAGES = tuple(map(str, StageName))
VERDICTS = tuple(map(str, Verdict))
_CHAIN = "chains.list.element"
_PROBLEM_COLUMNS = (
    *("problem_id", "problem.family", "route", "error"),
    *(f"{_CHAIN}.stage", f"{_CHAIN}.verdict"),
)
_PAIR_COLUMNS = ("pair_id", "problem_id", "stage")
_REWARDS = ("chosen_reward", "rejected_reward")
_SEARCHES = 16
"""Searches whose result is kept, so that turning pages does not search again."""


@dataclass(frozen=True, slots=True)
class Row:
    """Where a row lies: the number of its file, of the row group in it, and of the row in that."""

    file: str
    group: int
    number: int

    def table(self) -> pa.Table:
        """Read it, as a table of one row."""
        return storage.row_group(self.file, self.group).slice(self.number, 1)


class _Places:
    """Where each of many rows lies; rows are numbered in the order of files and groups."""

    def __init__(self) -> None:
        self._groups: list[tuple[str, int]] = []
        self._starts = [0]

    def add(self, file: str, group: int, rows: int) -> None:
        self._groups.append((file, group))
        self._starts.append(self._starts[-1] + rows)

    def row(self, number: int) -> Row:
        at = int(np.searchsorted(self._starts, number, side="right")) - 1
        file, group = self._groups[at]
        return Row(file, group, number - self._starts[at])


@dataclass(frozen=True, kw_only=True)
class Problems:
    """One entry a problem. `stages` and `verdicts` are sets of bits, by `STAGES` and `VERDICTS`.

    `margin` is the smallest one of the problem's pairs, and nan without a pair. `reasons` are for
    which proposed pairs were dropped, as bits by `Index.reasons`.
    """

    ids: pa.ChunkedArray
    families: pa.ChunkedArray
    stages: Integers
    verdicts: Integers
    inverted: Flags
    failed: Flags
    pairs: Integers
    margin: Floats
    reasons: Integers


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """One entry a pair, kept ones before dropped ones; `reasons` are null for kept ones.

    `problems` are numbers of problems. `margin` is the reward of the chosen side minus that of the
    rejected one; nan where unknown, as for dropped pairs.
    """

    ids: pa.ChunkedArray
    stages: pa.ChunkedArray
    reasons: pa.ChunkedArray
    problems: Integers
    margin: Floats


class Index:
    """The problems and pairs of one iteration."""

    def __init__(self, rollouts: FinishedStep, pairs: FinishedStep | None) -> None:
        """Read the columns that filters need, a row group at a time."""
        self.rollouts, self.step = rollouts, pairs
        self._problem_places, self._pair_places = _Places(), _Places()
        found = [_problem_columns(table) for table in self._tables(rollouts, "", _PROBLEM_COLUMNS)]
        ids = _joined([each["ids"] for each in found], pa.string())
        self.pairs = self._pairs(pairs, ids)
        kept = self.pairs.reasons.is_null().to_numpy()
        self.num_kept = int(kept.sum())
        names = pc.unique(self.pairs.reasons.drop_null()).to_pylist()
        self.reasons = tuple(sorted(names))
        margin = np.full(len(ids), np.inf)
        owners = self.pairs.problems[kept]
        np.fmin.at(margin, owners, np.nan_to_num(self.pairs.margin[kept], nan=np.inf))
        reasons = np.zeros(len(ids), dtype=np.int64)
        np.bitwise_or.at(
            reasons, self.pairs.problems[~kept], _bits(self.pairs.reasons.drop_null(), self.reasons)
        )
        self.problems = Problems(
            ids=ids,
            families=_joined([each["families"] for each in found], pa.string()),
            stages=_concatenated([each["stages"] for each in found], np.int64),
            verdicts=_concatenated([each["verdicts"] for each in found], np.int64),
            inverted=_concatenated([each["inverted"] for each in found], np.bool_),
            failed=_concatenated([each["failed"] for each in found], np.bool_),
            pairs=np.bincount(owners, minlength=len(ids)).astype(np.int64),
            margin=np.where(np.isinf(margin), np.nan, margin),
            reasons=reasons,
        )
        self.families = tuple(sorted(pc.unique(self.problems.families.drop_null()).to_pylist()))
        self.search: Callable[[str], Flags] = lru_cache(_SEARCHES)(self._search)

    def problem(self, problem_id: str) -> int | None:
        """The number of a problem; None if there is no such one."""
        return _position(self.problems.ids, problem_id)

    def pair(self, pair_id: str) -> int | None:
        """The number of a pair, of a kept one where dropped ones have the same id."""
        return _position(self.pairs.ids, pair_id)

    def problem_row(self, number: int) -> Row:
        """Where a problem's rollout lies."""
        return self._problem_places.row(number)

    def pair_row(self, number: int) -> Row:
        """Where a pair lies."""
        return self._pair_places.row(number)

    def pairs_of(self, problem: int) -> Integers:
        """Numbers of the pairs of a problem."""
        return np.flatnonzero(self.pairs.problems == problem)

    def _search(self, text: str) -> Flags:
        """Which problems have a text in their question or gold answer, or are the one of this id.

        The columns are read from disk.
        """
        found = [np.zeros(0, dtype=np.bool_)]
        columns = ["problem_id", "problem.question", "problem.answer"]
        for table in self.rollouts.tables(columns):
            problem = table["problem"].combine_chunks()
            parts = (pc.struct_field(problem, name) for name in ("question", "answer"))
            hits = [pc.match_substring(part, text, ignore_case=True) for part in parts]
            same = pc.equal(table["problem_id"].combine_chunks(), text)
            found.append(pc.or_(pc.or_(*hits), same).fill_null(False).to_numpy(False))
        return np.concatenate(found)

    def _tables(self, step: FinishedStep, below: str, columns: Any) -> Iterator[pa.Table]:
        """Stream some columns, and note where the rows lie."""
        places = self._problem_places if step is self.rollouts else self._pair_places
        for file in storage.data_files(f"{step.path}/{below}".rstrip("/")):
            for group, table in enumerate(storage.tables(file, columns)):
                places.add(file, group, table.num_rows)
                yield table

    def _pairs(self, step: FinishedStep | None, problems: pa.ChunkedArray) -> Pairs:
        tables = []
        if step is not None:
            for table in self._tables(step, "", (*_PAIR_COLUMNS, *_REWARDS)):
                margin = pc.subtract(*(table[name] for name in _REWARDS))
                reasons = pa.nulls(table.num_rows, pa.string())
                tables.append(_pair_table(table, margin, reasons))
            for table in self._tables(step, "dropped", (*_PAIR_COLUMNS, "reason")):
                margin = pa.nulls(table.num_rows, pa.float64())
                tables.append(_pair_table(table, margin, table["reason"]))
        whole = pa.concat_tables([_PAIR_SCHEMA.empty_table(), *tables])
        owners = pc.index_in(whole["problem_id"], value_set=problems.combine_chunks())
        return Pairs(
            ids=whole["pair_id"],
            stages=whole["stage"],
            reasons=whole["reason"],
            problems=owners.fill_null(-1).to_numpy().astype(np.int64),
            margin=whole["margin"].to_numpy().astype(np.float64),
        )


_PAIR_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("problem_id", pa.string()),
        ("stage", pa.string()),
        ("margin", pa.float64()),
        ("reason", pa.string()),
    ]
)


def has(bits: Integers, names: tuple[str, ...], name: str) -> Flags:
    """Which sets of bits hold a name; none where it is no name."""
    if name not in names:
        return np.zeros(len(bits), dtype=np.bool_)
    found: Flags = (bits & (1 << names.index(name))) != 0
    return found


def equals(values: pa.ChunkedArray, name: str) -> Flags:
    """Which values are this name."""
    found: Flags = pc.equal(values, name).fill_null(False).to_numpy()
    return found


def _pair_table(table: pa.Table, margin: Any, reasons: Any) -> pa.Table:
    names = [table[name] for name in _PAIR_COLUMNS]
    return pa.table([*names, margin, reasons], names=_PAIR_SCHEMA.names).cast(_PAIR_SCHEMA)


def _problem_columns(table: pa.Table) -> dict[str, Any]:
    """The entries of `Problems` that rollouts alone decide."""
    chains = table["chains"].combine_chunks()
    owners, each = pc.list_parent_indices(chains).to_numpy(False), chains.flatten()
    found = {"ids": table["problem_id"], "failed": table["error"].is_valid().to_numpy()}
    found["families"] = pa.chunked_array(
        [pc.struct_field(table["problem"].combine_chunks(), "family")]
    )
    for name, known in (("stages", STAGES), ("verdicts", VERDICTS)):
        bits = np.zeros(table.num_rows, dtype=np.int64)
        np.bitwise_or.at(bits, owners, _bits(pc.struct_field(each, name[:-1]), known))
        found[name] = bits
    route = table["route"].combine_chunks()
    inverted = pc.ends_with(route.flatten(), f":{Outcome.INVERSION}").to_numpy(False)
    found["inverted"] = np.zeros(table.num_rows, dtype=np.bool_)
    found["inverted"][pc.list_parent_indices(route).to_numpy(False)[inverted]] = True
    return found


def _bits(values: Any, names: tuple[str, ...]) -> Integers:
    codes = pc.index_in(values, value_set=pa.array(names, values.type))
    found: Integers = np.left_shift(1, codes.to_numpy(zero_copy_only=False).astype(np.int64))
    return found


def _joined(parts: list[pa.ChunkedArray], kind: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array([chunk.cast(kind) for part in parts for chunk in part.chunks], kind)


def _concatenated(parts: list[NDArray[Any]], kind: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=kind), *parts])


def _position(ids: pa.ChunkedArray, wanted: str) -> int | None:
    at = pc.index(ids, pa.scalar(wanted, ids.type)).as_py()
    return None if at < 0 else int(at)
