"""Preference pairs of a run in the formats of other trainers.

Reads only what the run committed, a row group at a time.
"""

import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from sphere_ray import storage
from sphere_ray.errors import RunDirectoryError
from sphere_ray.records import PreferencePair
from sphere_ray.runs.directory import FinishedStep, Run
from sphere_ray.schema import from_table

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
TRL_SCHEMA = pa.schema([("prompt", _MESSAGES), ("chosen", _MESSAGES), ("rejected", _MESSAGES)])


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
        RunDirectoryError: not a run directory, it has no committed pairs or others than it made, or
            `output` cannot be written.
    """
    run = Run.open(run_dir)
    steps = pairs_steps(run, iteration)
    folder = storage.resolve(output) if output else run.file("export/trl")
    jsonl, parquet = f"{folder}/pairs.jsonl", f"{folder}/pairs.parquet"
    try:
        num_pairs = _write_trl(steps, jsonl, parquet)
    except OSError as error:
        raise RunDirectoryError(
            f"{folder} cannot be written: {error.strerror or error}; choose another --output"
        ) from error
    return Exported(num_pairs=num_pairs, jsonl=jsonl, parquet=parquet)


def _write_trl(steps: list[FinishedStep], jsonl: str, parquet: str) -> int:
    num_pairs = 0
    for step in steps:
        found, made = storage.count_rows(step.path), step.manifest.report.rows_out
        if found != made:
            raise RunDirectoryError(
                f"{step.path} holds {found} pairs, but the run made {made}; take out what was put "
                "there, or run again to make them anew"
            )
    with (
        storage.replacing(jsonl) as lines,
        storage.replacing(parquet) as columns,
        pq.ParquetWriter(columns, TRL_SCHEMA) as writer,
    ):
        for path, table in ((step.path, table) for step in steps for table in step.tables()):
            try:
                rows = [trl_row(pair) for pair in from_table(table, PreferencePair)]
            except (LookupError, TypeError, ValueError, pa.ArrowException) as error:
                raise RunDirectoryError(
                    f"{path} holds rows that are no pairs of this version of sphere "
                    f"({error}); export with the version that wrote them, or run again"
                ) from error
            lines.writelines(_line(row) for row in rows)
            writer.write_table(pa.Table.from_pylist(rows, schema=TRL_SCHEMA))
            num_pairs += len(rows)
    return num_pairs


def pairs_steps(run: Run, iteration: int | None) -> list[FinishedStep]:
    """The finished pairs of every iteration, or of one, in order."""
    finished = [step for step in run.steps if step.kind == "pairs"]
    wanted = [step for step in finished if iteration in (None, step.iteration)]
    if not wanted:
        where = "" if iteration is None else f" of iteration {iteration}"
        there = ", ".join(step.name for step in finished) or "none"
        raise RunDirectoryError(
            f"{run.path} has no committed pairs{where} (there are: {there}); let the rollout "
            "finish, or choose another iteration"
        )
    return wanted


def _line(row: dict[str, list[dict[str, str]]]) -> bytes:
    return f"{json.dumps(row, ensure_ascii=False)}\n".encode()
