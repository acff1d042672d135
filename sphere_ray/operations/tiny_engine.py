"""Starts vLLM with a small random model and asks it one thing: `sphere doctor` runs this apart."""

import asyncio
import os

from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.models import ModelSettings, PoolSettings
from sphere_ray.engines.engine import engine_environment
from sphere_ray.engines.sources import build_engine
from sphere_ray.machine import gpus
from sphere_ray.method.ports import GenerateRequest
from sphere_ray.models.source import resolve_model
from sphere_ray.records import Message
from sphere_ray.terminal import tell


async def _ask() -> None:
    model = ModelSettings(path="tiny:llama", max_model_len=512)
    pool = PoolSettings(
        gpus=1 if gpus() else 0, kv_cache_gib=0.25, enforce_eager=True, max_num_seqs=4
    )
    spec = EngineSpec(
        kind="vllm_generator",
        name="tiny",
        path=resolve_model(model),
        model=model.served_by(pool),
        pool=pool,
    )
    os.environ.update(engine_environment(spec))
    engine = build_engine(spec)
    try:
        await engine.start()
        question = (Message(role="user", content="How many apples?"),)
        request = GenerateRequest(
            problem_id="doctor", messages=question, n=1, temperature=1.0, max_tokens=8, seed=0
        )
        answers = await engine.handle(request)
    finally:
        await engine.close()
    device = "a GPU" if pool.gpus else "the CPU"
    tell(f"{len(answers)} answer of {model.path} on {device}, {spec.model.dtype}")


if __name__ == "__main__":
    asyncio.run(_ask())
