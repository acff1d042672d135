"""What each step of an engine starts: our scheduler without an engine."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from vllm import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from sphere_ray.compat.vllm_scheduler import PromptSharingAsyncScheduler, PromptSharingScheduler
from sphere_ray.config.engines import EngineSpec
from sphere_ray.engines.vllm_generator import generator_args

pytestmark = pytest.mark.engine

ROOM, BLOCK = 16, 32


class Engine:
    """A scheduler and the requests it was given: `n` samples of each of some prompts."""

    def __init__(self, scheduler: Scheduler, algorithm: str) -> None:
        self._scheduler = scheduler
        hash_of = get_hash_fn_by_name(algorithm)
        init_none_hash(hash_of)
        self._hasher = get_request_block_hasher(BLOCK, hash_of)

    def ask(self, prompts: range, n: int, max_tokens: int = 50) -> None:
        for prompt in prompts:
            for sample in range(n):
                request = Request(
                    request_id=f"{prompt} {sample}",
                    prompt_token_ids=[prompt] * (BLOCK + 9),
                    sampling_params=SamplingParams(max_tokens=max_tokens),
                    pooling_params=None,
                    block_hasher=self._hasher,
                )
                self._scheduler.add_request(request)

    def step(self) -> Counter[int]:
        """How many samples of which prompt the next step starts."""
        output = self._scheduler.schedule()
        return Counter(int(new.req_id.split()[0]) for new in output.scheduled_new_reqs)


@pytest.fixture(params=[PromptSharingScheduler, PromptSharingAsyncScheduler])
def engine(request: pytest.FixtureRequest, generator_spec: Callable[..., EngineSpec]) -> Engine:
    args = generator_args(generator_spec(max_num_seqs=ROOM, max_num_batched_tokens=4096))
    config = replace(args, scheduler_cls=request.param).create_engine_config()
    cache: Any = config.cache_config
    cache.num_gpu_blocks = 1000
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.float32)
    scheduler = request.param(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(1000, [], [KVCacheGroupSpec(["layer"], spec)]),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK,
    )
    return Engine(scheduler, cache.prefix_caching_hash_algo)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_an_idle_engine_begins_only_the_prompts_whose_samples_fill_it(
    engine: Engine, n: int
) -> None:
    engine.ask(range(ROOM), n)
    prompts = range(ROOM // n)
    assert engine.step() == dict.fromkeys(prompts, 1)
    assert engine.step() == dict.fromkeys(prompts, n - 1)


def test_prompts_without_samples_that_wait_are_begun_until_it_is_full(engine: Engine) -> None:
    engine.ask(range(2 * ROOM), 1)
    assert engine.step() == dict.fromkeys(range(ROOM), 1)


def test_a_half_full_engine_leaves_no_slot_to_samples_that_cannot_start_yet(
    engine: Engine,
) -> None:
    engine.ask(range(ROOM // 2), 1)
    engine.step()
    engine.ask(range(ROOM, 2 * ROOM), 8)
    assert engine.step() == dict.fromkeys(range(ROOM, ROOM + ROOM // 2), 1)


def test_samples_of_one_token_start_together(engine: Engine) -> None:
    engine.ask(range(2), 8, max_tokens=1)
    assert engine.step() == {0: 8, 1: 8}
