"""What is told about an address where no cluster or dashboard answers; real sockets throughout."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest

from sphere_ray import addresses
from sphere_ray.addresses import auth_headers, require_cluster, require_dashboard
from sphere_ray.errors import AddressError

TOKEN = {"Authorization": "Bearer right"}
ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"


@contextmanager
def web_server(answer: Callable[[BaseHTTPRequestHandler], tuple[int, bytes]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def dashboard(request: BaseHTTPRequestHandler) -> tuple[int, bytes]:
    """As Ray's answers: 401 without a token, 403 with a wrong one."""
    shown = request.headers.get("Authorization")
    if shown != TOKEN["Authorization"]:
        return (403 if shown else 401), b"Unauthorized"
    return 200, json.dumps({"ray_version": "2.60.0"}).encode()


@contextmanager
def grpc_server(*methods: str) -> Iterator[str]:
    """A server that knows these methods, and asks each for the token."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if dict(context.invocation_metadata()).get("authorization") != TOKEN["Authorization"]:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
        return b""

    class Service(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            known = details.method in methods
            return grpc.unary_unary_rpc_method_handler(answer) if known else None

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Service()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def silent_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refused() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "TIMEOUT_S", 2.0)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)


def told(check: Callable[[], object]) -> str:
    with pytest.raises(AddressError) as error:
        check()
    return str(error.value)


def test_a_dashboard_is_known_by_its_answer() -> None:
    with web_server(dashboard) as at:
        require_dashboard(f"http://{at}", TOKEN)


def test_a_missing_and_a_wrong_token_are_told_apart() -> None:
    with web_server(dashboard) as at:
        assert "asks for a token" in told(lambda: require_dashboard(f"http://{at}", {}))
        wrong = {"Authorization": "Bearer wrong"}
        assert "does not know this token" in told(lambda: require_dashboard(f"http://{at}", wrong))


def test_what_is_no_dashboard_is_named(refused: str) -> None:
    assert "connection refused" in told(lambda: require_dashboard(f"http://{refused}", {}))
    assert "give http://HOST:PORT" in told(lambda: require_dashboard("ray://head:10001", {}))
    assert "no host has the name" in told(lambda: require_dashboard("http://no.invalid:1", {}))
    with web_server(lambda _: (200, b"<html>")) as at:
        assert "not Ray's dashboard" in told(lambda: require_dashboard(f"http://{at}", {}))
    with grpc_server() as at:  # the port of Ray's client, or of the cluster itself
        assert "does not speak HTTP" in told(lambda: require_dashboard(f"http://{at}", {}))
    with silent_server() as at:
        assert "says nothing" in told(lambda: require_dashboard(f"http://{at}", {}))


def test_a_cluster_is_known_by_its_service() -> None:
    with grpc_server(ALIVE) as at:
        require_cluster(at)


def test_a_cluster_that_wants_another_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with grpc_server(ALIVE) as at:
        assert "does not accept this token" in told(lambda: require_cluster(at))


def test_what_is_no_cluster_is_named(refused: str) -> None:
    assert "connection refused" in told(lambda: require_cluster(refused))
    assert "RAY_ADDRESS" in told(lambda: require_cluster(refused, "RAY_ADDRESS"))
    assert "give HOST:PORT" in told(lambda: require_cluster("somewhere"))
    assert "sphere submit" in told(lambda: require_cluster("http://head:8265"))
    with web_server(dashboard) as at:
        assert "speaks no gRPC" in told(lambda: require_cluster(at))
    with grpc_server() as at:
        assert "another service" in told(lambda: require_cluster(at))
        require_cluster(f"ray://{at}")


def test_the_token_comes_from_where_ray_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert auth_headers() == TOKEN
    file = tmp_path / "token"
    file.write_text("filed\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    assert auth_headers() == TOKEN
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    assert auth_headers() == {"Authorization": "Bearer filed"}
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert auth_headers() == {}
