"""From Ray's errors to ours."""

from typing import TypeVar

from ray.exceptions import RayError

from sphere_ray import storage
from sphere_ray.errors import EngineError, SphereError

Error = TypeVar("Error", bound=Exception)


def cause_of(error: RayError) -> Exception:
    """Return the error of ours or of a disk inside Ray's wrapper, or the wrapper itself."""
    return inside(error, SphereError) or storage.disk_trouble(error) or error


def sphere_error(error: RayError, work: str, place: str = "a file of the run") -> SphereError:
    """Return the error of ours or of a disk inside, or one of ours that says that `work` stopped.

    The work wrote to `place`.
    """
    return (
        inside(error, SphereError)
        or storage.disk_trouble(error, place)
        or EngineError(f"the {work} stopped: {error}")
    )


def inside(error: RayError, kind: type[Error]) -> Error | None:
    """Return the error of `kind` inside Ray's wrapper, None if there is none.

    Ray's wrapper of an error is also an instance of that error's class, with a traceback as text.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, kind) and not isinstance(cause, RayError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return None
