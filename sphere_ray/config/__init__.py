"""All parameters of a run, and how they are loaded."""

from sphere_ray.config.loading import load_config
from sphere_ray.config.run import RunSettings

__all__ = ["RunSettings", "load_config"]
