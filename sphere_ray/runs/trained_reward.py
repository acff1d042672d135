"""The phase that trains a reward model of one's own from recorded rollouts, and judges it."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sphere_ray.config.scorers import HandoverSettings, TrainedScorerSettings
from sphere_ray.engines.model_source import model_fingerprint, quietly, resolve_model
from sphere_ray.engines.reward_shape import require_layers, require_step_tags
from sphere_ray.errors import CollapseError, RunDirectoryError, TooFewLabelsError
from sphere_ray.records import LabelledStep, ModelRef, PhaseReport
from sphere_ray.reporting.reward_summary import TrainedRewardSummary
from sphere_ray.reward.labels import labelled_steps, split_by_problem
from sphere_ray.reward.quality import handover_refusal, quality, shape_scores
from sphere_ray.runs import storage
from sphere_ray.runs.manifest import Manifest
from sphere_ray.runs.phases import read_rollouts
from sphere_ray.runs.session import Session
from sphere_ray.runs.stopwatch import stopwatch
from sphere_ray.runs.store import PhaseDir
from sphere_ray.schema import to_table
from sphere_ray.training.messages import RewardTrainRequest
from sphere_ray.training.trainer import train_reward_model

PHASE = "reward"
OUTCOME = "outcome.json"
TRAINING_STEPS = "steps.parquet"
_STATE, _BASE = "_train", "_base"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Committed rollouts, and whether the trained model scored them."""

    path: str
    fingerprint: str
    trained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedReward:
    """The trained reward model (None: too few labels, or it diverged) and its figures."""

    model: ModelRef | None
    summary: TrainedRewardSummary
    manifest: Manifest


def train_reward(
    session: Session,
    trained: TrainedScorerSettings,
    recorded: Sequence[Recorded],
    base: ModelRef,
    iteration: int | None,
) -> TrainedReward:
    """Train on every step the rollouts recorded a label for; skipped once committed.

    Raises:
        ModelError: the base cannot become a reward model.
        RunDirectoryError: the rollouts recorded no labels.
        TrainingError: the workers kept failing.
    """
    base_dir = reward_base_dir(trained, base)
    upstream = {f"rollouts-{place}": each.fingerprint for place, each in enumerate(recorded)}
    upstream["base"] = model_fingerprint(base_dir)
    phase = session.store.phase(iteration, PHASE, upstream)
    manifest = phase.committed()
    if manifest is None:
        manifest = _train(session, trained, recorded, phase, base_dir, iteration)
    outcome: TrainedRewardSummary = storage.read_json(f"{phase.path}/{OUTCOME}")
    model = None
    if outcome["held_out"] is not None:
        path = f"{phase.path}/model"
        model = ModelRef(
            path=path, iteration=(iteration or 0) + 1, fingerprint=model_fingerprint(path)
        )
    return TrainedReward(model=model, summary=outcome, manifest=manifest)


def reward_base_dir(trained: TrainedScorerSettings, policy: ModelRef) -> str:
    """Where the model lies that the reward model begins as.

    Raises:
        ModelError: it is not there, lacks something, or cannot become one of this shape.
    """
    path = policy.path if trained.base == "policy" else resolve_model(trained.base)
    if trained.shape == "step_tags":
        require_step_tags(Path(path))
    if trained.layers is not None:
        require_layers(Path(path), trained.layers, trained.shape)
    return path


