"""All parameters of a run, how they are loaded, and which of them identify its results."""

from sphere_ray.config.identity import differences, dump, identity, phase_identity
from sphere_ray.config.loading import load_config
from sphere_ray.config.run import RunSettings

__all__ = ["RunSettings", "differences", "dump", "identity", "load_config", "phase_identity"]
