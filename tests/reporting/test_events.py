import io
import json

from rich.console import Console

from sphere_ray.reporting.events import EventLog
from sphere_ray.reporting.progress import ProgressBoard


def test_an_event_is_one_json_line_with_time_and_place():
    lines = []
    log = EventLog(lines.append, clock=lambda: 1_700_000_000.5)
    log.record("promoted", iteration=1, model="a\nb", note="déjà")
    (line,) = lines
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.500+00:00",
        "event": "promoted",
        "iteration": 1,
        "model": "a\nb",
        "note": "déjà",
    }


def test_phases_are_recorded_at_start_and_end_only():
    lines = []
    log = EventLog(lines.append, clock=lambda: 0.0)
    board = ProgressBoard(Console(file=io.StringIO()), listeners=[log.on_progress])
    with board.phase("rollout", 2, "problems", iteration=0) as phase:
        phase.update(done=1, tokens=5)
        phase.update(done=2, tokens=9)
    started, finished = map(json.loads, lines)
    assert started["event"] == "phase_started"
    assert finished["event"] == "phase_finished"
    assert (finished["done"], finished["tokens"], finished["phase"]) == (2, 9, "rollout")
