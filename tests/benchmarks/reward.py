"""Tokens prefilled to score the candidates of a search, against the tokens of its tree.

SmolLM2 searches problems of GSM8K step by step; a process reward model made of the same weights
(with a random head) scores all candidates, or rollout values do. The bound is the tree (prompt and
each distinct candidate once) plus one block a candidate that the engine is asked about. Prints
`reward_prefill_ratio`: prefilled tokens over the bound, the worse of the two.
"""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.method import Example, PromptSettings, SearchSettings
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.config.scorers import STEP_TAG, ProcessRewardSettings, RolloutValueSettings
from sphere_ray.engines.engine import engine_environment
from sphere_ray.engines.rollout_value import RolloutValueScorer
from sphere_ray.engines.sources import build_engine
from sphere_ray.engines.vllm_engine import CPU_BLOCK_SIZE as BLOCK
from sphere_ray.grading import GraderPool, extract_gold
from sphere_ray.method.ports import GenerateRequest, Score, ScoreRequest
from sphere_ray.method.prompts import question_messages
from sphere_ray.method.search import Search, pruned_search
from sphere_ray.method.steps import is_final
from sphere_ray.models.source import resolve_model
from sphere_ray.records import Candidate, Chain, Problem, StageName
from tests.benchmarks.grading import DATA, rows
from tests.benchmarks.report import emit, rounded
from tests.engines.whole_chain import score_chain

T = TypeVar("T")
MODEL = "embedded:smollm2-135m-instruct"
COMPLETIONS = 4
SEARCH = SearchSettings(
    num_candidates=4,
    temperature=0.6,
    boundary="\n",
    max_depth=8,
    max_step_tokens=96,
    max_chain_tokens=320,
)
TOLERANCE = 1e-3
"""The target is 2e-2, but scores of an untrained head lie close together."""


@dataclass
class Metered:
    """Both ports, one request at a time, so that the engine's counters belong to it."""

    generator: Any
    scorer: Any
    scoring_engine: Any
    asks: Callable[[Candidate], bool]
    prefilled: int = 0
    candidates: int = 0
    requests: list[ScoreRequest] = field(default_factory=list)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def model(self) -> str:
        return "policy"

    async def generate(self, request: GenerateRequest) -> tuple[Candidate, ...]:
        async with self._turn:
            found: tuple[Candidate, ...] = await self.generator.generate(request)
            return found

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        async with self._turn:
            before = self._so_far()
            scores: tuple[Score, ...] = await self.scorer.score(request)
            self.prefilled += self._so_far() - before
            self.candidates += sum(self.asks(candidate) for candidate in request.candidates)
            self.requests.append(request)
            return scores

    def add(self, **counts: int) -> None:
        """The port `Progress`."""

    def _so_far(self) -> int:
        stats = self.scoring_engine.stats()
        return int(stats.prefix_queries - stats.prefix_hits)


def problems(number: int) -> Iterator[Problem]:
    for place, row in enumerate(rows(DATA / "gsm8k" / "test_660.jsonl")[:number]):
        answer = extract_gold(row["answer"])
        yield Problem(
            problem_id=str(place), question=row["question"], answer=answer, source="gsm8k"
        )


@cache
def prompts() -> PromptSettings:
    """Two worked examples of GSM8K, one step a line."""
    found = rows(DATA / "gsm8k" / "train_1500.jsonl")[:2]
    return PromptSettings(
        examples=tuple(Example(question=row["question"], response=row["answer"]) for row in found)
    )


def search_of(problem: Problem, ports: Any, grader: GraderPool, priority: int = 0) -> Search:
    """The search of a problem; `ports` is Generator, Scorer and Progress in one."""
    question = question_messages(problem.question, prompts())
    return Search(
        problem=problem,
        stage=StageName.SELF_GENERATION,
        prompt=question,
        question=question,
        settings=SEARCH,
        generator=ports,
        scorer=ports,
        grader=grader,
        progress=ports,
        search_id=problem.problem_id,
        seed=0,
        priority=priority,
    )


async def searched(ports: Metered, number: int) -> list[Chain]:
    """Search all problems, one at a time."""
    grader = GraderPool()
    found: list[Chain] = []
    for problem in problems(number):
        found.extend((await pruned_search(search_of(problem, ports, grader))).chains)
    grader.close()
    return found


