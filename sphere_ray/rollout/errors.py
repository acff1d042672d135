"""From Ray's errors to ours."""

from ray.exceptions import RayError

from sphere_ray.compat import ray as compat
from sphere_ray.errors import EngineError, SphereError


def cause_of(error: RayError) -> Exception:
    """Return the error of ours inside Ray's wrapper, or the wrapper itself."""
    return compat.cause_of(error, SphereError) or error


def sphere_error(error: RayError, work: str) -> SphereError:
    """Return the error of ours inside Ray's wrapper, or one that says that `work` stopped."""
    return compat.cause_of(error, SphereError) or EngineError(f"the {work} stopped: {error}")
