"""Preference pairs of a run in the formats of other trainers.

Reads only what the run committed, a batch at a time, and knows nothing of how pairs came about.
"""

import json
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from sphere_ray.errors import RunDirectoryError
from sphere_ray.records import PreferencePair
from sphere_ray.schema import from_table

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_TRL_SCHEMA = pa.schema([("prompt", _MESSAGES), ("chosen", _MESSAGES), ("rejected", _MESSAGES)])
_BATCH_ROWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export wrote."""

    num_pairs: int
    jsonl: str
    parquet: str


def trl_row(pair: PreferencePair) -> dict[str, list[dict[str, str]]]:
    """A pair in TRL's conversational preference format.

    The shared prefix of a step-level pair stands in front of both sides: its log-probs cancel in
    the DPO margin. (TRL closes each side with the end of the turn; our trainer does not.)
    """
    prompt = [{"role": m.role, "content": m.content} for m in pair.prompt]
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": pair.prefix + pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.prefix + pair.rejected}],
    }


def export_trl(run_dir: str, *, output: str | None, iteration: int | None) -> Exported:
    """Write pairs.jsonl and pairs.parquet (columns prompt, chosen, rejected) for TRL.

    Without `iteration` all iterations are joined in order; `output` defaults to
    RUN/export/trl. Files appear whole or not at all and replace those of an earlier export.

    Raises:
        RunDirectoryError: not a run directory, or it has no committed pairs.
    """
    source, root = fsspec.core.url_to_fs(run_dir)
    files = _committed_pairs(source, root, run_dir, iteration)
    target, folder = fsspec.core.url_to_fs(output or posixpath.join(run_dir, "export", "trl"))
    target.makedirs(folder, exist_ok=True)
    jsonl, parquet = (posixpath.join(folder, f"pairs.{kind}") for kind in ("jsonl", "parquet"))
    num_pairs = 0
    with (
        _whole(target, jsonl) as lines,
        _whole(target, parquet) as columns,
        pq.ParquetWriter(columns, _TRL_SCHEMA) as writer,
    ):
        for pairs in _batches(source, files):
            rows = [trl_row(pair) for pair in pairs]
            lines.writelines(_line(row) for row in rows)
            writer.write_table(pa.Table.from_pylist(rows, schema=_TRL_SCHEMA))
            num_pairs += len(rows)
    return Exported(num_pairs=num_pairs, jsonl=jsonl, parquet=parquet)


def _committed_pairs(source: Any, root: str, run_dir: str, iteration: int | None) -> list[str]:
    """The data files of every pairs phase that has its manifest, in order of iterations."""
    if not source.exists(posixpath.join(root, "config.json")):
        raise RunDirectoryError(
            f"{run_dir} is not a run directory (it has no config.json); give the run_dir of a run"
        )
    manifests = sorted(source.glob(posixpath.join(root, "iter-*", "pairs", "manifest.json")))
    phases = {posixpath.dirname(path) for path in manifests}
    wanted = {p for p in phases if iteration is None or f"/iter-{iteration:03}/" in f"{p}/"}
    files = [file for phase in sorted(wanted) for file in sorted(source.glob(f"{phase}/*.parquet"))]
    if not files:
        where = "" if iteration is None else f" of iteration {iteration}"
        known = ", ".join(sorted(posixpath.basename(posixpath.dirname(p)) for p in phases))
        raise RunDirectoryError(
            f"{run_dir} has no committed pairs{where} (pairs exist in: {known or 'none yet'}); "
            "let the run finish its rollout, or choose another iteration"
        )
    return files


def _batches(source: Any, files: list[str]) -> Iterator[list[PreferencePair]]:
    for path in files:
        with source.open(path, "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(_BATCH_ROWS):
                yield from_table(pa.Table.from_batches([batch]), PreferencePair)


def _line(row: dict[str, list[dict[str, str]]]) -> bytes:
    return f"{json.dumps(row, ensure_ascii=False)}\n".encode()


@contextmanager
def _whole(target: Any, path: str) -> Iterator[IO[bytes]]:
    """Open `path` for writing under another name; it gets its own when all is written."""
    partial = f"{path}.partial"
    try:
        with target.open(partial, "wb") as file:
            yield file
    except BaseException:
        target.rm(partial)
        raise
    target.mv(partial, path)
