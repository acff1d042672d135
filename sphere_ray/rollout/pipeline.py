"""The Ray Data graphs: problems stream through the stages and are committed batch by batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import ray.data
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayError

from sphere_ray.config.cluster import RolloutSettings
from sphere_ray.config.placement import STAGE_CPUS
from sphere_ray.errors import EngineError, SphereError
from sphere_ray.records import StageName
from sphere_ray.rollout.client import cause_of
from sphere_ray.rollout.rescore import Rescore
from sphere_ray.rollout.stages import (
    ID_COLUMN,
    Assignment,
    CountProblems,
    Diversify,
    Evaluate,
    MethodStage,
    SelfCorrect,
    SelfGenerate,
)

Graph: TypeAlias = Callable[[str, str, Assignment, RolloutSettings], None]

NO_PROGRESS_TIMEOUT_S = 6 * 3600
TASK_CPUS = 0.1
"""Reading and writing small tables; whole CPUs for them hang a machine with two."""
WRITERS = 2
"""Writing tasks at a time for each actor of a stage; more processes would only wait for rows."""
SEARCHES: Mapping[StageName, type[MethodStage]] = {
    StageName.SELF_GENERATION: SelfGenerate,
    StageName.SELF_CORRECTION: SelfCorrect,
    StageName.DIVERSITY: Diversify,
}


def rollout(problems: str, output: str, assignment: Assignment, settings: RolloutSettings) -> None:
    """Run the stages over the problem files in `problems`; rows already in `output` are kept.

    Stages that take nothing up are not started, and pairs are built by the tasks that write.

    Raises:
        EngineError: an engine pool was lost.
        GraderError: the graders were lost.
    """
    stages = [SEARCHES[name] for name in assignment.method.taken_stages]
    finish = CountProblems(assignment.progress)
    _stream(problems, output, stages, assignment, settings, finish=finish)


def evaluate(problems: str, output: str, assignment: Assignment, settings: RolloutSettings) -> None:
    """Evaluate the policy on the problem files in `problems`, resumable like `rollout`."""
    _stream(problems, output, (Evaluate,), assignment, settings)


def rescore(rollouts: str, output: str, assignment: Assignment, settings: RolloutSettings) -> None:
    """Score the steps of the rollout files in `rollouts` again, resumable like `rollout`."""
    _stream(rollouts, output, (Rescore,), assignment, settings)


def checkpoint_dir(output: str) -> str:
    """Where the ids of committed rows are kept while `output` is incomplete."""
    return f"{output}/_checkpoint"


def _stream(
    problems: str,
    output: str,
    stages: Sequence[type],
    assignment: Assignment,
    settings: RolloutSettings,
    *,
    finish: CountProblems | None = None,
) -> None:
    defaults = ray.data.DataContext.get_current()
    defaults.enable_progress_bars = False
    # The second reader lists files in tasks of a whole CPU each, which two CPUs do not have left.
    defaults.use_datasource_v2 = False
    dataset = ray.data.read_parquet(problems, num_cpus=TASK_CPUS)
    context = dataset.context
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    context.checkpoint_config = CheckpointConfig(
        id_column=ID_COLUMN,
        checkpoint_path=checkpoint_dir(output),
        delete_checkpoint_on_success=False,
    )
    # Its filter actors take a whole CPU each; more than one would starve a small machine.
    context.checkpoint_config.checkpoint_actor_pool_max_size = 1
    # Small tables are read as one block; the batch decides parallelism, streaming and commits.
    dataset = dataset.repartition(target_num_rows_per_block=settings.batch_size)
    for stage in stages:
        dataset = dataset.map_batches(stage, **_options(assignment, settings))
    writers = WRITERS * settings.stage_actors
    if finish is not None:
        # Resources and concurrency are those of the write, so that Ray Data fuses the two.
        dataset = dataset.map_batches(
            finish,
            batch_format="pyarrow",
            batch_size=settings.batch_size,
            num_cpus=TASK_CPUS,
            compute=ray.data.TaskPoolStrategy(size=writers),
        )
    try:
        dataset.write_parquet(output, ray_remote_args={"num_cpus": TASK_CPUS}, concurrency=writers)
    except RayError as error:
        raise _sphere_error(error) from error


def _options(assignment: Assignment, settings: RolloutSettings) -> dict[str, Any]:
    return {
        "batch_format": "pyarrow",
        "batch_size": settings.batch_size,
        "num_cpus": STAGE_CPUS,
        "fn_constructor_kwargs": {"assignment": assignment},
        "compute": ray.data.ActorPoolStrategy(
            size=settings.stage_actors,
            max_tasks_in_flight_per_actor=settings.batches_in_flight,
            max_concurrent_calls_per_actor=settings.batches_in_flight,
        ),
    }


def _sphere_error(error: RayError) -> SphereError:
    cause = cause_of(error)
    if isinstance(cause, SphereError):
        return cause
    return EngineError(f"the rollout stopped: {error}")
