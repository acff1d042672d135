"""`evolve.run` with steps that take a time and do no more: no Ray, no engine, no training.

`session` is the target of a process, which writes to a log. Rollouts take 3 h, a training 1 h,
an evaluation 20 min, in units that are noted one by one and not repeated by the next session. Each
unit is noted in the file RUN_DIR.done too, which no session removes. The second iteration's
training collapses.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from sphere_ray import storage
from sphere_ray.compat.ray import STOP_STREAMS
from sphere_ray.config import RunSettings
from sphere_ray.errors import EngineError
from sphere_ray.evolution import evolve
from sphere_ray.evolution.decision import rows
from sphere_ray.interruption import Interrupted, catch_signals
from sphere_ray.records import EvaluationRow, Problem, Rollout
from sphere_ray.reporting.summary import held_out_summary
from sphere_ray.rollout.stages import rollout_table
from sphere_ray.runs.step import Result, Work
from sphere_ray.runs.steps.evaluation import EvaluationStep
from sphere_ray.runs.steps.pairs import PairsStep
from sphere_ray.runs.steps.policy import COLLAPSED, OUTCOME, PolicyStep
from sphere_ray.runs.steps.problems import ProblemsStep, write_problems
from sphere_ray.runs.steps.reference import ReferenceStep
from sphere_ray.runs.steps.rollouts import RolloutsStep
from sphere_ray.schema import from_table, to_table
from tests.evolution.script import answers
from tests.simulated_problems import simulated_problem

UNITS = {RolloutsStep: 30, PolicyStep: 10, EvaluationStep: 5}
HOURS = {RolloutsStep: 3.0, PolicyStep: 1.0, EvaluationStep: 1 / 3}
REFUSED = 1
PROBLEMS = {"train": 4, "validation": 10, "test": 10}


def session(settings: RunSettings, hour_s: float, log: str) -> None:
    """One session of a run, in which a simulated hour has `hour_s` seconds."""
    for kind in UNITS:
        kind.run = slowly(kind, hour_s * HOURS[kind] / UNITS[kind], settings.run_dir)
    changed: Any = (ProblemsStep, PairsStep, ReferenceStep)
    for kind in changed:
        kind.run = problems if kind is ProblemsStep else at_once
    module: Any = evolve
    module.summarise = summarise
    catch_signals()
    with open(log, "a") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            evolve.run(settings)
        except Interrupted as end:
            sys.exit(end.exit_code)


def slowly(kind: type[Any], unit_s: float, run_dir: str) -> Any:
    def run(step: Any, work: Work) -> Result:
        notes = f"{work.path}/units.txt"
        done = len((storage.read_text(notes) or "").splitlines())
        with work.progress(UNITS[kind], "units", first=done) as tracker:
            for unit in range(done, UNITS[kind]):
                time.sleep(unit_s)  # the work itself
                if STOP_STREAMS.is_set():
                    raise EngineError("the session was stopped")
                storage.append_line(f"{step.place} {unit}", f"{run_dir}.done")
                storage.append_line(str(unit), notes)
                tracker.update(done=unit + 1)
        return MADE[kind](step, work)

    return run


def source(step: Any) -> Iterator[Problem]:
    for table in storage.tables(step.rows_of):
        yield from from_table(table, Problem)


def rolled_out(step: RolloutsStep, work: Work) -> Result:
    found = [Rollout(problem=each, route=(), stage_tokens=()) for each in source(step)]
    storage.write_table(rollout_table(found), f"{work.path}/part-00000.parquet")
    return Result(rows_in=len(found), rows_out=len(found))


def answered(step: EvaluationStep, work: Work) -> Result:
    right = answers(5 + step.model.iteration)
    ids = [each.problem_id for each in source(step)]
    table = to_table(right, EvaluationRow)
    column = table.column_names.index("problem_id")
    table = table.set_column(column, table.field("problem_id"), [ids])
    storage.write_table(table, f"{work.path}/part-00000.parquet")
    return Result(rows_in=len(ids), rows_out=len(ids))


def trained(step: PolicyStep, work: Work) -> Result:
    if step.iteration == REFUSED:
        storage.write_json({"error": "it is the one"}, f"{work.path}/{OUTCOME}")
        return Result(rows_in=4, rows_out=0, dropped={COLLAPSED: 4}, writers=step.writers)
    storage.write_text(work.fingerprint, f"{work.path}/model/weights.bin")
    return Result(rows_in=4, rows_out=4, writers=step.writers, output=f"of {work.fingerprint}")


MADE: dict[Any, Any] = {RolloutsStep: rolled_out, EvaluationStep: answered, PolicyStep: trained}


def problems(step: ProblemsStep, work: Work) -> Result:
    numbers = iter(range(100))
    splits = {
        split: [simulated_problem(next(numbers)) for _ in range(count)]
        for split, count in PROBLEMS.items()
    }
    write_problems(work.path, splits)
    return Result(rows_in=24, rows_out=24)


def at_once(step: Any, work: Work) -> Result:
    return Result(rows_in=4, rows_out=4)


def summarise(settings: RunSettings, outcome: Any, steps: Any) -> Any:
    """What the run decided, of which steps."""
    return {
        "iterations": [
            {
                "iteration": item.number,
                "promoted": item.refusal is None,
                "writers": [[w.iteration, w.policy_iteration, w.lag] for w in item.writers],
                "policy": item.rollouts.finished.manifest.inputs["policy"],
            }
            for item in outcome.iterations
        ],
        "steps": [[step.name, step.manifest.fingerprint] for step in steps],
        "test": held_out_summary(
            *(rows([made]) for made in (outcome.base_test, outcome.final_test)),
            seed=settings.seed,
            boundary="\n",
        ),
    }
