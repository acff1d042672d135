"""A maker of steps that hands out what a test scripts, for the loop's tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.records import (
    EvaluationRow,
    FinishReason,
    ModelRef,
    PhaseReport,
    Problem,
    Rollout,
    Verdict,
)
from sphere_ray.runs.directory import FinishedStep
from sphere_ray.runs.manifest import Manifest
from sphere_ray.runs.step import Made, Step
from sphere_ray.runs.steps.average import AverageStep
from sphere_ray.runs.steps.evaluation import EvaluationStep
from sphere_ray.runs.steps.policy import PolicyStep
from sphere_ray.runs.steps.problems import ProblemsStep
from sphere_ray.runs.steps.reference import ReferenceStep
from sphere_ray.runs.steps.reward_model import RewardModelStep
from sphere_ray.runs.steps.rollouts import RolloutsStep
from sphere_ray.schema import to_table

BASE = ModelRef(path="base", iteration=0, fingerprint="base")
SOURCES = {split: {"source": f"file:{split}"} for split in ("train", "validation", "test")}
N = 10
"""Problems of a batch; every figure of a script is of so many."""
ONE = {"candidates": ["trained"], "max_loss": 1.0, "first_look": N}
"""One candidate, and no bound: ten problems exclude nothing."""


def answers(
    right: int, truncated: int = 0, failed: int = 0, *, batch: str = "1", num_tokens: int = 1
) -> list[EvaluationRow]:
    verdicts = [Verdict.CORRECT] * right + [Verdict.TRUNCATED] * truncated
    verdicts += [Verdict.WRONG] * (N - len(verdicts))
    return [
        EvaluationRow(
            problem_id=f"{batch}/{index}",
            family="ages",
            level=1,
            response="",
            answer=None,
            verdict=verdict,
            num_tokens=num_tokens,
            finish_reason=FinishReason.ANSWER,
            error="too long" if index >= N - failed else None,
        )
        for index, verdict in enumerate(verdicts)
    ]


def problem(index: int) -> Problem:
    family = ("ages", "trains")[index % 2]
    return Problem(problem_id=f"{index:03}", question="?", answer="1", source="s", family=family)


@dataclass
class Script:
    """What comes of each iteration, and what the loop asked for."""

    after: list[list[EvaluationRow]]
    answer: Callable[[EvaluationStep], list[EvaluationRow]] | None = None
    """The answers to each evaluation, in the place of `after`."""
    num_problems: int = 0
    pairs: int = 4
    collapses: tuple[str, ...] = ()
    unfit: tuple[int, ...] = ()
    routes: tuple[tuple[str, ...], ...] = ()
    """Outcomes of self-correction, of each iteration."""
    handover_refusals: list[str | None] = field(default_factory=list)
    asked: list[Step] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    folder: Path = Path()

    def make(self, step: Step) -> Made:
        self.asked.append(step)
        path = self.folder / f"{len(self.asked)}"
        rows, dropped = self.pairs, {}
        if isinstance(step, EvaluationStep):
            found = self.answers_to(step)
            storage.write_table(to_table(found, EvaluationRow), f"{path}/part.parquet")
        if isinstance(step, RolloutsStep) and self.routes:
            found = [
                Rollout(
                    problem=problem(index),
                    route=("self_generation:both_wrong", outcome),
                    stage_tokens=(1, 1),
                )
                for index, outcome in enumerate(self.routes[step.iteration or 0])
            ]
            storage.write_table(to_table(found, Rollout), f"{path}/part.parquet")
        if isinstance(step, ReferenceStep):
            rows = 0 if step.iteration in self.unfit else self.pairs * (1 + len(step.kept))
        if isinstance(step, ProblemsStep) and self.num_problems:
            table = to_table([problem(index) for index in range(self.num_problems)], Problem)
            storage.write_table(table, f"{path}/validation/part.parquet")
        if isinstance(step, PolicyStep | AverageStep):
            if step.place in self.collapses:
                dropped = {"collapsed": 4}
                storage.write_json({"error": "it fell"}, f"{path}/training.json")
            else:
                storage.write_text("", f"{path}/model/weights")
        if isinstance(step, RewardModelStep):
            assert step.iteration is not None
            refusal = self.handover_refusals[step.iteration]
            storage.write_json({"held_out": None, "refusal": refusal}, f"{path}/outcome.json")
            storage.write_text("", f"{path}/model/weights")
        report = PhaseReport(
            phase=step.name,
            fingerprint="f",
            rows_in=4,
            rows_out=rows,
            seconds=1.0,
            dropped=dropped,
        )
        manifest = Manifest(
            step=step.place,
            fingerprint="f",
            output=f"output of {step.place}",
            identity={},
            inputs={},
            report=report,
            versions={},
            code="",
            created="",
        )
        finished = FinishedStep(path=str(path), manifest=manifest)
        return Made(name=step.name, path=str(path), finished=finished)

    def answers_to(self, step: EvaluationStep) -> list[EvaluationRow]:
        if self.answer is not None:
            return self.answer(step)
        return answers(5) if step.iteration is None else self.after[step.iteration]

    def beside(self) -> "Script":
        return self

    def together(self, works: Sequence[Callable[[], object]]) -> None:
        for work in works:
            work()

    def log(self, text: str) -> None:
        self.said.append(text)

    def record(self, event: str, **fields: Any) -> None:
        pass

    def finish_training(self, iteration: int) -> None:
        self.finished.append(iteration)

    def every(self, kind: type[Any]) -> list[Any]:
        """The steps of a kind, in the order asked for."""
        return [step for step in self.asked if isinstance(step, kind)]

    @property
    def policies(self) -> list[str]:
        return [step.policy.fingerprint for step in self.every(RolloutsStep)]

    @property
    def rates(self) -> list[float]:
        return [step.learning_rate for step in self.every(PolicyStep)]


def settings_of(**changes: Any) -> RunSettings:
    training = {"learning_rate": 1.0, "batch_size": 1} | changes.pop("training", {})
    engines = {"policy": {"path": "m"}, "policy_pool": {"kv_cache_gib": 1}}
    return RunSettings.model_validate(
        {
            "name": "t",
            "run_dir": "unused",
            "problems": SOURCES,
            "engines": engines | changes.pop("engines", {}),
            "training": training,
            "iterations": 3,
            "promotion": ONE | changes.pop("promotion", {}),
        }
        | changes
    )


def policy_of(iteration: int) -> str:
    return f"output of iter-{iteration:03}/policy"
