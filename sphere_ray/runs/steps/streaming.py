"""What the steps that stream rows through Ray Data share: running a graph, counting failures."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.errors import EngineError
from sphere_ray.records import PoolUse
from sphere_ray.reporting.metrics import follow
from sphere_ray.rollout.pipeline import Graph, compact, parts_dir
from sphere_ray.rollout.roles import Roles
from sphere_ray.runs.step import Work

LEFTOVERS = ("_parts",)
"""The many small files of a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """What a graph did in this session: counts on the way (lower bounds), and its pools' work."""

    counts: Mapping[str, int | float] = field(default_factory=dict)
    pools: tuple[PoolUse, ...] = ()


def stream(
    work: Work,
    graph: Graph,
    source: str,
    *,
    settings: RunSettings,
    roles: Roles,
    call_workers: bool = False,
) -> Streamed:
    """Run a graph of `rollout.pipeline` over the rows of `source` on the engines of `roles`.

    Rows are committed batch by batch, so an interrupted stream continues. At the end the many small
    files become few large ones. With `call_workers` training's workers may start meanwhile.
    """
    parts, total = parts_dir(work.path), storage.count_rows(source)
    done = storage.count_rows(parts)
    result = Streamed()
    if done < total:
        work.session.serve(roles.specs)
        if call_workers:
            work.session.call_workers_early(work.iteration or 0)
        with work.progress(total, "problems", first=done) as tracker:
            with follow(tracker, done="problems") as hub:
                given = work.session.assignment(settings, roles, work.iteration or 0, hub.sink())
                with work.session.metered(roles.specs) as pools:
                    graph(source, work.path, given)
            # The last counts of a stage actor are lost when it ends; the files are the truth.
            tracker.update(done=storage.count_rows(parts))
        result = Streamed(counts=tracker.snapshot.counts, pools=tuple(pools))
    work.session.connect()
    compact(work.path)
    return result


def check_failures(errors: Counter[str], rows: int, limit: float, directory: str) -> None:
    """Check that no larger share of the rows than `limit` (`rollout.max_failed_share`) failed.

    Raises:
        EngineError: more rows failed; names the most frequent reason.
    """
    if errors.total() > limit * rows:
        reason, _ = errors.most_common(1)[0]
        raise EngineError(
            f"{errors.total()} of {rows} problems failed, more than rollout.max_failed_share "
            f"allows; most often: {reason}; raise the share to go on with the rest, or remove "
            f"{directory} to generate again"
        )
