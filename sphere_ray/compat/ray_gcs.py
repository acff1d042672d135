"""Asks a port whether it is the head of a Ray cluster, which Ray itself waits minutes to find out.

The name of the service is private to Ray 2.60.
"""

import os
from collections.abc import Mapping
from enum import Enum

import grpc

from sphere_ray.compat.names import doubts

TESTED = "2.60.0"
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"


class Head(Enum):
    """What a port turned out to be; `UNKNOWN` where it cannot be told."""

    YES = "the head of a cluster"
    OTHER_SERVICE = "another service answers"
    NO_SERVICE = "what listens there speaks no gRPC"
    LOCKED = "a cluster that does not accept the token"
    UNKNOWN = "not known"


def head_at(host: str, port: int, headers: Mapping[str, str], timeout_s: float) -> Head:
    """Ask what listens at a port; an answer takes milliseconds."""
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0") or doubts(["ray"], TESTED, []):
        return Head.UNKNOWN
    metadata = [(name.lower(), value) for name, value in headers.items()]
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            channel.unary_unary(_ALIVE)(b"", timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            return {
                grpc.StatusCode.UNIMPLEMENTED: Head.OTHER_SERVICE,
                grpc.StatusCode.UNAVAILABLE: Head.NO_SERVICE,
                grpc.StatusCode.DEADLINE_EXCEEDED: Head.NO_SERVICE,
                grpc.StatusCode.UNAUTHENTICATED: Head.LOCKED,
                grpc.StatusCode.PERMISSION_DENIED: Head.LOCKED,
            }.get(error.code(), Head.UNKNOWN)
    return Head.YES
