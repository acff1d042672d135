"""The whole loop: composes the phases, decides promotion, and writes summary.json."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sphere_ray.config import RunSettings
from sphere_ray.config.run import PromotionSettings
from sphere_ray.config.scorers import TrainedScorerSettings
from sphere_ray.errors import RunDirectoryError, TooFewPairsError
from sphere_ray.method.evaluate import answered_by_both
from sphere_ray.method.metrics import mean_at_k
from sphere_ray.records import EvaluationRow, ModelRef, Verdict
from sphere_ray.reporting.columns import REWARD_COLUMNS, ROLLOUT_COLUMNS
from sphere_ray.reporting.reward_summary import TrainedRewardSummary, reward_summary
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
from sphere_ray.runs import storage
from sphere_ray.runs.learning import Ahead, Trained, learn
from sphere_ray.runs.manifest import Manifest
from sphere_ray.runs.phases import collect_pairs, evaluate, ingest_problems, read_columns, roll_out
from sphere_ray.runs.roles import base_model, roles_of
from sphere_ray.runs.session import Session
from sphere_ray.runs.store import PhaseDir, RunStore
from sphere_ray.runs.trained_reward import Recorded, reward_base_dir, train_reward

Seconds: TypeAlias = defaultdict[str, float]


@dataclass(kw_only=True)
class State:
    """Where the loop stands: the policy, its validation rows, and refusals in a row.

    `trained` is the reward model that took over, `recorded` the rollouts so far.
    """

    policy: ModelRef
    validation: list[EvaluationRow]
    learning_rate: float
    refusals: int = 0
    trained: ModelRef | None = None
    recorded: list[Recorded] = field(default_factory=list)
    iterations: list[IterationSummary] = field(default_factory=list)


def run(settings: RunSettings) -> RunSummary:
    """Run or continue the loop; returns (and writes) the summary.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    _refuse_remote(settings)
    with (
        RunStore.open(settings.run_dir, settings) as store,
        Session(settings=settings, store=store) as session,
    ):
        summary = _run(session)
        storage.write_json(summary, store.path_of("summary.json"))
        return summary


def _refuse_remote(settings: RunSettings) -> None:
    """Engines and trainers load models, and write them, by path.

    Raises:
        RunDirectoryError: the run directory is a URI, which only simulated engines can do with.
    """
    if settings.engines.backend != "simulated" and not storage.is_local(
        storage.resolve(settings.run_dir)
    ):
        raise RunDirectoryError(
            f"run_dir {settings.run_dir} is no path: models are trained into it and served from "
            "it; mount that storage on every node and give the path of the mount"
        )


def _run(session: Session) -> RunSummary:
    settings, seconds = session.settings, defaultdict[str, float](float)
    base = base_model(settings.engines)
    # A missing model is noticed now, not after an evaluation.
    roles_of(settings.engines, base)
    if settings.engines.scorer.trained is not None:
        reward_base_dir(settings.engines.scorer.trained, base)
    problems, manifest = ingest_problems(session)
    _count(seconds, manifest)
    validation, manifest = evaluate(
        session, problems, "validation", base, (None, "evaluation/base")
    )
    _count(seconds, manifest)
    base_test, manifest = evaluate(session, problems, "test", base, (None, "test/base"))
    _count(seconds, manifest)
    state = State(policy=base, validation=validation, learning_rate=settings.training.learning_rate)
    for iteration in range(settings.iterations):
        if state.refusals >= settings.promotion.patience:
            session.board.log(f"{state.refusals} policies in a row were refused; the run ends")
            break
        _iterate(session, problems, base, state, iteration, seconds)
    final_test = base_test
    if state.policy != base:
        # Named by its model: more iterations later evaluate another one beside it.
        place = f"test/iter-{state.policy.iteration - 1:03}"
        final_test, manifest = evaluate(session, problems, "test", state.policy, (None, place))
        _count(seconds, manifest)
    return {
        "run": settings.name,
        "steps": [],
        "base": {"path": settings.engines.policy.path, "fingerprint": base.fingerprint},
        "iterations": state.iterations,
        "test": held_out_summary(base_test, final_test, **_statistics(settings)),
        "seconds_by_phase": {name: round(value, 3) for name, value in seconds.items()},
    }


def _iterate(
    session: Session,
    problems: PhaseDir,
    base: ModelRef,
    state: State,
    iteration: int,
    seconds: Seconds,
) -> None:
    settings = session.settings
    try:
        with Ahead(session=session, iteration=iteration) as ahead:
            pairs, kept = _rolled_out(session, problems, base, state, seconds, ahead)
            if kept < (least := settings.training.min_pairs):
                raise TooFewPairsError(f"{kept} pairs are fewer than training.min_pairs ({least})")
            anchor = base if settings.training.reference == "initial" else state.policy
            models = (anchor, state.policy)
            trained = learn(session, pairs, models, iteration, state.learning_rate, ahead)
    except TooFewPairsError as error:
        _decide(session, state, None, (), str(error))
        return
    summary = state.iterations[-1]
    for manifest in trained.manifests:
        _count(seconds, manifest)
    if trained.model is None:
        state.learning_rate /= 2
        _decide(session, state, None, (), f"training collapsed: {trained.result['error']}")
        return
    summary["training"] = _training_summary(settings, trained)
    after, manifest = evaluate(
        session, problems, "validation", trained.model, (iteration, "evaluation")
    )
    _count(seconds, manifest)
    summary["evaluation"] = validation_summary(state.validation, after, **_statistics(settings))
    reason = refused(state.validation, after, settings.promotion)
    if reason:
        state.learning_rate /= 2
    _decide(session, state, trained.model, after, reason)


