"""Our errors are found inside Ray's wrappers, and what is not ours stays Ray's."""

import subprocess
import sys

from ray.exceptions import RayTaskError

from sphere_ray.errors import EngineError, SphereError
from sphere_ray.pools.errors import inside


def test_our_error_is_found_inside_rays_wrapper() -> None:
    ours = EngineError("gone")
    wrapped = RayTaskError("work", "traceback", ours).as_instanceof_cause()
    assert isinstance(wrapped, EngineError)
    assert inside(wrapped, SphereError) is ours
    assert inside(RayTaskError("work", "traceback", KeyError("x")), SphereError) is None


def test_a_grader_starts_without_ray_data_and_pandas() -> None:
    """Each grader is a process of its own; their import takes twice the time of all else."""
    code = "import sys, sphere_ray.rollout.grader; print({'pandas', 'ray.data'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
