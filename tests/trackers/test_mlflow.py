"""Runs of MLflow in a file and on a server, read back by its client."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sphere_ray.config import RunSettings
from sphere_ray.trackers import feed
from tests.trackers.runs import (
    SECRET,
    TRAINED,
    by_step,
    kept_id,
    opened,
    secrets_below,
    settings_with,
    twice,
)


def mlflow_left(uri: str, run_id: str, artifacts: Path) -> None:
    """Check what MLflow has, by its own client."""
    client = MlflowClient(uri)
    kept = client.get_run(run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params["engines.policy.path"] == "tiny:llama"
    for iteration in ("iter-000", "iter-001"):
        history = client.get_metric_history(run_id, f"{iteration}/policy/loss")
        assert by_step((m.step, m.value) for m in history) == TRAINED
    names = {file.path for file in client.list_artifacts(run_id)}
    assert {"config.json", "lineage.md", "report.html", "summary.json"} <= names
    copy = client.download_artifacts(run_id, "report.html", str(artifacts))
    assert "report" in Path(copy).read_text()


def test_mlflow_beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "r"
    twice(settings_with(directory, "mlflow"))
    (tmp_path / "copy").mkdir()
    uri = f"sqlite:///{directory}/mlflow.db"
    mlflow_left(uri, kept_id(directory, "mlflow"), tmp_path / "copy")
    assert not (tmp_path / "mlruns").exists()
    assert not secrets_below(directory / "mlartifacts")
    assert SECRET.encode() not in (directory / "mlflow.db").read_bytes()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def mlflow_server(directory: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A tracking server on loopback, without MLflow's own command and its pages."""
    port, database = free_port(), f"sqlite:///{directory}/server.db"
    environment = {
        "_MLFLOW_SERVER_FILE_STORE": database,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(directory / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    command = [sys.executable, "-m", "uvicorn", "mlflow.server.fastapi_app:app"]
    command += [f"--port={port}", "--log-level=warning"]
    server = subprocess.Popen(
        command, env={**os.environ, **environment}, cwd=directory, stderr=subprocess.DEVNULL
    )
    try:
        while server.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                break
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.kill()
        server.wait()


def killed_in_mid_run(server: subprocess.Popen[bytes], chosen: RunSettings) -> None:
    """Kill the server of a run; what is said afterwards is lost, and nothing else."""
    directory = Path(chosen.run_dir)
    with feed.tracking(opened(chosen)) as trackers:
        while not (directory / feed.STATE).exists():
            assert server.poll() is None
        server.kill()
        for _ in range(100):
            trackers.on_event({"event": "decided", "iteration": 0, "promoted": 1, "candidate": "x"})
        began = time.monotonic()
    assert time.monotonic() - began < 10


def test_mlflow_server_on_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "copy").mkdir()
    with mlflow_server(tmp_path / "server") as (uri, server):
        assert server.poll() is None
        twice(settings_with(tmp_path / "r", {"kind": "mlflow", "uri": uri}))
        mlflow_left(uri, kept_id(tmp_path / "r", "mlflow"), tmp_path / "copy")
        assert not secrets_below(tmp_path / "server")
        monkeypatch.setattr(feed, "CLOSE_S", 1.0)
        killed_in_mid_run(server, settings_with(tmp_path / "k", {"kind": "mlflow", "uri": uri}))
