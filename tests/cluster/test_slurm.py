"""run.sbatch under a scheduler whose three nodes are this machine: a real Ray cluster forms."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from tests.e2e.driving import Driver, committed
from tests.e2e.recompute import rows
from tests.simulated_problems import simulated_problem

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm" / "run.sbatch"
COUNTS = {"train": 24, "validation": 4, "test": 4}
NODES = 3

SRUN = """#!/usr/bin/env bash
# Starts the command as often as --ntasks says, and ends with the last of them.
for option; do
  shift
  case $option in
    --ntasks=*) tasks=${option#*=} ;;
    --*) ;;
    *) break ;;
  esac
done
trap 'kill $(jobs -p)' TERM
for ((task = 0; task < tasks; task++)); do "$option" "$@" & done
wait
wait
"""
SCONTROL = '#!/usr/bin/env bash\necho "$@" >>"$HOME/scontrol"\n'


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The environment of a batch job; its scheduler notes what it is asked to queue again."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "PATH": path,
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "RAY_raylet_start_wait_time_s": "120",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NUM_NODES": str(NODES),
        "SLURM_CPUS_PER_TASK": "2",
        "SLURMD_NODENAME": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def configuration(folder: Path) -> Path:
    """Simulated engines that take their time, one on each node; nothing can be trained."""
    numbers = itertools.count()
    for split, count in COUNTS.items():
        problems = [simulated_problem(number) for number in itertools.islice(numbers, count)]
        lines = [json.dumps({"question": p.question, "answer": p.answer}) for p in problems]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    document = {
        "name": "slurm",
        "run_dir": str(folder / "run"),
        "problems": {split: {"source": f"file:{folder / split}.jsonl"} for split in COUNTS},
        "engines": {
            "backend": "simulated",
            "simulated": {"accuracy": 0.4, "latency_s": 0.2},
            "policy": {"path": "policy"},
            "policy_pool": {"replicas": NODES, "kv_cache_gib": 1},
            "scorer": {"kind": "simulated"},
        },
        "rollout": {"batch_size": 2, "batches_in_flight": 1},
        "training": {"min_pairs": 10**6},
        "ray": {"address": "auto"},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def requeued(folder: Path) -> list[str]:
    file = folder / "scontrol"
    return file.read_text().splitlines() if file.exists() else []


def test_a_run_stops_before_its_time_is_up_queues_again_and_continues(slurm):
    rollouts = slurm / "run" / "iter-000" / "rollouts"
    command = ["bash", str(SCRIPT), str(configuration(slurm)), "--set", "rollout.batch_size=3"]
    job = Driver(command, slurm / "first.log")
    try:
        job.until(lambda: committed(rollouts))
        started = job.descendants()
        raylets = [p for p in started if p.name() == "raylet"]
        job.process.send_signal(signal.SIGUSR1)
        job.process.wait(timeout=120)
    finally:
        job.end()
    assert len(raylets) == NODES
    assert requeued(slurm) == [f"requeue {os.getpid()}"], job.log()
    assert job.process.returncode == 128 + signal.SIGTERM
    assert "run the same command again" in job.log()
    assert psutil.wait_procs(started, timeout=30)[1] == []
    before = committed(rollouts)
    assert 0 < len(before) < COUNTS["train"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    after = {row["problem_id"]: row for row in rows(rollouts)}
    assert len(after) == len(rows(rollouts)) == COUNTS["train"]
    assert all(after[problem] == row for problem, row in before.items())
    assert len(requeued(slurm)) == 1
    summary = json.loads((slurm / "run" / "summary.json").read_text())
    assert summary["iterations"][0]["promoted"] is False
