"""What a run came to: the outputs of its iterations, and summary.json counted from them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import cast

from sphere_ray import storage
from sphere_ray.benchmarks.summary import summaries
from sphere_ray.config import RunSettings
from sphere_ray.evolution.decision import Trial, rows
from sphere_ray.method.audit import AUDITED
from sphere_ray.records import ModelRef, Writer
from sphere_ray.reporting.audit_summary import audit_summary
from sphere_ray.reporting.columns import REWARD_COLUMNS, ROLLOUT_COLUMNS
from sphere_ray.reporting.policy_summary import (
    CandidateSummary,
    TrainingSummary,
    WriterSummary,
    training_summary,
)
from sphere_ray.reporting.reward_summary import reward_summary
from sphere_ray.reporting.rollout_summary import PAIR_COLUMNS, pairs_summary, rollout_summary
from sphere_ray.reporting.summary import (
    IterationSummary,
    RunSummary,
    held_out_summary,
    validation_summary,
)
from sphere_ray.rollout.audits import read_audit
from sphere_ray.runs.directory import FinishedStep
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
    reward: Made | None = None
    reference: Made | None = None
    writers: tuple[Writer, ...] = ()
    trials: list[Trial] = field(default_factory=list)
    refusal: str | None = None

    @property
    def winner(self) -> Trial | None:
        """The candidate that was promoted."""
        return next((trial for trial in self.trials if trial.refusal is None), None)

    @property
    def refusals(self) -> str:
        """Why each candidate was refused."""
        if len(self.trials) == 1:
            return str(self.trials[0].refusal)
        return "; ".join(f"{trial.candidate}: {trial.refusal}" for trial in self.trials)


@dataclass(kw_only=True)
class Outcome:
    """Everything a run came to; the summary is made of it."""

    base: ModelRef
    base_test: Made
    final_test: Made
    iterations: list[Iteration]
    benchmarks: dict[str, tuple[Made, Made]] = field(default_factory=dict)
    """The answers of the base and the final model to each."""


def summarise(settings: RunSettings, outcome: Outcome, steps: Sequence[FinishedStep]) -> RunSummary:
    """Count everything anew from the files of the steps, which are those of the run in order."""
    seconds: dict[str, float] = defaultdict(float)
    for step in steps:
        seconds[step.manifest.report.phase.partition("/")[0]] += step.manifest.report.seconds
    root = storage.resolve(settings.run_dir)
    return {
        "run": settings.name,
        "base": {"path": settings.engines.policy.path, "fingerprint": outcome.base.fingerprint},
        "iterations": [_iteration(settings, item, root) for item in outcome.iterations],
        "test": held_out_summary(
            *(rows([made]) for made in (outcome.base_test, outcome.final_test)),
            seed=settings.seed,
            boundary=settings.method.search.boundary,
        ),
        "benchmarks": summaries(
            settings,
            {
                name: {"base": rows([base]), "final": rows([final])}
                for name, (base, final) in outcome.benchmarks.items()
            },
        ),
        "audit": audit_summary(read_audit(settings.method.pairs.audit)),
        "seconds_by_phase": {name: round(value, 3) for name, value in seconds.items()},
        "steps": [step.path.removeprefix(f"{root}/") for step in steps],
    }


def _iteration(settings: RunSettings, item: Iteration, root: str) -> IterationSummary:
    rollouts, pairs = item.rollouts, item.pairs
    source = "trained" if item.scored_by else settings.engines.scorer.kind
    reward = reward_summary(storage.tables(rollouts.path, REWARD_COLUMNS), source)
    trained = settings.engines.scorer.trained
    if item.reward is not None and trained is not None:
        reward["trained"] = handover(item.reward.path, trained.schedule)
    seconds, tokens = rollouts.report.seconds, rollouts.report.tokens
    audit = storage.read_json(f"{pairs.path}/{AUDITED}")
    answered = [trial for trial in item.trials if trial.after]
    return {
        "iteration": item.number,
        "rollout": rollout_summary(
            storage.tables(rollouts.path, ROLLOUT_COLUMNS), seconds, rollouts.report.pools
        ),
        "reward": reward,
        "pairs": pairs_summary(
            storage.tables(pairs.path, PAIR_COLUMNS), pairs.report.dropped, seconds, tokens, audit
        ),
        "writers": [cast(WriterSummary, asdict(writer)) for writer in item.writers],
        "training": _training(item.trials),
        "evaluation": None
        if not answered
        else validation_summary(
            rows(answered[-1].before), rows(answered[-1].after), seed=settings.seed
        ),
        "candidates": [_candidate(trial, root) for trial in item.trials],
        "promoted": item.refusal is None,
        "refusal": item.refusal,
    }


def _training(trials: Sequence[Trial]) -> TrainingSummary | None:
    """The first training that made a model."""
    made = [trial.made for trial in trials if trial.after and trial.candidate != "halfway"]
    if not made:
        return None
    return training_summary(storage.read_json(f"{made[0].path}/{OUTCOME}"), made[0].report.seconds)


def _candidate(trial: Trial, root: str) -> CandidateSummary:
    decision, reports = trial.decision, [made.report for made in (trial.made, *trial.after)]
    return {
        "candidate": trial.candidate,
        "promoted": trial.refusal is None,
        "reason": decision.reason if decision else str(trial.refusal),
        "n": decision.n if decision else 0,
        "looks": trial.looks,
        "fresh": trial.fresh,
        "gain": decision.gain if decision else None,
        "standard_error": decision.error if decision else None,
        "ci95": list(decision.interval) if decision else None,
        "seconds": round(sum(report.seconds for report in reports), 3),
        "before": [made.path.removeprefix(f"{root}/") for made in trial.before],
        "after": [made.path.removeprefix(f"{root}/") for made in trial.after],
    }
