"""The whole loop on real engines as a Ray job: stopped in its rollout, submitted again, finished.

It runs once; every test here reads that one run.
"""

import json
from dataclasses import dataclass

import pytest
from driving import HANGS_S, OWN_RAY, Driver, committed, contents, finish, num_rows, smoke
from job_cluster import job_cluster, jobs_at, submit
from ray.job_submission import JobStatus
from recompute import check_run, rows, solution
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]


PROBLEMS = 40
OVERRIDES = (
    "method.pairs.max_per_problem=2",
    f"problems.train.source=generated:arithmetic?split=train&count={PROBLEMS}&levels=1&max_answer=4",
    # Ten batches, one after the other, so that the middle of the rollout can be met.
    "rollout.batches_in_flight=1",
)


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """What the job left when it was stopped in the middle of its rollout."""

    status: JobStatus
    log: str
    rows: int
    kept: dict
    manifests: list


@dataclass(frozen=True, kw_only=True)
class Continued:
    """How the same job ended that was submitted again."""

    status: JobStatus
    log: str


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The run directory of a job that was stopped and submitted again, and both its lives."""
    folder = tmp_path_factory.mktemp("smoke")
    run_dir = folder / "run"
    rollouts = run_dir / "iter-000" / "rollouts"
    with job_cluster() as address:
        client = jobs_at(address)
        first = Driver(submit(run_dir, "first", *OVERRIDES), folder / "first.log")
        first.until(lambda: num_rows(rollouts) >= 4)
        # Not by `ray job stop`: a whole rollout of this size can end while that command starts.
        client.stop_job("first")
        first.process.wait(HANGS_S)
        stopped = Stopped(
            status=client.get_job_status("first"),
            log=client.get_job_logs("first"),
            rows=num_rows(rollouts),
            kept=committed(rollouts),
            manifests=list(rollouts.glob("manifest.json")),
        )
        second = Driver(submit(run_dir, "second", *OVERRIDES), folder / "second.log")
        second.process.wait(HANGS_S)
        continued = Continued(status=client.get_job_status("second"), log=second.log())
    return run_dir, stopped, continued


@pytest.fixture(scope="module")
def run_dir(story):
    path, _, continued = story
    assert continued.status is JobStatus.SUCCEEDED, continued.log
    return path


@pytest.fixture(scope="module")
def summary(run_dir):
    return json.loads((run_dir / "summary.json").read_text())


def test_stopping_the_job_is_clean(story):
    _, stopped, _ = story
    assert stopped.status is JobStatus.STOPPED
    assert "stopped; run the same command again" in stopped.log
    assert "Traceback" not in stopped.log
    assert 4 <= stopped.rows < PROBLEMS
    assert not stopped.manifests


def test_the_same_job_again_continues_and_succeeds(story):
    run_dir, stopped, continued = story
    assert continued.status is JobStatus.SUCCEEDED, continued.log
    found = {row["problem_id"]: row for row in rows(run_dir / "iter-000" / "rollouts")}
    assert len(found) == PROBLEMS
    assert stopped.kept.items() <= found.items()  # what was committed was not made again


def test_the_job_shows_its_figures(story):
    _, _, continued = story
    assert "Traceback" not in continued.log
    assert "self_correction" in continued.log
    assert "paired by problem" in continued.log


def test_the_job_ends_with_a_report(run_dir, story):
    _, _, continued = story
    assert "report.html" in continued.log
    page = (run_dir / "report.html").read_text("utf-8")
    assert "/runs/0/summary/test/conclusion" in page
    assert "cores (" in page  # the machine


def test_every_stage_is_entered_and_no_problem_fails(summary):
    rollout = summary["iterations"][0]["rollout"]
    entered = {stage: counts["problems"] for stage, counts in rollout["by_stage"].items()}
    assert entered["self_generation"] == rollout["problems"] == PROBLEMS
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
        assert pair["chosen"].endswith(f"#### {row['problem']['answer']}")
        assert solution(row, pair["chosen_chain"]) == (pair["chosen"], "correct")
        text, verdict = solution(row, pair["rejected_chain"])
        assert text == pair["rejected"]
        assert verdict in ("wrong", "no_answer")


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
    done = finish([*smoke(run_dir)[:1], "export", str(run_dir), "--format", "trl"])
    assert done.code == 0, done.err
    lines = (run_dir / "export/trl/pairs.jsonl").read_text().splitlines()
    assert len(lines) == summary["iterations"][0]["pairs"]["total"]


def test_the_same_command_again_computes_nothing(run_dir):
    said, files = (run_dir / "summary.json").read_bytes(), contents(run_dir)
    done = finish(smoke(run_dir, *OVERRIDES, *OWN_RAY, "ray.dashboard=true"))
    assert done.code == 0, done.err
    assert "Ray dashboard" not in done.out
    assert (run_dir / "summary.json").read_bytes() == said
    assert contents(run_dir) == files


def plan(run_dir, *overrides):
    """What a dry run says of each step, and why."""
    command = [*smoke(run_dir, *OVERRIDES, *overrides), "--dry-run"]
    done = finish(command)
    assert done.code == 0, done.err
    lines = [line.removeprefix("# ").split(maxsplit=2) for line in done.out.splitlines()]
    return {line[0]: line[1:] for line in lines if line[1:] and line[1] in STATES}


STATES = ("reuse", "continue", "make")
UP_TO_PAIRS = ("problems", "validation/1", "evaluation/base", "test/base", "iter-000/rollouts")


def test_a_dry_run_of_a_finished_run_makes_nothing(run_dir):
    files = contents(run_dir)
    assert {state for state, _ in plan(run_dir).values()} == {"reuse"}
    assert contents(run_dir) == files


def test_a_plan_of_a_finished_run_has_nothing_to_do(run_dir):
    command = smoke(run_dir, *OVERRIDES, *OWN_RAY)
    command[1] = "plan"
    done = finish(command)
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines()]
    states = {row[0]: row[-1] for row in rows if row and row[-1] in STATES}
    assert states["iter-000/rollouts"] == "reuse"
    # It is planned as if the policy were promoted, which a run decides by what it measures.
    assert {place for place, state in states.items() if state != "reuse"} <= {"test/iter-000"}


def test_another_rate_is_planned_to_train_again_over_the_same_rollouts(run_dir):
    files = contents(run_dir, "**/*")
    steps = plan(run_dir, "training.learning_rate=0.5")
    reused = (*UP_TO_PAIRS, "iter-000/pairs", "iter-000/reference")
    assert {name: steps[name][0] for name in reused} == dict.fromkeys(reused, "reuse")
    made = ("iter-000/policy", "iter-000/evaluation/trained")
    assert {name: steps[name][0] for name in made} == dict.fromkeys(made, "make")
    assert "training.learning_rate" in steps["iter-000/policy"][1]
    assert contents(run_dir, "**/*") == files


def test_pairs_are_made_again_without_an_engine(run_dir, tmp_path):
    """By other rules, in a directory of its own that starts on this run."""
    there, files = tmp_path / "again", contents(run_dir)
    rules = ("method.pairs.max_per_problem=1", "training.min_pairs=1000")
    command = [*smoke(there, *OVERRIDES, *OWN_RAY, *rules), "--from", str(run_dir)]
    done = finish(command)
    assert done.code == 0, done.out + done.err
    found = rows(there / "iter-000" / "pairs")
    assert len({pair["problem_id"] for pair in found}) == len(found) > 0
    events = (there / "events.jsonl").read_text()
    started = [json.loads(line)["name"] for line in events.splitlines() if '"step"' in line]
    assert started == ["pairs"]
    check_run(there)
    assert contents(run_dir) == files
