"""Two iterations on real engines: values, then a reward model trained on them; and reports."""

import json

import pytest
from driving import BIN, OWN_RAY, Driver, contents, finish, smoke
from recompute import check_run, rows

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

OVERRIDES = (
    "iterations=2",
    "problems.train.source=generated:arithmetic?split=train&count=32&levels=1&max_answer=4",
    "evaluation.num_samples=0",
    "engines.scorer.trained={pool: {kv_cache_gib: 0.25, enforce_eager: true}, "
    "max_model_len: 512, training: {epochs: 3, batch_size: 8, micro_batch_size: 2, "
    "learning_rate: 3e-3, precision: fp32, max_length: 256, checkpoint_every: 2}, "
    # The toy guesses; its figures need not be good here, only true.
    "schedule: {audit_share: 0.5, min_steps: 2, min_auc: 0, min_gain: -1, max_ece: 1, "
    "min_spread: 0}}",
    *OWN_RAY,
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run whose driver was killed while it trained its reward model, and run again."""
    folder = tmp_path_factory.mktemp("trained")
    run_dir = folder / "run"
    state = run_dir / "iter-000/_train"
    driver = Driver(smoke(run_dir, *OVERRIDES), folder / "log")
    driver.until(lambda: any(state.glob("training-*/checkpoint_manager_snapshot.json")))
    driver.kill()
    done = finish(smoke(run_dir, *OVERRIDES))
    assert done.code == 0, done.out + done.err
    return run_dir


@pytest.fixture(scope="module")
def summary(run_dir):
    return json.loads((run_dir / "summary.json").read_text())


def test_the_reward_model_takes_over_after_the_first_iteration(run_dir, summary):
    check_run(run_dir)
    first, second = summary["iterations"]
    assert (first["reward"]["source"], second["reward"]["source"]) == ("rollout_value", "trained")
    trained = first["reward"]["trained"]
    assert trained["refusal"] is None
    assert trained["labels"] + trained["held_out"]["steps"] == len(
        {
            (row["problem"]["problem_id"], before, found["text"])
            for row in rows(run_dir / "iter-000/rollouts")
            for before, found in steps(row)
        }
    )
    assert first["reward"]["audited"] == 0 < second["reward"]["audited"]
    assert second["reward"]["audited"] < second["reward"]["steps"]


def steps(row):
    """Each scored candidate of a rollout with the texts before it."""
    for chain in row["chains"]:
        before = ()
        for step in chain["steps"]:
            for found in step["candidates"]:
                if found["reward"] is not None:
                    yield before, found
            before = (*before, step["candidates"][step["chosen"]]["text"])


def test_rewards_of_the_second_iteration_are_the_trained_models(run_dir):
    found = [
        candidate for row in rows(run_dir / "iter-001/rollouts") for _, candidate in steps(row)
    ]
    # Values of two completions are 0, 0.5 or 1; a model's rewards are anything between.
    assert all(0 < candidate["reward"] < 1 for candidate in found)
    audits = [c for c in found if c["audit"] is not None]
    assert {c["audit"] for c in audits} <= {0.0, 0.5, 1.0}
    assert all(c["values"] is not None for c in audits)


def test_the_same_command_again_computes_nothing(run_dir):
    files = contents(run_dir)
    done = finish(smoke(run_dir, *OVERRIDES))
    assert done.code == 0, done.err
    assert contents(run_dir) == files


def test_the_report_measures_both_sources_on_the_same_steps(run_dir):
    command = [str(BIN / "sphere"), "score-report", str(run_dir), "--completions", "4"]
    done = finish(command)
    assert done.code == 0, done.out + done.err
    place = run_dir.with_name("run-scores")
    report = json.loads((place / "report.json").read_text())
    sources = report["sources"]
    assert set(sources) == {"rollout_value", "trained"}
    assert sources["trained"]["quality"]["steps"] == sources["rollout_value"]["quality"]["steps"]
    assert (place / "reliability.png").read_bytes().startswith(b"\x89PNG")
    values, trained = (sources[name]["cost_per_1000"] for name in ("rollout_value", "trained"))
    assert trained["decoded_tokens"] == 0 < values["decoded_tokens"]
    assert trained["prefilled_tokens"] > 0


def test_another_model_can_be_trained_from_the_run_alone(run_dir):
    command = [
        *(str(BIN / "sphere"), "train-prm", str(run_dir)),
        *("--set", "engines.scorer.trained.shape=classifier"),
    ]
    done = finish(command)
    assert done.code == 0, done.out + done.err
    config = json.loads((run_dir.with_name("run-prm") / "reward/model/config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    done = finish([str(BIN / "sphere"), "score-report", str(run_dir.with_name("run-prm"))])
    assert done.code == 0, done.out + done.err
    report = json.loads((run_dir.with_name("run-prm-scores") / "report.json").read_text())
    trained = report["sources"]["trained"]
    assert trained["quality"]["steps"] > 0
    assert trained["cost_per_1000"]["decoded_tokens"] == 0


def test_a_run_that_scored_nothing_is_one_sentence(tmp_path, run_dir):
    (tmp_path / "empty").mkdir()
    config = run_dir / "config.json"
    (tmp_path / "empty" / "config.json").write_bytes(config.read_bytes())
    done = finish([str(BIN / "sphere"), "train-prm", str(tmp_path / "empty")])
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert "no finished rollouts" in done.err
