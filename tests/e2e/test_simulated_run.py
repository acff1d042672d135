"""The real graph on simulated engines: three pools, and the same rows however they are placed."""

import itertools
import json

import pytest
import yaml
from driving import BIN, finish
from recompute import rows

from tests.simulated_problems import simulated_problem

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]

COUNTS = {"train": 24, "validation": 4, "test": 4}
FEWER = 2
"""Candidates of a step for problems that the first rollouts settled; others have five."""
ONE = {"rollout": {"batch_size": 4, "batches_in_flight": 2}}
# Room for training's workers beside the rollouts: they wait in vain.
SEVERAL = {
    "num_cpus": 4,
    "rollout": {"batch_size": 3, "batches_in_flight": 4, "stage_actors": 2},
    "engines": {"policy_pool": {"replicas": 3}, "small_pool": {"replicas": 2}},
}


def write_problems(folder):
    """A file for each split; no problem is in two of them."""
    problems = map(simulated_problem, itertools.count())
    for split, count in COUNTS.items():
        rows = [
            {"question": p.question, "answer": p.answer} for p in itertools.islice(problems, count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def run(folder, name, placement):
    """Run it to its end: no pairs are enough, as nothing can be trained."""
    pool = {"max_num_seqs": 16, "kv_cache_gib": 1}
    engines = placement.get("engines", {})
    config = {
        "name": "simulated",
        "run_dir": str(folder / name),
        "problems": {split: {"source": f"file:{folder / split}.jsonl"} for split in COUNTS},
        "engines": {
            "backend": "simulated",
            # Low enough that some problems need a correction, high enough that some need the
            # small model.
            "simulated": {"accuracy": 0.4},
            "policy": {"path": "policy"},
            "policy_pool": pool | engines.get("policy_pool", {}),
            "small": {"path": "small"},
            "small_pool": pool | engines.get("small_pool", {}),
            "scorer": {"kind": "simulated"},
        },
        "iterations": 2,
        "method": {"search": {"settled_candidates": FEWER}},
        "rollout": placement["rollout"],
        "training": {"min_pairs": 10**6},
        "evaluation": {"num_samples": 2},
        "ray": {
            "address": "local",
            "num_cpus": placement.get("num_cpus", 2),
            "object_store_gib": 0.5,
            "dashboard": False,
        },
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    done = finish([str(BIN / "sphere"), "run", str(path)])
    assert done.code == 0, done.out + done.err
    return folder / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    write_problems(folder)
    return run(folder, "one", ONE), run(folder, "several", SEVERAL)


def by_problem(folder):
    found = rows(folder)
    assert len({row["problem_id"] for row in found}) == len(found)
    return {row["problem_id"]: row for row in found}


@pytest.mark.parametrize(
    "phase", ["iter-000/rollouts", "iter-001/rollouts", "evaluation/base", "test/base"]
)
def test_rows_depend_neither_on_order_nor_on_the_number_of_workers(runs, phase):
    one, several = (by_problem(run_dir / phase) for run_dir in runs)
    assert one == several


def test_the_small_and_the_reward_model_play_their_parts(runs):
    found = by_problem(runs[0] / "iter-000" / "rollouts").values()
    assert len(found) == COUNTS["train"]
    models = {chain["stage"]: set() for row in found for chain in row["chains"]}
    for row in found:
        for chain in row["chains"]:
            models[chain["stage"]].add(chain["model"])
            rewards = [step["candidates"][step["chosen"]]["reward"] for step in chain["steps"]]
            assert all(0 <= reward <= 1 for reward in rewards)
    assert models["self_generation"] == models["self_correction"]
    assert models["diversity"].isdisjoint(models["self_generation"])


def test_an_iteration_without_enough_pairs_keeps_the_policy_and_says_why(runs):
    items = json.loads((runs[0] / "summary.json").read_text())["iterations"]
    pairs = [item["pairs"]["total"] for item in items]
    assert min(pairs) >= 4
    assert not any(item["promoted"] for item in items)
    # The policy is the same, so the first iteration's pairs count in the second.
    for item, found in zip(items, (pairs[0], sum(pairs)), strict=True):
        assert item["refusal"].startswith(f"{found} pairs are fewer than training.min_pairs")


def test_problems_that_were_always_right_or_always_wrong_get_fewer_candidates(runs):
    first, second = (by_problem(runs[0] / f"iter-00{number}" / "rollouts") for number in (0, 1))

    def most(row):
        own = [chain for chain in row["chains"] if chain["stage"] == "self_generation"]
        return max(len(step["candidates"]) for chain in own for step in chain["steps"])

    def answers(row):
        own = [chain for chain in row["chains"] if chain["stage"] == "self_generation"]
        return {chain["verdict"] == "correct" for chain in own}

    settled = {name for name, row in first.items() if len(answers(row)) == 1}
    assert 0 < len(settled) < len(first)
    assert {name for name, row in second.items() if most(row) <= FEWER} == settled


def test_workers_wait_beside_the_rollouts_and_leave_without_work(runs):
    for run_dir, called in zip(runs, (False, True), strict=True):
        assert ("workers_called" in (run_dir / "events.jsonl").read_text()) is called
        assert not (run_dir / "iter-000" / "_train").exists()


def report(run_dir, problems, place):
    return finish(
        [
            *(str(BIN / "sphere"), "score-report", str(run_dir), "--output", str(place)),
            *("--problems", f"file:{problems}", "--completions", "4"),
        ]
    )


def test_a_report_measures_the_reward_model_on_problems_it_was_not_trained_on(runs, tmp_path):
    folder = runs[0].parent
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text((folder / "train.jsonl").read_text() + (folder / "test.jsonl").read_text())
    done = report(runs[0], mixed, tmp_path / "scores")
    assert done.code == 0, done.out + done.err
    assert f"{COUNTS['train']} problems are left out" in done.out + done.err
    found = json.loads((tmp_path / "scores" / "report.json").read_text())
    assert found["problems"] <= COUNTS["test"]
    (source,) = found["sources"].values()
    assert source["failed_rows"] == 0
    assert source["quality"]["auc"] > 0.5  # rewards are drawn around the truth


def test_a_report_on_problems_trained_on_is_refused(runs, tmp_path):
    done = report(runs[0], runs[0].parent / "train.jsonl", tmp_path / "scores")
    assert done.code == 2
    assert "was trained on all of these problems" in done.err
    assert done.err.count("\n") == 1
