"""SPHERE (arXiv 2503.04813) as one Ray job: search, reward, pair, tune, evaluate, repeat.

The public names load on first use, so importing the package is fast and pulls in neither ray nor
torch nor vllm.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphere_ray.config import load_config
    from sphere_ray.grading import grade
    from sphere_ray.records import Chain, PreferencePair, Problem, Rollout, Verdict
    from sphere_ray.runs.directory import Run
    from sphere_ray.runs.evolve import run

__version__ = "0.1.0"

__all__ = [
    "Chain",
    "PreferencePair",
    "Problem",
    "Rollout",
    "Run",
    "Verdict",
    "__version__",
    "grade",
    "load_config",
    "run",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module that owns it."""
    if name not in __all__:
        raise AttributeError(f"module 'sphere_ray' has no attribute '{name}'")
    from sphere_ray import config, grading, records
    from sphere_ray.runs import directory, evolve

    homes = (records, config, grading, directory, evolve)
    value = next(getattr(home, name) for home in homes if hasattr(home, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
