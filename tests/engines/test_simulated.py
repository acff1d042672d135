import asyncio
import pickle
import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config.engines import EngineSpec, SimulationSettings
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.config.scorers import SimulatedRewardSettings
from sphere_ray.engines.simulated import SimulatedGenerator, SimulatedScorer
from sphere_ray.engines.sources import build_engine
from sphere_ray.errors import EngineError
from sphere_ray.grading.extract import extract_answer
from sphere_ray.method.ports import GenerateRequest, Score, ScoreRequest
from sphere_ray.method.steps import is_final, is_plausible
from sphere_ray.records import Candidate, Message, Problem, StopReason
from tests.simulated_problems import simulated_problem

PROBLEM = simulated_problem(7)


def spec(settings: SimulationSettings | SimulatedRewardSettings) -> EngineSpec:
    generates = isinstance(settings, SimulationSettings)
    return EngineSpec(
        kind="simulated_generator" if generates else "simulated",
        name="simulated",
        path="",
        model=ModelSettings(path="simulated"),
        pool=PoolSettings(kv_cache_gib=1),
        settings=settings,
    )


def generator(**knobs: Any) -> SimulatedGenerator:
    return SimulatedGenerator(spec(SimulationSettings(**knobs)))


def scorer(noise: float = 0.0) -> SimulatedScorer:
    return SimulatedScorer(spec(SimulatedRewardSettings(noise=noise)))


def ask(problem: Problem = PROBLEM, **changes: Any) -> GenerateRequest:
    defaults: dict[str, Any] = {
        "problem_id": problem.problem_id,
        "messages": (Message(role="user", content=problem.question),),
        "n": 1,
        "temperature": 0.8,
        "max_tokens": 400,
        "seed": 1,
    }
    return GenerateRequest(**(defaults | changes))


def rate(problem: Problem, *candidates: Candidate, prefix: tuple[Candidate, ...] = ()) -> Any:
    return ScoreRequest(
        problem=problem,
        messages=(Message(role="user", content=problem.question),),
        prefix=prefix,
        candidates=candidates,
        seed=3,
    )


async def walk(engine: SimulatedGenerator, problem: Problem, seed: int) -> list[Candidate]:
    chain: list[Candidate] = []
    while not chain or not is_final(chain[-1]):
        prefix = tuple(token for step in chain for token in step.token_ids)
        chain += await engine.generate(ask(problem, prefix_ids=prefix, stop=("\n\n",), seed=seed))
    return chain


@given(
    order=st.permutations(range(6)),
    seed=st.integers(0, 2**63 - 1),
    accuracy=st.floats(0, 1),
    steps=st.integers(1, 6),
    limit=st.integers(1, 200),
)
def test_outputs_depend_on_the_request_alone(
    order: list[int], seed: int, accuracy: float, steps: int, limit: int
) -> None:
    requests = [
        ask(
            simulated_problem(i), n=i + 1, seed=seed + i, max_tokens=limit, stop=("\n\n",) * (i % 2)
        )
        for i in range(6)
    ]

    async def run(engine: SimulatedGenerator, indices: list[int]) -> dict[int, Any]:
        answers = await asyncio.gather(*(engine.generate(requests[i]) for i in indices))
        return dict(zip(indices, answers, strict=True))

    knobs = SimulationSettings(accuracy=accuracy, steps=steps)
    first = asyncio.run(run(SimulatedGenerator(spec(knobs)), list(range(6))))
    again = asyncio.run(run(pickle.loads(pickle.dumps(SimulatedGenerator(spec(knobs)))), order))
    assert {i: again[i] for i in range(6)} == first
    for request, candidates in zip(requests, first.values(), strict=True):
        assert len(candidates) == request.n
        for candidate in candidates:
            assert candidate.text.encode() == bytes(i for i in candidate.token_ids if i < 256)
            assert len(candidate.token_ids) <= limit


async def test_more_samples_begin_with_the_same_ones() -> None:
    few, many = await generator().generate(ask(n=2)), await generator().generate(ask(n=5))
    assert many[:2] == few


@pytest.mark.parametrize("boundary", ["\n\n", "\n", ". "])
async def test_steps_end_at_the_boundary_and_the_last_states_the_answer(boundary: str) -> None:
    engine = generator(accuracy=1, steps=4)
    chain: list[Candidate] = []
    for _ in range(4):
        prefix = tuple(token for step in chain for token in step.token_ids)
        chain += await engine.generate(ask(prefix_ids=prefix, stop=(boundary,)))
    *inner, last = chain
    assert all(step.text.endswith(boundary) for step in inner)
    assert [step.stop_reason for step in inner] == [StopReason.BOUNDARY] * 3
    assert last.stop_reason is StopReason.END
    assert not any(is_final(step) for step in inner)
    assert all(is_plausible(step) for step in chain)
    assert extract_answer("".join(step.text for step in chain)) == PROBLEM.answer


