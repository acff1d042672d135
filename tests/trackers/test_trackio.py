"""trackio's local database, read back by trackio."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.trackers.runs import TRAINED, by_step, secrets_below

PROGRAM = """
import json, sys
from pathlib import Path
from trackio.sqlite_storage import SQLiteStorage
from tests.trackers.runs import kept_id, settings_with, twice
directory = Path(sys.argv[1])
twice(settings_with(directory, "trackio"))
logs = SQLiteStorage.get_logs("sphere_ray", kept_id(directory, "trackio"))
print(json.dumps([SQLiteStorage.get_runs("sphere_ray"), logs], default=str))
"""


def test_trackio(tmp_path: Path) -> None:
    """In a process of its own: trackio reads where its database is when it is imported."""
    home = tmp_path / "trackio"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "r")],
        env={**os.environ, "TRACKIO_DIR": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    runs, logs = json.loads(done.stdout.splitlines()[-1])
    assert len(runs) == 1
    name = "iter-000/policy/loss"
    assert by_step((row["step"], row[name]) for row in logs if name in row) == TRAINED
    assert not secrets_below(home)
