"""Benchmarks by name: where they lie, how they are asked, and what they keep out of training."""

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from sphere_ray.benchmarks.named import BENCHMARKS, asked, names_of
from sphere_ray.benchmarks.sources import read_benchmark, reader_for, resolve
from sphere_ray.config import RunSettings
from sphere_ray.config.problems import ProblemSettings
from sphere_ray.errors import ProblemSourceError
from sphere_ray.problems.ingest import ingest
from tests.named_benchmarks.conftest import ROWS
from tests.problems.test_contamination import BENCHMARK, INNOCENT, REWORDED, copied


def settings(**changes: Any) -> RunSettings:
    return RunSettings.model_validate(
        {
            "name": "try",
            "run_dir": "unused",
            "problems": {s: {"source": f"file:{s}.jsonl"} for s in ("train", "validation", "test")},
            "engines": {"policy": {"path": "m"}, "policy_pool": {"kv_cache_gib": 1}},
        }
        | changes
    )


def reading(directory: Path, *names: str) -> RunSettings:
    return settings(evaluation={"benchmarks": names, "benchmark_dir": str(directory)})


def test_every_benchmark_has_a_commit_and_a_size() -> None:
    assert set(BENCHMARKS) == {
        *("gsm8k", "math500", "aime24", "aime25", "amc23", "olympiadbench", "minerva", "svamp")
    }
    for benchmark in BENCHMARKS.values():
        assert re.fullmatch("[0-9a-f]{40}", benchmark.revision)
        assert (benchmark.num_samples >= 32) == (benchmark.num_problems < 100)


def test_a_name_is_a_source_of_the_hub_at_a_commit() -> None:
    commit = BENCHMARKS["gsm8k"].revision
    assert resolve("benchmark:gsm8k", None) == f"hf:openai/gsm8k@{commit}?split=test&config=main"
    assert resolve("benchmark:math500@abc", None).startswith("hf:HuggingFaceH4/MATH-500@abc?")
    assert resolve("file:x.jsonl", None) == "file:x.jsonl"


def test_rows_in_the_hubs_columns_give_problems(directory: Path) -> None:
    found = {n: read_benchmark(reading(directory, n), n).problems[n] for n in ROWS}
    assert [problem.answer for problem in found["gsm8k"]] == ["2", "3", "4"]
    assert found["svamp"][0].question == "Bob had 3 cups.\nHe broke 3. How many are left?"
    assert [problem.answer for problem in found["olympiadbench"]] == ["2, -2", "$6$"]
    assert found["olympiadbench"][1].question == "Let $n=3$.\nFind $n!$."


