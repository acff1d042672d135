"""The step search of `step_search` in real time: SmolLM2 and a reward model on two CPU cores.

Streaming gives both engines all problems at once; in lock-step all problems of a batch advance one
depth together, generation and scoring in turns. Both engines share the cores here, so none is left
idle when they take turns. Their threads wait asleep, as those of pools that share cores do. Prints
`search_vs_lockstep_real`: tokens/s of streaming over those of lock-step with as many problems as
fit into the engine at once; and the share of prefix hits.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sphere_ray.config.models import ModelSettings
from sphere_ray.config.scorers import STEP_TAG, ProcessRewardSettings
from sphere_ray.engines.engine import engine_environment
from sphere_ray.engines.sources import build_engine
from sphere_ray.grading import GraderPool
from sphere_ray.method.ports import GenerateRequest, Score, ScoreRequest
from sphere_ray.method.search import pruned_search
from sphere_ray.models.source import resolve_model
from sphere_ray.records import Candidate, Problem
from tests.benchmarks.report import emit, rounded
from tests.benchmarks.reward import MODEL, SEARCH, problems, search_of, spec, with_engine

PROBLEMS, SLOTS = 24, 64
FITTING = SLOTS // (2 * SEARCH.num_candidates)
SETTLED_S = 0.02
"""Whoever was answered has asked again by then, or asks no more."""


class Waves:
    """Passes requests on to an engine in waves: what is asked meanwhile waits for the next."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[], Awaitable[Any]]) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, answer))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(SETTLED_S)
            wave, self._waiting = self._waiting, []
            found = await asyncio.gather(*(work() for work, _ in wave))
            for (_, answer), result in zip(wave, found, strict=True):
                answer.set_result(result)
            await asyncio.sleep(0)
        self._task = None


class Ports:
    """Generator, Scorer and Progress: straight to the engines, or in waves."""

    model = "policy"

    def __init__(self, policy: Any, reward: Any, *, waves: bool) -> None:
        self._policy, self._reward = policy, reward
        self._waves = (Waves(), Waves()) if waves else None

    async def generate(self, request: GenerateRequest) -> tuple[Candidate, ...]:
        """See `Generator.generate`."""
        found: tuple[Candidate, ...] = await self._asked(0, self._policy.generate, request)
        return found

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        """See `Scorer.score`."""
        found: tuple[Score, ...] = await self._asked(1, self._reward.score, request)
        return found

    def add(self, **counts: int) -> None:
        """See `Progress.add`."""

    async def _asked(self, place: int, ask: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
        if self._waves is None:
            return await ask(request)
        return await self._waves[place].run(lambda: ask(request))


async def solve(ports: Ports, asked: list[Problem], batch: int) -> None:
    """Search the problems, `batch` at a time."""
    grader = GraderPool()
    for first in range(0, len(asked), batch):
        some = enumerate(asked[first : first + batch], first)
        searches = (search_of(problem, ports, grader, place) for place, problem in some)
        await asyncio.gather(*(pruned_search(search) for search in searches))
    grader.close()


async def timed(policy: Any, reward: Any, batch: int, *, waves: bool) -> dict[str, Any]:
    """Seconds and tokens of a search of all problems by engines that have cached nothing."""
    for engine in (policy, reward):
        await engine.reload(engine.spec)
    before, scored, began = policy.stats(), reward.stats(), time.perf_counter()
    await solve(Ports(policy, reward, waves=waves), list(problems(PROBLEMS)), batch)
    seconds = time.perf_counter() - began
    after, rescored = policy.stats(), reward.stats()
    tokens = after.generated_tokens - before.generated_tokens
    return {
        "batch": batch,
        "seconds": rounded(seconds),
        "tokens": tokens,
        "tokens_per_s": rounded(tokens / seconds),
        "policy_prefix_hits": hit_rate(before, after),
        "reward_prefix_hits": hit_rate(scored, rescored),
    }


def hit_rate(before: Any, after: Any) -> float:
    """Share of the prompt tokens asked for in between that were cached."""
    asked = after.prefix_queries - before.prefix_queries
    return rounded((after.prefix_hits - before.prefix_hits) / asked)


async def measure() -> None:
    """Print the line."""
    from sphere_ray.engines.reward_base import prepare_step_tags  # noqa: PLC0415

    model = resolve_model(ModelSettings(path=MODEL))
    policy: Any = build_engine(spec("vllm_generator", model))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "reward"
        await asyncio.to_thread(prepare_step_tags, Path(model), target, step_tag=STEP_TAG, seed=0)
        settings = ProcessRewardSettings.model_validate(
            {"model": {"path": str(target)}, "pool": {"kv_cache_gib": 1}}
        )
        reward: Any = build_engine(spec("process_reward", str(target), settings))

        async def work() -> list[dict[str, Any]]:
            await solve(Ports(policy, reward, waves=False), list(problems(1)), 1)
            return [
                await timed(policy, reward, PROBLEMS, waves=False),
                await timed(policy, reward, FITTING, waves=True),
                await timed(policy, reward, PROBLEMS, waves=True),
            ]

        streaming, fitting, queueing = await with_engine(policy, lambda: with_engine(reward, work))
    emit(
        "search_vs_lockstep_real",
        rounded(streaming["tokens_per_s"] / fitting["tokens_per_s"]),
        problems=PROBLEMS,
        to_any_batch=rounded(streaming["tokens_per_s"] / queueing["tokens_per_s"]),
        streaming=streaming,
        lockstep=[fitting, queueing],
    )


def main() -> None:
    """Measure in this process; the engines have theirs."""
    os.environ |= {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    os.environ |= engine_environment(spec("vllm_generator", ""))
    asyncio.run(measure())


if __name__ == "__main__":
    main()
