"""A short run with made-up steps, which says to its trackers all that a real one says."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.records import EvaluationRow, ModelRef, PoolUse, Verdict
from sphere_ray.runs.directory import WritableRun
from sphere_ray.runs.session import Session
from sphere_ray.runs.step import Executor, Made, Result, Step, Work
from sphere_ray.schema import to_table
from sphere_ray.trackers import registry
from sphere_ray.trackers.feed import tracking
from sphere_ray.trackers.port import Tracker
from sphere_ray.training.messages import StepMetrics
from tests.runs.steps import settings

SECRET = "hunter2"
SUMMARY = {
    "test": {
        "n": 4,
        "base": {"pass@1": 0.25},
        "final": {"pass@1": 0.75},
        "difference": 0.5,
        "difference_ci95": [0.1, 0.9],
        "p_value": 0.04,
        "conclusion": "this run alone proves a gain",
    }
}
USE = PoolUse(
    name="policy-1a2b",
    replicas=2,
    seconds=10.0,
    busy_s=15.0,
    generated_tokens=70,
    prefix_queries=8,
    prefix_hits=6,
)


def optimizer_step(number: int, steps: int = 3) -> StepMetrics:
    """What a step measured; the loss is 1 / number."""
    measured = dict.fromkeys(StepMetrics.__dataclass_fields__, 1)
    return StepMetrics(**measured | {"step": number, "steps": steps, "loss": 1 / number})


@dataclass(frozen=True, kw_only=True)
class Answers(Step):
    """Three of four problems answered, two of them right."""

    kind: ClassVar[str] = "evaluation"

    def identity(self) -> dict[str, Any]:
        return {}

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        return {}

    def run(self, work: Work) -> Result:
        right, wrong = Verdict.CORRECT, Verdict.WRONG
        rows = [
            EvaluationRow(
                problem_id=str(index),
                family=None,
                level=None,
                verdict=verdict,
                sample_verdicts=samples,
                error=error,
            )
            for index, (verdict, samples, error) in enumerate(
                [
                    (right, (right, wrong), None),
                    (right, (right, right), None),
                    (wrong, (wrong, wrong), None),
                    (None, (), "too long"),
                ]
            )
        ]
        with work.progress(4, "problems") as tracker:
            tracker.update(done=4, tokens=70, details={"answers/correct": 5})
        storage.write_table(to_table(rows, EvaluationRow), f"{work.path}/part-0.parquet")
        return Result(rows_in=4, rows_out=4, dropped={"failed": 1}, tokens=70, pools=(USE,))


@dataclass(frozen=True, kw_only=True)
class Policy(Step):
    """A training of three optimizer steps that makes a model."""

    kind: ClassVar[str] = "policy"

    def identity(self) -> dict[str, Any]:
        return {}

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        return {"policy": "base0", "reference": "ref0"}

    def run(self, work: Work) -> Result:
        with work.progress(0, "steps") as tracker:
            for number in (1, 2, 3):
                tracker.on_step(optimizer_step(number))
        storage.write_text("weights", f"{work.path}/model/weights")
        outcome = {"loss_first": 1.0, "loss_last": 1 / 3, "model_dir": "x", "history": []}
        storage.write_json(outcome, f"{work.path}/training.json")
        return Result(rows_in=8, rows_out=8, output="model0")


def settings_with(run_dir: Path, *trackers: Any) -> RunSettings:
    """The settings of a run, with a secret among them."""
    problems = {
        split: {"source": f"file:https://me:{SECRET}@host/{split}.jsonl"}
        for split in ("train", "validation", "test")
    }
    return settings(run_dir=str(run_dir), trackers=list(trackers), problems=problems)


def opened(chosen: RunSettings) -> WritableRun:
    """The directory of a run that is about to begin."""
    Path(chosen.run_dir).mkdir(exist_ok=True)
    return WritableRun(chosen.run_dir, chosen)


def run(
    chosen: RunSettings,
    make: Callable[[Any], Tracker] = registry.make,
    *,
    iterations: int = 1,
    report: bool = True,
) -> None:
    """Run so many iterations; those of an earlier session are reused."""
    with ExitStack() as stack:
        directory = stack.enter_context(WritableRun.create(chosen.run_dir, chosen))
        trackers = stack.enter_context(tracking(directory, make))
        session = stack.enter_context(Session(run=directory, watcher=trackers))
        executor = Executor(session)
        executor.make(Answers(label="base"))
        for number in range(iterations):
            executor.make(Policy(iteration=number))
            session.record("decided", iteration=number, promoted=True, candidate="trained")
        storage.write_json(SUMMARY, directory.file("summary.json"))
        if report:
            storage.write_text("<html>report</html>", directory.file("report.html"))
        trackers.finish(SUMMARY)


TRAINED = {1: 1.0, 2: 1 / 2, 3: 1 / 3}
"""The losses of a `Policy` by optimizer step."""


def twice(chosen: RunSettings) -> None:
    """A run that was stopped after its first iteration, and continued."""
    run(chosen)
    run(chosen, iterations=2)


def kept_id(directory: Path, kind: str) -> str:
    """The id under which a run continues in a tracker."""
    return str(storage.read_json(f"{directory}/trackers.json")["runs"][kind])


def secrets_below(*directories: Path) -> list[Path]:
    """Files that hold the secret; there are files."""
    files = [file for folder in directories for file in folder.rglob("*") if file.is_file()]
    assert files
    return [file for file in files if SECRET.encode() in file.read_bytes()]


def by_step(points: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Points of a curve, none of them twice."""
    found = list(points)
    assert len(dict(found)) == len(found)
    return dict(found)
