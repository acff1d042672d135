"""Files of a run, on a local path or any fsspec URI; every write appears whole or not at all.

Paths travel as strings, because Ray tasks and other libraries take those. This file must not know
of steps or configurations.
"""

import errno
import json
import os
import re
import shutil
import socket
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from upath import UPath

from sphere_ray.errors import EngineError, RunDirectoryError, StorageError
from sphere_ray.untrusted import read_bounded

_TEMPORARY = ".tmp-"
_NO_PATH = re.compile("[\0-\x1f\x7f\ud800-\udfff]")
_MAX_PATH_CHARS = 1000
_MAX_TEXT_BYTES = 1 << 30
_REMEDY = "remove this directory and run the same command again"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOST = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOTCONN)
_WORDS = {
    **{os.strerror(number): number for number in (*_FULL, errno.EROFS, errno.ESTALE)},
    "disk's utilization is over capacity": errno.ENOSPC,  # Ray
    "] . unexpected pos ": errno.ENOSPC,  # torch, which says no more
    "PytorchStreamWriter failed writing": errno.ENOSPC,
}
"""How errors without a number tell that the disk is at fault."""


def disk_trouble(error: BaseException, place: str = "a file") -> StorageError | None:
    """One sentence, if a disk that is full, read-only or lost is behind an error; else None.

    It looks into the causes, those that Ray wrapped included. `place` is named where no cause
    knows its file.
    """
    cause: BaseException | None = error
    while cause is not None:
        number = getattr(cause, "errno", None)
        number = number or next((n for words, n in _WORDS.items() if words in str(cause)), None)
        if number in (*_FULL, *_LOST):
            place = getattr(cause, "filename", None) or place
            remedy = "free some space" if number in _FULL else "correct the mount or its rights"
            return StorageError(
                f"{place} cannot be used: {os.strerror(number)}; {remedy} there, then run the same "
                "command again: finished work is kept"
            )
        context = None if cause.__suppress_context__ else cause.__context__
        cause = getattr(cause, "cause", None) or cause.__cause__ or context
    return None


def resolve(uri: str) -> str:
    """Make a run directory absolute: a local path without a scheme, anything else as its URI.

    Raises:
        RunDirectoryError: the scheme is unknown, its package is not installed, its server cannot be
            reached, or no path can have this name.
    """
    if not uri or len(uri) > _MAX_PATH_CHARS or _NO_PATH.search(uri):
        raise RunDirectoryError(
            f"run_dir {uri[:_MAX_PATH_CHARS]!r} is empty or long, or holds a control character or "
            f"half of a pair; give a path of ordinary text, up to {_MAX_PATH_CHARS} characters"
        )
    try:
        path = UPath(uri) if "://" in uri else UPath(uri).expanduser().absolute()
        _ = path.fs  # for an archive it opens that
        with suppress(FileNotFoundError, NotADirectoryError):
            next(iter(path.iterdir()), None)
    except Exception as error:  # each filesystem has errors of its own
        raise RunDirectoryError(
            f"run_dir {uri} cannot be used: {' '.join(str(error).split())}; correct it, install "
            "what this filesystem needs, or use a local directory"
        ) from error
    return str(path)


def is_local(path: str) -> bool:
    """Whether a resolved path lies on a filesystem of this machine (mounts included)."""
    return "://" not in path


