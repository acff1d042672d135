"""All that leans on private or unstable names of Ray 2.60, checked before it is used."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import ray
import ray.data
from ray._private import state
from ray.data import DataContext, Dataset
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.planner import plan_udf_map_op as planner
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayTaskError
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sphere_ray.compat.names import doubts

logger = logging.getLogger(__name__)

TESTED = "2.60.0"
NO_PROGRESS_TIMEOUT_S = 6 * 3600

STOP_STREAMS = threading.Event()
"""While it is set, the streams of this process end with `StreamStoppedError`."""

WAITING = ("DEPENDENCIES_UNREADY", "PENDING_CREATION", "RESTARTING")
"""States of an actor that has no process (yet)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorRow:
    """An actor of this job: the name it was given (perhaps none), its class, and its node."""

    name: str
    kind: str
    node_id: str


class StreamStoppedError(Exception):
    """A stream was told to stop."""


class _Stop(ExecutionCallback):
    """Looks at `STOP_STREAMS` some times a second: another thread has no way to end a stream."""

    def on_execution_step(self, _executor: Any) -> None:
        if STOP_STREAMS.is_set():
            raise StreamStoppedError("the stream was told to stop")


@cache
def found_doubts() -> tuple[str, ...]:
    """Return reasons not to rely on the names below, and log them; empty if there are none."""
    context = DataContext.get_current()
    block_options = getattr(planner, "OutputBlockSizeOption", None)
    private: list[tuple[object, str]] = [
        (planner, "OutputBlockSizeOption"),
        (block_options, "disable_block_shaping"),
        (context, "use_datasource_v2"),
        (context, "enable_progress_bars"),
        (context, "execution_no_progress_timeout_s"),
        (context, "custom_execution_callback_classes"),
        (CheckpointConfig, "CHECKPOINT_ACTOR_POOL_MAX_SIZE"),
        (RayTaskError, "as_instanceof_cause"),
        (ray, "nodes"),
        (NodeAffinitySchedulingStrategy("0" * 56, soft=True), "_spill_on_unavailable"),
        (state, "actors"),
        (state.state, "get_draining_nodes"),
    ]
    found = tuple(doubts(["ray"], TESTED, private))
    if found:
        logger.warning(
            "Ray is not as tested (%s): rows pass from stage to stage in whole batches, and a run "
            "on two CPUs may stall; install ray==%s",
            "; ".join(found),
            TESTED,
        )
    return found


def actors(*states: str) -> list[ActorRow] | None:
    """This job's actors in these states; None if Ray is not as tested."""
    if found_doubts():
        return None
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    return [
        ActorRow(name=row["Name"], kind=row["ActorClassName"], node_id=row["Address"]["NodeID"])
        for wanted in states
        for row in state.actors(job_id=job, actor_state_name=wanted).values()
    ]


def leaving_nodes() -> dict[str, int]:
    """Ids of nodes that were told to leave, with when (Unix milliseconds; 0: not said)."""
    return {} if found_doubts() else dict(state.state.get_draining_nodes())


def read_parquet(files: str | list[str], num_cpus: float) -> Dataset:
    """Read parquet files with tasks of `num_cpus` each, and without progress bars."""
    defaults = DataContext.get_current()
    defaults.enable_progress_bars = False
    # The second reader lists files in tasks of a whole CPU each, which two CPUs do not have left.
    defaults.use_datasource_v2 = False
    dataset = ray.data.read_parquet(files, num_cpus=num_cpus)
    dataset.context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    dataset.context.custom_execution_callback_classes = [_Stop]
    return dataset


def keep_ids(dataset: Dataset, column: str, directory: str) -> None:
    """Record the ids of committed rows in a directory, and skip rows that it knows."""
    config: Any = CheckpointConfig(
        id_column=column, checkpoint_path=directory, delete_checkpoint_on_success=False
    )
    # Its filter actors take a whole CPU each; more than one would starve a small machine.
    config.checkpoint_actor_pool_max_size = 1
    dataset.context.checkpoint_config = config


def map_once(dataset: Dataset, function: Any, **options: Any) -> Dataset:
    """Call `map_batches` with actors that Ray does not restart, and lost tasks it never repeats."""
    with warnings.catch_warnings():
        # There is no named argument for it yet.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return dataset.map_batches(function, max_restarts=0, **options)


_PLANNING = threading.Lock()
_planned = 0
"""Streams that need `batches_as_blocks` now."""


@contextmanager
def batches_as_blocks() -> Iterator[None]:
    """Plan `map_batches` so that each batch a function yields is passed on at once, as a block.

    Ray Data can do so, but offers no argument for it: it collects batches until a block is full
    (128 MB). If there are doubts this does nothing, and rows wait for the last of their batch.
    """
    if found_doubts():
        yield
        return
    _plan_unshaped(+1)
    try:
        yield
    finally:
        _plan_unshaped(-1)


def _plan_unshaped(change: int) -> None:
    """Replace the option of Ray's planner for the first stream, put it back behind the last."""
    global _planned
    module: Any = planner
    with _PLANNING:
        _planned += change
        if change > 0 and _planned == 1:
            module.OutputBlockSizeOption = _unshaped(module.OutputBlockSizeOption)
        elif not _planned:
            (module.OutputBlockSizeOption,) = module.OutputBlockSizeOption.__bases__


def _unshaped(options: Any) -> Any:
    class Unshaped(options):  # type: ignore[misc]  # its base is a value
        @classmethod
        def of(cls, **wanted: Any) -> Any:
            # A repartition, which asks for a number of rows, goes on to get it.
            by_rows = wanted.get("target_num_rows_per_block") is not None
            return options.of(**wanted) if by_rows else options(disable_block_shaping=True)

    return Unshaped


def preferring(node_id: str) -> NodeAffinitySchedulingStrategy:
    """Start an actor on that node if it lives and has room, else where there is room.

    If there are doubts an actor waits for room on the node while that lives.
    """
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=True)
    if not found_doubts():
        strategy._spill_on_unavailable = True
    return strategy
