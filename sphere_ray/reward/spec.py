from sphere_ray.engines.engine import EngineSpec as EngineSpec
