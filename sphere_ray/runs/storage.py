"""Files of a run on any filesystem: a local path, or an fsspec URI such as s3://bucket/run.

Every write appears whole or not at all. Must not know of phases or configurations.
"""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from sphere_ray.errors import RunDirectoryError

_TEMPORARY = ".tmp-"
_REMEDY = "remove this phase's directory and run the same command again"


def resolve(uri: str) -> str:
    """Make a run directory absolute: a local path without a scheme, anything else as its URI.

    Raises:
        RunDirectoryError: the scheme is unknown, or its package is not installed.
    """
    if "://" not in uri:
        return str(Path(uri).expanduser().absolute())
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise RunDirectoryError(
            f"run_dir {uri} cannot be used: {error}; install what this filesystem needs, "
            "or use a local directory"
        ) from None
    return str(path if uri.startswith("file:") else filesystem.unstrip_protocol(path))


def is_local(path: str) -> bool:
    """Whether a resolved path lies on this machine's filesystem (mounts included)."""
    return "://" not in path


def listing(directory: str) -> list[str]:
    """Names in a directory, sorted; empty if it does not exist."""
    filesystem, path = _open(directory)
    filesystem.invalidate_cache()
    try:
        found = filesystem.ls(path, detail=False)
    except FileNotFoundError:
        return []
    return sorted(name.rstrip("/").rpartition("/")[2] for name in found)


def file_names(directory: str) -> set[str]:
    """Names (without folders) of all files below a directory."""
    filesystem, path = _open(directory)
    filesystem.invalidate_cache()
    return {name.rpartition("/")[2] for name in filesystem.find(path)}


def make_directory(directory: str) -> None:
    """Create a directory and its parents; nothing happens if it exists."""
    filesystem, path = _open(directory)
    filesystem.makedirs(path, exist_ok=True)


def remove(path: str) -> None:
    """Remove a file or a directory with all it holds; nothing happens if it does not exist."""
    filesystem, inner = _open(path)
    filesystem.invalidate_cache()
    if filesystem.exists(inner):
        filesystem.rm(inner, recursive=True)


def exists(path: str) -> bool:
    """Whether a file or directory is there."""
    filesystem, inner = _open(path)
    filesystem.invalidate_cache()
    return bool(filesystem.exists(inner))


def write_text(text: str, path: str) -> None:
    """Write a text file, replacing what was there in one step."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def append_line(line: str, path: str) -> None:
    """Add a line to a text file; object stores cannot append, there the file is written anew."""
    if is_local(path):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    else:
        write_text(f"{read_text(path) or ''}{line}\n", path)


def write_json(value: Any, path: str) -> None:
    """Write readable JSON, replacing what was there in one step."""
    write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", path)


def read_text(path: str) -> str | None:
    """Read a text file, None if it does not exist."""
    filesystem, inner = _open(path)
    try:
        with filesystem.open(inner, "rb") as file:
            return bytes(file.read()).decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise RunDirectoryError(f"{path} is damaged: it is not UTF-8 text; {_REMEDY}") from None


def read_json(path: str) -> Any:
    """Read a JSON file, None if it does not exist.

    Raises:
        RunDirectoryError: the file is damaged.
    """
    text = read_text(path)
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}; {_REMEDY}") from None


def write_table(table: pa.Table, path: str) -> None:
    """Write a table as one parquet file, replacing what was there in one step."""
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd")


def data_files(directory: str) -> list[str]:
    """Names of the parquet files directly in a directory, sorted.

    Names that begin with a dot or an underscore are not data.
    """
    names = listing(directory)
    return [name for name in names if name.endswith(".parquet") and name[0] not in "._"]


def count_rows(directory: str) -> int:
    """Rows of all complete parquet files directly in a directory; 0 if it does not exist."""
    return sum(_rows_of(f"{directory}/{name}") for name in data_files(directory))


def _rows_of(path: str) -> int:
    filesystem, inner = _open(path)
    try:
        with filesystem.open(inner, "rb") as file:
            return int(pq.ParquetFile(file).metadata.num_rows)
    except pa.ArrowInvalid:
        # Ray Data writes in place: its writer was killed here, and a resumed one removes the file.
        return 0


def read_column(directory: str, column: str) -> list[Any]:
    """One column of all parquet files directly in a directory."""
    values: list[Any] = []
    for name in data_files(directory):
        filesystem, inner = _open(f"{directory}/{name}")
        with filesystem.open(inner, "rb") as file:
            values += pq.read_table(file, columns=[column])[column].to_pylist()
    return values


def read_table(path: str) -> pa.Table:
    """Read one parquet file, or all those directly in a directory in the order of their names.

    Raises:
        RunDirectoryError: there is no parquet file, one is damaged, or their schemas differ.
    """
    if path.endswith(".parquet"):
        return _read_parquet(path)
    names = data_files(path)
    if not names:
        raise RunDirectoryError(f"{path} holds no parquet file; {_REMEDY}")
    tables = [_read_parquet(f"{path}/{name}") for name in names]
    try:
        return pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise RunDirectoryError(f"the parquet files in {path} differ: {error}; {_REMEDY}") from None


def _read_parquet(path: str) -> pa.Table:
    filesystem, inner = _open(path)
    try:
        with filesystem.open(inner, "rb") as file:
            return pq.ParquetFile(file).read()
    except FileNotFoundError:
        raise RunDirectoryError(f"{path} does not exist; {_REMEDY}") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise RunDirectoryError(f"{path} is damaged: {error}; {_REMEDY}") from None


@contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` only once it is complete."""
    directory, _, name = path.rpartition("/")
    temporary = f"{directory}/{_TEMPORARY}{uuid.uuid4().hex}-{name}"
    make_directory(directory)
    filesystem, inner = _open(temporary)
    try:
        with filesystem.open(inner, "wb") as file:
            yield file
            if is_local(path):
                file.flush()
                os.fsync(file.fileno())
        _move(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def _move(source: str, target: str) -> None:
    if is_local(source):
        os.replace(source, target)
        return
    filesystem, inner = _open(source)
    # On object stores a copy appears whole; elsewhere this is a rename.
    filesystem.mv(inner, _open(target)[1])


def _open(path: str) -> tuple[Any, str]:
    filesystem, inner = fsspec.core.url_to_fs(path)
    return filesystem, str(inner)


def is_temporary(name: str) -> bool:
    """Whether a file was left behind by a writer that was killed."""
    return name.startswith(_TEMPORARY)
