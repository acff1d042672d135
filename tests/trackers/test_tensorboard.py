"""Event files, read back by TensorBoard."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.trackers.runs import TRAINED, by_step, secrets_below, settings_with, twice


def test_tensorboard(tmp_path: Path) -> None:
    twice(settings_with(tmp_path / "r", "tensorboard"))
    found = EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    found.Reload()
    for iteration in ("iter-000", "iter-001"):
        scalars = found.Scalars(f"{iteration}/policy/loss")
        assert by_step((s.step, s.value) for s in scalars) == pytest.approx(TRAINED)
    (accuracy,) = found.Scalars("steps/evaluation/base/accuracy")
    assert accuracy.value == pytest.approx(2 / 3)
    texts = [tag for tag in found.Tags()["tensors"] if tag.startswith(("lineage", "settings"))]
    assert len(texts) == 2
    assert not secrets_below(tmp_path / "r" / "tensorboard")
