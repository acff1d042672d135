"""Whether a Ray cluster, or its dashboard, answers at an address; if not, what is wrong with it.

Ray itself waits for half a minute and then ends the process, or waits for ever.
"""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from sphere_ray.compat.ray_gcs import Head, head_at
from sphere_ray.errors import AddressError

TIMEOUT_S = 10.0
_PORTS = "8265 is usually the dashboard's port, 6379 the cluster's and 10001 the client's"
_TOKEN = (
    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's token or RAY_AUTH_TOKEN_PATH to "
    "a file with it"
)


def auth_headers() -> dict[str, str]:
    """The token that Ray would show, from the places where Ray looks; none if there is none."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not token and file.is_file():
        token = file.read_text(encoding="utf-8")
    return {"Authorization": f"Bearer {token.strip()}"} if token.strip() else {}


def require_dashboard(address: str, headers: dict[str, str]) -> None:
    """Check that the dashboard of a Ray cluster answers at `http://HOST:PORT`.

    Raises:
        AddressError: says within `TIMEOUT_S` what is there instead, and what to do.
    """
    if not address.startswith(("http://", "https://")):
        raise AddressError(
            f"--address {address} is no dashboard's address; give http://HOST:PORT ({_PORTS})"
        )
    _require_listener(address, f"--address {address}")
    try:
        answer = httpx.get(f"{address}/api/version", headers=headers, timeout=TIMEOUT_S)
    except httpx.TimeoutException:
        raise AddressError(
            f"{address} accepts connections and says nothing for {TIMEOUT_S:.0f} s; check the "
            "tunnel, or whether the cluster's head still lives"
        ) from None
    except httpx.HTTPError as error:
        raise AddressError(
            f"{address} is not the dashboard: it does not speak HTTP as asked ({error}); {_PORTS}"
        ) from None
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise locked(address, headers)
    if answer.status_code != httpx.codes.OK or "ray_version" not in answer.text:
        raise AddressError(
            f"{address} is a web server but not Ray's dashboard (status {answer.status_code}); "
            f"{_PORTS}"
        )


def locked(address: str, headers: dict[str, str]) -> AddressError:
    """What to say where a dashboard does not let these headers in."""
    had = "does not know this token" if headers else "asks for a token, and there is none here"
    return AddressError(f"{address} {had}; {_TOKEN}")


def require_cluster(address: str, setting: str = "ray.address") -> None:
    """Check that a Ray cluster answers at `HOST:PORT`, or its client's server at `ray://HOST:PORT`.

    `setting` is what names the address.

    Raises:
        AddressError: says within `TIMEOUT_S` what is there instead, and what to do.
    """
    scheme, _, rest = address.rpartition("://")
    name = f"{setting}: {address}"
    if scheme in ("http", "https"):
        raise AddressError(
            f"{name} is a dashboard's; give the cluster's own (HOST:6379), or send a job: sphere "
            f"submit CONFIG --address {address}"
        )
    host, port = _require_listener(f"//{rest}", name)
    found = head_at(host, port, auth_headers(), TIMEOUT_S)
    if found is Head.LOCKED:
        raise AddressError(f"{name} does not accept this token; {_TOKEN}")
    if found is Head.NO_SERVICE or (found is Head.OTHER_SERVICE and not scheme):
        raise AddressError(f"{name} is not {Head.YES.value}: {found.value}; {_PORTS}")


def _require_listener(url: str, name: str) -> tuple[str, int]:
    """The host and port of a URL, at which something listens."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise AddressError(f"{name} is no address; give HOST:PORT ({_PORTS})")
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_S).close()
    except socket.gaierror:
        raise AddressError(f"{name}: no host has the name {host}; correct it") from None
    except TimeoutError:
        raise AddressError(
            f"{name} does not answer within {TIMEOUT_S:.0f} s; check the host, and whether a "
            "firewall or a missing tunnel is in between"
        ) from None
    except OSError as error:
        raise AddressError(
            f"nothing listens at {name} ({(error.strerror or str(error)).lower()}); start the "
            "cluster, or open the tunnel to it, or correct the port"
        ) from None
    return host, port
