"""A disk that fills up, or becomes read-only, while a command writes: one sentence, and no loss."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfDiskError, RayError, RayTaskError
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from sphere_ray import storage
from sphere_ray.errors import EngineError, GraderError, RunDirectoryError, StorageError
from sphere_ray.pools.errors import cause_of, sphere_error
from sphere_ray.rollout.shards import ShardWriter
from sphere_ray.runs.directory import Run
from tests.runs.steps import Line, executor, lines, opened

LARGE = torch.arange(200_000, dtype=torch.float64)
TABLE = pa.table({"number": LARGE.numpy()})


@contextmanager
def full_disk(most_bytes: int = 1 << 12) -> Iterator[None]:
    """No file of this process may become larger: how a disk without room looks to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_shard(path: Path) -> None:
    with ShardWriter(str(path)) as writer:
        writer.write(TABLE)


def write_tokenizer(path: Path) -> None:
    vocabulary = {f"word {number}": number for number in range(1000)}
    Tokenizer(models.WordLevel(vocabulary, "word 0")).save(str(path))


WRITERS: dict[str, Callable[[Path], object]] = {
    "a text": lambda path: storage.write_text("x" * 100_000, str(path)),
    "a line": lambda path: storage.append_line("x" * 100_000, str(path)),
    "a table": lambda path: storage.write_table(TABLE, str(path)),
    "a shard": write_shard,
    "a table by pyarrow alone": lambda path: pq.write_table(TABLE, path),
    "weights": lambda path: save_file({"w": LARGE}, path),
    "a checkpoint": lambda path: torch.save(LARGE, path),
    "a tokenizer": write_tokenizer,
    "plain bytes": lambda path: path.write_bytes(bytes(100_000)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_one_sentence_whoever_writes(tmp_path: Path, kind: str) -> None:
    with full_disk(), pytest.raises(Exception, match=r"too large|unexpected pos") as caught:
        WRITERS[kind](tmp_path / "file")
    told = storage.disk_trouble(caught.value)
    assert isinstance(told, StorageError)
    assert told.exit_code == 1
    assert "free some space there, then run the same command again" in str(told)
    assert "\n" not in str(told)


@pytest.mark.parametrize("kind", ["a text", "a line", "a table", "a shard"])
def test_what_we_write_is_named(tmp_path: Path, kind: str) -> None:
    with full_disk(), pytest.raises(OSError, match="file") as caught:
        WRITERS[kind](tmp_path / "file")
    assert str(storage.disk_trouble(caught.value)).startswith(f"{tmp_path}/file cannot be used")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space there"),
        (errno.EDQUOT, "free some space there"),
        (errno.EROFS, "correct the mount or its rights there"),
        (errno.EACCES, "correct the mount or its rights there"),
        (errno.EIO, "correct the mount or its rights there"),
        (errno.ESTALE, "correct the mount or its rights there"),
    ],
)
def test_it_is_found_wherever_it_hides(number: int, remedy: str) -> None:
    error = OSError(number, os.strerror(number), "/data/run/part.parquet")
    begun = RuntimeError("a stage ended")
    begun.__cause__ = error
    wrapped = RayTaskError("write", "Traceback\n...", error)
    for each in (error, begun, wrapped, wrapped.as_instanceof_cause()):
        told = storage.disk_trouble(each)
        assert told is not None
        assert f"/data/run/part.parquet cannot be used: {os.strerror(number)}; {remedy}" in str(
            told
        )
    assert isinstance(wrapped, RayError)
    assert isinstance(cause_of(wrapped), StorageError)
    assert isinstance(sphere_error(wrapped, "stream"), StorageError)
    nameless = RayTaskError("write", "Traceback\n...", OSError(number, os.strerror(number)))
    assert str(sphere_error(nameless, "stream", "/data/run/_parts")).startswith("/data/run/_parts ")


def test_ray_without_room_is_told_too() -> None:
    assert storage.disk_trouble(OutOfDiskError("no room")) is not None


def test_other_errors_are_not_taken_for_the_disks() -> None:
    for error in (
        KeyError("x"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        RuntimeError("CUDA out of memory"),
    ):
        assert storage.disk_trouble(error) is None
    lost = RayTaskError("score", "Traceback", GraderError("the graders are lost"))
    assert isinstance(sphere_error(lost, "stream"), GraderError)
    assert isinstance(sphere_error(ActorDiedError(), "stream"), EngineError)
    after = KeyError("a mistake of ours, after a probe that may fail")
    after.__context__ = PermissionError(errno.EACCES, "Permission denied")
    after.__suppress_context__ = True
    assert storage.disk_trouble(after) is None


def test_finished_steps_survive_a_full_disk_and_the_same_command_goes_on(tmp_path: Path) -> None:
    first = Line(label="first")
    second = Line(
        label="second", ran=lambda work: storage.write_text("x" * 100_000, f"{work.path}/big")
    )
    with opened(tmp_path / "run") as run:
        executor(run).make(first)
        with full_disk(1 << 13), pytest.raises(OSError, match="big") as caught:
            executor(run).make(second)
        assert storage.disk_trouble(caught.value) is not None
    assert [step.name for step in Run.open(str(tmp_path / "run")).variants] == ["line/first"]
    with opened(tmp_path / "run") as run:
        maker = executor(run)
        assert lines(maker.make(first)) == ["{}"]
        assert storage.exists(f"{maker.make(second).path}/big")
    assert [path.name for path in (tmp_path / "run").rglob(".tmp-*")] == []


def test_a_file_that_cannot_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be removed, though a mount came back a minute later."""
    path = f"{tmp_path}/part-0.parquet"
    storage.write_table(TABLE, path)

    def lost(*_: object, **__: object) -> object:
        raise OSError(errno.ESTALE, "Stale file handle", path)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lost)
    with pytest.raises(OSError, match="Stale"):
        list(storage.tables(str(tmp_path)))
    monkeypatch.undo()
    Path(path).write_bytes(b"PAR1 and more that is none")
    with pytest.raises(RunDirectoryError, match="damaged"):
        list(storage.tables(str(tmp_path)))
