"""What keeps `sphere audit` from starting is one sentence."""

import socket
from pathlib import Path

import pytest

from sphere_ray.runs.directory import Run
from tests.audit.made_run import made_run, rollout
from tests.audit.serving import refused


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(tmp_path_factory.mktemp("refused") / "made", [rollout(1)])


def sentence(*arguments: str | Path) -> str:
    code, said = refused(*arguments)
    assert code == 2, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def test_a_taken_port(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "--port" in sentence(run.path, "--port", str(port))


def test_no_run(tmp_path: Path) -> None:
    assert "is not a run directory" in sentence(tmp_path)


def test_a_file_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    assert "--file" in sentence(run.path, "--file", tmp_path / "missing" / "audit.jsonl")


def test_a_broken_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    file.write_text("nonsense\n")
    assert f"{file}, line 1: Invalid JSON" in sentence(run.path, "--file", file)
