"""Samples a second: our graph, the same requests given straight to AsyncLLM, and ray.data.llm.

SmolLM2 on the CPU, n samples of each problem, grading included in ours. Every side runs in a
process of its own; the time counts from the first request in the engine to the last answer, so
nobody's start counts. Each engine has answered one problem before, as ours has in every run, but
for that of ray.data.llm, which starts with its dataset. All have the arguments of our engine but
for its scheduler, which is ours (engines/vllm_scheduler.py). AsyncLLM and vllm.LLM generate alone;
ray.data.llm does our work: text, its log-probability and grade, written to parquet. A machine's
speed drifts by some percent in such minutes: with several `--rounds` every other one goes through
the sides backwards, and the ratios are those of all rounds' tokens and seconds. Prints
`busy_share`, `vs_async_llm`, `vs_ray_data_llm` and `vs_vllm_llm`.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from pyarrow.parquet import read_table

from sphere_ray.config.engines import EngineSpec
from sphere_ray.config.loading import load_config
from sphere_ray.config.run import RunSettings
from sphere_ray.engines.engine import engine_environment
from sphere_ray.grading import grade
from sphere_ray.method.prompts import question_messages
from sphere_ray.pools.pools import ADMITTED, Pools
from sphere_ray.pools.roles import base_model, policy_spec
from sphere_ray.problems.ingest import ingest
from sphere_ray.records import ModelRef, Problem, Rollout
from sphere_ray.runs.directory import WritableRun
from sphere_ray.runs.session import Session
from sphere_ray.runs.step import Executor
from sphere_ray.runs.steps.evaluation import EvaluationStep
from sphere_ray.runs.steps.problems import ProblemsStep
from sphere_ray.runs.steps.rollouts import RolloutsStep
from tests.benchmarks.report import emit, rounded

CONFIG = Path(__file__).resolve().parents[2] / "jobs" / "configs" / "laptop.yaml"
FAMILIES = "gather,compare,share,fill,parts,times"
SAMPLES, TEMPERATURE, MAX_TOKENS = 8, 0.6, 96
CORES = 2
# About half a step with all sequences, and the least: each poll takes time of the engine's cores.
POLL_S, POLL_FEW_S = 0.5, 0.02
DATA_LLM_BATCH = 32
SUMMED = ("tokens", "samples", "seconds", "wall_s")
SHARED_ARGUMENTS = (
    "dtype",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "block_size",
    "enforce_eager",
    "enable_prefix_caching",
    "kv_cache_memory_bytes",
    "generation_config",
    "distributed_executor_backend",
    "scheduling_policy",
    "disable_log_stats",
)


def settings(run_dir: str, problems: int) -> RunSettings:
    """laptop.yaml with whole-chain samples of so many problems."""
    source = f"generated:arithmetic?split=train&count={problems}&levels=1&families={FAMILIES}"
    return load_config(
        str(CONFIG),
        [
            f"run_dir={run_dir}",
            f"problems.train.source={source}",
            "problems.validation.limit=1",
            "engines.policy_pool.max_num_batched_tokens=2048",  # else another for each side
            "method.search.strategy=sampled",
            f"method.search.num_samples={SAMPLES}",
            f"method.search.temperature={TEMPERATURE}",
            f"method.search.max_chain_tokens={MAX_TOKENS}",
            "rollout.batch_size=4",
            "rollout.batches_in_flight=32",
            "ray.dashboard=false",
        ],
    )


@contextmanager
def watched(pools: Pools, spec: EngineSpec, total: int) -> Iterator[dict[str, float]]:
    """From the first request to the last answer: seconds, and how many of them were full.

    Full are those of steps with at least min(max_num_seqs, sequences left before it) sequences.
    """
    found: dict[str, float] = {"seconds": 0.0, "full_s": 0.0}
    stop = threading.Event()
    start = pools.stats(spec)[0]

    def watch() -> None:
        before, since, left = start, 0.0, total
        while not stop.wait(max(POLL_FEW_S, POLL_S * min(1, left / spec.pool.max_num_seqs))):
            stats = pools.stats(spec)
            if not stats:  # the replica was too busy to answer
                continue
            (now,) = stats
            if now.generated_tokens == before.generated_tokens:  # the step has not ended
                continue
            clock = time.monotonic()
            seconds = clock - (since or clock - (now.busy_s - start.busy_s))
            found["seconds"] += seconds
            if now.running >= min(spec.pool.max_num_seqs, left):
                found["full_s"] += min(seconds, now.busy_s - before.busy_s)
            before, since, left = now, clock, total - (now.finished - start.finished)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def ours(problems: int) -> dict[str, Any]:
    """The real graph, commits and grading included."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = settings(f"{folder}/run", problems)
        base = base_model(chosen.engines)
        with WritableRun.create(chosen.run_dir, chosen) as run, Session(run=run) as session:
            steps = Executor(session)
            given = steps.make(ProblemsStep(settings=chosen, policy=base))
            common: Any = {"settings": chosen, "problems": given}
            steps.make(EvaluationStep(label="base", split="validation", model=base, **common))
            spec, pools = policy_spec(chosen.engines, base), session._pools
            assert pools is not None
            with watched(pools, spec, problems * SAMPLES) as found:
                made = steps.make(RolloutsStep(iteration=0, policy=base, **common))
            assert made.finished is not None
            samples = sum(len(rollout.chains) for rollout in made.finished.rows(Rollout))
            report = made.report
    return {
        "tokens": report.tokens,
        "samples": samples,
        "seconds": found["seconds"],
        "wall_s": report.seconds,
        "busy": found["full_s"] / found["seconds"],
    }


