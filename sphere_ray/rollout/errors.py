"""From Ray's errors to ours."""

from ray.exceptions import RayError

from sphere_ray import storage
from sphere_ray.compat import ray as compat
from sphere_ray.errors import EngineError, SphereError


def cause_of(error: RayError) -> Exception:
    """Return the error of ours or of a disk inside Ray's wrapper, or the wrapper itself."""
    return compat.cause_of(error, SphereError) or storage.disk_trouble(error) or error


def sphere_error(error: RayError, work: str) -> SphereError:
    """Return what `cause_of` finds, or an error of ours that says that `work` stopped."""
    cause = cause_of(error)
    return cause if isinstance(cause, SphereError) else EngineError(f"the {work} stopped: {error}")