def _rolled_out(
    session: Session,
    problems: PhaseDir,
    base: ModelRef,
    state: State,
    seconds: Seconds,
    ahead: Ahead,
) -> tuple[PhaseDir, int]:
    """Everything up to the pairs; returns their phase and number, and begins the summary."""
    settings, iteration = session.settings, ahead.iteration
    trained = _trained_at(settings, state, iteration)
    hands_over = settings.engines.scorer.trained if iteration + 1 < settings.iterations else None
    rollouts, manifest = roll_out(
        session,
        problems,
        state.policy,
        iteration,
        trained,
        beside=None if hands_over else ahead.start,  # a reward model is trained in between
    )
    _count(seconds, manifest)
    report = manifest.report
    done = rollout_summary(
        read_columns(rollouts.path, ROLLOUT_COLUMNS), report.seconds, report.pools
    )
    source = "trained" if trained else settings.engines.scorer.kind
    reward = reward_summary(read_columns(rollouts.path, REWARD_COLUMNS), source)
    state.recorded.append(
        Recorded(path=rollouts.path, fingerprint=rollouts.fingerprint, trained=trained is not None)
    )
    pairs, manifest = collect_pairs(session, rollouts, iteration)
    _count(seconds, manifest)
    item: IterationSummary = {
        "iteration": iteration,
        "rollout": done,
        "reward": reward,
        "pairs": pairs_summary(
            read_columns(pairs.path, PAIR_COLUMNS), manifest.report.dropped, report.seconds
        ),
        "training": None,
        "evaluation": None,
        "promoted": False,
        "refusal": None,
    }
    state.iterations.append(item)
    if hands_over is not None:
        reward["trained"] = _hand_over(session, hands_over, base, state, seconds)
    return pairs, item["pairs"]["total"]


def _trained_at(settings: RunSettings, state: State, iteration: int) -> ModelRef | None:
    """The trained reward model, if it has been taken and its time has come."""
    trained = settings.engines.scorer.trained
    return state.trained if trained and iteration >= trained.schedule.from_iteration else None


def _hand_over(
    session: Session, trained: TrainedScorerSettings, base: ModelRef, state: State, seconds: Seconds
) -> TrainedRewardSummary:
    """Train a reward model for the next iteration; it takes over if its figures hold."""
    iteration = state.iterations[-1]["iteration"]
    made = train_reward(session, trained, state.recorded, base, iteration)
    _count(seconds, made.manifest)
    refusal = made.summary["refusal"]
    if refusal is None:
        state.trained = made.model
    else:
        session.board.log(f"iteration {iteration}: the reward source stays ({refusal})")
    session.events.record("handover", iteration=iteration, accepted=refusal is None, reason=refusal)
    return made.summary


def _decide(
    session: Session,
    state: State,
    model: ModelRef | None,
    validation: Sequence[EvaluationRow],
    refusal: str,
) -> None:
    """Promote `model`, or keep the policy where there is a refusal (or no model)."""
    summary = state.iterations[-1]
    if model is None or refusal:
        state.refusals += 1
        summary["refusal"] = refusal
        halved = state.learning_rate < session.settings.training.learning_rate
        rate = f"; learning rate now {state.learning_rate:g}" if halved else ""
        session.board.log(f"iteration {summary['iteration']}: the policy stays ({refusal}){rate}")
    else:
        state.policy, state.validation, state.refusals = model, list(validation), 0
        summary["promoted"] = True
    session.events.record(
        "decided",
        iteration=summary["iteration"],
        promoted=summary["promoted"],
        reason=summary["refusal"],
    )


def refused(
    before: Sequence[EvaluationRow], after: Sequence[EvaluationRow], settings: PromotionSettings
) -> str:
    """Why the new policy is not promoted; empty if it is."""
    before, after = answered_by_both(before, after)
    old, new = pass_at_1(before), pass_at_1(after)
    if new < old - settings.tolerance:
        return f"validation pass@1 fell from {old:.3f} to {new:.3f}"
    truncated = sum(row.verdict is Verdict.TRUNCATED for row in after) / len(after)
    if truncated > settings.max_truncated_share:
        return f"{truncated:.0%} of its validation answers ran into the token limit"
    return ""


def pass_at_1(rows: Sequence[EvaluationRow]) -> float:
    """Share of greedy answers that are correct."""
    return mean_at_k([row.verdict is Verdict.CORRECT for row in rows])


def _training_summary(settings: RunSettings, trained: Trained) -> TrainingSummary:
    result = trained.result
    history = result["history"]
    tokens, seconds, computed, padding = (
        sum(step[name] for step in history) for name in ("tokens", "seconds", "computed", "padding")
    )
    return {
        "pairs": result["pairs"],
        "steps": result["steps"],
        "zero_stage": settings.training.zero_stage_on(settings.trainer),
        "workers": settings.trainer.workers,
        "tokens_per_second": round(tokens / seconds, 3),
        "padding": round(padding / computed, 4),
        "loss_first": result["loss_first"],
        "loss_last": result["loss_last"],
        "reward_accuracy": result["reward_accuracy"],
        "seconds": round(trained.manifests[-1].report.seconds, 3),
    }


def _statistics(settings: RunSettings) -> dict[str, Any]:
    return {"seed": settings.seed, "resamples": settings.evaluation.bootstrap}


def _count(seconds: Seconds, manifest: Manifest) -> None:
    seconds[manifest.report.phase.partition("/")[0]] += manifest.report.seconds
