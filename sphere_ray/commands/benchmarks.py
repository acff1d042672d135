"""Models, and perhaps an endpoint, on sets of problems: named benchmarks and a source."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sphere_ray.benchmarks.endpoint import answers_of_endpoint
from sphere_ray.benchmarks.named import asked, names_of
from sphere_ray.benchmarks.sources import read_benchmark
from sphere_ray.benchmarks.summary import summaries
from sphere_ray.commands.evaluate_model import (
    Asked,
    Tell,
    answers_of,
    read_problems,
    run_of,
    sampling,
    usable,
)
from sphere_ray.commands.options import EvaluationOptions
from sphere_ray.config import RunSettings
from sphere_ray.config.endpoint import EndpointSettings
from sphere_ray.config.problems import SplitSettings
from sphere_ray.problems.contamination import HeldOut
from sphere_ray.records import EvaluationRow, Problem
from sphere_ray.reporting.benchmark_summary import BenchmarkSummary

PROBLEMS = "problems"
"""The set of `--problems`."""
_CACHE = "endpoint-answers"
_TIMEOUT_S = 1800.0
"""An answer of many thousand tokens takes minutes."""
_MAX_SHOWN = 200


def measure(
    settings: RunSettings, models: Sequence[str], options: EvaluationOptions, tell: Tell
) -> tuple[dict[str, BenchmarkSummary], str]:
    """The figures of all by set, and a sentence about what the endpoint was asked.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    sets = _sets(settings, options, tell)
    for model in models:
        _tell_what_it_saw(model, sets, tell)
    # First the endpoint: what it answered is kept if something fails later.
    strong, told = _ask_endpoint(settings, options, sets)
    found = dict(zip(models, answers_of(settings, models, sets), strict=True)) if models else {}
    found |= strong
    by_set = {name: {who: answers[name] for who, answers in found.items()} for name in sets}
    return summaries(settings, by_set, {PROBLEMS: options.problems or ""}), told


def _ask_endpoint(
    settings: RunSettings, options: EvaluationOptions, sets: dict[str, Asked]
) -> tuple[dict[str, dict[str, list[EvaluationRow]]], str]:
    """Its answers by set under its name, and what they took; nothing where there is none."""
    if options.endpoint is None or options.endpoint_model is None:
        return {}, ""
    counts = Counter[str]()
    endpoint = EndpointSettings(
        base_url=options.endpoint,
        model=options.endpoint_model,
        api_key_env=options.endpoint_key_env,
        timeout_s=_TIMEOUT_S,
        cache_dir=str(Path(settings.run_dir).expanduser().absolute().parent / _CACHE),
    )
    answers = asyncio.run(answers_of_endpoint(endpoint, sets, counts))
    told = (
        f"endpoint: {counts['endpoint_requests']:,} requests, {counts['endpoint_cached']:,} "
        f"answers kept from earlier, {counts['endpoint_input_tokens']:,} tokens read and "
        f"{counts['endpoint_output_tokens']:,} written"
    )
    return {f"{endpoint.model} (endpoint)": answers}, told


def _sets(settings: RunSettings, options: EvaluationOptions, tell: Tell) -> dict[str, Asked]:
    sets: dict[str, Asked] = {}
    for name, reference in names_of(options.references).items():
        problems = usable(settings, read_benchmark(settings, reference, options.limit), tell)
        sets[name] = asked(settings, name, options.samples, options.max_tokens), problems
    if options.problems is not None:
        split = SplitSettings(source=options.problems, limit=options.limit)
        plain = sampling(settings, options.samples or 0)
        sets[PROBLEMS] = plain, read_problems(settings, split, tell)
    return sets


def _tell_what_it_saw(model: str, sets: dict[str, Asked], tell: Tell) -> None:
    """Say which sets the training problems meet, where the model lies in a run that has them."""
    run = run_of(model)
    step = run.step("problems") if run is not None else None
    if step is None:
        return
    for name, (_, problems) in sets.items():
        held_out = HeldOut()
        for problem in problems:
            held_out.add(problem, name)
        seen = [each for each in step.rows(Problem, below="train") if held_out.meets(each, "")]
        example = f"; for example: {seen[0].question[:_MAX_SHOWN]}" if seen else ""
        tell(f"{name}: {len(seen)} training problems of {model} overlap with it{example}")
