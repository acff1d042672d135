import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import pytest
import pytest_asyncio
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sphere_ray.config.engines import EngineSpec
from sphere_ray.engines.sources import build_engine
from sphere_ray.engines.tokens import prompt_ids
from sphere_ray.engines.vllm_engine import CPU_BLOCK_SIZE
from sphere_ray.engines.vllm_generator import VllmGenerator
from sphere_ray.errors import DeadlineExceededError, EngineError, RequestError
from sphere_ray.method.ports import GenerateRequest
from sphere_ray.records import Candidate, Message, StopReason

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

QUESTION = (Message(role="user", content="Tom has 12 apples and buys 30 more. How many now?"),)
EOS = {0, 2}
Plain: TypeAlias = Callable[[tuple[Message, ...], tuple[int, ...]], float]


def ask(**changes: Any) -> GenerateRequest:
    defaults: dict[str, Any] = {
        "problem_id": "p",
        "messages": QUESTION,
        "n": 1,
        "temperature": 1.0,
        "max_tokens": 24,
        "seed": 1,
    }
    return GenerateRequest(**(defaults | changes))


STOPPED = ask(n=96, max_tokens=40, stop=("p",))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(generator_spec: Callable[..., EngineSpec]) -> AsyncIterator[VllmGenerator]:
    engine = build_engine(generator_spec())
    assert isinstance(engine, VllmGenerator)
    await engine.start()
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stopped(engine: VllmGenerator) -> tuple[Candidate, ...]:
    return await engine.generate(STOPPED)


@pytest.fixture(scope="module")
def tokenizer(generator_spec: Callable[..., EngineSpec]) -> Any:
    return AutoTokenizer.from_pretrained(generator_spec().path)


