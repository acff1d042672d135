"""Preference pairs of an iteration: streamed from its rollouts, and capped across problems."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from ray.exceptions import RayError

from sphere_ray import storage
from sphere_ray.compat import ray as compat
from sphere_ray.config.method import MethodSettings
from sphere_ray.method.pairs import OFF_POLICY, build_pairs, off_policy_cut
from sphere_ray.records import Dropped, PreferencePair, Rollout
from sphere_ray.rollout.errors import sphere_error
from sphere_ray.rollout.shards import (
    TASK_CPUS,
    ShardWriter,
    bundles,
    in_tasks,
    part,
)
from sphere_ray.rollout.stages import rollouts_of
from sphere_ray.schema import to_table

REASON = "reason"
OFF_POLICY_CAP = "off_policy_cap"
BATCH_ROWS = 32
"""Rollouts at a time; one has about 100 KB."""
PAIRS_PER_FILE = 8192
_COUNTED = ("pair_id", "stage", REASON)
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
        EngineError: the stream stopped for a reason outside of it.
    """
    proposals = f"{output}/_proposals"
    for directory in (output, f"{output}/dropped", proposals):
        for file in storage.data_files(directory):
            storage.remove(file)
    propose = functools.partial(_propose, method=method)
    dataset = compat.read_parquet(storage.data_files(rollouts), num_cpus=TASK_CPUS).map_batches(
        propose, batch_format="pyarrow", batch_size=BATCH_ROWS, num_cpus=TASK_CPUS
    )
    try:
        dataset.write_parquet(proposals, ray_remote_args={"num_cpus": TASK_CPUS})
    except RayError as error:
        raise sphere_error(error, "pairing") from error
    files = storage.data_files(proposals)
    found = in_tasks(_ids_of_file, files)
    on_policy, ids = sum(count for count, _ in found), [some for _, some in found]
    cut = off_policy_cut(on_policy, pa.chunked_array(ids, pa.large_string()), method.pairs)
    jobs = [
        _Job(proposals=group, output=output, index=index, cut=cut)
        for index, group in enumerate(bundles(files, PAIRS_PER_FILE))
    ]
    kept, dropped = Counter[str](), Counter[str]()
    for by_stage, by_reason in in_tasks(_split, jobs):
        kept.update(by_stage)
        dropped.update(by_reason)
    storage.remove(proposals)
    return PairCounts(kept=dict(kept), dropped=dict(dropped))


def _propose(table: pa.Table, method: MethodSettings) -> pa.Table:
    """All proposed pairs of some rollouts; one that a gate refused has no texts, and a reason."""
    found = [each for rollout in rollouts_of(table) for each in _proposals(rollout, method)]
    pairs = to_table([pair for pair, _ in found], PreferencePair)
    return pairs.append_column(REASON, pa.array([reason for _, reason in found], pa.string()))


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


def _ids_of_file(file: str) -> tuple[int, pa.Array]:
    """The number of on-policy pairs that passed the gates, and the ids of the off-policy ones."""
    columns = [table.filter(pc.is_null(table[REASON])) for table in storage.tables(file, _COUNTED)]
    table = pa.concat_tables(columns)
    off_policy = table.filter(_is_off_policy(table))
    return table.num_rows - off_policy.num_rows, off_policy["pair_id"].combine_chunks()


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
