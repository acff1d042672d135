"""Problems from files: JSON lines, JSON arrays, CSV and parquet, on any fsspec filesystem.

Files are written by strangers: reading ends, and holds one line, array or batch at most.
"""

import codecs
import csv
import io
import os
import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO

import aiohttp
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.utils import get_protocol

from sphere_ray.errors import ProblemSourceError
from sphere_ray.problems.rows import Columns, RawRow
from sphere_ray.redaction import redact
from sphere_ray.untrusted import JsonReader, Unpacked, require_regular, text_lines

_MAX_ARRAY_BYTES = 512 << 20
_BATCH_ROWS = 1024

_TROUBLE = (
    *(OSError, EOFError, ImportError, ValueError, OverflowError),
    *(zlib.error, pa.ArrowException, aiohttp.ClientError),
)
_BLANK = re.compile(r"[ \t\r\n]*")

Reader = Callable[[IO[bytes], str, Columns], Iterator[RawRow]]


def read_file(path: str, columns: Columns) -> Iterator[RawRow]:
    """Yield the rows of a file; a row that cannot be read says so in its `error`.

    Raises:
        ProblemSourceError: the file cannot be read, is not of the kind its name says, never ends,
            or lacks columns.
    """
    shown = redact(path)
    name = path.partition("?")[0].lower()  # a query of a URL is left to its server
    reader = _READERS.get(os.path.splitext(name.removesuffix(".gz"))[1])
    if reader is None or name.endswith(".parquet.gz"):
        raise ProblemSourceError(
            f"file:{shown} is of an unknown kind; convert it to one of {', '.join(_READERS)} "
            "(text also packed, as .jsonl.gz)"
        )
    try:
        if get_protocol(path) in ("file", "local"):
            # A look before opening: a pipe that nobody writes to would hold us for ever.
            require_regular(os.stat(os.path.expanduser(path.rpartition("://")[2])))
        with fsspec.open(path, "rb") as file:
            content = Unpacked(file) if name.endswith(".gz") else file
            with io.BufferedReader(content) as buffered:
                yield from reader(buffered, shown, columns)
    except FileNotFoundError as error:  # fsspec says so too where a server refuses
        cause = error.__cause__
        while cause is not None and cause.__cause__ is not None:
            cause = cause.__cause__
        reason = f", or it is refused: {' '.join(str(cause).split())}" if cause else ""
        raise ProblemSourceError(
            f"problem file {shown} does not exist{reason}; check the path"
        ) from None
    except IsADirectoryError:
        raise ProblemSourceError(f"{shown} is a directory; name a file in it") from None
    except UnicodeDecodeError:
        raise ProblemSourceError(f"{shown} is not UTF-8 text; save it as UTF-8") from None
    except _TROUBLE as error:
        reason = " ".join(str(error).split())
        raise ProblemSourceError(
            f"problem file {shown} cannot be read: {reason}; check the path and your access to it"
        ) from None


def _read_jsonl(file: IO[bytes], path: str, columns: Columns) -> Iterator[RawRow]:
    names: dict[str, None] = {}
    reader, is_first = JsonReader(), True
    for number, line in enumerate(text_lines(file), start=1):
        text = line.strip()
        if not text:
            continue
        if is_first and (text == "{" or text.startswith("[")):
            raise ProblemSourceError(
                f"{path} is JSON over several lines or a JSON array; write one object a line, or "
                "give an array a name that ends in .json"
            )
        is_first = False
        row, end = _json_row(reader, text, 0, f"{path}:{number}", columns)
        if row.values is not None and end < len(text):
            row = RawRow(origin=row.origin, error="not valid JSON: more after its end", text=text)
        names.update(dict.fromkeys(row.values or ()))
        yield row
    if names:
        columns.require(names, path)


def _json_row(
    reader: JsonReader, text: str, begin: int, origin: str, columns: Columns
) -> tuple[RawRow, int]:
    """The row that begins at a place, and where it ends: where it began if it is not JSON."""
    try:
        values, end = reader.decode(text, begin)
    except (ValueError, RecursionError) as error:
        return RawRow(origin=origin, error=f"not valid JSON: {error}", text=text[begin:]), begin
    words = text[begin:end]
    if not isinstance(values, dict):
        return RawRow(origin=origin, error="not a JSON object", text=words), end
    if reader.twice is not None:
        error_text = f"the key {reader.twice!r} is there twice"
        return RawRow(origin=origin, error=error_text, text=words), end
    return RawRow(origin=origin, values=values, columns=columns, text=words), end


def _read_json(file: IO[bytes], path: str, columns: Columns) -> Iterator[RawRow]:
    """Read an array of objects; it is held whole."""
    data = file.read(_MAX_ARRAY_BYTES + 1)
    if len(data) > _MAX_ARRAY_BYTES:
        raise ProblemSourceError(
            f"{path} has more than {_MAX_ARRAY_BYTES >> 20} MiB, and an array is read whole; "
            "write it as .jsonl, one object a line"
        )
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    reader, names, number, place = JsonReader(), dict[str, None](), 0, _after_blank(text, 0)
    is_array = text[place : place + 1] == "["
    place = _after_blank(text, place + 1)
    while is_array and text[place : place + 1] != "]":
        number += 1
        row, end = _json_row(reader, text, place, f"{path} row {number}", columns)
        after = _after_blank(text, end)
        if end == place or text[after : after + 1] not in (",", "]"):
            raise ProblemSourceError(
                f"{path} is not valid JSON at row {number} ({row.error or 'no comma follows'}); "
                "correct it"
            )
        names.update(dict.fromkeys(row.values or ()))
        yield row
        place = _after_blank(text, after + 1) if text[after] == "," else after
    if not is_array or _after_blank(text, place + 1) < len(text):
        raise ProblemSourceError(
            f"{path} is not one JSON array of objects; write it as one, or one object a line in a "
            ".jsonl file"
        )
    if names:
        columns.require(names, path)


def _after_blank(text: str, place: int) -> int:
    match = _BLANK.match(text, place)
    return match.end() if match else place


def _read_csv(file: IO[bytes], path: str, columns: Columns) -> Iterator[RawRow]:
    rows = csv.reader(text_lines(file), strict=True)
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
        names = parquet.schema_arrow.names
        columns.require(names, path)
        wanted = {part for name in columns.all_names for part in (name, name.partition(".")[0])}
        left_out = tuple(name for name in names if name not in wanted)
        chosen = [name for name in names if name in wanted]
        batches = parquet.iter_batches(_BATCH_ROWS, columns=chosen)
        rows = (values for batch in batches for values in batch.to_pylist())
        for number, values in enumerate(rows, start=1):
            origin = f"{path} row {number}"
            yield RawRow(origin=origin, values=values, columns=columns, left_out=left_out)
    except pa.ArrowInvalid as error:
        raise ProblemSourceError(
            f"{path} is not a valid parquet file: {error}; write it again"
        ) from None


_READERS: dict[str, Reader] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
