"""Seconds of an iteration of the laptop run in which no engine generates and no worker trains.

Runs jobs/configs/laptop.yaml, or reads a run directory that is given, and adds up from its events,
manifests and training steps. Prints `overhead_s` with its items.
"""

import argparse
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from sphere_ray import storage
from sphere_ray.runs.directory import FinishedStep, Run
from tests.benchmarks.report import emit, rounded
from tests.benchmarks.sampling import CONFIG

PHASES = ("rollouts", "reference", "policy", "evaluation/trained")


def moments(run: Run) -> dict[str, tuple[float, float]]:
    """Start and end of each phase of the first iteration, in seconds."""
    found: dict[str, list[float]] = {}
    for event in run.events():
        if event.get("iteration") == 0 and event["event"].startswith("phase_"):
            moment = datetime.fromisoformat(event["time"]).timestamp()
            found.setdefault(event["phase"], []).append(moment)
    return {phase: (times[0], times[-1]) for phase, times in found.items()}


def generating(step: FinishedStep) -> float:
    """Seconds in which the pools of a step had work (the longest, if there are several)."""
    return max(use.busy_s / use.replicas for use in step.manifest.report.pools)


def itemised(run: Run) -> dict[str, float]:
    """Where the time without generation and training goes."""
    times = moments(run)
    spans = {phase: times[phase][1] - times[phase][0] for phase in PHASES}
    steps = {step.name.removeprefix("iter-000/"): step for step in run.steps if step.iteration == 0}
    training = storage.read_json(f"{steps['policy'].path}/training.json")
    forwards = storage.read_json(f"{steps['reference'].path}/reference.json")["seconds"]
    return {
        "rollouts: stage actors, graph, commits": spans["rollouts"] - generating(steps["rollouts"]),
        "pairs, release of the engines": times["reference"][0] - times["rollouts"][1],
        "training: start of the workers, reference model": spans["reference"] - forwards,
        "training: model, checkpoints, export": times["policy"][1]
        - times["reference"][1]
        - sum(step["seconds"] for step in training["history"]),
        "start of the new policy's engine": times["evaluation/trained"][0] - times["policy"][1],
        "evaluation: stage actors, graph, commits": spans["evaluation/trained"]
        - generating(steps["evaluation/trained"]),
    }


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a finished run directory")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        run_dir = chosen.run or Path(folder) / "run"
        if chosen.run is None:
            sphere = Path(sys.executable).with_name("sphere")
            command = [str(sphere), "run", str(CONFIG), "--set", f"run_dir={run_dir}"]
            subprocess.run(command, stdout=sys.stderr, check=True)
        items = itemised(Run.open(str(run_dir)))
    emit(
        "overhead_s", rounded(sum(items.values())), items={k: round(v, 1) for k, v in items.items()}
    )


if __name__ == "__main__":
    main()
