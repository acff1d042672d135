"""Preference pairs of an iteration: made of its rollouts, and capped across problems.

Plain tasks do it, one for each file. As a graph of Ray Data it took twenty times as long, because
batches small enough for the memory of a task make a task each.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from sphere_ray import storage
from sphere_ray.config.method import MethodSettings
from sphere_ray.method.pairs import OFF_POLICY, build_pairs, off_policy_cut
from sphere_ray.records import Dropped, PreferencePair, Rollout
from sphere_ray.rollout.shards import (
    ShardWriter,
    bundles,
    in_tasks,
    part,
    small_tables,
)
from sphere_ray.rollout.stages import rollouts_of
from sphere_ray.schema import to_table

REASON = "reason"
OFF_POLICY_CAP = "off_policy_cap"
PAIRS_PER_FILE = 8192
_REFUSED = ("pair_id", "problem_id", "stage", "chosen_chain", "rejected_chain")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCounts:
    """Pairs that an iteration keeps, by stage, and pairs that were dropped, by reason."""

    kept: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """Proposals to split, where to, and the largest id that an off-policy pair may have."""

    proposals: Sequence[str]
    output: str
    index: int
    cut: str | None


def pair(rollouts: str, output: str, method: MethodSettings) -> PairCounts:
    """Write the pairs of the rollout files as data files of `output`, and refused ones below it.

    `output/dropped` holds `Dropped` rows: what was refused, and why. The driver holds the ids of
    off-policy pairs and counts, whatever the number of pairs.

    Raises:
        EngineError: a task failed for a reason outside of it.
    """
    proposals = f"{output}/_proposals"
    for directory in (output, f"{output}/dropped", proposals):
        for file in storage.data_files(directory):
            storage.remove(file)
    files = enumerate(storage.data_files(rollouts))
    found = in_tasks(_propose, [(file, part(proposals, index), method) for index, file in files])
    on_policy, ids = sum(count for count, _ in found), [some for _, some in found]
    cut = off_policy_cut(on_policy, pa.chunked_array(ids, pa.large_string()), method.pairs)
    jobs = [
        _Job(proposals=group, output=output, index=index, cut=cut)
        for index, group in enumerate(bundles(storage.data_files(proposals), PAIRS_PER_FILE))
    ]
    kept, dropped = Counter[str](), Counter[str]()
    for by_stage, by_reason in in_tasks(_split, jobs):
        kept.update(by_stage)
        dropped.update(by_reason)
    storage.remove(proposals)
    return PairCounts(kept=dict(kept), dropped=dict(dropped))


def _propose(job: tuple[str, str, MethodSettings]) -> tuple[int, pa.Array]:
    """Write all proposed pairs of a rollout file; one that a gate refused has only a reason.

    Returns the number of on-policy pairs that passed the gates, and the ids of off-policy ones.
    """
    file, output, method = job
    on_policy, off_policy = 0, list[str]()
    with ShardWriter(output) as writer:
        for table in small_tables(file):
            found = [each for rollout in rollouts_of(table) for each in _proposals(rollout, method)]
            pairs = to_table([pair for pair, _ in found], PreferencePair)
            reasons = pa.array([reason for _, reason in found], pa.string())
            writer.write(pairs.append_column(REASON, reasons))
            passed = [pair for pair, reason in found if reason is None]
            ids = [pair.pair_id for pair in passed if pair.stage is OFF_POLICY]
            on_policy += len(passed) - len(ids)
            off_policy += ids
    return on_policy, pa.array(off_policy, pa.large_string())


def _proposals(rollout: Rollout, method: MethodSettings) -> list[tuple[PreferencePair, str | None]]:
    made = build_pairs(rollout, method)
    kept = [(pair, None) for pair in made.pairs]
    return [*kept, *((_without_texts(refused), refused.reason) for refused in made.dropped)]


def _without_texts(refused: Dropped) -> PreferencePair:
    return PreferencePair(
        pair_id=refused.pair_id,
        problem_id=refused.problem_id,
        stage=refused.stage,
        chosen_chain=refused.chosen_chain,
        rejected_chain=refused.rejected_chain,
        prompt=(),
        chosen="",
        rejected="",
    )


def _is_off_policy(table: pa.Table) -> pa.ChunkedArray:
    return pc.equal(table["stage"], str(OFF_POLICY))


def _split(job: _Job) -> tuple[dict[str, int], dict[str, int]]:
    """Write the kept and the dropped pairs of some proposals; count them by stage and reason."""
    kept, dropped = Counter[str](), Counter[str]()
    with (
        ShardWriter(part(job.output, job.index)) as pairs,
        ShardWriter(part(f"{job.output}/dropped", job.index)) as refused,
    ):
        for table in (table for file in job.proposals for table in storage.tables(file)):
            reasons = table[REASON]
            if job.cut is not None:
                beyond = pc.and_(_is_off_policy(table), pc.greater(table["pair_id"], job.cut))
                capped = pc.and_(beyond, pc.is_null(reasons))
                reasons = pc.if_else(capped, OFF_POLICY_CAP, reasons)
            stays = pc.is_null(reasons)
            some = table.drop_columns([REASON]).filter(stays)
            others = table.select(_REFUSED).append_column(REASON, reasons).filter(pc.invert(stays))
            pairs.write(some)
            refused.write(others)
            kept.update(some["stage"].to_pylist())
            dropped.update(others[REASON].to_pylist())
    return dict(kept), dict(dropped)
