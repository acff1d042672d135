"""vLLM on this device: log-probs, reward scores, exchange of weights, and memory given back.

Each is compared with transformers on the CPU, on tiny models with random weights.
"""

import asyncio
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pynvml
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen2Model

from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.config.scorers import ProcessRewardSettings
from sphere_ray.engines.engine import engine_environment
from sphere_ray.engines.reward_base import head_tensors, step_tag_head
from sphere_ray.engines.reward_prompt import RewardPrompt
from sphere_ray.engines.sources import build_engine
from sphere_ray.engines.tokens import load_tokenizer, prompt_ids
from sphere_ray.method.ports import GenerateRequest, ScoreRequest
from sphere_ray.models.source import resolve_model
from sphere_ray.records import Candidate, Message, Problem, StopReason
from tests.gpu.device import ON_GPU, finish, significant

QUESTION = "Tom has 12 apples and buys 30 more. How many apples does Tom have now?"
MESSAGES = (Message(role="user", content=QUESTION),)
STEPS = ("Step 1: Tom starts with 12 apples.\n\n", "Step 2: So 12 + 30 = 42.\n\n")
TOLERANCE, PATIENCE_S, SLACK_MIB = 2e-2, 60, 64
POOL = PoolSettings(
    gpus=1.0 if ON_GPU else 0.0, kv_cache_gib=0.25, enforce_eager=True, max_num_seqs=64
)


def spec_of(name: str, cache: Path) -> EngineSpec:
    model = ModelSettings(path=f"tiny:{name}", dtype="float32", max_model_len=512)
    reward = ProcessRewardSettings(model=model, pool=POOL) if name.endswith("prm") else None
    return EngineSpec(
        kind="process_reward" if reward else "vllm_generator",
        name=name,
        path=resolve_model(model, cache),
        model=model,
        pool=POOL,
        settings=reward,
    )


def used_mib() -> int:
    """Memory in use: of the GPU, or of all processes that this one started."""
    if not ON_GPU:
        children = psutil.Process().children(recursive=True)
        return sum(child.memory_info().rss for child in children) >> 20
    pynvml.nvmlInit()
    used = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used
    return int(used) >> 20


async def released(before: int) -> tuple[float, int]:
    """Seconds until the memory is back, or all of them, and what is still held in MiB."""
    began = time.monotonic()
    while used_mib() > before + SLACK_MIB and time.monotonic() - began < PATIENCE_S:
        await asyncio.sleep(0.2)
    return time.monotonic() - began, max(0, used_mib() - before)


def mean_logp(model: Any, directory: str, token_ids: tuple[int, ...]) -> float:
    """What transformers says of an answer, nats per token."""
    prompt = prompt_ids(load_tokenizer(directory), MESSAGES)
    ids = torch.tensor([[*prompt, *token_ids]])
    with torch.no_grad():
        every = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return float(every[range(len(every)), ids[0, 1:]][len(prompt) - 1 :].mean())


async def generation(cache: Path, figures: dict[str, Any]) -> list[str]:
    """Answers before and after an exchange of weights."""
    spec, other = spec_of("llama", cache), cache / "other"
    request = GenerateRequest(
        problem_id="p", messages=MESSAGES, n=1, temperature=0.0, max_tokens=64, seed=0
    )
    model: Any = AutoModelForCausalLM.from_pretrained(spec.path, dtype=torch.float32)
    engine, began = build_engine(spec), time.monotonic()
    await engine.start()
    figures["start, s"] = significant(time.monotonic() - began)
    try:
        (found,) = await engine.handle(request)
        apart = [abs(found.logprob - mean_logp(model, spec.path, found.token_ids))]
        shutil.copytree(spec.path, other)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
        model.save_pretrained(other)
        began = time.monotonic()
        await engine.reload(replace(spec, name="other", path=str(other)))
        figures["exchange of weights, s"] = significant(time.monotonic() - began)
        (found,) = await engine.handle(request)
        apart.append(abs(found.logprob - mean_logp(model, spec.path, found.token_ids)))
        began = time.monotonic()
        many = await engine.handle(replace(request, n=64, temperature=1.0, max_tokens=128))
        tokens = sum(len(each.token_ids) for each in many)
        figures["tiny model, tokens/s"] = significant(tokens / (time.monotonic() - began))
    finally:
        await engine.close()
    figures |= {"log-probs, apart": significant(apart[0]), "exchanged": significant(apart[1])}
    return [f"log-probs are {gap:.2g} apart" for gap in apart if not gap <= TOLERANCE]


async def scoring(cache: Path, figures: dict[str, Any]) -> list[str]:
    """Rewards of steps."""
    spec = spec_of("qwen2-prm", cache)
    assert isinstance(spec.settings, ProcessRewardSettings)
    steps = [
        Candidate(text=text, token_ids=(1,), logprob=-1.0, stop_reason=StopReason.BOUNDARY)
        for text in STEPS
    ]
    request = ScoreRequest(
        problem=Problem(problem_id="p", question=QUESTION, answer="42", source="test"),
        messages=MESSAGES,
        prefix=(steps[0],),
        candidates=(steps[1],),
        seed=0,
    )
    engine = build_engine(spec)
    await engine.start()
    try:
        (score,) = await engine.handle(request)
    finally:
        await engine.close()
    tokenizer = load_tokenizer(spec.path)
    how = {"system": spec.settings.system, "step_tag": spec.settings.step_tag}
    ids = torch.tensor([RewardPrompt(tokenizer, **how).ids(QUESTION, STEPS)])
    body: Any = Qwen2Model.from_pretrained(spec.path, dtype=torch.float32)
    head = step_tag_head(body.config.hidden_size)
    head.load_state_dict(head_tensors(load_file(f"{spec.path}/model.safetensors")))
    with torch.no_grad():
        expected = head(body(ids).last_hidden_state[0, -1]).softmax(-1)[1].item()
    apart = abs(score.reward - expected)
    figures["reward, apart"] = significant(apart)
    return [] if apart <= TOLERANCE else [f"a reward is {apart:.2g} apart"]


async def main() -> None:
    figures: dict[str, Any] = {}
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="engine-") as name:
        os.environ |= engine_environment(spec_of("llama", Path(name)))
        before = used_mib()
        for check in (generation, scoring):
            faults += await check(Path(name), figures)
            seconds, left = await released(before)
            figures |= {f"{check.__name__}: released, s": significant(seconds), "left, MiB": left}
            if left > SLACK_MIB:
                faults.append(f"{left} MiB are not back {PATIENCE_S} s after {check.__name__}")
    finish(figures, faults)


if __name__ == "__main__":
    asyncio.run(main())
