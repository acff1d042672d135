"""The phases that train: reference log-probs, then DPO; each is skipped once committed."""

from dataclasses import asdict, dataclass
from typing import Any

from sphere_ray.engines.model_source import model_fingerprint
from sphere_ray.errors import CollapseError
from sphere_ray.records import ModelRef, PhaseReport
from sphere_ray.reporting.progress import PhaseTracker
from sphere_ray.runs import storage
from sphere_ray.runs.manifest import Manifest
from sphere_ray.runs.session import Session
from sphere_ray.runs.stopwatch import stopwatch
from sphere_ray.runs.store import PhaseDir
from sphere_ray.training.messages import ReferenceRequest, StepMetrics, TrainRequest
from sphere_ray.training.trainer import compute_reference, train

COLLAPSED = "collapsed"
_STATE = "_train"
"""Ray Train's checkpoints, inside the phase's directory until it is committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What an iteration's training came to; `model` is None where a guard stopped it."""

    model: ModelRef | None
    result: dict[str, Any]
    manifest: Manifest


def reference(
    session: Session, pairs: PhaseDir, model: ModelRef, iteration: int
) -> tuple[PhaseDir, Manifest]:
    """Log-probs of the pairs under the reference model.

    Raises:
        TooFewPairsError: fewer pairs than `training.min_pairs` can be trained on.
        TrainingError: the workers kept failing.
    """
    upstream = {"pairs": pairs.fingerprint, "model": model.fingerprint}
    phase = session.store.phase(iteration, "reference", upstream)
    if (manifest := phase.committed()) is not None:
        return phase, manifest
    session.make_room()
    phase.begin()
    total = storage.count_rows(pairs.path)
    request = ReferenceRequest(
        model_dir=model.path,
        pairs_path=pairs.path,
        output_dir=phase.path,
        storage_path=f"{phase.path}/{_STATE}",
        name="reference",
        settings=session.settings.training,
        placement=session.settings.trainer,
    )
    with session.board.phase("reference", total, "pairs", iteration=iteration) as tracker:
        result = compute_reference(request, lambda done, _: tracker.update(done=done))
    report = PhaseReport(
        phase=phase.name,
        fingerprint=phase.fingerprint,
        rows_in=total,
        rows_out=result.pairs,
        dropped=dict(result.dropped),
        tokens=result.tokens,
        seconds=result.seconds,
    )
    manifest = phase.commit(report)
    storage.remove(request.storage_path)
    return phase, manifest


def learn(
    session: Session, inputs: PhaseDir, policy: ModelRef, iteration: int, learning_rate: float
) -> Trained:
    """DPO on a reference table from `policy`; a killed run continues at its last checkpoint.

    Raises:
        TrainingError: the workers kept failing.
    """
    upstream = {
        "reference": inputs.fingerprint,
        "policy": policy.fingerprint,
        "learning_rate": learning_rate,
    }
    phase = session.store.phase(iteration, "policy", upstream)
    manifest = phase.committed()
    if manifest is None:
        manifest = _train(session, phase, inputs, policy, learning_rate, iteration)
    result = storage.read_json(f"{phase.path}/training.json")
    if COLLAPSED in manifest.report.dropped:
        return Trained(model=None, result=result, manifest=manifest)
    path = f"{phase.path}/model"
    model = ModelRef(
        path=path,
        iteration=iteration + 1,
        fingerprint=model_fingerprint(path),
        parent=policy.fingerprint,
    )
    return Trained(model=model, result=result, manifest=manifest)


def _train(
    session: Session,
    phase: PhaseDir,
    inputs: PhaseDir,
    policy: ModelRef,
    learning_rate: float,
    iteration: int,
) -> Manifest:
    session.make_room()
    phase.begin(resumable=True)
    request = TrainRequest(
        model_dir=policy.path,
        reference_path=inputs.path,
        output_dir=f"{phase.path}/model",
        storage_path=f"{phase.path}/{_STATE}",
        name="dpo",
        seed=session.settings.seed,
        learning_rate=learning_rate,
        settings=session.settings.training,
        placement=session.settings.trainer,
    )
    pairs, dropped = storage.count_rows(inputs.path), {}
    try:
        with (
            stopwatch(phase) as seconds,
            session.board.phase("training", 0, "steps", iteration=iteration) as tracker,
        ):
            result = train(request, lambda step: _show(tracker, step))
        outcome = asdict(result)
        if result.restarted_because:
            session.board.say(f"training started anew: {result.restarted_because}")
    except CollapseError as error:
        session.board.say(f"training was stopped: {error}")
        outcome, dropped = {"error": str(error)}, {COLLAPSED: pairs}
    storage.write_json(outcome, f"{phase.path}/training.json")
    report = PhaseReport(
        phase=phase.name,
        fingerprint=phase.fingerprint,
        rows_in=pairs,
        rows_out=0 if dropped else pairs,
        dropped=dropped,
        seconds=seconds(),
    )
    manifest = phase.commit(report)
    storage.remove(request.storage_path)
    return manifest


def _show(tracker: PhaseTracker, step: StepMetrics) -> None:
    tracker.update(
        done=step.step,
        total=step.steps,
        loss=step.loss,
        accuracy=step.reward_accuracy,
        margin=step.margin,
    )
