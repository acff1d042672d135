"""The loop: which steps an iteration asks for, and which policy goes on.

`_Loop.evolve` reads from top to bottom. It asks for each step: an executor makes it, a planner
only says what it would do.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from sphere_ray import storage
from sphere_ray.benchmarks.named import asked, names_of
from sphere_ray.config import RunSettings
from sphere_ray.grading import check_verifier
from sphere_ray.method.audit import NOTHING, Audit
from sphere_ray.pools.roles import model_to_train, roles_of
from sphere_ray.records import ModelRef
from sphere_ray.reporting.events import Watcher
from sphere_ray.reporting.rollout_summary import corrections
from sphere_ray.reporting.summary import RunSummary
from sphere_ray.rollout.audits import load_audit
from sphere_ray.runs.decision import Contestant, Trial, Validation
from sphere_ray.runs.directory import MODEL, SUMMARY, Run, WritableRun, require_usable
from sphere_ray.runs.outcome import Iteration, Outcome, summarise
from sphere_ray.runs.session import Session
from sphere_ray.runs.step import Executor, Made, Plan, Planner, Step
from sphere_ray.runs.steps.average import AverageStep
from sphere_ray.runs.steps.budget import BudgetStep
from sphere_ray.runs.steps.evaluation import BenchmarkStep, HeldOutStep
from sphere_ray.runs.steps.pairs import PairsStep
from sphere_ray.runs.steps.policy import COLLAPSED, OUTCOME, HalfRateStep, PolicyStep
from sphere_ray.runs.steps.problems import BenchmarkProblemsStep, ProblemsStep
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
    """Where the loop stands: the policy, the rate, iterations in a row without a better one."""

    policy: Contestant
    learning_rate: float
    refusals: int = 0
    reward_model: ModelRef | None = None
    recorded: list[Recorded] = field(default_factory=list)
    iterations: list[Iteration] = field(default_factory=list)
    kept: tuple[Made, ...] = ()
    """Pairs by this policy that made nothing better yet; the next ones join them."""


def run(
    settings: RunSettings,
    origin: str | None = None,
    report: Callable[[str], object] | None = None,
    tracking: Callable[[Run], AbstractContextManager[Watcher]] | None = None,
) -> RunSummary:
    """Run or continue the loop; returns (and writes) the summary.

    `origin` is another run, whose finished steps count as made here (`sphere run --from RUN`).
    `commands.run` gives `report`, which writes a page about the run in a directory, and `tracking`.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    start = Run.open(origin) if origin else None
    with (
        WritableRun.create(settings.run_dir, settings) as directory,
        tracking(directory) if tracking else nullcontext(Watcher()) as watcher,
        Session(run=directory, watcher=watcher) as at,
    ):
        executor = Executor(at, start)
        outcome = _Loop(settings=settings, steps=executor, session=at).evolve()
        directory.note_current([plan.path for plan in executor.plans], all_of_them=True)
        summary = summarise(settings, outcome, [plan.path for plan in executor.plans])
        storage.write_json(summary, directory.file(SUMMARY))
        if report is not None:
            report(directory.path)
        watcher.finish(summary)
        return summary


