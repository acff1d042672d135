"""The checks of `sphere doctor` that need no engine and no cluster."""

import importlib.metadata
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from sphere_ray.operations import findings
from sphere_ray.operations.findings import Finding, State, disk, fitting_versions, shared_memory
from sphere_ray.operations.nodes import NodeReport, compared, size_of

GIB = 1 << 30
Usage = namedtuple("Usage", "total used free")


def of_size(monkeypatch: pytest.MonkeyPatch, total: float) -> None:
    usage = Usage(int(total * GIB), 0, int(total * GIB))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def test_a_finding_is_one_line() -> None:
    assert str(Finding(check="disk", text="120 GiB")) == "ok       disk: 120 GiB"
    assert str(Finding(check="x", state=State.FAILURE, text="y")) == "failure  x: y"


def test_the_versions_of_this_environment_fit() -> None:
    found = fitting_versions()
    assert found.state is State.OK, found
    assert "ray 2.60.0" in found.text


def test_versions_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name == "vllm":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"ray": "2.1.0"}.get(name) or installed(name)

    monkeypatch.setattr(findings, "version", version)
    found = fitting_versions()
    assert found.state is State.FAILURE
    assert "ray is 2.1.0 and sphere-ray needs ==2.60.0" in found.text


@pytest.mark.parametrize(
    ("size", "state"), [(1000, State.OK), (2, State.WARNING), (0.06, State.FAILURE)]
)
def test_little_shared_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: float, state: State
) -> None:
    of_size(monkeypatch, size)
    found = shared_memory(tmp_path)
    assert found.state is state
    assert ("--shm-size" in found.text) == (state is not State.OK)


def test_a_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    found = disk(tmp_path / "not" / "yet")
    assert "MB/s" in found.text
    assert found.text.partition(" free at ")[2].startswith(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_or_rights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    of_size(monkeypatch, 2)
    assert disk(tmp_path).state is State.WARNING
    assert disk(Path("/proc")).state is State.FAILURE


def report(node: str, ray: str = "2.60.0", **sizes: int | None) -> NodeReport:
    return NodeReport(node=node, versions={"ray": ray, "machine": f"of {node}"}, sizes=dict(sizes))


def said(*reports: NodeReport) -> dict[str, State]:
    return {each.text: each.state for each in compared(reports)}


def test_nodes_that_are_alike() -> None:
    found = said(report("a", model=5), report("b", model=5))
    assert found == {"on 2 nodes": State.OK, "model is the same on 2 nodes": State.OK}


def test_nodes_with_other_versions_or_files() -> None:
    found = said(report("a", model=5), report("b", ray="2.59.0"), report("c", model=6))
    versions, files = found
    assert versions.startswith("ray differs (2.60.0 on a, c; 2.59.0 on b)")
    assert files.startswith("model differs (5 bytes on a; not there on b; 6 bytes on c)")
    assert set(found.values()) == {State.FAILURE}


def test_the_size_of_a_directory_is_that_of_its_files(tmp_path: Path) -> None:
    assert size_of(tmp_path / "absent") is None
    (tmp_path / "a").write_bytes(bytes(3))
    (tmp_path / "b").write_bytes(bytes(4))
    assert (size_of(tmp_path), size_of(tmp_path / "a")) == (7, 3)