def tree_tokens(
    requests: Sequence[ScoreRequest],
    prompt: Callable[[ScoreRequest], int],
    step: Callable[[Candidate], int],
) -> int:
    """Tokens of the prompts and of each distinct candidate below its own prefix."""
    asked = {request.problem.problem_id: prompt(request) for request in requests}
    distinct = {
        (request.problem.problem_id, tuple(c.text for c in request.prefix), candidate.text): step(
            candidate
        )
        for request in requests
        for candidate in request.candidates
    }
    return sum(asked.values()) + sum(distinct.values())


def spec(kind: Any, path: str, settings: Any = None) -> EngineSpec:
    """An engine on the CPU with small blocks."""
    pool = PoolSettings(kv_cache_gib=1, enforce_eager=True, max_num_seqs=64)
    return EngineSpec(
        kind=kind,
        name=kind,
        path=path,
        model=ModelSettings(path=path, max_model_len=2048).served_by(pool),
        pool=pool,
        settings=settings,
    )


async def with_engine(engine: Any, work: Callable[[], Awaitable[T]]) -> T:
    """Do the work while the engine runs."""
    await engine.start()
    try:
        return await work()
    finally:
        await engine.close()


async def process_reward(policy: Any, model: str, number: int) -> dict[str, Any]:
    """A process reward model; its scores step by step against those of whole chains."""
    from sphere_ray.engines.reward_base import prepare_step_tags  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "reward"
        await asyncio.to_thread(prepare_step_tags, Path(model), target, step_tag=STEP_TAG, seed=0)
        settings = ProcessRewardSettings.model_validate(
            {"model": {"path": str(target)}, "pool": {"kv_cache_gib": 1}}
        )
        engine: Any = build_engine(spec("process_reward", str(target), settings))
        ports = Metered(generator=policy, scorer=engine, scoring_engine=engine, asks=lambda _: True)

        async def work() -> float:
            chains = await searched(ports, number)
            return max([await _apart(engine, each, number) for each in chains if each.steps])

        apart = await with_engine(engine, work)
        prompt = engine.format()
        bound = tree_tokens(
            ports.requests,
            lambda request: len(prompt.ids(request.problem.question, [])),
            lambda step: len(prompt.ids("", [step.text])) - len(prompt.ids("", [])),
        )
    if apart > TOLERANCE:
        raise SystemExit(f"scores step by step and of whole chains are {apart} apart")
    return figures(ports, bound) | {"scores_apart": rounded(apart)}


async def _apart(engine: Any, found: Chain, number: int) -> float:
    place = int(found.chain_id.split(":")[0])
    question = next(p for p in problems(number) if p.problem_id == str(place)).question
    steps = [step.candidate for step in found.steps]
    whole = await score_chain(engine, question, tuple(step.text for step in steps))
    return max(abs(one - (step.reward or 0.0)) for one, step in zip(whole, steps, strict=True))


async def rollout_values(policy: Any, number: int) -> dict[str, Any]:
    """Values of K completions by the policy's own engine."""
    grader = GraderPool()
    scorer = RolloutValueScorer(
        policy, grader, RolloutValueSettings(num_completions=COMPLETIONS, temperature=0.6), SEARCH
    )
    ports = Metered(
        generator=policy,
        scorer=scorer,
        scoring_engine=policy,
        asks=lambda candidate: not is_final(candidate),  # a final step is graded, not completed
    )
    await searched(ports, number)
    grader.close()
    bound = tree_tokens(
        ports.requests,
        lambda request: len(policy._prompt_ids(request.messages)),
        lambda step: len(step.token_ids),
    )
    return figures(ports, bound) | {"completions": COMPLETIONS}


def figures(ports: Metered, tree: int) -> dict[str, Any]:
    """Prefilled tokens against the bound."""
    bound = tree + BLOCK * ports.candidates
    return {
        "prefilled": ports.prefilled,
        "tree": tree,
        "candidates": ports.candidates,
        "block": BLOCK,
        "ratio": rounded(ports.prefilled / bound),
    }


async def measure(number: int) -> None:
    """Print the line."""
    model = resolve_model(ModelSettings(path=MODEL))
    policy: Any = build_engine(spec("vllm_generator", model))

    async def work() -> dict[str, Any]:
        return {
            "process_reward": await process_reward(policy, model, number),
            "rollout_value": await rollout_values(policy, number),
        }

    found = await with_engine(policy, work)
    worst = max(each["ratio"] for each in found.values())
    emit("reward_prefill_ratio", worst, by_scorer=found)


def main() -> None:
    """Measure in this process; the engines have theirs."""
    os.environ |= {"OMP_NUM_THREADS": "2"} | engine_environment(spec("vllm_generator", ""))
    asyncio.run(measure(number=8))


if __name__ == "__main__":
    main()
