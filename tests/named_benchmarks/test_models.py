"""Models beside each other on sets of problems, with the engines' part played by a test."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sphere_ray import storage
from sphere_ray.benchmarks.sources import read_benchmark
from sphere_ray.commands import benchmarks as command
from sphere_ray.commands.evaluate_model import Asked
from sphere_ray.commands.options import EvaluationOptions
from sphere_ray.problems import sources
from sphere_ray.records import EvaluationRow, Problem, Verdict
from tests.named_benchmarks.conftest import ROWS, Endpoint
from tests.named_benchmarks.test_named import reading, settings
from tests.runs.test_problems_step import PLANTED, ingested

Sphere = Callable[..., tuple[int, str, str]]
RIGHT = {"weak": 1, "strong": 3}
"""How many of the problems each model solves, in their order."""


def answered(problems: Sequence[Problem], right: int, samples: int) -> list[EvaluationRow]:
    verdicts = [Verdict.CORRECT if n < right else Verdict.WRONG for n in range(len(problems))]
    return [
        EvaluationRow(
            problem_id=problem.problem_id,
            family=None,
            level=None,
            verdict=verdict,
            sample_verdicts=(verdict,) * samples,
            sample_answers=("x",) * samples,
        )
        for problem, verdict in zip(problems, verdicts, strict=True)
    ]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Asked]]:
    """Models answer as `RIGHT` says; returns what they were asked."""
    seen: list[Mapping[str, Asked]] = []

    def answers_of(_: Any, models: Sequence[str], sets: Mapping[str, Asked]) -> Any:
        seen.append(sets)
        return [
            {
                name: answered(problems, RIGHT[Path(model).name], chosen.evaluation.num_samples)
                for name, (chosen, problems) in sets.items()
            }
            for model in models
        ]

    monkeypatch.setattr(command, "answers_of", answers_of)
    return seen


def test_two_models_and_an_endpoint_are_rows_of_one_table(
    served: Any,
    sphere: Sphere,
    directory: Path,
    endpoint: Endpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    code, out, err = sphere(
        *("compare", "weak", "strong", "--benchmarks", "gsm8k,olympiadbench", "--samples", "8"),
        *("--benchmark-dir", str(directory), "--max-tokens", "99"),
        *("--endpoint", endpoint.url, "--endpoint-model", "big"),
    )
    assert (code, err) == (0, "")
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    figures = {(cells[0], cells[1]): cells[3] for cells in lines if len(cells) > 8}
    assert figures == {
        ("gsm8k", "weak"): "33.3",
        ("gsm8k", "strong"): "100.0",
        ("gsm8k", "big (endpoint)"): "33.3",
        ("olympiadbench", "weak"): "50.0",
        ("olympiadbench", "strong"): "100.0",
        ("olympiadbench", "big (endpoint)"): "0.0",
    }
    changes = {(cells[0], cells[1]): cells[2:5] for cells in lines if len(cells) == 7}
    assert changes[("gsm8k", "strong")] == ["mean@k", "3", "+66.7"]
    (sets,) = served
    assert {chosen.evaluation.max_tokens for chosen, _ in sets.values()} == {99}
    assert {body["max_tokens"] for body in endpoint.bodies} == {99}
    asked = {chosen.method.prompts.question for chosen, _ in sets.values()}
    assert len(asked) == 1
    assert "\\boxed{}" in asked.pop()


def test_training_problems_of_the_models_run_that_meet_a_set_are_told(
    served: Any, tmp_path: Path, directory: Path
) -> None:
    ingested(tmp_path)
    (directory / "gsm8k.jsonl").write_text(f'{{"question": "{PLANTED}", "answer": "1"}}')
    model = tmp_path / "run" / "iter-000" / "policy" / "strong"
    model.mkdir(parents=True)
    options = EvaluationOptions(benchmarks="gsm8k, svamp")
    told: list[str] = []
    chosen = reading(directory, "gsm8k", "svamp")
    found, _ = command.measure(chosen, [str(model)], options, told.append)
    assert set(found) == {"gsm8k", "svamp"}
    overlaps = [line for line in told if "overlap" in line]
    assert overlaps == [
        f"gsm8k: 1 training problems of {model} overlap with it; for example: {PLANTED}",
        f"svamp: 0 training problems of {model} overlap with it",
    ]


@pytest.mark.parametrize(
    ("name", "config", "split"),
    [("gsm8k", "main", "test"), ("svamp", None, "test"), ("aime24", None, "train")],
)
def test_the_hub_is_asked_for_the_commit(
    monkeypatch: pytest.MonkeyPatch, name: str, config: str | None, split: str
) -> None:
    asked: list[dict[str, Any]] = []

    def load(dataset: str, **options: Any) -> list[dict[str, Any]]:
        asked.append({"dataset": dataset, **options})
        return ROWS.get(name, [{"problem": "1 + 1?", "answer": "2"}])

    monkeypatch.setattr(sources, "_load_dataset", lambda: load)
    problems = read_benchmark(settings(), f"{name}@abc").problems[name]
    assert problems
    (found,) = asked
    assert (found["revision"], found["name"], found["split"]) == ("abc", config, split)


def test_a_misspelt_benchmark_ends_a_run_before_anything_is_made(
    sphere: Sphere, tmp_path: Path
) -> None:
    document = settings(evaluation={"benchmarks": ["gsm9k"]}).model_dump(mode="json")
    storage.write_json(document | {"run_dir": str(tmp_path / "run")}, str(tmp_path / "c.yaml"))
    for flags in ((), ("--dry-run",)):
        code, _, err = sphere("run", str(tmp_path / "c.yaml"), *flags)
        assert code == 2
        assert "'gsm9k' is no benchmark" in err
        assert err.count("\n") == 1
