"""Directories of parquet files, read and written piece by piece in parallel Ray tasks.

A file appears by rename, whole.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayError
from upath import UPath

from sphere_ray.rollout.errors import sphere_error

TASK_CPUS = 0.1
"""Reading and writing small tables; whole CPUs for them hang a machine with two."""
TASKS = 64
"""Tasks that are submitted at a time; the others wait in the driver."""
FOOTERS = 1024
"""Files whose footers one task reads."""
BATCH_ROWS = 32
GROUP_ROWS = 256
"""Small pieces are written as row groups of at least so many rows."""

Job = TypeVar("Job")
Result = TypeVar("Result")


def data_files(directory: str) -> list[str]:
    """Return the parquet files directly in a directory, sorted; none if it does not exist.

    Names that begin with a dot or an underscore are not data.
    """
    path = UPath(directory)
    found = path.iterdir() if path.is_dir() else ()
    return sorted(str(p) for p in found if p.suffix == ".parquet" and p.name[0] not in "._")


def remove_directory(directory: str) -> None:
    """Remove a directory with all that it holds; nothing happens if it does not exist."""
    path = UPath(directory)
    if path.is_dir():
        path.fs.rm(path.path, recursive=True)


def part(directory: str, index: int) -> str:
    """Return the name of a data file."""
    return f"{directory}/part-{index:05}.parquet"


def tables(file: str) -> Iterator[pa.Table]:
    """Read a parquet file in small tables: as Python objects a row takes twenty times its size."""
    with UPath(file).open("rb") as opened:
        for batch in pq.ParquetFile(opened).iter_batches(batch_size=BATCH_ROWS):
            yield pa.Table.from_batches([batch])


def num_rows(file: str) -> int:
    """Return the number of rows of a parquet file, from its footer."""
    with UPath(file).open("rb") as opened:
        return int(pq.ParquetFile(opened).metadata.num_rows)


class ShardWriter:
    """Writes one parquet file; it appears when the context ends well, and if it has rows."""

    def __init__(self, file: str) -> None:
        """Write to `file` in the end; nothing is opened before the first row."""
        self.rows = 0
        self._file = UPath(file)
        self._partial = self._file.with_name(f".tmp-{uuid.uuid4().hex}-{self._file.name}")
        self._waiting: list[pa.Table] = []
        self._opened: Any = None
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
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._opened = self._partial.open("wb")
            self._writer = pq.ParquetWriter(self._opened, table.schema, compression="zstd")
        self._writer.write_table(table)

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the file in its place, or remove what there is of it after an error."""
        if error is None and self._waiting:
            self._flush()
        if self._writer is None:
            return
        self._writer.close()
        self._opened.close()
        if error is None:
            self._partial.rename(self._file)
        else:
            self._partial.unlink()


def in_tasks(function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    """Run a function on every job in Ray tasks; return the results in the order of the jobs.

    A single job runs here: a small run should not wait seconds for the process of a task.

    Raises:
        SphereError: a task raised it, or failed for another reason.
    """
    if len(jobs) == 1:
        return [function(jobs[0])]
    task = ray.remote(num_cpus=TASK_CPUS)(function)
    results: dict[int, Result] = {}
    running: dict[Any, int] = {}
    waiting = iter(enumerate(jobs))
    try:
        while len(results) < len(jobs):
            while len(running) < TASKS and (job := next(waiting, None)) is not None:
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
    return [num_rows(file) for file in files]
