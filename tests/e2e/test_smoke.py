"""The whole loop on real engines, once, as a user runs it; every test here reads that one run."""

import json

import pytest
from driving import OWN_RAY, contents, finish, smoke
from recompute import check_run, rows
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(960)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run directory, and how `sphere run` ended."""
    run_dir = tmp_path_factory.mktemp("smoke") / "run"
    return run_dir, finish(smoke(run_dir, *OWN_RAY), seconds=900)


@pytest.fixture(scope="module")
def run_dir(run):
    path, done = run
    assert done.code == 0, done.out + done.err
    return path


@pytest.fixture(scope="module")
def summary(run_dir):
    return json.loads((run_dir / "summary.json").read_text())


def test_the_run_succeeds_and_shows_its_figures(run):
    _, done = run
    assert done.code == 0, done.out + done.err
    assert "Traceback" not in done.err
    assert "self_correction" in done.out
    assert "paired by problem" in done.out


def test_every_stage_is_entered_and_no_problem_fails(summary):
    rollout = summary["iterations"][0]["rollout"]
    entered = {stage: counts["problems"] for stage, counts in rollout["by_stage"].items()}
    assert entered["self_generation"] == rollout["problems"] == 16
    assert entered["self_correction"] >= 1
    both_right = (f"{stage}:both_right" for stage in ("self_generation", "self_correction"))
    assert entered["diversity"] >= 1
    assert entered["diversity"] == sum(rollout["routes"].get(route, 0) for route in both_right)
    assert "failed" not in rollout["routes"]


def test_every_count_of_the_summary_follows_from_the_data(run_dir):
    check_run(run_dir)


def test_pairs_are_right_over_wrong(run_dir, summary):
    found = rows(run_dir / "iter-000" / "pairs")
    assert len(found) == summary["iterations"][0]["pairs"]["total"] >= 4
    rollouts = {row["problem_id"]: row for row in rows(run_dir / "iter-000/rollouts")}
    for pair in found:
        row = rollouts[pair["problem_id"]]
        verdicts = {chain["chain_id"]: chain["verdict"] for chain in row["chains"]}
        assert pair["chosen"].endswith(f"#### {row['problem']['answer']}")
        assert verdicts[pair["chosen_chain"]] == "correct"
        assert verdicts[pair["rejected_chain"]] in ("wrong", "no_answer")


def test_two_workers_trained_on_all_pairs(run_dir, summary):
    item = summary["iterations"][0]
    training = item["training"]
    assert (training["workers"], training["zero_stage"]) == (2, 2)
    assert training["pairs"] == item["pairs"]["total"]
    assert training["steps"] == -(-training["pairs"] // 4)
    # Policy and reference are the same before the first step: log 2.
    assert training["loss_first"] == pytest.approx(0.6931, abs=1e-3)
    history = json.loads((run_dir / "iter-000/policy/training.json").read_text())["history"]
    assert [step["step"] for step in history] == list(range(1, training["steps"] + 1))


def test_the_trained_model_loads(run_dir):
    path = run_dir / "iter-000" / "policy" / "model"
    model = AutoModelForCausalLM.from_pretrained(path)
    assert len(AutoTokenizer.from_pretrained(path)) <= model.config.vocab_size


def test_export_writes_every_pair(run_dir, summary):
    done = finish([*smoke(run_dir)[:1], "export", str(run_dir), "--format", "trl"], seconds=60)
    assert done.code == 0, done.err
    lines = (run_dir / "export/trl/pairs.jsonl").read_text().splitlines()
    assert len(lines) == summary["iterations"][0]["pairs"]["total"]


def test_the_same_command_again_computes_nothing(run_dir):
    said, files = (run_dir / "summary.json").read_bytes(), contents(run_dir)
    done = finish(smoke(run_dir, *OWN_RAY, "ray.dashboard=true"), seconds=120)
    assert done.code == 0, done.err
    assert done.seconds < 60
    assert "Ray dashboard" not in done.out
    assert (run_dir / "summary.json").read_bytes() == said
    assert contents(run_dir) == files


def test_another_configuration_is_refused(run_dir):
    files = contents(run_dir, "**/*.json")
    done = finish(smoke(run_dir, "training.learning_rate=0.5"), seconds=60)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert "training.learning_rate" in done.err
    assert contents(run_dir, "**/*.json") == files
