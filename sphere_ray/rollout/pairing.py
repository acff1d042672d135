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
from sphere_ray.method.audit import AUDITED, NOTHING, REJECTED, Audit, AuditedPairs, corrected
from sphere_ray.method.pairs import DUPLICATE, OFF_POLICY, build_pairs, family_cuts, off_policy_cut
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
FAMILY = "family"
OFF_POLICY_CAP = "off_policy_cap"
FAMILY_BALANCE = "family_balance"
PAIRS_PER_FILE = 8192
_PASSED = pa.schema(
    [
        ("pair_id", pa.large_string()),
        ("stage", pa.large_string()),
        (FAMILY, pa.string()),
    ]
)
_REFUSED = ("pair_id", "problem_id", "stage", "chosen_chain", "rejected_chain")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCounts:
    """Pairs that an iteration keeps, by stage, and pairs that were dropped, by reason."""

    kept: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def details(self) -> dict[str, int]:
        """The counts by path; see `Snapshot.details`."""
        kept = {f"pairs_kept/{stage}": count for stage, count in self.kept.items()}
        return kept | {f"pairs_dropped/{reason}": count for reason, count in self.dropped.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """Proposals to split, where to, and the largest ids that pairs may have.

    `cut` is that of off-policy pairs, `families` have those of families. Neither is for `accepted`
    pairs.
    """

    proposals: Sequence[str]
    output: str
    index: int
    cut: str | None
    families: Mapping[str, str]
    accepted: Sequence[str]


def pair(
    rollouts: str,
    output: str,
    method: MethodSettings,
    known: Sequence[str] = (),
    audit: Audit = NOTHING,
) -> PairCounts:
    """Write the pairs of the rollout files as data files of `output`, and refused ones below it.

    A pair that the directories `known` have already is a duplicate. What people decided in an
    `audit` holds, and `output/audit.json` counts it (`AuditedPairs`). `output/dropped` holds
    `Dropped` rows: what was refused, and why. The driver holds counts and the ids of off-policy
    pairs; where families are balanced, the ids of all pairs.

    Raises:
        EngineError: a task failed for a reason outside of it.
    """
    proposals = f"{output}/_proposals"
    for directory in (output, f"{output}/dropped", proposals):
        for file in storage.data_files(directory):
            storage.remove(file)
    files = enumerate(storage.data_files(rollouts))
    tasks = [(file, part(proposals, index), method, known, audit) for index, file in files]
    found = in_tasks(_propose, tasks, output)
    unseen, changed = (sum(each[number] for each in found) for number in (0, 1))
    passed = pa.concat_tables([_PASSED.empty_table(), *(each[2] for each in found)])
    cuts = family_cuts(_by_family(passed), method.pairs)
    passed = passed.filter(pc.invert(_beyond(passed, passed["pair_id"], cuts)))
    off_policy = passed.filter(_is_off_policy(passed))
    on_policy = unseen + passed.num_rows - off_policy.num_rows
    cut = off_policy_cut(on_policy, off_policy["pair_id"], method.pairs)
    jobs = [
        _Job(
            proposals=group,
            output=output,
            index=index,
            cut=cut,
            families=cuts,
            accepted=audit.accepted_ids,
        )
        for index, group in enumerate(bundles(storage.data_files(proposals), PAIRS_PER_FILE))
    ]
    kept, dropped, accepted = Counter[str](), Counter[str](), 0
    for by_stage, by_reason, some in in_tasks(_split, jobs, output):
        kept.update(by_stage)
        dropped.update(by_reason)
        accepted += some
    storage.remove(proposals)
    storage.remove(f"{output}/{AUDITED}")
    if audit.inputs():
        audited: AuditedPairs = {
            "accepted": accepted,
            "rejected": dropped[REJECTED],
            "corrected": changed,
        }
        storage.write_json(audited, f"{output}/{AUDITED}")
    return PairCounts(kept=dict(kept), dropped=dict(dropped))


def _propose(
    job: tuple[str, str, MethodSettings, Sequence[str], Audit],
) -> tuple[int, int, pa.Table]:
    """Write all proposed pairs of a rollout file; one that a gate refused has only a reason.

    Returns the rank, the stage and the family of the pairs that passed the gates: of off-policy
    pairs, and where families are balanced of all. The others are the first number. The second one
    counts the solutions whose verdict the audit changed.
    """
    file, output, method, known, audit = job
    earlier = (table for path in known for table in storage.tables(path, ["pair_id"]))
    chunks = [chunk for table in earlier for chunk in table["pair_id"].chunks]
    ids = pa.chunked_array(chunks, pa.large_string())
    unseen, changed, passed = 0, 0, [_PASSED.empty_table()]
    accepted = audit.accepted_ids
    with ShardWriter(output) as writer:
        for table in small_tables(file):
            judged = [corrected(each, audit) for each in rollouts_of(table)]
            changed += sum(number for _, number in judged)
            rollouts = [rollout for rollout, _ in judged]
            families = {each.problem.problem_id: each.problem.family for each in rollouts}
            found = [each for rollout in rollouts for each in _proposals(rollout, method, audit)]
            pairs = to_table([pair for pair, _ in found], PreferencePair)
            reasons = pa.array([reason for _, reason in found], pa.string())
            repeated = pc.and_(pc.is_in(pairs["pair_id"], ids), pc.is_null(reasons))
            reasons = pc.if_else(repeated, DUPLICATE, reasons)
            family = pa.array([families[pair.problem_id] for pair, _ in found], pa.string())
            pairs = pairs.append_column(REASON, reasons).append_column(FAMILY, family)
            writer.write(pairs)
            fit = pairs.select(_PASSED.names).filter(pc.is_null(reasons))
            some = fit if method.pairs.max_family_ratio else fit.filter(_is_off_policy(fit))
            unseen += fit.num_rows - some.num_rows
            passed.append(some.set_column(0, _PASSED.field(0), _rank(some, accepted)))
    return unseen, changed, pa.concat_tables(passed)


def _proposals(
    rollout: Rollout, method: MethodSettings, audit: Audit
) -> list[tuple[PreferencePair, str | None]]:
    made = build_pairs(rollout, method, audit)
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


def _by_family(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    families = pc.unique(table[FAMILY].drop_null()).to_pylist()
    return {
        name: table.filter(pc.equal(table[FAMILY], name))["pair_id"] for name in sorted(families)
    }


def _rank(table: pa.Table, accepted: Sequence[str]) -> pa.ChunkedArray:
    """By what pairs are cut: their ids. Accepted pairs come before all, so no cut takes them."""
    ids = table["pair_id"]
    return pc.if_else(pc.is_in(ids, pa.array(accepted, ids.type)), "", ids)


def _beyond(table: pa.Table, ranks: pa.ChunkedArray, cuts: Mapping[str, str]) -> pa.Array:
    """Which pairs have a larger rank than their family may have."""
    cut = [cuts.get(family) for family in table[FAMILY].to_pylist()]
    return pc.fill_null(pc.greater(ranks, pa.array(cut, pa.large_string())), False)


def _is_off_policy(table: pa.Table) -> pa.ChunkedArray:
    return pc.equal(table["stage"], str(OFF_POLICY))


def _split(job: _Job) -> tuple[dict[str, int], dict[str, int], int]:
    """Write the kept and the dropped pairs of some proposals; count them by stage and reason.

    The last number are the accepted pairs among the kept ones.
    """
    kept, dropped, accepted = Counter[str](), Counter[str](), 0
    with (
        ShardWriter(part(job.output, job.index)) as pairs,
        ShardWriter(part(f"{job.output}/dropped", job.index)) as refused,
    ):
        for table in (table for file in job.proposals for table in storage.tables(file)):
            reasons, ranks = table[REASON], _rank(table, job.accepted)
            unbalanced = pc.and_(_beyond(table, ranks, job.families), pc.is_null(reasons))
            reasons = pc.if_else(unbalanced, FAMILY_BALANCE, reasons)
            if job.cut is not None:
                beyond = pc.and_(_is_off_policy(table), pc.greater(ranks, job.cut))
                capped = pc.and_(beyond, pc.is_null(reasons))
                reasons = pc.if_else(capped, OFF_POLICY_CAP, reasons)
            stays = pc.is_null(reasons)
            some = table.drop_columns([REASON, FAMILY]).filter(stays)
            others = table.select(_REFUSED).append_column(REASON, reasons).filter(pc.invert(stays))
            pairs.write(some)
            refused.write(others)
            kept.update(some["stage"].to_pylist())
            dropped.update(others[REASON].to_pylist())
            accepted += pc.sum(pc.and_(stays, pc.equal(ranks, ""))).as_py() or 0
    return dict(kept), dict(dropped), accepted
