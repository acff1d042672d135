"""The phases that train, in one Ray Train job: reference log-probs, then DPO.

Each is skipped once committed; a killed job continues at its last checkpoint.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from sphere_ray.engines.model_source import model_fingerprint
from sphere_ray.errors import CollapseError
from sphere_ray.records import ModelRef, PhaseReport
from sphere_ray.reporting.progress import PhaseTracker
from sphere_ray.runs import storage
from sphere_ray.runs.cluster import can_train_ahead
from sphere_ray.runs.manifest import Manifest
from sphere_ray.runs.session import Session
from sphere_ray.runs.stopwatch import stopwatch
from sphere_ray.runs.store import PhaseDir
from sphere_ray.training.job import TrainingJob
from sphere_ray.training.messages import (
    ReferenceDone,
    ReferenceProgress,
    ReferenceRequest,
    StepMetrics,
    TrainRequest,
)

COLLAPSED = "collapsed"
_NAME = "dpo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What an iteration's training came to; `model` is None where a guard stopped it.

    The manifests are that of the reference, unless it was removed, and last that of the policy.
    """

    model: ModelRef | None
    result: dict[str, Any]
    manifests: tuple[Manifest, ...]


def learn(
    session: Session,
    pairs: PhaseDir,
    models: tuple[ModelRef, ModelRef],
    iteration: int,
    learning_rate: float,
    ahead: "Ahead | None" = None,
) -> Trained:
    """DPO on the pairs; `models` are the reference and the policy to begin with.

    `ahead` holds the workers that wait already, if there are any.

    Raises:
        TooFewPairsError: fewer pairs than `training.min_pairs` can be trained on.
        TrainingError: the workers kept failing.
    """
    anchor, policy = models
    table = session.store.phase(
        iteration, "reference", {"pairs": pairs.fingerprint, "model": anchor.fingerprint}
    )
    phase = session.store.phase(
        iteration,
        "policy",
        {
            "reference": table.fingerprint,
            "policy": policy.fingerprint,
            "learning_rate": learning_rate,
        },
    )
    if phase.committed() is None:
        settings = session.settings
        common: Any = {"settings": settings.training, "placement": settings.trainer}
        reference = ReferenceRequest(
            model_dir=anchor.path, pairs_path=pairs.path, output_dir=table.path, **common
        )
        request = TrainRequest(
            model_dir=policy.path,
            reference_path=table.path,
            output_dir=f"{phase.path}/model",
            seed=settings.seed,
            learning_rate=learning_rate,
            **common,
        )
        _Job(
            session=session,
            table=table,
            phase=phase,
            iteration=iteration,
            ahead=ahead.waiting() if ahead else None,
        ).run(reference, request)
    return _read_back(table, phase, policy, iteration)


def _state(session: Session, iteration: int) -> str:
    """Where Ray Train keeps its checkpoints until the policy is committed."""
    return session.store.path_of(f"iter-{iteration:03}/_train")


@dataclass(kw_only=True)
class Ahead:
    """Workers of an iteration's training that may start while the rollouts are on their way.

    A context manager: they are gone at its end, with or without work done.
    """

    session: Session
    iteration: int
    _job: TrainingJob | None = None

    def start(self) -> None:
        """Start them now, if the cluster has room for both and nothing was trained yet."""
        settings, store = self.session.settings, self.session.store
        begun = storage.exists(store.phase(self.iteration, "policy").path)
        if not begun and can_train_ahead(settings):
            state = _state(self.session, self.iteration)
            storage.remove(state)  # of workers that waited in an earlier session
            self._job = TrainingJob(_NAME, state, settings.trainer)
            self.session.events.record("workers_called", iteration=self.iteration)

    def waiting(self) -> TrainingJob | None:
        """The job that waits for work; one that failed meanwhile is none."""
        return self._job if self._job is not None and self._job.waits else None

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(self, *reason: Any) -> None:
        """End what was started; nothing remains of workers that got no work."""
        if self._job is None:
            return
        idle = self._job.waits
        self._job.__exit__(*reason)
        if idle:
            storage.remove(_state(self.session, self.iteration))