@pytest.fixture(scope="module")
def plain(generator_spec: Callable[..., EngineSpec], tokenizer: Any) -> Plain:
    """The mean log-probability of a continuation, by transformers."""
    path = generator_spec().path
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    def mean_logprob(messages: tuple[Message, ...], token_ids: tuple[int, ...]) -> float:
        prompt = prompt_ids(tokenizer, messages)
        ids = torch.tensor([[*prompt, *token_ids]])
        with torch.no_grad():
            logprobs = model(ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        return float(logprobs.gather(1, ids[0, len(prompt) :, None]).mean())

    return mean_logprob


async def test_n_samples_differ_and_text_is_the_decoded_ids(
    engine: VllmGenerator, tokenizer: Any
) -> None:
    candidates = await engine.handle(ask(n=5))
    assert len({candidate.token_ids for candidate in candidates}) == 5
    for candidate in candidates:
        assert candidate.text == tokenizer.decode(
            list(candidate.token_ids), skip_special_tokens=True
        )
        assert candidate.reward is None
        assert candidate.logprob < 0


async def test_why_a_candidate_stopped_shows_in_its_tokens(
    stopped: tuple[Candidate, ...],
) -> None:
    assert {candidate.stop_reason for candidate in stopped} == set(StopReason)
    for candidate in stopped:
        reason, ids = candidate.stop_reason, candidate.token_ids
        assert ("p" in candidate.text) == (reason is StopReason.BOUNDARY)
        assert (ids[-1] in EOS) == (reason is StopReason.END)
        assert reason is not StopReason.LENGTH or len(ids) == STOPPED.max_tokens
        assert not EOS & set(ids[:-1])


async def test_a_stop_string_inside_a_token_keeps_ids_and_text_equal(
    stopped: tuple[Candidate, ...], tokenizer: Any
) -> None:
    beyond = [c for c in stopped if "p" in c.text and not c.text.endswith("p")]
    assert beyond, "no token of the tiny vocabulary crossed the stop string"
    for candidate in beyond:
        assert candidate.text == tokenizer.decode(
            list(candidate.token_ids), skip_special_tokens=True
        )


async def test_continuing_a_prefix_equals_generating_in_one_go(engine: VllmGenerator) -> None:
    (whole,) = await engine.generate(ask(temperature=0.0, max_tokens=30))
    head = whole.token_ids[:17]
    (rest,) = await engine.generate(ask(temperature=0.0, max_tokens=13, prefix_ids=head))
    assert head + rest.token_ids == whole.token_ids


async def test_logprobs_equal_those_of_transformers(engine: VllmGenerator, plain: Plain) -> None:
    for candidate in await engine.generate(ask(n=4, temperature=0.7)):
        expected = plain(QUESTION, candidate.token_ids)
        assert candidate.logprob == pytest.approx(expected, abs=1e-3)


async def test_a_continued_prefix_comes_from_the_cache(engine: VllmGenerator) -> None:
    (first,) = await engine.generate(ask(temperature=0.0, max_tokens=100))
    before = engine.stats()
    await engine.generate(ask(prefix_ids=first.token_ids[:96], n=3))
    after = engine.stats()
    assert after.prefix_hits - before.prefix_hits >= 3 * 96
    assert after.prefix_queries > before.prefix_queries
    assert after.generated_tokens > before.generated_tokens


async def test_samples_compute_the_end_of_their_prompt_once(
    engine: VllmGenerator, tokenizer: Any
) -> None:
    messages = (Message(role="user", content="A question that no other test has asked: 9 + 4?"),)
    length = len(prompt_ids(tokenizer, messages))
    assert length % CPU_BLOCK_SIZE > 2
    before = engine.stats()
    await engine.generate(ask(messages=messages, n=6))
    after = engine.stats()
    queried = after.prefix_queries - before.prefix_queries
    assert queried == 6 * length
    computed = queried - (after.prefix_hits - before.prefix_hits)
    assert length <= computed + CPU_BLOCK_SIZE  # the first may find the template's beginning cached
    assert computed <= length + 5


async def test_samples_that_share_a_prompt_see_all_of_it_and_nothing_else(
    plain: Plain, generator_spec: Callable[..., EngineSpec]
) -> None:
    def asked(number: int) -> GenerateRequest:
        text = f"{'So ' * number}how many apples are {number} apples?"
        return ask(messages=(Message(role="user", content=text),), n=5, max_tokens=60)

    requests = [asked(number) for number in range(12)]
    # Prompts in several pieces, and half the blocks that 32 samples need: some start over.
    engine = VllmGenerator(
        generator_spec(max_num_seqs=32, max_num_batched_tokens=40, kv_cache_gib=0.001)
    )
    await engine.start()
    try:
        found = await asyncio.gather(*map(engine.generate, requests))
    finally:
        await engine.close()
    for request, samples in zip(requests, found, strict=True):
        for sample in samples:
            expected = plain(request.messages, sample.token_ids)
            assert sample.logprob == pytest.approx(expected, abs=1e-3)


async def test_reloaded_weights_answer_as_in_plain_transformers_and_nothing_old_is_cached(
    engine: VllmGenerator, generator_spec: Callable[..., EngineSpec], tmp_path: Any
) -> None:
    spec, other = generator_spec(), tmp_path / "other"
    shutil.copytree(spec.path, other)
    model = AutoModelForCausalLM.from_pretrained(spec.path, dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    model.save_pretrained(other)
    greedy = ask(temperature=0.0, max_tokens=100)
    (before,) = await engine.generate(greedy)
    await engine.reload(replace(spec, name="other", path=str(other)))
    (found,) = await engine.generate(greedy)
    assert engine.model == "other"
    assert found.token_ids != before.token_ids
    prompt = prompt_ids(AutoTokenizer.from_pretrained(spec.path), QUESTION)
    ids = torch.tensor([[*prompt, *found.token_ids]])
    with torch.no_grad():
        every = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    logps = every[range(len(every)), ids[0, 1:]][len(prompt) - 1 :]
    assert found.logprob == pytest.approx(logps.mean().item(), abs=1e-3)
    with pytest.raises(EngineError, match="could not be loaded"):
        await engine.reload(replace(spec, path=str(tmp_path / "nowhere")))
    await engine.reload(spec)
    (again,) = await engine.generate(greedy)
    assert again.token_ids == before.token_ids


PROMPTS = (
    "Tom has 12 apples and buys 30 more. How many now?",
    "What is 3 x 5?",
    "She sells 3 cups for $5 each. How much is that?",
    "Let x be the price of one ticket. Then 4x + 10 = 90. What is x?",
)


def perturbed(base: str, target: Path, seed: int) -> str:
    """The weights of a model, each changed a little."""
    shutil.copytree(base, target)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    model.save_pretrained(target)
    return str(target)


async def greedy_ids(engine: VllmGenerator) -> list[tuple[int, ...]]:
    found = [
        await engine.generate(
            ask(messages=(Message(role="user", content=text),), temperature=0.0, max_tokens=32)
        )
        for text in PROMPTS
    ]
    return [candidate.token_ids for (candidate,) in found]


@pytest.mark.slow  # every day tests/e2e/test_smoke.py evaluates a policy that was reloaded
@pytest.mark.parametrize(
    "name", [pytest.param("llama", id="tied head"), pytest.param("qwen2", id="untied head")]
)
async def test_after_every_reload_an_engine_answers_as_a_fresh_one(
    generator_spec: Callable[..., EngineSpec], tmp_path: Path, name: str
) -> None:
    first = generator_spec(name)
    specs = [
        replace(first, name=f"{seed}", path=perturbed(first.path, tmp_path / f"{seed}", seed))
        for seed in (1, 2)
    ]
    reloaded = VllmGenerator(first)
    await reloaded.start()
    answers = [await greedy_ids(reloaded)]
    try:
        for spec in specs:
            await reloaded.reload(spec)
            answers.append(await greedy_ids(reloaded))
    finally:
        await reloaded.close()
    assert len(set(map(tuple, answers))) == 3
    for spec, answer in zip(specs, answers[1:], strict=True):
        fresh = VllmGenerator(spec)
        await fresh.start()
        try:
            assert await greedy_ids(fresh) == answer
        finally:
            await fresh.close()


async def test_max_tokens_shrinks_to_the_room_that_is_left(
    engine: VllmGenerator, tokenizer: Any
) -> None:
    room = 9
    used = len(prompt_ids(tokenizer, QUESTION))
    prefix = (5,) * (engine.spec.model.max_model_len - used - room)
    (candidate,) = await engine.generate(ask(prefix_ids=prefix, max_tokens=400))
    assert len(candidate.token_ids) <= room
    with pytest.raises(RequestError, match="leaves no room"):
        await engine.generate(ask(prefix_ids=(*prefix, *(5,) * room)))


async def test_a_refused_request_leaves_the_engine_alive(engine: VllmGenerator) -> None:
    with pytest.raises(RequestError):
        await engine.generate(ask(prefix_ids=(1 << 20,)))
    await engine.check()
    assert await engine.generate(ask())


async def test_a_late_request_is_aborted(
    engine: VllmGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried = engine.spec.pool.model_copy(update={"request_timeout_s": 0.001})
    monkeypatch.setattr(engine, "spec", replace(engine.spec, pool=hurried))
    with pytest.raises(DeadlineExceededError, match=r"0\.001 s"):
        await engine.generate(ask(max_tokens=400))
    monkeypatch.undo()
    await engine.generate(ask(max_tokens=4))
    assert engine.stats().running + engine.stats().waiting <= 1


async def test_the_engine_lists_its_processes(engine: VllmGenerator) -> None:
    names = [psutil.Process(pid).name() for pid in engine.stats().pids]
    assert any("EngineCore" in name for name in names)


async def test_tensor_parallel_gives_the_same_tokens(
    engine: VllmGenerator, plain: Plain, generator_spec: Callable[..., EngineSpec]
) -> None:
    request = ask(temperature=0.0, max_tokens=20)
    (expected,) = await engine.generate(request)
    split = VllmGenerator(generator_spec(tensor_parallel=2))
    await split.start()
    try:
        (found,) = await split.generate(request)
        sharing = await split.generate(ask(n=3))
    finally:
        await split.close()
    assert found.token_ids == expected.token_ids
    assert found.logprob == pytest.approx(expected.logprob, abs=1e-3)
    for sample in sharing:
        assert sample.logprob == pytest.approx(plain(QUESTION, sample.token_ids), abs=1e-3)


async def test_equal_seeds_give_equal_samples_and_a_killed_engine_is_reported(
    generator_spec: Callable[..., EngineSpec],
) -> None:
    engine = VllmGenerator(generator_spec(deterministic=True))
    with pytest.raises(EngineError, match="not running"):
        await engine.check()
    await engine.start()
    try:
        first = await engine.generate(ask(n=3, seed=2**63 - 1))
        again = await engine.generate(ask(n=3, seed=2**63 - 1))
        other = await engine.generate(ask(n=3, seed=5))
        assert [c.token_ids for c in first] == [c.token_ids for c in again]
        assert [c.token_ids for c in first] != [c.token_ids for c in other]
        running = asyncio.create_task(engine.generate(ask(n=16, max_tokens=400)))
        await asyncio.sleep(0)
        for pid in engine.stats().pids:
            if "EngineCore" in psutil.Process(pid).name():
                psutil.Process(pid).kill()
        with pytest.raises(EngineError):
            await running
        with pytest.raises(EngineError):
            await engine.check()
    finally:
        await engine.close()


@pytest.mark.slow  # three engines
async def test_an_engine_with_another_seed_draws_other_samples(
    generator_spec: Callable[..., EngineSpec],
) -> None:
    async def samples(seed: int) -> list[str]:
        engine = build_engine(generator_spec())
        assert isinstance(engine, VllmGenerator)
        engine.seed = seed
        await engine.start()
        try:
            return [each.text for each in await engine.generate(ask(n=8, max_tokens=20))]
        finally:
            await engine.close()

    first = await samples(1)
    assert await samples(1) == first
    assert await samples(2) != first
