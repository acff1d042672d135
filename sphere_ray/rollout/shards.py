"""Directories of parquet files, read and written piece by piece in parallel Ray tasks.

Nothing here holds more than a few row groups of a file in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Self, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayError

from sphere_ray import storage
from sphere_ray.pools.errors import sphere_error
from sphere_ray.pools.nodes import living_nodes

TASK_CPUS = 0.1
"""Reading and writing small tables; whole CPUs for them hang a machine with two."""
FOOTERS = 1024
"""Files whose footers one task reads."""
BATCH_ROWS = 32
"""Rows at a time that become Python objects; a rollout has about 100 KB, as objects much more."""
GROUP_ROWS = 256
"""Small pieces are written as row groups of at least so many rows."""

Job = TypeVar("Job")
Result = TypeVar("Result")


def part(directory: str, index: int) -> str:
    """Return the name of a data file."""
    return f"{directory}/part-{index:05}.parquet"


def title(directory: str) -> str:
    """A step's name for Ray's dashboard, from its directory: `laptop-iter-000-rollouts`.

    It begins with the name of the run directory.
    """
    names = directory.removesuffix("/_parts").split("/")
    iterations = [index for index, name in enumerate(names) if name.startswith("iter-")]
    first = iterations[-1] - 1 if iterations else -3
    return "-".join(names[first:])


def small_tables(file: str) -> Iterator[pa.Table]:
    """Read a parquet file in tables of `BATCH_ROWS` rows."""
    for table in storage.tables(file):
        for first in range(0, table.num_rows, BATCH_ROWS):
            yield table.slice(first, BATCH_ROWS)


class ShardWriter:
    """Writes one parquet file; it appears when the context ends well, and if it has rows."""

    def __init__(self, file: str) -> None:
        """Write to `file` in the end; nothing is opened before the first row."""
        self.rows = 0
        self._file = file
        self._waiting: list[pa.Table] = []
        self._open = ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Add rows; all tables have the same schema."""
        if table.num_rows:
            self.rows += table.num_rows
            self._waiting.append(table)
            if sum(each.num_rows for each in self._waiting) >= GROUP_ROWS:
                self._flush()

    def _flush(self) -> None:
        table, self._waiting = pa.concat_tables(self._waiting), []
        if self._writer is None:
            opened = self._open.enter_context(storage.replacing(self._file))
            writer = pq.ParquetWriter(opened, table.schema, compression="zstd")
            self._writer = self._open.enter_context(writer)
        self._writer.write_table(table)

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        """Put the file in its place, or remove what there is of it after an error."""
        if kind is None and self._waiting:
            self._flush()
        self._open.__exit__(kind, *error)


def in_tasks(
    function: Callable[[Job], Result], jobs: Sequence[Job], output: str = ""
) -> list[Result]:
    """Run a function on every job in Ray tasks; return the results in the order of the jobs.

    A single job runs here: a small run should not wait seconds for the process of a task. As many
    tasks run at a time as the cluster has CPUs, because starting a process costs seconds of one.
    The dashboard shows the tasks by their function and the step of the directory `output`.

    Raises:
        SphereError: a task raised it, or failed for another reason.
    """
    if len(jobs) == 1:
        return [function(jobs[0])]
    name = f"{title(output)}:{function.__name__}"
    options = {"num_cpus": TASK_CPUS, "scheduling_strategy": "SPREAD", "name": name}
    task = cast(Any, ray.remote(function)).options(**options)
    most = max(1, int(sum(node.cpus for node in living_nodes())))
    results: dict[int, Result] = {}
    running: dict[Any, int] = {}
    waiting = iter(enumerate(jobs))
    try:
        while len(results) < len(jobs):
            while len(running) < most and (job := next(waiting, None)) is not None:
                running[task.remote(job[1])] = job[0]
            (done, *_), _ = ray.wait(list(running))
            results[running.pop(done)] = ray.get(done)
    except RayError as error:
        raise sphere_error(error, function.__name__) from error
    return [results[index] for index in range(len(jobs))]


def bundles(files: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """Put neighbouring files together, with at most `most` rows each (or one larger file)."""
    chunks = [files[first : first + FOOTERS] for first in range(0, len(files), FOOTERS)]
    rows = [count for counts in in_tasks(_row_counts, chunks) for count in counts]
    found: list[list[str]] = []
    room = 0
    for file, count in zip(files, rows, strict=True):
        if not found or count > room:
            found.append([])
            room = most
        found[-1].append(file)
        room -= count
    return [tuple(each) for each in found]


def _row_counts(files: Sequence[str]) -> list[int]:
    return [storage.num_rows(file) for file in files]