def _read_back(table: PhaseDir, phase: PhaseDir, policy: ModelRef, iteration: int) -> Trained:
    manifests = tuple(each for each in (table.committed(), phase.committed()) if each)
    result = storage.read_json(f"{phase.path}/training.json")
    if COLLAPSED in manifests[-1].report.dropped:
        return Trained(model=None, result=result, manifests=manifests)
    path = f"{phase.path}/model"
    model = ModelRef(
        path=path,
        iteration=iteration + 1,
        fingerprint=model_fingerprint(path),
        parent=policy.fingerprint,
    )
    return Trained(model=model, result=result, manifests=manifests)


@dataclass(kw_only=True)
class _Job:
    """Runs both phases, shows the present one, and commits each at its end."""

    session: Session
    table: PhaseDir
    phase: PhaseDir
    iteration: int
    ahead: TrainingJob | None
    _shown: ExitStack = field(default_factory=ExitStack)
    _tracker: PhaseTracker = field(init=False)
    _seconds: Callable[[], float] = field(init=False)

    def run(self, reference: ReferenceRequest, request: TrainRequest) -> None:
        first = reference if self.table.committed() is None else None
        self.session.make_room()
        state = _state(self.session, self.iteration)
        self.phase.begin(resumable=True)
        if first:
            self.table.begin()
        outcome: dict[str, Any]
        try:
            with (
                self._shown,
                self.ahead or TrainingJob(_NAME, state, request.placement) as job,
            ):
                if first:
                    self._show(self.table, storage.count_rows(first.pairs_path), "pairs")
                    self._on_message(job.run(first, self._on_message))
                else:
                    self._show(self.phase, 0, "steps")
                result = job.run(request, self._on_message)
            outcome = asdict(result)
            if result.restarted_because:
                self.session.board.log(f"training started anew: {result.restarted_because}")
        except CollapseError as error:
            self.session.board.log(f"training was stopped: {error}")
            outcome = {"error": str(error)}
        storage.write_json(outcome, f"{self.phase.path}/training.json")
        pairs = storage.read_json(f"{self.table.path}/reference.json")["pairs"]
        dropped = {COLLAPSED: pairs} if "error" in outcome else {}
        self._commit(self.phase, pairs, 0 if dropped else pairs, dropped=dropped)
        storage.remove(state)

    def _show(self, phase: PhaseDir, total: int, unit: str) -> None:
        name = "training" if phase is self.phase else phase.name
        self._seconds = self._shown.enter_context(stopwatch(phase))
        self._tracker = self._shown.enter_context(
            self.session.board.phase(name, total, unit, iteration=self.iteration)
        )

    def _on_message(self, message: ReferenceProgress | ReferenceDone | StepMetrics) -> None:
        if isinstance(message, StepMetrics):
            _show_step(self._tracker, message)
        elif self._tracker.snapshot.name != self.table.name:
            return  # workers that were started anew say again that the table is whole
        elif isinstance(message, ReferenceProgress):
            self._tracker.update(done=message.done)
        else:
            total = self._tracker.snapshot.total
            self._shown.close()
            self._commit(
                self.table,
                total,
                message.pairs,
                dropped=dict(message.dropped),
                tokens=message.tokens,
            )
            self._show(self.phase, 0, "steps")

    def _commit(self, phase: PhaseDir, rows_in: int, rows_out: int, **details: Any) -> None:
        report = PhaseReport(
            phase=phase.name,
            fingerprint=phase.fingerprint,
            rows_in=rows_in,
            rows_out=rows_out,
            seconds=self._seconds(),
            **details,
        )
        phase.commit(report)


def _show_step(tracker: PhaseTracker, step: StepMetrics) -> None:
    tracker.update(
        done=step.step,
        total=step.steps,
        loss=step.loss,
        accuracy=step.reward_accuracy,
        margin=step.margin,
    )
