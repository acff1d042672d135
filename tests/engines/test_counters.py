from types import SimpleNamespace as Stats

from vllm.v1.metrics.stats import IterationStats, PrefixCacheStats, SchedulerStats

from sphere_ray.engines.vllm_engine import Counters


def recorded(counters: Counters, *, left: int, waiting: int, tokens: int, ended: int) -> None:
    """One step of the engine that gave so many tokens, as vLLM reports it afterwards."""
    scheduler = SchedulerStats(
        num_running_reqs=left, num_waiting_reqs=waiting, prefix_cache_stats=PrefixCacheStats()
    )
    iteration = IterationStats()
    iteration.num_generation_tokens = tokens
    iteration.finished_requests = [Stats()] * ended
    counters.record(scheduler, iteration)


def test_sequences_that_ended_in_a_step_ran_in_it() -> None:
    counters = Counters()
    recorded(counters, left=5, waiting=9, tokens=8, ended=3)
    assert (counters.running, counters.waiting, counters.finished) == (8, 9, 3)
    recorded(counters, left=8, waiting=6, tokens=5, ended=0)  # three in the middle of a prompt
    assert counters.running == 8


def test_an_engine_that_has_nothing_left_runs_nothing() -> None:
    counters = Counters()
    recorded(counters, left=0, waiting=0, tokens=4, ended=4)
    assert counters.running == 0
