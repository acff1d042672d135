"""An offline run of W&B, read back from its transaction log."""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from tests.trackers.runs import (
    SECRET,
    TRAINED,
    by_step,
    kept_id,
    run,
    secrets_below,
    settings_with,
)

BLOCK, HEADER = 1 << 15, 7


def records(file: Path) -> Iterator[Record]:
    """The records of a `.wandb` file: a log of LevelDB behind seven bytes of W&B's own."""
    data, place, parts = file.read_bytes(), HEADER, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:  # too little for a record is left of the block
            place += BLOCK - place % BLOCK
        _, length, kind = struct.unpack_from("<IHB", data, place)
        place += HEADER + length
        parts += data[place - length : place]
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sphere", "--set", f"token={SECRET}"])
    monkeypatch.setenv("SOME_TOKEN", SECRET)
    chosen = settings_with(tmp_path / "r", {"kind": "wandb", "offline": True})
    run(chosen)
    # W&B names a session's directory by the second.
    (first,) = (tmp_path / "r" / "wandb").glob("offline-run-*")
    first.rename(first.with_name("offline-run-first"))
    run(chosen, iterations=2)
    sessions = sorted((tmp_path / "r" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(sessions) == 2
    assert {file.name for file in sessions} == {f"run-{kept_id(tmp_path / 'r', 'wandb')}.wandb"}
    found = [
        {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        for file in sessions
        for record in records(file)
    ]
    for iteration in ("iter-000", "iter-001"):
        loss, axis = f"{iteration}/policy/loss", f"{iteration}/policy/x"
        points = ((int(row[axis]), float(row[loss])) for row in found if loss in row)
        assert by_step(points) == TRAINED
    assert not secrets_below(tmp_path / "r" / "wandb")


KILLED = """
import sys
from pathlib import Path
from threading import Event
import psutil
from tests.trackers import runs
from tests.trackers.runs import run, settings_with

def kill(*_):
    while not Path(sys.argv[1], "trackers.json").exists():
        Event().wait(0.05)  # until the tracker is open
    for process in psutil.Process().children(recursive=True):
        if "wandb" in process.name():
            process.kill()
            print("killed")

answers = runs.Answers.run
runs.Answers.run = lambda step, work: (kill(), answers(step, work))[1]
run(settings_with(Path(sys.argv[1]), {"kind": "wandb", "offline": True}))
"""


def test_a_run_whose_wandb_service_is_killed_goes_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "r")],
        # Of the test before there may be a service that a new process would join.
        env={name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert "killed" in done.stdout
    assert "tracker wandb failed, and the run goes on: ConnectionResetError" in done.stderr
    assert (tmp_path / "r" / "iter-000" / "policy" / "manifest.json").is_file()