def asked(problems: int) -> tuple[EngineSpec, list[list[dict[str, str]]], list[str]]:
    """The same engine, the same chats in the same order, and their answers."""
    chosen = settings("unused", problems)
    base: ModelRef = base_model(chosen.engines)
    some: Sequence[Problem] = ingest(chosen.problems).problems["train"]
    chats = [
        [
            {"role": message.role, "content": message.content}
            for message in question_messages(problem.question, chosen.method.prompts)
        ]
        for problem in some
    ]
    return policy_spec(chosen.engines, base), chats, [problem.answer for problem in some]


def vanilla(spec: EngineSpec) -> Any:
    """The arguments of our engine with vLLM's own scheduler."""
    from sphere_ray.engines.vllm_generator import generator_args  # noqa: PLC0415

    return replace(generator_args(spec), scheduler_cls=None)


def arguments(spec: EngineSpec) -> dict[str, Any]:
    """The same as keywords, but for the model and what it is for."""
    args = vanilla(spec)
    return {name: getattr(args, name) for name in SHARED_ARGUMENTS}


def tokenized(spec: EngineSpec, chats: list[list[dict[str, str]]]) -> list[list[int]]:
    """The chats as token ids."""
    from sphere_ray.engines.tokens import load_tokenizer  # noqa: PLC0415

    template = load_tokenizer(spec.path, None).apply_chat_template
    return [template(chat, add_generation_prompt=True)["input_ids"] for chat in chats]


class Bare:
    """An AsyncLLM in an actor, and nothing else."""

    async def run(self, spec: EngineSpec, chats: list[list[dict[str, str]]]) -> dict[str, float]:
        """Ask for everything at once; vLLM queues."""
        from vllm import SamplingParams, TokensPrompt  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415
        from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

        prompts = tokenized(spec, chats)
        params = SamplingParams(
            n=SAMPLES,
            temperature=TEMPERATURE,
            max_tokens=MAX_TOKENS,
            logprobs=0,
            detokenize=False,  # ours decodes the text elsewhere
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine = await asyncio.to_thread(AsyncLLM.from_engine_args, vanilla(spec))

        async def ask(number: int, ids: list[int]) -> int:
            async for output in engine.generate(
                TokensPrompt(prompt_token_ids=ids), params, str(number)
            ):
                last = output
            return sum(len(sample.token_ids) for sample in last.outputs)

        await ask(-1, prompts[0])
        began = time.monotonic()
        tokens = sum(await asyncio.gather(*(ask(n, ids) for n, ids in enumerate(prompts))))
        seconds = time.monotonic() - began
        engine.shutdown()
        return {"tokens": tokens, "seconds": seconds, "samples": SAMPLES * len(chats)}


def async_llm(problems: int) -> dict[str, Any]:
    """AsyncLLM in a Ray actor with our engine's arguments."""
    spec, chats, _ = asked(problems)
    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False)
    environment = engine_environment(spec) | {"OMP_NUM_THREADS": str(CORES)}
    actor = ray.remote(Bare).options(num_cpus=0, runtime_env={"env_vars": environment}).remote()
    found: dict[str, Any] = ray.get(actor.run.remote(spec, chats))
    return found


def graded(row: dict[str, Any]) -> dict[str, Any]:
    """What our chains have, of a row of ray.data.llm."""
    token_ids = [int(token) for token in row["generated_tokens"]]
    logprobs = [
        each[token]["logprob"] for token, each in zip(token_ids, row["logprobs"], strict=True)
    ]
    return {
        "text": row["generated_text"],
        "token_ids": token_ids,
        "logprob": sum(logprobs) / max(1, len(logprobs)),
        "verdict": grade(row["generated_text"], row["gold"]).value,
    }


