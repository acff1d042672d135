"""The loop: which steps an iteration asks for, and which policy goes on.

`_Loop.evolve` reads from top to bottom. It asks for each step: an executor makes it, a planner
only says what it would do.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.grading import check_verifier
from sphere_ray.records import EvaluationRow, ModelRef
from sphere_ray.reporting.rollout_summary import corrections
from sphere_ray.reporting.summary import RunSummary
from sphere_ray.rollout.roles import base_model, roles_of
from sphere_ray.runs.decision import refusal
from sphere_ray.runs.directory import MODEL, SUMMARY, Run, WritableRun, require_usable
from sphere_ray.runs.outcome import Iteration, Outcome, summarise
from sphere_ray.runs.session import Session
from sphere_ray.runs.step import Executor, Made, Plan, Planner, Step
from sphere_ray.runs.steps.evaluation import EvaluationStep, HeldOutStep
from sphere_ray.runs.steps.pairs import PairsStep
from sphere_ray.runs.steps.policy import COLLAPSED, OUTCOME, PolicyStep
from sphere_ray.runs.steps.problems import ProblemsStep
from sphere_ray.runs.steps.reference import ReferenceStep
from sphere_ray.runs.steps.reward_model import (
    Recorded,
    RewardModelStep,
    handover,
    reward_base_dir,
)
from sphere_ray.runs.steps.rollouts import RolloutsStep

UNKNOWN = ""
"""The fingerprint of a model that is only planned."""


@dataclass(kw_only=True)
class _State:
    """Where the loop stands: the policy and its validation answers, the rate, refusals in a row."""

    policy: ModelRef
    validation: Made
    learning_rate: float
    refusals: int = 0
    reward_model: ModelRef | None = None
    recorded: list[Recorded] = field(default_factory=list)
    iterations: list[Iteration] = field(default_factory=list)


def run(settings: RunSettings, origin: str | None = None) -> RunSummary:
    """Run or continue the loop; returns (and writes) the summary.

    `origin` is another run, whose finished steps count as made here (`sphere run --from RUN`).

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    start = Run.open(origin) if origin else None
    with WritableRun.create(settings.run_dir, settings) as directory, Session(run=directory) as at:
        executor = Executor(at, start)
        outcome = _Loop(settings=settings, steps=executor, session=at).evolve()
        directory.note_current([plan.path for plan in executor.plans], all_of_them=True)
        summary = summarise(settings, outcome, [plan.path for plan in executor.plans])
        storage.write_json(summary, directory.file(SUMMARY))
        return summary


