"""Evaluation of models outside a run: problems from any source, nothing kept."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sphere_ray.config import RunSettings
from sphere_ray.config.problems import SplitSettings
from sphere_ray.config.training import TrainerPlacement
from sphere_ray.problems.ingest import ingest_splits, rejected_lines, require_usable
from sphere_ray.records import EvaluationRow, Problem
from sphere_ray.reporting.summary import (
    EvaluationSummary,
    HeldOutSummary,
    evaluation_summary,
    held_out_summary,
)
from sphere_ray.rollout.roles import base_model, policy_alone
from sphere_ray.runs import storage
from sphere_ray.runs.phases import DATA, evaluate
from sphere_ray.runs.session import Session
from sphere_ray.runs.store import RunStore
from sphere_ray.schema import to_table

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
    return evaluation_summary(rows, seed=settings.seed, resamples=settings.evaluation.bootstrap)


def compare_models(
    settings: RunSettings, models: tuple[str, str], problems_uri: str, limit: int
) -> HeldOutSummary:
    """Measure a base and another model on the same problems, one after the other, paired.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    base, other = _answers(settings, models, problems_uri, limit, samples=0)
    return held_out_summary(
        base, other, seed=settings.seed, resamples=settings.evaluation.bootstrap
    )


def _answers(
    settings: RunSettings, models: Sequence[str], problems_uri: str, limit: int, samples: int
) -> list[list[EvaluationRow]]:
    """The answers of each model to the same problems, all with the same prompts and limits."""
    split = SplitSettings(source=problems_uri, limit=limit)
    result = ingest_splits({SPLIT: split})
    rejected = Path(f"rejected-{int(time.time())}.jsonl")
    if result.rejected:
        storage.write_text(rejected_lines(result.rejected), storage.resolve(str(rejected)))
    require_usable(result, settings.problems.max_rejected_share, str(rejected))
    own = [_settings_for(settings, model, samples) for model in models]
    refs = [base_model(each.engines) for each in own]
    # Every node reads problems and writes answers here, so it lies where runs lie.
    beside = Path(settings.run_dir).expanduser().absolute().parent
    beside.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".evaluate-", dir=beside) as directory,
        RunStore.open(directory, own[0]) as store,
        Session(settings=own[0], store=store) as session,
    ):
        problems = store.phase(None, "problems")
        table = to_table(result.problems[SPLIT], Problem)
        storage.write_table(table, f"{problems.path}/{SPLIT}/{DATA}")
        return [
            evaluate(session, problems, SPLIT, ref, (None, f"test/{number}"))[0]
            for number, ref in enumerate(refs)
        ]


def _settings_for(settings: RunSettings, model: str, samples: int) -> RunSettings:
    known = settings.engines.policy
    revision = known.revision if known.path == model else None
    policy = known.model_copy(update={"path": model, "revision": revision})
    engines = policy_alone(settings.engines).model_copy(update={"policy": policy})
    evaluation = settings.evaluation.model_copy(update={"num_samples": samples})
    # Nothing is trained: the cluster need not have room for the trainer either.
    changes = {"engines": engines, "evaluation": evaluation, "trainer": TrainerPlacement()}
    return settings.model_copy(update=changes)
