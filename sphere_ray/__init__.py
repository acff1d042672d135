"""SPHERE (arXiv 2503.04813) as one Ray job: search, reward, pair, tune, evaluate, repeat.

The public names load on first use, so importing the package is fast and pulls in neither ray nor
torch nor vllm.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphere_ray.commands.run import run
    from sphere_ray.config import load_config
    from sphere_ray.grading import grade
    from sphere_ray.records import Chain, PreferencePair, Problem, Rollout, Verdict
    from sphere_ray.runs.directory import Run

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
    home: Any
    match name:
        case "Chain" | "PreferencePair" | "Problem" | "Rollout" | "Verdict":
            from sphere_ray import records as home
        case "load_config":
            from sphere_ray import config as home
        case "grade":
            from sphere_ray import grading as home
        case "Run":
            from sphere_ray.runs import directory as home
        case "run":
            from sphere_ray.commands import run as home
        case _:
            raise AttributeError(f"module 'sphere_ray' has no attribute '{name}'")
    value = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
