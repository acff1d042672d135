"""What trackers cost: a finished run is told again to all four at once, with the real libraries.

`python -m tests.trackers.test_cost RUN` measures over the run in a directory.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sphere_ray import storage
from sphere_ray.reporting.events import Watcher
from sphere_ray.reporting.progress import PhaseState, Snapshot
from sphere_ray.runs.directory import FinishedStep, Run, WritableRun
from sphere_ray.trackers.feed import STATE, tracking
from tests.report.made import write_run

ALL = ["tensorboard", "mlflow", {"kind": "wandb", "offline": True}, "trackio"]
MOST = 0.02
"""The share of a run's time that trackers may take."""


def tell_again(run: Run, watcher: Watcher) -> float:
    """Say what the run said; returns how many seconds it had taken to say it."""
    for step in run.steps:
        for snapshot in snapshots(step):
            watcher.on_progress(snapshot)
        place = step.path.removeprefix(f"{run.path}/")
        watcher.on_event({"event": "committed", "iteration": step.iteration, "path": place})
    assert run.summary is not None
    watcher.finish(run.summary)
    return sum(step.manifest.report.seconds for step in run.steps)


def snapshots(step: FinishedStep) -> Iterator[Snapshot]:
    """The board once a second, and every optimizer step."""
    report = step.manifest.report
    known: dict[str, Any] = {
        "name": step.name,
        "iteration": step.iteration,
        "unit": "problems",
        "total": report.rows_out,
        "state": PhaseState.RUNNING,
    }
    for measured in (storage.read_json(f"{step.path}/training.json") or {}).get("history", ()):
        numbers = {f"step/{name}": value for name, value in measured.items()}
        yield Snapshot(**known, done=measured["step"], details=numbers)
    loads = {f"pool/policy-1a2b/{name}": 1.0 for name in ("running", "waiting", "idle")}
    counted = {f"reward/{bucket}": 7 for bucket in range(10)}
    verdicts = {f"verdicts/{stage}/correct": 3 for stage in ("self_generation", "diversity")}
    for second in range(1, int(report.seconds) + 1):
        yield Snapshot(
            **known,
            done=int(report.rows_out * second / report.seconds),
            counts={"chains": second, "tokens": 100 * second, "pairs": second},
            details={**loads, **counted, **verdicts},
            seconds=float(second),
        )
    yield Snapshot(**known | {"state": PhaseState.FINISHED}, done=report.rows_out, seconds=1.0)


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Seconds by the clock, and of this process and those it ended."""
    wall, own, others = time.monotonic(), time.process_time(), _of_children()
    found: dict[str, float] = {}
    yield found
    found |= {
        "wall": time.monotonic() - wall,
        "cpu": time.process_time() - own + _of_children() - others,
    }


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(run: Run, folder: Path) -> dict[str, float]:
    """What the trackers took of the driver's thread, of the processor, and at the end."""
    chosen = run.settings.model_copy(update={"run_dir": str(folder)})
    chosen = type(chosen).model_validate(chosen.model_dump() | {"trackers": ALL})
    copied = WritableRun(run.path, chosen)
    with timed() as whole:
        with tracking(copied) as trackers:
            with timed() as told:
                seconds = tell_again(run, trackers)
            while len((storage.read_json(run.file(STATE)) or {"runs": ()})["runs"]) < len(ALL):
                time.sleep(0.1)  # a run goes on while the libraries are loaded
            closing = time.monotonic()
        closed = time.monotonic() - closing
    return {
        "run_s": seconds,
        "driver_s": told["wall"],
        "cpu_s": whole["cpu"],
        "close_s": closed,
    }


@pytest.mark.slow
def test_all_trackers_take_a_fiftieth_of_a_run_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = Run.open(write_run(tmp_path / "run"))
    found = measure(run, tmp_path)
    assert found["cpu_s"] + found["close_s"] < MOST * found["run_s"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(f"{measure(Run.open(sys.argv[1]), Path(folder))}\n")
