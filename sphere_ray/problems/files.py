"""Problems from files: JSON lines, CSV and parquet, local or on any fsspec filesystem."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import IO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from sphere_ray.errors import ProblemSourceError
from sphere_ray.problems.rows import FAMILY, LEVEL, Columns, RawRow

Reader = Callable[[IO[bytes], str, Columns], Iterator[RawRow]]


def read_file(path: str, columns: Columns) -> Iterator[RawRow]:
    """Yield the rows of a file; a row that cannot be read says so in its `error`.

    Raises:
        ProblemSourceError: the file cannot be read, is not of the kind its name says, or lacks
            columns.
    """
    reader = next((r for suffix, r in _READERS.items() if path.lower().endswith(suffix)), None)
    if reader is None:
        raise ProblemSourceError(
            f"file:{path} is of an unknown kind; convert it to one of {', '.join(_READERS)}"
        )
    try:
        with fsspec.open(path, "rb") as file:
            yield from reader(file, path, columns)
    except FileNotFoundError:
        raise ProblemSourceError(f"problem file {path} does not exist; check the path") from None
    except IsADirectoryError:
        raise ProblemSourceError(f"{path} is a directory; name a file in it") from None
    except UnicodeDecodeError:
        raise ProblemSourceError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except (OSError, ImportError, ValueError) as error:
        raise ProblemSourceError(
            f"problem file {path} cannot be read: {error}; check the path and your access to it"
        ) from None


def _read_jsonl(file: IO[bytes], path: str, columns: Columns) -> Iterator[RawRow]:
    names: dict[str, None] = {}
    with io.TextIOWrapper(file, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = _parse_line(line.strip(), f"{path}:{number}", columns)
            names.update(dict.fromkeys(row.values or ()))
            yield row
    if names:
        columns.require(names, path)


def _parse_line(line: str, origin: str, columns: Columns) -> RawRow:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return RawRow(origin=origin, error=f"not valid JSON: {error}", text=line)
    if not isinstance(value, dict):
        return RawRow(origin=origin, error="not a JSON object", text=line)
    return RawRow(origin=origin, values=value, columns=columns, text=line)


def _read_csv(file: IO[bytes], path: str, columns: Columns) -> Iterator[RawRow]:
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        rows = csv.reader(text, strict=True)
        try:
            names = next(rows, [])
            columns.require(names, path)
            for cells in filter(None, rows):
                yield _csv_row(cells, names, f"{path}:{rows.line_num}", columns)
        except csv.Error as error:
            raise ProblemSourceError(
                f"{path}, line {rows.line_num} is not valid CSV: {error}; correct the line"
            ) from None


def _csv_row(cells: list[str], names: list[str], origin: str, columns: Columns) -> RawRow:
    if len(cells) != len(names):
        error = f"{len(cells)} cells for {len(names)} columns"
        return RawRow(origin=origin, error=error, text=",".join(cells))
    return RawRow(origin=origin, values=dict(zip(names, cells, strict=True)), columns=columns)


def _read_parquet(file: IO[bytes], path: str, columns: Columns) -> Iterator[RawRow]:
    try:
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
        columns.require(schema.names, path)
        _require_types(schema, path, columns)
        known = {*columns.question, *columns.answer, *FAMILY, *LEVEL}
        batches = parquet.iter_batches(columns=[n for n in schema.names if n in known])
        rows = (values for batch in batches for values in batch.to_pylist())
        for number, values in enumerate(rows, start=1):
            yield RawRow(origin=f"{path} row {number}", values=values, columns=columns)
    except pa.ArrowInvalid as error:
        raise ProblemSourceError(
            f"{path} is not a valid parquet file: {error}; write it again"
        ) from None


def _require_types(schema: pa.Schema, path: str, columns: Columns) -> None:
    for name in (n for n in schema.names if n in {*columns.question, *columns.answer}):
        kind = schema.field(name).type
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_text = pa.types.is_string(inner) or pa.types.is_large_string(inner)
        is_number = (
            pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_decimal(inner)
        )
        if not is_text and not (is_number and name in columns.answer):
            wanted = "text or numbers" if name in columns.answer else "text"
            raise ProblemSourceError(
                f"{path}: column {name} has type {kind}, but {wanted} is needed; "
                "convert the column, or name another by ?question=COLUMN&answer=COLUMN"
            )


_READERS: dict[str, Reader] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
