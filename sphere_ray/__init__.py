"""SPHERE (arXiv 2503.04813) as one Ray job: search, reward, pair, tune, evaluate, repeat.

The public names load on first use, so importing the package is fast and pulls in neither ray nor
torch nor vllm.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphere_ray.config import load_config
    from sphere_ray.grading import grade
    from sphere_ray.records import Chain, PreferencePair, Problem, Verdict
    from sphere_ray.runs.evolve import run

__version__ = "0.1.0"

__all__ = [
    "Chain",
    "PreferencePair",
    "Problem",
    "Verdict",
    "__version__",
    "grade",
    "load_config",
    "run",
]

_HOMES = {
    "Chain": "sphere_ray.records",
    "PreferencePair": "sphere_ray.records",
    "Problem": "sphere_ray.records",
    "Verdict": "sphere_ray.records",
    "grade": "sphere_ray.grading",
    "load_config": "sphere_ray.config",
    "run": "sphere_ray.runs.evolve",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that owns it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sphere_ray' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