@pytest.mark.parametrize("name", ["svamp.json", "svamp.csv", "svamp.jsonl.gz"])
def test_rows_in_usual_columns_and_other_formats_do_as_well(tmp_path: Path, name: str) -> None:
    row = {"question": "Bob had 3 cups and broke 1. How many are left?", "answer": "2"}
    text = {
        ".json": json.dumps([row]),
        ".csv": f"question,answer\n{row['question']},2\n",
        ".gz": json.dumps(row),
    }[Path(name).suffix]
    packed = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
    (tmp_path / name).write_bytes(packed)
    (problem,) = read_benchmark(reading(tmp_path, "svamp"), "svamp").problems["svamp"]
    assert (problem.question, problem.answer) == (row["question"], "2")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("benchmark:gsm9k", "name one of gsm8k, math500"),
        ("benchmark:", "no benchmark"),
        ("benchmark:gsm8k@a b", "no benchmark"),
        ("benchmark:math500", "none of math500.jsonl"),
        ("benchmark:gsm8k@abc", "leave out the revision"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(directory: Path, source: str, told: str) -> None:
    with pytest.raises(ProblemSourceError, match=re.escape(told)) as raised:
        list(reader_for(reading(directory, "gsm8k"))(source))
    assert "\n" not in str(raised.value)


def test_two_files_for_one_benchmark_are_refused(directory: Path) -> None:
    (directory / "gsm8k.json").write_text("[]")
    with pytest.raises(ProblemSourceError, match=r"several of gsm8k\.jsonl, gsm8k\.json;"):
        resolve("benchmark:gsm8k", str(directory))


def test_a_benchmark_named_twice_is_refused() -> None:
    assert names_of(["gsm8k", "math500@abc"]) == {"gsm8k": "gsm8k", "math500": "math500@abc"}
    with pytest.raises(ProblemSourceError, match="named twice"):
        names_of(["gsm8k", "gsm8k@abc"])


def test_a_directory_that_nothing_is_read_from_is_refused() -> None:
    with pytest.raises(ValueError, match=r"evaluation\.benchmark_dir has no effect"):
        settings(evaluation={"benchmark_dir": "sets"})
    problems = settings().problems.model_dump() | {"test": {"source": "benchmark:gsm8k"}}
    settings(evaluation={"benchmark_dir": "sets"}, problems=problems)


def test_small_sets_are_sampled_and_the_runs_own_numbers_are_the_least() -> None:
    one = settings(evaluation={"num_samples": 4, "max_tokens": 3000})
    small, large = asked(one, "aime24").evaluation, asked(one, "gsm8k").evaluation
    assert (small.num_samples, large.num_samples) == (32, 4)
    assert (small.max_tokens, large.max_tokens) == (BENCHMARKS["aime24"].max_tokens, 3000)
    assert asked(one, "aime24", samples=8).evaluation.num_samples == 8
    assert asked(settings(), "gsm8k").evaluation.num_samples == 0


def test_a_prompt_of_the_run_is_kept_and_else_answers_are_boxed() -> None:
    own = settings(method={"prompts": {"question": "Q: {question}"}})
    assert asked(own, "gsm8k").method == own.method
    assert "\\boxed{}" in asked(settings(), "gsm8k").method.prompts.question


def write(path: Path, questions: list[str]) -> dict[str, str]:
    rows = [{"question": question, "answer": "1"} for question in questions]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return {"source": f"file:{path}"}


def test_twenty_rows_of_a_benchmark_in_the_training_file_are_found(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k.jsonl", BENCHMARK)
    planted = [REWORDED.get(n) or copied(question, n) for n, question in enumerate(BENCHMARK)]
    mixed = [text for pair in zip(planted, INNOCENT, strict=False) for text in pair]
    problems = ProblemSettings.model_validate(
        {
            "train": write(tmp_path / "train.jsonl", [*mixed, *planted[len(INNOCENT) :]]),
            "validation": write(tmp_path / "validation.jsonl", ["What is the first prime?"]),
            "test": write(tmp_path / "test.jsonl", ["What is the second prime?"]),
        }
    )
    held_out = read_benchmark(reading(tmp_path, "gsm8k"), "gsm8k").problems
    found = ingest(problems, held_out=held_out)
    assert [problem.question for problem in found.problems["train"]] == INNOCENT
    assert found.dropped == {"contaminated": 20}
    assert len(REWORDED) == 5
    met = {overlap.question: overlap for overlap in found.overlaps}
    for question in BENCHMARK:
        texts = [each for each in met.values() if each.met_question == question]
        assert {each.met_split for each in texts} == {"gsm8k"}, question
        assert {each.met_source for each in texts} == {"benchmark:gsm8k"}
    assert set(REWORDED.values()) <= set(met)


def test_a_question_that_is_all_form_is_held_out_too(tmp_path: Path) -> None:
    """Texts that differ in a number only share their words, and an equal one is still equal."""
    form = "Count the beads of all the red and green and blue boxes of row {} of the long shelf."
    write(tmp_path / "gsm8k.jsonl", [form.format(n) for n in range(9)])
    problems = ProblemSettings.model_validate(
        {
            "train": write(tmp_path / "train.jsonl", [form.format(4), "How many is a dozen?"]),
            "validation": write(tmp_path / "validation.jsonl", ["What is the first prime?"]),
            "test": write(tmp_path / "test.jsonl", ["What is the second prime?"]),
        }
    )
    held_out = read_benchmark(reading(tmp_path, "gsm8k"), "gsm8k").problems
    found = ingest(problems, held_out=held_out)
    assert [problem.question for problem in found.problems["train"]] == ["How many is a dozen?"]
    assert found.overlaps[0].met_question == form.format(4)


REAL = {
    "gsm8k": ("gsm8k/test_660.jsonl", 660),
    "svamp": ("sets/svamp.jsonl", 60),
    "aime24": ("sets/aime24.jsonl", 15),
    "amc23": ("sets/amc23.jsonl", 20),
    "minerva": ("sets/minerva_math.jsonl", 60),
    "olympiadbench": ("sets/olympiadbench.jsonl", 60),
    "math500": ("math_test_even.jsonl", 2500),
}


@pytest.mark.parametrize("name", REAL)
def test_real_rows_are_read_to_the_last(name: str, tmp_path: Path) -> None:
    default = Path(__file__).parents[2].parent / "shared" / "data"
    file = Path(os.environ.get("SPHERE_DATA", default)) / REAL[name][0]
    if not file.is_file():
        pytest.skip("no rows here: set SPHERE_DATA to a directory with them")
    (tmp_path / f"{name}.jsonl").write_bytes(file.read_bytes())
    found = read_benchmark(reading(tmp_path, name), name)
    assert found.rows[name] == REAL[name][1]
    assert len(found.problems[name]) >= 0.98 * found.rows[name], found.report()