async def test_walking_in_steps_and_in_one_go_reach_the_same_kind_of_answer() -> None:
    (whole,) = await generator(accuracy=1).generate(ask())
    steps = await walk(generator(accuracy=1), PROBLEM, seed=1)
    assert extract_answer(whole.text) == extract_answer("".join(s.text for s in steps))


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.6, 1.0])
async def test_chains_are_right_at_the_rate_asked_for(accuracy: float) -> None:
    engine, right = generator(accuracy=accuracy), 0
    for number in range(3000):
        problem = simulated_problem(number)
        (candidate,) = await engine.generate(ask(problem, seed=number))
        right += extract_answer(candidate.text) == problem.answer
    assert right / 3000 == pytest.approx(accuracy, abs=0.03)


async def test_problems_differ_in_difficulty() -> None:
    shares = []
    for number in range(40):
        problem = simulated_problem(number)
        samples = await generator(accuracy=0.5).generate(ask(problem, n=40))
        right = sum(extract_answer(s.text) == problem.answer for s in samples)
        shares.append(right / 40)
    assert min(shares) < 0.2
    assert max(shares) > 0.8


async def test_a_correction_prompt_is_solved_as_the_question_it_repeats() -> None:
    content = f"{PROBLEM.question}\n\nAn earlier attempt:\n#### 5 + 4\n\nSolve it again."
    request = ask(messages=(Message(role="user", content=content),))
    (candidate,) = await generator(accuracy=1).generate(request)
    assert extract_answer(candidate.text) == PROBLEM.answer


async def test_noiseless_rewards_tell_true_steps_from_false_ones() -> None:
    for seed in range(50):
        chain = await walk(generator(accuracy=0.5), PROBLEM, seed)
        scores = [
            (await scorer().score(rate(PROBLEM, step, prefix=tuple(chain[:i]))))[0]
            for i, step in enumerate(chain)
        ]
        answered_right = extract_answer(chain[-1].text) == PROBLEM.answer
        assert (scores[-1].reward > 0.5) == answered_right
        # A wrong running total is never mended.
        rewards = [score.reward for score in scores]
        assert rewards == sorted(rewards, reverse=True)


@given(noise=st.floats(0, 5), texts=st.lists(st.text(), min_size=1, max_size=5))
def test_rewards_lie_in_the_unit_interval_for_any_text(noise: float, texts: list[str]) -> None:
    candidates = [
        Candidate(text=text, token_ids=(), logprob=0.0, stop_reason=StopReason.BOUNDARY)
        for text in texts
    ]
    request = rate(PROBLEM, *candidates)
    scores = asyncio.run(scorer(noise).score(request))
    assert len(scores) == len(texts)
    assert all(0 <= score.reward <= 1 for score in scores)
    assert scores == asyncio.run(scorer(noise).score(request))


async def test_noise_spreads_rewards_around_the_truth() -> None:
    (right,) = await generator(accuracy=1, steps=1).generate(ask())
    scores = await scorer(noise=0.05).score(rate(PROBLEM, *[right] * 400))
    rewards = [score.reward for score in scores]
    assert sum(rewards) / 400 == pytest.approx(0.85, abs=0.01)
    assert len(set(rewards)) > 300


async def test_specs_build_their_engines_and_refuse_the_wrong_request() -> None:
    maker, judge = (
        build_engine(spec(SimulationSettings())),
        build_engine(spec(SimulatedRewardSettings())),
    )
    for engine in (maker, judge):
        await engine.start()
        await engine.check()
    (candidate,) = await maker.handle(ask())
    assert isinstance(candidate, Candidate)
    (score,) = await judge.handle(rate(PROBLEM, candidate))
    assert isinstance(score, Score)
    assert maker.stats().generated_tokens == len(candidate.token_ids)
    assert maker.stats().running == 0
    with pytest.raises(EngineError):
        await maker.handle(rate(PROBLEM, candidate))
    with pytest.raises(EngineError):
        await judge.handle(ask())


@pytest.mark.benchmark
async def test_cost_of_a_simulated_chain() -> None:
    engine, judge, rng = generator(), scorer(0.1), random.Random(0)
    begin, chains = time.process_time(), 2000
    for number in range(chains):
        problem, chain = simulated_problem(number), ()
        while not chain or not is_final(chain[-1]):
            prefix = tuple(token for step in chain for token in step.token_ids)
            request = ask(problem, prefix_ids=prefix, stop=("\n\n",), n=5, seed=number)
            candidates = await engine.generate(request)
            await judge.score(rate(problem, *candidates, prefix=chain))
            chain = (*chain, rng.choice(candidates))
    cost = (time.process_time() - begin) / chains
    assert cost < 1e-3, f"{cost * 1e6:.0f} us of CPU a chain"
