"""Rows spread over the parquet files of directories, read by range and in pieces."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sphere_ray.errors import TrainingError

# With a buffer, arrow reads a column of a row group page by page instead of whole.
_BUFFER_BYTES = 1 << 20


class Shards:
    """The rows of all `part-*.parquet` in directories, in the order of these and of the file names.

    Other names are not rows: a step's directory also holds its manifest.
    """

    def __init__(self, *paths: str) -> None:
        """Read the files' footers.

        Raises:
            TrainingError: a directory has no such file.
        """
        self._parts: list[Path] = []
        for path in paths:
            parts = sorted(Path(path).glob("part-*.parquet"))
            if not parts:
                raise TrainingError(
                    f"{path} holds no part-*.parquet; it must be on storage that all nodes share"
                )
            self._parts += parts
        counts: Iterator[int] = (pq.read_metadata(part).num_rows for part in self._parts)
        self._starts = list(accumulate(counts, initial=0))

    def __len__(self) -> int:
        """Number of rows."""
        return self._starts[-1]

    def of_rank(self, rank: int, world: int) -> range:
        """The rows that a rank reads: consecutive, and equally many for all ranks or one less."""
        return range(len(self) * rank // world, len(self) * (rank + 1) // world)

    def read(
        self, rows: range, *, chunk: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """Read a range of rows, `chunk` rows at a time; the last piece may be smaller."""
        held: list[pa.RecordBatch] = []
        for batch in self._batches(rows, chunk, columns):
            table = pa.Table.from_batches([*held, batch])
            if table.num_rows >= chunk:
                yield table.slice(0, chunk)
                table = table.slice(chunk)
            held = table.to_batches()
        if held:
            yield pa.Table.from_batches(held)

    def _batches(
        self, rows: range, size: int, columns: Sequence[str] | None
    ) -> Iterator[pa.RecordBatch]:
        for part, (start, stop) in zip(self._parts, pairwise(self._starts), strict=True):
            if not _overlap(rows, start, stop):
                continue
            with pq.ParquetFile(part, buffer_size=_BUFFER_BYTES) as file:
                for group in range(file.num_row_groups):
                    count = file.metadata.row_group(group).num_rows
                    if _overlap(rows, start, start + count):
                        batches = file.iter_batches(size, row_groups=[group], columns=columns)
                        yield from _within(rows, start, batches)
                    start += count


def _within(rows: range, start: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The part of some batches that lies in `rows`; the first of them begins at row `start`."""
    for batch in batches:
        if wanted := _overlap(rows, start, start + batch.num_rows):
            yield batch.slice(wanted.start - start, len(wanted))
        start += batch.num_rows
        if start >= rows.stop:
            return


def _overlap(rows: range, start: int, stop: int) -> range:
    return range(max(rows.start, start), min(rows.stop, stop))
