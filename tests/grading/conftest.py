"""One pool for the whole room: starting math-verify costs seconds."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sphere_ray.config.grading import GradingSettings
from sphere_ray.grading import GraderPool


@pytest.fixture(scope="session")
def pool() -> Iterator[GraderPool]:
    grader = GraderPool(GradingSettings(cpu_limit_s=20.0))
    yield grader
    grader.close()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    default = Path(__file__).parents[2].parent / "shared" / "data"
    path = Path(os.environ.get("SPHERE_DATA", default))
    if not (path / "golds.jsonl").is_file():
        pytest.skip("no gold answers here: set SPHERE_DATA to a directory with golds.jsonl")
    return path
