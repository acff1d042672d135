"""The Ray Data graphs: problems stream through the stages and are committed batch by batch.

A graph writes many small files below its output, so that little is lost when it is killed. When
all rows are there, `compact` makes few large ones of them.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, TypeAlias

import ray.data
from ray.exceptions import RayError

from sphere_ray import storage
from sphere_ray.compat import ray as compat
from sphere_ray.config.cluster import RolloutSettings
from sphere_ray.config.placement import STAGE_CPUS
from sphere_ray.errors import SphereError
from sphere_ray.pools.errors import cause_of, sphere_error
from sphere_ray.rollout.budget import mark
from sphere_ray.rollout.labelling import label
from sphere_ray.rollout.pairing import pair
from sphere_ray.rollout.rescore import Rescore
from sphere_ray.rollout.shards import (
    TASK_CPUS,
    ShardWriter,
    bundles,
    in_tasks,
    part,
    title,
)
from sphere_ray.rollout.stages import ID_COLUMN, STAGES, Assignment, Evaluate, RowStage

__all__ = ["compact", "evaluate", "label", "mark", "pair", "parts_dir", "rescore", "rollout"]

logger = logging.getLogger(__name__)

Graph: TypeAlias = Callable[[str, str, Assignment], None]

ATTEMPTS = 3
"""Starts of a graph in a row without a row committed in between."""
PAUSE_S = 20.0
"""Before the last of them: Ray needs about 15 s to notice that a node is gone."""
MAX_CALLS = 128
"""Blocks that an actor works on at a time; each has a thread, which comes to hold 0.3 MiB."""
WRITERS = 2
"""Writing tasks at a time for each actor of a stage; more processes would only wait for rows."""
ROWS_PER_FILE = 2048


def rollout(problems: str, output: str, assignment: Assignment) -> None:
    """Run the stages over the problem files in `problems`; rows already in `output` are kept.

    Stages that no problem can be routed to are not started.

    Raises:
        EngineError: an engine pool was lost.
        GraderError: the graders were lost.
    """
    stages = [STAGES[name] for name in assignment.settings.method.taken_stages]
    _stream(problems, output, stages, assignment)


def evaluate(problems: str, output: str, assignment: Assignment) -> None:
    """Evaluate the policy on the problem files in `problems`, resumable like `rollout`."""
    _stream(problems, output, (Evaluate,), assignment)


def rescore(rollouts: str, output: str, assignment: Assignment) -> None:
    """Score the steps of the rollout files in `rollouts` again, resumable like `rollout`.

    The rows are `ScoreRow`s, one for each rollout.
    """
    _stream(rollouts, output, (Rescore,), assignment)


def parts_dir(output: str) -> str:
    """Where a graph keeps its rows, and the ids of committed ones, while `output` is incomplete."""
    return f"{output}/_parts"


def compact(output: str, rows_per_file: int = ROWS_PER_FILE) -> None:
    """Write the rows of `parts_dir(output)` as few large files of `output`.

    The parts stay, so that this may be done again; remove them when the output is committed.
    """
    for file in storage.data_files(output):
        storage.remove(file)
    files = storage.data_files(parts_dir(output))
    groups = bundles(files, rows_per_file)
    jobs = [(group, part(output, index)) for index, group in enumerate(groups)]
    in_tasks(_joined, jobs, output)


def _stream(
    source: str, output: str, stages: Sequence[type[RowStage]], assignment: Assignment
) -> None:
    """Run a graph until every row is committed; start it again where a stage actor was lost.

    A row that leaves its stage when it is done makes the order of a task's output accidental. Ray
    repeats lost tasks on the assumption that the order is fixed, so its repetition is turned off:
    a graph that lost an actor ends, and the next one takes up the rows without a commit.
    """
    parts = parts_dir(output)
    attempts, committed = 0, -1
    for start in count():
        try:
            _run_graph(source, parts, stages, replace(assignment, start=start))
            return
        except RayError as error:
            files = len(storage.data_files(parts))
            attempts = 1 if files > committed else attempts + 1
            committed = files
            if isinstance(cause_of(error), SphereError) or attempts >= ATTEMPTS:
                raise sphere_error(error, "stream of problems", parts) from error
            reason = str(error).strip().partition("\n")[0]
            logger.warning(
                "a stage was lost; the stream starts again without what is done: %s", reason
            )
            time.sleep(PAUSE_S if attempts == ATTEMPTS - 1 else 0.0)


def _run_graph(
    source: str, parts: str, stages: Sequence[type[RowStage]], assignment: Assignment
) -> None:
    settings = assignment.settings.rollout
    dataset = compat.read_parquet(storage.data_files(source), num_cpus=TASK_CPUS)
    dataset.set_name(title(parts))
    compat.keep_ids(dataset, ID_COLUMN, f"{parts}/_checkpoint")
    # Small tables are read as one block; smaller ones keep all stage actors busy.
    dataset = dataset.repartition(target_num_rows_per_block=settings.batch_size)
    for index, stage in enumerate(stages):
        options = _options(settings, first=index == 0)
        arguments = {"assignment": assignment, "last": stage is stages[-1]}
        dataset = compat.map_once(dataset, stage, fn_constructor_kwargs=arguments, **options)
    with compat.batches_as_blocks():
        dataset.write_parquet(
            parts,
            min_rows_per_file=settings.batch_size,
            ray_remote_args={"num_cpus": TASK_CPUS},
            concurrency=WRITERS * settings.stage_actors,
        )


def _options(settings: RolloutSettings, *, first: bool) -> dict[str, Any]:
    """Arguments of `map_batches`; later stages take blocks as they come, mostly of one row."""
    calls = settings.batches_in_flight * (1 if first else settings.batch_size)
    calls = calls if first else min(calls, MAX_CALLS)
    return {
        "batch_format": "pyarrow",
        "batch_size": settings.batch_size if first else None,
        "num_cpus": STAGE_CPUS,
        "compute": ray.data.ActorPoolStrategy(
            size=settings.stage_actors,
            max_tasks_in_flight_per_actor=calls,
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=True,
        ),
    }


def _joined(job: tuple[Sequence[str], str]) -> None:
    files, output = job
    with ShardWriter(output) as writer:
        for file in files:
            for table in storage.tables(file):
                writer.write(table)
