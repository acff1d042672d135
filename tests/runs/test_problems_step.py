"""The problems step with held-out benchmarks: what it leaves out, and what follows from it."""

import json
from pathlib import Path
from typing import Any

from sphere_ray.records import ModelRef, Problem
from sphere_ray.runs.step import Made
from sphere_ray.runs.steps.problems import BenchmarkProblemsStep, ProblemsStep
from tests.runs.steps import executor, opened

BASE = ModelRef(path="", iteration=0, fingerprint="base")
PLANTED = "How many eggs does Ann sell if she has 12 hens with 5 eggs each and keeps 9 of the eggs?"
OTHER = "What is the largest prime below one hundred?"


def write(path: Path, *questions: str) -> dict[str, str]:
    rows = [json.dumps({"question": question, "answer": "1"}) for question in questions]
    path.write_text("\n".join(rows))
    return {"source": f"file:{path}"}


def ingested(tmp_path: Path, *benchmarks: str, **sets: tuple[str, ...]) -> tuple[Made, list[Made]]:
    """What the steps of a run make of a training file with a planted question."""
    for name, questions in sets.items():
        write(tmp_path / f"{name}.jsonl", *questions)
    problems = {
        "train": write(tmp_path / "train.jsonl", PLANTED, OTHER),
        "validation": write(tmp_path / "validation.jsonl", "What is the first prime?"),
        "test": write(tmp_path / "test.jsonl", "What is the second prime?"),
    }
    evaluation: dict[str, Any] = {"benchmarks": benchmarks}
    if benchmarks:
        evaluation["benchmark_dir"] = str(tmp_path)
    with opened(tmp_path / "run", problems=problems, evaluation=evaluation) as run:
        make = executor(run).make
        made = [
            make(
                BenchmarkProblemsStep(
                    label=f"{name}/problems", settings=run.settings, reference=name
                )
            )
            for name in benchmarks
        ]
        return make(ProblemsStep(settings=run.settings, policy=BASE, held_out=tuple(made))), made


def questions(made: Made, split: str) -> list[str]:
    assert made.finished is not None
    return [problem.question for problem in made.finished.rows(Problem, below=split)]


def test_training_problems_that_meet_a_benchmark_are_left_out_and_listed(tmp_path: Path) -> None:
    problems, made = ingested(tmp_path, "gsm8k", gsm8k=(PLANTED, "How old is the moon?"))
    assert questions(problems, "train") == [OTHER]
    assert questions(made[0], "gsm8k") == [PLANTED, "How old is the moon?"]
    assert problems.report.dropped == {"contaminated": 1}
    listed = (tmp_path / "run" / "rejected" / "contaminated.jsonl").read_text()
    assert json.loads(listed)["met_split"] == "gsm8k"


def test_a_benchmark_that_meets_nothing_makes_nothing_else_again(tmp_path: Path) -> None:
    before, _ = ingested(tmp_path)
    after, _ = ingested(tmp_path, "svamp", svamp=("How old is the moon?",))
    assert before.path != after.path
    assert before.output == after.output


def test_one_that_meets_a_training_problem_makes_what_follows_again(tmp_path: Path) -> None:
    before, _ = ingested(tmp_path)
    after, _ = ingested(tmp_path, "svamp", svamp=(PLANTED,))
    assert before.output != after.output


def test_other_rows_in_the_file_of_a_benchmark_are_other_problems(tmp_path: Path) -> None:
    _, (first,) = ingested(tmp_path, "svamp", svamp=("How old is the moon?",))
    _, (second,) = ingested(tmp_path, "svamp", svamp=("How old is the sun?",))
    _, (third,) = ingested(tmp_path, "svamp", svamp=("How old is the moon?",))
    assert first.output != second.output
    assert (first.output, first.path) == (third.output, third.path)
