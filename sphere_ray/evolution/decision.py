"""Which of an iteration's candidates replaces the policy, on how many validation problems."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.method.decision import Decision, Ruling, decide, looks
from sphere_ray.problems.families import operations_of
from sphere_ray.records import EvaluationRow, ModelRef, Problem
from sphere_ray.runs.step import Made, Step
from sphere_ray.runs.steps.evaluation import EvaluationStep
from sphere_ray.runs.steps.problems import ValidationStep
from sphere_ray.schema import from_table

SPLIT = "validation"


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A model, and where its answers lie: `evaluation/base`, `iter-000/evaluation/trained`."""

    model: ModelRef
    name: str = "base"
    iteration: int | None = None


@dataclass(kw_only=True)
class Trial:
    """What became of one candidate: who answered what, and what was decided.

    `made` is the output that holds its model; where training collapsed there is none, and no
    answers. `fresh` of the problems had decided nothing before. `refusal` is None where it was
    promoted.
    """

    candidate: str
    made: Made
    before: list[Made] = field(default_factory=list)
    after: list[Made] = field(default_factory=list)
    looks: int = 0
    fresh: int = 0
    decision: Decision | None = None
    refusal: str | None = None


class Validation:
    """The validation problems in batches, each with a like share of every family.

    A promoted model won on the batches that were looked at, so its score on them is too good.
    Each iteration therefore begins with the batch behind those: if the split has several, policy
    and candidate first meet on problems that have decided nothing. A split of one batch, and a
    look at all of a split, count the policy's luck in its favour; `fresh` says how much.
    """

    def __init__(self, settings: RunSettings, problems: Made, make: Callable[[Step], Made]) -> None:
        """Deal the problems; where they are only planned there is one batch of unknown ones."""
        self._settings, self._make = settings, make
        found = list[Problem]()
        if problems.finished is not None:
            tables = storage.tables(f"{problems.path}/{SPLIT}")
            found = [each for table in tables for each in from_table(table, Problem)]
        found.sort(key=lambda problem: (problem.family or "", problem.problem_id))
        number = max(len(found) // settings.promotion.first_look, 1)
        self.batches = [tuple(found[first::number]) for first in range(number)]
        self._first = 0
        self._decided = set[int]()

    def answers(self, contestant: Contestant, place: int = 0) -> Made:
        """The contestant's answers to a batch; `place` counts from the iteration's first one."""
        index = (self._first + place) % len(self.batches)
        batch = ValidationStep(label=str(index + 1), problems=self.batches[index])
        return self._make(
            EvaluationStep(
                settings=self._settings,
                problems=self._make(batch),
                split=SPLIT,
                model=contestant.model,
                iteration=contestant.iteration,
                label=contestant.name + (f"-{index + 1}" if index else ""),
            )
        )

    def compare(
        self, policy: Contestant, candidate: Contestant, trial: Trial, attempt: int
    ) -> None:
        """Let both answer batches until a look decides; what is only planned is promoted.

        `attempt` counts the iteration's candidates from 1.
        """
        order = looks(len(self.batches))
        for trial.looks, size in enumerate(order, 1):
            for contestant, answers in ((candidate, trial.after), (policy, trial.before)):
                for place in range(len(answers), size):
                    answers.append(self.answers(contestant, place))
            if any(made.finished is None for made in (*trial.before, *trial.after)):
                return
            decision = trial.decision = decide(
                rows(trial.before),
                rows(trial.after),
                self._settings.promotion,
                attempt=attempt,
                last=size == len(self.batches),
                groups_of=groups_of,
            )
            if decision.ruling is not Ruling.LOOK_ON:
                break
        indices = [(self._first + place) % len(self.batches) for place in range(len(trial.after))]
        trial.fresh = sum(len(self.batches[i]) for i in indices if i not in self._decided)
        if decision.ruling is Ruling.REFUSE:
            trial.refusal = decision.reason

    def close_iteration(self, trials: Sequence[Trial]) -> None:
        """Let the next iteration begin behind the batches that its trials looked at."""
        number = len(self.batches)
        seen = max((len(trial.after) for trial in trials), default=0)
        self._decided |= {(self._first + place) % number for place in range(seen)}
        self._first = (self._first + seen) % number


def groups_of(row: EvaluationRow) -> set[str]:
    """Groups of problems none of which may fall: the family, and the operations it takes."""
    return {name for name in (row.family, operations_of(row.family, row.level)) if name}


def rows(answers: Sequence[Made]) -> list[EvaluationRow]:
    """All rows of evaluations that are made."""
    return [row for made in answers if made.finished for row in made.finished.rows(EvaluationRow)]
