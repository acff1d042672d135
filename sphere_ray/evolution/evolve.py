"""The loop: which steps an iteration asks for, and which policy goes on.

`_Loop.evolve` reads from top to bottom. It asks for each step: an executor makes it, a planner
only says what it would do. What is done at once is in `schedule.py`.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial

from sphere_ray import storage
from sphere_ray.benchmarks.named import asked, names_of
from sphere_ray.config import RunSettings
from sphere_ray.config.placement import evaluated
from sphere_ray.evolution.decision import Contestant, Validation
from sphere_ray.evolution.lessons import Author, Ground, Lessons, Rolled, State
from sphere_ray.evolution.outcome import Outcome, summarise
from sphere_ray.evolution.schedule import next_turn
from sphere_ray.grading import check_verifier
from sphere_ray.method.audit import Audit
from sphere_ray.pools.roles import model_to_train, roles_of
from sphere_ray.records import ModelRef
from sphere_ray.reporting.events import Watcher
from sphere_ray.reporting.rollout_summary import corrections
from sphere_ray.reporting.summary import RunSummary
from sphere_ray.rollout.audits import load_audit
from sphere_ray.runs.directory import SUMMARY, Run, WritableRun, require_usable
from sphere_ray.runs.session import Session
from sphere_ray.runs.step import Executor, Made, Plan, Planner, Step
from sphere_ray.runs.steps.budget import BudgetStep
from sphere_ray.runs.steps.evaluation import BenchmarkStep, HeldOutStep
from sphere_ray.runs.steps.problems import BenchmarkProblemsStep, ProblemsStep
from sphere_ray.runs.steps.reward_model import reward_base_dir
from sphere_ray.runs.steps.rollouts import RolloutsStep


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
        steps = [plan.finished for plan in _in_order(executor.plans) if plan.finished]
        directory.note_current([step.path for step in steps], all_of_them=True)
        summary = summarise(settings, outcome, steps)
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
    _made: dict[str, Made] = field(default_factory=dict)

    def evolve(self) -> Outcome:
        """Problems, the base model's answers, iterations, and the final model's answers."""
        references = names_of(self.settings.evaluation.benchmarks)
        base = model_to_train(self.settings.engines)
        audit = self._check_models(base)
        ground = self._ground(base, references)
        rate = self.settings.training.learning_rate
        state = State(policy=Contestant(model=base), learning_rate=rate)
        lessons = Lessons(
            settings=self.settings, make=self._make, audit=audit, session=self.session
        )
        exams: list[tuple[Made, dict[str, Made]]] = []

        def lesson(number: int) -> None:
            if number:
                lessons.learn(ground, state, state.rolled[number - 1])
            else:
                ground.validation.answers(state.policy)
                exams.append(self._exam(ground, "base", base))

        self._take_turns(ground, state, lesson)
        if state.policy.iteration is not None:
            label = f"iter-{state.policy.iteration:03}"
            exams.append(self._exam(ground, label, state.policy.model))
        (base_test, first), (final_test, last) = exams[0], exams[-1]
        return Outcome(
            base=base,
            base_test=base_test,
            final_test=final_test,
            iterations=state.iterations,
            benchmarks={name: (first[name], last[name]) for name in ground.benchmarks},
        )

    def _take_turns(self, ground: Ground, state: State, lesson: Callable[[int], object]) -> None:
        """Roll out and learn, one after the other or at once, until nothing is left to do."""
        iterations, patience = self.settings.iterations, self.settings.promotion.patience
        learned = 0
        while turn := next_turn(
            self.settings.schedule,
            rolled=len(state.rolled),
            learned=learned,
            iterations=iterations,
            ended=state.refusals >= patience,
        ):
            works: list[Callable[[], object]] = []
            if (number := turn.rolls_out) is not None:
                # Chosen now: what the lesson decides meanwhile is for the next rollouts.
                scored_by = self._reward_model_at(state, number)
                author = Author(
                    policy=state.policy, scored_by=scored_by, promotions=state.promotions
                )
                works.append(partial(self._roll_out, ground, state, author))
            if turn.learns is not None:
                works.append(partial(lesson, turn.learns))
                learned += 1
            self.steps.together(works)
        if len(state.rolled) < iterations:
            text = f"{state.refusals} iterations in a row promoted nothing; the run ends"
            if self.session is not None:
                self.session.log(text)

    def _ground(self, base: ModelRef, references: Mapping[str, str]) -> Ground:
        settings = self.settings
        benchmarks = {
            name: self._make(
                BenchmarkProblemsStep(
                    label=f"{name}/problems", settings=settings, reference=reference
                )
            )
            for name, reference in references.items()
        }
        held_out = tuple(benchmarks.values())
        problems = self._make(ProblemsStep(settings=settings, policy=base, held_out=held_out))
        validation = Validation(evaluated(settings), problems, self._make)
        return Ground(base=base, problems=problems, benchmarks=benchmarks, validation=validation)

    def _exam(self, ground: Ground, label: str, model: ModelRef) -> tuple[Made, dict[str, Made]]:
        """A model's answers to the test problems, and to each benchmark, asked as that one is."""
        settings = evaluated(self.settings)
        test = HeldOutStep(
            label=label, settings=settings, problems=ground.problems, split="test", model=model
        )
        return self._make(test), {
            name: self._make(
                BenchmarkStep(
                    label=f"{name}/{label}",
                    settings=asked(settings, name),
                    problems=problems,
                    split=name,
                    model=model,
                )
            )
            for name, problems in ground.benchmarks.items()
        }

    def _make(self, step: Step, *, rolling: bool = False) -> Made:
        """Make a step once; rollouts have a partition of their own where they overlap."""
        if step.place not in self._made:
            steps = self._beside if rolling and self._overlapped else self.steps
            self._made[step.place] = steps.make(step)
        return self._made[step.place]

    @property
    def _overlapped(self) -> bool:
        return self.settings.schedule == "overlapped"

    @cached_property
    def _beside(self) -> Planner:
        return self.steps.beside()

    def _roll_out(self, ground: Ground, state: State, author: Author) -> None:
        """The next rollouts, by a policy that may be replaced meanwhile."""
        if not self._overlapped:
            ground.validation.answers(author.policy)  # its engine is that of the rollouts, too
        number, last = len(state.rolled), state.rolled[-1].rollouts if state.rolled else None
        step = RolloutsStep(
            settings=self._correcting(last),
            problems=self._budgeted(ground.problems, last, number),
            policy=author.policy.model,
            trained=author.scored_by,
            then_trains=not self._overlapped,
            iteration=number,
        )
        rollouts = self._make(step, rolling=True)
        state.rolled.append(Rolled(number=number, rollouts=rollouts, author=author))

    def _budgeted(self, problems: Made, last: Made | None, number: int) -> Made:
        """The problems, from the second iteration on with those marked that were settled."""
        if last is None or self.settings.method.search.settled_candidates is None:
            return problems
        return self._make(BudgetStep(rollouts=last, iteration=number), rolling=True)

    def _correcting(self, last: Made | None) -> RunSettings:
        """The settings, with all of self-correction if the last rollouts showed that it pays."""
        if last is None or last.finished is None:
            return self.settings
        return self.settings.after_corrections(*corrections(last.path))

    def _check_models(self, base: ModelRef) -> Audit:
        """Notice a missing model, verifier or audit now, not after an evaluation."""
        check_verifier(self.settings.grading)
        audit = load_audit(self.settings.method.pairs.audit)
        engines = self.settings.engines
        roles_of(engines, base)
        if engines.scorer.trained is not None:
            reward_base_dir(engines.scorer.trained, base)
        return audit

    def _reward_model_at(self, state: State, number: int) -> ModelRef | None:
        """The trained reward model, if one was accepted and the schedule lets it score by now."""
        trained = self.settings.engines.scorer.trained
        due = trained is not None and number >= trained.schedule.from_iteration
        return state.reward_model if due else None


def _in_order(plans: Sequence[Plan]) -> Iterator[Plan]:
    """The plans as one after the other needs them, in whatever order they were made."""
    rolls = {RolloutsStep.kind, BudgetStep.kind}
    rolled = deque(plan for plan in plans if plan.step.kind in rolls)
    for plan in (plan for plan in plans if plan.step.kind not in rolls):
        number = plan.step.iteration
        while rolled and number is not None and (rolled[0].step.iteration or 0) <= number:
            yield rolled.popleft()
        yield plan
    yield from rolled