def plan(settings: RunSettings, origin: str | None = None) -> list[Plan]:
    """What `run` would do about each step: reuse, continue or make, and why.

    Nothing is written and no engine starts. What depends on steps that are not made yet is planned
    as if every new policy were promoted.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    start = Run.open(origin) if origin else None
    path = storage.resolve(settings.run_dir)
    require_usable(path, settings)
    planner = Planner(Run(path), start)
    _Loop(settings=settings, steps=planner).evolve()
    return planner.plans


@dataclass(kw_only=True)
class _Loop:
    """The loop over its steps; a plan of it has no session."""

    settings: RunSettings
    steps: Planner
    session: Session | None = None

    def evolve(self) -> Outcome:
        """Problems, the base model's answers, iterations, and the final model's answers."""
        settings, made = self.settings, list[Made]()

        def make(step: Step) -> Made:
            made.append(self.steps.make(step))
            return made[-1]

        base = base_model(settings.engines)
        self._check_models(base)
        problems = make(ProblemsStep(settings=settings, policy=base))
        common: Any = {"settings": settings, "problems": problems}
        validation = make(EvaluationStep(label="base", split="validation", model=base, **common))
        base_test = make(HeldOutStep(label="base", split="test", model=base, **common))
        state = _State(
            policy=base, validation=validation, learning_rate=settings.training.learning_rate
        )
        for number in range(settings.iterations):
            if state.refusals >= settings.promotion.patience:
                self._log(f"{state.refusals} policies in a row were refused; the run ends")
                break
            self._iterate(make, problems, base, state, number)
            if self.session is not None:
                self.session.finish_training(number)
        final_test = base_test
        if state.policy != base:
            label = f"iter-{state.policy.iteration - 1:03}"
            final_test = make(HeldOutStep(label=label, split="test", model=state.policy, **common))
        return Outcome(
            base=base,
            base_test=base_test,
            final_test=final_test,
            steps=made,
            iterations=state.iterations,
        )

    def _iterate(
        self,
        make: Callable[[Step], Made],
        problems: Made,
        base: ModelRef,
        state: _State,
        number: int,
    ) -> None:
        settings = self.settings
        common: Any = {"settings": settings, "iteration": number}
        scored_by = self._reward_model_at(state, number)
        rollouts = make(
            RolloutsStep(
                problems=problems,
                policy=state.policy,
                trained=scored_by,
                then_trains=True,
                **{**common, "settings": self._correcting(state)},
            )
        )
        state.recorded.append(Recorded(rollouts=rollouts, trained=scored_by is not None))
        pairs = make(PairsStep(rollouts=rollouts, **common))
        this = Iteration(
            number=number,
            rollouts=rollouts,
            pairs=pairs,
            scored_by=scored_by,
            before=state.validation,
        )
        state.iterations.append(this)
        if settings.engines.scorer.trained is not None and number + 1 < settings.iterations:
            self._hand_over(make, base, state, this)
        anchor = base if settings.training.reference == "initial" else state.policy
        if too_few := self._too_few(pairs):
            return self._decide(state, this, None, too_few)
        reference = make(ReferenceStep(pairs=pairs, model=anchor, **common))
        if too_few := self._too_few(reference):
            return self._decide(state, this, None, too_few)
        this.policy = make(
            PolicyStep(
                reference=reference,
                policy=state.policy,
                learning_rate=state.learning_rate,
                **common,
            )
        )
        if collapse := _collapse(this.policy):
            state.learning_rate /= 2
            return self._decide(state, this, None, f"training collapsed: {collapse}")
        model = _model_of(this.policy, number)
        this.evaluation = make(
            EvaluationStep(problems=problems, split="validation", model=model, **common)
        )
        reason = self._refusal(this)
        if reason:
            state.learning_rate /= 2
        self._decide(state, this, model, reason)

    def _correcting(self, state: _State) -> RunSettings:
        """The settings, with all of self-correction if the last iteration showed that it pays."""
        last = state.iterations[-1].rollouts if state.iterations else None
        if last is None or last.finished is None:
            return self.settings
        return self.settings.after_corrections(*corrections(last.path))

    def _log(self, text: str) -> None:
        if self.session is not None:
            self.session.log(text)

    def _record(self, event: str, **fields: Any) -> None:
        if self.session is not None:
            self.session.record(event, **fields)

    def _check_models(self, base: ModelRef) -> None:
        """Notice a missing model or verifier now, not after an evaluation."""
        check_verifier(self.settings.grading)
        engines = self.settings.engines
        roles_of(engines, base)
        if engines.scorer.trained is not None:
            reward_base_dir(engines.scorer.trained, base)

    def _reward_model_at(self, state: _State, number: int) -> ModelRef | None:
        """The trained reward model, if one was accepted and the schedule lets it score by now."""
        trained = self.settings.engines.scorer.trained
        due = trained is not None and number >= trained.schedule.from_iteration
        return state.reward_model if due else None

    def _hand_over(
        self, make: Callable[[Step], Made], base: ModelRef, state: _State, this: Iteration
    ) -> None:
        """Train a reward model for the next iteration; it takes over if its figures hold."""
        trained = self.settings.engines.scorer.trained
        assert trained is not None
        this.reward = make(
            RewardModelStep(
                settings=self.settings,
                trained=trained,
                recorded=tuple(state.recorded),
                base=base,
                iteration=this.number,
            )
        )
        if this.reward.finished is None:
            state.reward_model = _planned_model(this.reward, this.number)
            return
        reason = handover(this.reward.path, trained.schedule)["refusal"]
        if reason is None:
            state.reward_model = this.reward.finished.model
        else:
            self._log(f"iteration {this.number}: the reward source stays ({reason})")
        self._record("handover", iteration=this.number, accepted=reason is None, reason=reason)

    def _too_few(self, made: Made) -> str | None:
        least = self.settings.training.min_pairs
        if made.finished is None or made.report.rows_out >= least:
            return None
        dropped = f"; dropped: {dict(made.report.dropped)}" if made.report.dropped else ""
        return (
            f"{made.report.rows_out} pairs are fewer than training.min_pairs ({least}){dropped}; "
            "roll out more problems"
        )

    def _refusal(self, this: Iteration) -> str | None:
        assert this.evaluation is not None
        before, after = this.before.finished, this.evaluation.finished
        if before is None or after is None:
            return None
        old, new = (list(each.rows(EvaluationRow)) for each in (before, after))
        return refusal(old, new, self.settings.promotion)

    def _decide(
        self, state: _State, this: Iteration, model: ModelRef | None, reason: str | None
    ) -> None:
        """Promote `model`, or keep the policy where there is a reason (or no model)."""
        this.refusal = reason
        if model is None or reason:
            state.refusals += 1
            halved = state.learning_rate < self.settings.training.learning_rate
            rate = f"; learning rate now {state.learning_rate:g}" if halved else ""
            self._log(f"iteration {this.number}: the policy stays ({reason}){rate}")
        else:
            assert this.evaluation is not None
            state.policy, state.validation, state.refusals = model, this.evaluation, 0
        self._record("decided", iteration=this.number, promoted=reason is None, reason=reason)


def _collapse(policy: Made) -> str | None:
    """Why the guard stopped training, if it did."""
    if policy.finished is None or COLLAPSED not in policy.report.dropped:
        return None
    return str(storage.read_json(f"{policy.path}/{OUTCOME}")["error"])


def _model_of(policy: Made, number: int) -> ModelRef:
    if policy.finished is None:
        return _planned_model(policy, number)
    assert policy.finished.model is not None
    return policy.finished.model


def _planned_model(made: Made, number: int) -> ModelRef:
    return ModelRef(path=f"{made.path}/{MODEL}", iteration=number + 1, fingerprint=UNKNOWN)
