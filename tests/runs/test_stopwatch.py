from pathlib import Path

import pytest

from sphere_ray.runs import storage
from sphere_ray.runs.stopwatch import stopwatch
from sphere_ray.runs.store import PhaseDir


@pytest.fixture
def phase(tmp_path: Path) -> PhaseDir:
    phase = PhaseDir(
        name="rollouts", path=str(tmp_path / "phase"), identity={}, upstream={}, fingerprint="f"
    )
    phase.begin(resumable=True)
    return phase


def test_a_session_adds_to_what_earlier_ones_noted(phase: PhaseDir) -> None:
    phase.note_spent(1000.0)
    with pytest.raises(KeyboardInterrupt), stopwatch(phase):
        raise KeyboardInterrupt
    assert phase.spent() >= 1000
    phase.begin(resumable=True)
    with stopwatch(phase) as seconds:
        assert 1000 <= seconds() < 1060
    assert phase.spent() >= 1000


def test_a_phase_that_starts_over_has_spent_nothing(phase: PhaseDir) -> None:
    phase.note_spent(5.0)
    storage.remove(f"{phase.path}/begun.json")
    phase.begin(resumable=True)
    assert phase.spent() == 0
