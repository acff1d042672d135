"""Evaluation of models outside a run: problems from any source, and nothing is kept."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sphere_ray.config import RunSettings
from sphere_ray.config.problems import SplitSettings
from sphere_ray.config.training import TrainerPlacement
from sphere_ray.problems.ingest import ingest_splits, rejected_lines, require_usable
from sphere_ray.problems.sources import reader_for
from sphere_ray.records import EvaluationRow, Problem
from sphere_ray.reporting.summary import (
    EvaluationSummary,
    HeldOutSummary,
    evaluation_summary,
    held_out_summary,
)
from sphere_ray.rollout.roles import base_model, policy_alone
from sphere_ray.runs.directory import CONFIG, Run, WritableRun
from sphere_ray.runs.session import Session
from sphere_ray.runs.step import Executor
from sphere_ray.runs.steps.evaluation import HeldOutStep
from sphere_ray.runs.steps.problems import GivenProblemsStep

SPLIT = "test"


def evaluate_model(
    settings: RunSettings, model: str, problems_uri: str, limit: int, samples: int
) -> EvaluationSummary:
    """Measure `model` on the first `limit` problems (0: all) of a source.

    `samples` answers a problem are drawn besides the greedy one.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    (rows,) = _answers(settings, (model,), problems_uri, limit, samples)
    return evaluation_summary(rows, seed=settings.seed)


def compare_models(
    settings: RunSettings, models: tuple[str, str], problems_uri: str, limit: int
) -> HeldOutSummary:
    """Measure a base and another model on the same problems, one after the other, paired.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    base, other = _answers(settings, models, problems_uri, limit, samples=0)
    return held_out_summary(base, other, seed=settings.seed)


def evaluation_settings(model: str) -> RunSettings:
    """The settings of the run that `model` lies in, else defaults that serve `model` on a CPU.

    Raises:
        RunDirectoryError: the run's config.json cannot be used.
    """
    for folder in Path(model).absolute().parents:
        if folder.joinpath("problems").is_dir() and folder.joinpath(CONFIG).is_file():
            return Run.open(str(folder)).settings
    return RunSettings.model_validate(_on_a_cpu(model))


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
    chosen = _settings_for(settings, model, samples)
    found, ref = {}, base_model(chosen.engines)
    with WritableRun.create(directory, chosen) as run, Session(run=run) as session:
        executor = Executor(session)
        for name, some in problems.items():
            step = GivenProblemsStep(label=name, split=SPLIT, problems=tuple(some))
            given = executor.make(step)
            made = executor.make(
                HeldOutStep(label=name, split=SPLIT, model=ref, settings=chosen, problems=given)
            )
            assert made.finished is not None
            found[name] = list(made.finished.rows(EvaluationRow))
    return found


def _answers(
    settings: RunSettings, models: Sequence[str], problems_uri: str, limit: int, samples: int
) -> list[list[EvaluationRow]]:
    """The answers of each model to the same problems."""
    problems = read_problems(settings, SplitSettings(source=problems_uri, limit=limit))
    # Every node reads problems and writes answers here, so it lies where runs lie.
    runs = Path(settings.run_dir).expanduser().absolute().parent
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".evaluate-", dir=runs) as directory:
        return [
            answers(settings, model, {SPLIT: problems}, samples, directory)[SPLIT]
            for model in models
        ]


def read_problems(settings: RunSettings, split: SplitSettings) -> tuple[Problem, ...]:
    """The valid problems of a source; reasons for rejected rows go to a temporary file.

    Raises:
        ProblemSourceError: the source cannot be used, or too many of its rows.
    """
    result = ingest_splits({SPLIT: split}, reader_for(settings.method.prompts))
    rejected = ""
    if result.rejected:
        with tempfile.NamedTemporaryFile(
            "w", prefix="sphere-rejected-", suffix=".jsonl", delete=False, encoding="utf-8"
        ) as file:
            file.write(rejected_lines(result.rejected))
            rejected = file.name
    require_usable(result, settings.problems.max_rejected_share, rejected)
    return tuple(result.problems[SPLIT])


def _settings_for(settings: RunSettings, model: str, samples: int) -> RunSettings:
    known = settings.engines.policy
    revision = known.revision if known.path == model else None
    policy = known.model_copy(update={"path": model, "revision": revision})
    engines = policy_alone(settings.engines).model_copy(update={"policy": policy})
    evaluation = settings.evaluation.model_copy(update={"num_samples": samples})
    # Nothing is trained: the cluster need not have room for the trainer either.
    changes = {"engines": engines, "evaluation": evaluation, "trainer": TrainerPlacement()}
    return settings.model_copy(update=changes)