def plan(settings: RunSettings, origin: str | None = None) -> list[Plan]:
    """What `run` would do about each step: reuse, continue or make, and why.

    Nothing is written and no engine starts. What depends on steps that are not made yet is planned
    as if every first candidate were promoted at the first look.

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
    _audit: Audit = NOTHING

    def evolve(self) -> Outcome:
        """Problems, the base model's answers, iterations, and the final model's answers."""
        settings, made = self.settings, dict[str, Made]()

        def make(step: Step) -> Made:
            if step.place not in made:
                made[step.place] = self.steps.make(step)
            return made[step.place]

        references = names_of(settings.evaluation.benchmarks)
        base = model_to_train(settings.engines)
        self._check_models(base)
        benchmarks = {
            name: make(
                BenchmarkProblemsStep(
                    label=f"{name}/problems", settings=settings, reference=reference
                )
            )
            for name, reference in references.items()
        }
        held_out = tuple(benchmarks.values())
        problems = make(ProblemsStep(settings=settings, policy=base, held_out=held_out))
        common: Any = {"settings": settings, "problems": problems, "split": "test"}
        validation = Validation(settings, problems, make)
        state = _State(policy=Contestant(model=base), learning_rate=settings.training.learning_rate)
        validation.answers(state.policy)
        base_test = make(HeldOutStep(label="base", model=base, **common))
        first_answers = self._answers(make, benchmarks, "base", base)
        for number in range(settings.iterations):
            if state.refusals >= settings.promotion.patience:
                self._log(f"{state.refusals} iterations in a row promoted nothing; the run ends")
                break
            validation.answers(state.policy)  # the engine of the rollouts is the policy's too
            this = self._iterate(make, problems, base, state, number)
            if this.refusal is None:
                self._try_candidates(make, validation, state, this)
            validation.close_iteration(this.trials)
            self._decide(state, this)
            if self.session is not None:
                self.session.finish_training(number)
        final, final_test, last_answers = state.policy, base_test, first_answers
        if final.iteration is not None:
            label = f"iter-{final.iteration:03}"
            final_test = make(HeldOutStep(label=label, model=final.model, **common))
            last_answers = self._answers(make, benchmarks, label, final.model)
        return Outcome(
            base=base,
            base_test=base_test,
            final_test=final_test,
            steps=list(made.values()),
            iterations=state.iterations,
            benchmarks={name: (first_answers[name], last_answers[name]) for name in benchmarks},
        )

    def _answers(
        self, make: Callable[[Step], Made], benchmarks: dict[str, Made], label: str, model: ModelRef
    ) -> dict[str, Made]:
        """A model's answers to each benchmark, asked as that benchmark is."""
        return {
            name: make(
                BenchmarkStep(
                    label=f"{name}/{label}",
                    settings=asked(self.settings, name),
                    problems=problems,
                    split=name,
                    model=model,
                )
            )
            for name, problems in benchmarks.items()
        }

    def _iterate(
        self,
        make: Callable[[Step], Made],
        problems: Made,
        base: ModelRef,
        state: _State,
        number: int,
    ) -> Iteration:
        """Everything up to the reference table; `refusal` says why there is none."""
        settings, policy = self.settings, state.policy.model
        common: Any = {"settings": settings, "iteration": number}
        scored_by = self._reward_model_at(state, number)
        rollouts = make(
            RolloutsStep(
                problems=self._budgeted(make, problems, state),
                policy=policy,
                trained=scored_by,
                then_trains=True,
                **{**common, "settings": self._correcting(state)},
            )
        )
        state.recorded.append(Recorded(rollouts=rollouts, trained=scored_by is not None))
        pairs = make(PairsStep(rollouts=rollouts, kept=state.kept, audit=self._audit, **common))
        this = Iteration(number=number, rollouts=rollouts, pairs=pairs, scored_by=scored_by)
        if state.kept:
            earlier = sum(each.report.rows_out for each in state.kept)
            self._log(f"iteration {number}: {earlier} pairs by the same policy join its own")
        state.iterations.append(this)
        if settings.engines.scorer.trained is not None and number + 1 < settings.iterations:
            self._hand_over(make, base, state, this)
        anchor = base if settings.training.reference == "initial" else policy
        this.refusal = self._too_few(pairs, *state.kept)
        if this.refusal is None:
            this.reference = make(
                ReferenceStep(pairs=pairs, kept=state.kept, model=anchor, **common)
            )
            this.refusal = self._too_few(this.reference)
        return this

    def _try_candidates(
        self, make: Callable[[Step], Made], validation: Validation, state: _State, this: Iteration
    ) -> None:
        """Make candidates from the same pairs and let them meet the policy, until one wins."""
        for name in self.settings.promotion.candidates:
            step = self._candidate(name, state, this)
            if step is None:
                continue
            trial = Trial(candidate=name, made=make(step))
            this.trials.append(trial)
            if collapse := _collapse(trial.made):
                trial.refusal = f"training collapsed: {collapse}"
            else:
                model = _model_of(trial.made, this.number)
                candidate = Contestant(model=model, name=name, iteration=this.number)
                validation.compare(state.policy, candidate, trial, attempt=len(this.trials))
                if trial.refusal is None:
                    state.policy = candidate
                    return
            self._log(f"iteration {this.number}: {name} is refused ({trial.refusal})")

    def _candidate(self, name: str, state: _State, this: Iteration) -> Step | None:
        """The step that makes a candidate; None for half the way to a training that collapsed."""
        policy, number = state.policy.model, this.number
        if name == "halfway":
            trained = this.trials[0]
            if not trained.after:
                return None
            return AverageStep(start=policy, trained=trained.made, iteration=number)
        assert this.reference is not None
        kind, share = (PolicyStep, 1.0) if name == "trained" else (HalfRateStep, 0.5)
        return kind(
            settings=self.settings,
            reference=this.reference,
            policy=policy,
            learning_rate=share * state.learning_rate,
            iteration=number,
        )

    def _budgeted(self, make: Callable[[Step], Made], problems: Made, state: _State) -> Made:
        """The problems, from the second iteration on with those marked that were settled."""
        last = state.iterations[-1] if state.iterations else None
        if last is None or self.settings.method.search.settled_candidates is None:
            return problems
        return make(BudgetStep(rollouts=last.rollouts, iteration=last.number + 1))

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
        """Notice a missing model, verifier or audit now, not after an evaluation."""
        check_verifier(self.settings.grading)
        self._audit = load_audit(self.settings.method.pairs.audit)
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
                audit=self._audit,
                iteration=this.number,
            )
        )
        if this.reward.finished is None:
            state.reward_model = _model_of(this.reward, this.number)
            return
        reason = handover(this.reward.path, trained.schedule)["refusal"]
        if reason is None:
            state.reward_model = _model_of(this.reward, this.number)
        else:
            self._log(f"iteration {this.number}: the reward source stays ({reason})")
        self._record("handover", iteration=this.number, accepted=reason is None, reason=reason)

    def _too_few(self, made: Made, *kept: Made) -> str | None:
        least = self.settings.training.min_pairs
        if made.finished is None:
            return None
        found = sum(each.report.rows_out for each in (made, *kept))
        if found >= least:
            return None
        dropped = f"; dropped: {dict(made.report.dropped)}" if made.report.dropped else ""
        return (
            f"{found} pairs are fewer than training.min_pairs ({least}){dropped}; "
            "roll out more problems"
        )

    def _decide(self, state: _State, this: Iteration) -> None:
        """Count refusals, and lower the rate to one that a candidate may win with."""
        winner = this.winner
        if winner is None:
            state.refusals += 1
            state.kept += (this.pairs,)
            this.refusal = this.refusal or this.refusals
        else:
            state.refusals, state.kept = 0, ()
        if this.trials and (winner is None or winner.candidate == "half_rate"):
            state.learning_rate /= 2
        if this.refusal is not None:
            halved = state.learning_rate < self.settings.training.learning_rate
            rate = f"; learning rate now {state.learning_rate:g}" if halved else ""
            self._log(f"iteration {this.number}: the policy stays ({this.refusal}){rate}")
        self._record(
            "decided",
            iteration=this.number,
            promoted=winner is not None,
            candidate=winner and winner.candidate,
            reason=this.refusal,
        )


def _collapse(policy: Made) -> str | None:
    """Why the guard stopped training, if it did."""
    if policy.finished is None or COLLAPSED not in policy.report.dropped:
        return None
    return str(storage.read_json(f"{policy.path}/{OUTCOME}")["error"])


def _model_of(made: Made, number: int) -> ModelRef:
    """The model that a step made, or will make."""
    mark = made.output or UNKNOWN
    return ModelRef(path=f"{made.path}/{MODEL}", iteration=number + 1, fingerprint=mark)
