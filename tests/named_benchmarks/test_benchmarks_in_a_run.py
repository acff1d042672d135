"""Benchmarks in a run and in commands on real Ray graphs, with simulated engines."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import yaml

from tests.named_benchmarks.conftest import Endpoint, says
from tests.simulated_problems import simulated_problem

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]

SIZES = {"train": 12, "validation": 4, "test": 4, "gsm8k": 6, "svamp": 5, "aime24": 3}


def sphere(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphere_ray.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1200)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster that all commands join: each would start its own, which takes most of its time."""
    context = ray.init(num_cpus=2, object_store_memory=500_000_000, include_dashboard=False)
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, address: str) -> Path:
    """Files of problems for each split and set; one training problem is gsm8k's, too."""
    folder, first = tmp_path_factory.mktemp("simulated"), 0
    for name, size in SIZES.items():
        numbers = [*range(first, first + size)]
        if name == "train":
            numbers.append(sum(SIZES[s] for s in ("train", "validation", "test")))
        problems = map(simulated_problem, numbers)
        rows = [json.dumps({"question": p.question, "answer": p.answer}) for p in problems]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
        first += size
    config = {
        "name": "simulated",
        "run_dir": str(folder / "runs" / "one"),
        "problems": {
            split: {"source": f"file:{folder / split}.jsonl"}
            for split in ("train", "validation", "test")
        },
        "engines": {
            "backend": "simulated",
            "simulated": {"accuracy": 0.5},
            "policy": {"path": "policy"},
            "policy_pool": {"max_num_seqs": 16, "kv_cache_gib": 1},
            "scorer": {"kind": "simulated"},
        },
        "grading": {"workers": 1},
        "training": {"min_pairs": 10**6},
        "evaluation": {"benchmarks": ["gsm8k", "aime24"], "benchmark_dir": str(folder)},
        "ray": {"address": address},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def summary(folder: Path) -> dict[str, Any]:
    done = sphere("run", str(folder / "run.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Benchmarks" in done.stdout
    found: dict[str, Any] = json.loads((folder / "runs" / "one" / "summary.json").read_text())
    return found


def test_base_and_final_model_are_scored_on_each_benchmark(
    summary: dict[str, Any], folder: Path
) -> None:
    assert list(summary["benchmarks"]) == ["gsm8k", "aime24"]
    for name, found in summary["benchmarks"].items():
        assert found["source"] == f"file:{folder}/{name}.jsonl"
        assert found["problems"] == SIZES[name]
        # Nothing can be trained, so the final model is the base model.
        assert found["models"]["base"] == found["models"]["final"]
        assert found["changes"]["final"]["difference"] == 0
    small = summary["benchmarks"]["aime24"]["models"]["base"]
    files = (folder / "runs" / "one" / "benchmarks" / "aime24" / "base").glob("*.parquet")
    rows = pq.read_table(sorted(files)).to_pylist()
    assert small["samples"] == 32
    assert {len(row["sample_verdicts"]) for row in rows} == {32}
    right = [row["sample_verdicts"].count("correct") / 32 for row in rows]
    assert small["mean@k"] == pytest.approx(sum(right) / len(right))
    assert small["mean@k"] <= small["pass@4"] <= small["pass@8"]


def test_the_planted_training_problem_is_left_out(summary: dict[str, Any], folder: Path) -> None:
    listed = (folder / "runs" / "one" / "rejected" / "contaminated.jsonl").read_text().splitlines()
    assert [json.loads(line)["met_split"] for line in listed] == ["gsm8k"]
    assert summary["iterations"][0]["rollout"]["problems"] == SIZES["train"]


def test_one_more_benchmark_makes_only_its_own_answers(
    summary: dict[str, Any], folder: Path
) -> None:
    more = ("--set", "evaluation.benchmarks=[gsm8k, aime24, svamp]")
    done = sphere("run", str(folder / "run.yaml"), *more, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split()[1:3] for line in done.stdout.splitlines() if line.startswith("# ")]
    made = [place for place, state in lines if state == "make"]
    assert made[0] == "benchmarks/svamp/problems"
    assert "benchmarks/gsm8k/base" not in made
    done = sphere("run", str(folder / "run.yaml"), *more)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((folder / "runs" / "one" / "summary.json").read_text())
    assert found["benchmarks"]["svamp"]["problems"] == SIZES["svamp"]
    assert found["iterations"] == summary["iterations"]
    events = (folder / "runs" / "one" / "events.jsonl").read_text().splitlines()
    rollouts = [line for line in events if '"rollouts"' in line and '"step"' in line]
    assert len(rollouts) == 1


def test_a_model_and_an_endpoint_answer_the_same_questions(
    folder: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    answers = {p.question: p.answer for p in map(simulated_problem, range(sum(SIZES.values())))}

    def reply(question: str) -> Any:
        return says(f"\\boxed{{{answers[question.partition('?')[0] + '?']}}}")

    endpoint.reply = reply
    done = sphere(
        *("evaluate", "policy", "--config", str(folder / "run.yaml")),
        *("--benchmarks", "gsm8k,svamp", "--samples", "4"),
        *("--endpoint", endpoint.url, "--endpoint-model", "big"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(endpoint.bodies) == 5 * (SIZES["gsm8k"] + SIZES["svamp"])
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    rows = {tuple(cells[:2]): cells[2:] for cells in lines if len(cells) > 8}
    assert set(rows) == {(s, m) for s in ("gsm8k", "svamp") for m in ("policy", "big (endpoint)")}
    assert rows["gsm8k", "big (endpoint)"][1] == "100.0"
    changes = {tuple(cells[:2]): cells[2:] for cells in lines if len(cells) == 7}
    assert changes["svamp", "big (endpoint)"][0] == "mean@k"


@pytest.mark.slow
def test_two_models_are_compared_by_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    done = sphere(
        *("compare", "policy", "other", "--config", str(folder / "run.yaml")),
        *("--benchmarks", "gsm8k", "--problems", f"file:{folder}/test.jsonl"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gsm8k: 6 problems from 6 rows of benchmark:gsm8k" in done.stdout
    assert "test: 4 problems from 4 rows" in done.stdout
    assert "Changes against the first model" in done.stdout
