"""run.sbatch under a scheduler whose nodes are all this machine, without Ray and with it."""

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

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm" / "run.sbatch"
COUNTS = {"train": 24, "validation": 4, "test": 4}
NODES = 2

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

# In the place of Ray: the head listens, and every node notes its address until it is ended.
RAY = f"""#!{sys.executable}
import os, signal, socket, sys
options = dict(word.split("=", 1) for word in sys.argv if "=" in word)
if "--head" in sys.argv:
    server = socket.create_server(("127.0.0.1", int(options["--port"])))
with open(os.environ["HOME"] + "/nodes", "a") as nodes:
    print(options.get("--address", "head"), file=nodes, flush=True)
signal.pause()
"""
# In the place of the run: says that it works, and ends when it is told to, or with a code.
PYTHON = """#!/usr/bin/env bash
if [ "$1" = -c ]; then # what waits for the nodes
  until [ "$(wc -l <"$HOME/nodes")" -ge "$SLURM_JOB_NUM_NODES" ]; do sleep 0.05; done
  exit
fi
trap 'exit 143' TERM
echo "$@" >"$HOME/run"
[ -z "${ENDS:-}" ] || exit "$ENDS"
while :; do sleep 0.05; done
"""


def install(folder: Path, **commands: str) -> None:
    """Put commands in front of those of the machine."""
    for name, text in commands.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The environment of a batch job; its scheduler notes what it is asked to queue again."""
    tools = tmp_path / "bin"
    tools.mkdir()
    install(tmp_path, srun=SRUN, scontrol=SCONTROL)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "PATH": path,
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        # A busy machine takes its time to start Ray.
        "RAY_raylet_start_wait_time_s": "120",
        "RAY_agent_register_timeout_ms": "120000",
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


@pytest.fixture
def without_ray(slurm, monkeypatch):
    """The same without Ray and without a run: what is left is the script."""
    monkeypatch.setenv("SLURM_SUBMIT_DIR", str(slurm))  # the checkout may have a .venv, which wins
    install(slurm, ray=RAY, python=PYTHON)
    (slurm / ".ray").mkdir()
    (slurm / ".ray" / "auth_token").write_text("token")
    return slurm


@pytest.mark.parametrize(
    ("told", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)], ids=["time", "cancel"]
)
def test_a_run_that_is_told_to_stop_queues_again_unless_it_is_cancelled(without_ray, told, again):
    job = Driver(["bash", str(SCRIPT), "x.yaml", "--set", "seed=1"], without_ray / "log")
    try:
        run = job.until(lambda: without_ray.joinpath("run").is_file())
        started = job.descendants()
        job.process.send_signal(told)
        job.process.wait(timeout=60)
    finally:
        job.end()
    assert run
    assert job.process.returncode == 128 + signal.SIGTERM
    assert requeued(without_ray) == ([f"requeue {os.getpid()}"] if again else [])
    assert psutil.wait_procs(started, timeout=30)[1] == []


@pytest.mark.parametrize("code", [0, 2])
def test_a_run_that_ends_by_itself_is_not_queued_again(without_ray, monkeypatch, code):
    monkeypatch.setenv("ENDS", str(code))
    done = subprocess.run(["bash", str(SCRIPT), "x.yaml", "--set", "seed=1"], timeout=60)
    assert done.returncode == code
    assert requeued(without_ray) == []
    run = (without_ray / "run").read_text().split()
    assert run == ["-m", "jobs.run", "--config", "x.yaml", "--set", "seed=1"]
    nodes = (without_ray / "nodes").read_text().split()
    port = 20000 + os.getpid() % 4000 * 3
    assert sorted(nodes) == sorted(["head", *[f"127.0.0.1:{port}"] * (NODES - 1)])


def test_a_head_that_does_not_start_ends_the_job(without_ray):
    install(without_ray, ray="#!/usr/bin/env bash\nexit 1\n")
    done = subprocess.run(["bash", str(SCRIPT)], timeout=60)
    assert done.returncode == 1
    assert not (without_ray / "run").exists()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
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
