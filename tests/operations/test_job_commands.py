"""The commands and Ray's own client, against a server that answers as Ray's dashboard does."""

import asyncio
import io
import threading
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from sphere_ray.operations import jobs
from tests.operations.test_package import DOCUMENT

TOKEN = "0123456789abcdef"
Sphere = Callable[..., tuple[int, str, str]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Dashboard:
    """Takes packages and jobs; a job succeeds when its log has been followed once."""

    def __init__(self) -> None:
        self.packages: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}

    def app(self) -> web.Application:
        app = web.Application(middlewares=[authorised], client_max_size=1 << 30)
        app.add_routes(
            [
                web.get("/api/version", self.version),
                web.get("/api/packages/gcs/{name}", self.has_package),
                web.put("/api/packages/gcs/{name}", self.take_package),
                web.get("/api/jobs/", self.all_jobs),
                web.post("/api/jobs/", self.take_job),
                web.get("/api/jobs/{id}", self.job),
                web.get("/api/jobs/{id}/logs", self.log),
                web.get("/api/jobs/{id}/logs/tail", self.tail),
                web.post("/api/jobs/{id}/stop", self.stop),
            ]
        )
        return app

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2.60.0", "ray_commit": "x"})

    async def has_package(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["name"] in self.packages else 404)

    async def take_package(self, request: web.Request) -> web.Response:
        self.packages[request.match_info["name"]] = await request.read()
        return web.Response()

    async def all_jobs(self, _: web.Request) -> web.Response:
        return web.json_response(list(self.jobs.values()))

    async def take_job(self, request: web.Request) -> web.Response:
        asked = await request.json()
        name = asked["submission_id"]
        kept = {key: asked[key] for key in ("submission_id", "entrypoint", "metadata")}
        state = {"type": "SUBMISSION", "status": "RUNNING", "start_time": 1000}
        self.jobs[name] = {**kept, "runtime_env": asked["runtime_env"], **state}
        return web.json_response({"job_id": name, "submission_id": name})

    async def job(self, request: web.Request) -> web.Response:
        return web.json_response(self.jobs[request.match_info["id"]])

    async def log(self, _: web.Request) -> web.Response:
        return web.json_response({"logs": "rollouts: 4/8 problems\nstopped; as asked\n"})

    async def tail(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("rollouts: 8/8 problems\n")
        self.jobs[request.match_info["id"]]["status"] = "SUCCEEDED"
        await socket.close()
        return socket

    async def stop(self, request: web.Request) -> web.Response:
        self.jobs[request.match_info["id"]]["status"] = "STOPPED"
        return web.json_response({"stopped": True})


@web.middleware
async def authorised(request: web.Request, handler: Handler) -> web.StreamResponse:
    shown = request.headers.get("Authorization")
    if shown != f"Bearer {TOKEN}":
        return web.Response(status=403 if shown else 401, text="Unauthorized")
    return await handler(request)


@pytest.fixture
def dashboard() -> Dashboard:
    return Dashboard()


@pytest.fixture
def address(dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setattr(jobs, "POLL_S", 0.0)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "large").write_bytes(bytes(1 << 20))
    (tmp_path / "train.jsonl").write_text("{}\n")
    document = {**DOCUMENT, "problems": {**DOCUMENT["problems"]}}
    document["problems"]["train"] = {"source": "file:train.jsonl"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    loop, runner = asyncio.new_event_loop(), web.AppRunner(dashboard.app())
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_job_is_sent_and_followed(sphere: Sphere, address: str, dashboard: Dashboard) -> None:
    code, out, err = sphere("submit", "config.yaml", "--follow", "--address", f"{address}/")
    assert (code, err) == (0, ""), out
    assert out.splitlines()[1:] == [
        "job test-1 works in /shared/run",
        "rollouts: 8/8 problems",
        "job test-1 succeeded",
    ]
    (content,) = dashboard.packages.values()
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert {"job.yaml", "train.jsonl", "sphere_ray/cli.py"} <= set(names)
    assert not [name for name in names if ".git" in name or "config.yaml" in name]
    job = dashboard.jobs["test-1"]
    assert job["entrypoint"] == "python -m sphere_ray.cli run job.yaml"
    assert job["runtime_env"]["working_dir"].startswith("gcs://")


def test_a_job_is_watched_and_stopped(sphere: Sphere, address: str) -> None:
    at = ("--address", address)
    code, out, _ = sphere("submit", "config.yaml", "--set", "seed=3", *at)
    assert code == 0
    assert f"sphere logs test-1 --follow --address {address}" in out
    code, _, err = sphere("submit", "config.yaml", *at)
    assert (code, "job test-1 works in run_dir /shared/run already" in err) == (2, True)
    code, out, _ = sphere("status", "test", *at)
    assert out.startswith("job test-1: running, started 1970-01-01 00:00:01")
    assert sphere("logs", "test", *at)[1].startswith("rollouts: 4/8 problems\n")
    code, out, _ = sphere("stop", "test-1", *at)
    assert out.splitlines()[0] == "job test-1 is asked to stop; it has 120 s to commit"
    assert out.splitlines()[1].endswith("stopped; as asked")
    assert sphere("status", *at)[1].splitlines()[1].startswith("test-1  stopped")


def test_a_wrong_token_is_told(
    sphere: Sphere, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    code, out, err = sphere("submit", "config.yaml", "--address", address)
    assert (code, out) == (2, "")
    assert "does not know this token; set RAY_AUTH_MODE=token" in err


def test_a_mistake_is_told_before_anything_is_sent(
    sphere: Sphere, address: str, dashboard: Dashboard
) -> None:
    code, _, err = sphere("submit", "config.yaml", "--set", "seed=x", "--address", address)
    assert (code, err.startswith("error: --set seed=x")) == (2, True)
    code, _, err = sphere("submit", "config.yaml", "--set", "run_dir=x", "--address", address)
    assert (code, "run_dir: x is relative" in err) == (2, True)
    assert not dashboard.packages
