"""Counts over the columns of rollout files, so that texts and token ids are never read.

`*_COLUMNS` name the leaf columns a count needs, as `pyarrow.parquet.ParquetFile.read` takes them;
a table may have more. Tables come one after the other, and one at a time is in memory.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sphere_ray.records import CORRECTION_CHECK, Branch, StageName, Verdict
from sphere_ray.reward.process import UNJUDGED, JudgedSteps
from sphere_ray.reward.quality import MAJORITY

_CHAIN = "chains.list.element"
_STEP = f"{_CHAIN}.steps.list.element"
_CANDIDATE = f"{_STEP}.candidates.list.element"
ROLLOUT_COLUMNS = (
    *("route", "tokens", "stage_tokens", "error"),
    *(f"{_CHAIN}.stage", f"{_CHAIN}.verdict"),
)
REWARD_COLUMNS = (
    *(f"{_CHAIN}.{name}" for name in ("stage", "branch", "seed", "verdict")),
    f"{_STEP}.chosen",
    f"{_CANDIDATE}.reward",
    f"{_CANDIDATE}.audit",
)

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(slots=True, kw_only=True)
class RolloutCounts:
    """Sums over rollouts: entries of routes, and tokens, chains and correct chains by stage.

    A chain of the correction check counts for that and not for stage 2.
    """

    problems: int = 0
    failed: int = 0
    tokens: int = 0
    stage_tokens: Counter[str] = field(default_factory=Counter)
    routes: Counter[str] = field(default_factory=Counter)
    chains: Counter[str] = field(default_factory=Counter)
    correct: Counter[str] = field(default_factory=Counter)


def count_rollouts(tables: Iterable[pa.Table]) -> RolloutCounts:
    """Count the columns `ROLLOUT_COLUMNS`."""
    counts = RolloutCounts()
    for table in tables:
        counts.problems += table.num_rows
        counts.failed += table.num_rows - table["error"].null_count
        counts.tokens += pc.sum(table["tokens"]).as_py() or 0
        in_row, entries = _flat(table["route"].combine_chunks())
        counts.routes.update(_tally(entries))
        _, spent = _flat(table["stage_tokens"].combine_chunks())
        counts.stage_tokens.update(_tokens_by_stage(entries, spent))
        checked = np.zeros(table.num_rows, dtype=bool)
        checked[in_row[pc.starts_with(entries, f"{CORRECTION_CHECK}:").to_numpy(False)]] = True
        in_row, chains = _flat(table["chains"].combine_chunks())
        stage = pc.struct_field(chains, "stage")
        second = pc.equal(stage, StageName.SELF_CORRECTION)
        stage = pc.if_else(pc.and_(second, pa.array(checked[in_row])), CORRECTION_CHECK, stage)
        right = pc.equal(pc.struct_field(chains, "verdict"), Verdict.CORRECT)
        counts.chains.update(_tally(stage))
        counts.correct.update(_tally(stage.filter(right)))
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSteps:
    """Reward and audit (null: none) of every scored step, and where they stand.

    `stages` and `depths` (from 1) are those of the steps; siblings have one number in `places`, and
    lie one after the other. At `positions` of the search something was scored, and `siblings`
    distinct steps were proposed.
    """

    rewards: pa.Array
    audits: pa.Array
    stages: pa.Array
    depths: Integers
    places: Integers
    positions: int
    siblings: int


def scored_steps(table: pa.Table) -> ScoredSteps:
    """Return the scored steps of `REWARD_COLUMNS`.

    Each step counts once, although the chains of one search share their first steps: they have
    the same step at a depth if they took the same siblings before it. A stage and a seed identify
    a search of a problem.
    """
    in_row, chains = _flat(table["chains"].combine_chunks())
    keys = zip(
        in_row.tolist(),
        pc.struct_field(chains, "stage").to_pylist(),
        pc.struct_field(chains, "seed").to_pylist(),
        strict=True,
    )
    numbers: dict[tuple[int, str, int], int] = {}
    searches = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    paths = pc.struct_field(chains, "steps")
    in_chain, steps = _flat(paths)
    lengths = paths.value_lengths().to_numpy(False).astype(np.int64)
    first = _first_visits(
        searches,
        lengths,
        pc.struct_field(steps, "chosen").to_numpy(False).astype(np.int64),
    )
    in_step, candidates = _flat(pc.struct_field(steps, "candidates"))
    rewards = pc.struct_field(candidates, "reward")
    counted = pc.and_(rewards.is_valid(), pa.array(first[in_step]))
    searched = np.zeros(len(first), dtype=bool)
    places = in_step[counted.to_numpy(False)]
    searched[places] = True
    depths = np.arange(len(in_chain)) - (np.cumsum(lengths) - lengths)[in_chain] + 1
    return ScoredSteps(
        rewards=rewards.filter(counted),
        audits=pc.struct_field(candidates, "audit").filter(counted),
        stages=pc.struct_field(chains, "stage").take(pa.array(in_chain[places])),
        depths=depths[places],
        places=places,
        positions=int(searched.sum()),
        siblings=int(searched[in_step].sum()),
    )


def judged_steps(table: pa.Table) -> JudgedSteps:
    """Return the steps of each problem's stage-1 Sol_max in `REWARD_COLUMNS`, as its rewards say.

    A step is valid from a reward of one half on, as in `quality`. Sol_max is the solution that the
    scorer prefers, so these steps are better than those of an answer without a search.
    """
    _, chains = _flat(table["chains"].combine_chunks())
    best = pc.and_(
        pc.equal(pc.struct_field(chains, "stage"), StageName.SELF_GENERATION),
        pc.equal(pc.struct_field(chains, "branch"), Branch.MAX),
    )
    chains = chains.filter(best)
    rewards, lengths = _taken(chains)
    flags = pc.fill_null(pc.greater_equal(rewards, MAJORITY).cast(pa.int8()), UNJUDGED)
    return JudgedSteps(flags=flags.to_numpy(False), lengths=lengths, right=_right(chains))


def outcomes_by_reward(table: pa.Table) -> tuple[NDArray[np.float64], Flags]:
    """The reward of each step that a chain took, and whether that chain's answer is right.

    The last step of a chain is left out: it states the answer, so its reward says nothing ahead.
    """
    _, chains = _flat(table["chains"].combine_chunks())
    rewards, lengths = _taken(chains)
    known = rewards.is_valid().to_numpy(False)
    known[(np.cumsum(lengths) - 1)[lengths > 0]] = False
    right = np.repeat(_right(chains), lengths)
    return rewards.filter(pa.array(known)).to_numpy(False), right[known]


def _taken(chains: pa.Array) -> tuple[pa.Array, Integers]:
    """The reward (null: none) of each step that the chains took, and their numbers of steps."""
    paths = pc.struct_field(chains, "steps")
    _, steps = _flat(paths)
    siblings = pc.struct_field(steps, "candidates")
    sizes = siblings.value_lengths().to_numpy(False).astype(np.int64)
    taken = np.cumsum(sizes) - sizes + pc.struct_field(steps, "chosen").to_numpy(False)
    rewards = pc.struct_field(siblings.flatten(), "reward").take(pa.array(taken, pa.int64()))
    return rewards, paths.value_lengths().to_numpy(False).astype(np.int64)


def _right(chains: pa.Array) -> Flags:
    flags: Flags = pc.equal(pc.struct_field(chains, "verdict"), Verdict.CORRECT).to_numpy(False)
    return flags


def _first_visits(searches: Integers, lengths: Integers, chosen: Integers) -> Flags:
    """Which steps no earlier chain of the same search has; chains lie one after the other.

    `searches` and `lengths` have one entry a chain, `chosen` (the sibling taken) one a step.
    """
    first = np.zeros(len(chosen), dtype=bool)
    starts = np.cumsum(lengths) - lengths
    width = chosen.max(initial=0) + 1
    alive, path = np.arange(len(lengths)), searches
    for depth in range(lengths.max(initial=0)):
        longer = lengths[alive] > depth
        alive, path = alive[longer], path[longer]
        steps = starts[alive] + depth
        first[steps[np.unique(path, return_index=True)[1]]] = True
        path = np.unique(path * width + chosen[steps], return_inverse=True)[1]
    return first


def _tokens_by_stage(entries: pa.Array, tokens: pa.Array) -> dict[str, int]:
    """Sum the tokens of the entries of routes; both arrays have one item an entry."""
    stages = pc.list_element(pc.split_pattern(entries, ":", max_splits=1), 0)
    sums = (
        pa.table({"stage": stages, "tokens": tokens})
        .group_by("stage")
        .aggregate([("tokens", "sum")])
    )
    return dict(zip(sums["stage"].to_pylist(), sums["tokens_sum"].to_pylist(), strict=True))


def _flat(lists: pa.ListArray) -> tuple[Integers, pa.Array]:
    """The items of all lists in one array, and for each the index of its list."""
    return pc.list_parent_indices(lists).to_numpy(False), lists.flatten()


def _tally(values: pa.Array) -> dict[str, int]:
    return {each["values"]: each["counts"] for each in pc.value_counts(values).to_pylist()}
