"""What a run directory says of its run, without Ray; directories as a driver leaves them."""

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sphere_ray.operations.run_status import describe
from sphere_ray.runs.directory import Run

NOW = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)
BEGUN = (
    {"time": "2026-03-04T12:00:00+00:00", "event": "step", "name": "problems", "does": "make"},
    {"time": "2026-03-04T12:00:01+00:00", "event": "committed", "path": "problems"},
    {"time": "2026-03-04T12:10:00+00:00", "event": "step", "name": "rollouts", "iteration": 0},
    {
        "time": "2026-03-04T12:10:01+00:00",
        "event": "phase_started",
        "phase": "rollouts",
        "iteration": 0,
        "done": 0,
        "total": 1000,
        "unit": "problems",
    },
)
ENDED = (*BEGUN, {"time": "2026-03-04T12:29:00+00:00", "event": "committed", "path": "rollouts"})


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"name": "test"}')
    return tmp_path


def note(run_dir: Path, events: tuple[dict[str, Any], ...], driver: str | None = None) -> list[str]:
    lines = [json.dumps(event) for event in events]
    (run_dir / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if driver is not None:
        (run_dir / ".driver").write_text(f"{driver}\n")
    return list(describe(Run.open(str(run_dir)), NOW))


def commit(folder: Path, rows: int) -> None:
    (folder / "_parts").mkdir(parents=True)
    (folder / "begun.json").write_text("{}")
    pq.write_table(pa.table({"problem_id": ["x"] * rows}), folder / "_parts" / "a.parquet")


def here(pid: int) -> str:
    return f"process {pid} on {socket.gethostname()}"


def test_a_run_at_work_tells_its_step_and_rows(run_dir: Path) -> None:
    commit(run_dir / "iter-000" / "rollouts-1a2b3c4d", 640)
    state, finished, step, last = note(run_dir, BEGUN, here(os.getpid()))
    assert state.endswith(f": {here(os.getpid())} is at work")
    assert finished == "finished: nothing yet"
    assert step.startswith("under way: iter-000/rollouts, 640 of 1,000 problems, begun 20:00 ago")
    assert last.startswith("last event: phase_started (phase rollouts, iteration 0")


def test_an_overlapped_run_tells_both_steps_that_are_under_way(run_dir: Path) -> None:
    (run_dir / "config.json").write_text('{"name": "test", "schedule": "overlapped"}')
    lesson = [
        {"time": f"2026-03-04T12:1{minute}:00+00:00", "event": event, **named}
        for minute, (event, named) in enumerate(
            [
                ("step", {"name": "test/base"}),
                ("committed", {"path": "test/base-1a2b3c4d"}),
                ("step", {"name": "benchmarks/aime24/base"}),
            ],
            start=1,
        )
    ]
    lines = note(run_dir, (*BEGUN, *lesson))
    under_way = [line.partition(",")[0] for line in lines if line.startswith("under way")]
    assert under_way == ["under way: iter-000/rollouts", "under way: benchmarks/aime24/base"]
    (only,) = [line for line in note(run_dir, (*BEGUN, *lesson[:2])) if "under way" in line]
    assert "iter-000/rollouts" in only


def test_a_run_that_waits_says_for_what(run_dir: Path) -> None:
    before = {"time": "2026-03-04T12:05:00+00:00", "event": "cluster", "text": "node a is there"}
    waits = {"time": "2026-03-04T12:28:30+00:00", "event": "cluster", "text": "waits for node b"}
    lines = note(run_dir, (*BEGUN[:2], before, *BEGUN[2:]))
    assert not any("node a" in line for line in lines)
    lines = note(run_dir, (*BEGUN, waits), here(os.getpid()))
    assert "it says: waits for node b, 1:30 ago (12:28:30 UTC)" in lines


def test_a_driver_that_is_gone_is_not_waited_for(run_dir: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert "no driver is at work" in note(run_dir, BEGUN, here(gone.pid))[0]


def test_a_process_that_took_the_number_of_the_driver_is_not_it(run_dir: Path) -> None:
    (run_dir / ".driver").write_text(here(os.getpid()))
    os.utime(run_dir / ".driver", (1, 1))
    assert "no driver is at work" in note(run_dir, BEGUN)[0]


def test_a_driver_elsewhere_is_said_to_be_elsewhere(run_dir: Path) -> None:
    assert "another machine" in note(run_dir, BEGUN, "process 7 on node-3.invalid")[0]


def test_a_run_that_ended_has_nothing_under_way(run_dir: Path) -> None:
    (run_dir / "summary.json").write_text("{}")
    lines = note(run_dir, ENDED)
    assert lines[0].endswith("ended; see report.html")
    assert not any(line.startswith("under way") for line in lines)
    assert lines[-1].endswith("1:00 ago (12:29:00 UTC)")


def test_a_directory_without_events_yet(run_dir: Path) -> None:
    assert len(note(run_dir, ())) == 2
