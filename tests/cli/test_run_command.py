"""What surrounds the loop: a report that cannot be written fails no run that is finished."""

import json
from pathlib import Path

import pytest

from sphere_ray.commands import run as command
from sphere_ray.runs.directory import REPORT
from tests.report.made import write_run


@pytest.fixture
def finished(tmp_path, config, monkeypatch):
    """A run directory whose loop has nothing left to do, and a report of an earlier session."""
    directory = Path(write_run(tmp_path / "run"))
    (directory / REPORT).write_text("of an earlier session")

    def loop(settings, origin, report, tracking):
        report(str(directory))
        return json.loads((directory / "summary.json").read_text())

    monkeypatch.setattr(command.evolve, "run", loop)
    return directory


def test_a_finished_run_names_its_report(finished, sphere, config, caplog):
    code, out, err = sphere("run", str(config))
    assert code == 0, err
    assert out.endswith(f"results are in {finished}; read {finished}/report.html\n")
    assert "SPHERE report" in (finished / REPORT).read_text()
    assert not caplog.records


def test_a_report_that_cannot_be_written_is_one_warning(finished, sphere, config, caplog):
    next((finished / "iter-000" / "rollouts").glob("*.parquet")).write_bytes(b"no parquet")
    code, out, _ = sphere("run", str(config))
    assert code == 0
    assert "this run alone" in out
    assert out.endswith(f"results are in {finished}\n")
    assert not (finished / REPORT).exists()
    (warning,) = (each.getMessage() for each in caplog.records)
    assert warning.startswith("the run is finished, but its report could not be written (")
    assert warning.endswith(f"; `sphere report {finished}` tries again")
    assert "\n" not in warning
