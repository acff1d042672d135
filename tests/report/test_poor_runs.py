"""Runs in which little happened have a report too."""

import copy
import json
from pathlib import Path

import pytest

from sphere_ray.report.facts import run_facts
from sphere_ray.report.page import render
from sphere_ray.report.svg import labels
from sphere_ray.runs.directory import Run
from tests.report.made import write_run
from tests.report.reading import Page


@pytest.fixture
def facts(tmp_path):
    return run_facts(Run.open(write_run(tmp_path / "run")))


def test_a_run_that_promoted_nothing_says_so(facts):
    summary, data = facts["summary"], facts["data"]
    data["outcome"], data["flips"] = "kept", None
    data["examples"] = dict.fromkeys(data["examples"])
    del summary["benchmarks"]
    summary["audit"] = None
    for side in ("base", "final"):
        summary["test"][side] |= {"by_family": {}, "macro_average": None}
    for item, found in zip(summary["iterations"], data["iterations"], strict=True):
        item |= {"training": None, "evaluation": None, "candidates": [], "promoted": False}
        item["refusal"] = "3 pairs are fewer than training.min_pairs (16)"
        item["pairs"] |= {"total": 0, "dropped": {}}
        item["reward"] |= {"trained": None, "distinct_candidates": None}
        found |= {"trainings": [], "rewards": None, "routes": []}
    data["cost"] |= {"engines": [], "workers": [], "gpu_hours": 0.0, "pairs_per_gpu_hour": None}
    page = Page.of(render([facts]))
    said = " ".join(page.said)
    assert "No candidate was promoted" in said
    assert "There was no training." in said
    assert "engine-hours (no GPU)" in said
    texts = [each.text for each in page.cited]
    assert texts.count("3 pairs are fewer than training.min_pairs (16)") == 2


def test_of_a_step_that_was_continued_no_rate_is_known(facts, tmp_path):
    run = Run.open(str(tmp_path / "run"))
    assert facts["data"]["cost"]["pairs_per_engine_hour"]
    event = {"event": "step", "name": "rollouts", "iteration": 1, "does": "continue"}
    with Path(run.file("events.jsonl")).open("a") as file:
        file.write(f"{json.dumps(event)}\n")
    cost = run_facts(run)["data"]["cost"]
    assert cost["continued"] == 1
    assert cost["pairs_per_engine_hour"] is cost["pairs_per_gpu_hour"] is None
    assert cost["pairs_per_1000_tokens"] == facts["data"]["cost"]["pairs_per_1000_tokens"]
    page = Page.of(render([run_facts(run)]))
    assert any("were interrupted and continued" in said for said in page.said)


def test_runs_of_one_name_are_told_apart_by_their_directories(facts):
    runs = [copy.deepcopy(facts) for _ in range(2)]
    for number, each in enumerate(runs):
        each["data"]["about"]["run_dir"] = f"/runs/{number}/seed"
    assert {"/runs/0/seed", "/runs/1/seed"} <= set(Page.of(render(runs)).said)


def test_long_names_that_begin_alike_have_labels_of_their_own():
    assert labels(["short", "other"]) == ["short", "other"]
    found = labels([f"a-proof-of-the-method-without-diversity-seed-{n}" for n in range(3)])
    assert len(set(found)) == 3
    assert max(map(len, found)) <= len(labels(["x" * 99])[0])


@pytest.mark.parametrize(
    ("outcome", "difference", "word"),
    [("loss", -0.03, "a loss of"), ("equal", 0.0, "Base and final model answer")],
)
def test_the_verdict_is_in_words(facts, outcome, difference, word):
    facts["data"]["outcome"] = outcome
    facts["summary"]["test"]["difference"] = difference
    page = Page.of(render([facts]))
    assert any(word in said for said in page.said)


def test_a_rollout_that_nothing_scored_has_no_rewards(facts):
    found = facts["data"]["iterations"][0]["rewards"]
    found |= {"by_depth": [], "calibration": []}
    found["spread"] = {"positions": 0, "mean": None, "equal": None, "bins": [0] * 10}
    page = Page.of(render([facts]))
    assert not any("run0-it0-depths" in name for name in page.ids)
    assert any("run0-it1-depths" in name for name in page.ids)