def children(directory: str) -> list[str]:
    """Names in a directory, sorted; empty if it does not exist."""
    path = _fresh(directory)
    try:
        return sorted(child.name for child in path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def make_directory(directory: str) -> None:
    """Create a directory and its parents; nothing happens if it exists."""
    UPath(directory).mkdir(parents=True, exist_ok=True)


def remove(path: str) -> None:
    """Remove a file or a directory with all it holds; nothing happens if it does not exist."""
    target = _fresh(path)
    if is_local(path) and target.is_dir():
        shutil.rmtree(path)
    elif target.exists():
        target.fs.rm(target.path, recursive=True)


def exists(path: str) -> bool:
    """Whether a file or directory is there."""
    return bool(_fresh(path).exists())


def copy_directory(source: str, target: str, *, last: str) -> None:
    """Make `target` hold the files of `source`; it appears whole.

    Where that is impossible (object stores) the file `last` is copied last, so it says that all is
    there. Committed files never change, so local files are hard links where the filesystem can.
    """
    partial = _beside(target)
    if is_local(source) and is_local(target):
        shutil.copytree(source, partial, copy_function=_link)
        make_directory(target.rpartition("/")[0])
        os.replace(partial, target)
        return
    files = _fresh(source)
    for file in sorted(files.rglob("*"), key=lambda each: each == files / last):
        if not file.is_file():
            continue
        copied = UPath(f"{target}/{str(file).removeprefix(str(files)).lstrip('/')}")
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(file.read_bytes())


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another filesystem, or one without links
        shutil.copy2(source, target)


def write_text(text: str, path: str) -> None:
    """Write a text file, replacing what was there in one step."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def append_line(line: str, path: str) -> None:
    """Add a line to a text file; object stores cannot append, so there the file is written anew."""
    if is_local(path):
        with _naming(path), open(path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    else:
        write_text(f"{read_text(path) or ''}{line}\n", path)


def write_json(value: Any, path: str) -> None:
    """Write readable JSON, replacing what was there in one step."""
    write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", path)


def read_text(path: str) -> str | None:
    """Read a text file, None if it does not exist.

    Raises:
        RunDirectoryError: it is no file of UTF-8 text that ends.
    """
    try:
        is_here = is_local(path)
        data = read_bounded(path, _MAX_TEXT_BYTES) if is_here else UPath(path).read_bytes()
        return bytes(data).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        if disk_trouble(error):
            raise
        raise RunDirectoryError(f"{path} is damaged: {error}; {_REMEDY}") from None


def read_json(path: str) -> Any:
    """Read a JSON file, None if it does not exist.

    Raises:
        RunDirectoryError: the file is damaged.
    """
    text = read_text(path)
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{path} is damaged: {error}; {_REMEDY}") from None


def write_table(table: pa.Table, path: str) -> None:
    """Write a table as one parquet file, replacing what was there in one step."""
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd")


def data_files(directory: str) -> list[str]:
    """Paths of the parquet files directly in a directory, sorted by name.

    Names that begin with a dot or an underscore are not data.
    """
    names = [n for n in children(directory) if n.endswith(".parquet") and n[0] not in "._"]
    return [f"{directory}/{name}" for name in names]


def count_rows(directory: str) -> int:
    """Rows of all complete parquet files directly in a directory; 0 if it does not exist."""
    return sum(num_rows(path) for path in data_files(directory))


def num_rows(path: str) -> int:
    """Rows of a parquet file, from its footer; 0 if its writer was killed."""
    try:
        with UPath(path).open("rb") as file:
            return int(pq.ParquetFile(file).metadata.num_rows)
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None):
            raise
        # Ray Data writes in place: its writer was killed here, and a resumed one removes the file.
        return 0


def tables(directory: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Read the parquet files of a directory (or one file), a row group at a time.

    `columns` names the (nested) columns to read; default all.

    Raises:
        RunDirectoryError: a file is missing or damaged.
    """
    for path in [directory] if directory.endswith(".parquet") else data_files(directory):
        with _reading(path) as content:
            for group in range(content.num_row_groups):
                yield content.read_row_group(group, columns=columns)


def row_group(path: str, group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one row group of a parquet file, the others stay unread; see `tables`.

    Raises:
        RunDirectoryError: the file is missing or damaged.
    """
    with _reading(path) as content:
        return content.read_row_group(group, columns=columns)


@contextmanager
def _reading(path: str) -> Iterator[pq.ParquetFile]:
    try:
        with UPath(path).open("rb") as file:
            yield pq.ParquetFile(file)
    except FileNotFoundError:
        raise RunDirectoryError(f"{path} does not exist; {_REMEDY}") from None
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None):  # then the disk is at fault, not what lies on it
            raise
        raise RunDirectoryError(f"{path} is damaged: {error}; {_REMEDY}") from None


def column(directory: str, name: str) -> pa.ChunkedArray:
    """One column of strings, of all parquet files directly in a directory."""
    chunks = [chunk for table in tables(directory, [name]) for chunk in table[name].chunks]
    return pa.chunked_array(chunks, pa.string())


def require_same_ids(problems: str, output: str, name: str) -> None:
    """Check that every problem has exactly one row, by the column of ids with that name.

    Raises:
        EngineError: rows are missing, or there are too many.
    """
    ids, found_ids = (column(directory, name) for directory in (problems, output))
    if _sorted(ids).equals(_sorted(found_ids)):
        return
    wanted, found = Counter(ids.to_pylist()), Counter(found_ids.to_pylist())
    if missing := (wanted - found).total():
        raise EngineError(
            f"{output} lacks {missing} of {wanted.total()} problems; "
            "run the same command again to make the missing ones"
        )
    if surplus := found - wanted:
        raise EngineError(
            f"{output} has {surplus.total()} rows too many, for example of problem "
            f"{next(iter(surplus))}; remove the directory and run the same command again"
        )


@contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` only once it is complete."""
    temporary = _beside(path)
    make_directory(path.rpartition("/")[0])
    try:
        with _naming(path), UPath(temporary).open("wb") as file:
            yield file
            if is_local(path):
                file.flush()
                os.fsync(file.fileno())
        if is_local(path):
            os.replace(temporary, path)
        else:  # On object stores a copy appears whole; elsewhere this is a rename.
            source = UPath(temporary)
            source.fs.mv(source.path, UPath(path).path)
    except BaseException:
        remove(temporary)
        raise


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Give an error of the disk the name of the file: the system knows it only at opening."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise


def is_temporary(name: str) -> bool:
    """Whether a file was left behind by a writer that was killed."""
    return name.startswith(_TEMPORARY)


def _beside(path: str) -> str:
    directory, _, name = path.rpartition("/")
    return f"{directory}/{_TEMPORARY}{uuid.uuid4().hex}-{name}"


def _fresh(path: str) -> UPath:
    """A path whose filesystem has forgotten what it listed before."""
    fresh = UPath(path)
    fresh.fs.invalidate_cache()
    return fresh


def _sorted(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values.take(pc.sort_indices(values))


def lock(directory: str, name: str, holder: str) -> FileLock | None:
    """Lock a local directory by a file `name` in it; the file `holder` says who did.

    On network filesystems that know no locks nothing is held, and None returned.

    Raises:
        RunDirectoryError: another process holds it.
    """
    held = FileLock(f"{directory}/{name}", timeout=0)
    try:
        held.acquire()
    except Timeout:
        other = (read_text(f"{directory}/{holder}") or "unknown").strip()
        raise RunDirectoryError(
            f"run_dir {directory} is in use by another driver ({other}); "
            "wait until it ends, stop it, or choose another run_dir"
        ) from None
    except NotImplementedError:
        return None
    write_text(f"process {os.getpid()} on {socket.gethostname()}\n", f"{directory}/{holder}")
    return held
