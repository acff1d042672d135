"""The learning rate of each step."""

import math

from sphere_ray.config.training import OptimizationSettings


def learning_rate(step: int, steps: int, peak: float, settings: OptimizationSettings) -> float:
    """Rate of 0-based `step` of `steps`: linear warm-up to `peak`, then the schedule towards 0.

    No step has rate 0: the first warm-up step already moves, and 0 would be reached after the last.
    """
    warmup = math.ceil(settings.warmup_ratio * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)
    if settings.schedule == "cosine":
        return peak * (1 + math.cos(math.pi * progress)) / 2
    if settings.schedule == "linear":
        return peak * (1 - progress)
    return peak