def data_llm(problems: int) -> dict[str, Any]:
    """ray.data.llm, each row repeated: it keeps one sample of n."""
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig  # noqa: PLC0415

    spec, chats, golds = asked(problems)
    environment = engine_environment(spec) | {"OMP_NUM_THREADS": str(CORES)}
    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False)
    batches = ADMITTED * spec.pool.max_num_seqs // DATA_LLM_BATCH
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=spec.path,
            engine_kwargs=arguments(spec),
            placement_group_config={"bundles": [{"CPU": 1}]},
            accelerator_type=None,
            batch_size=DATA_LLM_BATCH,
            max_concurrent_batches=batches,
            max_tasks_in_flight_per_actor=2 * batches,
            concurrency=1,
            log_engine_metrics=False,
            runtime_env={"env_vars": environment},
            chat_template_stage={"enabled": True, "num_cpus": 0.1},
            tokenize_stage={"enabled": True, "num_cpus": 0.1},
            detokenize_stage={"enabled": False},  # the engine does it
        ),
        preprocess=lambda row: {
            "messages": json.loads(row["chat"]),
            "gold": row["gold"],
            "sampling_params": {
                "temperature": TEMPERATURE,
                "max_tokens": MAX_TOKENS,
                "logprobs": 0,
            },
        },
        postprocess=lambda row: graded(row) | {"took_s": row["time_taken_llm"], "at": time.time()},
        preprocess_map_kwargs={"num_cpus": 0.1},
        postprocess_map_kwargs={"num_cpus": 0.1},
    )
    rows = [
        {"chat": json.dumps(chat), "gold": gold}
        for chat, gold in zip(chats, golds, strict=True)
        for _ in range(SAMPLES)
    ]
    with tempfile.TemporaryDirectory() as folder:
        dataset = processor(ray.data.from_items(rows, override_num_blocks=32))
        dataset.write_parquet(folder, ray_remote_args={"num_cpus": 0.1})
        done = read_table(folder).to_pylist()
    began = min(row["at"] - row["took_s"] for row in done)
    return {
        "tokens": sum(len(row["token_ids"]) for row in done),
        "samples": len(done),
        "seconds": max(row["at"] for row in done) - began,
        "batch_size": DATA_LLM_BATCH,
    }


def bare_llm(problems: int) -> dict[str, Any]:
    """vllm.LLM.generate, without Ray."""
    spec, chats, _ = asked(problems)
    os.environ |= engine_environment(spec) | {"OMP_NUM_THREADS": str(CORES)}
    from vllm import LLM, SamplingParams, TokensPrompt  # noqa: PLC0415

    prompts = [TokensPrompt(prompt_token_ids=ids) for ids in tokenized(spec, chats)]
    engine = LLM(model=spec.path, **arguments(spec))
    params = SamplingParams(
        n=SAMPLES, temperature=TEMPERATURE, max_tokens=MAX_TOKENS, logprobs=0, detokenize=False
    )
    engine.generate(prompts[:1], params, use_tqdm=False)
    began = time.monotonic()
    outputs = engine.generate(prompts, params, use_tqdm=False)
    seconds = time.monotonic() - began
    tokens = sum(len(sample.token_ids) for output in outputs for sample in output.outputs)
    return {"tokens": tokens, "samples": SAMPLES * len(outputs), "seconds": seconds}


SIDES = {"ours": ours, "async_llm": async_llm, "ray_data_llm": data_llm, "vllm_llm": bare_llm}


def in_process(side: str, problems: int) -> dict[str, Any]:
    """One side in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--one", side, "--problems", str(problems)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def total(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All rounds of a side as one, and the speed of each."""
    first = rounds[0]
    found = first | {key: sum(each[key] for each in rounds) for key in SUMMED if key in first}
    if "busy" in first:
        found["busy"] = sum(each["busy"] * each["seconds"] for each in rounds) / found["seconds"]
    return found | {
        "tokens_per_s": rounded(found["tokens"] / found["seconds"]),
        "by_round": [rounded(each["tokens"] / each["seconds"]) for each in rounds],
    }


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", choices=SIDES)
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(SIDES[chosen.one](chosen.problems)))  # noqa: T201
        return
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in chosen.sides}
    for number in range(chosen.rounds):
        for side in chosen.sides if number % 2 == 0 else reversed(chosen.sides):
            runs[side].append(in_process(side, chosen.problems))
    found = {side: total(each) for side, each in runs.items()}
    rate = {side: each["tokens"] / each["seconds"] for side, each in found.items()}
    emit("busy_share", rounded(found["ours"]["busy"], 4), problems=chosen.problems)
    for side in chosen.sides[1:]:
        # With four digits: 1.193 is not 1.2.
        emit(f"vs_{side}", rounded(rate["ours"] / rate[side], 4), runs=found)


if __name__ == "__main__":
    main()
