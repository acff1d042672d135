"""What the steps that stream rows through Ray Data share: running the graph, counting its rows."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow.compute as pc

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.errors import EngineError
from sphere_ray.pools.roles import Roles
from sphere_ray.records import PoolUse
from sphere_ray.reporting.metrics import follow
from sphere_ray.rollout.pipeline import Graph, compact, parts_dir
from sphere_ray.runs.directory import PARTS
from sphere_ray.runs.step import Result, Step, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """What a graph did in this session: counts on the way (lower bounds), and its pools' work.

    `whole` says that no earlier session did a part of it.
    """

    whole: bool = False
    counts: Mapping[str, int | float] = field(default_factory=dict)
    pools: tuple[PoolUse, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StreamedStep(Step):
    """A step that runs a graph of `rollout.pipeline` over the rows of `rows_of`.

    Rows are committed batch by batch, so an interrupted stream continues. At the end the many small
    files become few large ones. With `then_trains` the workers of the training that follows may
    start while the engines still run.
    """

    resumable: ClassVar[bool] = True
    leftovers: ClassVar[tuple[str, ...]] = (PARTS,)
    tokens_column: ClassVar[str] = "tokens"

    settings: RunSettings
    then_trains: bool = False

    @property
    @abstractmethod
    def rows_of(self) -> str:
        """The directory of the rows to stream; each gets one row in the output."""

    @property
    @abstractmethod
    def graph(self) -> Graph:
        """What is done with the rows."""

    @abstractmethod
    def roles(self) -> Roles:
        """The engines that take part."""

    def run(self, work: Work) -> Result:
        """Stream the rows, make large files of them, and count.

        Raises:
            EngineError: engines were lost, or more rows failed than `rollout.max_failed_share`.
        """
        done = self._stream(work)
        work.session.connect()
        compact(work.path)
        result = self._counted(work.path, done.pools)
        self.finish(work, done)
        return result

    def finish(self, work: Work, done: Streamed) -> None:
        """Add to the output what is known at the end of the stream; by default nothing."""

    def _stream(self, work: Work) -> Streamed:
        session, roles, parts = work.session, self.roles(), parts_dir(work.path)
        first, total = storage.count_rows(parts), storage.count_rows(self.rows_of)
        if first == total:
            return Streamed()
        session.serve(roles.specs)
        if self.then_trains:
            session.call_workers_early(work.iteration or 0)
        with work.progress(total, "problems", first=first) as tracker:
            with follow(tracker, done="problems") as hub:
                given = session.assignment(self.settings, roles, work.iteration or 0, hub.sink())
                with session.metered(roles.specs, tracker) as pools:
                    self.graph(self.rows_of, work.path, given)
            # The last counts of a stage actor are lost when it ends; the files are the truth.
            tracker.update(done=storage.count_rows(parts))
        return Streamed(whole=not first, counts=tracker.snapshot.counts, pools=tuple(pools))

    def _counted(self, output: str, pools: tuple[PoolUse, ...]) -> Result:
        errors, rows, tokens = Counter[str](), 0, 0
        for table in storage.tables(output, ["error", self.tokens_column]):
            rows += table.num_rows
            tokens += pc.sum(table[self.tokens_column]).as_py() or 0
            errors.update(error for error in table["error"].to_pylist() if error is not None)
        allowed = self.settings.rollout.max_failed_share * rows
        if errors.total() > allowed or errors.total() == rows > 0:
            reason, _ = errors.most_common(1)[0]
            raise EngineError(
                f"{errors.total()} of {rows} problems failed, more than rollout.max_failed_share "
                f"allows (never all); most often: {reason}; raise the share to go on with the "
                f"rest, or remove {output} to generate again"
            )
        return Result(
            rows_in=storage.count_rows(self.rows_of),
            rows_out=rows,
            dropped={"failed": errors.total()} if errors else {},
            tokens=tokens,
            pools=pools,
        )
