"""The trials of `sphere tune`: candidates are trained and asked rung by rung, and compared."""

import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sphere_ray import storage
from sphere_ray.evolution.decision import Contestant, Validation, rows
from sphere_ray.method.halving import DEFAULT, Rung, Scores
from sphere_ray.reporting.tune_summary import (
    WARNING,
    TunedSummary,
    TuneSummary,
    common_scores,
    gain_summary,
)
from sphere_ray.runs.directory import MODEL
from sphere_ray.runs.step import Made, Step
from sphere_ray.runs.steps.policy import OUTCOME, PolicyStep


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Settings to try: what they change, and the whole training with them."""

    overrides: tuple[str, ...]
    training: PolicyStep

    def part(self, rung: Rung) -> PolicyStep:
        """The training with the rung's share of its epochs."""
        settings = self.training.settings
        epochs = rung.part_of(settings.training.epochs)
        training = settings.training.model_copy(update={"epochs": epochs})
        return replace(self.training, settings=settings.model_copy(update={"training": training}))


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A candidate on a rung; a training that collapsed has no answers and no score."""

    epochs: int
    trained: Made
    answers: tuple[Made, ...] = ()
    score: float | None = None
    n: int = 0

    @property
    def outcome(self) -> dict[str, Any]:
        """What the training says of itself."""
        found: dict[str, Any] = storage.read_json(f"{self.trained.path}/{OUTCOME}")
        return found


@dataclass(kw_only=True)
class Trials:
    """Tries candidates, and remembers what came of it.

    On each rung all are trained before the first is asked, so workers and engines change places
    once. Steps that two rungs or two candidates share are made once.
    """

    candidates: Sequence[Candidate]
    overrides: Sequence[str]
    """What all of them change in the settings of the run."""
    policy: Contestant
    validation: Validation
    make: Callable[[Step], Made]
    log: Callable[[str], None]
    _rungs: list[dict[int, _Trial]] = field(default_factory=list)

    def rung(self, rung: Rung) -> Scores:
        """Train the candidates of a rung, ask them, and return their scores."""
        batches = rung.part_of(len(self.validation.batches))
        steps = {number: self.candidates[number].part(rung) for number in rung.candidates}
        found = {
            number: _Trial(epochs=step.settings.training.epochs, trained=self.make(step))
            for number, step in steps.items()
        }
        asked = {number: self._answers(trial, batches) for number, trial in found.items()}
        alive = [number for number, answers in asked.items() if answers]
        scores, n = common_scores([rows(asked[number]) for number in alive])
        for number, score in zip(alive, scores, strict=True):
            found[number] = replace(found[number], answers=asked[number], score=score, n=n)
        self._rungs.append(found)
        self.log(
            f"rung {len(self._rungs)}: {len(found)} candidates on {n} problems, "
            f"{len(found) - len(alive)} collapsed; scores: "
            + (", ".join(f"{100 * score:.1f}%" for score in scores) or "none")
        )
        return {number: trial.score for number, trial in found.items()}

    def summary(self, chosen: int | None, known: Collection[str]) -> TuneSummary:
        """What became of each candidate; steps with `known` fingerprints have cost nothing."""
        asked = max(len(trial.answers) for trial in self._all())
        policy = [self.validation.answers(self.policy, place) for place in range(asked)]
        made = [each for trial in self._all() for each in (trial.trained, *trial.answers)]
        reports = [each.report for each in _distinct((*made, *policy))]
        reports = [report for report in reports if report.fingerprint not in known]
        trainings = sum(report.phase == PolicyStep.kind for report in reports)
        found = {number: self._summary(number, policy) for number in range(len(self.candidates))}
        reference = self.candidates[DEFAULT].training.reference
        return {
            "iteration": self.candidates[DEFAULT].training.iteration or 0,
            "pairs": reference.report.rows_out,
            "candidates": sorted(found.values(), key=_place),
            "arguments": None if chosen is None else self._arguments(chosen),
            "trainings": trainings,
            "evaluations": len(reports) - trainings,
            "seconds": round(sum(report.seconds for report in reports), 3),
            "warning": WARNING,
        }

    def _answers(self, trial: _Trial, batches: int) -> tuple[Made, ...]:
        finished = trial.trained.finished
        assert finished is not None
        if finished.model is None:
            return ()
        iteration = self.candidates[DEFAULT].training.iteration
        # The name that the run gives the answers of what it trained, which are then reused.
        contestant = Contestant(model=finished.model, name="trained", iteration=iteration)
        return tuple(self.validation.answers(contestant, place) for place in range(batches))

    def _summary(self, number: int, policy: Sequence[Made]) -> TunedSummary:
        rungs = [found for found in self._rungs if number in found]
        tried = [found[number] for found in rungs]
        last, default = tried[-1], rungs[-1].get(DEFAULT)
        answers = rows(last.answers)
        made = _distinct([each for trial in tried for each in (trial.trained, *trial.answers)])
        return {
            "settings": list(self.candidates[number].overrides),
            "rung": len(rungs),
            "epochs": last.epochs,
            "pair_accuracy": last.outcome.get("reward_accuracy"),
            "n": last.n,
            "score": last.score,
            "over_policy": gain_summary(rows(policy[: len(last.answers)]), answers),
            "over_default": gain_summary(rows(default.answers), answers)
            if default is not None and number != DEFAULT and default.answers and answers
            else None,
            "seconds": round(sum(each.report.seconds for each in made), 3),
            "collapsed": last.outcome.get("error"),
            "model": None if last.score is None else f"{last.trained.path}/{MODEL}",
        }

    def _arguments(self, number: int) -> str:
        changes = (*self.overrides, *self.candidates[number].overrides)
        return " ".join(f"--set {shlex.quote(each)}" for each in changes)

    def _all(self) -> list[_Trial]:
        return [trial for found in self._rungs for trial in found.values()]


def _distinct(made: Sequence[Made]) -> list[Made]:
    return list({each.path: each for each in made}.values())


def _place(found: TunedSummary) -> tuple[bool, int, float]:
    """Later rungs say more than earlier ones; nothing is said by what collapsed."""
    score = found["score"]
    return score is None, -found["rung"], -(score or 0.0)
