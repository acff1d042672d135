"""The phases that generate: problems, rollouts, pairs, evaluations; skipped once committed."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sphere_ray.engines.model_source import model_fingerprint
from sphere_ray.errors import EngineError
from sphere_ray.method.pairs import OFF_POLICY, build_pairs, off_policy_cut
from sphere_ray.problems.ingest import SPLITS, ingest, rejected_lines, require_usable
from sphere_ray.records import (
    EvaluationRow,
    ModelRef,
    PhaseReport,
    PoolUse,
    PreferencePair,
    Problem,
    Rollout,
)
from sphere_ray.reporting.metrics import follow
from sphere_ray.rollout import pipeline
from sphere_ray.rollout.stages import ID_COLUMN, rollouts_of
from sphere_ray.runs import storage
from sphere_ray.runs.manifest import Manifest
from sphere_ray.runs.roles import Roles, policy_spec, roles_of
from sphere_ray.runs.session import Session
from sphere_ray.runs.stopwatch import stopwatch
from sphere_ray.runs.store import PhaseDir
from sphere_ray.schema import from_table, to_table

DATA = "part-00000.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """What a graph did in this session: counts on the way (lower bounds), and its pools' work."""

    counts: Mapping[str, int | float] = field(default_factory=dict)
    pools: tuple[PoolUse, ...] = ()


def ingest_problems(session: Session) -> tuple[PhaseDir, Manifest]:
    """Read, check and split the problems; rejected rows go to rejected/rows.jsonl.

    Raises:
        ProblemSourceError: a source cannot be used.
    """
    phase = session.store.phase(None, "problems")
    if (manifest := phase.committed()) is not None:
        return phase, manifest
    started = time.monotonic()
    settings = session.settings.problems
    result = ingest(settings)
    rejected = session.store.path_of("rejected/rows.jsonl")
    storage.write_text(rejected_lines(result.rejected), rejected)
    require_usable(result, settings.max_rejected_share, rejected)
    if result.rejected:
        session.board.log(
            f"{len(result.rejected)} rows were rejected; the reasons are in {rejected}"
        )
    phase.begin()
    for split in SPLITS:
        storage.write_table(
            to_table(result.problems[split], Problem), f"{phase.path}/{split}/{DATA}"
        )
    report = PhaseReport(
        phase=phase.name,
        fingerprint=phase.fingerprint,
        rows_in=sum(result.rows.values()),
        rows_out=sum(len(problems) for problems in result.problems.values()),
        dropped=result.dropped,
        seconds=time.monotonic() - started,
    )
    return phase, phase.commit(report)


def roll_out(
    session: Session,
    problems: PhaseDir,
    policy: ModelRef,
    iteration: int,
    trained: ModelRef | None = None,
    *,
    beside: Callable[[], None] | None = None,
) -> tuple[PhaseDir, Manifest]:
    """Stages 1 to 3 over the training problems; `trained` scores them where there is one.

    `beside` is called when the engines run; it may start what the rollouts need not wait for.

    Raises:
        EngineError: engines were lost, or more rows failed than `rollout.max_failed_share`.
    """
    roles = roles_of(session.settings.engines, policy, trained)
    upstream = {
        "problems": problems.fingerprint,
        "policy": policy.fingerprint,
        **{name: model_fingerprint(spec.path) for name, spec in roles.others.items() if spec.path},
    }
    phase = session.store.phase(iteration, "rollouts", upstream)
    if (manifest := phase.committed()) is not None:
        return phase, manifest
    session.connect()
    phase.begin(resumable=True)
    source = f"{problems.path}/train"

    def graph(*place: Any) -> None:
        if beside is not None:
            beside()
        pipeline.rollout(*place)

    with stopwatch(phase) as seconds:
        done = stream(session, graph, source, phase, roles, iteration)
    failed: Counter[str] = Counter()
    rows = tokens = 0
    for rollout in read_rollouts(phase.path):
        rows, tokens = rows + 1, tokens + rollout.tokens
        if rollout.error is not None:
            failed[rollout.error] += 1
    if failed.total() > session.settings.rollout.max_failed_share * rows:
        reason, _ = failed.most_common(1)[0]
        raise EngineError(
            f"{failed.total()} of {rows} problems failed, more than rollout.max_failed_share "
            f"allows; most often: {reason}; raise the share to go on with the rest, or remove "
            f"{phase.path} to generate again"
        )
    report = PhaseReport(
        phase=phase.name,
        fingerprint=phase.fingerprint,
        rows_in=storage.count_rows(source),
        rows_out=rows,
        dropped={"failed": failed.total()} if failed else {},
        tokens=tokens,
        seconds=seconds(),
        pools=done.pools,
    )
    return phase, committed(phase, source, report)


