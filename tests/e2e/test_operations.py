"""A run as a job of a real server: submitted, watched, stopped in its rollout, submitted again."""

import itertools
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from driving import BIN, HANGS_S, Done, Driver, committed, finish, num_rows
from job_cluster import job_cluster
from recompute import rows

from tests.simulated_problems import simulated_problem

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

COUNTS = {"train": 32, "validation": 2, "test": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory to submit from, with a configuration that names its files by relative paths."""
    folder = tmp_path_factory.mktemp("operations")
    (folder / "data").mkdir()
    problems = map(simulated_problem, itertools.count())
    for split, count in COUNTS.items():
        found = [
            {"question": p.question, "answer": p.answer} for p in itertools.islice(problems, count)
        ]
        lines = "".join(f"{json.dumps(row)}\n" for row in found)
        (folder / "data" / f"{split}.jsonl").write_text(lines)
    pool = {"max_num_seqs": 16, "kv_cache_gib": 1}
    config = {
        "name": "simulated",
        "run_dir": str(folder / "run"),
        "problems": {split: {"source": f"file:data/{split}.jsonl"} for split in COUNTS},
        "engines": {
            "backend": "simulated",
            "simulated": {"accuracy": 0.4, "latency_s": 0.2},
            "policy": {"path": "policy"},
            "policy_pool": pool,
            "scorer": {"kind": "simulated"},
        },
        "rollout": {"batch_size": 4, "batches_in_flight": 1},
        "training": {"min_pairs": 10**6},
        "evaluation": {"num_samples": 0},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def address():
    """The address of a cluster whose jobs find the Python of these tests."""
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{BIN}:{before}"
    try:
        with job_cluster() as address:
            yield address
    finally:
        os.environ["PATH"] = before


def sphere(folder, *arguments, **environment):
    done = subprocess.run(
        [str(BIN / "sphere"), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        timeout=HANGS_S,
    )
    return Done(code=done.returncode, out=done.stdout, err=done.stderr)


@dataclass(frozen=True, kw_only=True)
class Story:
    """What each command said, in order, and what was committed when the job was stopped."""

    kept: dict
    first: Done
    refused: Done
    status: Done
    stopped: Done
    again: Done
    logs: Done
    listed: Done
    wrong_token: Done
    run: Path


@pytest.fixture(scope="module")
def story(folder, address):
    rollouts, at = folder / "run" / "iter-000" / "rollouts", ("--address", address)
    command = [str(BIN / "sphere"), "submit", "config.yaml", "--follow", *at]
    log = folder / "first.log"
    home = Path.cwd()
    os.chdir(folder)
    try:
        first = Driver(command, log)
        first.until(lambda: num_rows(rollouts) >= 4)
        refused = sphere(folder, "submit", "config.yaml", *at)
        status = sphere(folder, "status", "simulated", *at)
        stopped = sphere(folder, "stop", "simulated", *at)
        code = first.process.wait(HANGS_S)
        kept = committed(rollouts)
        return Story(
            kept=kept,
            first=Done(code=code, out=first.log(), err=""),
            refused=refused,
            status=status,
            stopped=stopped,
            again=sphere(folder, "submit", "config.yaml", "--follow", *at),
            logs=sphere(folder, "logs", "simulated-1", *at),
            listed=sphere(folder, "status", *at),
            wrong_token=sphere(folder, "status", *at, RAY_AUTH_TOKEN="0" * 32),
            run=folder / "run",
        )
    finally:
        os.chdir(home)
        first.end()


def test_what_is_sent_is_small_and_said(story):
    first = story.first.out.splitlines()[0]
    assert "sphere_ray, the configuration, data/train.jsonl" in first
    assert float(first.split()[1]) < 3  # MiB


def test_a_second_job_in_the_run_directory_is_refused(story):
    assert story.refused.code == 2
    assert "error: job simulated-1 works in run_dir" in story.refused.err


def test_status_tells_job_and_run(story):
    assert story.status.code == 0, story.status.err
    assert "job simulated-1: running" in story.status.out
    assert f"of {COUNTS['train']} problems" in story.status.out
    assert "is at work" in story.status.out


def test_stopping_commits_and_says_so(story):
    assert story.stopped.code == 0, story.stopped.err
    assert "simulated-1: stopped after" in story.stopped.out
    assert "run the same command again to continue" in story.stopped.out
    assert 4 <= len(story.kept) < COUNTS["train"]
    assert story.first.code == 1
    assert "job simulated-1 stopped" in story.first.out


def test_the_same_submission_continues(story):
    assert story.again.code == 0, story.again.out + story.again.err
    assert "job simulated-2 continues what simulated-1 left" in story.again.out
    found = {row["problem_id"]: row for row in rows(story.run / "iter-000" / "rollouts")}
    assert len(found) == len(rows(story.run / "iter-000" / "rollouts")) == COUNTS["train"]
    assert story.kept.items() <= found.items()
    assert "results are in" in story.again.out


def test_a_log_begins_with_our_lines_and_frightens_nobody(story):
    lines = story.logs.out.splitlines()
    own = [line for line in lines if "Running entrypoint" not in line and "Runtime env" not in line]
    assert own[0].startswith("test: 2 problems"), lines[:5]
    for word in ("WARN", "ERROR", "Traceback", "deprecated"):
        assert word not in story.logs.out + story.again.out


def test_jobs_are_listed(story):
    assert [line.split()[:2] for line in story.listed.out.splitlines()[1:]] == [
        ["simulated-1", "stopped"],
        ["simulated-2", "succeeded"],
    ]


def test_a_wrong_token_is_told(story):
    assert story.wrong_token.code == 2
    assert "does not know this token" in story.wrong_token.err


def test_doctor_looks_at_every_node(folder, address, tmp_path):
    """On a second raylet of this machine, without engines."""
    head = Path(os.environ["RAY_TMPDIR"], "ray_current_cluster").read_text().strip()
    command = [str(BIN / "ray"), "start", f"--address={head}", "--block", "--num-cpus=1"]
    second = Driver([*command, "--disable-usage-stats"], tmp_path / "second.log")
    try:
        told = []

        def both_are_there():
            told[:] = [
                sphere(folder, "doctor", "config.yaml", "--cluster", "--quick", RAY_ADDRESS=head)
            ]
            return "2 nodes" in told[0].out

        second.until(both_are_there)
        (done,) = told
    finally:
        second.end()
    states = {line.split(maxsplit=1)[1]: line.split()[0] for line in done.out.splitlines()}
    for wanted in (
        "same versions: on 2 nodes",
        "same files: run_dir is the same on 2 nodes",
        "between nodes: gloo adds 4 MiB over 2 nodes",
    ):
        assert [states[text] for text in states if text.startswith(wanted)] == ["ok"], done.out
    assert done.code == (1 if "failure" in states.values() else 0), done.out + done.err


def test_doctor_without_a_cluster(folder):
    done = sphere(folder, "doctor", "config.yaml", HF_HUB_OFFLINE="1")
    lines = done.out.splitlines()
    for start in (
        "warning  hub: not to be reached (HF_HUB_OFFLINE",
        "ok       versions: sphere-ray",
        "ok       engine: vLLM started and answered",
    ):
        assert any(line.startswith(start) for line in lines), done.out
    assert any("8265" in line for line in lines)
    assert finish([str(BIN / "sphere"), "doctor", "absent.yaml"]).code == 2
