"""The measured ratios must not fall: fresh ones against results.json; `pytest -m benchmark`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

RESULTS = Path(__file__).with_name("results.json")
SLACK = 0.15
HIGHER_IS_BETTER = {
    "grading": ("grading_numbers", "grading_latex"),
    "sampling": ("busy_share", "vs_async_llm", "vs_ray_data_llm"),
}
LOWER_IS_BETTER = {"reward": ("reward_prefill_ratio",)}


def fresh(name):
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{name}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    sys.stdout.write(done.stdout)  # the figures, seen with `pytest -s`
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["key"]: line["value"] for line in lines}


@pytest.fixture(scope="module")
def recorded():
    return {key: line["value"] for key, line in json.loads(RESULTS.read_text("utf-8")).items()}


def measured(name, keys, recorded):
    missing = [key for key in keys if key not in recorded]
    if missing:
        pytest.skip(
            f"results.json has no {', '.join(missing)}: `python -m tests.benchmarks {name}`"
        )
    return fresh(name)


@pytest.mark.parametrize("name", HIGHER_IS_BETTER)
def test_what_should_be_high_has_not_fallen(name, recorded):
    found = measured(name, HIGHER_IS_BETTER[name], recorded)
    for key in HIGHER_IS_BETTER[name]:
        assert found[key] >= (1 - SLACK) * recorded[key], key


@pytest.mark.parametrize("name", LOWER_IS_BETTER)
def test_what_should_be_low_has_not_risen(name, recorded):
    found = measured(name, LOWER_IS_BETTER[name], recorded)
    for key in LOWER_IS_BETTER[name]:
        assert found[key] <= (1 + SLACK) * recorded[key], key
