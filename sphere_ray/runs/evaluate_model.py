"""Evaluation of one model outside a run: problems from any source, nothing kept."""

import tempfile
import time
from pathlib import Path

from sphere_ray.config import RunSettings
from sphere_ray.config.problems import SplitSettings
from sphere_ray.problems.ingest import ingest_splits, rejected_lines, require_usable
from sphere_ray.records import Problem
from sphere_ray.reporting.summary import EvaluationSummary, evaluation_summary
from sphere_ray.runs import storage
from sphere_ray.runs.phases import DATA, evaluate
from sphere_ray.runs.roles import base_model
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
    own = _settings_for(settings, model, samples)
    split = SplitSettings(source=problems_uri, limit=limit)
    result = ingest_splits({SPLIT: split})
    rejected = Path(f"rejected-{int(time.time())}.jsonl")
    if result.rejected:
        storage.write_text(rejected_lines(result.rejected), storage.resolve(str(rejected)))
    require_usable(result, own.problems.max_rejected_share, str(rejected))
    base = base_model(own.engines)
    with (
        tempfile.TemporaryDirectory(prefix="sphere-evaluate-") as directory,
        RunStore.open(directory, own) as store,
        Session(settings=own, store=store) as session,
    ):
        problems = store.phase(None, "problems")
        table = to_table(result.problems[SPLIT], Problem)
        storage.write_table(table, f"{problems.path}/{SPLIT}/{DATA}")
        rows, _ = evaluate(session, problems, SPLIT, base, (None, "test"))
    return evaluation_summary(rows, seed=own.seed, resamples=own.evaluation.bootstrap)


def _settings_for(settings: RunSettings, model: str, samples: int) -> RunSettings:
    known = settings.engines.policy
    revision = known.revision if known.path == model else None
    policy = known.model_copy(update={"path": model, "revision": revision})
    engines = settings.engines.model_copy(update={"policy": policy})
    evaluation = settings.evaluation.model_copy(update={"num_samples": samples})
    return settings.model_copy(update={"engines": engines, "evaluation": evaluation})
