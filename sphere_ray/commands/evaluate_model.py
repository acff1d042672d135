"""Evaluation of models outside a run: problems from any source, and nothing is kept."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sphere_ray.benchmarks.sources import reader_for
from sphere_ray.config import RunSettings
from sphere_ray.config.problems import SplitSettings
from sphere_ray.config.training import TrainerPlacement
from sphere_ray.pools.roles import base_model, policy_alone
from sphere_ray.problems.ingest import IngestResult, ingest_splits, rejected_lines, require_usable
from sphere_ray.records import EvaluationRow, Problem
from sphere_ray.reporting.summary import (
    EvaluationSummary,
    HeldOutSummary,
    evaluation_summary,
    held_out_summary,
)
from sphere_ray.runs.directory import CONFIG, Run, WritableRun
from sphere_ray.runs.session import Session
from sphere_ray.runs.step import Executor
from sphere_ray.runs.steps.evaluation import HeldOutStep
from sphere_ray.runs.steps.problems import GivenProblemsStep

SPLIT = "test"

Tell = Callable[[str], None]
"""Says a line to the user."""

Asked = tuple[RunSettings, Sequence[Problem]]
"""A set of problems, and the settings that it is asked with."""


def evaluate_model(
    settings: RunSettings, model: str, split: SplitSettings, samples: int, tell: Tell
) -> EvaluationSummary:
    """Measure `model` on problems; `samples` answers a problem are drawn besides the greedy one.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    problems = read_problems(settings, split, tell)
    (found,) = answers_of(settings, (model,), {SPLIT: (sampling(settings, samples), problems)})
    return evaluation_summary(found[SPLIT], seed=settings.seed)


def compare_models(
    settings: RunSettings, models: Sequence[str], split: SplitSettings, tell: Tell
) -> HeldOutSummary:
    """Measure a base and another model on the same problems, one after the other, paired.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    problems = read_problems(settings, split, tell)
    asked = {SPLIT: (sampling(settings, 0), problems)}
    base, other = (found[SPLIT] for found in answers_of(settings, models, asked))
    boundary = settings.method.search.boundary
    return held_out_summary(base, other, seed=settings.seed, boundary=boundary)


def evaluation_settings(model: str) -> RunSettings:
    """The settings of the run that `model` lies in, else defaults that serve `model` on a CPU.

    Raises:
        RunDirectoryError: the run's config.json cannot be used.
    """
    run = run_of(model)
    return RunSettings.model_validate(_on_a_cpu(model)) if run is None else run.settings


def run_of(model: str) -> Run | None:
    """The run that a model lies in, if it does."""
    for folder in Path(model).absolute().parents:
        if folder.joinpath("problems").is_dir() and folder.joinpath(CONFIG).is_file():
            return Run.open(str(folder))
    return None


def _on_a_cpu(model: str) -> dict[str, object]:
    # The three splits have to be named, but an evaluation reads none of them.
    splits = ("train", "validation", "test")
    return {
        "name": "evaluate",
        "run_dir": "runs/evaluate",
        "problems": {s: {"source": f"generated:arithmetic?split={s}"} for s in splits},
        "method": {"search": {"max_chain_tokens": 512, "max_step_tokens": 256}},
        "engines": {
            "policy": {"path": model, "max_model_len": 2048},
            "policy_pool": {"kv_cache_gib": 2},
        },
        "evaluation": {"max_tokens": 1024},
    }


def answers(
    settings: RunSettings,
    model: str,
    problems: Mapping[str, Sequence[Problem]],
    samples: int,
    directory: str,
) -> dict[str, list[EvaluationRow]]:
    """The answers of a model to named sets of problems, all with the same prompts and limits.

    They are kept in `directory`, and found there by the next call for the same model.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    chosen = sampling(settings, samples)
    return _answers(model, {name: (chosen, some) for name, some in problems.items()}, directory)


def answers_of(
    settings: RunSettings, models: Sequence[str], sets: Mapping[str, Asked]
) -> list[dict[str, list[EvaluationRow]]]:
    """The answers of each model to the same sets, one model after the other; nothing is kept.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    # Every node reads problems and writes answers here, so it lies where runs lie.
    runs = Path(settings.run_dir).expanduser().absolute().parent
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".evaluate-", dir=runs) as directory:
        return [_answers(model, sets, directory) for model in models]


def _answers(
    model: str, sets: Mapping[str, Asked], directory: str
) -> dict[str, list[EvaluationRow]]:
    first, _ = next(iter(sets.values()))
    served = _serving(first, model)
    found, ref = {}, base_model(served.engines)
    with WritableRun.create(directory, served) as run, Session(run=run) as session:
        executor = Executor(session)
        for name, (settings, some) in sets.items():
            chosen = _serving(settings, model)
            step = GivenProblemsStep(label=name, split=SPLIT, problems=tuple(some))
            given = executor.make(step)
            made = executor.make(
                HeldOutStep(label=name, split=SPLIT, model=ref, settings=chosen, problems=given)
            )
            assert made.finished is not None
            found[name] = list(made.finished.rows(EvaluationRow))
    return found


def require_models(settings: RunSettings, models: Sequence[str]) -> None:
    """Check that models are there, before a large problem file is read for them.

    Raises:
        ModelError: one is not, or lacks something.
    """
    for model in models:
        base_model(_serving(settings, model).engines)


def read_problems(
    settings: RunSettings, split: SplitSettings, tell: Tell | None = None
) -> tuple[Problem, ...]:
    """The valid problems of a source; `tell` hears what was read.

    Raises:
        ProblemSourceError: the source cannot be used, or too many of its rows.
    """
    return usable(settings, ingest_splits({SPLIT: split}, reader_for(settings)), tell)


def usable(
    settings: RunSettings, result: IngestResult, tell: Tell | None = None
) -> tuple[Problem, ...]:
    """The problems of an ingest of one set; reasons for rejected rows go to a temporary file.

    Raises:
        ProblemSourceError: too many rows cannot be used.
    """
    rejected = ""
    if result.rejected:
        with tempfile.NamedTemporaryFile(
            "w", prefix="sphere-rejected-", suffix=".jsonl", delete=False, encoding="utf-8"
        ) as file:
            file.write(rejected_lines(result.rejected))
            rejected = file.name
    if tell is not None:
        reasons = [f"the reasons for rejected rows are in {rejected}"] if rejected else []
        for line in (*result.report(), *reasons):
            tell(line)
    require_usable(result, settings.problems.max_rejected_share, rejected)
    (problems,) = result.problems.values()
    return tuple(problems)


def sampling(settings: RunSettings, samples: int) -> RunSettings:
    """The settings with so many samples besides each greedy answer."""
    evaluation = settings.evaluation.model_copy(update={"num_samples": samples})
    return settings.model_copy(update={"evaluation": evaluation})


def _serving(settings: RunSettings, model: str) -> RunSettings:
    known = settings.engines.policy
    revision = known.revision if known.path == model else None
    policy = known.model_copy(update={"path": model, "revision": revision})
    engines = policy_alone(settings.engines).model_copy(update={"policy": policy})
    # Nothing is trained: the cluster need not have room for the trainer either.
    placement = {"trainer": TrainerPlacement(), "schedule": "sequential"}
    return settings.model_copy(update={"engines": engines, **placement})
