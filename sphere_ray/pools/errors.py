"""From Ray's errors to ours."""

from ray.exceptions import RayError

from sphere_ray import storage
from sphere_ray.compat import ray as compat
from sphere_ray.errors import EngineError, SphereError


def cause_of(error: RayError) -> Exception:
    """Return the error of ours or of a disk inside Ray's wrapper, or the wrapper itself."""
    return compat.cause_of(error, SphereError) or storage.disk_trouble(error) or error


def sphere_error(error: RayError, work: str, place: str = "a file of the run") -> SphereError:
    """Return the error of ours or of a disk inside, or one of ours that says that `work` stopped.

    The work wrote to `place`.
    """
    return (
        compat.cause_of(error, SphereError)
        or storage.disk_trouble(error, place)
        or EngineError(f"the {work} stopped: {error}")
    )