def _train(
    session: Session,
    trained: TrainedScorerSettings,
    recorded: Sequence[Recorded],
    phase: PhaseDir,
    base_dir: str,
    iteration: int | None,
) -> Manifest:
    steps = _labels(recorded)
    train, held_out = split_by_problem(
        steps, share=trained.training.held_out, seed=session.settings.seed
    )
    session.make_room()
    phase.begin(resumable=True)
    storage.write_table(to_table(train, LabelledStep), f"{phase.path}/{TRAINING_STEPS}")
    storage.write_table(to_table(held_out, LabelledStep), f"{phase.path}/held_out.parquet")
    with (
        stopwatch(phase) as seconds,
        session.board.phase(PHASE, 0, "steps", iteration=iteration) as tracker,
    ):
        _prepare(trained, base_dir, f"{phase.path}/{_BASE}", session.settings.seed)
        request = _request(session, trained, phase)
        try:
            result = train_reward_model(
                request,
                lambda step: tracker.update(done=step.step, total=step.steps, loss=step.loss),
            )
            scores = pq.read_table(request.scores_path)["score"].to_pylist()
            counts = {
                "problems": result.problems,
                "labels": result.labels,
                "steps": result.steps,
                "loss_first": result.loss_first,
                "loss_last": result.loss_last,
            }
            outcome = counts | judge(train, held_out, scores, trained.schedule)
        except (CollapseError, TooFewLabelsError) as error:
            outcome = _untrained(train, str(error))
    storage.write_json(outcome, f"{phase.path}/{OUTCOME}")
    report = PhaseReport(
        phase=phase.name,
        fingerprint=phase.fingerprint,
        rows_in=len(steps),
        rows_out=outcome["labels"],
        seconds=seconds(),
    )
    manifest = phase.commit(report)
    for name in (_STATE, _BASE):
        storage.remove(f"{phase.path}/{name}")
    return manifest


def judge(
    train: Sequence[LabelledStep],
    held_out: Sequence[LabelledStep],
    scores: Sequence[float | None],
    settings: HandoverSettings,
) -> dict[str, Any]:
    """Figures on the held-out steps that could be scored, and why the model must not take over."""
    scored = [(step, s) for step, s in zip(held_out, scores, strict=True) if s is not None]
    if not scored:
        return {"held_out": None, "refusal": "no held-out step could be scored"}
    steps, given = [step for step, _ in scored], [score for _, score in scored]
    figures = quality(steps, given, baseline=shape_scores(train, steps))
    return {"held_out": figures, "refusal": handover_refusal(figures, settings) or None}


def _untrained(train: Sequence[LabelledStep], refusal: str) -> dict[str, Any]:
    return {
        "problems": len({step.problem_id for step in train}),
        "labels": len(train),
        "steps": 0,
        "loss_first": None,
        "loss_last": None,
        "held_out": None,
        "refusal": refusal,
    }


def _labels(recorded: Sequence[Recorded]) -> list[LabelledStep]:
    steps: list[LabelledStep] = []
    for each in recorded:
        for rollout in read_rollouts(each.path):
            steps += labelled_steps(rollout, trained=each.trained)
    if not steps:
        places = ", ".join(each.path for each in recorded)
        raise RunDirectoryError(
            f"{places}: no step has a recorded value, so there is nothing to train a reward model "
            "on; roll out with method.search.strategy: pruned_steps"
        )
    return steps


def _prepare(trained: TrainedScorerSettings, base: str, target: str, seed: int) -> None:
    """Make the untrained reward model; it depends on the base, `trained` and the seed alone."""
    reward_base = importlib.import_module("sphere_ray.engines.reward_base")  # it imports torch
    storage.remove(target)
    with quietly():
        if trained.shape == "classifier":
            reward_base.prepare_classifier(
                Path(base), Path(target), seed=seed, layers=trained.layers
            )
        else:
            reward_base.prepare_step_tags(
                Path(base),
                Path(target),
                step_tag=trained.step_tag,
                seed=seed,
                layers=trained.layers,
            )


def _request(
    session: Session, trained: TrainedScorerSettings, phase: PhaseDir
) -> RewardTrainRequest:
    return RewardTrainRequest(
        model_dir=f"{phase.path}/{_BASE}",
        steps_path=f"{phase.path}/{TRAINING_STEPS}",
        held_out_path=f"{phase.path}/held_out.parquet",
        output_dir=f"{phase.path}/model",
        scores_path=f"{phase.path}/scores.parquet",
        storage_path=f"{phase.path}/{_STATE}",
        name=PHASE,
        seed=session.settings.seed,
        trained=trained,
        placement=session.settings.trainer,
    )
