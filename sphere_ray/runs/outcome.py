"""What a run came to: the outputs of its iterations, and summary.json counted from them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.records import EvaluationRow, ModelRef
from sphere_ray.reporting.columns import REWARD_COLUMNS, ROLLOUT_COLUMNS
from sphere_ray.reporting.reward_summary import reward_summary
from sphere_ray.reporting.summary import (
    PAIR_COLUMNS,
    IterationSummary,
    RunSummary,
    TrainingSummary,
    held_out_summary,
    pairs_summary,
    rollout_summary,
    validation_summary,
)
from sphere_ray.runs.step import Made
from sphere_ray.runs.steps.policy import OUTCOME
from sphere_ray.runs.steps.reward_model import handover


@dataclass(kw_only=True)
class Iteration:
    """The outputs of one iteration, and what was decided; `refusal` says why the policy stays."""

    number: int
    rollouts: Made
    pairs: Made
    scored_by: ModelRef | None
    before: Made
    reward: Made | None = None
    policy: Made | None = None
    evaluation: Made | None = None
    refusal: str | None = None


@dataclass(kw_only=True)
class Outcome:
    """Everything a run came to; the summary is made of it."""

    base: ModelRef
    base_test: Made
    final_test: Made
    steps: list[Made]
    iterations: list[Iteration]


def summarise(settings: RunSettings, outcome: Outcome, paths: Sequence[str]) -> RunSummary:
    """Count everything anew from the files of the steps."""
    seconds: dict[str, float] = defaultdict(float)
    for made in outcome.steps:
        report = made.report
        seconds[report.phase.partition("/")[0]] += report.seconds
    root = storage.resolve(settings.run_dir)
    return {
        "run": settings.name,
        "base": {
            "path": settings.engines.policy.path,
            "fingerprint": outcome.base.fingerprint,
        },
        "iterations": [_iteration(settings, item) for item in outcome.iterations],
        "test": held_out_summary(
            _rows(outcome.base_test), _rows(outcome.final_test), seed=settings.seed
        ),
        "seconds_by_phase": {name: round(value, 3) for name, value in seconds.items()},
        "steps": [path.removeprefix(f"{root}/") for path in paths],
    }


def _iteration(settings: RunSettings, item: Iteration) -> IterationSummary:
    rollouts, pairs = item.rollouts, item.pairs
    source = "trained" if item.scored_by else settings.engines.scorer.kind
    reward = reward_summary(storage.tables(rollouts.path, REWARD_COLUMNS), source)
    trained = settings.engines.scorer.trained
    if item.reward is not None and trained is not None:
        reward["trained"] = handover(item.reward.path, trained.schedule)
    seconds = rollouts.report.seconds
    training = None if item.evaluation is None else _training(item.policy)
    return {
        "iteration": item.number,
        "rollout": rollout_summary(
            storage.tables(rollouts.path, ROLLOUT_COLUMNS), seconds, rollouts.report.pools
        ),
        "reward": reward,
        "pairs": pairs_summary(
            storage.tables(pairs.path, PAIR_COLUMNS), pairs.report.dropped, seconds
        ),
        "training": training,
        "evaluation": None
        if item.evaluation is None
        else validation_summary(_rows(item.before), _rows(item.evaluation), seed=settings.seed),
        "promoted": item.refusal is None,
        "refusal": item.refusal,
    }


def _training(policy: Made | None) -> TrainingSummary:
    assert policy is not None
    result: dict[str, Any] = storage.read_json(f"{policy.path}/{OUTCOME}")
    history = result["history"]
    tokens, seconds, computed, padding = (
        sum(step[name] for step in history) for name in ("tokens", "seconds", "computed", "padding")
    )
    return {
        "pairs": result["pairs"],
        "steps": result["steps"],
        "zero_stage": result["zero_stage"],
        "workers": result["workers"],
        "tokens_per_second": round(tokens / seconds, 3),
        "padding": round(padding / computed, 4),
        "loss_first": result["loss_first"],
        "loss_last": result["loss_last"],
        "reward_accuracy": result["reward_accuracy"],
        "update_survival": round(result["update_survival"], 4),
        "seconds": round(policy.report.seconds, 3),
    }


def _rows(made: Made) -> list[EvaluationRow]:
    assert made.finished is not None
    return list(made.finished.rows(EvaluationRow))
