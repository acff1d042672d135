"""The learning rate of each step, and the guards that stop a training from its metrics alone.

All workers see the same metrics, so they decide alike.
"""

import math
from collections.abc import Sequence

from sphere_ray.config.training import GuardSettings, OptimizationSettings
from sphere_ray.errors import CollapseError
from sphere_ray.training.messages import OptimizerStep, StepMetrics


def learning_rate(step: int, steps: int, peak: float, settings: OptimizationSettings) -> float:
    """Rate of 0-based `step` of `steps`: linear warm-up to `peak`, then the schedule towards 0.

    The w = ceil(warmup_ratio * steps) steps before the peak have (step + 1) / (w + 1) of it; the
    peak itself is the first step of the schedule, so the last step never belongs to the warm-up.
    No step has rate 0: the first warm-up step already moves, and 0 would be reached after the last.
    """
    warmup = min(math.ceil(settings.warmup_ratio * steps), steps - 1)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / (steps - warmup)
    if settings.schedule == "cosine":
        return peak * (1 + math.cos(math.pi * progress)) / 2
    if settings.schedule == "linear":
        return peak * (1 - progress)
    return peak


def check_divergence(step: OptimizerStep, settings: str) -> None:
    """Look at one step; `settings` is where its learning rate stands in a configuration.

    Raises:
        CollapseError: the loss or the gradient is not finite.
    """
    if not math.isfinite(step.loss) or not math.isfinite(step.grad_norm):
        raise CollapseError(
            f"training diverged at step {step.step}: loss {step.loss}, gradient norm "
            f"{step.grad_norm}; lower {settings}.learning_rate ({step.learning_rate:.3g} there)"
        )


def check_collapse(history: Sequence[StepMetrics], settings: GuardSettings) -> None:
    """Look at the last `window` steps, every `window` steps and at the end.

    Raises:
        CollapseError: the chosen side fell too far below the reference.
    """
    last = history[-1]
    if len(history) % settings.window and last.step < last.steps:
        return
    window = history[-settings.window :]
    shift = sum(step.chosen_shift for step in window) / len(window)
    if shift < -settings.max_chosen_drop:
        raise CollapseError(
            f"training collapsed at step {last.step}: the chosen answers fell {-shift:.2f} nats "
            f"per token below the reference (training.guard.max_chosen_drop is "
            f"{settings.max_chosen_drop}); lower training.learning_rate or raise "
            "training.loss.nll_weight"
        )
