from pathlib import Path
from typing import Any

import pytest

from sphere_ray.evolution import evolve
from sphere_ray.evolution.outcome import Iteration
from tests.evolution.script import BASE, Script, settings_of


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(evolve, "model_to_train", lambda engines: BASE)
    monkeypatch.setattr(evolve, "roles_of", lambda engines, policy: None)

    def attempt(script: Script, **changes: Any) -> list[Iteration]:
        script.folder = tmp_path
        made: Any = script  # steps and session in one
        loop = evolve._Loop(settings=settings_of(**changes), steps=made, session=made)
        return loop.evolve().iterations

    return attempt