def collect_pairs(
    session: Session, rollouts: PhaseDir, iteration: int
) -> tuple[PhaseDir, Manifest]:
    """Gather the pairs of an iteration and apply the gates that look across problems."""
    phase = session.store.phase(iteration, "pairs", {"rollouts": rollouts.fingerprint})
    if (manifest := phase.committed()) is not None:
        return phase, manifest
    started = time.monotonic()
    phase.begin()
    found: list[PreferencePair] = []
    dropped: Counter[str] = Counter()
    for rollout in read_rollouts(rollouts.path):
        paired = build_pairs(rollout, session.settings.method)
        found.extend(paired.pairs)
        dropped.update(each.reason for each in paired.dropped)
    off = pa.chunked_array(
        [[pair.pair_id for pair in found if pair.stage is OFF_POLICY]], pa.large_string()
    )
    cut = off_policy_cut(len(found) - len(off), off, session.settings.method.pairs)
    kept = sorted(
        (p for p in found if cut is None or p.stage is not OFF_POLICY or p.pair_id <= cut),
        key=lambda pair: pair.pair_id,
    )
    dropped.update(off_policy_cap=len(found) - len(kept))
    dropped = +dropped
    storage.write_table(to_table(kept, PreferencePair), f"{phase.path}/{DATA}")
    report = PhaseReport(
        phase=phase.name,
        fingerprint=phase.fingerprint,
        rows_in=len(found),
        rows_out=len(kept),
        dropped=dict(dropped),
        seconds=time.monotonic() - started,
    )
    return phase, phase.commit(report)


def evaluate(
    session: Session,
    problems: PhaseDir,
    split: str,
    model: ModelRef,
    place: tuple[int | None, str],
) -> tuple[list[EvaluationRow], Manifest]:
    """Answer and grade one split with `model`; `place` is the iteration and the phase's name."""
    iteration, name = place
    upstream = {"problems": problems.fingerprint, "split": split, "model": model.fingerprint}
    phase = session.store.phase(iteration, name, upstream)
    manifest = phase.committed()
    if manifest is None:
        session.connect()
        phase.begin(resumable=True)
        spec = policy_spec(session.settings.engines, model)
        roles = Roles(policy=spec, small=spec, reward=None)
        source = f"{problems.path}/{split}"
        with stopwatch(phase) as seconds:
            done = stream(session, pipeline.evaluate, source, phase, roles, iteration)
        rows = read_evaluation(phase.path)
        report = PhaseReport(
            phase=phase.name,
            fingerprint=phase.fingerprint,
            rows_in=storage.count_rows(source),
            rows_out=len(rows),
            tokens=sum(row.num_tokens for row in rows),
            seconds=seconds(),
            pools=done.pools,
        )
        manifest = committed(phase, source, report)
    return read_evaluation(phase.path), manifest


def stream(
    session: Session,
    graph: pipeline.Graph,
    source: str,
    phase: PhaseDir,
    roles: Roles,
    iteration: int | None,
) -> Streamed:
    """Run a Ray Data graph from `source` into `phase` on the engines of `roles`."""
    done, total = storage.count_rows(phase.path), storage.count_rows(source)
    if done == total:
        return Streamed()
    session.serve(roles.specs)
    board = session.board.phase(phase.name, total, "problems", iteration=iteration, first=done)
    with board as tracker:
        with follow(tracker, done="problems") as hub:
            assignment = session.assignment(roles, iteration or 0, hub.sink())
            with session.used(roles.specs) as pools:
                graph(source, phase.path, assignment, session.settings.rollout)
        # The last counts of a stage actor are lost when it ends; the files are the truth.
        tracker.update(done=storage.count_rows(phase.path))
    return Streamed(counts=tracker.snapshot.counts, pools=tuple(pools))


def read_rollouts(path: str) -> Iterator[Rollout]:
    """Rollouts of a phase, file by file."""
    for name in storage.data_files(path):
        yield from rollouts_of(storage.read_table(f"{path}/{name}"))


def read_columns(path: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Leaf columns of a phase, file by file."""
    for name in storage.data_files(path):
        filesystem, inner = storage._open(f"{path}/{name}")
        with filesystem.open(inner, "rb") as file:
            yield pq.ParquetFile(file).read(columns=list(columns))


def read_evaluation(path: str) -> list[EvaluationRow]:
    """Rows of an evaluation."""
    return from_table(storage.read_table(path), EvaluationRow)


def committed(phase: PhaseDir, source: str, report: PhaseReport) -> Manifest:
    """Commit a streamed phase; the ids of committed rows have served their purpose.

    Raises:
        EngineError: not every problem has exactly one row.
    """
    wanted, found = (Counter(storage.read_column(p, ID_COLUMN)) for p in (source, phase.path))
    if missing := (wanted - found).total():
        raise EngineError(
            f"{phase.path} lacks {missing} of {wanted.total()} problems; "
            "run the same command again to make the missing ones"
        )
    if surplus := found - wanted:
        raise EngineError(
            f"{phase.path} has {surplus.total()} rows too many, for example of problem "
            f"{next(iter(surplus))}; remove the directory and run the same command again"
        )
    manifest = phase.commit(report)
    storage.remove(pipeline.checkpoint_dir(phase.path))
    return manifest
